// SCSI disks and CD drives as the registry knows them.
#pragma once

#include "devices/registry/registry.h"

namespace farside::scsi {

extern const Model kDiskModel;
extern const Model kCdModel;

}  // namespace farside::scsi
