// farside-fuzz: the fuzz targets without an engine. Runs inputs, says what is in them, and makes
// up sessions of its own. `farside fuzz` (harness/fuzz) is what people call.
#include <fmt/format.h>
#include <malloc.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/options.h"
#include "fuzz/cli/cli.h"
#include "fuzz/cli/corpus.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/parsers/parsers.h"
#include "fuzz/session/text.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {
namespace {

constexpr std::string_view kUsage = R"(farside-fuzz list
farside-fuzz run TARGET FILE|DIRECTORY...     run inputs, and say how many and how fast
farside-fuzz repro TARGET FILE                run one, and print each event before it happens
farside-fuzz show TARGET FILE                 print an input as JSON
farside-fuzz pack FILE OUT                    make an input of such JSON, or of a test by cpp
farside-fuzz random TARGET SEED SESSIONS EVENTS [OUT]
                                              make sessions up and run them; the one that is being
                                              run is in OUT
farside-fuzz tmin TARGET FILE OUT [SECONDS]   make an input smaller that ends with the same fault
farside-fuzz census TARGET DIRECTORY...       what a corpus reaches, as JSON
farside-fuzz speed TARGET                     how fast sessions of 32 events are, as JSON
farside-fuzz scenario TARGET FILE OUT         make a scenario of an input, for farside run
farside-fuzz cpp TARGET FILE OUT              make a GoogleTest of an input
farside-fuzz import TARGET TRACE OUT          make an input of a recorded trace
farside-fuzz connect SOCKET SEED SESSIONS EVENTS [OUT] [--generic]
                                              make sessions up and play them against the vfio-user
                                              server that listens there: an NVMe controller, or any
                                              PCI device; the one that is being played is in OUT
farside-fuzz play SOCKET FILE [--generic]     play one of them again
farside-fuzz tmin --connect SOCKET FILE OUT [SECONDS] [--generic]
                                              make one of them smaller
  SOCKET may be 'exec:PROGRAM ... %FD% ...', too: an mpqemu remote, which is started with the number
  of its socket in that place; an LSI53C895A, an NVMe controller, or any PCI device
farside-fuzz dictionary TARGET                print words for an engine's -dict or -x
farside-fuzz seeds TARGET DIRECTORY [SOURCE]  write inputs that a corpus begins with; SOURCE is
                                              Farside's source tree (.)
)";

constexpr uint64_t kMaxSeconds = 604'800;

void PrintTally(const TargetDef& def, const Target& target, uint64_t runs, double seconds) {
  fmt::print("{}: {} sessions in {:.2f} s of CPU, {:.0f} a second\n", def.name, runs, seconds,
             static_cast<double>(runs) / std::max(seconds, 1e-9));
  const Tally& tally = target.tally();
  if (tally.round_trips != 0) {
    const double floor = static_cast<double>(tally.round_trips) * RoundTripSeconds();
    fmt::print(
        "  {} round trips to another process in {:.2f} s, which alone take {:.2f} s: {:.2f}\n",
        tally.round_trips, tally.seconds, floor, floor / tally.seconds);
  }
  if (!def.has_io || tally.sessions == 0) return;
  const auto share = [&](uint64_t some) {
    return 100.0 * static_cast<double>(some) / static_cast<double>(tally.sessions);
  };
  fmt::print("  with DMA {:.0f} %, with interrupts {:.0f} %, with disk commands {:.0f} %\n",
             share(tally.with_dma), share(tally.with_interrupts), share(tally.with_io));
}

int List() {
  for (const TargetDef& def : Targets()) fmt::print("{:12} {}\n", def.name, def.help);
  return kOk;
}

int Run(const TargetDef& def, std::span<const std::string> paths) {
  const auto files = ListFiles(paths);
  if (!files) return BadUsage(files.error().message);
  const auto target = def.make();
  target->set_thorough();  // These are few, and kept because each did something new.
  double seconds = 0;
  for (const std::string& file : *files) {
    const auto input = ReadFile(file);
    if (!input) return BadUsage(input.error().message);
    const double begin = CpuSeconds();
    target->Run(*input);
    seconds += CpuSeconds() - begin;
  }
  PrintTally(def, *target, files->size(), seconds);
  return kOk;
}

void PrintEvent(const Grammar& grammar, size_t index, const Event& event) {
  fmt::print("{:4} {}\n", index, FormatEvent(event, grammar.Describe(event)));
  std::fflush(stdout);
}

int Repro(const TargetDef& def, const std::string& path) {
  const auto input = ReadFile(path);
  if (!input) return BadUsage(input.error().message);
  const auto target = def.make();
  target->set_observer(&PrintEvent);
  target->Run(*input);
  fmt::print("{}: nothing was found\n", path);
  return kOk;
}

int Show(const TargetDef& def, const std::string& path) {
  const auto input = ReadFile(path);
  if (!input) return BadUsage(input.error().message);
  if (def.grammar == nullptr) {
    return BadUsage(fmt::format("inputs of {} are no sessions: they are what they are", def.name));
  }
  Session session;
  Decode(*input, &session);
  fmt::print("{}", FormatSession(def.name, session));
  return kOk;
}

int Pack(const std::string& from, const std::string& to) {
  const auto text = ReadFile(from);
  if (!text) return BadUsage(text.error().message);
  Store store;
  const auto session =
      ParseSession(SessionText({reinterpret_cast<const char*>(text->data()), text->size()}), store);
  if (!session) return BadUsage(fmt::format("{}: {}", from, session.error().message));
  if (auto wrote = WriteFile(to, Encode(session->session)); !wrote) {
    return BadUsage(wrote.error().message);
  }
  return kOk;
}

// The process's CPU time is looked at this often: a session that it finds twice has no end. A timer
// for each would cost a short session a tenth of its time.
constexpr time_t kTickSeconds = 1;
std::atomic<int> session_number = 0;

void OnTick(int) {
  static int seen = -1;
  if (seen != session_number) {
    seen = session_number;
    return;
  }
  constexpr std::string_view kSentence = "farside-fuzz: ORACLE time-out: a session has no end\n";
  (void)!write(STDERR_FILENO, kSentence.data(), kSentence.size());
  abort();
}

void StartTicks() {
  struct sigaction action {};
  action.sa_handler = &OnTick;
  action.sa_flags = SA_RESTART;
  sigaction(SIGPROF, &action, nullptr);
  const timeval tick{.tv_sec = kTickSeconds, .tv_usec = 0};
  const itimerval ticks{.it_interval = tick, .it_value = tick};
  setitimer(ITIMER_PROF, &ticks, nullptr);
}

int RunRandom(const TargetDef& def, uint64_t seed, uint64_t sessions, uint64_t events,
              const std::string& out) {
  if (def.grammar == nullptr) {
    return BadUsage(fmt::format("inputs of {} can't be made up: it has no grammar", def.name));
  }
  const auto target = def.make();
  StartTicks();
  double seconds = 0;
  // Timed together, unless each is to be in the file first.
  const uint64_t batch = out.empty() ? 256 : 1;
  std::vector<std::vector<std::byte>> inputs;
  for (uint64_t i = 0; i < sessions; i += batch) {
    inputs.clear();
    for (uint64_t k = i; k < std::min(i + batch, sessions); ++k) {
      Store store;
      inputs.push_back(Encode(MakeUp(def.grammar(), Mix64(seed) + k, events, store)));
      ++session_number;
    }
    if (!out.empty()) {
      if (auto wrote = WriteFile(out, inputs[0]); !wrote) return BadUsage(wrote.error().message);
    }
    const double begin = CpuSeconds();
    for (const auto& input : inputs) {
      ++session_number;
      target->Run(input);
    }
    seconds += CpuSeconds() - begin;
  }
  PrintTally(def, *target, sessions, seconds);
  return kOk;
}

// SOCKET SEED SESSIONS EVENTS [OUT] [--generic].
int Connect(std::span<const std::string> args) {
  ConnectOptions options{.socket = args[0]};
  const auto seed = ParseSize(args[1]);
  const auto sessions = ParseSize(args[2]);
  const auto events = ParseSize(args[3]);
  if (!seed || !sessions || !events) return BadUsage("SEED, SESSIONS and EVENTS are numbers");
  options.seed = *seed;
  options.sessions = *sessions;
  options.events = *events;
  for (const std::string& arg : args.subspan(4)) {
    if (arg == "--generic") {
      options.generic = true;
    } else {
      options.output = arg;
    }
  }
  return PlayAgainst(options);
}

// SOCKET FILE OUT [SECONDS] [--generic].
int ConnectTmin(std::span<const std::string> args) {
  ConnectOptions options{.socket = args[0]};
  options.generic = args.back() == "--generic";
  const size_t count = args.size() - (options.generic ? 1 : 0);
  const auto seconds = ParseSize(count == 4 ? args[3] : "300");
  if (count < 3 || count > 4 || !seconds || *seconds > kMaxSeconds) {
    return BadUsage("tmin --connect takes SOCKET FILE OUT [SECONDS] [--generic]");
  }
  return ShrinkAgainst(options, args[1], args[2], *seconds);
}

int Main(std::span<const std::string> args) {
  AddParserTargets();
  const auto is = [&](std::string_view name, size_t count) {
    return args.size() >= count && args[0] == name;
  };
  if (is("list", 1) && args.size() == 1) return List();
  if (is("pack", 3) && args.size() == 3) return Pack(args[1], args[2]);
  if (is("connect", 5)) return Connect(args.subspan(1));
  if (is("play", 3)) {
    return PlayFile(args[1], args[2], args.size() == 4 && args[3] == "--generic");
  }
  if (is("tmin", 5) && args[1] == "--connect") return ConnectTmin(args.subspan(2));
  if (args.size() < 2 || (args.size() < 3 && args[0] != "dictionary" && args[0] != "speed")) {
    fmt::print(stderr, "{}", kUsage);
    return kBadUsage;
  }
  const TargetDef* def = FindTarget(args[1]);
  if (def == nullptr) {
    return BadUsage(
        fmt::format("there is no target {}; `farside-fuzz list` names them", Quote(args[1])));
  }
  if (args[0] == "dictionary" && args.size() == 2) return PrintDictionary(*def);
  if (args[0] == "speed" && args.size() == 2) return MeasureSpeed(*def);
  if (args[0] == "seeds" && args.size() <= 4) {
    return WriteSeeds(*def, args[2], args.size() == 4 ? args[3] : ".");
  }
  if (args[0] == "run") return Run(*def, args.subspan(2));
  if (args[0] == "census") return Census(*def, args.subspan(2));
  if (args[0] == "scenario" && args.size() == 4) return MakeScenario(*def, args[2], args[3]);
  if (args[0] == "import" && args.size() == 4) return Import(*def, args[2], args[3]);
  if (args[0] == "cpp" && args.size() == 4) return MakeCpp(*def, args[2], args[3]);
  if (args[0] == "repro" && args.size() == 3) return Repro(*def, args[2]);
  if (args[0] == "show" && args.size() == 3) return Show(*def, args[2]);
  if (args[0] == "tmin" && (args.size() == 4 || args.size() == 5)) {
    const auto seconds = ParseSize(args.size() == 5 ? args[4] : "300");
    if (!seconds || *seconds > kMaxSeconds) return BadUsage("SECONDS is a number, at most a week");
    return Shrink(*def, args[2], args[3], *seconds);
  }
  if (args[0] == "random" && (args.size() == 5 || args.size() == 6)) {
    const auto seed = ParseSize(args[2]);
    const auto sessions = ParseSize(args[3]);
    const auto events = ParseSize(args[4]);
    if (!seed || !sessions || !events) return BadUsage("SEED, SESSIONS and EVENTS are numbers");
    return RunRandom(*def, *seed, *sessions, *events, args.size() == 6 ? args[5] : "");
  }
  fmt::print(stderr, "{}", kUsage);
  return kBadUsage;
}

// What one session frees the next one takes: it costs page faults to give it back between them.
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 16 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

}  // namespace
}  // namespace farside::fuzz

int main(int argc, char** argv) {
  farside::fuzz::SetSanitizerOptions(argc, argv);
  farside::fuzz::KeepFreedMemory();
  const std::vector<std::string> args(argv + std::min(argc, 1), argv + argc);
  return farside::fuzz::Main(args);
}
