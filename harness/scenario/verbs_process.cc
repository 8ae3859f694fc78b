// Verbs: processes, and what can be seen of them from outside.
#include <poll.h>
#include <signal.h>

#include "harness/scenario/args.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
constexpr uint64_t kPollNs = 5 * kNsPerMs;

constexpr Param kProcess = {"process", Type::kText, "its id; default: the scenario's first"};

constexpr std::string_view kSignalWords[] = {"KILL", "TERM", "INT", "STOP", "CONT"};
constexpr int kSignals[] = {SIGKILL, SIGTERM, SIGINT, SIGSTOP, SIGCONT};

constexpr Param kOnlyProcess[] = {kProcess};
constexpr Param kKill[] = {kProcess,
                           {.name = "signal",
                            .type = Type::kWord,
                            .help = "which",
                            .fallback = "KILL",
                            .words = kSignalWords}};
constexpr Param kWait[] = {
    kProcess,
    {"status", Type::kNumber, "what it must exit with; default: anything", false, {}, 255}};
constexpr Param kGrowth[] = {
    kProcess,
    {"fds", Type::kNumber, "file descriptors it may have more", false, "0"},
    {"bytes", Type::kNumber, "private memory it may have more, in bytes; default: any"}};
constexpr Param kLog[] = {
    {"pattern", Type::kPattern,
     "a regular expression (POSIX's extended kind), found in some part of a line", true},
    kProcess};

constexpr Output kWaitOutputs[] = {
    {"status", "what it exited with, or the signal that killed it"},
    {"signalled", "1: it was killed by a signal"},
};
constexpr Output kGrowthOutputs[] = {
    {"fds", "file descriptors it has"},
    {"bytes", "its private memory, in bytes"},
};
constexpr Output kLogOutputs[] = {{"line", "the line", true}};

Result<Outputs> Start(Session& session, const Args& args) {
  const auto slot = session.FindProcess(args, false);
  if (!slot) return tl::unexpected(slot.error());
  if (const auto started = session.StartProcess(**slot); !started) {
    return tl::unexpected(started.error());
  }
  return Outputs{};
}

Result<Outputs> Kill(Session& session, const Args& args) {
  const auto slot = session.FindProcess(args);
  if (!slot) return tl::unexpected(slot.error());
  const int number = kSignals[args.Number("signal")];
  if (number != SIGSTOP && number != SIGCONT) (*slot)->may_end = true;
  (*slot)->child->Signal(number);
  return Outputs{};
}

Result<Outputs> Wait(Session& session, const Args& args) {
  const auto slot = session.FindProcess(args);
  if (!slot) return tl::unexpected(slot.error());
  const auto status = (*slot)->child->Wait(session.time_left_ns());
  if (!status) return Fail("process {} still runs", (*slot)->spec.id);
  (*slot)->may_end = true;
  if (args.Has("status") &&
      (status->signalled || static_cast<uint64_t>(status->code) != args.Number("status"))) {
    return Fail("process {} {}, expected status {}", (*slot)->spec.id, status->Text(),
                args.Number("status"));
  }
  return Outputs{{"status", static_cast<uint64_t>(status->code)},
                 {"signalled", uint64_t{status->signalled}}};
}

Result<Outputs> ExpectAlive(Session& session, const Args& args) {
  const auto slot = session.FindProcess(args);
  if (!slot) return tl::unexpected(slot.error());
  if (const auto status = (*slot)->child->Wait(0)) {
    return Fail("process {} {}", (*slot)->spec.id, status->Text());
  }
  return Outputs{};
}

Result<Outputs> Baseline(Session& session, const Args& args) {
  const auto slot = session.FindProcess(args);
  if (!slot) return tl::unexpected(slot.error());
  const auto fds = (*slot)->child->CountFds();
  if (!fds) return tl::unexpected(fds.error());
  const auto bytes = (*slot)->child->PrivateBytes();
  if (!bytes) return tl::unexpected(bytes.error());
  (*slot)->baseline_fds = *fds;
  (*slot)->baseline_bytes = *bytes;
  return Outputs{{"fds", *fds}, {"bytes", *bytes}};
}

// What the process lets go of after its peer has, it lets go of in its own time.
Result<Outputs> CheckGrowth(Session& session, const Args& args) {
  const auto found = session.FindProcess(args);
  if (!found) return tl::unexpected(found.error());
  const ProcessSlot& slot = **found;
  if (slot.baseline_fds == 0) {
    return Fail("process {} has no baseline: use process.baseline first", slot.spec.id);
  }
  const uint64_t max_fds = slot.baseline_fds + args.Number("fds");
  const uint64_t max_bytes =
      args.Has("bytes") ? slot.baseline_bytes + args.Number("bytes") : UINT64_MAX;
  for (;;) {
    const auto fds = slot.child->CountFds();
    if (!fds) return tl::unexpected(fds.error());
    const auto bytes = slot.child->PrivateBytes();
    if (!bytes) return tl::unexpected(bytes.error());
    if (*fds <= max_fds && *bytes <= max_bytes) return Outputs{{"fds", *fds}, {"bytes", *bytes}};
    if (session.time_left_ns() == 0) {
      return Fail(
          "process {} has {} file descriptors and {} KiB of private memory; it had {} and "
          "{} KiB, expected {} and {} KiB at most",
          slot.spec.id, *fds, *bytes / 1024, slot.baseline_fds, slot.baseline_bytes / 1024, max_fds,
          max_bytes / 1024);
    }
    if (slot.child->Wait(kPollNs)) return Fail("process {} has ended", slot.spec.id);
  }
}

Result<Outputs> ExpectLog(Session& session, const Args& args) {
  const auto slot = session.FindProcess(args);
  if (!slot) return tl::unexpected(slot.error());
  const auto line = (*slot)->child->WaitForLine(args.Text("pattern"), session.time_left_ns());
  if (!line) return tl::unexpected(line.error());
  return Outputs{{"line", *line}};
}

constexpr Verb kVerbs[] = {
    {"process.start", "Starts a process that does not run.", Kind::kRaw, kOnlyProcess, {}, &Start},
    {"process.kill", "Sends a process a signal.", Kind::kRaw, kKill, {}, &Kill},
    {"process.wait", "Waits for a process to end.", Kind::kRaw, kWait, kWaitOutputs, &Wait},
    {"process.expect_alive",
     "Fails if a process has ended.",
     Kind::kRaw,
     kOnlyProcess,
     {},
     &ExpectAlive},
    {"process.baseline", "Counts what a process holds, for process.check_growth.", Kind::kRaw,
     kOnlyProcess, kGrowthOutputs, &Baseline},
    {"process.check_growth", "Fails if a process holds more than at process.baseline.", Kind::kRaw,
     kGrowth, kGrowthOutputs, &CheckGrowth},
    {"log.expect", "Waits for a line in what a process prints, printed or to come.", Kind::kRaw,
     kLog, kLogOutputs, &ExpectLog},
};

}  // namespace

std::span<const Verb> ProcessVerbs() { return kVerbs; }

}  // namespace farside::scenario
