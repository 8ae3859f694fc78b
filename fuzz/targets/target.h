// Target: something that is fuzzed. In every build, whatever drives it: libFuzzer, AFL++, or the
// program farside-fuzz, which runs, shrinks and explains single inputs.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "fuzz/mutator/grammar.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// What the sessions of one run reached. Below the shares of docs/fuzzing.md a target counts as
// absent: it only pokes at the surface.
struct Tally {
  uint64_t sessions = 0;
  uint64_t with_dma = 0;         // In which a DMA access was completed,
  uint64_t with_interrupts = 0;  // an interrupt raised,
  uint64_t with_io = 0;          // a command of the disk's executed.
  // Where the target is a process: waits for its answers, and how long the sessions took.
  uint64_t round_trips = 0;
  double seconds = 0;
};

class Target {
 public:
  virtual ~Target() = default;

  // Any bytes. The same bytes do the same, whatever was run before. What is wrong aborts.
  virtual void Run(ConstBytes input) = 0;
  // What going back to a state takes, as a multiple of a copy of as many bytes. Nothing where it is
  // not done by LoadFast.
  virtual std::optional<double> MeasureLoad() { return std::nullopt; }
  // Told of each event before it happens.
  using Observer = void (*)(const Grammar& grammar, size_t index, const Event& event);
  void set_observer(Observer to) { observer_ = to; }
  // From now on the state is compared with a new device's behind each session, not just some.
  void set_thorough() { thorough_ = true; }
  const Tally& tally() const { return tally_; }

 protected:
  bool observed() const { return observer_ != nullptr; }
  // Tells of an event that is about to happen.
  void Tell(const Grammar& grammar, size_t index, const Event& event) const {
    if (observed()) observer_(grammar, index, event);
  }
  // The same for a Cursor.
  std::function<void(size_t, const Event&)> Teller(const Grammar& grammar) const {
    if (!observed()) return {};
    return [this, &grammar](size_t index, const Event& event) { Tell(grammar, index, event); };
  }
  // Whether the state is compared with a new device's behind the session that was counted last:
  // every so many times, and when somebody looks.
  bool compares() const { return thorough_ || tally_.sessions % kCompareEvery == 1 || observed(); }
  Tally tally_;

 private:
  static constexpr uint64_t kCompareEvery = 256;

  Observer observer_ = nullptr;
  bool thorough_ = false;
};

// An input that a corpus begins with.
struct Seed {
  std::string name;  // Of its file.
  std::vector<std::byte> input;
};

// What is known of inputs that are no sessions, for corpora and dictionaries.
struct InputFacts {
  // Words worth trying anywhere in an input.
  std::vector<std::string> (*words)() = nullptr;
  // `source` is the root of Farside's source tree, where examples lie.
  std::vector<Seed> (*seeds)(const std::string& source) = nullptr;
};

struct TargetDef {
  std::string_view name;
  std::string_view help;
  std::unique_ptr<Target> (*make)();
  // Of targets whose inputs are sessions; nullptr where they are text or other bytes.
  const Grammar& (*grammar)() = nullptr;
  // Whether its sessions are to reach DMA, interrupts and disks.
  bool has_io = false;
  InputFacts facts = {};
};

// A new target is a row here, or in fuzz/parsers/ where its libraries are not to weigh on others:
// those rows are there only after AddParserTargets().
std::span<const TargetDef> Targets();
// Before the first Targets() or FindTarget().
void AddTargets(std::span<const TargetDef> rows);
// nullptr if there is none of this name.
const TargetDef* FindTarget(std::string_view name);

// The rows' functions.
std::unique_ptr<Target> MakeNvmeTarget();
std::unique_ptr<Target> MakeLsiTarget();
std::unique_ptr<Target> MakeServerTarget();
std::unique_ptr<Target> MakeClientTarget();
std::unique_ptr<Target> MakeClientSocketTarget();
std::unique_ptr<Target> MakeBlockTarget();
std::unique_ptr<Target> MakeStateTarget();
std::unique_ptr<Target> MakeCommandLineTarget();
std::unique_ptr<Target> MakeDiskProcTarget();
std::vector<std::string> StateWords();
std::vector<Seed> StateSeeds(const std::string& source);
std::vector<std::string> CommandLineWords();
std::vector<Seed> CommandLineSeeds(const std::string& source);

}  // namespace farside::fuzz
