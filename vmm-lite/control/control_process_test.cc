// vmm-lite as its users see it, with a CPU process that has no machine (fake_cpu_process.cc).
#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace farside::vmm {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

// Whether `condition` comes true within ten seconds.
template <typename F>
bool Soon(F condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

bool Alive(pid_t pid) {
  // A zombie whose parent has not looked yet is dead.
  const std::string stat = ReadFile(fmt::format("/proc/{}/stat", pid));
  return !stat.empty() && stat.find(") Z ") == std::string::npos;
}

// A QMP client, which reads line by line.
class Qmp {
 public:
  explicit Qmp(const std::string& path) {
    EXPECT_TRUE(Soon([&] {
      auto socket = ConnectUnix(path);
      if (socket) socket_ = std::move(*socket);
      return static_cast<bool>(socket_);
    })) << path;
  }

  void Write(const std::string& text) {
    EXPECT_EQ(send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }

  // The next line as JSON; null at the end or after ten seconds.
  json Read() {
    while (buffer_.find('\n') == std::string::npos) {
      pollfd fd{socket_.get(), POLLIN, 0};
      char data[4096];
      const ssize_t got = poll(&fd, 1, 10'000) == 1 ? recv(fd.fd, data, sizeof data, 0) : 0;
      if (got <= 0) return nullptr;
      buffer_.append(data, static_cast<size_t>(got));
    }
    const size_t end = buffer_.find('\n');
    const std::string line = buffer_.substr(0, end);
    buffer_.erase(0, end + 1);
    return json::parse(line, nullptr, false);
  }

  json ReadEvent(const std::string& name) {
    for (;;) {
      json line = Read();
      if (line.is_null() || line.value("event", "") == name) return line;
    }
  }

  // The answer, past events.
  json Ask(const std::string& command, json arguments = json::object()) {
    Write(json{{"execute", command}, {"arguments", std::move(arguments)}, {"id", ++id_}}.dump() +
          "\n");
    for (;;) {
      json line = Read();
      if (line.is_null() || line.value("id", json()) == id_) return line;
    }
  }

  void Negotiate() {
    EXPECT_TRUE(Read().contains("QMP"));
    EXPECT_EQ(Ask("qmp_capabilities")["return"], json::object());
  }

 private:
  UniqueFd socket_;
  std::string buffer_;
  int id_ = 0;
};

class ControlProcessTest : public ::testing::Test {
 protected:
  ControlProcessTest() {
    EXPECT_NE(mkdtemp(directory_), nullptr);
    std::ofstream(Path("kernel")) << "a kernel";
    // A device process that holds its socket and notes what it was started with.
    std::ofstream(Path("device")) << "#!/bin/sh\n"
                                     "echo $$ \"$@\" >> "
                                  << Path("devices") << "\nexec sleep 60\n";
    chmod(Path("device").c_str(), 0755);
    setenv("FAKE_CPU_LOG", Path("log").c_str(), 1);
  }

  // Ends whatever a test has left running.
  ~ControlProcessTest() override {
    for (const pid_t pid : {control_, second_}) {
      if (pid > 0) kill(pid, SIGKILL);
      if (pid > 0) waitpid(pid, nullptr, 0);
    }
    if (CpuPid() > 0 && Alive(CpuPid())) kill(CpuPid(), SIGKILL);
    for (const pid_t pid : DevicePids()) {
      if (Alive(pid)) kill(pid, SIGKILL);
    }
    std::filesystem::remove_all(directory_);
  }

  std::string Path(const std::string& name) const { return std::string(directory_) + "/" + name; }

  pid_t Spawn(std::vector<std::string> args) {
    args.insert(args.begin(), VMM_LITE_FAKE_CPU);
    const pid_t pid = fork();
    if (pid != 0) return pid;
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    const int error = open(Path("stderr").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(error, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }

  // Starts a machine with a kernel, QMP and -control; `args` come besides.
  void Start(std::vector<std::string> args) {
    args.insert(args.begin(), {"-kernel", Path("kernel"), "-serial", "none", "-qmp",
                               "unix:" + Path("qmp"), "-control", "unix:" + Path("control")});
    control_ = Spawn(std::move(args));
  }

  bool Logged(const std::string& text) {
    return Soon([&] { return Log().find(text) != std::string::npos; });
  }
  std::string Log() const { return ReadFile(Path("log")); }
  std::string Errors() const { return ReadFile(Path("stderr")); }

  pid_t CpuPid() const {
    const std::string log = Log();
    return log.starts_with("pid ") ? std::atoi(log.c_str() + 4) : -1;
  }
  std::vector<pid_t> DevicePids() const {
    std::vector<pid_t> pids;
    std::istringstream lines(ReadFile(Path("devices")));
    for (std::string line; std::getline(lines, line);) pids.push_back(std::atoi(line.c_str()));
    return pids;
  }

  // The exit status; 1000 and the signal when one killed it, -1 if it goes on.
  int Wait(pid_t* pid) {
    int status = 0;
    if (!Soon([&] { return waitpid(*pid, &status, WNOHANG) == *pid; })) return -1;
    *pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

  char directory_[32] = "/tmp/farside-control-XXXXXX";
  pid_t control_ = -1;
  pid_t second_ = -1;
};

TEST_F(ControlProcessTest, StartsInOrderAndPassesDescriptors) {
  const auto device = ListenUnix(Path("device.sock"));
  ASSERT_TRUE(device);
  Start({"-append", "quiet", "-m", "64M", "-smp", "2", "-trace", Path("trace"), "-device",
         "vfio-user-pci,id=a,bus=rp0,socket=" + Path("device.sock"), "-device",
         "pcie-root-port,id=rp0", "-process", "id=p,exec=" + Path("device") + ",args=-one 'two 3'",
         "-device", "pci-proxy-dev,id=b,process=p,protocol=mpqemu"});
  ASSERT_TRUE(Logged("cont {}")) << Log() << Errors();
  std::istringstream log(Log());
  std::string line;
  std::getline(log, line);
  std::getline(log, line);
  ASSERT_TRUE(line.starts_with("start ")) << line;
  EXPECT_THAT(line, HasSubstr("} file socket"));
  const json start = json::parse(line.substr(6, line.rfind('}') - 5));
  EXPECT_EQ(start["memory"], 64 << 20);
  EXPECT_EQ(start["cpus"], 2);
  EXPECT_EQ(start["append"], "quiet");
  EXPECT_EQ(start["reboot"], true);
  EXPECT_EQ(start["fds"], (json{{"kernel", 0}, {"listener", 1}}));
  EXPECT_EQ(start["root_ports"], json::array({"rp0"}));
  std::getline(log, line);
  EXPECT_THAT(line, HasSubstr("device_add {\"bus\":\"rp0\",\"fd\":0,\"id\":\"a\""));
  EXPECT_THAT(line, HasSubstr("} socket"));
  std::getline(log, line);
  EXPECT_THAT(line, HasSubstr("\"expect_id\":\"b\""));
  EXPECT_THAT(line, HasSubstr("\"protocol\":\"mpqemu\""));
  EXPECT_THAT(line, HasSubstr("} socket"));
  ASSERT_TRUE(Soon([&] { return !DevicePids().empty(); }));
  EXPECT_THAT(ReadFile(Path("devices")),
              HasSubstr(" -one two 3 -trace " + Path("trace") +
                        " -object x-remote-object,id=server-b,devid=b,fd="));
}

TEST_F(ControlProcessTest, TheNumberOfTheSocketTakesItsPlace) {
  Start({"-process", "id=p,exec=" + Path("device") + ",args=-fd=%FD%", "-device",
         "vfio-user-pci,id=b,process=p"});
  ASSERT_TRUE(Logged("cont {}")) << Log() << Errors();
  ASSERT_TRUE(Soon([&] { return !DevicePids().empty(); }));
  const std::string started = ReadFile(Path("devices"));
  EXPECT_THAT(started, Not(HasSubstr("-object")));
  const int fd = std::atoi(started.c_str() + started.find("-fd=") + 4);
  // It has that socket and nothing else of control's.
  std::string fds;
  const auto folder = fmt::format("/proc/{}/fd", DevicePids()[0]);
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (std::atoi(entry.path().filename().c_str()) <= 2) continue;
    fds += fmt::format("{}={} ", entry.path().filename().string(),
                       std::filesystem::read_symlink(entry.path()).string());
  }
  EXPECT_THAT(fds, ::testing::StartsWith(fmt::format("{}=socket:", fd)));
  EXPECT_EQ(std::ranges::count(fds, '='), 1) << fds;
}

TEST_F(ControlProcessTest, WhatCannotBeStartedIsASentenceAndStatus1) {
  struct Case {
    std::vector<std::string> args;
    const char* sentence;
  };
  const std::string kernel = Path("kernel");
  const Case cases[] = {
      {{"-kernel", Path("none")}, "name a file that can be read"},
      {{"-kernel", directory_}, "no regular file"},
      {{"-kernel", kernel, "-device", "vfio-user-pci,socket=" + Path("none")},
       "is the server running?"},
      {{"-kernel", kernel, "-process", "id=a,exec=no-such-program"}, "name a program"},
      {{"-kernel", kernel, "-process", "id=a,exec=sleep,args=%FD%"}, "give as many"},
      {{"-kernel", kernel, "-device", "pci-proxy-dev,id=a,socket=77"}, "no stream socket"},
      {{"-kernel", kernel, "-trace", "t"}, "a trace is of one -process"},
      {{"-kernel", kernel, "-append", "refuse=start"}, "start is refused"},
      {{"-kernel", kernel, "-append", "refuse=cont"}, "cont is refused"},
      {{"-attach", Path("none")}, "is the server running?"},
      {{"-cpu-process", "x"}, "start it without"},
  };
  for (const Case& c : cases) {
    std::filesystem::remove(Path("stderr"));
    control_ = Spawn(c.args);
    EXPECT_EQ(Wait(&control_), 1) << c.sentence;
    EXPECT_THAT(Errors(), HasSubstr(c.sentence));
    EXPECT_TRUE(Errors().starts_with("vmm-lite: ")) << Errors();
    EXPECT_TRUE(CpuPid() < 0 || Soon([&] { return !Alive(CpuPid()); })) << c.sentence;
    std::filesystem::remove(Path("log"));
  }
}

TEST_F(ControlProcessTest, QmpConversation) {
  Start({});
  Qmp qmp(Path("qmp"));
  const json greeting = qmp.Read();
  EXPECT_TRUE(greeting["QMP"]["version"]["qemu"]["major"].is_number()) << greeting;
  EXPECT_EQ(qmp.Ask("query-status")["error"]["class"], "CommandNotFound");
  EXPECT_EQ(qmp.Ask("qmp_capabilities")["return"], json::object());
  ASSERT_TRUE(Logged("cont {}"));
  EXPECT_EQ(qmp.Ask("query-status")["return"]["running"], true);
  EXPECT_EQ(qmp.Ask("frobnicate")["error"]["class"], "CommandNotFound");
  EXPECT_THAT(qmp.Ask("query-commands")["return"].dump(), HasSubstr("system_powerdown"));
  // What is wrong is answered, and the conversation goes on.
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += '[';
  for (const std::string& line :
       {std::string("{]"), std::string("[1]"), std::string("\"x\""), deep,
        std::string(R"({"execute": 3})"), std::string(R"({"arguments": {}})"),
        std::string(R"({"execute": "stop", "arguments": []})"),
        std::string(R"({"execute": "stop", "extra": 1})"), std::string("\xff\xfe"),
        std::string(100 << 10, 'x')}) {
    qmp.Write(line + "\n");
    EXPECT_EQ(qmp.Read()["error"]["class"], "GenericError") << line.substr(0, 80);
  }
  qmp.Write(R"({"execute": "query-version", "id": {"a": [1]}})"
            "\r\n\r\n");
  const json version = qmp.Read();
  EXPECT_EQ(version["id"], json::parse(R"({"a": [1]})"));
  EXPECT_EQ(version["return"]["package"], "farside vmm-lite");
  EXPECT_EQ(qmp.Ask("stop")["return"], json::object());
  const json event = qmp.ReadEvent("STOP");
  EXPECT_TRUE(event["timestamp"]["seconds"].is_number()) << event;
  EXPECT_LT(event["timestamp"]["microseconds"], 1'000'000);
}

TEST_F(ControlProcessTest, TheNextQmpClientWaitsForTheFirst) {
  Start({});
  auto first = std::make_unique<Qmp>(Path("qmp"));
  first->Negotiate();
  Qmp second(Path("qmp"));
  EXPECT_TRUE(first->Ask("query-version").contains("return"));
  first.reset();
  second.Negotiate();
}

TEST_F(ControlProcessTest, ASlowAnswerDoesNotHoldUpOthers) {
  Start({"-append", "silent=query-pci"});
  Qmp qmp(Path("qmp"));
  qmp.Negotiate();
  qmp.Write(R"({"execute": "query-pci"})"
            "\n");
  EXPECT_TRUE(qmp.Ask("query-status").contains("return"));
}

TEST_F(ControlProcessTest, HotPlug) {
  const auto device = ListenUnix(Path("device.sock"));
  Start({});
  Qmp qmp(Path("qmp"));
  qmp.Negotiate();
  ASSERT_TRUE(Logged("cont {}"));
  EXPECT_EQ(qmp.Ask("device_add", {{"driver", "vfio-user-pci"},
                                   {"id", "hot"},
                                   {"socket", {{"type", "unix"}, {"path", Path("device.sock")}}}}),
            (json{{"id", 2}, {"return", json::object()}}));
  EXPECT_THAT(Log(), HasSubstr("\"id\":\"hot\""));
  EXPECT_THAT(Log(), HasSubstr("} socket"));
  EXPECT_TRUE(qmp.Ask("device_del", {{"id", "hot"}}).contains("return"));
  EXPECT_THAT(Log(), HasSubstr("device_del {\"id\":\"hot\"}"));
  for (const json& wrong :
       {json{{"driver", "e1000"}, {"id", "x"}}, json{{"driver", "pcie-root-port"}, {"id", "x"}},
        json{{"driver", "vfio-user-pci"}, {"socket", Path("device.sock")}},
        json{{"driver", "vfio-user-pci"}, {"id", "x"}, {"socket", Path("none")}},
        json{{"driver", "pci-proxy-dev"}, {"id", "x"}, {"socket", "5"}}}) {
    EXPECT_EQ(qmp.Ask("device_add", wrong)["error"]["class"], "GenericError") << wrong;
  }
  EXPECT_EQ(
      qmp.Ask("device_add",
              {{"driver", "vfio-user-pci"}, {"id", "x"}, {"process", "none"}})["error"]["class"],
      "DeviceNotFound");
}

TEST_F(ControlProcessTest, ProcessesStartAndStartAgain) {
  Start({});
  Qmp qmp(Path("qmp"));
  qmp.Negotiate();
  const json added = qmp.Ask(
      "add-process",
      {{"id", "p"}, {"exec", Path("device")}, {"args", {"-a", "b c"}}, {"devices", {"nvme0"}}});
  ASSERT_TRUE(added.contains("return")) << added;
  const pid_t pid = added["return"]["pid"];
  ASSERT_TRUE(Soon([&] { return DevicePids() == std::vector<pid_t>{pid}; }));
  EXPECT_THAT(ReadFile(Path("devices")),
              HasSubstr("-a b c -object x-vfio-user-server,id=server-nvme0,device=nvme0,type=fd"));
  const json plug{{"driver", "vfio-user-pci"}, {"id", "d"}, {"process", "p"}, {"rid", "nvme0"}};
  EXPECT_TRUE(qmp.Ask("device_add", plug).contains("return"));
  EXPECT_THAT(qmp.Ask("device_add", plug).dump(), HasSubstr("no free channel"));
  EXPECT_THAT(qmp.Ask("add-process", {{"id", "p"}, {"exec", "sleep"}}).dump(),
              HasSubstr("runs already"));
  EXPECT_EQ(qmp.Ask("query-processes")["return"],
            (json::array({{{"id", "p"}, {"pid", pid}, {"running", true}}})));
  kill(pid, SIGKILL);
  const json event = qmp.ReadEvent("PROCESS_EXITED");
  EXPECT_EQ(event["data"], (json{{"id", "p"}, {"pid", pid}, {"signal", SIGKILL}}));
  EXPECT_EQ(qmp.Ask("query-processes")["return"][0]["running"], false);
  // Plugged again, it is started again.
  EXPECT_TRUE(qmp.Ask("device_add", plug).contains("return"));
  EXPECT_TRUE(Soon([&] { return DevicePids().size() == 2; }));
}

TEST_F(ControlProcessTest, EndsWithTheStatusOfTheCpuProcess) {
  Start({});
  {
    Qmp qmp(Path("qmp"));
    qmp.Negotiate();
    ASSERT_TRUE(Logged("cont {}"));
    qmp.Ask("system_powerdown");
    EXPECT_EQ(qmp.ReadEvent("SHUTDOWN")["data"],
              (json{{"guest", true}, {"reason", "guest-shutdown"}}));
  }
  EXPECT_EQ(Wait(&control_), 0) << Errors();
  EXPECT_FALSE(std::filesystem::exists(Path("qmp")));
  EXPECT_FALSE(std::filesystem::exists(Path("control")));
  std::filesystem::remove(Path("log"));
  Start({});
  Qmp qmp(Path("qmp"));
  qmp.Negotiate();
  ASSERT_TRUE(Logged("cont {}"));
  qmp.Ask("system_reset");
  EXPECT_EQ(Wait(&control_), 7);
}

TEST_F(ControlProcessTest, ACpuProcessThatDiesOrLiesIsStatus1) {
  Start({});
  ASSERT_TRUE(Logged("cont {}"));
  kill(CpuPid(), SIGKILL);
  EXPECT_EQ(Wait(&control_), 1);
  EXPECT_THAT(Errors(), HasSubstr("was killed by signal 9"));
  std::filesystem::remove(Path("log"));
  Start({"-append", "garbage=cont"});
  EXPECT_EQ(Wait(&control_), 1);
  EXPECT_THAT(Errors(), HasSubstr("broken JSON"));
  EXPECT_TRUE(Soon([&] { return !Alive(CpuPid()); }));
}

TEST_F(ControlProcessTest, SigtermQuits) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Start({});
    ASSERT_TRUE(Logged("cont {}"));
    kill(control_, signal);
    EXPECT_EQ(Wait(&control_), 0) << Errors();
    EXPECT_THAT(Log(), HasSubstr("quit {}"));
    std::filesystem::remove(Path("log"));
  }
}

TEST_F(ControlProcessTest, ACpuProcessThatDoesNotQuitIsKilled) {
  Start({"-append", "deaf"});
  ASSERT_TRUE(Logged("cont {}"));
  const auto before = std::chrono::steady_clock::now();
  kill(control_, SIGTERM);
  EXPECT_EQ(Wait(&control_), 1);
  EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(4900));
  EXPECT_FALSE(Alive(CpuPid()));
}

TEST_F(ControlProcessTest, TheMachineOutlivesControlAndAnotherTakesOver) {
  Start({"-process", "id=p,exec=" + Path("device"), "-device", "vfio-user-pci,id=b,process=p"});
  ASSERT_TRUE(Logged("cont {}"));
  ASSERT_TRUE(Soon([&] { return !DevicePids().empty(); }));
  // A signal to the terminal's or control's group does not reach them.
  EXPECT_EQ(getsid(CpuPid()), CpuPid());
  EXPECT_EQ(getsid(DevicePids()[0]), DevicePids()[0]);
  kill(control_, SIGKILL);
  EXPECT_EQ(Wait(&control_), 1000 + SIGKILL);
  ASSERT_TRUE(Logged("control is gone"));
  EXPECT_TRUE(Alive(CpuPid()));
  EXPECT_TRUE(Alive(DevicePids()[0]));

  second_ = Spawn({"-attach", Path("control"), "-qmp", "unix:" + Path("qmp")});
  ASSERT_TRUE(Logged("taken over")) << Errors();
  Qmp qmp(Path("qmp"));
  qmp.Negotiate();
  EXPECT_EQ(qmp.Ask("query-status")["return"]["running"], true);
  EXPECT_TRUE(qmp.Ask("quit").contains("return"));
  EXPECT_EQ(Wait(&second_), 0);
  EXPECT_TRUE(Soon([&] { return !Alive(CpuPid()); }));
}

TEST_F(ControlProcessTest, ControlThatLostItsMachineToAnotherEnds) {
  Start({});
  ASSERT_TRUE(Logged("cont {}"));
  second_ = Spawn({"-attach", Path("control")});
  ASSERT_TRUE(Logged("taken over")) << Errors();
  EXPECT_EQ(Wait(&control_), 0);
  EXPECT_THAT(Errors(), HasSubstr("has taken over"));
  EXPECT_TRUE(Alive(CpuPid()));
  EXPECT_TRUE(std::filesystem::exists(Path("control")));
  kill(second_, SIGTERM);
  EXPECT_EQ(Wait(&second_), 0);
}

TEST_F(ControlProcessTest, HasNoKvmAndNoWayToIt) {
  Start({});
  ASSERT_TRUE(Logged("cont {}"));
  const std::string status = ReadFile(fmt::format("/proc/{}/status", control_));
  EXPECT_THAT(status, HasSubstr("Seccomp:\t2"));
  EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(ReadFile(fmt::format("/proc/{}/status", CpuPid())), HasSubstr("NoNewPrivs:\t0"));
  for (const auto& entry :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", control_))) {
    EXPECT_THAT(std::filesystem::read_symlink(entry.path()).string(), Not(HasSubstr("kvm")));
  }
}

}  // namespace
}  // namespace farside::vmm
