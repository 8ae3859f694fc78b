// What each vfio-user command does.

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "devices/server/shared_memory.h"
#include "devices/server/vfio_user_server.h"

namespace farside {

using namespace vfio_user;  // NOLINT: this file is the protocol's commands.

namespace {

constexpr uint16_t kMajorVersion = 0;
constexpr uint16_t kMinorVersion = 2;
// Files of a client whose sharing is looked into: each takes a look through all its mappings.
constexpr size_t kMaxLookedAt = 16;

Capabilities OwnCapabilities() {
  return {.max_msg_fds = kMaxMessageFds,
          .max_data_xfer_size = kDefaultMaxDataXferSize,
          .max_dma_maps = kDefaultMaxDmaMaps,
          .pgsizes = 4096,
          .write_multiple = true,
          .migration =
              Capabilities::Migration{.pgsize = 4096, .max_bitmap_size = DirtyLog::kMaxPages / 8},
          .twin_socket = {},
          .farside = Capabilities::Farside{.interrupt = true, .clock = true, .device = {}}};
}

}  // namespace

void VfioUserServer::On(Frame& frame, const VersionRequest& request) {
  const auto negotiated = Negotiate(frame, request);
  if (negotiated) return;
  ReplyError(frame, negotiated.error());
  // Nothing can be said to a client of another protocol.
  if (!connection_->negotiated) connection_->broken = true;
  Flush();
}

Result<void> VfioUserServer::Negotiate(Frame& frame, const VersionRequest& request) {
  if (connection_->negotiated) return FailWith(EINVAL, "VERSION was negotiated already");
  if (request.version.major != kMajorVersion) {
    return FailWith(EINVAL, "the client speaks vfio-user {}.{}, this server {}.{}",
                    request.version.major, request.version.minor, kMajorVersion, kMinorVersion);
  }
  const auto theirs = ParseCapabilities(request.json);
  if (!theirs) return tl::unexpected(theirs.error());
  Capabilities own = OwnCapabilities();
  own.farside->device = slot_.id();
  const Capabilities agreed = vfio_user::Negotiate(own, *theirs);
  connection_->max_transfer = std::min<uint64_t>(
      kDefaultMaxDataXferSize, theirs->max_data_xfer_size.value_or(kDefaultMaxDataXferSize));
  connection_->max_reply_fds = std::min<size_t>(kMaxMessageFds, theirs->max_msg_fds.value_or(1));
  connection_->max_windows = agreed.max_dma_maps.value_or(kDefaultMaxDmaMaps);
  connection_->negotiated = true;
  connection_->extensions = agreed.farside.value_or(Capabilities::Farside{});
  if (connection_->extensions.clock) slot_.clock().MakeVirtual();
  slot_.messages().Attach(*this, connection_->max_transfer);

  const Version version{.major = kMajorVersion,
                        .minor = std::min(request.version.minor, kMinorVersion)};
  const std::string json = FormatCapabilities(agreed);
  if (frame.no_reply()) return {};
  const Bytes reply = BeginReply(frame, sizeof version + json.size() + 1);
  Copy(reply, AsBytes(version));
  Copy(reply.subspan(sizeof version), std::as_bytes(std::span(json.c_str(), json.size() + 1)));
  return {};
}

void VfioUserServer::On(Frame& frame, const DmaMapRequest& request) {
  const UniqueFd fd = frame.fds.empty() ? UniqueFd() : std::move(frame.fds.front());
  if ((request.flags & kDmaMapAccessFile) != 0 && (request.flags & kDmaMapAccessMmap) == 0) {
    return ReplyError(frame, {"DMA_MAP by file I/O only: map it, or pass no fd", ENOTSUP});
  }
  const auto added = slot_.dma().Add({.iova = request.iova,
                                      .size = request.size,
                                      .readable = (request.flags & kDmaMapRead) != 0,
                                      .writable = (request.flags & kDmaMapWrite) != 0,
                                      .offset = request.offset},
                                     fd, connection_->max_windows);
  if (added) {
    if (fd) WarnIfPrivate(fd);
    slot_.device().OnDmaChanged();
  }
  ReplyResult(frame, added);
}

void VfioUserServer::WarnIfPrivate(const UniqueFd& fd) {
  struct stat status {};
  ucred peer{};
  socklen_t size = sizeof peer;
  const int socket = connection_->transport->fd();
  if (socket < 0 || fstat(fd.get(), &status) != 0 ||
      getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return;
  }
  const std::tuple<pid_t, uint64_t, uint64_t> file(peer.pid, status.st_dev, status.st_ino);
  if (std::ranges::count(looked_at_, file) != 0) return;
  if (looked_at_.size() >= kMaxLookedAt) looked_at_.erase(looked_at_.begin());
  looked_at_.push_back(file);
  if (FindSharing(peer.pid, fd.get()) != Sharing::kPrivate) return;
  LogWarning(slot_.id(),
             "GUEST MEMORY IS NOT SHARED: process {} maps the memory it passed privately, so the "
             "device reads zeroes and the guest never sees what it writes; start the VMM with "
             "shared memory (QEMU: memory-backend-memfd,share=on)",
             peer.pid);
}

void VfioUserServer::On(Frame& frame, const DmaUnmapRequest& request) {
  const bool all = (request.flags & kDmaUnmapAll) != 0;
  if (all) {
    slot_.dma().RemoveAll();
    slot_.messages().CancelAll();
  } else {
    const auto removed = slot_.dma().Remove(request.iova, request.size);
    if (!removed) return ReplyError(frame, removed.error());
    slot_.messages().Cancel(request.iova, request.size);
  }
  slot_.device().OnDmaChanged();
  Stall();
  scope_.Spawn(FinishUnmap(frame.header, request, epoch_));
}

Task<void> VfioUserServer::FinishUnmap(Header request, DmaUnmap reply, uint64_t epoch) {
  DmaTable& dma = slot_.dma();
  const uint64_t deadline = slot_.loop().clock().now_ns() + kDrainTimeoutNs;
  Timer timer(slot_.loop(), [&dma] { dma.released().NotifyAll(); });
  while (dma.leases_in_removed() != 0) {
    if (slot_.loop().clock().now_ns() >= deadline) {
      LogWarning(slot_.id(),
                 "I/O in {:#x}+{:#x} does not end: it goes on in a private copy and its "
                 "commands fail",
                 reply.iova, reply.size);
      dma.RevokeRemoved();
      break;
    }
    if (!timer.armed()) timer.Arm(deadline);
    co_await dma.released().Wait();
  }
  if (epoch == epoch_ && connected()) Reply(Frame{.header = request}, reply);
  Unstall(epoch);
}

void VfioUserServer::On(Frame& frame, const DeviceGetInfoRequest&) {
  Reply(frame, vfio_user::DeviceInfo{.argsz = sizeof(vfio_user::DeviceInfo),
                                     .flags = kDeviceFlagReset | kDeviceFlagPci,
                                     .num_regions = kRegionCount,
                                     .num_irqs = kIrqIndexCount});
}

void VfioUserServer::On(Frame& frame, const DeviceGetRegionInfoRequest& request) {
  if (request.index >= kRegionCount) {
    return ReplyError(frame, {"DEVICE_GET_REGION_INFO of a region that no PCI device has", EINVAL});
  }
  const uint64_t size = slot_.device().info().regions[request.index].size;
  Reply(frame, vfio_user::RegionInfo{.argsz = sizeof(vfio_user::RegionInfo),
                                     .flags = size == 0 ? 0 : kRegionFlagRead | kRegionFlagWrite,
                                     .index = request.index,
                                     .size = size});
}

void VfioUserServer::On(Frame& frame, const DeviceGetIrqInfoRequest& request) {
  if (request.index >= kIrqIndexCount) {
    return ReplyError(frame, {"DEVICE_GET_IRQ_INFO of an index that no PCI device has", EINVAL});
  }
  const auto index = IrqIndex{request.index};
  uint32_t flags = kIrqFlagEventfd;
  if (index == IrqIndex::kIntx) flags |= kIrqFlagMaskable | kIrqFlagAutomasked;
  Reply(frame, IrqInfo{.argsz = sizeof(IrqInfo),
                       .flags = flags,
                       .index = request.index,
                       .count = slot_.irqs().count(index)});
}

void VfioUserServer::On(Frame& frame, const DeviceSetIrqsRequest& request) {
  ReplyResult(frame, SetIrqs(frame, request));
}

Result<void> VfioUserServer::SetIrqs(Frame& frame, const DeviceSetIrqsRequest& request) {
  IrqTable& irqs = slot_.irqs();
  const auto index = IrqIndex{request.index};
  if (request.index >= kIrqIndexCount ||
      !InRange(request.start, request.count, irqs.count(index))) {
    return FailWith(EINVAL, "DEVICE_SET_IRQS of vectors {}+{} of index {}, which the device lacks",
                    request.start, request.count, request.index);
  }
  const uint32_t data = request.flags & kIrqDataMask;
  if ((request.flags & kIrqDataInband) != 0) {
    if (!connection_->extensions.interrupt || (request.flags & kIrqActionTrigger) == 0) {
      return FailWith(EINVAL,
                      "DEVICE_SET_IRQS asks for in-band interrupts, which were not "
                      "negotiated, or to mask them");
    }
    irqs.ArmInband(index, request.start, request.count, *this);
    return {};
  }
  const auto selected = [&](uint32_t i) {
    return data != kIrqDataBool || request.bools[i] != std::byte{0};
  };
  switch (request.flags & kIrqActionsMask) {
    case kIrqActionTrigger:
      if (data == kIrqDataEventfd && !frame.fds.empty()) {
        return irqs.Arm(index, request.start, std::move(frame.fds));
      }
      if (data == kIrqDataEventfd) {
        irqs.Disarm(index, request.start, request.count);
      } else if (data == kIrqDataNone && request.count == 0) {
        irqs.Disarm(index, 0, irqs.count(index));
      } else {
        for (uint32_t i = 0; i < request.count; ++i) {
          if (selected(i)) irqs.Trigger(index, request.start + i);
        }
      }
      return {};
    default:  // Mask or unmask: decoding lets nothing else pass.
      if (index != IrqIndex::kIntx) {
        return FailWith(EINVAL, "DEVICE_SET_IRQS masks index {}: only INTx can be masked",
                        request.index);
      }
      const bool unmask = (request.flags & kIrqActionUnmask) != 0;
      if (data == kIrqDataEventfd) {
        if (!unmask) return FailWith(EINVAL, "DEVICE_SET_IRQS: no eventfd can mask INTx");
        return irqs.SetIntxUnmaskFd(frame.fds.empty() ? UniqueFd() : std::move(frame.fds.front()));
      }
      if (request.count != 0 && selected(0)) unmask ? irqs.UnmaskIntx() : irqs.MaskIntx();
      return {};
  }
}

bool VfioUserServer::RegionHolds(uint32_t region, uint64_t offset, size_t size) const {
  return InRange(offset, size, slot_.device().info().regions[region].size);
}

void VfioUserServer::On(Frame& frame, const RegionReadRequest& request) {
  if (request.region >= kRegionCount || request.count > connection_->max_transfer) {
    return ReplyError(frame, {"REGION_READ of a region or a size that was not negotiated", EINVAL});
  }
  if (frame.no_reply()) return;  // Reads may have side effects; one without an answer has none.
  // Not straight into the reply: a read may start DMA, which goes into the same writer.
  std::vector<std::byte>& data = connection_->read_data;
  data.assign(request.count, std::byte{0xff});
  if (RegionHolds(request.region, request.offset, request.count)) {
    slot_.device().ReadRegion(Region{request.region}, request.offset, data);
  } else {
    ++counters_.dropped_accesses;
  }
  const Bytes reply = BeginReply(frame, sizeof(RegionAccess) + request.count);
  Copy(reply, AsBytes<RegionAccess>(request));
  Copy(reply.subspan(sizeof(RegionAccess)), data);
}

void VfioUserServer::WriteRegion(uint32_t region, uint64_t offset, ConstBytes data) {
  if (region < kRegionCount && RegionHolds(region, offset, data.size())) {
    slot_.device().WriteRegion(Region{region}, offset, data);
  } else {
    ++counters_.dropped_accesses;
  }
}

void VfioUserServer::On(Frame& frame, const RegionWriteRequest& request) {
  if (request.region >= kRegionCount || request.count > connection_->max_transfer) {
    return ReplyError(frame,
                      {"REGION_WRITE of a region or a size that was not negotiated", EINVAL});
  }
  WriteRegion(request.region, request.offset, request.data);
  Reply<RegionAccess>(frame, request);
}

void VfioUserServer::On(Frame& frame, const RegionWriteMultiRequest& request) {
  for (size_t i = 0; i < request.count(); ++i) {
    const WriteMultiEntry entry = request.entry(i);
    WriteRegion(entry.region, entry.offset,
                std::as_bytes(std::span(entry.data)).first(entry.count));
  }
  Reply(frame, WriteMulti{.count = request.count()});
}

void VfioUserServer::On(Frame& frame, const DmaReadRequest&) {
  ReplyError(frame, {"DMA_READ goes from server to client", EINVAL});
}

void VfioUserServer::On(Frame& frame, const DmaWriteRequest&) {
  ReplyError(frame, {"DMA_WRITE goes from server to client", EINVAL});
}

void VfioUserServer::On(Frame& frame, const DeviceResetRequest&) {
  migration_.OnReset();
  slot_.device().Reset(ResetKind::kFunction);
  slot_.messages().CancelAll();
  Stall();
  busy_ = true;
  drain_timer_.Arm(slot_.loop().clock().now_ns() + kDrainTimeoutNs);
  scope_.Spawn(FinishReset(frame.header, epoch_));
}

Task<void> VfioUserServer::FinishReset(Header request, uint64_t epoch) {
  co_await slot_.device().Drain();
  slot_.device().Resume();
  drain_timer_.Disarm();
  busy_ = false;
  if (epoch == epoch_ && connected()) ReplyEmpty(Frame{.header = request});
  Unstall(epoch);
}

void VfioUserServer::On(Frame& frame, const ClockAdvanceRequest& request) {
  if (!connection_->extensions.clock) {
    return ReplyError(frame, {"CLOCK_ADVANCE was not negotiated", ENOTSUP});
  }
  slot_.clock().AdvanceTo(request.time_ns);
  slot_.CheckDeadline();
  ReplyEmpty(frame);
}

}  // namespace farside
