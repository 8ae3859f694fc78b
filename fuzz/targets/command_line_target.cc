// The target "command_line": what a device process is started with. An argument a line; a NUL ends
// one, too. Oracle "command-line": the arguments that a trace keeps are read differently.
#include <fmt/format.h>

#include <string>

#include "block/drivers.h"
#include "devices/registry/registry.h"
#include "fuzz/host/oracle.h"
#include "fuzz/targets/target.h"
#include "process/command_line.h"
#include "process/device_process.h"

namespace farside::fuzz {
namespace {

constexpr size_t kMaxArguments = 256;
constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD.

Result<CommandLine> Parse(const std::vector<std::string>& arguments) {
  std::vector<const char*> argv{"disk-proc"};
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
}

class CommandLineTarget final : public Target {
 public:
  void Run(ConstBytes input) override {
    ++tally_.sessions;
    const std::string text(reinterpret_cast<const char*>(input.data()), input.size());
    std::vector<std::string> arguments;
    for (size_t at = 0; at < text.size() && arguments.size() < kMaxArguments;) {
      const size_t end = std::min(text.size(), text.find_first_of(std::string_view("\n\0", 2), at));
      arguments.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    const auto line = Parse(arguments);
    if (!line) return;
    (void)HelpAnswer(*line, DiskModels());
    const auto kept = DeviceArguments(*line);
    for (const std::string& argument : kept) {
      // Bytes that are no UTF-8 are not kept.
      if (argument.find(kReplacement) != std::string::npos) return;
    }
    const auto again = Parse(kept);
    if (!again) Violation("command-line", "it is refused: {}", again.error().message);
    if (again->blockdevs != line->blockdevs || again->devices != line->devices) {
      Violation("command-line", "it is read as {}", fmt::join(DeviceArguments(*again), " "));
    }
  }
};

Seed Lines(std::string name, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {std::move(name), {bytes.begin(), bytes.end()}};
}

}  // namespace

std::unique_ptr<Target> MakeCommandLineTarget() { return std::make_unique<CommandLineTarget>(); }

std::vector<std::string> CommandLineWords() {
  std::vector<std::string> words{"-blockdev\n",
                                 "-device\n",
                                 "-object\n",
                                 "--socket-path=",
                                 "--fd=",
                                 "--trace=",
                                 "--spin-us=",
                                 "-machine\n",
                                 "x-remote",
                                 "-nodefaults\n",
                                 "-display\n",
                                 "none\n",
                                 "--version\n",
                                 "--help\n",
                                 "-nographic\n",
                                 "x-vfio-user-server,id=",
                                 "x-remote-object,id=",
                                 "type=unix",
                                 "type=fd",
                                 "path=",
                                 "str=",
                                 "devid=",
                                 "fd=",
                                 "socket.type=",
                                 "device=",
                                 "qom-type=",
                                 "driver=",
                                 "help",
                                 "id="};
  const auto add = [&](std::span<const block::OptionHelp> options) {
    for (const block::OptionHelp& option : options)
      words.push_back(fmt::format("{}=", option.name));
  };
  for (const block::Driver& driver : block::Drivers()) {
    words.emplace_back(driver.name);
    add(driver.options);
  }
  add(block::CommonOptions());
  for (const Model* model : DiskModels()) {
    words.emplace_back(model->name);
    for (const PropertyHelp& property : model->properties) {
      words.push_back(fmt::format("{}=", property.name));
    }
  }
  return words;
}

// Those of the manuals, and one of each form of a value.
std::vector<Seed> CommandLineSeeds(const std::string&) {
  return {
      Lines("file",
            "-blockdev\ndriver=file,node-name=file0,filename=disk.img\n-blockdev\n"
            "driver=raw,node-name=drive0,file=file0\n-device\n"
            "nvme,id=nvme0,drive=drive0,serial=S1\n-object\n"
            "x-vfio-user-server,id=v0,type=unix,path=/run/nvme0.sock,device=nvme0"),
      Lines("json",
            "-device\n{\"driver\": \"nvme\", \"drive\": \"d0\", \"serial\": \"x\"}\n-blockdev\n"
            "{\"driver\": \"raw\", \"node-name\": \"d0\", \"cache\": {\"direct\": true}, "
            "\"file\": {\"driver\": \"file\", \"filename\": \"d0.img\"}}\n--socket-path=s"),
      Lines("nested",
            "-blockdev\nraw,node-name=d,file.driver=file,file.filename=a,,b.img,cache.direct=on\n"
            "-device\nlsi53c895a,id=l\n-device\nscsi-hd,drive=d,scsi-id=3\n--fd=3\n--trace=t\n"
            "--spin-us=50"),
      Lines(
          "remote",
          "3\n-machine\nx-remote\n-nodefaults\n-display\nnone\n-device\nlsi53c895a,id=l\n-object\n"
          "x-remote-object,id=r,devid=l,fd=4"),
      Lines("list", "-blockdev\nraw,a.0=x,a.1=y,a.2.b=z"),
      Lines("help", "-device\nnvme,help\n-blockdev\nhelp"),
  };
}

}  // namespace farside::fuzz
