#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "devices/core/pci_registers.h"
#include "fuzz/host/host.h"
#include "fuzz/mutator/grammar.h"
#include "harness/diff/lawful.h"

namespace farside::fuzz {
namespace {

constexpr uint32_t kConfig = diff::kConfigRegion;

// Per mille of pieces; the rest is work.
constexpr uint64_t kRegisters = 220;
constexpr uint64_t kConfigs = 70;
constexpr uint64_t kHosts = 110;

}  // namespace

Event ReadOf(uint32_t region, uint64_t offset, uint32_t size) {
  return {.kind = Kind::kRead,
          .what = static_cast<uint8_t>(region),
          .size = static_cast<uint8_t>(size),
          .at = offset};
}

Event WriteOf(uint32_t region, uint64_t offset, uint32_t size, uint64_t value) {
  return {.kind = Kind::kWrite,
          .what = static_cast<uint8_t>(region),
          .size = static_cast<uint8_t>(size),
          .at = offset,
          .value = value};
}

ConstBytes Making::RandomBytes(size_t size) {
  const Bytes bytes = store.Add(size);
  for (size_t at = 0; at < size; at += 8) StoreLePartial(bytes.subspan(at), random.Next());
  return bytes;
}

uint64_t Making::Number() {
  const uint64_t bit = uint64_t{1} << random.Below(64);
  switch (random.Below(7)) {
    case 0:
      return 0;
    case 1:
      return ~uint64_t{0} >> random.Below(64);
    case 2:
      return bit;
    case 3:
      return bit - 1;
    case 4:
      return random.Below(16);
    case 5:
      return ~bit;
    default:
      return random.Next();
  }
}

uint64_t SomeMemory(Making& making, uint64_t size) {
  if (making.OneIn(20)) return making.Number();
  const bool high = making.OneIn(10);
  const uint64_t base = high ? Host::kHighBase : Host::kBase;
  const uint64_t limit = high ? Host::kHighSize : Host::kSize;
  // Up to the end of it, and now and then across.
  if (making.OneIn(16)) return base + limit - making.Below(2 * size + 1);
  const uint64_t pages = limit / 4096;
  const uint64_t offset = making.OneIn(3) ? making.Below(1024) * 4 : 0;
  return base + making.Below(pages) * 4096 + offset;
}

void Grammar::AddPrologue(Store&, std::vector<Event>*) const {}
std::string Grammar::Describe(const Event&) const { return {}; }
void Grammar::AddWords(std::vector<Event>*) const {}

void Grammar::MutateData(Making& making, const Event&, Bytes data) const {
  if (data.empty()) return;
  const size_t width = size_t{1} << making.Below(4);
  const size_t at = making.Below(data.size()) / width * width;
  const Bytes field = data.subspan(at, std::min(width, data.size() - at));
  uint64_t value = LoadLePartial(field);
  switch (making.Below(4)) {
    case 0:
      value ^= uint64_t{1} << making.Below(8 * field.size());
      break;
    case 1:
      value += making.Below(17) - 8;
      break;
    default:
      value = making.Number();
  }
  StoreLePartial(field, value);
}

void DeviceGrammar::AddPiece(Making& making, std::span<const Event> before,
                             std::vector<Event>* out) const {
  uint64_t dice = making.Below(1000);
  if (dice < kRegisters) return AddRegisterAccess(making, out);
  dice -= kRegisters;
  if (dice < kConfigs) return AddConfigAccess(making, out);
  dice -= kConfigs;
  if (dice < kHosts) return AddHostEvent(making, out);
  dice -= kHosts;
  if (dice < driver_work_) return AddDriverWork(making, out);
  AddWork(making, before, out);
}

// A value for a register: its own bits, and what lies around them.
static uint64_t ValueOf(Making& making, const RegisterDef& row) {
  const uint64_t all = WidthMask(row.width);
  const uint64_t own = row.writable | row.set | row.clear;
  switch (making.Below(6)) {
    case 0:
      return making.random.Next() & own;
    case 1:
      return own;
    case 2:
      return (own + making.Below(3) - 1) & all;
    case 3:
      return row.reset ^ (uint64_t{1} << making.Below(8 * row.width));
    default:
      return making.Number() & all;
  }
}

void DeviceGrammar::AddRegisterAccess(Making& making, std::vector<Event>* out) const {
  const auto spaces = model_.spaces().subspan(1);
  const diff::RegisterSpace& space = spaces[making.Below(spaces.size())];
  constexpr RegisterDef kAnything{.name = "anything", .writable = 0xffff'ffff};
  const bool named = !space.rows.empty() && !making.OneIn(12);
  const RegisterDef& row = named ? space.rows[making.Below(space.rows.size())] : kAnything;
  uint64_t offset = named ? row.offset : making.Below(space.size);
  uint32_t size = row.width;
  if (making.OneIn(4)) {
    // Part of it, or across its end, or across the region's.
    size = 1u << making.Below(4);
    offset += making.Below(row.width);
    if (making.OneIn(16)) offset = space.size - making.Below(9);
  }
  if (making.OneIn(3)) {
    out->push_back(ReadOf(space.region, offset, size));
  } else {
    out->push_back(WriteOf(space.region, offset, size, ValueOf(making, row)));
  }
}

void DeviceGrammar::AddConfigAccess(Making& making, std::vector<Event>* out) const {
  const uint32_t size = 1u << making.Below(3);
  const diff::RegisterSpace& header = model_.spaces().front();
  // Command, mostly; capabilities; anywhere.
  switch (making.Below(6)) {
    case 0:
    case 1:
      out->push_back(WriteOf(kConfig, pci::kCommand, 2,
                             making.OneIn(2) ? 0x7 ^ (1u << making.Below(11))
                                             : making.Pick({0u, 0x2u, 0x6u, 0x7u, 0x407u})));
      if (!making.OneIn(8)) out->push_back(WriteOf(kConfig, pci::kCommand, 2, 0x7));
      return;
    case 2: {
      const RegisterDef& row = header.rows[making.Below(header.rows.size())];
      out->push_back(WriteOf(kConfig, row.offset, std::min(row.width, 4u), ValueOf(making, row)));
      return;
    }
    case 3:
      out->push_back(ReadOf(kConfig,
                            making.OneIn(4) ? pci::kConfigSize - making.Below(6)
                                            : making.Below(pci::kConventionalSize),
                            size));
      return;
    default:
      out->push_back(WriteOf(kConfig, pci::kFirstCapability + making.Below(0xc0), size,
                             making.Number() & 0xffff'ffff));
  }
}

void DeviceGrammar::AddHostEvent(Making& making, std::vector<Event>* out) const {
  switch (making.Below(16)) {
    case 0:
      out->push_back({.kind = Kind::kReset});
      if (!making.OneIn(6)) AddPrologue(making.store, out);
      return;
    case 1:
    case 2:
      out->push_back({.kind = Kind::kSaveLoad});
      return;
    case 3:
      // A bit of the state flips on its way.
      out->push_back({.kind = Kind::kSaveLoad,
                      .at = making.Below(1 << 16),
                      .value = uint64_t{1} << making.Below(8)});
      return;
    case 4:
      out->push_back({.kind = Kind::kClock, .value = making.Number() >> making.Below(40)});
      return;
    case 5:
    case 6:
      out->push_back({.kind = Kind::kHold});
      return;
    case 7:
      out->push_back({.kind = Kind::kFault});
      return;
    case 8:
    case 9:
      out->push_back({.kind = Kind::kReflect,
                      .what = static_cast<uint8_t>(making.Below(6)),
                      .size = static_cast<uint8_t>(making.Below(16)),
                      .at = making.Below(64) * 4});
      return;
    case 10:
    case 11:
      out->push_back({.kind = Kind::kDisk,
                      .what = static_cast<uint8_t>(making.Below(4)),
                      .value = making.Below(140)});
      return;
    case 12:
      out->push_back({.kind = Kind::kMap,
                      .size = static_cast<uint8_t>(making.Below(4)),
                      .at = SomeMemory(making, 4096),
                      .value = 4096 * making.Below(17)});
      return;
    case 13: {
      const bool all = making.OneIn(2);
      out->push_back({.kind = Kind::kUnmap,
                      .at = all ? 0 : making.Pick({Host::kBase, Host::kHighBase}),
                      .value = all ? ~uint64_t{0} : making.Pick({Host::kSize, Host::kHighSize})});
      for (uint64_t at = 0; at < Host::kSize && !making.OneIn(8); at += Host::kMaxWindowSize) {
        out->push_back(
            {.kind = Kind::kMap, .size = 3, .at = Host::kBase + at, .value = Host::kMaxWindowSize});
      }
      return;
    }
    case 14:
      out->push_back({.kind = Kind::kMemory,
                      .at = SomeMemory(making, 64),
                      .data = making.RandomBytes(8 * (1 + making.Below(16)))});
      return;
    default:
      out->push_back({.kind = Kind::kIrqs,
                      .what = static_cast<uint8_t>(making.Below(5)),
                      .size = static_cast<uint8_t>(making.Below(64)),
                      .at = making.Below(4),
                      .value = making.Below(8)});
  }
}

void DeviceGrammar::AddDriverWork(Making& making, std::vector<Event>* out) const {
  static const diff::Lawful lawful;
  const auto workload = model_.MakeWorkload(making.random.Next(), lawful);
  std::vector<diff::Event> work;
  for (uint64_t i = 1 + making.Below(3); i != 0; --i) workload->Next(&work);
  for (const diff::Event& event : work) {
    switch (event.kind) {
      case diff::Event::Kind::kRead:
        out->push_back(ReadOf(event.region, event.offset, event.size));
        break;
      case diff::Event::Kind::kWrite:
        out->push_back(WriteOf(event.region, event.offset, event.size, event.value));
        break;
      case diff::Event::Kind::kMemory:
        out->push_back({.kind = Kind::kMemory,
                        .at = event.offset,
                        .data = making.store.Add(
                            ConstBytes(event.data).first(std::min(event.data.size(), kMaxData)))});
        break;
      case diff::Event::Kind::kReset:
        out->push_back({.kind = Kind::kReset});
        break;
      case diff::Event::Kind::kAwait:
      case diff::Event::Kind::kAwaitMemory:
      case diff::Event::Kind::kSettle:
        break;
    }
  }
}

void DeviceGrammar::AddFunctionSetUp(std::span<const std::pair<uint32_t, uint64_t>> bars,
                                     std::vector<Event>* out) const {
  for (const auto& [bar, address] : bars) {
    out->push_back(WriteOf(kConfig, pci::kBar0 + bar * 4, 4, address));
  }
  out->push_back(WriteOf(kConfig, pci::kCommand, 2,
                         pci::kCommandIo | pci::kCommandMemory | pci::kCommandBusMaster));
}

std::string DeviceGrammar::Describe(const Event& event) const {
  if (event.kind != Kind::kRead && event.kind != Kind::kWrite) return {};
  return model_.PlaceName(event.what, event.at);
}

// Every register: read, and all of its bits written.
void DeviceGrammar::AddWords(std::vector<Event>* out) const {
  for (const diff::RegisterSpace& space : model_.spaces()) {
    for (const RegisterDef& row : space.rows) {
      out->push_back(ReadOf(space.region, row.offset, row.width));
      const uint64_t all = row.writable | row.set | row.clear;
      if (all != 0) out->push_back(WriteOf(space.region, row.offset, row.width, all));
    }
  }
}

}  // namespace farside::fuzz
