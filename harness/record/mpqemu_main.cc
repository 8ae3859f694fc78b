#include "harness/record/mpqemu_main.h"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/log.h"
#include "base/version.h"
#include "base/words.h"
#include "harness/record/mpqemu_relay.h"
#include "harness/record/recording.h"
#include "harness/record/signal_watcher.h"
#include "harness/scenario/remote_process.h"

namespace farside::record {
namespace {

using scenario::RemoteProcess;

constexpr uint64_t kEndNs = 5'000'000'000;  // In which a process ends whose channel is gone.
constexpr char kNote[] =
    "mpqemu shares the guest's memory: DMA is not visible on its channel and not in the trace; "
    "record with the device process's -trace to have it.";

Result<RemoteProcess> Start(const std::vector<std::string>& words) {
  const bool has_place = std::ranges::any_of(words, [](const std::string& word) {
    return word.find(scenario::kFdPlace) != std::string::npos;
  });
  if (!has_place) return Fail("the arguments of {} have no %FD% for its channel", words.front());
  return RemoteProcess::Start(words.front(), words.front(), {words.begin() + 1, words.end()}, "");
}

// An Error if the process does not end, or not well.
Result<void> AwaitEnd(scenario::Child& child) {
  const auto status = child.Wait(kEndNs);
  const std::string words = fmt::format("{}", fmt::join(child.LastLines(4), " | "));
  if (!status) return Fail("{} does not end when its channel is closed: {}", child.id(), words);
  if (!status->signalled && status->code == 0) return {};
  return Fail("{} {}: {}", child.id(), status->Text(), words);
}

}  // namespace

Result<void> RecordMpqemu(const MpqemuOptions& options) {
  const auto client_words = SplitWords(options.client);
  if (!client_words) return tl::unexpected(client_words.error());
  if (client_words->empty() || options.program.empty()) {
    return Fail("--protocol mpqemu needs --client 'PROGRAM ARGS...' and -- PROGRAM ARGS...");
  }
  const MonotonicClock clock;
  auto loop = EpollLoop::Create(clock);
  if (!loop) return tl::unexpected(loop.error());
  // Before the children's output has threads, which would take the signal that only this one
  // blocks; the children themselves begin with nothing blocked.
  SignalWatcher signals(**loop);
  if (auto started = signals.Start(); !started) return started;
  const trace::TraceInfo info{.program = fmt::format("farside record {}", kVersion),
                              .tap = trace::TraceInfo::Tap::kWire,
                              .dma = trace::TraceInfo::Dma::kDirect,
                              .clock = trace::TraceInfo::ClockKind::kMonotonic,
                              .args = options.program,
                              .devices = {{options.id, options.model}},
                              .note = kNote};
  auto recording = Recording::Create(options.output, info, **loop);
  if (!recording) return tl::unexpected(recording.error());
  auto server = Start(options.program);
  if (!server) return tl::unexpected(server.error());
  auto client = Start(*client_words);
  if (!client) return tl::unexpected(client.error());
  auto relay = MpqemuRelay::Create(**loop, **recording, std::move(client->socket),
                                   std::move(server->socket));
  if (!relay) return tl::unexpected(relay.error());
  LogInfo(options.id, "recording to {}: {} and {}. {}", options.output, client_words->front(),
          options.program.front(), kNote);
  (*loop)->Run();
  const std::string failure = (*relay)->failure();
  const uint64_t undecoded = (*relay)->view().undecoded();
  relay->reset();
  const auto client_end = AwaitEnd(*client->child);
  const auto server_end = AwaitEnd(*server->child);
  const auto finished = (*recording)->Finish();
  const Counts& counts = (*recording)->counts();
  fmt::print(
      "{}{}: {} messages, {} interrupts in {:.1f} s{}\n", client->child->output(), options.output,
      counts.messages, counts.interrupts, static_cast<double>((*recording)->elapsed_ns()) / 1e9,
      undecoded == 0 ? ""
                     : fmt::format("; {} accesses that no BAR decodes are not in it", undecoded));
  if (!finished) return finished;
  if (!failure.empty()) return Fail("{}", failure);
  return client_end ? server_end : client_end;
}

}  // namespace farside::record
