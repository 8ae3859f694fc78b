// farside-fuzz tmin: each try is a process of its own, forked from this one, which compares what it
// said. Faults are told apart as everywhere (harness/fuzz/fault.h), by offsets in the program:
// names would cost a symbolizer's start each time.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/fd.h"
#include "base/options.h"
#include "fuzz/cli/cli.h"
#include "harness/fuzz/fault.h"

namespace farside::fuzz {
namespace {

using campaign::Fault;
using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kTimeout{20};  // Of a try.
constexpr size_t kMaxReport = 256 << 10;

// Where a child says which event it is at.
struct Place {
  size_t index = 0;
  Kind kind = Kind::kCount;
};
Place* place = nullptr;

void NotePlace(const Grammar&, size_t index, const Event& event) {
  *place = {.index = index, .kind = event.kind};
}

struct Outcome {
  std::optional<Fault> fault;
  size_t last = 0;      // The event at which it was found.
  std::string trouble;  // Why it could not be tried: what the child said.
};

[[noreturn]] void RunChild(const TargetDef& def, ConstBytes input, int output) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(null, STDOUT_FILENO);
  dup2(output, STDERR_FILENO);
  // Made here: what a target holds, as an epoll, is not to be shared by tries.
  const auto target = def.make();
  target->set_observer(&NotePlace);
  target->Run(input);
  _exit(0);
}

// Until the child's end closes the pipe. False if that takes too long.
bool ReadReport(int fd, std::string* report) {
  const auto deadline = SteadyClock::now() + kTimeout;
  std::array<char, 16 << 10> buffer;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - SteadyClock::now());
    pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
    const int found = left.count() <= 0 ? 0 : poll(&ready, 1, static_cast<int>(left.count()));
    if (found < 0) continue;
    if (found == 0) return false;
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got <= 0) return true;
    if (report->size() < kMaxReport) report->append(buffer.data(), static_cast<size_t>(got));
  }
}

Outcome RunOnce(const TargetDef& def, ConstBytes input) {
  int fds[2];
  CHECK(pipe2(fds, O_CLOEXEC) == 0);
  UniqueFd in(fds[0]);
  UniqueFd out(fds[1]);
  *place = {};
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) RunChild(def, input, out.get());
  out.reset();
  std::string report;
  const bool ended = ReadReport(in.get(), &report);
  if (!ended) kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  Outcome outcome;
  outcome.last = place->index;
  if (ended && WIFEXITED(status) && WEXITSTATUS(status) == kBadUsage) {
    outcome.trouble = report;
  } else if (!ended) {
    outcome.fault = Fault{.kind = "timeout"};
  } else if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    outcome.fault = campaign::ParseReport(report);
    if (!outcome.fault) {
      outcome.fault =
          Fault{.kind = WIFSIGNALED(status) ? fmt::format("signal {}", WTERMSIG(status))
                                            : fmt::format("status {}", WEXITSTATUS(status))};
    }
  }
  if (outcome.fault && place->kind != Kind::kCount) {
    outcome.fault->last_event = Definition(place->kind).name;
  }
  return outcome;
}

class Shrinker {
 public:
  Shrinker(const TargetDef& def, Fault fault, uint64_t seconds)
      : def_(def),
        fault_(std::move(fault)),
        deadline_(SteadyClock::now() + std::chrono::seconds(seconds)) {}

  bool Fails(ConstBytes input) {
    if (over()) return false;
    ++tries_;
    const Outcome outcome = RunOnce(def_, input);
    trouble_ = outcome.trouble;
    return outcome.fault == fault_;
  }
  bool over() const { return !trouble_.empty() || SteadyClock::now() >= deadline_; }
  // Nothing more can be tried.
  const std::string& trouble() const { return trouble_; }
  size_t tries() const { return tries_; }

  void Shrink(Session& session) {
    for (bool smaller = true; smaller && !over();) {
      smaller = DropRanges(session);
      smaller |= DropAnswers(session);
      smaller |= ShortenData(session);
      smaller |= ZeroFields(session);
    }
  }

  // Of inputs that are no sessions.
  void Shrink(std::vector<std::byte>& input) {
    DropRanges<std::byte>(&input, [&] { return Fails(input); });
  }

 private:
  // Halves first, then smaller and smaller pieces (ddmin), from behind.
  template <typename T>
  bool DropRanges(std::vector<T>* items, const std::function<bool()>& fails) {
    bool smaller = false;
    for (size_t piece = std::max<size_t>(items->size() / 2, 1);; piece /= 2) {
      for (size_t end = items->size(); end != 0 && !over();) {
        const size_t begin = end - std::min(end, piece);
        std::vector<T> kept = *items;
        items->erase(items->begin() + static_cast<ptrdiff_t>(begin),
                     items->begin() + static_cast<ptrdiff_t>(end));
        if (fails()) {
          smaller = true;
        } else {
          *items = std::move(kept);
        }
        end = begin;
      }
      if (piece <= 1) return smaller;
    }
  }

  bool DropRanges(Session& session) {
    return DropRanges<Event>(&session.events, [&] { return Fails(Encode(session)); });
  }

  // Sets a field if the fault stays.
  template <typename T>
  bool Set(Session& session, T* field, T value) {
    const T old = std::exchange(*field, value);
    if (Fails(Encode(session))) return true;
    *field = old;
    return false;
  }

  // Memory's own content is the simplest answer.
  bool DropAnswers(Session& session) {
    bool smaller = false;
    for (Event& event : session.events) {
      if (event.kind != Kind::kAnswer || event.data.empty()) continue;
      smaller |= Set(session, &event.data, ConstBytes());
    }
    return smaller;
  }

  bool ShortenData(Session& session) {
    bool smaller = false;
    for (Event& event : session.events) {
      // To the shortest, by steps that halve.
      for (size_t step = event.data.size(); step != 0; step /= 2) {
        while (event.data.size() >= step &&
               Set(session, &event.data, event.data.first(event.data.size() - step))) {
          smaller = true;
        }
      }
    }
    return smaller;
  }

  bool ZeroData(Session& session, Event& event) {
    bool smaller = false;
    const size_t least = event.data.size() <= 64 ? 1 : event.data.size() / 32;
    for (size_t piece = event.data.size(); piece >= std::max<size_t>(least, 1); piece /= 2) {
      for (size_t at = 0; at < event.data.size(); at += piece) {
        const size_t size = std::min(piece, event.data.size() - at);
        const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
        if (std::ranges::all_of(event.data.subspan(at, size), zero)) continue;
        const Bytes copy = store_.Add(event.data.size());
        Copy(copy, event.data);
        Fill(copy.subspan(at, size), 0);
        smaller |= Set(session, &event.data, ConstBytes(copy));
      }
    }
    return smaller;
  }

  bool ZeroFields(Session& session) {
    bool smaller = false;
    for (uint32_t bit = 1; bit < 0x100; bit <<= 1) {
      if ((session.flags & bit) == 0) continue;
      smaller |= Set(session, &session.flags, static_cast<uint8_t>(session.flags & ~bit));
    }
    for (Event& event : session.events) {
      for (uint64_t* const field : {&event.at, &event.value}) {
        if (*field != 0) smaller |= Set(session, field, uint64_t{0});
      }
      for (uint8_t* const field : {&event.what, &event.size}) {
        if (*field != 0) smaller |= Set(session, field, uint8_t{0});
      }
      smaller |= ZeroData(session, event);
    }
    return smaller;
  }

  const TargetDef& def_;
  const Fault fault_;
  const SteadyClock::time_point deadline_;
  size_t tries_ = 0;
  std::string trouble_;
  Store store_;
};

int Stop(const std::string& trouble) {
  fmt::print(stderr, "{}", trouble);
  return kBadUsage;
}

}  // namespace

int Shrink(const TargetDef& def, const std::string& input, const std::string& output,
           uint64_t seconds) {
  auto bytes = ReadFile(input);
  if (!bytes) return BadUsage(bytes.error().message);
  void* const shared =
      mmap(nullptr, sizeof(Place), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED);
  place = new (shared) Place;
  const Outcome first = RunOnce(def, *bytes);
  if (!first.trouble.empty()) return Stop(first.trouble);
  if (!first.fault) return BadUsage(fmt::format("{}: nothing was found", input));
  if (RunOnce(def, *bytes).fault != first.fault) {
    return BadUsage(fmt::format("{} does not end with the same fault each time", input));
  }
  Shrinker shrinker(def, *first.fault, seconds);
  const size_t size = bytes->size();
  std::string events;
  if (def.grammar == nullptr) {
    shrinker.Shrink(*bytes);
  } else {
    Session session;
    const std::vector<std::byte> original = *bytes;
    Decode(original, &session);
    const size_t before = session.events.size();
    // What comes behind the fault never happened.
    Session cut = session;
    cut.events.resize(std::min(cut.events.size(), first.last + 1));
    if (shrinker.Fails(Encode(cut))) session = cut;
    shrinker.Shrink(session);
    *bytes = Encode(session);
    events = fmt::format("{} -> {} events, ", before, session.events.size());
  }
  if (auto wrote = WriteFile(output, *bytes); !wrote) return BadUsage(wrote.error().message);
  fmt::print("{}: {}{} -> {} bytes, {} tries{}\n", output, events, size, bytes->size(),
             shrinker.tries(),
             !shrinker.trouble().empty() ? "; it could go no further"
             : shrinker.over()           ? "; the time was over"
                                         : "");
  fmt::print("{}, last event {}\n", first.fault->kind,
             first.fault->last_event.empty() ? "unknown" : first.fault->last_event);
  return shrinker.trouble().empty() ? kOk : Stop(shrinker.trouble());
}

}  // namespace farside::fuzz
