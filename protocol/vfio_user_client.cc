#include "protocol/vfio_user_client.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <utility>

#include "protocol/vfio_user_replies.h"

namespace farside::vfio_user {
namespace {

// The longest reply to VERSION, GET_REGION_INFO and GET_REGION_IO_FDS that a server may ask for.
constexpr size_t kMaxReply = 64 << 10;

using Incoming = ClientChannel::Incoming;

Error BrokenReply(std::string_view command) {
  return {fmt::format("the server breaks the protocol: its reply to {} is not of what was asked",
                      command),
          EPROTO};
}

// `reply`'s payload as one piece: `head` and what came behind it in `data`.
std::vector<std::byte> Payload(const Incoming& reply) {
  std::vector<std::byte> out(reply.head.begin(), reply.head.end());
  const ConstBytes data = ConstBytes(reply.data).first(reply.size - reply.head.size());
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

}  // namespace

Capabilities DefaultClientCapabilities() {
  Capabilities out;
  out.max_msg_fds = kMaxMessageFds;
  out.max_data_xfer_size = kDefaultMaxDataXferSize;
  out.max_dma_maps = kDefaultMaxDmaMaps;
  out.pgsizes = 4096;
  out.write_multiple = true;
  out.migration = {.pgsize = 4096, .max_bitmap_size = 256 << 20};
  return out;
}

Result<std::unique_ptr<VfioUserClient>> VfioUserClient::Connect(const std::string& path,
                                                                ClientOptions options,
                                                                DmaHandler* handler) {
  auto socket = ConnectUnix(path);
  if (!socket) return tl::unexpected(socket.error());
  return Attach(std::move(*socket), std::move(options), handler);
}

Result<std::unique_ptr<VfioUserClient>> VfioUserClient::Attach(UniqueFd socket,
                                                               ClientOptions options,
                                                               DmaHandler* handler) {
  auto client = Open(std::move(socket), std::move(options), handler);
  if (!client) return client;
  if (const auto done = (*client)->Negotiate(); !done) return tl::unexpected(done.error());
  return client;
}

Result<std::unique_ptr<VfioUserClient>> VfioUserClient::Attach(std::unique_ptr<Transport> transport,
                                                               ClientOptions options,
                                                               DmaHandler* handler) {
  auto channel = ClientChannel::Create(std::move(transport), options.channel, handler);
  if (!channel) return tl::unexpected(channel.error());
  std::unique_ptr<VfioUserClient> client(
      new VfioUserClient(std::move(*channel), std::move(options)));
  if (const auto done = client->Negotiate(); !done) return tl::unexpected(done.error());
  return client;
}

Result<std::unique_ptr<VfioUserClient>> VfioUserClient::Open(UniqueFd socket, ClientOptions options,
                                                             DmaHandler* handler) {
  auto channel = ClientChannel::Create(std::move(socket), options.channel, handler);
  if (!channel) return tl::unexpected(channel.error());
  return std::unique_ptr<VfioUserClient>(
      new VfioUserClient(std::move(*channel), std::move(options)));
}

Result<void> VfioUserClient::Negotiate() {
  const std::string json = FormatCapabilities(options_.capabilities);
  const auto data = std::make_unique_for_overwrite<std::byte[]>(kMaxReply);
  Incoming reply{
      .head = AsWritableBytes(server_version_), .data = {data.get(), kMaxReply}, .takes_fds = true};
  const auto sent =
      channel_->Exchange({.command = Command::kVersion,
                          .head = AsBytes(options_.version),
                          .data = std::as_bytes(std::span(json.c_str(), json.size() + 1))},
                         &reply);
  if (!sent) return sent;
  const auto payload = Payload(reply);
  const auto decoded = DecodeVersionReply(payload);
  if (!decoded) return channel_->Die(decoded.error());
  if (server_version_.major != options_.version.major ||
      server_version_.minor > options_.version.minor) {
    return channel_->Die(
        {fmt::format("the server speaks vfio-user {}.{}, offered was {}.{}", server_version_.major,
                     server_version_.minor, options_.version.major, options_.version.minor),
         EPROTO});
  }
  auto capabilities = ParseCapabilities(decoded->json);
  if (!capabilities) return channel_->Die(capabilities.error());
  server_ = std::move(*capabilities);
  const uint64_t ours = options_.capabilities.max_data_xfer_size.value_or(kDefaultMaxDataXferSize);
  max_transfer_ = std::min(ours, server_.max_data_xfer_size.value_or(kDefaultMaxDataXferSize));
  max_transfer_ = std::min<uint64_t>(max_transfer_, UINT32_MAX / 2);
  channel_->SetMaxTransfer(static_cast<uint32_t>(max_transfer_));
  return AdoptTwin(reply);
}

Result<void> VfioUserClient::AdoptTwin(Incoming& reply) {
  const auto& asked = options_.capabilities.twin_socket;
  if (!asked || !asked->supported || !server_.twin_socket || !server_.twin_socket->supported) {
    return {};
  }
  const uint32_t index = server_.twin_socket->fd_index.value_or(0);
  if (index >= reply.fds.size()) {
    return channel_->Die({fmt::format("the server breaks the protocol: its twin socket is fd {} of "
                                      "{}",
                                      index, reply.fds.size()),
                          EPROTO});
  }
  if (const auto added = channel_->AddTwin(std::move(reply.fds[index])); !added) {
    return channel_->Die(added.error());
  }
  return {};
}

Result<DeviceInfo> VfioUserClient::GetInfo() {
  DeviceInfo info{.argsz = sizeof info};
  const DeviceInfo request = info;
  Incoming reply{.head = AsWritableBytes(info)};
  const auto sent =
      channel_->Exchange({.command = Command::kDeviceGetInfo, .head = AsBytes(request)}, &reply);
  if (!sent) return tl::unexpected(sent.error());
  const auto decoded = DecodeDeviceInfo(AsBytes(info));
  if (!decoded) return channel_->Die(decoded.error());
  return *decoded;
}

// What is asked for again is answered in full, or the device would keep its client asking.
Result<ClientRegion> VfioUserClient::GetRegionInfo(uint32_t region) {
  std::vector<std::byte> data;
  for (bool again = false;; again = true) {
    RegionInfo info;
    const RegionInfo request{.argsz = static_cast<uint32_t>(sizeof info + data.size()),
                             .index = region};
    Incoming reply{.head = AsWritableBytes(info), .data = data, .takes_fds = true};
    const auto sent = channel_->Exchange(
        {.command = Command::kDeviceGetRegionInfo, .head = AsBytes(request)}, &reply);
    if (!sent) return tl::unexpected(sent.error());
    auto decoded = DecodeRegionInfo(Payload(reply), region, reply.fds.size());
    if (!decoded) return channel_->Die(decoded.error());
    if (!decoded->incomplete) {
      ClientRegion out{.info = decoded->info, .areas = std::move(decoded->areas), .fd = {}};
      if (!reply.fds.empty()) out.fd = std::move(reply.fds[0]);
      return out;
    }
    if (again || info.argsz > kMaxReply || info.argsz <= request.argsz) {
      return channel_->Die(BrokenReply("DEVICE_GET_REGION_INFO"));
    }
    data.resize(info.argsz - sizeof info);
  }
}

Result<ClientIoFds> VfioUserClient::GetRegionIoFds(uint32_t region) {
  std::vector<std::byte> data;
  for (bool again = false;; again = true) {
    RegionIoFds fixed;
    const RegionIoFds request{.argsz = static_cast<uint32_t>(sizeof fixed + data.size()),
                              .index = region};
    Incoming reply{.head = AsWritableBytes(fixed), .data = data, .takes_fds = true};
    const auto sent = channel_->Exchange(
        {.command = Command::kDeviceGetRegionIoFds, .head = AsBytes(request)}, &reply);
    if (!sent) return tl::unexpected(sent.error());
    uint32_t argsz = 0;
    auto entries = DecodeRegionIoFds(Payload(reply), region, reply.fds.size(), &argsz);
    if (!entries) return channel_->Die(entries.error());
    if (argsz <= request.argsz) {
      if (entries->size() != fixed.count) {
        return channel_->Die(BrokenReply("DEVICE_GET_REGION_IO_FDS"));
      }
      return ClientIoFds{.entries = std::move(*entries), .fds = std::move(reply.fds)};
    }
    if (again || argsz > kMaxReply) {
      return channel_->Die(BrokenReply("DEVICE_GET_REGION_IO_FDS"));
    }
    data.resize(argsz - sizeof fixed);
  }
}

Result<IrqInfo> VfioUserClient::GetIrqInfo(IrqIndex index) {
  IrqInfo info;
  const IrqInfo request{.argsz = sizeof info, .index = static_cast<uint32_t>(index)};
  Incoming reply{.head = AsWritableBytes(info)};
  const auto sent =
      channel_->Exchange({.command = Command::kDeviceGetIrqInfo, .head = AsBytes(request)}, &reply);
  if (!sent) return tl::unexpected(sent.error());
  const auto decoded = DecodeIrqInfo(AsBytes(info), request.index);
  if (!decoded) return channel_->Die(decoded.error());
  return *decoded;
}

Result<void> VfioUserClient::SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                                     std::span<const int> fds) {
  request.argsz = static_cast<uint32_t>(sizeof request + bools.size());
  if (fds.size() > max_irq_fds()) {
    return FailWith(EINVAL, "{} eventfds at once, the server takes {}: arm them in parts",
                    fds.size(), max_irq_fds());
  }
  Incoming reply;
  return channel_->Exchange(
      {.command = Command::kDeviceSetIrqs, .head = AsBytes(request), .data = bools, .fds = fds},
      &reply);
}

size_t VfioUserClient::max_irq_fds() const {
  return std::clamp<size_t>(server_.max_msg_fds.value_or(1), 1, kMaxMessageFds);
}

Result<void> VfioUserClient::DmaMap(const DmaWindow& window) {
  const vfio_user::DmaMap request{.argsz = sizeof request,
                                  .flags = window.flags,
                                  .offset = window.offset,
                                  .iova = window.iova,
                                  .size = window.size};
  const bool possible = window.size != 0 && window.size - 1 <= UINT64_MAX - window.iova;
  const std::span<const int> fds(&window.fd, window.fd >= 0 ? 1 : 0);
  // From its reply on the device may use it, and its first DMA may come right behind the reply.
  if (possible) channel_->AddWindow(window);
  Incoming reply;
  const auto mapped = channel_->Exchange(
      {.command = Command::kDmaMap, .head = AsBytes(request), .fds = fds}, &reply);
  if (!mapped && possible) channel_->TakeBackWindow(window);
  return mapped;
}

Result<void> VfioUserClient::DmaUnmap(uint64_t iova, uint64_t size) {
  const auto unmapped = Unmap({.argsz = sizeof(vfio_user::DmaUnmap), .iova = iova, .size = size});
  if (unmapped) channel_->RemoveWindow(iova, size);
  return unmapped;
}

Result<void> VfioUserClient::DmaUnmapAll() {
  const auto unmapped = Unmap({.argsz = sizeof(vfio_user::DmaUnmap), .flags = kDmaUnmapAll});
  if (unmapped) channel_->RemoveAllWindows();
  return unmapped;
}

Result<void> VfioUserClient::Unmap(const vfio_user::DmaUnmap& unmap) {
  vfio_user::DmaUnmap echo;
  Incoming reply{.head = AsWritableBytes(echo)};
  const auto sent =
      channel_->Exchange({.command = Command::kDmaUnmap, .head = AsBytes(unmap)}, &reply);
  if (!sent) return sent;
  if (echo.iova != unmap.iova || echo.size != unmap.size) {
    return channel_->Die(BrokenReply("DMA_UNMAP"));
  }
  return {};
}

Result<void> VfioUserClient::CheckTransfer(Command command, uint64_t size) const {
  if (size != 0 && size <= max_transfer_) return {};
  return FailWith(EINVAL, "{} of {} bytes: 1 to {} can be moved at once", CommandName(command),
                  size, max_transfer_);
}

Result<void> VfioUserClient::RegionRead(const GuestAccess& access, Bytes out) {
  const auto ticket = BeginRead(access, out);
  if (!ticket) return tl::unexpected(ticket.error());
  return FinishRead(*ticket);
}

Result<DeviceClient::ReadTicket> VfioUserClient::BeginRead(const GuestAccess& access, Bytes out) {
  if (const auto ok = CheckTransfer(Command::kRegionRead, out.size()); !ok) {
    return tl::unexpected(ok.error());
  }
  const auto id =
      channel_->BeginRead({access.offset, access.region, static_cast<uint32_t>(out.size())}, out);
  if (!id) return tl::unexpected(id.error());
  return ReadTicket{*id};
}

Result<void> VfioUserClient::FinishRead(ReadTicket ticket) {
  return channel_->FinishRead(static_cast<uint16_t>(ticket.value));
}

Result<void> VfioUserClient::RegionWrite(const GuestAccess& access, ConstBytes in) {
  if (const auto ok = CheckTransfer(Command::kRegionWrite, in.size()); !ok) return ok;
  const RegionAccess request{access.offset, access.region, static_cast<uint32_t>(in.size())};
  RegionAccess echo;
  Incoming reply{.head = AsWritableBytes(echo)};
  const auto sent = channel_->Exchange(
      {.command = Command::kRegionWrite, .head = AsBytes(request), .data = in}, &reply);
  if (!sent) return sent;
  if (echo.offset != request.offset || echo.region != request.region ||
      echo.count != request.count) {
    return channel_->Die(BrokenReply("REGION_WRITE"));
  }
  return {};
}

Result<void> VfioUserClient::PostWrite(const GuestAccess& access, ConstBytes in) {
  if (const auto ok = CheckTransfer(Command::kRegionWrite, in.size()); !ok) return ok;
  const RegionAccess request{access.offset, access.region, static_cast<uint32_t>(in.size())};
  return channel_->Post({.command = Command::kRegionWrite, .head = AsBytes(request), .data = in});
}

Result<void> VfioUserClient::WriteMulti(uint32_t cpu, std::span<const WriteMultiEntry> writes,
                                        bool posted) {
  if (server_.write_multiple.value_or(false)) {
    const size_t most = (max_transfer_ - sizeof(vfio_user::WriteMulti)) / sizeof(WriteMultiEntry);
    while (!writes.empty()) {
      const auto batch = writes.first(std::min(writes.size(), std::max<size_t>(most, 1)));
      if (const auto sent = WriteBatch(batch, posted); !sent) return sent;
      writes = writes.subspan(batch.size());
    }
    return {};
  }
  for (const WriteMultiEntry& write : writes) {
    const GuestAccess access{.region = write.region, .offset = write.offset, .cpu = cpu};
    const ConstBytes in = std::as_bytes(std::span(write.data))
                              .first(std::min<size_t>(write.count, sizeof write.data));
    const auto sent = posted ? PostWrite(access, in) : RegionWrite(access, in);
    if (!sent) return sent;
  }
  return {};
}

Result<void> VfioUserClient::WriteBatch(std::span<const WriteMultiEntry> writes, bool posted) {
  const vfio_user::WriteMulti request{.count = writes.size()};
  const ClientChannel::Outgoing outgoing{.command = Command::kRegionWriteMulti,
                                         .head = AsBytes(request),
                                         .data = std::as_bytes(writes)};
  if (posted) return channel_->Post(outgoing);
  vfio_user::WriteMulti done;
  Incoming reply{.head = AsWritableBytes(done)};
  const auto sent = channel_->Exchange(outgoing, &reply);
  if (!sent) return sent;
  if (done.count > request.count) return channel_->Die(BrokenReply("REGION_WRITE_MULTI"));
  if (done.count < request.count) {
    return FailWith(EIO, "the device took {} of {} writes", done.count, request.count);
  }
  return {};
}

Result<void> VfioUserClient::Reset() {
  Incoming reply;
  return channel_->Exchange({.command = Command::kDeviceReset}, &reply);
}

Result<size_t> VfioUserClient::SendFeature(Feature feature, uint32_t operation, ConstBytes in,
                                           Bytes out) {
  const DeviceFeature request{
      .argsz = static_cast<uint32_t>(sizeof request + std::max(in.size(), out.size())),
      .flags = static_cast<uint32_t>(feature) | operation};
  // A server may repeat what it was sent.
  std::vector<std::byte> data(std::max(in.size(), out.size()));
  DeviceFeature echo;
  Incoming reply{.head = AsWritableBytes(echo), .data = data};
  const auto sent = channel_->Exchange(
      {.command = Command::kDeviceFeature, .head = AsBytes(request), .data = in}, &reply);
  if (!sent) return tl::unexpected(sent.error());
  if (echo.flags != request.flags) return channel_->Die(BrokenReply("DEVICE_FEATURE"));
  const size_t size = std::min(reply.size - sizeof echo, out.size());
  Copy(out, ConstBytes(data).first(size));
  return size;
}

Result<size_t> VfioUserClient::FeatureGet(Feature feature, ConstBytes in, Bytes out) {
  return SendFeature(feature, kFeatureGet, in, out);
}

Result<void> VfioUserClient::FeatureSet(Feature feature, ConstBytes in) {
  const auto set = SendFeature(feature, kFeatureSet, in, {});
  return set ? Result<void>() : tl::unexpected(set.error());
}

Result<void> VfioUserClient::FeatureProbe(Feature feature, uint32_t operations) {
  const auto probed = SendFeature(feature, kFeatureProbe | operations, {}, {});
  return probed ? Result<void>() : tl::unexpected(probed.error());
}

Result<size_t> VfioUserClient::MigDataRead(Bytes out) {
  if (const auto ok = CheckTransfer(Command::kMigDataRead, out.size()); !ok) {
    return tl::unexpected(ok.error());
  }
  const MigData request{.argsz = static_cast<uint32_t>(sizeof request + out.size()),
                        .size = static_cast<uint32_t>(out.size())};
  MigData got;
  Incoming reply{.head = AsWritableBytes(got), .data = out};
  const auto sent =
      channel_->Exchange({.command = Command::kMigDataRead, .head = AsBytes(request)}, &reply);
  if (!sent) return tl::unexpected(sent.error());
  if (reply.size != sizeof got + uint64_t{got.size}) {
    return channel_->Die(BrokenReply("MIG_DATA_READ"));
  }
  return got.size;
}

Result<void> VfioUserClient::MigDataWrite(ConstBytes in) {
  if (const auto ok = CheckTransfer(Command::kMigDataWrite, in.size()); !ok) return ok;
  const MigData request{.argsz = static_cast<uint32_t>(sizeof request + in.size()),
                        .size = static_cast<uint32_t>(in.size())};
  Incoming reply;
  return channel_->Exchange(
      {.command = Command::kMigDataWrite, .head = AsBytes(request), .data = in}, &reply);
}

}  // namespace farside::vfio_user
