// Who drives a device's clock sees to its deadline.
#pragma once

#include "base/clock.h"
#include "devices/core/device.h"

namespace farside {

// Has the device act on its deadline if that has come; `clock` is the device's.
inline void CheckDeadline(Device& device, const Clock& clock) {
  const auto deadline = device.NextDeadline();
  if (deadline && *deadline <= clock.now_ns()) device.OnDeadline();
}

}  // namespace farside
