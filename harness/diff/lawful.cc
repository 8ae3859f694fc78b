#include "harness/diff/lawful.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "base/options.h"
#include "harness/scenario/value.h"

namespace farside::diff {

using nlohmann::json;

namespace {

enum class Kind { kRead, kWrite, kInterrupt, kMemory, kAvoid };
constexpr OptionWord<Kind> kKinds[] = {{"read", Kind::kRead},
                                       {"write", Kind::kWrite},
                                       {"interrupt", Kind::kInterrupt},
                                       {"memory", Kind::kMemory},
                                       {"avoid", Kind::kAvoid}};

// In a row: all places of regions with registers in which there is none.
constexpr std::string_view kReserved = "reserved";

struct Place {
  uint32_t region = 0;
  const RegisterDef* row = nullptr;
};

std::optional<Place> FindRegister(const Model& model, std::string_view name) {
  for (const RegisterSpace& space : model.spaces()) {
    const auto row = std::ranges::find(space.rows, name, &RegisterDef::name);
    if (row != space.rows.end()) return Place{space.region, &*row};
  }
  return std::nullopt;
}

// "all", or a number.
Result<uint64_t> ParseBits(const json* bits, uint64_t all) {
  if (bits == nullptr) return Fail("'bits' is missing: a mask like \"0x30\", or \"all\"");
  if (*bits == "all") return all;
  const auto number = scenario::ReadNumber(*bits);
  if (!number || *number == 0 || (*number & ~all) != 0) {
    return Fail("'bits' is {}: give a mask of bits that are there, up to {:#x}, or \"all\"",
                bits->dump(), all);
  }
  return *number;
}

Result<void> CheckShare(std::string_view of, uint64_t masked, uint64_t total) {
  const double share =
      static_cast<double>(masked) / static_cast<double>(std::max<uint64_t>(total, 1));
  if (share <= Lawful::kMaxMasked) return {};
  return Fail("the rows mask {} of {} bits of {}, {:.1f} %: more than {:.0f} % is no comparison",
              masked, total, of, 100 * share, 100 * Lawful::kMaxMasked);
}

}  // namespace

uint64_t RegisterBits(const Model& model) {
  uint64_t bits = 0;
  for (const RegisterSpace& space : model.spaces()) {
    for (const RegisterDef& row : space.rows) bits += uint64_t{8} * row.width;
  }
  return bits;
}

uint64_t MemoryBits(const Model& model) {
  // Fields may lie in fields.
  std::set<uint64_t> bytes;
  for (const MemoryField& field : model.fields()) {
    for (uint64_t i = 0; i < field.size; ++i) bytes.insert(field.iova + i);
  }
  return 8 * bytes.size();
}

bool Lawful::AllowsInterrupt(std::span<const uint64_t> answers) const {
  return std::ranges::any_of(
      interrupts_, [&](const auto& row) { return (answers[row.first] & row.second) != 0; });
}

Result<void> Lawful::AddRegister(const Model& model, const std::string& name, const json* bits,
                                 Masks* to) {
  const auto place = FindRegister(model, name);
  if (!place) return Fail("{} has no register {}", model.name(), Quote(name));
  const auto mask = ParseBits(bits, WidthMask(place->row->width));
  if (!mask) return tl::unexpected(mask.error());
  // A register may be in several regions.
  for (const RegisterSpace& space : model.spaces()) {
    const auto row = std::ranges::find(space.rows, name, &RegisterDef::name);
    for (uint32_t i = 0; row != space.rows.end() && i < row->width; ++i) {
      const auto byte = static_cast<uint8_t>(*mask >> (8 * i));
      if (byte != 0) (*to)[{space.region, row->offset + i}] |= byte;
    }
  }
  return {};
}

void Lawful::AddReserved(const Model& model, Masks* to) {
  for (const RegisterSpace& space : model.spaces()) {
    const uint64_t size = space.repeats == 0 ? space.size : space.repeats;
    for (uint64_t at = 0; !space.rows.empty() && at < size; ++at) {
      if (model.Find(space.region, at) == nullptr) (*to)[{space.region, at}] = 0xff;
    }
  }
}

bool Lawful::Adapt(Event* write) const {
  for (uint32_t i = 0; i < write->size; ++i) {
    const uint64_t mask = WriteMask(write->region, write->offset + i);
    if (mask == 0xff) return false;
    write->value &= ~(mask << (8 * i));
  }
  return true;
}

Result<void> Lawful::AddMemory(const Model& model, const std::string& name, const json* bits) {
  const auto fields = model.fields();
  const auto field = std::ranges::find(fields, name, &MemoryField::name);
  if (field == fields.end()) return Fail("{} has no field {} in memory", model.name(), Quote(name));
  const bool all = bits != nullptr && *bits == "all";
  const auto mask =
      ParseBits(bits, WidthMask(static_cast<uint32_t>(std::min<uint64_t>(field->size, 8))));
  if (!mask) return tl::unexpected(mask.error());
  for (uint64_t i = 0; i < field->size; ++i) {
    const auto byte = static_cast<uint8_t>(all ? 0xff : i < 8 ? *mask >> (8 * i) : 0);
    if (byte != 0) memory_[{0, field->iova + i}] |= byte;
  }
  return {};
}

Result<void> Lawful::AddInterrupt(const Model& model, const std::string& name, const json* bits) {
  const auto place = FindRegister(model, name);
  if (!place) return Fail("{} has no register {}", model.name(), Quote(name));
  const auto mask = ParseBits(bits, WidthMask(place->row->width));
  if (!mask) return tl::unexpected(mask.error());
  const auto status = model.status();
  for (size_t i = 0; i < status.size(); ++i) {
    if (status[i].region != place->region || status[i].offset != place->row->offset) continue;
    interrupts_.emplace_back(i, *mask);
    return {};
  }
  return Fail("interrupts are not told by {}: name a register that shows why", name);
}

Result<void> Lawful::AddRow(const Model& model, const json& row) {
  OptionReader reader("a row", row);
  const std::string name = reader.RequiredString("register");
  const Kind kind = reader.Choice("kind", kKinds, Kind::kRead);
  const json* bits = reader.Value("bits");
  (void)reader.RequiredString("reason");  // For who reviews the row.
  const std::string page = reader.String("page", "");
  const std::string section = reader.String("section", "");
  if (auto finished = reader.Finish(); !finished) return finished;
  if (std::ranges::none_of(page + section, [](char c) { return c >= '0' && c <= '9'; })) {
    return Fail("give the 'page' or the 'section': \"NVM Express 1.4, page 42\"");
  }
  ++rows_;
  switch (kind) {
    case Kind::kRead:
      if (name == kReserved) {
        AddReserved(model, &reserved_);
        return {};
      }
      return AddRegister(model, name, bits, &reads_);
    case Kind::kWrite:
      if (name == kReserved) {
        AddReserved(model, &writes_);
        return {};
      }
      return AddRegister(model, name, bits, &writes_);
    case Kind::kInterrupt:
      return AddInterrupt(model, name, bits);
    case Kind::kAvoid:
      if (std::ranges::find(model.operations(), name) == model.operations().end()) {
        return Fail("{} has no operation {}: {}", model.name(), Quote(name),
                    fmt::join(model.operations(), ", "));
      }
      avoided_.insert(name);
      return {};
    case Kind::kMemory:
      break;
  }
  return AddMemory(model, name, bits);
}

Result<void> Lawful::CheckShares(const Model& model) {
  masked_bits_ = CountBits(reads_);
  if (auto checked = CheckShare("registers", masked_bits_, RegisterBits(model)); !checked) {
    return checked;
  }
  return CheckShare("fields in memory", CountBits(memory_), MemoryBits(model));
}

uint64_t Lawful::CountBits(const Masks& masks) {
  uint64_t bits = 0;
  for (const auto& [place, mask] : masks) bits += static_cast<uint64_t>(std::popcount(mask));
  return bits;
}

Result<Lawful> Lawful::Parse(const Model& model, const std::string& name, const json& document) {
  const auto given = document.is_object() ? document.find("device") : document.end();
  if (given == document.end() || *given != std::string(model.name())) {
    return Fail("{}: \"device\" is not {}: the rows are of another model", name,
                Quote(model.name()));
  }
  const auto rows = document.find("rows");
  if (rows == document.end() || !rows->is_array() || document.size() != 2) {
    return Fail("{}: a lawful file has \"device\" and a list \"rows\", nothing else", name);
  }
  Lawful out;
  for (const RegisterSpace& space : model.spaces()) {
    if (space.repeats != 0) out.repeats_[space.region] = space.repeats;
  }
  for (size_t i = 0; i < rows->size(); ++i) {
    if (auto added = out.AddRow(model, (*rows)[i]); !added) {
      return Fail("{}: rows[{}]: {}", name, i, added.error().message);
    }
  }
  if (auto checked = out.CheckShares(model); !checked) {
    return Fail("{}: {}", name, checked.error().message);
  }
  return out;
}

Result<Lawful> Lawful::Load(const Model& model, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return Fail("cannot read {}: does it exist?", path);
  const auto document = ParseJson(text);
  if (!document) return Fail("{}: {}", path, document.error().message);
  return Parse(model, path, *document);
}

}  // namespace farside::diff
