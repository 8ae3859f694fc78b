// DEVICE_FEATURE, MIG_DATA_*, and the fds of doorbells.

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "devices/server/vfio_user_server.h"

namespace farside {

using namespace vfio_user;  // NOLINT: this file is the protocol's commands.

namespace {

// What can be done with a feature: kFeatureGet, kFeatureSet or both; 0 for an unknown one.
uint32_t FeatureOperations(Feature feature) {
  switch (feature) {
    case Feature::kMigration:
    case Feature::kDmaLoggingReport:
      return kFeatureGet;
    case Feature::kMigrationState:
      return kFeatureGet | kFeatureSet;
    case Feature::kDmaLoggingStart:
    case Feature::kDmaLoggingStop:
      return kFeatureSet;
  }
  return 0;
}

// The fixed structure at the start of a feature's data; false if it is too short.
template <typename T>
bool ReadData(ConstBytes data, T* out) {
  if (data.size() < sizeof(T)) return false;
  std::memcpy(out, data.data(), sizeof(T));
  return true;
}

}  // namespace

void VfioUserServer::On(Frame& frame, const DeviceFeatureRequest& request) {
  const uint32_t possible = FeatureOperations(request.feature());
  const uint32_t asked = request.flags & (kFeatureGet | kFeatureSet);
  if (possible == 0) {
    return ReplyError(frame, {"DEVICE_FEATURE names a feature that this server lacks", ENOTTY});
  }
  if ((asked & ~possible) != 0) {
    return ReplyError(frame,
                      {"DEVICE_FEATURE asks for a GET or SET that the feature lacks", EINVAL});
  }
  if ((request.flags & kFeatureProbe) != 0) {
    return Reply(frame, DeviceFeature{.argsz = sizeof(DeviceFeature), .flags = request.flags});
  }
  asked == kFeatureGet ? GetFeature(frame, request) : SetFeature(frame, request);
}

// The reply to a GET: `data` and, behind it, `rest`; or, where the client left less room, how much
// it takes.
template <typename T>
void VfioUserServer::ReplyFeature(const Frame& frame, const DeviceFeatureRequest& request,
                                  const T& data, ConstBytes rest) {
  if (frame.no_reply()) return;
  const size_t size = sizeof(DeviceFeature) + sizeof data + rest.size();
  const DeviceFeature head{.argsz = static_cast<uint32_t>(size), .flags = request.flags};
  if (request.argsz < size) return Reply(frame, head);
  const Bytes out = BeginReply(frame, size);
  Copy(out, AsBytes(head));
  Copy(out.subspan(sizeof head), AsBytes(data));
  Copy(out.subspan(sizeof head + sizeof data), rest);
}

void VfioUserServer::GetFeature(Frame& frame, const DeviceFeatureRequest& request) {
  if (request.feature() == Feature::kMigration) {
    return ReplyFeature(frame, request, FeatureMigration{kMigrationStopCopy});
  }
  if (request.feature() == Feature::kMigrationState) {
    return ReplyFeature(frame, request,
                        FeatureMigrationState{.state = static_cast<uint32_t>(migration_.state())});
  }
  GetDirtyReport(frame, request);
}

void VfioUserServer::GetDirtyReport(Frame& frame, const DeviceFeatureRequest& request) {
  FeatureDmaLoggingReport range;
  if (!ReadData(request.data, &range)) {
    return ReplyError(frame, {"DMA_LOGGING_REPORT without its range", EINVAL});
  }
  // The bitmap must fit into a message, and what the client left room for, before it is taken out
  // of the log.
  const uint64_t size = DirtyLog::BitmapSize(range.length, range.page_size);
  if (size > connection_->max_transfer) {
    return ReplyError(frame, {"DMA_LOGGING_REPORT of more pages than a message holds", E2BIG});
  }
  const size_t full = sizeof(DeviceFeature) + sizeof range + size;
  if (request.argsz < full) {
    return Reply(frame,
                 DeviceFeature{.argsz = static_cast<uint32_t>(full), .flags = request.flags});
  }
  if (frame.no_reply()) return;
  const auto bitmap = slot_.dma().dirty_log().Report(range.iova, range.length, range.page_size);
  if (!bitmap) return ReplyError(frame, bitmap.error());
  ReplyFeature(frame, request, range, std::as_bytes(std::span(*bitmap)));
}

void VfioUserServer::SetFeature(Frame& frame, const DeviceFeatureRequest& request) {
  const DeviceFeature head{.argsz = sizeof(DeviceFeature), .flags = request.flags};
  if (request.feature() == Feature::kDmaLoggingStop) {
    slot_.dma().dirty_log().Stop();
    return Reply(frame, head);
  }
  if (request.feature() == Feature::kDmaLoggingStart) {
    const auto started = StartDirtyLog(request.data);
    return started ? Reply(frame, head) : ReplyError(frame, started.error());
  }
  FeatureMigrationState target;
  if (!ReadData(request.data, &target)) {
    return ReplyError(frame, {"MIG_DEVICE_STATE without a state", EINVAL});
  }
  Stall();
  busy_ = true;
  scope_.Spawn(FinishSetState(frame.header, target, epoch_));
}

Task<void> VfioUserServer::FinishSetState(Header request, FeatureMigrationState state,
                                          uint64_t epoch) {
  const auto reached = co_await migration_.SetState(MigrationState{state.state});
  busy_ = false;
  if (epoch != epoch_ || !connected()) {
    migration_.OnClientGone();
  } else {
    const Frame frame{.header = request};
    if (!reached) {
      ReplyError(frame, reached.error());
    } else if (!frame.no_reply()) {
      const DeviceFeature head{
          .argsz = sizeof head + sizeof state,
          .flags = kFeatureSet | static_cast<uint32_t>(Feature::kMigrationState)};
      const Bytes out = BeginReply(frame, sizeof head + sizeof state);
      Copy(out, AsBytes(head));
      Copy(out.subspan(sizeof head), AsBytes(state));
    }
  }
  Unstall(epoch);
}

Result<void> VfioUserServer::StartDirtyLog(ConstBytes data) {
  FeatureDmaLoggingStart start;
  if (!ReadData(data, &start)) return FailWith(EINVAL, "DMA_LOGGING_START without its fields");
  const ConstBytes list = data.subspan(sizeof start);
  if (list.size() != uint64_t{start.num_ranges} * sizeof(DmaLoggingRange)) {
    return FailWith(EINVAL, "DMA_LOGGING_START of {} ranges carries {} bytes of them",
                    start.num_ranges, list.size());
  }
  std::vector<DmaSegment> ranges;
  for (size_t at = 0; at < list.size(); at += sizeof(DmaLoggingRange)) {
    DmaLoggingRange range;
    ReadData(list.subspan(at), &range);
    ranges.push_back({range.iova, range.length});
  }
  return slot_.dma().dirty_log().Start(start.page_size, ranges);
}

void VfioUserServer::On(Frame& frame, const MigDataReadRequest& request) {
  if (request.size > connection_->max_transfer) {
    return ReplyError(frame, {"MIG_DATA_READ of more than was negotiated", EINVAL});
  }
  std::vector<std::byte> data(request.size);
  const auto got = migration_.Read(data);
  if (!got) return ReplyError(frame, got.error());
  if (frame.no_reply()) return;
  const MigData head{.argsz = static_cast<uint32_t>(sizeof head + *got),
                     .size = static_cast<uint32_t>(*got)};
  const Bytes out = BeginReply(frame, sizeof head + *got);
  Copy(out, AsBytes(head));
  Copy(out.subspan(sizeof head), ConstBytes(data).first(*got));
}

void VfioUserServer::On(Frame& frame, const MigDataWriteRequest& request) {
  ReplyResult(frame, migration_.Write(request.data));
}

void VfioUserServer::On(Frame& frame, const DeviceGetRegionIoFdsRequest& request) {
  if (request.index >= kRegionCount || request.flags != 0 || request.count != 0) {
    return ReplyError(frame, {"DEVICE_GET_REGION_IO_FDS of a region that no PCI device has, or "
                              "with flags or a count",
                              EINVAL});
  }
  auto handed = doorbells_.Hand(Region{request.index});
  if (!handed) return ReplyError(frame, handed.error());
  std::vector<IoFdEntry> entries;
  std::vector<UniqueFd> fds;
  for (Doorbells::Handed& doorbell : *handed) {
    entries.push_back({.offset = doorbell.range.offset,
                       .size = doorbell.range.size,
                       .fd_index = static_cast<uint32_t>(fds.size()),
                       .type = kIoFdTypeIoeventfd});
    fds.push_back(std::move(doorbell.eventfd));
  }
  const size_t full = sizeof(RegionIoFds) + entries.size() * sizeof(IoFdEntry);
  RegionIoFds head{.argsz = static_cast<uint32_t>(full),
                   .index = request.index,
                   .count = static_cast<uint32_t>(entries.size())};
  if (frame.no_reply()) return;
  // The retry pattern: a client that left too little room learns how much to leave.
  if (request.argsz < full || fds.size() > connection_->max_reply_fds) {
    head.count = 0;
    return Reply(frame, head);
  }
  std::vector<std::byte> payload(full);
  Copy(payload, AsBytes(head));
  Copy(Bytes(payload).subspan(sizeof head), std::as_bytes(std::span(entries)));
  connection_->writer.Append(ReplyHeader(frame.header, full), payload, std::move(fds));
}

}  // namespace farside
