// What the design needs and vfio-user lacks: extensions between Farside's own ends. Each is offered
// by the client in VERSION ("farside": {"interrupt": true, "clock": true} among the capabilities)
// and only then answered by the server; others never see them. A client that gives "device", the id
// it expects, is told the server's.
#pragma once

#include <cstdint>

#include "protocol/vfio_user.h"

namespace farside::vfio_user {

enum class ExtensionCommand : uint16_t {
  kInterrupt = 0x8001,     // Server to client, always with NO_REPLY.
  kClockAdvance = 0x8002,  // Client to server.
};

// In-band interrupts have one order with DMA and replies. The client asks for them vector by vector
// with DEVICE_SET_IRQS whose data kind is kIrqDataInband (no fds, action TRIGGER), which arms
// start..start+count as an eventfd would.
inline constexpr uint32_t kIrqDataInband = 1 << 16;

struct Interrupt {
  uint32_t index = 0;  // IrqIndex.
  uint32_t vector = 0;
};
static_assert(sizeof(Interrupt) == 8);

// From VERSION on, the device's clock stands at 0 and moves only by this: to `time_ns`, never back.
// The reply is empty and comes when what was due by then has been begun.
struct ClockAdvance {
  uint64_t time_ns = 0;
};
static_assert(sizeof(ClockAdvance) == 8);

}  // namespace farside::vfio_user
