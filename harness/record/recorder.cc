#include "harness/record/recorder.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/log.h"

namespace farside::record {
namespace {

// ConnectUnix, but one that does not wait: a server whose queue is full must not stop the recorder.
Result<UniqueFd> ConnectNow(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return FailWith(ENAMETOOLONG, "socket path '{}' has {} bytes: a UNIX socket's may have {}",
                    path, path.size(), sizeof address.sun_path - 1);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FailWith(errno, "cannot make a UNIX socket: {}", ErrnoText(errno));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return fd;
  }
  return FailWith(errno, "a client was refused: cannot connect to {}: {}; is the server running?",
                  path, errno == EAGAIN ? "its queue is full" : ErrnoText(errno));
}

}  // namespace

Result<std::unique_ptr<Recorder>> Recorder::Create(EpollLoop& loop, Recording& recording,
                                                   RecorderOptions options) {
  auto socket = ListenUnix(options.listen);
  if (!socket) return tl::unexpected(socket.error());
  std::unique_ptr<Recorder> recorder(
      new Recorder(loop, recording, std::move(options), std::move(*socket)));
  auto watched = recorder->watch_.Start(loop, recorder->socket_.get(), EPOLLIN, *recorder);
  if (!watched) return tl::unexpected(watched.error());
  return recorder;
}

Recorder::Recorder(EpollLoop& loop, Recording& recording, RecorderOptions options, UniqueFd socket)
    : loop_(loop),
      recording_(recording),
      options_(std::move(options)),
      socket_(std::move(socket)),
      reap_(loop, [this] { session_.reset(); }),
      retry_(loop, [this] { watch_.SetEvents(EPOLLIN); }) {}

Recorder::~Recorder() {
  unlink(options_.listen.c_str());
  if (session_) session_->End(LogLevel::kInfo, "the recording ends: client and server are let go");
}

void Recorder::OnReady(uint32_t) {
  UniqueFd client(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client) {
    if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
    // Out of descriptors: the client stays in the backlog, and trying at once would spin.
    LogError(options_.id, "cannot accept a client: {}; trying again in a second", ErrnoText(errno));
    watch_.SetEvents(0);
    retry_.Arm(loop_.clock().now_ns() + kRetryNs);
    return;
  }
  // Of one that has just gone it may not have been heard yet.
  if (session_) session_->Poll();
  if (session_ && !session_->ended()) {
    LogWarning(options_.id, "a client was refused: another one is being recorded");
    return;
  }
  reap_.Disarm();
  session_.reset();
  if (const auto begun = Begin(std::move(client)); !begun) {
    LogError(options_.id, "{}", begun.error().message);
  }
}

Result<void> Recorder::Begin(UniqueFd client) {
  auto server = ConnectNow(options_.connect);
  if (!server) return tl::unexpected(server.error());
  auto to_client = SocketTransport::Create(std::move(client));
  if (!to_client) return tl::unexpected(to_client.error());
  auto to_server = SocketTransport::Create(std::move(*server));
  if (!to_server) return tl::unexpected(to_server.error());
  LogInfo(options_.id, "a client is here");
  session_ = std::make_unique<Session>(loop_, recording_, options_.id, options_.dma,
                                       Session::Peers{std::move(*to_client), std::move(*to_server)},
                                       [this] { reap_.Arm(0); });
  if (const auto started = session_->Start(); !started) {
    session_->End(LogLevel::kError, started.error().message);
  }
  return {};
}

}  // namespace farside::record
