// The target "qmp": what a client writes to vmm-lite's QMP socket. Commands are read and checked as
// the control process does; nothing is started. The device processes' own primary channel has no
// commands yet.
//
// Oracle "qmp-reply": the server sends what is no JSON object of QMP's, or keeps a client that has
// hung up.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "base/check.h"
#include "base/options.h"
#include "fuzz/host/hidden_socket.h"
#include "fuzz/host/oracle.h"
#include "fuzz/parsers/parsers.h"
#include "vmm-lite/control/control_process.h"
#include "vmm-lite/control/options.h"
#include "vmm-lite/control/qmp.h"

namespace farside::fuzz {
namespace {

using nlohmann::json;

std::vector<std::string> Commands() {
  MonotonicClock clock;
  const auto loop = std::move(*EpollLoop::Create(clock));
  const vmm::ControlProcess control(*loop);
  return static_cast<const vmm::QmpHandler&>(control).QmpCommands();
}

class Handler final : public vmm::QmpHandler {
 public:
  std::vector<std::string> QmpCommands() const override { return commands_; }

  void ExecuteQmp(const std::string& command, const json& arguments, vmm::QmpReply reply) override {
    if (command == "device_add") {
      const auto device = vmm::ParseDevice(command, arguments);
      if (!device) return reply(tl::unexpected(device.error()));
      return reply(vmm::DeviceJson(*device));
    }
    OptionReader reader(command, arguments);
    if (command == "add-process") {
      reader.Value("devices");
      reader.Value("protocol");
      const auto process = vmm::ParseProcess(reader);
      if (!process) return reply(tl::unexpected(process.error()));
      return reply(json{{"id", process->id}, {"exec", process->exec}, {"args", process->args}});
    }
    if (command == "device_del") reader.RequiredString("id");
    if (const auto ok = reader.Finish(); !ok) return reply(tl::unexpected(ok.error()));
    waiting_.push_back(std::move(reply));  // As one that is forwarded to the CPU process.
  }

  void AnswerAll() {
    for (const vmm::QmpReply& reply : std::exchange(waiting_, {})) reply(json::object());
  }

 private:
  const std::vector<std::string> commands_ = Commands();
  std::vector<vmm::QmpReply> waiting_;
};

class QmpTarget final : public Target {
 public:
  QmpTarget() : loop_(std::move(*EpollLoop::Create(clock_))) {
    auto server = vmm::QmpServer::Listen(*loop_, handler_, socket_.path());
    if (!server) Violation("host", "{}", server.error().message);
    server_ = std::move(*server);
    CHECK(socket_.Hide({}));  // It is there.
  }

  void Run(ConstBytes input) override {
    ++tally_.sessions;
    auto client = ConnectUnix(socket_.path());
    if (!client) Violation("host", "{}", client.error().message);
    received_.clear();
    while (!input.empty()) {
      const size_t size = std::min<size_t>(input.size(), 4096);
      const ssize_t sent = send(client->get(), input.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent > 0) input = input.subspan(static_cast<size_t>(sent));
      if (sent < 0 && errno != EAGAIN) break;  // It was put out.
      Turn(client->get());
    }
    server_->SendEvent("STOP", {});
    shutdown(client->get(), SHUT_WR);
    constexpr int kPatience = 100'000;
    for (int i = 0; !Turn(client->get()); ++i) {
      if (i == kPatience) Violation("qmp-reply", "a client that has hung up is kept");
    }
    handler_.AnswerAll();  // Nobody is there any more.
    CheckReplies();
  }

 private:
  // True at the end of what the server sends.
  bool Turn(int client) {
    loop_->RunOnce(0);
    handler_.AnswerAll();
    std::array<char, 16384> data;
    const ssize_t got = recv(client, data.data(), data.size(), MSG_DONTWAIT);
    if (got > 0) received_.append(data.data(), static_cast<size_t>(got));
    return got == 0 || (got < 0 && errno != EAGAIN);
  }

  void CheckReplies() const {
    std::string_view rest = received_;
    // The last line may have been cut off by the server's hanging up.
    for (size_t end; (end = rest.find("\r\n")) != std::string_view::npos;) {
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(end + 2);
      const json reply = json::parse(line, nullptr, false);
      const bool known =
          reply.is_object() && (reply.contains("return") || reply.contains("error") ||
                                reply.contains("QMP") || reply.contains("event"));
      if (!known) Violation("qmp-reply", "the server sends {}", line);
    }
  }

  MonotonicClock clock_;
  std::unique_ptr<EpollLoop> loop_;
  Handler handler_;
  HiddenSocket socket_;
  std::unique_ptr<vmm::QmpServer> server_;
  std::string received_;
};

Seed Lines(std::string name, std::string_view text) {
  const std::string all = "{\"execute\": \"qmp_capabilities\"}\n" + std::string(text) + "\n";
  const auto bytes = std::as_bytes(std::span(all));
  return {std::move(name), {bytes.begin(), bytes.end()}};
}

}  // namespace

std::unique_ptr<Target> MakeQmpTarget() { return std::make_unique<QmpTarget>(); }

std::vector<std::string> QmpWords() {
  std::vector<std::string> words;
  for (const char* key : {"execute",
                          "arguments",
                          "id",
                          "driver",
                          "bus",
                          "socket",
                          "process",
                          "rid",
                          "protocol",
                          "x-no-posted-writes",
                          "x-msg-timeout",
                          "exec",
                          "args",
                          "devices",
                          "enable",
                          "vfio-user",
                          "mpqemu",
                          "vfio-user-pci",
                          "pci-proxy-dev",
                          "pcie-root-port",
                          "type",
                          "path"}) {
    words.push_back(fmt::format("\"{}\"", key));
  }
  auto commands = Commands();
  commands.insert(commands.end(), {"qmp_capabilities", "query-version", "query-commands"});
  for (const std::string& command : commands) {
    words.push_back(fmt::format("{{\"execute\": \"{}\"", command));
  }
  words.emplace_back("}\n");
  return words;
}

std::vector<Seed> QmpSeeds(const std::string&) {
  std::vector<Seed> seeds{
      Lines(
          "device_add",
          R"({"execute": "device_add", "arguments": {"driver": "vfio-user-pci", "id": "d", "socket": "/s"}, "id": 1})"),
      Lines(
          "device_add_process",
          R"({"execute": "device_add", "arguments": {"driver": "vfio-user-pci", "id": "d", "process": "p", "rid": "n"}})"),
      Lines(
          "device_add_socket",
          R"({"execute": "device_add", "arguments": {"driver": "vfio-user-pci", "id": "d", "bus": "p1", "socket": {"type": "unix", "path": "/s"}}})"),
      Lines(
          "add-process",
          R"({"execute": "add-process", "arguments": {"id": "p", "exec": "disk-proc", "args": "-device 'nvme,id=n' -x", "devices": ["n"], "protocol": "vfio-user"}})"),
      Lines("device_del",
            R"({"execute": "device_del", "arguments": {"id": "d"}, "id": {"a": []}})"),
      Lines("query-version", R"({"execute": "query-version"})"),
      Lines("query-commands", R"({"execute": "query-commands", "id": "x"})"),
      Lines("wrong", "{\"execute\": 5}\n[]\n\n{\"x\": 1}\n{\"execute\": \"no\"}\n{"),
  };
  for (const std::string& command : Commands()) {
    seeds.push_back(Lines(command + "-bare", fmt::format("{{\"execute\": \"{}\"}}", command)));
  }
  return seeds;
}

}  // namespace farside::fuzz
