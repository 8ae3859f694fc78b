#include "harness/diff/generator.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "devices/core/pci_registers.h"
#include "harness/diff/config_registers.h"

namespace farside::diff {
namespace {

// Per mille of what begins anew; the rest is the workload's next piece.
constexpr uint64_t kReset = 1;
constexpr uint64_t kConfigReads = 120;
constexpr uint64_t kConfigWrites = 40;
constexpr uint64_t kRegisters = 660;
// Of accesses of BARs one in so many is a write, or goes anywhere instead of to a named register.
constexpr uint64_t kWriteOneIn = 4;
constexpr uint64_t kAnywhereOneIn = 12;
// Of writes that make long work, and so disturb the driver's, one in so many is kept.
constexpr uint64_t kDisturbOneIn = 8;
constexpr uint16_t kDecode = pci::kCommandIo | pci::kCommandMemory | pci::kCommandBusMaster;

}  // namespace

Generator::Generator(const Model& model, uint64_t seed, Lawful lawful)
    : model_(model),
      lawful_(std::move(lawful)),
      random_(Mix64(seed)),
      workload_(model.MakeWorkload(Mix64(seed ^ 1), lawful_)) {}

Event Generator::Next() {
  while (next_ == queue_.size()) Refill();
  return std::move(queue_[next_++]);
}

void Generator::Refill() {
  queue_.clear();
  next_ = 0;
  const uint64_t dice = random_.Below(1000);
  if (std::exchange(fresh_, false) || dice >= kReset + kConfigReads + kConfigWrites + kRegisters)
    return workload_->Next(&queue_);
  Event event{.kind = Event::Kind::kReset, .data = {}};
  if (dice >= kReset) {
    event = dice < kReset + kConfigReads                   ? ConfigRead()
            : dice < kReset + kConfigReads + kConfigWrites ? ConfigWrite()
                                                           : RegisterAccess();
  }
  const bool disturbs = event.kind == Event::Kind::kWrite && model_.WorkOf(event) == Work::kLong;
  if (!model_.Allows(event) || (disturbs && !random_.OneIn(kDisturbOneIn))) return;
  for (const std::string& operation : lawful_.avoided()) {
    if (model_.IsOf(operation, event)) return;
  }
  if (event.kind == Event::Kind::kWrite && !lawful_.Adapt(&event)) return;
  fresh_ = event.kind == Event::Kind::kReset;
  workload_->Prepare(event, &queue_);
  workload_->OnOther(event);
  queue_.push_back(std::move(event));
}

// Values at which registers go wrong.
uint64_t Generator::Value(const RegisterDef& row) {
  const uint64_t all = WidthMask(row.width);
  switch (random_.Below(8)) {
    case 0:
      return 0;
    case 1:
      return all;
    case 2:
      return uint64_t{1} << random_.Below(8 * row.width);
    case 3:
      return all ^ uint64_t { 1 } << random_.Below(8 * row.width);
    case 4:
      return row.reset;
    case 5:
      // Around the largest value of the register's own bits.
      return ((row.writable | row.set | row.clear) + random_.Below(3) - 1) & all;
    default:
      return random_.Next() & all;
  }
}

Event Generator::RegisterAccess() {
  const auto spaces = model_.spaces().subspan(1);
  const RegisterSpace& space = spaces[random_.Below(spaces.size())];
  // Where there are no registers, as in SCRIPTS RAM, any place is as good.
  constexpr RegisterDef kAnything{.name = "anything", .writable = 0xffff'ffff};
  const bool named = !space.rows.empty();
  const RegisterDef& row = named ? space.rows[random_.Below(space.rows.size())] : kAnything;
  uint64_t offset = row.offset;
  uint32_t size = row.width;
  if (random_.OneIn(3)) {
    // Part of it, or across its end.
    size = 1u << random_.Below(4);
    offset += random_.Below(row.width);
    if (!random_.OneIn(4)) offset -= offset % size;
  }
  size = std::min(size, space.max_access);
  if (!named || random_.OneIn(kAnywhereOneIn)) {
    offset = random_.Below(space.size);
    offset -= random_.OneIn(4) ? 0 : offset % size;
  }
  offset = std::min(offset, space.size - size);
  if (!random_.OneIn(kWriteOneIn)) return Read(space.region, offset, size);
  return Write(space.region, offset, size, Value(row));
}

Event Generator::ConfigRead() {
  const RegisterSpace& space = model_.spaces().front();
  const uint32_t size = 1u << random_.Below(3);
  uint64_t offset = random_.Below(space.size);
  if (!random_.OneIn(8)) offset -= offset % size;
  return Read(kConfigRegion, std::min<uint64_t>(offset, space.size - size), size);
}

Event Generator::ConfigWrite() {
  const RegisterSpace& space = model_.spaces().front();
  const RegisterDef& row = space.rows[random_.Below(space.rows.size())];
  const bool is_bar = row.offset >= pci::kBar0 && row.offset < pci::kBar0 + 6 * 4;
  if (is_bar || row.offset == pci::kRomAddress || row.width > 4) {
    return Read(kConfigRegion, row.offset, std::min(row.width, 4u));
  }
  uint64_t value = Value(row);
  // The rows of Command say which of its bits may change; those of decoding stay on.
  if (row.offset == pci::kCommand) value = (value & row.writable) | kDecode;
  return Write(kConfigRegion, row.offset, row.width, value);
}

}  // namespace farside::diff
