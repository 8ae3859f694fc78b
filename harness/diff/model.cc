#include "harness/diff/model.h"

#include <fmt/format.h>

#include "harness/trace/device_view.h"

namespace farside::diff {
namespace {

using Kind = Event::Kind;

constexpr const Model& (*kModels[])() = {&NvmeModel, &LsiModel};

}  // namespace

const Model* FindModel(std::string_view name) {
  for (const auto model : kModels) {
    if (model().name() == name) return &model();
  }
  return nullptr;
}

std::string ModelNames() {
  std::string out;
  for (const auto model : kModels) {
    out += (out.empty() ? "" : ", ") + std::string(model().name());
  }
  return out;
}

const RegisterDef* Model::Find(uint32_t region, uint64_t offset) const {
  for (const RegisterSpace& space : spaces()) {
    if (space.region != region) continue;
    for (const RegisterDef& row : space.rows) {
      if (offset >= row.offset && offset - row.offset < row.width) return &row;
    }
  }
  return nullptr;
}

std::string Model::PlaceName(uint32_t region, uint64_t offset) const {
  const RegisterDef* row = Find(region, offset);
  const std::string where = trace::RegionText(region);
  if (row == nullptr) return fmt::format("{}+{:#x}", where, offset);
  if (offset == row->offset) return fmt::format("{} {}", where, row->name);
  return fmt::format("{} {}+{}", where, row->name, offset - row->offset);
}

std::string Model::Text(const Event& event) const {
  switch (event.kind) {
    case Kind::kRead:
      return fmt::format("{} ({:#x}) read {}", PlaceName(event.region, event.offset), event.offset,
                         event.size);
    case Kind::kWrite:
      return fmt::format("{} ({:#x}) write {} = {:#x}{}", PlaceName(event.region, event.offset),
                         event.offset, event.size, event.value, FieldsText(event, event.value));
    case Kind::kMemory:
      return fmt::format("memory {:#x} write {} bytes{}", event.offset, event.data.size(),
                         MemoryText(event));
    case Kind::kReset:
      return "reset";
    case Kind::kAwait:
      return fmt::format("await {} & {:#x} {} {:#x}", PlaceName(event.region, event.offset),
                         event.mask, event.differs ? "!=" : "==", event.value);
    case Kind::kAwaitMemory:
      return fmt::format("await memory {:#x} & {:#x} {} {:#x}", event.offset, event.mask,
                         event.differs ? "!=" : "==", event.value);
    case Kind::kSettle:
      break;
  }
  return "settle";
}

}  // namespace farside::diff
