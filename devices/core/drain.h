// A device that was reset goes on when its work of before has ended, for who has nothing to say
// between the two.
#pragma once

#include "base/task.h"
#include "devices/core/device.h"

namespace farside {

// `device` outlives the task.
inline Task<void> DrainAndResume(Device& device) {
  co_await device.Drain();
  device.Resume();
}

}  // namespace farside
