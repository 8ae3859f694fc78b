#include "devices/server/mpqemu_server.h"

#include <sys/epoll.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>
#include <variant>

#include "base/log.h"

namespace farside {

using namespace mpqemu;  // NOLINT: this file is the protocol's commands.

namespace {

constexpr int32_t kMaxConfigAccess = 4;
constexpr uint32_t kMaxBarAccess = 8;

// The low `size` bytes; at most 8.
uint64_t Ones(uint64_t size) { return size >= 8 ? ~uint64_t{0} : (uint64_t{1} << (8 * size)) - 1; }

}  // namespace

MpqemuServer::MpqemuServer(Slot& slot)
    : slot_(slot),
      config_(slot.device()),
      drain_timer_(slot.loop(),
                   [this] {
                     LogError(
                         slot_.id(),
                         "I/O does not end {} s after a reset: the device is dead until it does",
                         kDrainTimeoutNs / 1'000'000'000);
                     Disconnect();
                   }),
      resume_timer_(slot.loop(), [this] {
        if (connected()) ProcessFrames();
      }) {}

MpqemuServer::~MpqemuServer() {
  set_on_disconnect(nullptr);  // Who is told may be half destroyed.
  Disconnect();
}

Result<void> MpqemuServer::Accept(std::unique_ptr<Transport> transport) {
  if (connected() || busy_) {
    return FailWith(EBUSY, "a proxy was refused: {} serves another one, or still resets for it",
                    slot_.id());
  }
  const int fd = transport->fd();
  connection_ = std::make_unique<Connection>(std::move(transport));
  client_failed_ = false;
  ++epoch_;
  config_.Refresh();
  if (fd < 0) return {};
  auto watched = connection_->watch.Start(slot_.loop(), fd, EPOLLIN, *this);
  if (!watched) connection_.reset();
  return watched;
}

void MpqemuServer::Disconnect() {
  if (!connected()) return;
  connection_.reset();
  slot_.dma().Clear();
  slot_.irqs().DisarmAll();
  slot_.device().OnDmaChanged();
  NotifyDisconnected();
}

void MpqemuServer::Break(std::string_view why) {
  LogError(slot_.id(), "the proxy's channel is closed: {}", why);
  connection_->broken = true;
  client_failed_ = true;
}

template <typename... Args>
void MpqemuServer::Complain(fmt::format_string<Args...> format, Args&&... args) {
  const uint64_t count = ++connection_->complaints;
  if (count > kMaxComplaints) return;
  LogWarning(slot_.id(), "{}{}", fmt::format(format, std::forward<Args>(args)...),
             count < kMaxComplaints ? "" : "; further warnings about it are not logged");
}

void MpqemuServer::OnReady(uint32_t events) {
  Connection& connection = *connection_;
  if ((events & EPOLLOUT) != 0) Flush();
  if ((events & EPOLLOUT) == 0 || (events & (EPOLLIN | EPOLLHUP)) != 0) {
    const auto filled = connection.reader.Fill(*connection.transport);
    // Replies that it never read make a proxy's end a reset.
    const bool reset = !filled && filled.error().code == ECONNRESET;
    if (!filled && !reset) {
      Break(filled.error().message);
    } else if (reset || *filled == FillStatus::kEnd) {
      LogInfo(slot_.id(), "the proxy is gone");
      connection.broken = true;
    }
  }
  ProcessFrames();
}

void MpqemuServer::ProcessFrames() {
  const uint64_t epoch = epoch_;
  connection_->processing = true;
  while (!connection_->broken && !connection_->stalled) {
    if (connection_->writer.pending() >= kMaxPendingOutput) {
      Flush();
      if (connection_->broken || connection_->writer.pending() >= kMaxPendingOutput) break;
    }
    if (!HandleNext()) break;
    // The proxy waits for a reply, not for the work behind it.
    if (!connection_->reader.Peek()) Flush();
    slot_.loop().RunReady(kTaskQuantum);
    if (!connected() || epoch_ != epoch) return;
  }
  connection_->processing = false;
  if (!connection_->broken) Flush();
  if (connection_->broken) return Disconnect();
  UpdateWatch();
}

// Handles a message; false if there is none.
bool MpqemuServer::HandleNext() {
  auto frame = connection_->reader.Next();
  if (!frame) {
    Break(frame.error().message);
    return false;
  }
  if (!*frame) return false;
  auto request = DecodeRequest(**frame);
  if (!request) {
    Break(request.error().message);
    return false;
  }
  ++counters_.commands;
  std::visit([&](const auto& command) { On(**frame, command); }, *request);
  return true;
}

void MpqemuServer::Flush() {
  const auto flushed = connection_->writer.Flush(*connection_->transport);
  if (flushed) return;
  LogInfo(slot_.id(), "the proxy is gone: {}", flushed.error().message);
  connection_->broken = true;
}

void MpqemuServer::UpdateWatch() {
  if (connection_->transport->fd() < 0) return;
  const size_t pending = connection_->writer.pending();
  const bool blocked = connection_->stalled || pending >= kMaxPendingOutput;
  connection_->watch.SetEvents((blocked ? 0u : EPOLLIN) | (pending != 0 ? EPOLLOUT : 0u));
}

void MpqemuServer::ReplyValue(uint64_t value) {
  StoreLe(connection_->writer.Append(MakeHeader(Command::kRet, sizeof value)), value);
}

// What a message wants mapped, with the identity of its files; nothing for what cannot be.
std::vector<std::optional<MpqemuServer::Mapped>> MpqemuServer::Describe(
    const SyncSysmem& table, std::span<const UniqueFd> fds) {
  std::vector<std::optional<Mapped>> wanted(fds.size());
  for (size_t i = 0; i < fds.size(); ++i) {
    struct stat status {};
    const bool wraps = table.sizes[i] != 0 && table.gpas[i] > UINT64_MAX - (table.sizes[i] - 1);
    if (fstat(fds[i].get(), &status) != 0 || table.sizes[i] == 0 || wraps) {
      ++counters_.refused_regions;
      Complain("SYNC_SYSMEM: region {:#x}+{:#x} is empty, wraps, or has no file: it is left out",
               table.gpas[i], table.sizes[i]);
      continue;
    }
    wanted[i] = Mapped{.gpa = table.gpas[i],
                       .size = table.sizes[i],
                       .offset = table.offsets[i],
                       .device = status.st_dev,
                       .inode = status.st_ino};
  }
  return wanted;
}

void MpqemuServer::On(Frame& frame, const SyncSysmemRequest& request) {
  std::vector<Mapped>& mapped = connection_->mapped;
  const auto wanted = Describe(request, frame.fds);
  bool changed = false;
  // The old ones first: the new ones may lie where they are.
  std::erase_if(mapped, [&](const Mapped& old) {
    if (std::ranges::count(wanted, std::optional(old)) != 0) return false;
    if (!slot_.dma().Remove(old.gpa, old.size)) return false;
    changed = true;
    return true;
  });
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i]) continue;
    if (std::ranges::count(mapped, *wanted[i]) != 0) {
      ++counters_.unchanged_regions;
      continue;
    }
    const auto added = slot_.dma().Add({.iova = wanted[i]->gpa,
                                        .size = wanted[i]->size,
                                        .readable = true,
                                        .writable = true,
                                        .offset = wanted[i]->offset},
                                       frame.fds[i], kMaxRegions);
    if (!added) {
      ++counters_.refused_regions;
      Complain("SYNC_SYSMEM: {}: the region is left out", added.error().message);
      continue;
    }
    ++counters_.mapped_regions;
    mapped.push_back(*wanted[i]);
    changed = true;
  }
  if (changed) slot_.device().OnDmaChanged();
}

void MpqemuServer::On(Frame&, const ConfigReadRequest& request) {
  // A proxy never sends another size; QEMU's remote aborts at one.
  if (request.size < 0 || request.size > kMaxConfigAccess) {
    ++counters_.dropped_accesses;
    return ReplyValue(Ones(8));
  }
  std::array<std::byte, kMaxConfigAccess> bytes{};
  config_.Read(request.address, Bytes(bytes).first(static_cast<size_t>(request.size)));
  ReplyValue(LoadLe<uint32_t>(bytes));
}

void MpqemuServer::On(Frame&, const ConfigWriteRequest& request) {
  if (request.size < 0 || request.size > kMaxConfigAccess) {
    ++counters_.dropped_accesses;
  } else {
    config_.Write(request.address, AsBytes(request.value).first(static_cast<size_t>(request.size)));
  }
  ReplyValue(0);
}

std::optional<MpqemuConfig::Place> MpqemuServer::Decode(const BarAccess& access) {
  std::optional<MpqemuConfig::Place> place;
  if (std::has_single_bit(access.size) && access.size <= kMaxBarAccess) {
    place = config_.Decode(access.address, access.size, access.memory != 0);
  }
  if (!place) ++counters_.dropped_accesses;
  return place;
}

void MpqemuServer::On(Frame&, const BarReadRequest& request) {
  const auto place = Decode(request);
  if (!place) return ReplyValue(std::has_single_bit(request.size) ? Ones(request.size) : Ones(8));
  std::array<std::byte, kMaxBarAccess> bytes{};
  slot_.device().ReadRegion(place->region, place->offset, Bytes(bytes).first(request.size));
  ReplyValue(LoadLe<uint64_t>(bytes));
}

void MpqemuServer::On(Frame&, const BarWriteRequest& request) {
  if (const auto place = Decode(request)) {
    slot_.device().WriteRegion(place->region, place->offset,
                               AsBytes(request.value).first(request.size));
  }
  ReplyValue(0);
}

void MpqemuServer::On(Frame& frame, const SetIrqfdRequest&) {
  if (slot_.irqs().count(IrqIndex::kIntx) == 0) {
    return Complain("SET_IRQFD: the device has no INTx interrupt");
  }
  const auto armed =
      slot_.irqs().ArmIntxResampled(std::move(frame.fds[0]), std::move(frame.fds[1]));
  if (!armed) Complain("SET_IRQFD: {}: the interrupt stays as it was", armed.error().message);
}

void MpqemuServer::On(Frame&, const ResetRequest&) {
  slot_.device().Reset(ResetKind::kFunction);
  connection_->stalled = true;
  busy_ = true;
  drain_timer_.Arm(slot_.loop().clock().now_ns() + kDrainTimeoutNs);
  scope_.Spawn(FinishReset(epoch_));
}

Task<void> MpqemuServer::FinishReset(uint64_t epoch) {
  co_await slot_.device().Drain();
  slot_.device().Resume();
  drain_timer_.Disarm();
  busy_ = false;
  config_.Refresh();
  if (epoch != epoch_ || !connected()) co_return;
  connection_->writer.Append(MakeHeader(Command::kRet, 0));
  connection_->stalled = false;
  // From the loop's top level, since this may be called from a task.
  if (!connection_->processing) resume_timer_.Arm(0);
}

}  // namespace farside
