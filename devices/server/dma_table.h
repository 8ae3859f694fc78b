// DmaTable: the windows a client has mapped, and the DmaSpace they make.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/loop.h"
#include "devices/core/dma_space.h"
#include "devices/server/dirty_log.h"
#include "devices/server/sigbus.h"

namespace farside {

// Reaches memory by messages where a window has no fd. Implemented by a session; sizes up to any.
class DmaMessenger {
 public:
  virtual ~DmaMessenger() = default;
  virtual Task<DmaStatus> ReadByMessage(uint64_t iova, Bytes out) = 0;
  virtual Task<DmaStatus> WriteByMessage(uint64_t iova, ConstBytes in) = 0;
};

struct DmaWindowSpec {
  uint64_t iova = 0;
  uint64_t size = 0;  // In bytes; iova + size does not wrap.
  bool readable = false;
  bool writable = false;
  uint64_t offset = 0;  // In the file.
};

class DmaTable final : public DmaSpace {
 public:
  explicit DmaTable(Loop& loop) : released_(loop) {}
  ~DmaTable() override;

  // Where accesses to windows without an fd go; nullptr fails them. Set by the session.
  void set_messenger(DmaMessenger* messenger) { messenger_ = messenger; }

  // Adds a window, by `fd` (whose mapping is kept, not the fd) or by message without one. EEXIST
  // for an overlap, ENOSPC past `max_windows`, EINVAL for a file that is too short, or mmap's
  // errno.
  Result<void> Add(const DmaWindowSpec& spec, const UniqueFd& fd, size_t max_windows);

  // Takes away the windows that lie in the range: none and several are lawful, as vIOMMU clients
  // need. EINVAL, and nothing changes, if it cuts one in two. New leases are refused at once.
  Result<void> Remove(uint64_t iova, uint64_t size);
  void RemoveAll();
  // The client is gone: its windows, its dirty log, and what leases still hold of its memory.
  void Clear();

  // Leases still held in windows that were removed.
  size_t leases_in_removed() const;
  // Notified when a lease in a removed window ends.
  Wakeup& released() { return released_; }
  // Puts private copies of their pages under the leases in removed windows and marks them revoked:
  // afterwards nothing in this process refers to the client's memory, but for pages that the kernel
  // holds for I/O in flight past the page cache.
  void RevokeRemoved();

  size_t window_count() const { return windows_.size(); }
  DirtyLog& dirty_log() { return dirty_log_; }

  Task<DmaStatus> Read(uint64_t iova, Bytes out) override;
  Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override;
  Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                      DmaBuffer* buffer) override;

 private:
  class Lease;
  struct Window;
  // A part of an access that lies in one window.
  struct Part {
    std::shared_ptr<Window> window;
    uint64_t iova;
    uint64_t size;
  };

  // The window that holds `iova` and allows `access`, or nullptr.
  const std::shared_ptr<Window>* Find(uint64_t iova, DmaAccess access) const;
  // The direct pointer to a range that lies in one mapped, living window; else nullptr.
  std::byte* Direct(uint64_t iova, uint64_t size, DmaAccess access) const;
  bool Split(uint64_t iova, uint64_t size, DmaAccess access, std::vector<Part>* out) const;
  Task<DmaStatus> ReadParts(uint64_t iova, Bytes out);
  Task<DmaStatus> WriteParts(uint64_t iova, ConstBytes in);
  void Retire(std::shared_ptr<Window> window);
  static Result<void> MapFile(Window& window, int fd);

  std::map<uint64_t, std::shared_ptr<Window>> windows_;  // By iova; they never overlap.
  std::vector<std::weak_ptr<Window>> removed_;           // Those that had leases when they went.
  Wakeup released_;
  DmaMessenger* messenger_ = nullptr;
  DirtyLog dirty_log_;
};

}  // namespace farside
