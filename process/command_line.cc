#include "process/command_line.h"

#include <boost/program_options.hpp>
#include <sstream>
#include <utility>

#include "base/option_error.h"
#include "base/options.h"
#include "process/options.h"

namespace farside {
namespace {

namespace po = boost::program_options;

using Values = std::vector<std::string>;

constexpr uint64_t kMaxSpinUs = 1'000'000;

po::options_description Described() {
  po::options_description all("Options (one dash or two)");
  auto add = all.add_options();
  add("blockdev", po::value<Values>()->composing()->value_name("DRIVER,node-name=ID[,...]"),
      "make a block node; -blockdev help lists the drivers");
  add("device", po::value<Values>()->composing()->value_name("MODEL,id=ID[,...]"),
      "make a device; -device help lists the models, -device MODEL,help their properties");
  add("object", po::value<Values>()->composing()->value_name("TYPE,id=ID[,...]"),
      "x-vfio-user-server,id=ID,type=unix,path=PATH,device=DEVICE: serve a device on a UNIX socket "
      "(type=fd,str=N: on an inherited one); x-remote-object,id=ID,devid=DEVICE,fd=N: serve it to "
      "QEMU's x-pci-proxy-dev on inherited socket N");
  add("socket-path", po::value<std::string>()->value_name("PATH"),
      "serve the only -device on the UNIX socket PATH");
  add("fd", po::value<int>()->value_name("N"), "serve the only -device on inherited socket N");
  add("trace", po::value<std::string>()->value_name("FILE"),
      "record what crosses the devices' interfaces, for farside replay");
  add("spin-us", po::value<uint64_t>()->value_name("N"),
      "look for messages for N microseconds before sleeping: faster answers for a CPU (0)");
  add("machine,M", po::value<std::string>()->value_name("x-remote"),
      "taken, and nothing else, so that what starts QEMU's remote starts this");
  add("nodefaults", "the same");
  add("nographic", "the same");
  add("display", po::value<std::string>()->value_name("none"), "the same");
  add("version", "print the version");
  add("help,h", "print this text");
  return all;
}

Result<void> ParseAll(const po::variables_map& given, const char* option, const char* implied_key,
                      std::vector<nlohmann::json>* out) {
  if (given.count(option) == 0) return {};
  for (const std::string& text : given[option].as<Values>()) {
    auto value = ParseOptionValue(text, implied_key);
    if (!value) return Fail("-{} {}: {}", option, text, value.error().message);
    out->push_back(std::move(*value));
  }
  return {};
}

// What QEMU's remote is started with besides.
Result<void> CheckQemuOptions(const po::variables_map& given) {
  for (const auto& [option, only] :
       {std::pair("machine", "x-remote"), std::pair("display", "none")}) {
    if (given.count(option) == 0) continue;
    const auto& value = given[option].as<std::string>();
    if (value != only) {
      return Fail("-{} {}: a device process has none; leave it out, or give {}", option,
                  Quote(value), only);
    }
  }
  return {};
}

Result<void> Fill(const po::variables_map& given, CommandLine* line) {
  if (auto ok = CheckQemuOptions(given); !ok) return ok;
  if (auto ok = ParseAll(given, "blockdev", "driver", &line->blockdevs); !ok) return ok;
  if (auto ok = ParseAll(given, "device", "driver", &line->devices); !ok) return ok;
  if (auto ok = ParseAll(given, "object", "qom-type", &line->objects); !ok) return ok;
  if (given.count("socket-path") != 0) line->socket_path = given["socket-path"].as<std::string>();
  if (given.count("fd") != 0) line->fd = given["fd"].as<int>();
  if (given.count("primary-fd") != 0) line->primary_fd = given["primary-fd"].as<int>();
  if (given.count("trace") != 0) line->trace = given["trace"].as<std::string>();
  if (given.count("spin-us") != 0) line->spin_us = given["spin-us"].as<uint64_t>();
  if (line->spin_us > kMaxSpinUs) {
    return Fail("--spin-us is {}: at most {} are possible", line->spin_us, kMaxSpinUs);
  }
  line->help = given.count("help") != 0;
  line->version = given.count("version") != 0;
  if (line->socket_path && line->fd) {
    return Fail("--socket-path and --fd both name the socket of one device: give one of them");
  }
  return {};
}

}  // namespace

Result<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  po::options_description all = Described();
  all.add_options()("primary-fd", po::value<int>());
  po::positional_options_description positional;
  positional.add("primary-fd", 1);
  constexpr int kStyle =
      (po::command_line_style::default_style | po::command_line_style::allow_long_disguise) &
      ~po::command_line_style::allow_guessing;
  po::variables_map given;
  try {
    po::store(
        po::command_line_parser(argc, argv).options(all).positional(positional).style(kStyle).run(),
        given);
  } catch (const po::error& error) {
    return Fail("{}; --help lists what there is",
                OptionErrorText(error, std::span(argv, static_cast<size_t>(argc))));
  }
  CommandLine line;
  if (auto filled = Fill(given, &line); !filled) return tl::unexpected(filled.error());
  return line;
}

std::vector<std::string> DeviceArguments(const CommandLine& line) {
  std::vector<std::string> arguments;
  // File names may be any bytes, JSON is UTF-8: what is none is replaced, not thrown at us.
  const auto add = [&](const char* option, const nlohmann::json& value) {
    arguments.insert(
        arguments.end(),
        {option, value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)});
  };
  for (const auto& options : line.blockdevs) add("-blockdev", options);
  for (const auto& options : line.devices) add("-device", options);
  return arguments;
}

std::string CommandLineHelp(const std::string& name) {
  std::ostringstream text;
  text << "Usage: " << name << " [FD] -blockdev ... -device ... -object ...\n\n"
       << "Emulates devices in a process of their own and serves them over vfio-user or mpqemu.\n"
       << "FD is the primary channel: an inherited socket; when its other end is closed, the\n"
       << "process drains and exits.\n\n"
       << Described() << "\nExample:\n  " << name
       << " -blockdev driver=file,node-name=file0,filename=disk.img \\\n"
          "      -blockdev driver=raw,node-name=drive0,file=file0 \\\n"
          "      -device nvme,id=nvme0,drive=drive0,serial=S1 \\\n"
          "      -object x-vfio-user-server,id=v0,type=unix,path=/run/nvme0.sock,device=nvme0\n\n"
          "Options whose value starts with '{' are JSON: -device '{\"driver\": \"nvme\", ...}'.\n";
  return text.str();
}

}  // namespace farside
