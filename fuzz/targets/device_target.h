// DeviceTarget: a device model alone, over a hostile host. No channel, no message: the fastest way
// into a model.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "devices/core/device.h"
#include "fuzz/host/cursor.h"
#include "fuzz/host/host.h"
#include "fuzz/host/models.h"
#include "fuzz/host/referee.h"
#include "fuzz/host/snapshots.h"
#include "fuzz/host/witness.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {

// What a target knows of its model besides its grammar.
struct ModelFacts {
  std::span<const std::string_view> options;
  // Registers in which bits that no driver may write never differ from their reset values, with the
  // BAR that they are in.
  uint32_t bar = 0;
  std::span<const RegisterDef> registers = {};
  // But for these, which the device itself moves.
  std::span<const std::string_view> moving = {};
  uint64_t max_accesses_per_turn = Host::kMaxAccessesPerTurn;
  // Who knows the device's specification.
  std::unique_ptr<Referee> (*make_referee)(Host& host, Device& device,
                                           const ModelBackends& backends) = nullptr;
};

// Oracles besides those of what it is made of: "read-only" (a bit that no driver may write has
// changed), "save-load" (a state that is refused, or is another after it was loaded).
class DeviceTarget final : public Target, private AnswerSource {
 public:
  // Turns of the loop that an event gets at once, as from the server between two messages.
  static constexpr size_t kQuantum = 64;
  // That a session gets in all: a script may be endless.
  static constexpr size_t kMaxTurns = 160;

  DeviceTarget(const Grammar& grammar, const ModelFacts& facts);
  ~DeviceTarget() override;

  void Run(ConstBytes input) override;
  std::optional<double> MeasureLoad() override { return snapshots_->MeasureLoad(); }

 private:
  std::optional<Answer> TakeAnswer(DmaAccess access) override;

  void Play(std::span<const Event> events);
  void Execute(const Event& event);
  void Access(const Event& event);
  void Write(Region region, uint64_t offset, ConstBytes in);
  // True if nothing is left to do, unless something is held up.
  bool Settle(size_t turns);
  void SaveLoad(const Event& event);
  Result<void> Load(ConstBytes state);
  void Reset();
  void LetEverythingGoOn();
  void CheckReadOnlyBits();
  ConstBytes Reflected(ConstBytes data);

  const Grammar& grammar_;
  const ModelFacts facts_;
  SessionClock clock_;
  Loop loop_{clock_};
  FramePool::Scope frames_{loop_.frames()};
  Host host_{loop_, *this};
  ModelBackends backends_{loop_};
  std::unique_ptr<Device> device_;
  std::unique_ptr<Referee> referee_;
  std::optional<Snapshots> snapshots_;
  Witness witness_;
  std::vector<std::byte> fresh_config_;

  Session session_;
  Cursor cursor_;
  size_t turns_left_ = kMaxTurns;
  std::optional<Event> reflect_;
  std::optional<Store> reflected_;
};

}  // namespace farside::fuzz
