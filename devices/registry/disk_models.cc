#include "devices/lsi53c895a/model.h"
#include "devices/nvme/model.h"
#include "devices/registry/registry.h"
#include "devices/scsi/model.h"

namespace farside {

std::span<const Model* const> DiskModels() {
  static constexpr const Model* kModels[] = {
      &nvme::kModel,
      &lsi53c895a::kModel,
      &scsi::kDiskModel,
      &scsi::kCdModel,
  };
  return kModels;
}

}  // namespace farside
