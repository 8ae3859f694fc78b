#include "devices/nvme/model.h"
#include "devices/registry/registry.h"
#include "devices/scsi/model.h"

namespace farside {

std::span<const Model* const> DiskModels() {
  static constexpr const Model* kModels[] = {
      &nvme::kModel,
      &scsi::kDiskModel,
      &scsi::kCdModel,
  };
  return kModels;
}

}  // namespace farside
