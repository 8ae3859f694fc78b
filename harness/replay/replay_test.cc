// The main traces, a Linux guest's life with its disk, against the device in this process: as they
// are, damaged, and with seeded bugs in the device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <ostream>
#include <utility>

#include "base/mutant.h"
#include "base/random.h"
#include "harness/replay/replayer.h"
#include "harness/trace/event_file.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::replay {
namespace {

using testing::HasSubstr;
using trace::Event;
using vfio_user::Command;
using vfio_user::RegionAccess;

constexpr char kTrace[] = FARSIDE_TRACE_DIR "/linux-disk.trace";
constexpr char kLsiTrace[] = FARSIDE_TRACE_DIR "/linux-lsi.trace";

std::vector<Event> ReadEvents(const std::string& path) {
  std::vector<Event> events;
  auto source = trace::OpenEvents(path).value();
  for (auto event = source->Next().value(); event; event = source->Next().value()) {
    events.push_back(std::move(*event));
  }
  return events;
}

// A file of its own, gone with the object.
class TemporaryTrace {
 public:
  explicit TemporaryTrace(std::span<const Event> events, const char* like = kTrace) {
    auto sink = trace::CreateEvents(path_, trace::OpenEvents(like).value()->info()).value();
    for (const Event& event : events) EXPECT_TRUE(sink->Write(event));
    EXPECT_TRUE(sink->Finish());
  }
  ~TemporaryTrace() { std::filesystem::remove(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_ = testing::TempDir() + "/replay-" + std::to_string(getpid()) + ".trace";
};

// What is missed is given up soon where it is to be missed, and late where it is not: the machine
// may be busy.
constexpr uint64_t kImpatientNs = 250'000'000;
constexpr uint64_t kPatientNs = 5'000'000'000;

// `adjust` may change what the first block says of the device.
Result<ReplayResult> ReplayInProcess(const std::string& path, Level level,
                                     const std::function<void(trace::TraceInfo&)>& adjust = {},
                                     uint64_t timeout_ns = kImpatientNs) {
  auto source = trace::OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  trace::TraceInfo info = (*source)->info();
  if (adjust) adjust(info);
  auto target = MakeTargetInProcess(info);
  if (!target) return tl::unexpected(target.error());
  return Replay(path, **target, {.level = level, .timeout_ns = timeout_ns, .on_progress = {}});
}

std::string DivergenceOf(const Result<ReplayResult>& result) {
  if (!result) return result.error().message;
  if (!result->divergence) return {};
  const Divergence& found = *result->divergence;
  return fmt::format("{} {}: {} is {}", found.event, found.what, found.expected, found.got);
}

// Adds a property to the device's -device.
std::function<void(trace::TraceInfo&)> With(const std::string& property) {
  return [property](trace::TraceInfo& info) {
    const std::string all = ", " + property + "}";
    info.args.back().replace(info.args.back().rfind('}'), 1, all);
  };
}

class TraceTest : public testing::TestWithParam<const char*> {};

TEST_P(TraceTest, NothingDivergesAtAnyLevel) {
  for (const Level level : {Level::kExact, Level::kMemory, Level::kGuest}) {
    const auto result = ReplayInProcess(GetParam(), level, {}, kPatientNs);
    EXPECT_EQ(DivergenceOf(result), "");
    ASSERT_TRUE(result);
    EXPECT_GT(result->guest_events, 1000u);
    EXPECT_GT(result->dma_bytes, 20u << 20);
    EXPECT_GT(result->interrupts, 100u);
    EXPECT_FALSE(result->truncated);
  }
}

TEST(ReplayTest, AnotherQueueFetchSizeIsTheSameAtLevelMemory) {
  for (const char* const property : {R"("fetch_batch": 1)", R"("fetch_batch": 5)"}) {
    EXPECT_EQ(DivergenceOf(ReplayInProcess(kTrace, Level::kMemory, With(property))), "");
  }
  EXPECT_NE(DivergenceOf(ReplayInProcess(kTrace, Level::kExact, With(R"("fetch_batch": 1)"))), "")
      << "the fetches themselves are other events";
}

TEST(ReplayTest, AnotherSeedOfTheMediumDiverges) {
  const auto reseed = [](trace::TraceInfo& info) {
    for (std::string& arg : info.args) {
      const size_t at = arg.find("\"seed\":\"42\"");
      if (at != std::string::npos) arg.replace(at, 11, "\"seed\":\"43\"");
    }
  };
  EXPECT_THAT(DivergenceOf(ReplayInProcess(kTrace, Level::kMemory, reseed)),
              HasSubstr("memory at"));
}

TEST_P(TraceTest, OneFlippedByteOfOneReplyIsNamed) {
  std::vector<Event> events = ReadEvents(GetParam());
  std::vector<size_t> replies;
  for (size_t i = 0; i < events.size(); ++i) {
    const Event& event = events[i];
    const bool read_reply = event.is_message() && event.is_reply() &&
                            event.direction == trace::Direction::kOut &&
                            event.command() == Command::kRegionRead;
    if (read_reply && !event.data_after<RegionAccess>().empty()) replies.push_back(i);
  }
  ASSERT_GT(replies.size(), 100u);
  Random random(1);
  int polls = 0;
  for (int round = 0; round < 12; ++round) {
    const size_t at = replies[random.Below(replies.size())];
    Event& event = events[at];
    const size_t data = sizeof(vfio_user::Header) + sizeof(RegionAccess);
    std::byte& byte = event.bytes[data + random.Below(event.bytes.size() - data)];
    const std::byte before = byte;
    byte ^= static_cast<std::byte>(1 + random.Below(255));
    {
      const TemporaryTrace damaged(events, GetParam());
      for (const Level level : {Level::kExact, Level::kMemory, Level::kGuest}) {
        const auto result = ReplayInProcess(damaged.path(), level);
        ASSERT_TRUE(result);
        // One of a run of equal reads may be a poll's, and lawful then.
        if (level != Level::kExact && result->polls != 0 && !result->divergence) {
          ++polls;
          continue;
        }
        ASSERT_TRUE(result->divergence) << "event " << event.number;
        EXPECT_EQ(result->divergence->event, event.number)
            << "level " << static_cast<int>(level) << ": " << DivergenceOf(result);
        const auto around = DescribeAround(damaged.path(), event.number);
        ASSERT_TRUE(around);
        EXPECT_THAT(*around, testing::Contains(testing::StartsWith("=>")));
      }
    }
    byte = before;
  }
  EXPECT_LE(polls, 6) << "of 24";
}

INSTANTIATE_TEST_SUITE_P(All, TraceTest, testing::Values(kTrace, kLsiTrace), [](const auto& test) {
  return std::string(test.param == kLsiTrace ? "Lsi" : "Nvme");
});

// A message that is `T`, then `data`.
template <typename T>
Event Message(trace::Direction direction, uint64_t time_ns, vfio_user::Header header,
              const T& fields, ConstBytes data = {}) {
  Event event{.direction = direction, .time_ns = time_ns, .bytes = {}, .fds = {}};
  for (const ConstBytes part : {AsBytes(header), AsBytes(fields), data}) {
    event.bytes.insert(event.bytes.end(), part.begin(), part.end());
  }
  return event;
}

// What the LSI53C895A's tap records of a driver that starts the general purpose timer (STIME1) with
// its interrupt enabled (SIEN1), and reads SIST1 when that came. `due_ns`: when the timer fired.
std::vector<Event> TimerTrace(uint64_t due_ns) {
  using enum trace::Direction;
  uint16_t id = 0;
  std::vector<Event> events;
  const auto access = [&](Command command, uint64_t time_ns, uint64_t offset, uint8_t value) {
    const RegionAccess at{.offset = offset, .region = 1, .count = 1};
    ConstBytes written = AsBytes(value);
    ConstBytes read;
    if (command == Command::kRegionRead) std::swap(written, read);
    const auto header = vfio_user::CommandHeader(id++, command, sizeof at + written.size());
    const auto reply = vfio_user::ReplyHeader(header, sizeof at + read.size());
    events.push_back(Message(kIn, time_ns, header, at, written));
    events.push_back(Message(kOut, time_ns, reply, at, read));
  };
  const auto extension = [&](vfio_user::ExtensionCommand command, size_t size, uint32_t flags) {
    return vfio_user::CommandHeader(id++, static_cast<Command>(command), size, flags);
  };
  access(Command::kRegionWrite, 1000, 0x41, 2);
  access(Command::kRegionWrite, 2000, 0x49, 1);
  const vfio_user::ClockAdvance advance{.time_ns = due_ns};
  events.push_back(Message(kIn, due_ns,
                           extension(vfio_user::ExtensionCommand::kClockAdvance, sizeof advance, 0),
                           advance));
  const vfio_user::Interrupt interrupt{.index = 0, .vector = 0};
  events.push_back(Message(
      kOut, due_ns,
      extension(vfio_user::ExtensionCommand::kInterrupt, sizeof interrupt, vfio_user::kFlagNoReply),
      interrupt));
  access(Command::kRegionRead, due_ns + 1000, 0x43, 2);
  return events;
}

TEST(ReplayTest, ATimerFiresWhereTheRecordingHasIt) {
  for (const Level level : {Level::kExact, Level::kMemory, Level::kGuest}) {
    const TemporaryTrace trace(TimerTrace(2000 + 125'000), kLsiTrace);
    EXPECT_EQ(DivergenceOf(ReplayInProcess(trace.path(), level)), "");
    const TemporaryTrace early(TimerTrace(2000 + 124'999), kLsiTrace);
    EXPECT_NE(DivergenceOf(ReplayInProcess(early.path(), level)), "") << "the timer has 125 us";
  }
}

TEST(ReplayTest, ATraceThatIsCutIsReplayedUpToTheCut) {
  const TemporaryTrace cut(std::span<const Event>{});
  const auto size = std::filesystem::file_size(kTrace);
  std::filesystem::copy_file(kTrace, cut.path(), std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(cut.path(), size / 2);
  const auto result = ReplayInProcess(cut.path(), Level::kMemory);
  ASSERT_TRUE(result);
  EXPECT_TRUE(result->truncated);
  EXPECT_GT(result->guest_events, 100u);
  // What was asked for just before the cut may have no answer in the trace.
  if (result->divergence) {
    EXPECT_GE(result->divergence->event + 64, result->events);
  }
}

TEST(ReplayTest, WhatIsNoTraceIsRefusedWithASentence) {
  const TemporaryTrace text(std::span<const Event>{});
  std::ofstream(text.path(), std::ios::trunc) << "no trace at all";
  const auto result = ReplayInProcess(text.path(), Level::kMemory);
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message, HasSubstr(text.path()));
}

#ifdef FARSIDE_MUTANTS
// What must be seen of a device with this bug.
struct Mutant {
  const char* id;
  const char* divergence;
  const char* trace = kTrace;
};
void PrintTo(const Mutant& mutant, std::ostream* out) { *out << mutant.id; }

class MutantTest : public testing::TestWithParam<Mutant> {
 protected:
  ~MutantTest() override { SetMutant(""); }
};

TEST_P(MutantTest, IsFound) {
  SetMutant(GetParam().id);
  const auto result = ReplayInProcess(GetParam().trace, Level::kMemory);
  EXPECT_THAT(DivergenceOf(result), HasSubstr(GetParam().divergence));
}

INSTANTIATE_TEST_SUITE_P(
    All, MutantTest,
    testing::Values(
        Mutant{"nvme-queues-one-more", "memory at"},
        Mutant{"nvme-cq-head-ignored", "interrupts of INTx"},
        Mutant{"nvme-sq-head-late", "memory at"}, Mutant{"nvme-read-one-off", "memory at"},
        Mutant{"nvme-write-tail-lost", "memory at"}, Mutant{"nvme-prp-first-again", "memory at"},
        Mutant{"nvme-nsze-short", "memory at"}, Mutant{"nvme-irq-lost", "interrupts of MSI-X"},
        Mutant{"nvme-irq-twice", "interrupts of MSI-X"}, Mutant{"nvme-shutdown-forever", "reply"},
        Mutant{"pci-msix-one-more", "reply"},
        // The others of the LSI's and of SCSI are of drivers that
        // Linux's is not, or of aborts that it has no cause for.
        Mutant{"lsi-intf-lost", "interrupts of INTx", kLsiTrace},
        Mutant{"scsi-write-one-off", "memory at", kLsiTrace},
        Mutant{"scsi-capacity-one-more", "memory at", kLsiTrace},
        Mutant{"scsi-mode-sense-past-table", "memory at", kLsiTrace}));
#endif

}  // namespace
}  // namespace farside::replay
