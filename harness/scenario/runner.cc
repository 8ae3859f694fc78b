#include "harness/scenario/runner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "harness/scenario/irq_words.h"
#include "harness/scenario/report.h"

namespace farside::scenario {

using nlohmann::json;

namespace {

constexpr size_t kLastLines = 10;

// A run that has ended. The session keeps memory and counts for the comparison.
struct Run {
  RunResult result;
  std::unique_ptr<Session> session;
};

RunFailure Describe(Failure failure, Session* session) {
  RunFailure out{.failure = std::move(failure), .events = {}, .output = {}};
  if (session == nullptr) return out;
  const auto& recent = session->log().recent();
  out.events.assign(recent.begin(), recent.end());
  for (const ProcessSlot& slot : session->processes()) {
    if (slot.child) out.output.emplace_back(slot.spec.id, slot.child->LastLines(kLastLines));
  }
  return out;
}

Run RunInMode(const Scenario& scenario, Reach reach, bool flat, const RunnerOptions& options) {
  const auto begin = std::chrono::steady_clock::now();
  Run run{.result = {.mode = std::string(ReachName(reach)), .seconds = 0, .failure = {}},
          .session = nullptr};
  auto session = Session::Start(scenario, {.reach = reach,
                                           .bin_dir = options.bin_dir,
                                           .flat = flat,
                                           .interruption = options.interruption});
  std::optional<Failure> failure;
  if (!session) {
    failure = Failure{.path = {}, .note = {}, .step = {}, .message = session.error().message};
  } else {
    run.session = std::move(*session);
    failure = RunSteps(*run.session);
  }
  if (failure) {
    run.result.failure = Describe(std::move(*failure), run.session.get());
  } else if (const auto finished = run.session->Finish(); !finished) {
    run.result.failure = Describe(
        {.path = "at the end", .note = {}, .step = {}, .message = finished.error().message},
        run.session.get());
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  run.result.seconds = took.count();
  return run;
}

// Where the guest's memory differs first; empty if nowhere.
std::string CompareMemory(const GuestMemory& a, const GuestMemory& b) {
  constexpr uint64_t kChunk = 1 << 20;
  constexpr uint64_t kShown = 16;
  std::vector<std::byte> chunk;
  for (const MemoryRange& range : a.ranges()) {
    for (uint64_t at = 0; at < range.size; at += kChunk) {
      chunk.resize(std::min(kChunk, range.size - at));
      CHECK(a.Read(range.iova + at, chunk).has_value());
      const auto differs = b.Compare(range.iova + at, chunk);
      CHECK(differs.has_value());
      if (!*differs) continue;
      const uint64_t offset = **differs;
      const auto size = std::min<uint64_t>(kShown, chunk.size() - offset);
      std::vector<std::byte> other(size);
      CHECK(b.Read(range.iova + at + offset, other).has_value());
      return fmt::format("guest memory at {:#x} is {} after mode fd and {} after mode message",
                         range.iova + at + offset,
                         FormatHex(ConstBytes(chunk).subspan(offset, size)), FormatHex(other));
    }
  }
  return {};
}

std::string CompareIrqs(Session& a, Session& b) {
  for (size_t i = 0; i < a.links().size(); ++i) {
    auto counts_a = a.CountAllIrqs(*a.links()[i]);
    auto counts_b = b.CountAllIrqs(*b.links()[i]);
    for (const auto& [vector, count] : counts_a) counts_b.try_emplace(vector, 0);
    for (const auto& [vector, count] : counts_b) {
      if (counts_a[vector] == count) continue;
      return fmt::format(
          "{}: {} vector {} was signalled {} times in mode fd and {} in mode "
          "message",
          a.links()[i]->spec.id, IrqWord(vector.first), vector.second, counts_a[vector], count);
    }
  }
  return {};
}

ScenarioResult RunScenario(const Scenario& scenario, const RunnerOptions& options) {
  ScenarioResult out{.scenario = &scenario, .runs = {}};
  std::vector<Run> runs;
  for (const Reach reach : scenario.modes) {
    runs.push_back(RunInMode(scenario, reach, false, options));
    out.runs.push_back(runs.back().result);
  }
  if (!out.passed() || runs.size() < 2) return out;
  std::string difference = CompareMemory(runs[0].session->memory(), runs[1].session->memory());
  if (difference.empty() && !scenario.irqs_vary)
    difference = CompareIrqs(*runs[0].session, *runs[1].session);
  if (difference.empty()) return out;
  out.runs.push_back(
      {.mode = "compare",
       .seconds = 0,
       .failure = RunFailure{
           .failure = {.path = "after both modes", .note = {}, .step = {}, .message = difference},
           .events = {},
           .output = {}}});
  return out;
}

}  // namespace

bool ScenarioResult::passed() const { return std::ranges::all_of(runs, &RunResult::passed); }

std::vector<ScenarioResult> RunScenarios(std::span<const Scenario> scenarios,
                                         const RunnerOptions& options) {
  std::vector<ScenarioResult> results(scenarios.size());
  std::vector<bool> done(scenarios.size());
  std::mutex mutex;  // Of results and done.
  std::condition_variable changed;
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < scenarios.size(); i = next++) {
      ScenarioResult result = RunScenario(scenarios[i], options);
      const std::lock_guard lock(mutex);
      results[i] = std::move(result);
      done[i] = true;
      changed.notify_one();
    }
  };
  std::vector<std::thread> workers;
  const size_t count = std::clamp<size_t>(options.jobs, 1, std::max<size_t>(scenarios.size(), 1));
  for (size_t i = 0; i < count; ++i) workers.emplace_back(work);

  std::unique_lock lock(mutex);
  for (size_t reported = 0; reported < scenarios.size();) {
    const auto ended = static_cast<size_t>(std::ranges::count(done, true));
    if (options.on_progress) options.on_progress(ended);
    changed.wait(lock,
                 [&] { return std::ranges::count(done, true) > static_cast<ptrdiff_t>(ended); });
    for (; reported < scenarios.size() && done[reported]; ++reported) {
      if (options.on_result) options.on_result(results[reported]);
    }
  }
  lock.unlock();
  for (std::thread& worker : workers) worker.join();
  return results;
}

Result<json> ExpandScenario(const Scenario& scenario, const RunnerOptions& options) {
  const Run run = RunInMode(scenario, Reach::kMessage, true, options);
  if (run.result.failure) return Fail("{}", FailureText(*run.result.failure));
  return FlatDocument(scenario, run.session->log().steps());
}

}  // namespace farside::scenario
