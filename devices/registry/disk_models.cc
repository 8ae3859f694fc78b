#include "devices/nvme/model.h"
#include "devices/registry/registry.h"

namespace farside {

std::span<const Model* const> DiskModels() {
  static constexpr const Model* kModels[] = {
      &nvme::kModel,
  };
  return kModels;
}

}  // namespace farside
