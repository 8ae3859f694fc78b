// LsiWorkload: what a driver of the LSI53C895A does, made up from a seed: SCRIPTS, mostly.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "harness/diff/model.h"

namespace farside::diff {

// Where the workload's memory lies.
namespace lsi_memory {
inline constexpr uint64_t kBase = 0x10'0000;
inline constexpr uint64_t kScripts = kBase;  // kScriptSize.
inline constexpr uint64_t kScriptSize = 0x1000;
inline constexpr uint64_t kSource = kBase + 0x1000;  // kAreaSize: what scripts read.
inline constexpr uint64_t kTarget = kBase + 0x2000;  // kAreaSize: what they write.
inline constexpr uint64_t kAreaSize = 0x1000;
inline constexpr uint64_t kCommand = kBase + 0x3000;  // A message, and 16 bytes on a CDB.
inline constexpr uint64_t kStatus = kBase + 0x4000;   // Status, message.
inline constexpr uint64_t kData = kBase + 0x5000;     // kAreaSize.
inline constexpr uint64_t kSize = 0x6000;
// SCRIPTS RAM as Side's PciFunction places it: behind BAR 1, aligned to its size.
inline constexpr uint64_t kRamOnBus = 0xe000'2000;
}  // namespace lsi_memory

class LsiWorkload final : public Workload {
 public:
  explicit LsiWorkload(uint64_t seed) : random_(seed) {}

  void Next(std::vector<Event>* out) override;
  void OnOther(const Event& event) override;

 private:
  using Words = std::vector<uint32_t>;

  void SetUp(std::vector<Event>* out);
  void ServeInterrupts(std::vector<Event>* out);
  void RunProgram(std::vector<Event>* out);
  void RunCommand(std::vector<Event>* out);
  // Puts a script where it runs, starts it and awaits its interrupt, which is then served.
  void Run(const Words& words, bool in_ram, std::vector<Event>* out);
  void AddInstruction(Words* words);
  void AddTransfer(Words* words);
  uint32_t Scratch();
  Event WriteRegister(uint32_t offset, uint32_t size, uint64_t value);

  Random random_;
  bool ends_early_ = false;  // The program that is made may have an illegal instruction.
  bool ready_ = false;       // As far as can be told.
};

}  // namespace farside::diff
