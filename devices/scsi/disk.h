// Disk: a direct access block device (SBC-3) on a block node.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/error.h"
#include "devices/scsi/block_unit.h"

namespace farside::scsi {

struct DiskOptions {
  block::BlockDevice* drive = nullptr;  // Outlives the disk and its requests.
  Identity identity = {};
  // Powers of two, 512 to 4096 and from there to 65536.
  uint32_t logical_block_size = 512;
  uint32_t physical_block_size = 512;
};

// Keeps little of its own: mode pages and whether it spins. A command that starts again after a
// migration goes on where its data had come to.
class Disk final : public BlockUnit {
 public:
  static Result<std::unique_ptr<Disk>> Create(const DiskOptions& options);

  Task<Status> Execute(Request& request) override;
  void Reset() override;
  void Save(StateWriter& out) const override;
  Result<void> Load(StateReader& in) override;
  void SaveFast(FastState& out) const override;
  void LoadFast(FastReader& in) override;

 private:
  explicit Disk(const DiskOptions& options);

  BlockDescriptor Descriptor() const { return {block_count_, block_size_}; }
  bool write_cache() const;
  bool provisioned() const { return limits_.discard_granularity != 0; }

  // Commands without data on the medium: disk.cc.
  Task<Status> DoModeSelect(Request& request);
  Task<Status> ReadCapacity16(Request& request);
  Task<Status> StartStop(Request& request);
  Status SendDiagnostic(Request& request);
  void FormatVpdPage(uint8_t page, DataWriter& out) const override;

  // Those that need the medium: disk_io.cc.
  Task<Status> ExecuteIo(Request& request);
  Task<Status> ExecuteRanged(Request& request, Opcode opcode);
  Task<Status> Write(Request& request, BlockRange range, bool fua);
  enum class Compare : uint8_t { kNothing, kBlocks };
  Task<Status> WriteAndVerify(Request& request, BlockRange range, Compare compare);
  Task<Status> Verify(Request& request, BlockRange range, Compare compare);
  Task<Status> WriteSame(Request& request, BlockRange range);
  Task<Status> WriteZeroes(Request& request, Extent extent, bool may_unmap);
  Task<Status> WritePattern(Request& request, Extent extent);
  Task<Status> Unmap(Request& request);
  Task<Status> UnmapRanges(Request& request, ConstBytes descriptors);
  Task<Status> Flush(Request& request);
  // What a write without the cache needs after it.
  Task<Status> Settle(Request& request);

  // Reads `to.size()` bytes to compare them or to see that they can be read. False: the request
  // was aborted, or `status` says why not.
  Task<bool> ReadChunk(Request& request, uint64_t offset, Bytes to, Status& status);
  Status WriteFailed(Request& request, block::IoStatus io, std::optional<uint64_t> offset) const;

  const uint32_t physical_block_size_;
  bool stopped_ = false;
};

}  // namespace farside::scsi
