#include "process/device_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "base/clock.h"
#include "devices/registry/registry.h"

namespace farside {
namespace {

// A command line may have any JSON where a text belongs: an error says so, whoever reads it first.

TEST(DeviceProcessTest, AnswersHelpBesideADriverThatIsNoText) {
  CommandLine line;
  line.devices = {{{"driver", 5}}};
  line.blockdevs = {{{"driver", {1}}}};
  EXPECT_FALSE(HelpAnswer(line, {}));
  line.blockdevs = {{{"driver", "help"}}};
  EXPECT_NE(HelpAnswer(line, {}).value_or("").find("raw: "), std::string::npos);
}

TEST(DeviceProcessTest, RefusesADriverThatIsNoTextWhenItIsTraced) {
  const std::string path = "/tmp/farside-process-" + std::to_string(getpid()) + ".trace";
  MonotonicClock clock;
  auto loop = std::move(*EpollLoop::Create(clock));
  for (const nlohmann::json& device :
       {nlohmann::json{{"driver", 5}}, nlohmann::json{{"driver", "nvme"}, {"id", 5}}}) {
    DeviceProcess process(*loop, {});
    CommandLine line;
    line.devices = {device};
    line.trace = path;
    const auto built = process.Build(line);
    ASSERT_FALSE(built);
    EXPECT_NE(built.error().message.find("-device: "), std::string::npos) << built.error().message;
  }
  unlink(path.c_str());
}

// What a supervisor does that sees the socket's path, and needs the process no more: the exit
// status.
int EndBetweenListenAndRun(int signal) {
  const std::string path = "/tmp/farside-process-" + std::to_string(getpid()) + ".sock";
  MonotonicClock clock;
  auto loop = std::move(*EpollLoop::Create(clock));
  DeviceProcess process(*loop, DiskModels());
  CommandLine line;
  line.blockdevs = {{{"driver", "memory"}, {"node-name", "d"}, {"size", "1M"}}};
  line.devices = {{{"driver", "nvme"}, {"drive", "d"}, {"serial", "S"}}};
  line.socket_path = path;
  if (!process.Build(line) || access(path.c_str(), F_OK) != 0) return 2;
  kill(getpid(), signal);
  return process.Run();
}

TEST(DeviceProcessTest, EndsWellAtASignalThatComesBeforeItServes) {
  for (const int signal : {SIGTERM, SIGINT}) {
    EXPECT_EXIT(exit(EndBetweenListenAndRun(signal)), ::testing::ExitedWithCode(0), "");
  }
}

}  // namespace
}  // namespace farside
