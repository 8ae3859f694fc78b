// A trace as a scenario: what its guest did, in raw verbs, with what the device answered.
#pragma once

#include <cstdint>
#include <string>

#include "base/error.h"

namespace farside::trace {

// Writes what the trace at `in` has of one device (its number) as the scenario `out`, which starts
// the process that the trace names. The guest's memory is written where replay writes it; what the
// device wrote is a memory.check, its interrupts an irq.expect. Event by event, in bounded memory.
Result<void> WriteScenario(const std::string& in, uint32_t device, const std::string& out);

}  // namespace farside::trace
