#include "process/command_line.h"

#include <gtest/gtest.h>

#include <vector>

namespace farside {
namespace {

Result<CommandLine> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "disk-proc");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

TEST(CommandLineTest, ReadsQemusSpelling) {
  const auto line = Parse({"-blockdev", "driver=raw,node-name=d0,file=f0", "-device",
                           "nvme,id=n0,drive=d0,serial=S", "-object",
                           "x-vfio-user-server,id=v0,type=unix,path=/s,device=n0"});
  ASSERT_TRUE(line) << line.error().message;
  ASSERT_EQ(line->blockdevs.size(), 1u);
  EXPECT_EQ(line->blockdevs[0]["file"], "f0");
  EXPECT_EQ(line->devices.at(0)["driver"], "nvme");
  EXPECT_EQ(line->objects.at(0)["qom-type"], "x-vfio-user-server");
}

TEST(CommandLineTest, ReadsJsonAndRepeatedOptions) {
  const auto line = Parse({"-device", R"({"driver": "nvme", "id": "a"})", "--device",
                           R"({"driver": "nvme", "id": "b"})"});
  ASSERT_TRUE(line) << line.error().message;
  ASSERT_EQ(line->devices.size(), 2u);
  EXPECT_EQ(line->devices[1]["id"], "b");
}

TEST(CommandLineTest, ReadsShortFormsAndThePrimaryChannel) {
  const auto line = Parse({"7", "--socket-path=/run/s", "-device", "nvme"});
  ASSERT_TRUE(line) << line.error().message;
  EXPECT_EQ(line->primary_fd, 7);
  EXPECT_EQ(line->socket_path, "/run/s");
  const auto by_fd = Parse({"--fd", "5"});
  ASSERT_TRUE(by_fd);
  EXPECT_EQ(by_fd->fd, 5);
}

TEST(CommandLineTest, NamesWhatIsWrong) {
  const auto names = [](std::vector<const char*> arguments, const char* what) {
    const auto line = Parse(std::move(arguments));
    ASSERT_FALSE(line) << what;
    EXPECT_NE(line.error().message.find(what), std::string::npos) << line.error().message;
  };
  names({"-devize", "nvme"}, "devize");
  names({"-dev", "nvme"}, "dev");  // No guessing.
  names({"--fd", "five"}, "five");
  names({"1", "2"}, "positional");
  names({"--fd=3", "--socket-path=/s"}, "--socket-path and --fd");
  names({"-device", "{\"driver\": "}, "-device");
  names({"-blockdev"}, "blockdev");
}

TEST(CommandLineTest, KeepsArgumentsOfAnyBytesForATrace) {
  const auto line = Parse({"-blockdev", "driver=file,node-name=f,filename=\xff.img"});
  ASSERT_TRUE(line) << line.error().message;
  EXPECT_EQ(line->blockdevs.at(0)["filename"], "\xff.img");
  const auto arguments = DeviceArguments(*line);
  ASSERT_EQ(arguments.size(), 2u);
  EXPECT_NE(arguments[1].find("\xef\xbf\xbd.img"), std::string::npos) << arguments[1];
}

// Found by the fuzz target command_line: Boost's text for it has no end.
TEST(CommandLineTest, AnArgumentThatLooksLikeBoostsPlaceholderIsNamed) {
  const char* const argv[] = {"disk-proc", "%value%') for opti,"};
  const auto line = ParseCommandLine(2, argv);
  ASSERT_FALSE(line.has_value());
  EXPECT_NE(line.error().message.find("%value%"), std::string::npos) << line.error().message;
}

}  // namespace
}  // namespace farside
