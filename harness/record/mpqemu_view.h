// MpqemuView: what an mpqemu channel carries, as the vfio-user events that say the same.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>

#include "base/fd.h"
#include "harness/record/recording.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/vfio_user.h"

namespace farside::record {

// Records configuration space and BARs as region accesses, memory as DMA_MAP, the interrupt eventfd
// as DEVICE_SET_IRQS. Addresses on the bus become offsets by the BARs' sizes, which the proxy asks
// for at its start, and by what was written to them last.
class MpqemuView {
 public:
  explicit MpqemuView(Recording& recording) : recording_(recording) {}

  // On its way to the device. `fds` are the client's.
  void OnRequest(const mpqemu::Request& request, std::span<const UniqueFd> fds);
  // The device's reply to the oldest request that has none yet.
  void OnReply(uint64_t value);

  // Accesses that no known BAR decodes: they pass, but are not in the trace.
  uint64_t undecoded() const { return undecoded_; }

 private:
  struct Bar {
    uint32_t written = 0;
    uint64_t size = 0;  // In bytes; 0: not known.
    bool io = false;
  };
  struct Asked {
    std::optional<vfio_user::Header> header;  // None: nothing was recorded.
    vfio_user::RegionAccess access;
    bool is_region = false;
    bool is_read = false;
  };

  void On(const mpqemu::SyncSysmemRequest& request, std::span<const UniqueFd> fds);
  void On(const mpqemu::ConfigWriteRequest& request, std::span<const UniqueFd> fds);
  void On(const mpqemu::ConfigReadRequest& request, std::span<const UniqueFd> fds);
  void On(const mpqemu::BarWriteRequest& request, std::span<const UniqueFd> fds);
  void On(const mpqemu::BarReadRequest& request, std::span<const UniqueFd> fds);
  void On(const mpqemu::SetIrqfdRequest& request, std::span<const UniqueFd> fds);
  void On(const mpqemu::ResetRequest& request, std::span<const UniqueFd> fds);

  // Where a BAR access goes; counted if nowhere.
  std::optional<vfio_user::RegionAccess> Decode(const mpqemu::BarAccess& access);
  void Region(const std::optional<vfio_user::RegionAccess>& access, bool read, uint64_t value);
  void LearnConfigWrite(uint32_t address, uint32_t value, uint32_t size);
  void LearnConfigRead(uint32_t address, uint64_t value);
  vfio_user::Header Command(vfio_user::Command command, size_t size, uint32_t flags = 0);

  Recording& recording_;
  std::array<Bar, 6> bars_;
  std::deque<Asked> asked_;
  uint64_t undecoded_ = 0;
  uint16_t next_id_ = 0;
};

}  // namespace farside::record
