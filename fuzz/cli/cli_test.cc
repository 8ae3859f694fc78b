// farside-fuzz as it is called, on a target with a bug, and against a device process.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/fd.h"
#include "fuzz/cli/cli.h"
#include "fuzz/host/oracle.h"
#include "fuzz/mutator/grammar.h"
#include "fuzz/mutator/mutator.h"
#include "harness/fuzz/command.h"
#include "harness/fuzz/fuzz_main.h"
#include "harness/fuzz/programs.h"
#include "harness/scenario/child.h"

namespace farside::fuzz {
namespace {

namespace fs = std::filesystem;
using campaign::Ran;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr uint64_t kTimeout = 50'000'000'000;

class CliTest : public testing::Test {
 protected:
  CliTest() : directory_(scenario::MakeDirectory().value()) {}
  ~CliTest() override { fs::remove_all(directory_); }

  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  static Ran Call(const std::vector<std::string>& args) {
    return campaign::RunProgram(FARSIDE_FUZZ_PROGRAM, args, kTimeout).value();
  }
  Session ReadSession(const std::string& name) {
    bytes_ = ReadFile(Path(name)).value();
    Session session;
    Decode(bytes_, &session);
    return session;
  }

 private:
  const std::string directory_;
  std::vector<std::byte> bytes_;
};

TEST_F(CliTest, WrongLinesEndWithTwoAndASentence) {
  for (const std::vector<std::string>& args :
       {std::vector<std::string>{},
        {"run"},
        {"run", "no-such-target", "x"},
        {"repro", "nvme", "/no/such/file"},
        {"tmin", "nvme", "/no/such/file", "/dev/null"},
        {"tmin", "nvme", "/dev/null", Path("out"), "soon"},
        {"census", "nvme", "/no/such/file"},
        {"scenario", "no-such-target", "/dev/null", Path("out")},
        {"import", "client", FARSIDE_LINUX_TRACE, Path("out")},
        {"import", "lsi", FARSIDE_LINUX_TRACE, Path("out")},
        {"import", "nvme", "/dev/null", Path("out")},
        {"speed", "trace"},
        {"connect", "/no/such/socket", "1", "1", "1"},
        {"play", "/no/such/socket", "/dev/null"}}) {
    const Ran ran = Call(args);
    EXPECT_EQ(ran.how, "exited with status 2") << testing::PrintToString(args) << ran.output;
    EXPECT_THAT(ran.output, HasSubstr("farside-fuzz")) << testing::PrintToString(args);
  }
}

// Ends with "wanted" where a window is mapped before a write of bit 3 to 0x14, and with "other",
// which is nearer at hand, where none is.
class Buggy final : public Target {
 public:
  void Run(ConstBytes input) override {
    Session session;
    Decode(input, &session);
    bool mapped = false;
    for (size_t i = 0; i < session.events.size(); ++i) {
      const Event& event = session.events[i];
      Tell(NvmeGrammar(), i, event);
      mapped |= event.kind == Kind::kMap;
      const bool hit = event.kind == Kind::kWrite && event.at == 0x14 && (event.value & 8) != 0;
      if (hit) Violate(mapped ? "wanted" : "other", "a seeded bug");
    }
  }
};
constexpr TargetDef kBuggy{"buggy", "", [] { return std::unique_ptr<Target>(new Buggy); },
                           &NvmeGrammar};

TEST_F(CliTest, TminKeepsTheFaultAndNothingElse) {
  Store store;
  Session session = MakeUp(NvmeGrammar(), 7, 40, store);
  session.flags = 0;
  std::erase_if(session.events, [](const Event& event) { return event.kind == Kind::kMap; });
  session.events.push_back({.kind = Kind::kMap, .size = 3, .at = 0x1000, .value = 0x1000});
  session.events.push_back({.kind = Kind::kHold});
  session.events.push_back({.kind = Kind::kWrite, .size = 4, .at = 0x14, .value = 0x1f});
  session.events.push_back({.kind = Kind::kReset});
  std::erase_if(session.events, [](const Event& event) {
    return event.kind == Kind::kWrite && event.at == 0x14 && event.value != 0x1f;
  });
  ASSERT_TRUE(WriteFile(Path("in"), Encode(session)));

  ASSERT_EQ(Shrink(kBuggy, Path("in"), Path("out"), 40), kOk);
  const Session small = ReadSession("out");
  ASSERT_EQ(small.events.size(), 2u);
  EXPECT_EQ(small.events[0], Event{.kind = Kind::kMap});
  EXPECT_EQ(small.events[1], (Event{.kind = Kind::kWrite, .at = 0x14, .value = 0x1f}));
}

TEST_F(CliTest, TminRefusesWhatDoesNothing) {
  ASSERT_TRUE(WriteFile(Path("in"), Encode({})));
  EXPECT_EQ(Shrink(kBuggy, Path("in"), Path("out"), 5), kBadUsage);
  EXPECT_FALSE(fs::exists(Path("out")));
}

TEST_F(CliTest, CensusCountsRegistersAndCommands) {
  Store store;
  fs::create_directory(Path("corpus"));
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Session session = MakeUp(FindTarget("nvme")->grammar(), seed, 40, store);
    ASSERT_TRUE(WriteFile(Path("corpus/" + std::to_string(seed)), Encode(session)));
  }
  const auto json = nlohmann::json::parse(Call({"census", "nvme", Path("corpus")}).output);
  EXPECT_EQ(json["inputs"], 8);
  EXPECT_EQ(json["sessions"], 8);
  EXPECT_EQ(json["made_up"]["sessions"], 1000);
  EXPECT_GT(json["made_up"]["with_io"], 300);
  std::set<std::string> names;
  uint64_t accesses = 0;
  for (const auto& row : json["registers"]) {
    names.insert(row["name"].get<std::string>());
    accesses += row["reads"].get<uint64_t>() + row["writes"].get<uint64_t>();
  }
  EXPECT_TRUE(names.contains("BAR0 CC"));
  EXPECT_GT(accesses, 0u);
  EXPECT_FALSE(json["commands"].empty());
}

TEST_F(CliTest, ScenarioSpellsOutTheSetUp) {
  const Session session{
      .flags = kReady,
      .events = {{.kind = Kind::kRead, .what = 0, .size = 4, .at = 0x1c}, {.kind = Kind::kHold}}};
  ASSERT_TRUE(WriteFile(Path("in"), Encode(session)));
  const Ran ran = Call({"scenario", "nvme", Path("in"), Path("out.json")});
  ASSERT_FALSE(ran.failed) << ran.output;
  const auto json = nlohmann::json::parse(std::ifstream(Path("out.json")));
  const auto& steps = json["steps"];
  EXPECT_EQ(steps.back(),
            nlohmann::json::parse(R"({"bar.read":{"bar":0,"offset":"0x1c","size":4}})"));
  EXPECT_GT(steps.size(), 10u);
  EXPECT_THAT(json["description"].get<std::string>(), HasSubstr("hold"));
  // Create I/O Completion Queue, where the controller fetched it.
  EXPECT_THAT(steps.dump(), HasSubstr(R"({"memory.write":{"data":"05)"));
}

TEST_F(CliTest, AScenarioGoesOnBehindAReconnection) {
  const Session session{
      .events = {{.kind = Kind::kReconnect},
                 {.kind = Kind::kUnmap, .value = ~uint64_t{0}},
                 {.kind = Kind::kMap, .size = 3, .at = 0x10'0000, .value = 0x1'0000}}};
  ASSERT_TRUE(WriteFile(Path("in"), Encode(session)));
  const Ran ran = Call({"scenario", "nvme", Path("in"), Path("out.json")});
  ASSERT_FALSE(ran.failed) << ran.output;
  EXPECT_THAT(ran.output, Not(HasSubstr("ORACLE")));
  const auto json = nlohmann::json::parse(std::ifstream(Path("out.json")));
  EXPECT_EQ(json["steps"].dump(),
            R"([{"disconnect":{}},{"connect":{}},{"dma.unmap_all":{}},)"
            R"({"dma.map":{"access":"rw","iova":"0x100000","size":"0x10000"}}])");
}

// What no verb says goes over the socket of a device process as it went in the target.
TEST_F(CliTest, AServersSessionIsAScenarioOfItsBytes) {
  const std::vector<std::byte> nonsense(16, std::byte{0xff});
  const Session session{.flags = kReady,
                        .events = {{.kind = Kind::kRead, .what = 0, .size = 4, .at = 0x14},
                                   {.kind = Kind::kFrame, .data = nonsense},
                                   {.kind = Kind::kReconnect},
                                   {.kind = Kind::kRead, .what = 1, .size = 4, .at = 8}}};
  ASSERT_TRUE(WriteFile(Path("in"), Encode(session)));
  const auto run = [&](const nlohmann::json& document) {
    std::ofstream(Path("again.json")) << document;
    return campaign::RunProgram(FARSIDE_PROGRAM, {"run", Path("again.json")}, kTimeout).value();
  };
  for (const std::string target : {"server", "mpqemu_server"}) {
    const Ran made = Call({"scenario", target, Path("in"), Path("out.json")});
    ASSERT_FALSE(made.failed) << made.output;
    EXPECT_THAT(made.output, HasSubstr(", of the messages' bytes"));
    auto json = nlohmann::json::parse(std::ifstream(Path("out.json")));
    const std::string steps = json["steps"].dump();
    EXPECT_THAT(steps, HasSubstr(R"({"frame.send":{"bytes":"ffffffffffffffffffffffffffffffff"}})"));
    EXPECT_THAT(steps, HasSubstr(R"({"channel.expect_closed":{}})"));
    const Ran passed = run(json);
    EXPECT_FALSE(passed.failed) << target << passed.output;
    for (auto& step : json["steps"]) {
      if (step.contains("frame.expect")) step["frame.expect"]["size"] = 1000;
    }
    EXPECT_TRUE(run(json).failed);
  }
}

// What Linux and the firmware did to the controller does the same to one that is fuzzed.
TEST_F(CliTest, ATraceOfAGuestIsAnInput) {
  const Ran made = Call({"import", "nvme", FARSIDE_LINUX_TRACE, Path("in")});
  ASSERT_FALSE(made.failed) << made.output;
  EXPECT_THAT(made.output, HasSubstr("a session holds no more"));
  const Session session = ReadSession("in");
  EXPECT_GT(session.events.size(), 400u);
  EXPECT_GT(std::ranges::count(session.events, Kind::kAnswer, &Event::kind), 50);
  const Ran run = Call({"run", "nvme", Path("in")});
  ASSERT_FALSE(run.failed) << run.output;
  EXPECT_THAT(run.output,
              HasSubstr("with DMA 100 %, with interrupts 100 %, with disk commands 100"));
}

TEST_F(CliTest, SpeedIsOfManySessions) {
  const Ran ran = Call({"speed", "nvme"});
  ASSERT_FALSE(ran.failed) << ran.output;
  const auto json = nlohmann::json::parse(ran.output);
  EXPECT_GT(json["rate"], 10);
  EXPECT_GT(json["load_of_memcpy"], 0.1);
}

TEST_F(CliTest, ATestInCppKeepsTheInput) {
  Store store;
  const auto input = Encode(MakeUp(FindTarget("nvme")->grammar(), 3, 20, store));
  ASSERT_TRUE(WriteFile(Path("oracle-reset-01"), input));
  ASSERT_FALSE(Call({"cpp", "nvme", Path("oracle-reset-01"), Path("made_test.cc")}).failed);
  const auto text = ReadFile(Path("made_test.cc")).value();
  EXPECT_THAT(std::string(reinterpret_cast<const char*>(text.data()), text.size()),
              HasSubstr("TEST(Fuzzed, OracleReset01) {"));
  ASSERT_FALSE(Call({"pack", Path("made_test.cc"), Path("out")}).failed);
  EXPECT_EQ(ReadFile(Path("out")).value(), input);
}

TEST_F(CliTest, ConnectPlaysAgainstADeviceProcess) {
  const std::string socket = Path("s");
  auto server = scenario::Child::Start(
      "disk-proc",
      {.program = FARSIDE_DISK_PROC,
       .args = {"-blockdev", "driver=memory,node-name=d0,size=64K", "-device",
                "nvme,drive=d0,serial=fuzz,max_ioqpairs=4,msix_qsize=5", "-socket-path", socket},
       .directory = Path("")});
  ASSERT_TRUE(server);
  for (int i = 0; i < 500 && !fs::exists(socket); ++i) usleep(10'000);
  const Ran nvme = Call({"connect", socket, "1", "8", "30", Path("last")});
  EXPECT_FALSE(nvme.failed) << nvme.output;
  const Ran generic = Call({"connect", socket, "1", "8", "30", Path("last"), "--generic"});
  EXPECT_FALSE(generic.failed) << generic.output;
  const Ran again = Call({"play", socket, Path("last"), "--generic"});
  EXPECT_THAT(again.output, HasSubstr("nothing was found"));
  EXPECT_TRUE((*server)->running());

  // One that dies is a finding.
  (*server)->Signal(SIGKILL);
  (*server)->Wait(UINT64_MAX);
  EXPECT_EQ(Call({"play", socket, Path("last")}).how, "exited with status 2");
}

TEST_F(CliTest, ConnectPlaysAgainstARemoteThatItStarts) {
  const std::string remote = fmt::format(
      "{} -blockdev driver=memory,node-name=d0,size=64M -device lsi53c895a,id=lsi0 "
      "-device scsi-hd,drive=d0,bus=lsi0.0,scsi-id=0 "
      "-object x-remote-object,id=r,devid=lsi0,fd=%FD%",
      FARSIDE_DISK_PROC);
  const Ran lsi = Call({"connect", "exec:" + remote, "1", "20", "30", Path("last")});
  EXPECT_FALSE(lsi.failed) << lsi.output;
  EXPECT_THAT(lsi.output, Not(HasSubstr("with interrupts 0 %")));
  EXPECT_THAT(lsi.output, Not(HasSubstr("with DMA 0 %")));
  const Ran again = Call({"play", "exec:" + remote, Path("last")});
  EXPECT_THAT(again.output, HasSubstr("nothing was found"));
  const Ran generic = Call({"connect", "exec:" + remote, "1", "20", "30", "--generic"});
  EXPECT_FALSE(generic.failed) << generic.output;

  // One that ends is a finding, and one that is none is not.
  const Ran killed = Call({"connect", "exec:timeout -s KILL 2 " + remote, "1", "100000", "30"});
  EXPECT_TRUE(killed.failed);
  EXPECT_THAT(killed.output, HasSubstr("ORACLE server-gone"));
  for (const char* const line :
       {"exec:true %FD%", "exec:no-such-program %FD%", "exec:true", "exec:"}) {
    EXPECT_EQ(Call({"connect", line, "1", "1", "30"}).how, "exited with status 2") << line;
  }
}

TEST_F(CliTest, ARunKeepsWhatEndedTheServer) {
  const std::string socket = Path("s");
  auto server = scenario::Child::Start(
      "disk-proc", {.program = FARSIDE_DISK_PROC,
                    .args = {"-blockdev", "driver=memory,node-name=d0,size=64K", "-device",
                             "nvme,drive=d0,serial=fuzz", "-socket-path", socket},
                    .directory = Path("")});
  ASSERT_TRUE(server);
  for (int i = 0; i < 500 && !fs::exists(socket); ++i) usleep(10'000);
  std::thread killer([&] {
    for (int i = 0; i < 2000 && !fs::exists(Path("found/current")); ++i) usleep(10'000);
    (*server)->Signal(SIGKILL);
  });
  testing::internal::CaptureStdout();
  const std::string bin_dir = fs::path(FARSIDE_FUZZ_PROGRAM).parent_path();
  const int status =
      campaign::FuzzMain({"run", "--connect", socket, "--seconds", "3", "--findings", Path("found"),
                          "--corpus", Path("corpus"), "--bin-dir", bin_dir});
  killer.join();
  EXPECT_THAT(testing::internal::GetCapturedStdout(), HasSubstr("ORACLE server-gone"));
  EXPECT_EQ(status, campaign::kFound);
  ASSERT_EQ(std::distance(fs::directory_iterator(Path("found")), fs::directory_iterator()), 1);
  EXPECT_THAT(fs::directory_iterator(Path("found"))->path().filename().string(),
              StartsWith("oracle-server-gone-"));
  // And nobody is there for the next one.
  EXPECT_EQ(campaign::FuzzMain({"run", "--connect", socket, "--findings", Path("found"), "--corpus",
                                Path("corpus"), "--bin-dir", bin_dir}),
            campaign::kBadUsage);
}

// Somebody who takes connections and is no vfio-user server: says `answer` to what comes, and hangs
// up.
class Stranger {
 public:
  Stranger(const std::string& path, std::string answer)
      : listener_(*ListenUnix(path)), answer_(std::move(answer)), thread_([this] { Serve(); }) {}
  ~Stranger() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }

 private:
  void Serve() {
    pollfd comes{.fd = listener_.get(), .events = POLLIN, .revents = 0};
    while (poll(&comes, 1, -1) == 1 && (comes.revents & POLLHUP) == 0) {
      const int fd = accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      const UniqueFd client(fd);
      char buffer[512];
      (void)!read(fd, buffer, sizeof buffer);
      (void)!send(fd, answer_.data(), answer_.size(), MSG_NOSIGNAL);
    }
  }

  const UniqueFd listener_;
  const std::string answer_;
  std::thread thread_;
};

TEST_F(CliTest, WhatIsNoServerIsTheCallersMistakeAndNoFinding) {
  for (const char* const answer : {"", "HTTP/1.1 400 Bad Request\r\n\r\n"}) {
    const std::string socket = Path(fmt::format("s{}", std::string_view(answer).size()));
    const Stranger stranger(socket, answer);
    for (const auto& args : {std::vector<std::string>{"connect", socket, "1", "1", "1"},
                             {"connect", socket, "1", "1", "1", "--generic"},
                             {"tmin", "--connect", socket, "/dev/null", Path("out")}}) {
      const Ran ran = Call(args);
      EXPECT_EQ(ran.how, "exited with status 2") << ran.output;
      EXPECT_THAT(ran.output, HasSubstr("does not begin as a vfio-user server: ")) << args[0];
      EXPECT_THAT(ran.output, Not(HasSubstr("within 5000 ms"))) << args[0];
    }
  }
}

}  // namespace
}  // namespace farside::fuzz
