#include "devices/server/vfio_user_server.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/log.h"

namespace farside {

using vfio_user::Frame;
using vfio_user::Header;

VfioUserServer::VfioUserServer(Slot& slot)
    : slot_(slot),
      migration_(slot.device()),
      doorbells_(slot.loop(), slot.device()),
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

VfioUserServer::~VfioUserServer() {
  set_on_disconnect(nullptr);  // Who is told may be half destroyed.
  Disconnect();
}

Result<void> VfioUserServer::Accept(std::unique_ptr<Transport> transport) {
  FinishHungUp();
  if (connected()) {
    return FailWith(EBUSY, "a client was refused: {} serves another one, and serves one at a time",
                    slot_.id());
  }
  if (busy_) {
    return FailWith(EBUSY,
                    "a client was refused: {} still waits for I/O that was in flight when the one "
                    "before reset or stopped it",
                    slot_.id());
  }
  const int fd = transport->fd();
  connection_ = std::make_unique<Connection>(std::move(transport));
  client_failed_ = false;
  ++epoch_;
  if (fd < 0) return {};
  auto watched = connection_->watch.Start(slot_.loop(), fd, EPOLLIN, *this);
  if (!watched) connection_.reset();
  return watched;
}

void VfioUserServer::Disconnect() {
  if (!connected()) return;
  if (connection_->negotiated) slot_.messages().Detach();
  connection_.reset();
  doorbells_.Clear();
  slot_.dma().Clear();
  slot_.irqs().DisarmAll();
  slot_.clock().MakeReal();
  slot_.device().OnDmaChanged();
  if (!busy_) migration_.OnClientGone();
  NotifyDisconnected();
}

void VfioUserServer::Break(std::string_view why) {
  LogWarning(slot_.id(), "the client's channel is closed: {}", why);
  connection_->broken = true;
  client_failed_ = true;
}

void VfioUserServer::OnReady(uint32_t events) {
  Connection& connection = *connection_;
  if ((events & EPOLLOUT) != 0) Flush();
  if ((events & EPOLLOUT) == 0 || (events & (EPOLLIN | EPOLLHUP)) != 0) {
    const auto filled = connection.reader.Fill(*connection.transport);
    if (!filled) {
      Break(filled.error().message);
    } else if (*filled == vfio_user::FrameReader::Status::kEnd) {
      LogInfo(slot_.id(), "the client is gone");
      connection.broken = true;
    }
    doorbells_.Serve();
  }
  ProcessFrames();
}

// A client's end may be seen later than the next client, which was there when the end was not read.
void VfioUserServer::FinishHungUp() {
  constexpr int kMaxReads = 1024;  // More than a socket's buffer holds.
  for (int i = 0; i < kMaxReads && connected(); ++i) {
    pollfd peer{connection_->transport->fd(), POLLRDHUP, 0};
    if (peer.fd < 0 || poll(&peer, 1, 0) <= 0 || InputBlocked()) return;
    OnReady(EPOLLIN);
  }
}

void VfioUserServer::ProcessFrames() {
  const uint64_t epoch = epoch_;
  connection_->corked = true;
  while (!connection_->broken) {
    if (connection_->writer.pending() >= kMaxPendingOutput) {
      Flush();
      if (connection_->writer.pending() >= kMaxPendingOutput) break;
    }
    if (!HandleNext()) break;
    // The client waits for a reply, not for the work behind it.
    if (connection_->held.empty() && !connection_->reader.Peek()) Flush();
    slot_.loop().RunReady(kTaskQuantum);
    // A task may end the connection: that of a process that ends does.
    if (!connected() || epoch_ != epoch) return;
  }
  connection_->corked = false;
  if (!connection_->broken) Flush();
  if (connection_->broken) return Disconnect();
  UpdateWatch();
}

// Handles a command or a reply; false if there is none that may be handled now.
bool VfioUserServer::HandleNext() {
  Connection& connection = *connection_;
  if (!connection.stalled && !connection.held.empty()) {
    HeldCommand command = std::move(connection.held.front());
    connection.held.pop_front();
    connection.held_bytes -= command.payload.size();
    Frame frame{command.header, command.payload, std::move(command.fds)};
    Handle(frame);
    return true;
  }
  if (connection.stalled && HeldFull()) return false;
  auto frame = connection.reader.Next();
  if (!frame) {
    Break(frame.error().message);
    return false;
  }
  if (!*frame) return false;
  if (connection.stalled && !(*frame)->is_reply()) {
    Hold(**frame);
  } else {
    Handle(**frame);
  }
  return true;
}

void VfioUserServer::Hold(Frame& frame) {
  const ConstBytes payload = frame.payload;
  connection_->held_bytes += payload.size();
  connection_->held.push_back(
      {frame.header, {payload.begin(), payload.end()}, std::move(frame.fds)});
}

bool VfioUserServer::HeldFull() const {
  return connection_->held.size() >= kMaxHeldCommands || connection_->held_bytes >= kMaxHeldBytes;
}

bool VfioUserServer::InputBlocked() const {
  return (connection_->stalled && HeldFull()) || connection_->writer.pending() >= kMaxPendingOutput;
}

void VfioUserServer::Handle(Frame& frame) {
  if (frame.is_reply()) {
    if (!slot_.messages().OnReply(frame)) ++counters_.stray_replies;
    return;
  }
  ++counters_.commands;
  auto request = vfio_user::DecodeRequest(frame);
  if (!request) return ReplyError(frame, request.error());
  if (!connection_->negotiated && !std::holds_alternative<vfio_user::VersionRequest>(*request)) {
    return ReplyError(frame, {"the first command must be VERSION", EINVAL});
  }
  std::visit([&](const auto& command) { On(frame, command); }, *request);
}

void VfioUserServer::OnAppended() {
  if (!connection_->corked) {
    Flush();
    if (!connection_->broken) UpdateWatch();
  }
}

void VfioUserServer::SendInterrupt(IrqIndex index, uint32_t vector) {
  const vfio_user::Interrupt interrupt{.index = static_cast<uint32_t>(index), .vector = vector};
  const auto header = vfio_user::CommandHeader(
      0, static_cast<vfio_user::Command>(vfio_user::ExtensionCommand::kInterrupt), sizeof interrupt,
      vfio_user::kFlagNoReply);
  Copy(writer().Append(header), AsBytes(interrupt));
  OnAppended();
}

void VfioUserServer::Flush() {
  Connection& connection = *connection_;
  const auto flushed =
      connection.deaf ? Result<bool>(true) : connection.writer.Flush(*connection.transport);
  if (!flushed && (flushed.error().code == EPIPE || flushed.error().code == ECONNRESET)) {
    // The client is gone, and its last words may still lie in the channel. Their end comes with the
    // last receive.
    connection.deaf = true;
  } else if (!flushed && !std::exchange(connection.broken, true)) {
    LogWarning(slot_.id(), "the client's channel is closed: {}", flushed.error().message);
  }
  if (connection.deaf) connection.writer = {};
}

void VfioUserServer::UpdateWatch() {
  if (connection_->transport->fd() < 0) return;
  uint32_t events = InputBlocked() ? 0u : EPOLLIN;
  if (connection_->writer.pending() != 0) events |= EPOLLOUT;
  connection_->watch.SetEvents(events);
}

void VfioUserServer::Unstall(uint64_t epoch) {
  if (!connected() || epoch != epoch_) return;
  connection_->stalled = false;
  // Inside ProcessFrames its loop goes on by itself. Otherwise look at what was held back: from the
  // loop's top level, since this is called from a task.
  if (!connection_->corked) resume_timer_.Arm(0);
}

Bytes VfioUserServer::BeginReply(const Frame& frame, size_t payload_size) {
  return connection_->writer.Append(vfio_user::ReplyHeader(frame.header, payload_size));
}

void VfioUserServer::ReplyEmpty(const Frame& frame) {
  if (!frame.no_reply()) BeginReply(frame, 0);
}

void VfioUserServer::ReplyError(const Frame& frame, const Error& error) {
  ++counters_.error_replies;
  if (const uint64_t count = ++connection_->complaints; count <= kMaxComplaints) {
    LogWarning(slot_.id(), "{}{}", error.message,
               count < kMaxComplaints ? "" : "; further errors of this client are not logged");
  }
  if (frame.no_reply()) return;
  connection_->writer.Append(
      vfio_user::ErrorHeader(frame.header, error.code == 0 ? EINVAL : error.code));
}

void VfioUserServer::ReplyResult(const Frame& frame, const Result<void>& result) {
  result ? ReplyEmpty(frame) : ReplyError(frame, result.error());
}

Result<std::unique_ptr<VfioUserListener>> VfioUserListener::Create(EpollLoop& loop,
                                                                   VfioUserServer& server,
                                                                   std::string id, UniqueFd socket,
                                                                   std::string path) {
  std::unique_ptr<VfioUserListener> listener(
      new VfioUserListener(loop, server, std::move(id), std::move(socket), std::move(path)));
  const auto watched = listener->watch_.Start(loop, listener->socket_.get(), EPOLLIN, *listener);
  if (!watched) return tl::unexpected(watched.error());
  return listener;
}

VfioUserListener::VfioUserListener(EpollLoop& loop, VfioUserServer& server, std::string id,
                                   UniqueFd socket, std::string path)
    : loop_(loop),
      server_(server),
      id_(std::move(id)),
      socket_(std::move(socket)),
      path_(std::move(path)),
      retry_(loop, [this] { watch_.SetEvents(EPOLLIN); }) {}

VfioUserListener::~VfioUserListener() {
  if (!path_.empty()) unlink(path_.c_str());
}

void VfioUserListener::OnReady(uint32_t) {
  UniqueFd client(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client) {
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
    // Out of descriptors: the client stays in the backlog, and trying at once would spin.
    LogError(id_, "cannot accept a client: {}; trying again in a second", ErrnoText(errno));
    watch_.SetEvents(0);
    retry_.Arm(loop_.clock().now_ns() + kRetryNs);
    return;
  }
  auto transport = SocketTransport::Create(std::move(client));
  const auto accepted =
      transport ? server_.Accept(std::move(*transport)) : tl::unexpected(transport.error());
  if (!accepted) LogWarning(id_, "{}", accepted.error().message);
}

}  // namespace farside
