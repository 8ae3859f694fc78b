// DeviceClient: a device as its guest's side sees it, wherever the device runs.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/vfio_user.h"

namespace farside {

// Answers the DMA that a device does by message. Called by whichever thread waits for the device,
// one call at a time. It may not call the DeviceClient.
class DmaHandler {
 public:
  virtual ~DmaHandler() = default;
  // Copies out of or into guest memory. 0, or the positive errno that the device is answered. The
  // range lies inside one or several adjacent windows that were mapped and allow this access.
  virtual int OnDmaRead(uint64_t iova, Bytes out) = 0;
  virtual int OnDmaWrite(uint64_t iova, ConstBytes in) = 0;
};

// Where a guest's access goes.
struct GuestAccess {
  uint32_t region = 0;  // vfio's index: 0..5 BARs, 6 ROM, 7 configuration space.
  uint64_t offset = 0;  // In bytes, within the region.
  uint32_t cpu = 0;     // The vCPU that does it: accesses of one CPU keep their order.
};

struct DmaWindow {
  uint64_t iova = 0;
  uint64_t size = 0;  // In bytes.
  uint32_t flags = vfio_user::kDmaMapRead | vfio_user::kDmaMapWrite;
  // A file that the device may map, from `offset`; it stays the caller's. -1: the device reaches
  // the window through the DmaHandler.
  int fd = -1;
  uint64_t offset = 0;
};

// A region as the device describes it.
struct ClientRegion {
  vfio_user::RegionInfo info;
  std::vector<vfio_user::MmapArea>
      areas;  // What may be mapped: at info.offset + area.offset of fd.
  UniqueFd fd;
};

// The doorbells of a region that may be rung by eventfd.
struct ClientIoFds {
  std::vector<vfio_user::IoFdEntry> entries;  // fd_index counts in `fds`.
  std::vector<UniqueFd> fds;
};

// Any thread may call any function at any time; nothing is locked while a call waits. An Error is
// either the device's refusal, with its errno, after which everything goes on, or the end of the
// client (alive() tells): the channel is gone, the server broke the protocol or did not answer in
// time, and all calls in progress and to come fail with the same sentence.
//
// While a call waits, its thread answers the device's DMA. Where no call waits, WaitReadable does.
class DeviceClient {
 public:
  virtual ~DeviceClient() = default;

  virtual bool alive() const = 0;

  virtual Result<vfio_user::DeviceInfo> GetInfo() = 0;
  virtual Result<ClientRegion> GetRegionInfo(uint32_t region) = 0;
  virtual Result<ClientIoFds> GetRegionIoFds(uint32_t region) = 0;
  virtual Result<vfio_user::IrqInfo> GetIrqInfo(vfio_user::IrqIndex index) = 0;

  // DEVICE_SET_IRQS as it is: `bools` are request.count bytes or none, `fds` request.count eventfds
  // or none, which stay the caller's. request.argsz is filled in. ArmIrqs and those behind it say
  // the usual things.
  virtual Result<void> SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                               std::span<const int> fds) = 0;
  // Fds that one SetIrqs can carry.
  virtual size_t max_irq_fds() const = 0;

  virtual Result<void> DmaMap(const DmaWindow& window) = 0;
  virtual Result<void> DmaUnmap(uint64_t iova, uint64_t size) = 0;
  virtual Result<void> DmaUnmapAll() = 0;

  // The largest access and batch, in bytes.
  virtual uint64_t max_transfer() const = 0;

  virtual Result<void> RegionRead(const GuestAccess& access, Bytes out) = 0;
  // Returns when the device has taken the write.
  virtual Result<void> RegionWrite(const GuestAccess& access, ConstBytes in) = 0;
  // Returns at once; refusals are lost. Later accesses do not overtake it.
  virtual Result<void> PostWrite(const GuestAccess& access, ConstBytes in) = 0;
  // Many small writes in one message, in order; posted if `posted`. Devices that can't take them so
  // get them one by one.
  virtual Result<void> WriteMulti(uint32_t cpu, std::span<const vfio_user::WriteMultiEntry> writes,
                                  bool posted) = 0;

  // A read in flight. `out` stays alive until FinishRead, which is called once for each ticket, in
  // any order. Begun reads may be held back to be sent together, but not beyond the next other call
  // or FinishRead.
  struct ReadTicket {
    uint32_t value = 0;
  };
  virtual Result<ReadTicket> BeginRead(const GuestAccess& access, Bytes out) = 0;
  virtual Result<void> FinishRead(ReadTicket ticket) = 0;

  virtual Result<void> Reset() = 0;

  // DEVICE_FEATURE. `in` and `out` are the feature's own structure, without DeviceFeature. Get
  // returns the number of bytes that were put in `out`. Probe asks whether the operations in
  // `operations` (kFeatureGet, kFeatureSet) are there: an Error if not.
  virtual Result<size_t> FeatureGet(vfio_user::Feature feature, ConstBytes in, Bytes out) = 0;
  virtual Result<void> FeatureSet(vfio_user::Feature feature, ConstBytes in) = 0;
  virtual Result<void> FeatureProbe(vfio_user::Feature feature, uint32_t operations) = 0;

  // Saved state as a stream. MigDataRead returns how many bytes came; fewer than out.size() at its
  // end. At most max_transfer() a call.
  virtual Result<size_t> MigDataRead(Bytes out) = 0;
  virtual Result<void> MigDataWrite(ConstBytes in) = 0;

  // Answers the device's DMA until `fd` can be read (true) or `timeout_ns` are over (false). With
  // fd -1 only the time ends it.
  virtual Result<bool> WaitReadable(int fd, uint64_t timeout_ns) = 0;

  // SetIrqs in other words. ArmIrqs gives vectors start.. an eventfd each, in as many messages as
  // it takes.
  Result<void> ArmIrqs(vfio_user::IrqIndex index, uint32_t start, std::span<const int> eventfds);
  Result<void> DisarmIrqs(vfio_user::IrqIndex index, uint32_t start, uint32_t count);
  Result<void> DisableIrqs(vfio_user::IrqIndex index);
  Result<void> MaskIrq(vfio_user::IrqIndex index, uint32_t vector) {
    return Act(index, vector, vfio_user::kIrqActionMask);
  }
  Result<void> UnmaskIrq(vfio_user::IrqIndex index, uint32_t vector) {
    return Act(index, vector, vfio_user::kIrqActionUnmask);
  }
  Result<void> TriggerIrq(vfio_user::IrqIndex index, uint32_t vector) {
    return Act(index, vector, vfio_user::kIrqActionTrigger);
  }

  // Register accesses of 1, 2, 4 or 8 bytes.
  template <std::integral T>
  Result<T> Read(const GuestAccess& access) {
    T value{};
    const auto read = RegionRead(access, AsWritableBytes(value));
    if (!read) return tl::unexpected(read.error());
    return value;
  }
  template <std::integral T>
  Result<void> Write(const GuestAccess& access, T value) {
    return RegionWrite(access, AsBytes(value));
  }

 private:
  Result<void> Act(vfio_user::IrqIndex index, uint32_t vector, uint32_t action);
};

}  // namespace farside
