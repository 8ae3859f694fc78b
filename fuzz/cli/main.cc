// farside-fuzz: the fuzz targets without an engine. Runs inputs, says what is in them, and makes
// up sessions of its own. `farside fuzz` (harness/fuzz) is what people call.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/options.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/session/text.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {
namespace {

constexpr int kOk = 0;
constexpr int kBadUsage = 2;

constexpr std::string_view kUsage = R"(farside-fuzz list
farside-fuzz run TARGET FILE|DIRECTORY...     run inputs, and say how many and how fast
farside-fuzz repro TARGET FILE                run one, and print each event before it happens
farside-fuzz show TARGET FILE                 print an input as JSON
farside-fuzz pack FILE OUT                    make an input of such JSON
farside-fuzz random TARGET SEED SESSIONS EVENTS [OUT]
                                              make sessions up and run them; the one that is being
                                              run is in OUT
)";

int BadUsage(std::string_view sentence) {
  fmt::print(stderr, "farside-fuzz: {}\n", sentence);
  return kBadUsage;
}

Result<std::vector<std::byte>> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> text((std::istreambuf_iterator<char>(in)), {});
  if (!in.good() && !in.eof()) return Fail("can't read {}", Quote(path));
  const ConstBytes bytes = std::as_bytes(std::span(text));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

Result<void> WriteFile(const std::string& path, ConstBytes bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.flush();
  if (!out) return Fail("can't write {}", Quote(path));
  return {};
}

// Of this process: what other work the machine has does not count.
double CpuSeconds() {
  timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

void PrintTally(const TargetDef& def, const Target& target, uint64_t runs, double seconds) {
  fmt::print("{}: {} sessions in {:.2f} s of CPU, {:.0f} a second\n", def.name, runs, seconds,
             static_cast<double>(runs) / std::max(seconds, 1e-9));
  if (!def.has_io || target.tally().sessions == 0) return;
  const Tally& tally = target.tally();
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
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::ranges::sort(files);
  const auto target = def.make();
  double seconds = 0;
  for (const std::string& file : files) {
    const auto input = ReadFile(file);
    if (!input) return BadUsage(input.error().message);
    const double begin = CpuSeconds();
    target->Run(*input);
    seconds += CpuSeconds() - begin;
  }
  PrintTally(def, *target, files.size(), seconds);
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
  const auto session = ParseSession(
      std::string_view(reinterpret_cast<const char*>(text->data()), text->size()), store);
  if (!session) return BadUsage(fmt::format("{}: {}", from, session.error().message));
  if (auto wrote = WriteFile(to, Encode(session->session)); !wrote) {
    return BadUsage(wrote.error().message);
  }
  return kOk;
}

// A session of `events` events or a few more, grown piece by piece.
std::vector<std::byte> MakeUp(const Grammar& grammar, uint64_t seed, size_t events) {
  Random random(Mix64(seed));
  Store store;
  Making making{random, store};
  Session session;
  session.flags = static_cast<uint8_t>(random.Next()) & grammar.flags();
  if (!random.OneIn(8)) session.flags |= grammar.ready();
  while (session.events.size() < events) {
    std::vector<Event> piece;
    grammar.AddPiece(making, session.events, &piece);
    session.events.insert(session.events.end(), piece.begin(), piece.end());
  }
  session.events.resize(std::min(events, kMaxEvents));
  return Encode(session);
}

int RunRandom(const TargetDef& def, uint64_t seed, uint64_t sessions, uint64_t events,
              const std::string& out) {
  if (def.grammar == nullptr) {
    return BadUsage(fmt::format("inputs of {} can't be made up: it has no grammar", def.name));
  }
  const auto target = def.make();
  double seconds = 0;
  for (uint64_t i = 0; i < sessions; ++i) {
    const auto input = MakeUp(def.grammar(), Mix64(seed) + i, events);
    if (!out.empty()) {
      if (auto wrote = WriteFile(out, input); !wrote) return BadUsage(wrote.error().message);
    }
    const double begin = CpuSeconds();
    target->Run(input);
    seconds += CpuSeconds() - begin;
  }
  PrintTally(def, *target, sessions, seconds);
  return kOk;
}

int Main(std::span<const std::string> args) {
  const auto is = [&](std::string_view name, size_t count) {
    return args.size() >= count && args[0] == name;
  };
  if (is("list", 1) && args.size() == 1) return List();
  if (is("pack", 3) && args.size() == 3) return Pack(args[1], args[2]);
  if (args.size() < 3) {
    fmt::print(stderr, "{}", kUsage);
    return kBadUsage;
  }
  const TargetDef* def = FindTarget(args[1]);
  if (def == nullptr) {
    return BadUsage(
        fmt::format("there is no target {}; `farside-fuzz list` names them", Quote(args[1])));
  }
  if (args[0] == "run") return Run(*def, args.subspan(2));
  if (args[0] == "repro" && args.size() == 3) return Repro(*def, args[2]);
  if (args[0] == "show" && args.size() == 3) return Show(*def, args[2]);
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

}  // namespace
}  // namespace farside::fuzz

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + std::min(argc, 1), argv + argc);
  return farside::fuzz::Main(args);
}
