// The target "state": bytes that claim to be a saved state, given to each device model. Oracle
// "save-load": a state that is taken is another one when it is saved, or is refused then; one that
// is refused leaves something behind.
#include <deque>
#include <optional>

#include "base/check.h"
#include "devices/core/state.h"
#include "fuzz/host/host.h"
#include "fuzz/host/models.h"
#include "fuzz/host/oracle.h"
#include "fuzz/host/snapshots.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {
namespace {

// What is in flight in a state that was taken starts afresh: it gets so many turns.
constexpr size_t kTurns = 160;

class Unit final : private AnswerSource {
 public:
  explicit Unit(std::span<const std::string_view> options)
      : device_(MakeModel(
            options, {.id = "loaded", .loop = loop_, .clock = clock_, .dma = host_, .irq = host_},
            backends_)) {
    host_.Attach(*device_);
    host_.Begin(false, false);
    snapshots_.emplace(loop_, clock_, *device_);
  }
  ~Unit() {
    device_->Reset(ResetKind::kShutdown);
    loop_.RunUntilIdle();
  }

  std::vector<std::byte> Saved() const { return snapshots_->Saved(); }

  void Load(ConstBytes state) {
    snapshots_->GoBack(false);
    host_.Begin(false, false);
    backends_.BeginDisks(false);
    snapshots_->Drain("before a state is loaded");
    if (!TryLoad(state)) {
      if (++refused_ % 64 == 1) snapshots_->ExpectFresh();
      return;
    }
    const std::vector<std::byte> saved = Saved();
    // Another device would take it: this one becomes like new.
    device_->Reset(ResetKind::kFunction);
    snapshots_->Drain("before a state is loaded again");
    if (const auto again = TryLoad(saved); !again) {
      Violation("save-load", "the device refuses its own state: {}", again.error().message);
    }
    if (Saved() != saved) {
      Violation("save-load", "a state is another one when it was loaded and saved again");
    }
    device_->Resume();
    RunTurns(loop_, kTurns);
    device_->Reset(ResetKind::kFunction);
    snapshots_->Drain("after a reset");
    device_->Resume();
    if (++taken_ % 64 == 1) snapshots_->ExpectFresh();
  }

 private:
  std::optional<Answer> TakeAnswer(DmaAccess) override { return std::nullopt; }

  Result<void> TryLoad(ConstBytes state) {
    auto reader = StateReader::Parse(state);
    if (!reader) return tl::unexpected(reader.error());
    return device_->Load(*reader);
  }

  SessionClock clock_;
  Loop loop_{clock_};
  Host host_{loop_, *this};
  ModelBackends backends_{loop_};
  std::unique_ptr<Device> device_;
  std::optional<Snapshots> snapshots_;
  uint64_t refused_ = 0;
  uint64_t taken_ = 0;
};

class StateTarget final : public Target {
 public:
  StateTarget() {
    units_.emplace_back(kNvmeOptions);
    units_.emplace_back(kLsiStateOptions);
  }

  void Run(ConstBytes input) override {
    for (Unit& unit : units_) unit.Load(input);
    ++tally_.sessions;
  }

  const std::deque<Unit>& units() const { return units_; }

 private:
  // One for all: scopes end in the reverse order.
  FramePool pool_;
  FramePool::Scope frames_{pool_};
  std::deque<Unit> units_;
};

}  // namespace

std::unique_ptr<Target> MakeStateTarget() { return std::make_unique<StateTarget>(); }

std::vector<Seed> StateSeeds(const std::string&) {
  const StateTarget target;
  std::vector<Seed> seeds;
  for (const Unit& unit : target.units()) {
    seeds.push_back({fmt::format("fresh-{}", seeds.size()), unit.Saved()});
  }
  return seeds;
}

// The names of sections, as a state has them.
std::vector<std::string> StateWords() {
  std::vector<std::string> words{"FARSTATE"};
  for (const Seed& seed : StateSeeds({})) {
    ConstBytes rest = ConstBytes(seed.input).subspan(12);
    while (!rest.empty()) {
      const auto name_size = LoadLe<uint8_t>(rest);
      const std::string name(reinterpret_cast<const char*>(rest.data() + 1), name_size);
      words.push_back(static_cast<char>(name_size) + name);
      rest = rest.subspan(1 + name_size + 3);
      rest = rest.subspan(4 + LoadLe<uint32_t>(rest));
    }
  }
  return words;
}

}  // namespace farside::fuzz
