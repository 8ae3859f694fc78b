#include "vmm-lite/control/qmp.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include "base/log.h"
#include "base/options.h"
#include "base/version.h"

namespace farside::vmm {
namespace {

using nlohmann::json;

json VersionJson() {
  std::array<int, 3> parts{};
  const char* at = kVersion.data();
  const char* const end = at + kVersion.size();
  for (int& part : parts) {
    at = std::from_chars(at, end, part).ptr;
    if (at != end) ++at;
  }
  return {{"qemu", {{"major", parts[0]}, {"minor", parts[1]}, {"micro", parts[2]}}},
          {"package", "farside vmm-lite"}};
}

json ErrorJson(const Error& error) {
  const char* const kind = error.code == ENOSYS   ? "CommandNotFound"
                           : error.code == ENODEV ? "DeviceNotFound"
                                                  : "GenericError";
  return {{"class", kind}, {"desc", error.message}};
}

// What is wrong with a request, if anything.
Result<void> CheckRequest(const json& request) {
  if (!request.is_object()) return Fail("a request is a JSON object");
  for (const auto& [key, value] : request.items()) {
    if (key == "execute" && !value.is_string()) return Fail("\"execute\" names a command");
    if (key == "arguments" && !value.is_object()) return Fail("\"arguments\" is an object");
    if (key != "execute" && key != "arguments" && key != "id") {
      return Fail("there is no key {}; a request has execute, arguments and id", Quote(key));
    }
  }
  if (!request.contains("execute")) return Fail("a request has an \"execute\"");
  return {};
}

}  // namespace

Result<std::unique_ptr<QmpServer>> QmpServer::Listen(EpollLoop& loop, QmpHandler& handler,
                                                     const std::string& path) {
  auto listener = ListenUnix(path);
  if (!listener) return tl::unexpected(listener.error());
  std::unique_ptr<QmpServer> server(new QmpServer(loop, handler, std::move(*listener), path));
  const auto watched =
      server->accept_watch_.Start(loop, server->listener_.get(), EPOLLIN, server->acceptor_);
  if (!watched) return tl::unexpected(watched.error());
  return server;
}

QmpServer::QmpServer(EpollLoop& loop, QmpHandler& handler, UniqueFd listener, std::string path)
    : loop_(loop), handler_(handler), listener_(std::move(listener)), path_(std::move(path)) {}

QmpServer::~QmpServer() { unlink(path_.c_str()); }

void QmpServer::Accept() {
  UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  if (!client_watch_.Start(loop_, socket.get(), EPOLLIN, client_)) return;
  // Others wait until this one has gone.
  accept_watch_.SetEvents(0);
  socket_ = std::move(socket);
  ++generation_;
  negotiated_ = false;
  skipping_ = false;
  pending_ = 0;
  line_.clear();
  unsent_.clear();
  Send({{"QMP", {{"version", VersionJson()}, {"capabilities", json::array()}}}});
}

void QmpServer::Disconnect() {
  client_watch_.Stop();
  socket_.reset();
  accept_watch_.SetEvents(EPOLLIN);
}

void QmpServer::OnClient(uint32_t events) {
  if ((events & EPOLLOUT) != 0) Flush();
  if (!socket_ || (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  std::array<char, 4096> data;
  const ssize_t got = recv(socket_.get(), data.data(), data.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return Disconnect();
  TakeLines({data.data(), static_cast<size_t>(got)});
}

void QmpServer::TakeLines(std::string_view data) {
  while (socket_ && !data.empty()) {
    const size_t end = data.find('\n');
    const std::string_view part = data.substr(0, end);
    if (!skipping_ && line_.size() + part.size() > kMaxLine) {
      skipping_ = true;
      line_.clear();
      MakeReply(nullptr)(Fail("a request has at most {} bytes", kMaxLine));
    }
    if (!skipping_) line_ += part;
    if (end == std::string_view::npos) return;
    data.remove_prefix(end + 1);
    if (!std::exchange(skipping_, false)) HandleLine(std::exchange(line_, {}));
  }
}

void QmpServer::HandleLine(std::string_view line) {
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
  const auto request = ParseJson(line);
  if (!request) return MakeReply(nullptr)(tl::unexpected(request.error()));
  json id = request->is_object() && request->contains("id") ? (*request)["id"] : json();
  const QmpReply reply = MakeReply(std::move(id));
  if (const auto ok = CheckRequest(*request); !ok) return reply(tl::unexpected(ok.error()));
  if (pending_ > kMaxPending) return reply(Fail("{} requests wait for replies", pending_ - 1));
  Execute((*request)["execute"].get<std::string>(), request->value("arguments", json::object()),
          reply);
}

void QmpServer::Execute(const std::string& command, const json& arguments, QmpReply reply) {
  if (!negotiated_ && command != "qmp_capabilities") {
    return reply(FailWith(ENOSYS, "expecting capabilities negotiation with 'qmp_capabilities'"));
  }
  if (command == "qmp_capabilities") {
    if (negotiated_) return reply(FailWith(ENOSYS, "capabilities negotiation is complete already"));
    if (!arguments.value("enable", json::array()).empty()) {
      return reply(Fail("there are no capabilities to enable"));
    }
    negotiated_ = true;
    return reply(json::object());
  }
  if (command == "query-version") return reply(VersionJson());
  std::vector<std::string> commands = handler_.QmpCommands();
  if (command == "query-commands") {
    commands.insert(commands.end(), {"qmp_capabilities", "query-version", "query-commands"});
    json list = json::array();
    for (std::string& name : commands) list.push_back({{"name", std::move(name)}});
    return reply(std::move(list));
  }
  for (const std::string& name : commands) {
    if (name == command) return handler_.ExecuteQmp(command, arguments, std::move(reply));
  }
  reply(FailWith(ENOSYS, "there is no command {}; query-commands lists them", Quote(command)));
}

QmpReply QmpServer::MakeReply(json id) {
  ++pending_;
  return [this, generation = generation_, id = std::move(id)](Result<json> result) {
    if (!socket_ || generation != generation_) return;
    --pending_;
    json body;
    if (result) {
      body["return"] = std::move(*result);
    } else {
      body["error"] = ErrorJson(result.error());
    }
    if (!id.is_null()) body["id"] = id;
    Send(body);
  };
}

void QmpServer::SendEvent(const std::string& name, const json& data) {
  if (!socket_ || !negotiated_) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  json event{{"event", name},
             {"timestamp", {{"seconds", now.tv_sec}, {"microseconds", now.tv_nsec / 1000}}}};
  if (!data.empty()) event["data"] = data;
  Send(event);
}

void QmpServer::Send(const json& body) {
  unsent_ += body.dump(-1, ' ', false, json::error_handler_t::replace) + "\r\n";
  Flush();
}

void QmpServer::Flush() {
  while (!unsent_.empty()) {
    const ssize_t sent =
        send(socket_.get(), unsent_.data(), unsent_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return Disconnect();
    if (sent < 0) break;
    unsent_.erase(0, static_cast<size_t>(sent));
  }
  if (unsent_.size() > kMaxUnsent) {
    LogWarning("qmp", "a client leaves {} bytes unread: it is put out", unsent_.size());
    return Disconnect();
  }
  client_watch_.SetEvents(unsent_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

}  // namespace farside::vmm
