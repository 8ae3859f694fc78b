// The targets "record_nvme" and "record_lsi": a device is recorded by its tap, as `disk-proc
// --trace` does it, and the recording is replayed against another one like it.
//
// Oracle "replay": a recording that can not be read or replayed, or the device behaves otherwise.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/fd.h"
#include "base/log.h"
#include "devices/core/deadline.h"
#include "devices/core/drain.h"
#include "devices/registry/registry.h"
#include "devices/server/device_tap.h"
#include "fuzz/host/cursor.h"
#include "fuzz/host/host.h"
#include "fuzz/host/oracle.h"
#include "fuzz/parsers/parsers.h"
#include "harness/replay/replayer.h"
#include "process/command_line.h"
#include "process/process_backends.h"

namespace farside::fuzz {
namespace {

// Turns of the loop: that an event gets at once, and that a session gets in all.
constexpr size_t kQuantum = 64;
constexpr size_t kMaxTurns = 2000;

// A device, made as disk-proc makes it, and what is recorded of it.
class Recording {
 public:
  Recording(const CommandLine& line, const std::string& path, const trace::TraceInfo& info,
            AnswerSource& source)
      : host_(*loop_, source),
        file_(trace::TraceWriter::Create(path, info).value(), *loop_, clock_) {
    for (const auto& options : line.blockdevs) CHECK(backends_.graph().Add(options, *loop_));
    for (const auto& options : line.devices) Add(options);
    host_.Begin(false, false);
  }

  ~Recording() {
    device_->Reset(ResetKind::kShutdown);
    loop_->RunUntilIdle();
  }

  Device& device() { return *device_; }
  Host& host() { return host_; }

  void Access(const Event& event) {
    const auto region = Region{event.what % kRegionCount};
    const uint64_t size = device_->info().region(region).size;
    const bool reads = event.kind == Kind::kRead;
    const ConstBytes data =
        event.kind == Kind::kWriteData ? event.data : AsBytes(event.value).first(event.size % 9);
    if (data.empty() || !InRange(event.at, data.size(), size)) return;
    if (!reads) return device_->WriteRegion(region, event.at, data);
    std::vector<std::byte> out(data.size());
    device_->ReadRegion(region, event.at, out);
  }

  // As the server does it.
  void Reset() {
    device_->Reset(ResetKind::kFunction);
    scope_.Spawn(DrainAndResume(*device_));
  }

  void Advance(uint64_t by_ns) {
    constexpr uint64_t kLongest = uint64_t{1} << 40;
    clock_.AdvanceTo(clock_.now_ns() + by_ns % kLongest);
    CheckDeadline(*device_, clock_);
  }

  void Settle() {
    for (size_t turns = kQuantum; turns != 0 && turns_left_ != 0; --turns, --turns_left_) {
      if (!loop_->RunReady(1)) return;
    }
  }

  Result<void> Finish() { return file_.Finish(); }

 private:
  void Add(const nlohmann::json& options) {
    OptionReader reader("device", options);
    const Model& model = **FindModel(DiskModels(), reader.RequiredString("driver"));
    if (model.attach != nullptr) {
      CHECK(model.attach(*loop_, reader, backends_));
      return;
    }
    reader.String("id", "");
    tap_.emplace(
        file_, 0,
        DeviceEnv{.id = "fuzzed", .loop = *loop_, .clock = clock_, .dma = host_, .irq = host_});
    auto made = model.create(tap_->env(), reader, backends_);
    CHECK(made.has_value());
    // Not through the tap: the host is no guest.
    host_.Attach(**made);
    device_ = tap_->Wrap(std::move(*made));
  }

  ManualClock clock_;
  std::unique_ptr<EpollLoop> loop_ = EpollLoop::Create(clock_).value();
  FramePool::Scope frames_{loop_->frames()};
  TaskScope scope_;
  Host host_;
  ProcessBackends backends_;
  TapFile file_;
  std::optional<DeviceTap> tap_;
  std::unique_ptr<Device> device_;
  size_t turns_left_ = kMaxTurns;
};

class RecordTarget final : public Target, private AnswerSource {
 public:
  RecordTarget(const Grammar& grammar, std::span<const char* const> arguments)
      : grammar_(grammar), file_(std::move(*MakeMemfd("recording", 0))) {
    MuteLog();
    path_ = fmt::format("/proc/self/fd/{}", file_.get());
    std::vector<const char*> argv{"record"};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    line_ = ParseCommandLine(static_cast<int>(argv.size()), argv.data()).value();
    info_ = {.program = "fuzzer",
             .args = DeviceArguments(line_),
             .devices = {{"fuzzed", line_.devices[0]["driver"].get<std::string>()}}};
    grammar_.AddPrologue(store_, &prologue_);
  }

  void Run(ConstBytes input) override {
    Decode(input, &session_);
    Record();
    Replay();
    ++tally_.sessions;
  }

 private:
  std::optional<Answer> TakeAnswer(DmaAccess access) override {
    while (!cursor_.done() && IsLeftOut(*cursor_.Peek())) cursor_.Take();
    return cursor_.TakeAnswer(access);
  }

  // What a tap does not see: a device that is to be the same later can not have it.
  static bool IsLeftOut(const Event& event) {
    return event.kind == Kind::kHold || event.kind == Kind::kDisk ||
           event.kind == Kind::kSaveLoad || event.kind == Kind::kReflect;
  }

  void Record() {
    Recording recording(line_, path_, info_, *this);
    if (session_.ready()) Play(recording, prologue_, {});
    Play(recording, session_.events, Teller(grammar_));
    tally_.with_dma += recording.host().counts().completed != 0;
    tally_.with_interrupts += recording.host().counts().interrupts != 0;
    if (auto finished = recording.Finish(); !finished) {
      Violation("replay", "what was recorded is not written: {}", finished.error().message);
    }
  }

  void Play(Recording& recording, std::span<const Event> events, Cursor::Observer observer) {
    cursor_.Begin(events, std::move(observer));
    while (!cursor_.done()) {
      Execute(recording, cursor_.Take());
      recording.Settle();
    }
  }

  void Execute(Recording& recording, const Event& event) {
    switch (event.kind) {
      case Kind::kRead:
      case Kind::kWrite:
      case Kind::kWriteData:
        return recording.Access(event);
      case Kind::kMemory:
        return recording.host().WriteMemory(event.at, event.data);
      case Kind::kMap:
        if (recording.host().AddWindow(event.at, event.value, (event.size & 1) != 0,
                                       (event.size & 2) != 0)) {
          recording.device().OnDmaChanged();
        }
        return;
      case Kind::kUnmap:
        if (recording.host().RemoveWindow(event.at, event.value)) {
          recording.device().OnDmaChanged();
        }
        return;
      case Kind::kReset:
        return recording.Reset();
      case Kind::kClock:
        return recording.Advance(event.value);
      default:
        return;
    }
  }

  void Replay() {
    auto target = replay::MakeTargetInProcess(info_);
    CHECK(target.has_value());
    const auto result =
        replay::Replay(path_, **target, {.level = replay::Level::kExact, .on_progress = {}});
    if (!result) {
      Violation("replay", "a recording can not be replayed: {}", result.error().message);
    }
    if (result->truncated) Violation("replay", "a recording that was ended is cut off");
    if (const auto& found = result->divergence) {
      Violation("replay", "event {} of the recording: {} was {}, and is {}", found->event,
                found->what, found->expected, found->got);
    }
  }

  const Grammar& grammar_;
  UniqueFd file_;
  std::string path_;
  CommandLine line_;
  trace::TraceInfo info_;
  Store store_;
  std::vector<Event> prologue_;
  Session session_;
  Cursor cursor_;
};

constexpr const char* kNvme[] = {
    "-blockdev", R"({"driver":"memory","node-name":"d0","size":"2M"})", "-device",
    R"({"driver":"nvme","drive":"d0","serial":"fuzz","max_ioqpairs":4,"msix_qsize":5,"mdts":4})"};
constexpr const char* kLsi[] = {"-blockdev", R"({"driver":"memory","node-name":"d0","size":"2M"})",
                                "-blockdev", R"({"driver":"memory","node-name":"d1","size":"2M"})",
                                "-device",   R"({"driver":"lsi53c895a","id":"lsi0","quantum":64})",
                                "-device",   R"({"driver":"scsi-hd","drive":"d0","scsi-id":0})",
                                "-device",   R"({"driver":"scsi-cd","drive":"d1","scsi-id":1})"};

}  // namespace

std::unique_ptr<Target> MakeRecordNvmeTarget() {
  return std::make_unique<RecordTarget>(NvmeGrammar(), kNvme);
}

std::unique_ptr<Target> MakeRecordLsiTarget() {
  return std::make_unique<RecordTarget>(LsiGrammar(), kLsi);
}

}  // namespace farside::fuzz
