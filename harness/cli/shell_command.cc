// farside shell: the verbs of scenarios, one at a time.
#include <poll.h>
#include <unistd.h>

#include <array>
#include <boost/program_options.hpp>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <sstream>

#include "base/option_error.h"
#include "base/options.h"
#include "devices/nvme/registers.h"
#include "harness/cli/command.h"
#include "harness/cli/help.h"
#include "harness/cli/shell_line.h"
#include "harness/cli/signals.h"
#include "harness/scenario/interpreter.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/session.h"

namespace farside::cli {
namespace {

namespace po = boost::program_options;
using nlohmann::json;
using scenario::Scenario;
using scenario::Session;

constexpr uint64_t kMaxMemory = 64ull << 30;
constexpr uint64_t kMemoryBase = 1 << 20;
constexpr uint32_t kNvmeClass = 0x010802;

struct ShellOptions {
  std::string connect;
  std::vector<std::string> commands;
  std::vector<std::string> program;  // Behind "--".
  std::string bin_dir;
  Reach reach = Reach::kFd;
  uint64_t memory = 64 << 20;
  bool help = false;
};

po::options_description Described() {
  po::options_description all("Options");
  auto add = all.add_options();
  add("connect", po::value<std::string>()->value_name("SOCKET"),
      "the UNIX socket of a vfio-user server");
  add("command,c", po::value<std::vector<std::string>>()->composing()->value_name("LINE"),
      "do this and leave; may come several times");
  add("dma", po::value<std::string>()->value_name("fd|message"),
      "how the device reaches the guest's memory; default fd");
  add("memory", po::value<std::string>()->value_name("SIZE"),
      "of the guest, from 1 MiB on; default 64M");
  add("bin-dir", po::value<std::string>()->value_name("DIR"),
      "look for PROGRAM here first; then beside farside, then in PATH");
  add("help,h", "print this text");
  return all;
}

std::string ShellHelp() {
  std::ostringstream text;
  text
      << "Usage: farside shell [OPTIONS] --connect SOCKET\n"
      << "       farside shell [OPTIONS] -- PROGRAM ARGS...\n\n"
      << "Talks to a device. PROGRAM is started with --socket-path=PATH behind ARGS, so that it\n"
      << "serves its only device there. Without -c the lines come from standard input.\n\n"
      << Described()
      << "\nA line is a verb of scenarios with its parameters, by name or in their order:\n"
      << "  bar.read bar=0 offset=0x1c size=4\n"
      << "  bar.read 0 0x1c\n"
      << "  nvme.enable expect.serial=S1\n"
      << "  bar.read 0 0x1c capture=csts\n"
      << "Besides: help, help VERB, captures, quit. `rlwrap farside shell` has a history.\n\n"
      << "Example:\n"
      << "  farside shell -c nvme.enable -- disk-proc -blockdev driver=memory,node-name=d0,size=1G "
         "\\\n      -device nvme,drive=d0,serial=S1\n\n"
      << "Exit status: 0; 1 if a line of -c failed; 2 for bad usage.\n";
  return text.str();
}

Result<ShellOptions> Parse(const Arguments& args) {
  ShellOptions out;
  const auto dashes = std::ranges::find(args, "--");
  const Arguments own(args.begin(), dashes);
  if (dashes != args.end()) out.program.assign(dashes + 1, args.end());
  constexpr int kStyle =
      po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
  const po::options_description all = Described();
  po::variables_map given;
  try {
    const po::positional_options_description none;
    po::store(po::command_line_parser(own).options(all).positional(none).style(kStyle).run(),
              given);
  } catch (const po::error& error) {
    return Fail("{}; `farside shell --help` lists what there is", OptionErrorText(error, args));
  }
  const auto text = [&](const char* name) {
    return given.count(name) != 0 ? given[name].as<std::string>() : std::string();
  };
  out.help = given.count("help") != 0;
  if (out.help) return out;
  out.connect = text("connect");
  out.bin_dir = text("bin-dir");
  if (given.count("command") != 0) out.commands = given["command"].as<std::vector<std::string>>();
  if (out.connect.empty() == out.program.empty()) {
    return Fail("give either --connect SOCKET or -- PROGRAM ARGS, whom to talk to");
  }
  if (const std::string dma = text("dma"); !dma.empty()) {
    if (dma != "fd" && dma != "message") return Fail("--dma={}: it is fd or message", dma);
    out.reach = dma == "fd" ? Reach::kFd : Reach::kMessage;
  }
  if (const std::string memory = text("memory"); !memory.empty()) {
    const auto size = ParseSize(memory);
    if (!size || *size == 0 || *size % GuestMemory::kPageSize != 0 || *size > kMaxMemory) {
      return Fail("--memory={}: it is a multiple of 4K, 64G at most", memory);
    }
    out.memory = *size;
  }
  return out;
}

Scenario MakeScenario(const ShellOptions& options) {
  Scenario out{.file = "shell",
               .name = "shell",
               .description = {},
               .processes = {},
               .devices = {},
               .memory = {{.iova = kMemoryBase, .size = options.memory}},
               .modes = {options.reach},
               .reason = {},
               .timeout_ms = 0,
               .step_timeout_ms = 10'000,
               .steps = json::array()};
  std::string socket = options.connect;
  std::string process;
  if (!options.program.empty()) {
    process = std::filesystem::path(options.program.front()).filename().string();
    socket = "device.sock";
    scenario::ProcessSpec spec{.id = process,
                               .program = options.program.front(),
                               .args = {options.program.begin() + 1, options.program.end()}};
    spec.args.push_back(fmt::format("--socket-path={}", scenario::kSocketPlace));
    spec.in_place = true;
    out.processes.push_back(std::move(spec));
  } else {
    socket = std::filesystem::absolute(socket).string();
  }
  out.devices.push_back({.id = "device", .socket = socket, .process = process});
  return out;
}

class Shell {
 public:
  explicit Shell(Session& session) : session_(session) {}

  // False if the line failed.
  bool Do(const std::string& line) {
    const auto done = Try(line);
    if (!done) fmt::print(stderr, "{}\n", done.error().message);
    return done.has_value();
  }
  bool quits() const { return quits_; }

 private:
  Result<void> Try(const std::string& line) {
    const auto words = SplitLine(line);
    if (!words) return tl::unexpected(words.error());
    if (words->empty()) return {};
    const std::string& first = words->front().text;
    if (first == "quit" || first == "exit") {
      quits_ = true;
      return {};
    }
    if (first == "help") return Help(*words);
    if (first == "captures") {
      for (const auto& [name, value] : session_.captures()) {
        fmt::print("${} = {}\n", name, scenario::ValueText(value));
      }
      return {};
    }
    const auto step = ParseLine(line);
    if (!step) return tl::unexpected(step.error());
    scenario::Captures captures = session_.captures();
    if (const auto ok = scenario::CheckStep("line", *step, 0, &captures); !ok) return ok;
    scenario::Outputs outputs;
    const auto failure = scenario::RunStep(session_, "line", *step, &outputs);
    if (failure) return Fail("{}", failure->message);
    Print(*step, outputs);
    return {};
  }

  Result<void> Help(const std::vector<Word>& words) {
    if (words.size() == 1) {
      fmt::print("{}\n`help VERB` explains one. Besides: captures, quit.\n", VerbList());
      return {};
    }
    const auto* const verb = scenario::FindVerb(words[1].text);
    if (verb == nullptr) return tl::unexpected(scenario::NoSuchVerb(words[1].text));
    fmt::print("{}", VerbHelp(*verb));
    return {};
  }

  // Configuration space says whether BAR 0 holds the registers of an NVMe controller.
  bool IsNvme() {
    if (!is_nvme_) {
      DeviceClient* const client = session_.links().front()->client.get();
      if (client == nullptr) return false;
      const auto id = client->Read<uint32_t>({.region = PciFunction::kConfigRegion, .offset = 8});
      if (!id) return false;
      is_nvme_ = *id >> 8 == kNvmeClass;
    }
    return *is_nvme_;
  }

  // The name of what was read, where it has one.
  std::string RegisterOf(const json& step) {
    const auto read = step.find("bar.read");
    if (read == step.end() || !IsNvme()) return {};
    const json& params = *read;
    const auto bar = scenario::ReadNumber(params.value("bar", json()));
    const auto offset = scenario::ReadNumber(params.value("offset", json()));
    if (!bar || *bar != nvme::kRegisterBar || !offset) return {};
    return nvme::RegisterName(*offset);
  }

  void Print(const json& step, const scenario::Outputs& outputs) {
    const std::string name = RegisterOf(step);
    std::optional<size_t> size;
    for (const auto& [output, value] : outputs) {
      if (output == "data") size = std::get<std::string>(value).size() / 2;
    }
    for (const auto& [output, value] : outputs) {
      if (output == "data") {
        if (*size > 8) PrintBytes(std::get<std::string>(value));
      } else if (output != "value") {
        fmt::print("{} = {}\n", output, scenario::ValueText(value));
      } else if (!size || *size <= 8) {
        fmt::print("{} = {}\n", name.empty() ? output : name, scenario::ValueText(value));
      }
    }
  }

  // Sixteen to a line.
  static void PrintBytes(const std::string& hex) {
    for (size_t at = 0; at < hex.size(); at += 32) {
      std::string line;
      for (size_t i = at; i < std::min(at + 32, hex.size()); i += 2) {
        line += ' ';
        line += hex.substr(i, 2);
      }
      fmt::print("{:06x}:{}\n", at / 2, line);
    }
  }

  Session& session_;
  bool quits_ = false;
  std::optional<bool> is_nvme_;
};

// Lines of standard input, until its end or a signal.
class Lines {
 public:
  explicit Lines(int signal_fd) : signal_fd_(signal_fd) {}

  std::optional<std::string> Next() {
    for (;;) {
      const size_t end = buffer_.find('\n');
      if (end != std::string::npos || (ended_ && !buffer_.empty())) {
        const std::string line = buffer_.substr(0, end);
        buffer_.erase(0, end == std::string::npos ? end : end + 1);
        return line;
      }
      if (ended_) return std::nullopt;
      Read();
    }
  }

 private:
  void Read() {
    std::array<pollfd, 2> fds{pollfd{STDIN_FILENO, POLLIN, 0}, pollfd{signal_fd_, POLLIN, 0}};
    if (poll(fds.data(), fds.size(), -1) < 0) return;
    if (fds[1].revents != 0) {
      ended_ = true;
      buffer_.clear();
      return;
    }
    std::array<char, 4096> bytes;
    const ssize_t got = read(STDIN_FILENO, bytes.data(), bytes.size());
    if (got > 0) {
      buffer_.append(bytes.data(), static_cast<size_t>(got));
    } else if (got == 0 || errno != EINTR) {
      ended_ = true;
    }
  }

  const int signal_fd_;
  std::string buffer_;
  bool ended_ = false;
};

void Interact(Shell& shell, int signal_fd) {
  const bool terminal = isatty(STDIN_FILENO) != 0;
  Lines lines(signal_fd);
  while (!shell.quits()) {
    if (terminal) {
      fmt::print("farside> ");
      std::fflush(stdout);
    }
    const auto line = lines.Next();
    if (!line) break;
    shell.Do(*line);
  }
  if (terminal && !shell.quits()) fmt::print("\n");
}

}  // namespace

int ShellCommand(const Arguments& args) {
  const auto options = Parse(args);
  if (!options) return BadUsage(options.error());
  if (options->help) {
    fmt::print("{}", ShellHelp());
    return kOk;
  }
  Signals signals;
  const Scenario scenario = MakeScenario(*options);
  auto session = Session::Start(scenario, {.reach = options->reach,
                                           .bin_dir = options->bin_dir,
                                           .interruption = &signals.interruption()});
  if (!session) return BadUsage(session.error());
  Shell shell(**session);
  bool ok = true;
  for (const std::string& command : options->commands) {
    if (!shell.quits()) ok = shell.Do(command) && ok;
  }
  if (options->commands.empty()) Interact(shell, signals.fd());
  if (const auto finished = (*session)->Finish();
      !finished && !signals.interruption().triggered()) {
    fmt::print(stderr, "farside: {}\n", finished.error().message);
    ok = false;
  }
  if (signals.interruption().triggered()) return kInterrupted;
  return ok ? kOk : kFailed;
}

}  // namespace farside::cli
