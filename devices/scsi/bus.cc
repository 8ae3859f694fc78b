#include "devices/scsi/bus.h"

namespace farside::scsi {}  // namespace farside::scsi
