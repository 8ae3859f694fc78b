#include "vmm-lite/control/options.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace farside::vmm {
namespace {

Result<ControlOptions> Parse(std::vector<std::string> words) {
  std::vector<const char*> argv{"vmm-lite"};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return ParseControlOptions(static_cast<int>(argv.size()), argv.data());
}

TEST(ControlOptionsTest, ReadsAWholeMachine) {
  const auto line =
      Parse({"-kernel",   "bzImage",
             "--initrd",  "i.gz",
             "-append",   "console=ttyS0 -x",
             "-m",        "512M",
             "-smp",      "2",
             "-device",   "pcie-root-port,id=rp0",
             "-device",   "vfio-user-pci,socket=/run/a.sock,bus=rp0,x-no-posted-writes=on",
             "-serial",   "file:out",
             "-qmp",      "unix:/run/q,server=on,wait=off",
             "-control",  "unix:/run/c",
             "-no-reboot"});
  ASSERT_TRUE(line) << line.error().message;
  EXPECT_EQ(line->kernel, "bzImage");
  EXPECT_EQ(line->append, "console=ttyS0 -x");
  EXPECT_EQ(line->memory, uint64_t{512} << 20);
  EXPECT_EQ(line->cpus, 2u);
  EXPECT_EQ(line->qmp_path, "/run/q");
  EXPECT_EQ(line->control_path, "/run/c");
  EXPECT_EQ(line->serial.path, "out");
  EXPECT_FALSE(line->reboot);
  ASSERT_EQ(line->devices.size(), 2u);
  EXPECT_TRUE(line->devices[0].root_port);
  EXPECT_EQ(line->devices[1].id, "dev0");
  EXPECT_EQ(line->devices[1].bus, "rp0");
  EXPECT_EQ(line->devices[1].socket_path, "/run/a.sock");
  EXPECT_FALSE(line->devices[1].posted);
}

TEST(ControlOptionsTest, TakesQemusJsonForm) {
  const auto line = Parse({"-bios", "b", "-device",
                           R"({"driver":"vfio-user-pci","id":"n","x-msg-timeout":100,)"
                           R"("bus":"pcie.0","socket":{"type":"unix","path":"/run/a,b"}})"});
  ASSERT_TRUE(line) << line.error().message;
  EXPECT_EQ(line->devices[0].socket_path, "/run/a,b");
  EXPECT_EQ(line->devices[0].timeout_ms, 100u);
  EXPECT_EQ(line->devices[0].bus, kRootBus);
}

TEST(ControlOptionsTest, DevicesOfProcesses) {
  const auto line =
      Parse({"-bios", "b", "-process", "id=disk,exec=disk-proc,args=-blockdev 'a b' -x c,,d",
             "-device", "pci-proxy-dev,id=n0,process=disk,rid=nvme0,protocol=mpqemu", "-device",
             "vfio-user-pci,id=n1,process=disk", "-device", "pci-proxy-dev,id=n2,socket=9"});
  ASSERT_TRUE(line) << line.error().message;
  EXPECT_EQ(line->processes[0].args, (std::vector<std::string>{"-blockdev", "a b", "-x", "c,d"}));
  EXPECT_EQ(line->devices[0].rid, "nvme0");
  EXPECT_EQ(line->devices[0].expect_id, "nvme0");
  EXPECT_EQ(line->devices[0].protocol, Protocol::kMpqemu);
  EXPECT_EQ(line->devices[1].rid, "n1");
  EXPECT_EQ(line->devices[1].expect_id, "");
  EXPECT_EQ(line->devices[2].socket_fd, 9);
  EXPECT_EQ(line->devices[2].expect_id, "n2");
}

TEST(ControlOptionsTest, MemorySizes) {
  for (const auto& [text, mib] : {std::pair("64", 64u), {"1G", 1024u}, {"0x4000000", 64u}}) {
    const auto line = Parse({"-bios", "b", "-m", text});
    ASSERT_TRUE(line) << line.error().message;
    EXPECT_EQ(line->memory, uint64_t{mib} << 20) << text;
  }
}

TEST(ControlOptionsTest, EachErrorNamesTheOptionAndTheRemedy) {
  struct Case {
    std::vector<std::string> words;
    const char* name;    // What the error is about,
    const char* remedy;  // and what to do.
  };
  const Case cases[] = {
      {{"-frobnicate"}, "frobnicate", "-help"},
      {{"stray"}, "positional", "-help"},
      {{"-kernel"}, "kernel", "-help"},
      {{"-m", "1G"}, "nothing to boot", "-kernel FILE"},
      {{"-bios", "b", "-initrd", "i"}, "-initrd", "-kernel FILE"},
      {{"-bios", "b", "-m", "lots"}, "-m \"lots\"", "512M"},
      {{"-bios", "b", "-m", "1M"}, "-m \"1M\"", "from 16M"},
      {{"-bios", "b", "-m", "99999999999999"}, "-m ", "1024G"},
      {{"-bios", "b", "-m", "17000001b"}, "-m ", "512M"},
      {{"-bios", "b", "-smp", "0"}, "-smp \"0\"", "from 1 to"},
      {{"-bios", "b", "-smp", "two"}, "-smp", "from 1 to"},
      {{"-bios", "b", "-serial", "pty"}, "-serial \"pty\"", "stdio"},
      {{"-bios", "b", "-serial", "file:"}, "-serial", "file:PATH"},
      {{"-bios", "b", "-qmp", "tcp:x"}, "-qmp", "unix:PATH"},
      {{"-bios", "b", "-qmp", "unix:"}, "-qmp", "name a socket"},
      {{"-bios", "b", "-qmp", "unix:q,wait=on"}, "-qmp", "wait=off"},
      {{"-bios", "b", "-control", "unix:q,x"}, "-control", "server=on"},
      {{"-bios", "b", "-device", "e1000"}, "\"e1000\"", "vfio-user-pci"},
      {{"-bios", "b", "-device", "id=x"}, "-device", "driver"},
      {{"-bios", "b", "-device", "{]"}, "-device", "broken JSON"},
      {{"-bios", "b", "-device", "vfio-user-pci,id=x"}, "-device", "\"socket\" or \"process\""},
      {{"-bios", "b", "-device", "vfio-user-pci,socket=a,process=b,rid=c"}, "-device", "either"},
      {{"-bios", "b", "-device", "vfio-user-pci,socket=a,rid=c"}, "rid", "\"process\""},
      {{"-bios", "b", "-device", "vfio-user-pci,process=c"}, "-device", "\"rid\""},
      {{"-bios", "b", "-device", "vfio-user-pci,id=a,process=c"}, "\"c\"", "-process id=c"},
      {{"-bios", "b", "-device", "vfio-user-pci,socket=a,frob=c"}, "frob", ""},
      {{"-bios", "b", "-device", "vfio-user-pci,id=a b,socket=a"}, "\"a b\"", "letter"},
      {{"-bios", "b", "-device", "vfio-user-pci,socket.type=inet,socket.path=a"}, "socket", "unix"},
      {{"-bios", "b", "-device", "vfio-user-pci,socket=a,bus=rp9"}, "\"rp9\"", "pcie-root-port"},
      {{"-bios", "b", "-device", "pci-proxy-dev,socket=9"}, "-device", "id"},
      {{"-bios", "b", "-device", "pci-proxy-dev,id=a,socket=path"}, "socket", ""},
      {{"-bios", "b", "-device", "pci-proxy-dev,id=a,socket=9,protocol=x"}, "protocol", "mpqemu"},
      {{"-bios", "b", "-device", "pcie-root-port,id=a", "-device", "pcie-root-port,id=a"},
       "\"a\"",
       "its own"},
      {{"-bios", "b", "-device", "pci-proxy-dev,id=a,socket=9", "-device",
        "pci-proxy-dev,id=b,socket=9"},
       "socket 9",
       "its own"},
      {{"-bios", "b", "-process", "id=a"}, "-process", "exec"},
      {{"-bios", "b", "-process", "id=a,exec=b,args='x"}, "-process", "quote is not closed"},
      {{"-bios", "b", "-process", "id=a,exec=b", "-process", "id=a,exec=b"}, "\"a\"", "its own"},
      {{"-attach", "c", "-m", "1G"}, "-attach", "leave out -m"},
      {{"-kernel", "k", "-append", "\xff"}, "-append", "leave them out"},
      {{"-kernel", "k", "-append", std::string(2048, 'x')}, "-append", "shorten"},
  };
  for (const Case& c : cases) {
    const auto line = Parse(c.words);
    ASSERT_FALSE(line) << c.words.back();
    EXPECT_NE(line.error().message.find(c.name), std::string::npos) << line.error().message;
    EXPECT_NE(line.error().message.find(c.remedy), std::string::npos) << line.error().message;
  }
}

TEST(ControlOptionsTest, HelpNamesEveryOption) {
  for (const char* const option : {"kernel", "initrd", "append", "bios", "smp", "device", "process",
                                   "serial", "qmp", "control", "attach", "trace", "no-reboot"}) {
    EXPECT_NE(ControlHelp().find(option), std::string::npos) << option;
  }
  EXPECT_TRUE(Parse({"-help"})->help);
  EXPECT_TRUE(Parse({"-version"})->version);
}

}  // namespace
}  // namespace farside::vmm
