// VfioUserClient: a DeviceClient that speaks vfio-user.
#pragma once

#include <memory>
#include <string>

#include "protocol/capabilities.h"
#include "protocol/client_channel.h"
#include "protocol/device_client.h"

namespace farside::vfio_user {

// What this end says of itself.
Capabilities DefaultClientCapabilities();

struct ClientOptions {
  Version version = {.major = 0, .minor = 0};
  Capabilities capabilities = DefaultClientCapabilities();
  ChannelOptions channel;
};

class VfioUserClient final : public DeviceClient {
 public:
  // Connects to the socket `path` and negotiates.
  static Result<std::unique_ptr<VfioUserClient>> Connect(const std::string& path,
                                                         ClientOptions options,
                                                         DmaHandler* handler);
  // Negotiates over a connected socket, or over a transport with its pump.
  static Result<std::unique_ptr<VfioUserClient>> Attach(UniqueFd socket, ClientOptions options,
                                                        DmaHandler* handler);
  static Result<std::unique_ptr<VfioUserClient>> Attach(std::unique_ptr<Transport> transport,
                                                        ClientOptions options, DmaHandler* handler);
  // Does not negotiate: for who sends raw bytes first. `handler` outlives the client; without one
  // DMA by message is refused.
  static Result<std::unique_ptr<VfioUserClient>> Open(UniqueFd socket, ClientOptions options,
                                                      DmaHandler* handler);
  Result<void> Negotiate();

  // What the server answered to VERSION.
  const Version& server_version() const { return server_version_; }
  const Capabilities& server_capabilities() const { return server_; }
  DmaCounts dma_counts() const { return channel_->dma_counts(); }

  // Bytes that need not be messages, with any fds; what answers them comes from ReceiveRaw. Each
  // call is a send of its own. Not to be mixed with requests in flight.
  Result<void> SendRaw(ConstBytes bytes, std::span<const int> fds = {}) {
    return channel_->SendRaw(bytes, fds);
  }
  Result<RawReply> ReceiveRaw(uint64_t timeout_ns) { return channel_->ReceiveRaw(timeout_ns); }

  bool alive() const override { return channel_->alive(); }
  Result<DeviceInfo> GetInfo() override;
  Result<ClientRegion> GetRegionInfo(uint32_t region) override;
  Result<ClientIoFds> GetRegionIoFds(uint32_t region) override;
  Result<IrqInfo> GetIrqInfo(IrqIndex index) override;
  Result<void> SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                       std::span<const int> fds) override;
  size_t max_irq_fds() const override;
  Result<void> DmaMap(const DmaWindow& window) override;
  Result<void> DmaUnmap(uint64_t iova, uint64_t size) override;
  Result<void> DmaUnmapAll() override;
  uint64_t max_transfer() const override { return max_transfer_; }
  Result<void> RegionRead(const GuestAccess& access, Bytes out) override;
  Result<void> RegionWrite(const GuestAccess& access, ConstBytes in) override;
  Result<void> PostWrite(const GuestAccess& access, ConstBytes in) override;
  Result<void> WriteMulti(uint32_t cpu, std::span<const WriteMultiEntry> writes,
                          bool posted) override;
  Result<ReadTicket> BeginRead(const GuestAccess& access, Bytes out) override;
  Result<void> FinishRead(ReadTicket ticket) override;
  Result<void> Reset() override;
  Result<size_t> FeatureGet(Feature feature, ConstBytes in, Bytes out) override;
  Result<void> FeatureSet(Feature feature, ConstBytes in) override;
  Result<void> FeatureProbe(Feature feature, uint32_t operations) override;
  Result<size_t> MigDataRead(Bytes out) override;
  Result<void> MigDataWrite(ConstBytes in) override;
  Result<bool> WaitReadable(int fd, uint64_t timeout_ns) override {
    return channel_->WaitReadable(fd, timeout_ns);
  }

 private:
  VfioUserClient(std::unique_ptr<ClientChannel> channel, ClientOptions options)
      : channel_(std::move(channel)), options_(std::move(options)) {}

  Result<void> CheckTransfer(Command command, uint64_t size) const;
  Result<void> WriteBatch(std::span<const WriteMultiEntry> writes, bool posted);
  Result<size_t> SendFeature(Feature feature, uint32_t operation, ConstBytes in, Bytes out);
  Result<void> Unmap(const vfio_user::DmaUnmap& unmap);
  Result<void> AdoptTwin(ClientChannel::Incoming& reply);

  std::unique_ptr<ClientChannel> channel_;
  ClientOptions options_;
  Version server_version_;
  Capabilities server_;
  uint64_t max_transfer_ = kDefaultMaxDataXferSize;
};

}  // namespace farside::vfio_user
