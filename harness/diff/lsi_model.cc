// The LSI53C895A, as far as a comparison must know it.
#include <array>
#include <string_view>

#include "devices/lsi53c895a/registers.h"
#include "harness/diff/config_registers.h"
#include "harness/diff/lsi_workload.h"
#include "harness/diff/model.h"

namespace farside::diff {
namespace {

using namespace lsi53c895a;  // NOLINT: this file is about its registers.
using namespace lsi_memory;  // NOLINT

// Addresses in the I/O space of PCs take 4 bytes at most.
constexpr RegisterSpace kSpaces[] = {
    {.region = kConfigRegion, .size = kConfigHeaderSize, .max_access = 4, .rows = kConfigHeader},
    {.region = kIoBar, .size = kRegisterSize, .max_access = 4, .rows = kRegisters},
    {.region = kMemoryBar, .size = kMemoryBarSize, .rows = kRegisters, .repeats = kRegisterSize},
    {.region = kRamBar, .size = kRamSize, .rows = {}},
};

constexpr MemoryRange kMemory[] = {{.iova = kBase, .size = kSize}};

constexpr MemoryField kFields[] = {
    {"Stores and memory moves", kTarget, kAreaSize},
    {"Status", kStatus, 1},
    {"Message", kStatus + 1, 1},
    {"Data in", kData, kAreaSize},
};

// Bit 7 first.
struct Bits {
  Reg reg;
  std::array<std::string_view, 8> names;
};
constexpr Bits kBits[] = {
    {kIstat0, {"ABRT", "SRST", "SIGP", "SEM", "CON", "INTF", "SIP", "DIP"}},
    {kDstat, {"DFE", "MDPE", "BF", "ABRT", "SSI", "SIR", "", "IID"}},
    {kSist0, {"M/A", "CMP", "SEL", "RSL", "SGE", "UDC", "RST", "PAR"}},
    {kSist1, {"", "", "", "SBMC", "", "STO", "GEN", "HTH"}},
};

class Lsi final : public Model {
 public:
  std::string_view name() const override { return "lsi53c895a"; }
  std::span<const RegisterSpace> spaces() const override { return kSpaces; }
  std::span<const MemoryRange> memory() const override { return kMemory; }
  std::span<const MemoryField> fields() const override { return kFields; }

  Work WorkOf(const Event& event) const override {
    if (event.kind == Event::Kind::kReset) return Work::kLong;
    if (event.kind == Event::Kind::kRead) {
      return TouchesAny(event, {kDstat, kSist0, kSist1}) ? Work::kQuick : Work::kNone;
    }
    if (event.kind != Event::Kind::kWrite) return Work::kNone;
    if (event.Touches(kConfigRegion, pci::kCommand, 2)) return Work::kQuick;
    if (TouchesAny(event, {kDsp, kDcntl, kIstat0, kScntl0, kScntl1})) return Work::kLong;
    return TouchesAny(event, {kDien, kSien0, kSien1, kIstat1, kCtest4, kSocl, kStest2, kStest3})
               ? Work::kQuick
               : Work::kNone;
  }

  ReadKind KindOf(const Event& read) const override {
    if (TouchesAny(read, {kDstat, kCtest2, kSist0, kSist1})) return ReadKind::kOnce;
    const bool moves =
        TouchesAny(read, {kIstat0, kIstat1}) || read.Touches(kConfigRegion, pci::kStatus, 2);
    return moves ? ReadKind::kVolatile : ReadKind::kFixed;
  }

  std::span<const Event> status() const override { return status_; }
  // What runs shows nowhere that all chips agree on; its interrupt is awaited.
  bool Busy(std::span<const uint64_t>) const override { return false; }

  // Scripts start where the workload put one, and timers would make time matter.
  bool Allows(const Event& event) const override {
    return event.kind != Event::Kind::kWrite ||
           !TouchesAny(event, {kDsp, kDcntl, kIstat0, kStime0, kStime1});
  }

  std::string FieldsText(const Event& event, uint64_t value) const override {
    if (event.size != 1 || !IsRegisterBar(event.region)) return {};
    std::string out;
    for (const Bits& row : kBits) {
      if (OffsetOf(row.reg) != event.offset % kRegisterSize) continue;
      for (uint32_t bit = 8; bit-- != 0;) {
        if ((value >> bit & 1) != 0) out += " " + std::string(row.names[7 - bit]);
      }
    }
    return out;
  }

  std::unique_ptr<Workload> MakeWorkload(uint64_t seed, const Lawful&) const override {
    return std::make_unique<LsiWorkload>(seed);
  }

 private:
  static bool IsRegisterBar(uint32_t region) { return region == kIoBar || region == kMemoryBar; }

  // BAR 1 repeats the registers.
  static bool TouchesAny(const Event& event, std::initializer_list<Reg> regs) {
    if (!event.is_access() || !IsRegisterBar(event.region)) return false;
    const uint64_t from = event.offset % kRegisterSize;
    for (const Reg reg : regs) {
      const uint64_t at = OffsetOf(reg);
      for (const uint64_t base : {at, at + kRegisterSize}) {
        if (from < base + kRegisters[reg].width && base < from + event.size) return true;
      }
    }
    return false;
  }

  const std::array<Event, 1> status_{Read(kIoBar, OffsetOf(kIstat0), 1)};
};

}  // namespace

const Model& LsiModel() {
  static const Lsi model;
  return model;
}

}  // namespace farside::diff
