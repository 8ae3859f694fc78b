// farside fuzz run: fuzzers side by side, started again whenever one has found something.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "base/options.h"
#include "harness/fuzz/command.h"
#include "harness/fuzz/findings.h"
#include "harness/fuzz/programs.h"
#include "harness/fuzz/status.h"
#include "harness/scenario/child.h"

namespace farside::campaign {
namespace {

namespace fs = std::filesystem;
using scenario::Child;
using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kRefresh{500};
// What a fuzzer gets beyond its time, for an input that it is in.
constexpr std::chrono::seconds kGrace{30};
constexpr uint64_t kSessions = 1 << 30;  // Of one farside-fuzz connect: it is ended by a signal.
constexpr uint64_t kSessionEvents = 40;  // Of each.
constexpr uint64_t kSessionEnd = 12'000'000'000;  // A server is given 10 s for a reply.
constexpr size_t kMaxStillborn = 3;               // Fuzzers in a row that did not begin.
// A server that has ended may be started again by whoever started it.
constexpr std::chrono::seconds kComeBack{10};

std::atomic<bool> interrupted = false;
void OnSignal(int) { interrupted = true; }

struct Line {
  std::string target;
  std::string connect;  // A socket; then `target` is only a name.
  bool generic = false;
  std::string corpus;
  std::string findings;
  uint64_t seconds = 60;
  uint64_t jobs = 1;
  uint64_t seed = 1;
  std::string fuzzer;
  std::string tool;
};

// One fuzzer after the other.
struct Worker {
  std::unique_ptr<Child> child;
  size_t stillborn = 0;
  uint64_t runs = 0;  // Of those that have ended.
  Status status;      // Of the one that runs.
};

class Campaign {
 public:
  explicit Campaign(Line line)
      : line_(std::move(line)),
        begin_(SteadyClock::now()),
        end_(begin_ + std::chrono::seconds(line_.seconds)),
        next_seed_(line_.seed),
        terminal_(isatty(STDERR_FILENO) != 0) {}

  Result<void> Run() {
    std::vector<Worker> workers(line_.jobs);
    for (Worker& worker : workers) {
      if (auto started = Start(worker); !started) return started;
    }
    bool running = true;
    while (running && !interrupted) {
      std::this_thread::sleep_for(kRefresh);
      running = false;
      for (Worker& worker : workers) {
        if (auto looked = LookAt(worker); !looked) return looked;
        running |= worker.child != nullptr;
      }
      Show(workers);
      const auto grace = connects() ? std::chrono::seconds(0) : kGrace;
      if (SteadyClock::now() > end_ + grace) break;
    }
    for (Worker& worker : workers) {
      if (worker.child == nullptr) continue;
      // SIGINT ends either program with its last status.
      worker.child->Signal(SIGINT);
      worker.child->Wait(connects() ? kSessionEnd : 2'000'000'000);
      // What the last session was up to counts, too.
      if (connects() && !worker.child->running()) {
        if (auto looked = LookAt(worker); !looked) return looked;
        continue;
      }
      Note(worker);
      worker.runs += worker.status.runs;
      worker.status.runs = 0;
      worker.child.reset();
    }
    Sum(workers);
    seconds_ = Elapsed();
    if (terminal_) fmt::print(stderr, "\r\033[K");
    return {};
  }

  std::string Summary() const {
    std::string text = fmt::format("{}: {} runs in {:.0f} s, {:.0f} a second", line_.target,
                                   total_.runs, seconds_, Rate());
    if (!connects()) {
      text += fmt::format("; {} edges, {} features, {} inputs", total_.edges, total_.features,
                          total_.corpus);
    }
    text += findings_.empty()
                ? "; nothing was found\n"
                : fmt::format("; {} found, in {}:\n", findings_.size(), line_.findings);
    text += Table(findings_);
    if (!lost_.empty()) {
      text += fmt::format("The run ended early, for the server is gone: {}.\n", lost_);
    }
    return text;
  }

  nlohmann::json Json() const {
    return {{"target", line_.target},       {"seconds", seconds_},       {"seed", line_.seed},
            {"runs", total_.runs},          {"runs_per_second", Rate()}, {"edges", total_.edges},
            {"features", total_.features},  {"corpus", total_.corpus},   {"server_lost", lost_},
            {"findings", ToJson(findings_)}};
  }
  const Findings& findings() const { return findings_; }

 private:
  bool connects() const { return !line_.connect.empty(); }
  double Elapsed() const {
    return std::chrono::duration<double>(SteadyClock::now() - begin_).count();
  }
  double Rate() const { return static_cast<double>(total_.runs) / std::max(seconds_, 1e-3); }

  std::vector<std::string> Arguments(uint64_t seed, uint64_t seconds) const {
    if (connects()) {
      std::vector<std::string> args = {"connect",
                                       line_.connect,
                                       std::to_string(seed),
                                       std::to_string(kSessions),
                                       std::to_string(kSessionEvents),
                                       line_.findings + "/current"};
      if (line_.generic) args.emplace_back("--generic");
      return args;
    }
    return {line_.corpus,
            "-max_len=65536",
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-handle_bus=0",
            "-detect_leaks=1",
            "-print_final_stats=1",
            "-reload=1",
            fmt::format("-seed={}", static_cast<uint32_t>(seed)),
            fmt::format("-max_total_time={}", seconds),
            fmt::format("-artifact_prefix={}/", line_.findings)};
  }

  Result<void> Start(Worker& worker) {
    const auto left = std::chrono::duration_cast<std::chrono::seconds>(end_ - SteadyClock::now());
    if (left.count() <= 0 || interrupted) return {};
    auto child = Child::Start("the fuzzer",
                              {.program = connects() ? line_.tool : line_.fuzzer,
                               .args = Arguments(next_seed_++, static_cast<uint64_t>(left.count())),
                               .directory = "."});
    if (!child) return tl::unexpected(child.error());
    worker.child = *std::move(child);
    worker.status = {};
    return {};
  }

  void Note(Worker& worker) const {
    if (const auto status = LastStatus(worker.child->output())) worker.status = *status;
  }

  Result<void> LookAt(Worker& worker) {
    if (worker.child == nullptr) return {};
    const auto status = worker.child->Wait(0);
    Note(worker);
    if (!status) return {};
    // The end of its output.
    (void)worker.child->WaitForLine("^a line that no program prints$", 2'000'000'000);
    Note(worker);
    const std::string output = worker.child->output();
    worker.child.reset();
    worker.runs += worker.status.runs;
    worker.status.runs = 0;
    const bool failed = status->signalled || status->code != 0;
    if (connects()) {
      if (!status->signalled && status->code == kBadUsage) return NoServer(worker, output);
      last_seen_ = SteadyClock::now();
    }
    if (failed) {
      const auto artifact =
          connects() ? std::optional(line_.findings + "/current") : ArtifactOf(output);
      const bool begun = connects() || HasBegun(output);
      worker.stillborn = begun ? 0 : worker.stillborn + 1;
      if (!artifact || worker.stillborn >= kMaxStillborn) return Complaint(output);
      if (auto kept = Keep(worker, *artifact, output, begun); !kept) return kept;
    }
    return Start(worker);
  }

  // A fuzzer that can't do its work says why in its last lines.
  Result<void> Complaint(const std::string& output) const {
    const size_t from = output.size() > 600 ? output.find('\n', output.size() - 600) : 0;
    return Fail("{} ended before it did anything: {}", connects() ? line_.tool : line_.fuzzer,
                output.substr(from == std::string::npos ? 0 : from));
  }

  // farside-fuzz finds nobody to play against, and says so. At first that is the caller's mistake;
  // later the server has ended, which is news of it and no end of what was found.
  Result<void> NoServer(Worker& worker, std::string_view output) {
    constexpr std::string_view kMark = "farside-fuzz: ";
    const size_t mark = output.rfind(kMark);
    if (mark != std::string_view::npos) output.remove_prefix(mark + kMark.size());
    const std::string sentence(output.substr(0, output.find('\n')));
    if (!last_seen_) return Fail("{}", sentence);
    if (SteadyClock::now() - *last_seen_ < kComeBack) return Start(worker);
    lost_ = sentence;
    if (findings_.empty()) return Fail("the server is gone, and no session was kept: {}", lost_);
    return {};
  }

  // Names the input, unless there is one of the same fault.
  Result<void> Keep(Worker& worker, const std::string& artifact, const std::string& output,
                    bool begun) {
    Finding finding{.file = artifact, .events = CountEvents(output), .count = 1, .repro = output};
    if (!connects()) {
      auto examined = Examine(line_.tool, line_.target, artifact);
      if (!examined) return tl::unexpected(examined.error());
      finding = *std::move(examined);
    }
    if (connects()) {
      finding.fault = ParseReport(output).value_or(Fault{.kind = "unknown end"});
    } else if (finding.fault.kind.empty()) {
      // Alone it does nothing: what came before counts, or it took its time once.
      finding.fault = ParseReport(output).value_or(Fault{.kind = "unknown end"});
      finding.fault.last_event.clear();
    }
    // A part of the corpus that ends the fuzzer would end the next one, too.
    if (!begun && TakeOutOfCorpus(artifact)) worker.stillborn = 0;
    const std::string name = fmt::format("{}/{}.bin", line_.findings, finding.fault.Identity());
    finding.file = name;
    std::error_code error;
    const bool is_new = AddFinding(std::move(finding), &findings_);
    if (is_new && !fs::exists(name, error)) {
      fs::rename(artifact, name, error);
      if (error) return Fail("cannot write {}: {}", name, error.message());
    } else {
      fs::remove(artifact, error);
    }
    if (is_new) {
      fmt::print(stderr, "{}found {}\n", terminal_ ? "\r\033[K" : "", name);
    }
    return {};
  }

  // False if it is not there. As long as it is, the corpus gets smaller: however many of its inputs
  // end the fuzzer, one of the next ones begins.
  bool TakeOutOfCorpus(const std::string& artifact) const {
    const auto content = [](const fs::path& path) {
      std::ifstream in(path, std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(in), {});
    };
    const std::string bytes = content(artifact);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(line_.corpus, error)) {
      if (!entry.is_regular_file(error) || entry.file_size(error) != bytes.size()) continue;
      if (content(entry.path()) == bytes) return fs::remove(entry.path(), error);
    }
    return false;
  }

  void Sum(const std::vector<Worker>& workers) {
    uint64_t runs = 0;
    for (const Worker& worker : workers) {
      runs += worker.runs + (worker.child == nullptr ? 0 : worker.status.runs);
      total_.edges = std::max(total_.edges, worker.status.edges);
      total_.features = std::max(total_.features, worker.status.features);
      total_.corpus = std::max(total_.corpus, worker.status.corpus);
    }
    total_.runs = runs;
  }

  void Show(const std::vector<Worker>& workers) {
    Sum(workers);
    seconds_ = Elapsed();
    if (!terminal_) return;
    fmt::print(stderr, "\r\033[K{}: {:.0f} of {} s, {} runs, {:.0f}/s, {}{} found", line_.target,
               seconds_, line_.seconds, total_.runs, Rate(),
               connects() ? std::string()
                          : fmt::format("{} edges, {} features, {} inputs, ", total_.edges,
                                        total_.features, total_.corpus),
               findings_.size());
  }

  const Line line_;
  const SteadyClock::time_point begin_;
  const SteadyClock::time_point end_;
  uint64_t next_seed_;
  const bool terminal_;
  // When a server was there last: at the end of a farside-fuzz that had played.
  std::optional<SteadyClock::time_point> last_seen_;
  std::string lost_;  // Why there is no server any more.
  Status total_;
  double seconds_ = 0;
  Findings findings_;
};

Result<Line> LineOf(const Given& given) {
  Line line;
  line.connect = given.text("connect");
  line.generic = given.has("generic");
  if (given.rest().empty() == line.connect.empty()) {
    return Fail("name a target, or a server with --connect SOCKET or --connect 'exec:PROGRAM ...'");
  }
  if (line.generic && line.connect.empty()) return Fail("--generic goes with --connect");
  line.target = line.connect.empty() ? given.rest(0) : "connect";
  const auto seconds = given.number("seconds", 60, 1, 31'536'000);
  const auto jobs = given.number("jobs", 1, 1, 256);
  const auto seed = given.number("seed", 1, 1, UINT32_MAX);
  for (const auto* number : {&seconds, &jobs, &seed}) {
    if (!*number) return tl::unexpected(number->error());
  }
  line.seconds = *seconds;
  line.jobs = *jobs;
  line.seed = *seed;
  if (!line.connect.empty() && line.jobs != 1) {
    return Fail("--jobs is 1 with --connect: a server has one client");
  }
  if (line.connect.empty()) {
    auto fuzzer = FindFuzzer(line.target, given.text("bin-dir"));
    if (!fuzzer) return tl::unexpected(fuzzer.error());
    line.fuzzer = *std::move(fuzzer);
  }
  auto tool = FindTool(given.text("bin-dir"), line.fuzzer);
  if (!tool) return tl::unexpected(tool.error());
  line.tool = *std::move(tool);
  line.corpus = given.text("corpus", fmt::format("fuzz-out/{}/corpus", line.target));
  line.findings = given.text("findings", fmt::format("fuzz-out/{}/findings", line.target));
  for (const std::string& folder : {line.corpus, line.findings}) {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) return Fail("cannot make directory {}: {}", Quote(folder), error.message());
  }
  return line;
}

Result<int> Run(const Given& given) {
  auto line = LineOf(given);
  if (!line) return tl::unexpected(line.error());
  SetSanitizerOptions();
  struct sigaction action {};
  action.sa_handler = &OnSignal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  const std::string target = line->target;
  Campaign campaign(*std::move(line));
  if (auto ran = campaign.Run(); !ran) return tl::unexpected(ran.error());
  fmt::print("{}", campaign.Summary());
  if (const std::string file = given.text("json"); !file.empty()) {
    if (auto wrote = WriteText(file, campaign.Json().dump(1) + "\n"); !wrote) {
      return tl::unexpected(wrote.error());
    }
  }
  if (const std::string file = given.text("junit"); !file.empty()) {
    if (auto wrote = WriteText(file, Junit(target, campaign.findings())); !wrote) {
      return tl::unexpected(wrote.error());
    }
  }
  return campaign.findings().empty() ? 0 : kFound;
}

constexpr Option kOptions[] = {
    {"corpus", "DIR", "inputs to begin with, and new ones; default fuzz-out/TARGET/corpus"},
    {"findings", "DIR", "what ends a target; default fuzz-out/TARGET/findings"},
    {"seconds", "N", "how long; default 60"},
    {"jobs", "N", "fuzzers side by side; default 1"},
    {"seed", "N", "of the first one, counted up; default 1"},
    {"connect", "SOCKET",
     "play sessions against the vfio-user server that listens there; 'exec:PROGRAM ... %FD% ...': "
     "against the mpqemu remote that this starts"},
    {"generic", "", "with --connect: any PCI device, not one whose registers are known"},
    {"bin-dir", "DIR", "look for the programs here first"},
    {"json", "FILE", "write the summary as JSON, too"},
    {"junit", "FILE", "and as JUnit's XML"},
};

}  // namespace

extern const Subcommand kRunCommand{
    "run", "[TARGET]", "fuzzes a target, goes on after a finding, names each once", kOptions, &Run};

}  // namespace farside::campaign
