#include "harness/record/session.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <variant>

#include "base/check.h"
#include "devices/server/shared_memory.h"
#include "harness/record/version_filter.h"
#include "protocol/capabilities.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::record {

using trace::Direction;
using vfio_user::Command;
using vfio_user::DmaAccess;
using vfio_user::Frame;
using vfio_user::FrameReader;
using vfio_user::FrameWriter;
using vfio_user::Header;

namespace {

// Files of a client whose sharing is looked into: each takes a look through all its mappings.
constexpr size_t kMaxLookedAt = 16;
// What is read from the server before an interrupt of its own is passed on, at most.
constexpr int kMaxReceives = 64;

constexpr auto kInterrupt = static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);

bool IsError(const Header& header) { return (header.flags & vfio_user::kFlagError) != 0; }

template <typename T>
bool ReadFixed(ConstBytes payload, T* out) {
  if (payload.size() < sizeof(T)) return false;
  Copy(AsWritableBytes(*out), payload.first(sizeof(T)));
  return true;
}

}  // namespace

// One side's socket.
struct Session::Line final : FdWatcher {
  Line(Session& owner, const char* who, std::unique_ptr<Transport> via)
      : session(owner), name(who), transport(std::move(via)) {}
  void OnReady(uint32_t events) override { session.OnReady(*this, events); }

  Session& session;
  const char* const name;
  const std::unique_ptr<Transport> transport;
  FrameReader reader{vfio_user::MaxMessageSize(kMaxTransfer)};
  FrameWriter writer;
  FdWatch watch;
};

Session::Session(EpollLoop& loop, Recording& recording, std::string id, DmaMode mode, Peers peers,
                 std::function<void()> on_end)
    : loop_(loop),
      recording_(recording),
      id_(std::move(id)),
      mode_(mode),
      on_end_(std::move(on_end)),
      client_(std::make_unique<Line>(*this, "client", std::move(peers.client))),
      server_(std::make_unique<Line>(*this, "server", std::move(peers.server))),
      dma_(loop),
      messages_(loop),
      irqs_(loop, *this),
      settle_(loop, [this] { Settle(); }) {
  dma_.set_messenger(&messages_);
}

Session::~Session() {
  CHECK(ended_);
  // Nothing waits for a peer any more: what is still under way ends by itself.
  while (scope_.active() != 0) loop_.RunReady(64);
}

Result<void> Session::Start() {
  recording_.Attach();
  for (Line* line : {client_.get(), server_.get()}) {
    auto watched = line->watch.Start(loop_, line->transport->fd(), EPOLLIN, *line);
    if (!watched) return watched;
  }
  return {};
}

void Session::End(LogLevel level, std::string_view why) {
  if (ended_) return;
  ended_ = true;
  LogLine(level, id_, why);
  client_->watch.Stop();
  server_->watch.Stop();
  irqs_.Stop();
  messages_.Detach();
  dma_.Clear();
  settle_.Disarm();
  recording_.Detach();
  on_end_();
}

FrameWriter& Session::writer() { return client_->writer; }

void Session::Poll() {
  if (!ended_) ReceiveAll(*client_);
  Settle();
}

void Session::OnReady(Line& line, uint32_t events) {
  receiving_ = true;
  if ((events & ~EPOLLOUT) != 0) Receive(line);
  receiving_ = false;
  Settle();
}

// True if there may be more.
bool Session::Receive(Line& line) {
  const auto filled = line.reader.Fill(*line.transport);
  if (!filled) {
    const int code = filled.error().code;
    End(code == EPIPE ? LogLevel::kWarning : LogLevel::kError,
        fmt::format("the {}'s connection ends: {}", line.name, filled.error().message));
    return false;
  }
  if (*filled == FrameReader::Status::kEnd) {
    End(LogLevel::kInfo, fmt::format("the {} is gone", line.name));
    return false;
  }
  while (!ended_) {
    auto frame = line.reader.Next();
    if (!frame) {
      End(LogLevel::kError, fmt::format("the {} breaks the protocol: {}; its connection is closed",
                                        line.name, frame.error().message));
      return false;
    }
    if (!*frame) break;
    &line == client_.get() ? FromClient(**frame) : FromServer(**frame);
  }
  return !ended_ && *filled == FrameReader::Status::kData;
}

void Session::ReceiveAll(Line& line) {
  const bool nested = std::exchange(receiving_, true);
  for (int i = 0; i < kMaxReceives && Receive(line); ++i) {
  }
  receiving_ = nested;
}

void Session::Flush(Line& line) {
  const auto flushed = line.writer.Flush(*line.transport);
  if (flushed) return;
  // Who closed may have said something before.
  line.writer = FrameWriter();
  ReceiveAll(line);
  End(LogLevel::kWarning,
      fmt::format("the {}'s connection ends: {}", line.name, flushed.error().message));
}

// Sends what is to be sent, and waits for what can be taken.
void Session::Settle() {
  if (ended_) return;
  for (Line* line : {server_.get(), client_.get()}) {
    if (!ended_) Flush(*line);
  }
  if (ended_) return;
  const size_t to_server = server_->writer.pending();
  const size_t to_client = client_->writer.pending();
  const bool server_full = to_server >= kMaxPendingOutput;
  const bool client_full = to_client >= kMaxPendingOutput;
  const bool dma_full = dma_bytes_ >= kMaxDmaBytes;
  client_->watch.SetEvents((server_full ? 0u : EPOLLIN) | (to_client != 0 ? EPOLLOUT : 0u));
  server_->watch.SetEvents((server_full || client_full || dma_full ? 0u : EPOLLIN) |
                           (to_server != 0 ? EPOLLOUT : 0u));
}

void Session::Complain(std::string_view what) {
  if (const uint64_t count = ++complaints_; count <= kMaxComplaints) {
    LogWarning(id_, "{}{}", what, count < kMaxComplaints ? "" : "; more of this is not logged");
  }
}

void Session::Refuse(const Frame& frame, const Error& error) {
  Complain(error.message);
  if (frame.no_reply()) return;
  const Header header = vfio_user::ErrorHeader(frame.header, error.code == 0 ? EINVAL : error.code);
  recording_.Message(Direction::kOut, header, {});
  client_->writer.Append(header);
}

void Session::FromClient(Frame& frame) {
  if (frame.is_reply()) return OnClientReply(frame);
  recording_.Message(Direction::kIn, frame.header, frame.payload, frame.fds);
  switch (frame.command()) {
    case Command::kVersion:
      return OnVersion(frame);
    case Command::kDmaMap:
      return OnMap(frame);
    case Command::kDmaUnmap:
      OnUnmap(frame);
      break;
    case Command::kDeviceSetIrqs:
      if (const auto taken = irqs_.OnCommand(frame); !taken) return Refuse(frame, taken.error());
      break;
    case Command::kDeviceFeature:
      return OnFeature(frame);
    default:
      break;
  }
  server_->writer.Append(frame.header, frame.payload, std::move(frame.fds));
}

// The reply to a DMA command of the tap's own; the server's is recorded when it is answered.
void Session::OnClientReply(const Frame& frame) {
  if (!messages_.OnReply(frame)) {
    Complain(fmt::format("the client sends a reply (command {}, id {}) that nobody waits for",
                         frame.header.command, frame.header.message_id));
  }
}

void Session::OnVersion(Frame& frame) {
  const auto request = vfio_user::DecodeRequest(frame);
  const auto* version = request ? std::get_if<vfio_user::VersionRequest>(&*request) : nullptr;
  if (version != nullptr && !std::exchange(negotiated_, true)) {
    const auto capabilities = vfio_user::ParseCapabilities(version->json);
    messages_.Attach(*this, capabilities ? capabilities->max_data_xfer_size.value_or(kMaxTransfer)
                                         : kMaxTransfer);
  }
  const auto payload = FilterVersion(frame.payload);
  Header header = frame.header;
  header.size = static_cast<uint32_t>(sizeof header + payload.size());
  server_->writer.Append(header, payload, std::move(frame.fds));
}

void Session::OnMap(Frame& frame) {
  const auto request = vfio_user::DecodeRequest(frame);
  if (!request) return Refuse(frame, request.error());
  vfio_user::DmaMap map = std::get<vfio_user::DmaMapRequest>(*request);
  constexpr uint32_t kAccesses = vfio_user::kDmaMapAccessMmap | vfio_user::kDmaMapAccessFile;
  const bool withholds = mode_ == DmaMode::kMessage && !frame.fds.empty();
  if (withholds && (map.flags & kAccesses) == vfio_user::kDmaMapAccessFile) {
    return Refuse(frame, {"DMA_MAP by file I/O only cannot be recorded: let the client map by mmap",
                          ENOTSUP});
  }
  if (pending_maps_.size() >= kMaxPendingMaps) {
    return Refuse(frame, {"the server leaves too many DMA_MAPs unanswered", EBUSY});
  }
  const UniqueFd fd = withholds ? std::move(frame.fds.front()) : UniqueFd();
  const auto added = dma_.Add({.iova = map.iova,
                               .size = map.size,
                               .readable = (map.flags & vfio_user::kDmaMapRead) != 0,
                               .writable = (map.flags & vfio_user::kDmaMapWrite) != 0,
                               .offset = map.offset},
                              fd, vfio_user::kDefaultMaxDmaMaps);
  if (!added) return Refuse(frame, added.error());
  if (withholds) {
    WarnIfPrivate(fd.get());
    frame.fds.clear();
    map.flags &= ~kAccesses;  // Without an fd they are an error.
  }
  if (!frame.no_reply()) pending_maps_.push_back({frame.header.message_id, map.iova, map.size});
  server_->writer.Append(frame.header, AsBytes(map), std::move(frame.fds));
}

// The client has taken the memory away already: DMA that is still under way finds nothing there.
void Session::OnUnmap(Frame& frame) {
  const auto request = vfio_user::DecodeRequest(frame);
  if (!request) return;  // The server judges it.
  const auto& unmap = std::get<vfio_user::DmaUnmapRequest>(*request);
  if ((unmap.flags & vfio_user::kDmaUnmapAll) != 0) {
    dma_.RemoveAll();
    messages_.CancelAll();
  } else if (dma_.Remove(unmap.iova, unmap.size)) {
    messages_.Cancel(unmap.iova, unmap.size);
  }
}

void Session::OnFeature(Frame& frame) {
  vfio_user::DeviceFeature fields;
  if (mode_ == DmaMode::kMessage && ReadFixed(frame.payload, &fields)) {
    // The client takes it that the server logs what it writes to shared memory; the server, that
    // the client logs what comes by message.
    const uint32_t feature = fields.flags & vfio_user::kFeatureIndexMask;
    if (feature >= static_cast<uint32_t>(vfio_user::Feature::kDmaLoggingStart) &&
        feature <= static_cast<uint32_t>(vfio_user::Feature::kDmaLoggingReport)) {
      return Refuse(frame, {"a log of dirty pages cannot be had while DMA is recorded", ENOTSUP});
    }
  }
  server_->writer.Append(frame.header, frame.payload, std::move(frame.fds));
}

void Session::WarnIfPrivate(int fd) {
  struct stat status {};
  ucred peer{};
  socklen_t size = sizeof peer;
  if (fstat(fd, &status) != 0 ||
      getsockopt(client_->transport->fd(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return;
  }
  const std::pair<uint64_t, uint64_t> file(status.st_dev, status.st_ino);
  if (looked_at_.size() >= kMaxLookedAt || std::ranges::count(looked_at_, file) != 0) return;
  looked_at_.push_back(file);
  if (FindSharing(peer.pid, fd) != Sharing::kPrivate) return;
  LogWarning(id_,
             "GUEST MEMORY IS NOT SHARED: process {} maps the memory it passed privately, so the "
             "device reads zeroes and the guest never sees what it writes; start the VMM with "
             "shared memory (QEMU: memory-backend-memfd,share=on)",
             peer.pid);
}

void Session::FromServer(Frame& frame) {
  if (frame.is_reply()) return OnServerReply(frame);
  recording_.Message(Direction::kOut, frame.header, frame.payload, frame.fds);
  if (frame.header.command == kInterrupt) {
    client_->writer.Append(frame.header, frame.payload, {});
    return;
  }
  OnDma(frame);
}

void Session::OnServerReply(const Frame& frame) {
  const Command command = frame.command();
  if (command == Command::kDeviceSetIrqs) irqs_.OnReply(frame.header);
  if (command == Command::kDmaMap) {
    const auto map =
        std::ranges::find(pending_maps_, frame.header.message_id, &PendingMap::message_id);
    if (map != pending_maps_.end()) {
      // It can fail if the client has unmapped more than this meanwhile: then it is gone.
      if (IsError(frame.header)) static_cast<void>(dma_.Remove(map->iova, map->size));
      pending_maps_.erase(map);
    }
  }
  recording_.Message(Direction::kOut, frame.header, frame.payload, frame.fds);

  Header header = frame.header;
  std::vector<std::byte> changed;
  ConstBytes payload = frame.payload;
  vfio_user::RegionInfo region;
  vfio_user::RegionIoFds io_fds;
  if (IsError(header)) {
    // As it is.
  } else if (command == Command::kVersion) {
    changed = FilterVersion(payload);
    payload = changed;
  } else if (command == Command::kDeviceGetRegionInfo && ReadFixed(payload, &region)) {
    region.argsz = sizeof region;
    region.flags &= ~(vfio_user::kRegionFlagMmap | vfio_user::kRegionFlagCaps);
    region.cap_offset = 0;
    payload = AsBytes(region);
  } else if (command == Command::kDeviceGetRegionIoFds && ReadFixed(payload, &io_fds)) {
    io_fds.argsz = sizeof io_fds;
    io_fds.count = 0;
    payload = AsBytes(io_fds);
  }
  header.size = static_cast<uint32_t>(sizeof header + payload.size());
  client_->writer.Append(header, payload, {});
}

void Session::OnDma(const Frame& frame) {
  const auto request = vfio_user::DecodeRequest(frame);
  if (!request) {
    Complain(fmt::format("the server is refused: {}", request.error().message));
    return RefuseDma(frame.header, request.error().code);
  }
  const auto* read = std::get_if<vfio_user::DmaReadRequest>(&*request);
  const auto* write = std::get_if<vfio_user::DmaWriteRequest>(&*request);
  if (read == nullptr && write == nullptr) {
    Complain(fmt::format("the server is refused: {} goes from client to server",
                         vfio_user::CommandName(frame.command())));
    return RefuseDma(frame.header, ENOTSUP);
  }
  const DmaAccess access = read != nullptr ? DmaAccess(*read) : DmaAccess(*write);
  if (access.count > kMaxTransfer) {
    Complain(fmt::format("the server is refused: {} bytes by one message; {} are the most",
                         access.count, kMaxTransfer));
    return RefuseDma(frame.header, EINVAL);
  }
  dma_bytes_ += access.count;
  if (read != nullptr) {
    scope_.Spawn(ServeRead(frame.header, access));
  } else {
    scope_.Spawn(ServeWrite(frame.header, access, {write->data.begin(), write->data.end()}));
  }
}

Task<void> Session::ServeRead(Header command, DmaAccess access) {
  std::vector<std::byte> payload(sizeof access + access.count);
  Copy(payload, AsBytes(access));
  const DmaStatus status = co_await dma_.Read(access.iova, Bytes(payload).subspan(sizeof access));
  dma_bytes_ -= access.count;
  if (ended_) co_return;
  if (status != DmaStatus::kOk) co_return RefuseDma(command, EFAULT);
  recording_.CountDma(/*read=*/true, access.count);
  AnswerDma(command, payload);
}

Task<void> Session::ServeWrite(Header command, DmaAccess access, std::vector<std::byte> data) {
  const DmaStatus status = co_await dma_.Write(access.iova, data);
  dma_bytes_ -= access.count;
  if (ended_) co_return;
  if (status != DmaStatus::kOk) co_return RefuseDma(command, EFAULT);
  recording_.CountDma(/*read=*/false, access.count);
  AnswerDma(command, AsBytes(access));
}

void Session::AnswerDma(const Header& command, ConstBytes payload) {
  if ((command.flags & vfio_user::kFlagNoReply) != 0) return;
  const Header header = vfio_user::ReplyHeader(command, payload.size());
  recording_.Message(Direction::kIn, header, payload);
  server_->writer.Append(header, payload, {});
  if (!receiving_) settle_.Arm(0);
}

void Session::RefuseDma(const Header& command, int error) {
  if ((command.flags & vfio_user::kFlagNoReply) != 0) return;
  const Header header = vfio_user::ErrorHeader(command, error);
  recording_.Message(Direction::kIn, header, {});
  server_->writer.Append(header);
  if (!receiving_) settle_.Arm(0);
}

void Session::BeforeSignal(const IrqSignal& signal) {
  // An interrupt follows the DMA that it announces.
  const bool from_device = signal.action == vfio_user::kIrqActionTrigger;
  if (!ended_) ReceiveAll(from_device ? *server_ : *client_);
  if (!ended_) settle_.Arm(0);
}

void Session::OnSignal(const IrqSignal& signal, uint64_t count) {
  if (ended_) return;
  for (; count != 0; --count) {
    if (signal.action == vfio_user::kIrqActionTrigger) {
      recording_.Interrupt({.index = signal.index, .vector = signal.vector});
      continue;
    }
    // The command that would do the same.
    const vfio_user::SetIrqs irqs{.argsz = sizeof irqs,
                                  .flags = vfio_user::kIrqDataNone | signal.action,
                                  .index = signal.index,
                                  .start = signal.vector,
                                  .count = 1};
    recording_.Message(
        Direction::kIn,
        vfio_user::CommandHeader(0, Command::kDeviceSetIrqs, sizeof irqs, vfio_user::kFlagNoReply),
        AsBytes(irqs));
  }
}

}  // namespace farside::record
