// A QMP server: QEMU's machine protocol, one client at a time on a UNIX socket.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"

namespace farside::vmm {

// An Error with code ENOSYS becomes CommandNotFound, ENODEV DeviceNotFound, any other GenericError.
using QmpReply = std::function<void(Result<nlohmann::json>)>;

// What a client can ask for besides qmp_capabilities, query-version and query-commands.
class QmpHandler {
 public:
  virtual ~QmpHandler() = default;
  virtual std::vector<std::string> QmpCommands() const = 0;
  // `arguments` is an object. `reply` is called once, at once or later, even when the client that
  // asked is gone. Replies that come later leave in the order in which they come.
  virtual void ExecuteQmp(const std::string& command, const nlohmann::json& arguments,
                          QmpReply reply) = 0;
};

class QmpServer {
 public:
  static constexpr size_t kMaxLine = 64 << 10;   // Bytes of a request.
  static constexpr size_t kMaxPending = 64;      // Requests of a client that wait for a reply.
  static constexpr size_t kMaxUnsent = 4 << 20;  // Bytes; a client that leaves more is put out.

  static Result<std::unique_ptr<QmpServer>> Listen(EpollLoop& loop, QmpHandler& handler,
                                                   const std::string& path);
  // Removes the socket's file.
  ~QmpServer();

  // Sends an event with the time of day to the client, if there is one that negotiated.
  void SendEvent(const std::string& name, const nlohmann::json& data);

 private:
  struct Acceptor final : FdWatcher {
    explicit Acceptor(QmpServer& owner) : server(owner) {}
    void OnReady(uint32_t) override { server.Accept(); }
    QmpServer& server;
  };
  struct Client final : FdWatcher {
    explicit Client(QmpServer& owner) : server(owner) {}
    void OnReady(uint32_t events) override { server.OnClient(events); }
    QmpServer& server;
  };

  QmpServer(EpollLoop& loop, QmpHandler& handler, UniqueFd listener, std::string path);
  void Accept();
  void OnClient(uint32_t events);
  void Disconnect();
  void TakeLines(std::string_view data);
  void HandleLine(std::string_view line);
  void Execute(const std::string& command, const nlohmann::json& arguments, QmpReply reply);
  QmpReply MakeReply(nlohmann::json id);
  void Send(const nlohmann::json& body);
  void Flush();

  EpollLoop& loop_;
  QmpHandler& handler_;
  UniqueFd listener_;
  UniqueFd socket_;  // Of the client; empty: none.
  std::string path_;
  Acceptor acceptor_{*this};
  Client client_{*this};
  FdWatch accept_watch_;
  FdWatch client_watch_;

  uint64_t generation_ = 0;  // Counts clients: a reply finds out whether its client is still there.
  bool negotiated_ = false;
  bool skipping_ = false;  // The rest of a line that is too long.
  size_t pending_ = 0;
  std::string line_;
  std::string unsent_;
};

}  // namespace farside::vmm
