// A CPU process without a machine, for tests: it writes what it is asked to into the file that the
// environment variable FAKE_CPU_LOG names, one line each, and answers.
//
// Words of "append" change what it does: "silent=NAME" leaves requests of that name unanswered,
// "refuse=NAME" refuses them, "garbage=NAME" answers them with what is no JSON, "deaf" ignores
// quit.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "vmm-lite/control/cpu_channel.h"
#include "vmm-lite/cpu/cpu_process.h"

namespace farside::vmm {
namespace {

using nlohmann::json;

class FakeCpu {
 public:
  explicit FakeCpu(int fd) : channel_(UniqueFd(fd)) {
    const char* const path = std::getenv("FAKE_CPU_LOG");
    log_ =
        UniqueFd(open(path != nullptr ? path : "/dev/null", O_WRONLY | O_APPEND | O_CREAT, 0600));
    Log(fmt::format("pid {}", getpid()));
  }

  int Run() {
    while (!status_) {
      pollfd fds[] = {{channel_.fd(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
      poll(fds, 2, -1);
      if (fds[0].revents != 0) TakeMessage();
      if (fds[1].revents != 0) {
        channel_ = CpuChannel(UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)));
        Log("taken over");
      }
    }
    return *status_;
  }

 private:
  void Log(const std::string& text) {
    const std::string line = text + "\n";
    [[maybe_unused]] const ssize_t written = write(log_.get(), line.data(), line.size());
  }

  bool Has(const std::string& word) const {
    return (" " + append_ + " ").find(" " + word + " ") != std::string::npos;
  }

  void TakeMessage() {
    auto message = channel_.Receive();
    if (!message || !*message) {
      // Without control the machine runs on, if it ever ran.
      Log("control is gone");
      channel_ = CpuChannel(UniqueFd());
      if (!running_ && !listener_) status_ = 1;
      return;
    }
    Handle(**message);
  }

  void Handle(Message& message) {
    const std::string name = message.body["execute"];
    const json& arguments = message.body["arguments"];
    std::string line = name + " " + arguments.dump();
    for (const UniqueFd& fd : message.fds) {
      struct stat status {};
      fstat(fd.get(), &status);
      line += S_ISSOCK(status.st_mode) ? " socket" : S_ISREG(status.st_mode) ? " file" : " other";
    }
    Log(line);
    if (name == "start") {
      append_ = arguments["append"];
      const json& fds = arguments["fds"];
      if (fds.contains("listener"))
        listener_ = std::move(message.fds[fds["listener"].get<size_t>()]);
    }
    if (Has("silent=" + name)) return;
    if (Has("garbage=" + name)) {
      (void)send(channel_.fd(), "{]", 2, MSG_NOSIGNAL);
      return;
    }
    const json id = message.body["id"];
    if (Has("refuse=" + name)) {
      (void)channel_.Send({{"error", {{"desc", name + " is refused"}}}, {"id", id}});
      return;
    }
    json result = json::object();
    if (name == "query-status") result = {{"running", running_}, {"status", "running"}};
    if (name == "device_add") sockets_.push_back(std::move(message.fds.at(0)));
    if (name == "cont") running_ = true;
    (void)channel_.Send({{"return", result}, {"id", id}});
    if (name == "stop") Event("STOP", json::object());
    if (name == "system_powerdown") {
      Event("SHUTDOWN", {{"guest", true}, {"reason", "guest-shutdown"}});
      status_ = 0;
    }
    if (name == "system_reset") status_ = 7;
    if (name == "quit" && !Has("deaf")) status_ = 0;
  }

  void Event(const std::string& name, const json& data) {
    (void)channel_.Send({{"event", name}, {"data", data}});
  }

  CpuChannel channel_;
  UniqueFd log_;
  UniqueFd listener_;
  std::vector<UniqueFd> sockets_;
  std::string append_;
  bool running_ = false;
  std::optional<int> status_;
};

}  // namespace

int CpuProcessMain(int fd) { return FakeCpu(fd).Run(); }

}  // namespace farside::vmm
