// TappedClient: a DeviceClient that notes every event on its way to another one.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>

#include "harness/scenario/event_log.h"
#include "protocol/device_client.h"

namespace farside::scenario {

// For one thread. What it is made from outlives it.
class TappedClient final : public DeviceClient {
 public:
  TappedClient(std::string device, DeviceClient& client, TappedMemory& memory, EventLog& log)
      : device_(std::move(device)), client_(client), memory_(memory), log_(log) {}

  bool alive() const override { return client_.alive(); }
  Result<vfio_user::DeviceInfo> GetInfo() override;
  Result<ClientRegion> GetRegionInfo(uint32_t region) override;
  Result<ClientIoFds> GetRegionIoFds(uint32_t region) override;
  Result<vfio_user::IrqInfo> GetIrqInfo(vfio_user::IrqIndex index) override;
  Result<void> SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                       std::span<const int> fds) override;
  size_t max_irq_fds() const override { return client_.max_irq_fds(); }
  Result<void> DmaMap(const DmaWindow& window) override;
  Result<void> DmaUnmap(uint64_t iova, uint64_t size) override;
  Result<void> DmaUnmapAll() override;
  uint64_t max_transfer() const override { return client_.max_transfer(); }
  Result<void> RegionRead(const GuestAccess& access, Bytes out) override;
  Result<void> RegionWrite(const GuestAccess& access, ConstBytes in) override;
  Result<void> PostWrite(const GuestAccess& access, ConstBytes in) override;
  Result<void> WriteMulti(uint32_t cpu, std::span<const vfio_user::WriteMultiEntry> writes,
                          bool posted) override;
  Result<ReadTicket> BeginRead(const GuestAccess& access, Bytes out) override;
  Result<void> FinishRead(ReadTicket ticket) override { return client_.FinishRead(ticket); }
  Result<void> Reset() override;
  Result<size_t> FeatureGet(vfio_user::Feature feature, ConstBytes in, Bytes out) override;
  Result<void> FeatureSet(vfio_user::Feature feature, ConstBytes in) override;
  Result<void> FeatureProbe(vfio_user::Feature feature, uint32_t operations) override;
  Result<size_t> MigDataRead(Bytes out) override;
  Result<void> MigDataWrite(ConstBytes in) override;
  Result<bool> WaitReadable(int fd, uint64_t timeout_ns) override;

 private:
  // The event `verb`, which comes after what the guest wrote to its memory before.
  void Note(std::string_view verb, nlohmann::json params);
  void NoteWrite(const GuestAccess& access, ConstBytes in, bool posted);

  const std::string device_;
  DeviceClient& client_;
  TappedMemory& memory_;
  EventLog& log_;
};

}  // namespace farside::scenario
