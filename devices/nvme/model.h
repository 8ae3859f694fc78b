// The NVMe controller as the registry knows it.
#pragma once

#include "devices/registry/registry.h"

namespace farside::nvme {

extern const Model kModel;

}  // namespace farside::nvme
