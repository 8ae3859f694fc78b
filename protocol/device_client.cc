#include "protocol/device_client.h"

#include <algorithm>

namespace farside {

using namespace vfio_user;

Result<void> DeviceClient::ArmIrqs(IrqIndex index, uint32_t start, std::span<const int> eventfds) {
  while (!eventfds.empty()) {
    const auto part = eventfds.first(std::min(eventfds.size(), max_irq_fds()));
    const auto count = static_cast<uint32_t>(part.size());
    const auto armed = SetIrqs({.flags = kIrqDataEventfd | kIrqActionTrigger,
                                .index = static_cast<uint32_t>(index),
                                .start = start,
                                .count = count},
                               {}, part);
    if (!armed) return armed;
    start += count;
    eventfds = eventfds.subspan(part.size());
  }
  return {};
}

Result<void> DeviceClient::DisarmIrqs(IrqIndex index, uint32_t start, uint32_t count) {
  return SetIrqs({.flags = kIrqDataEventfd | kIrqActionTrigger,
                  .index = static_cast<uint32_t>(index),
                  .start = start,
                  .count = count},
                 {}, {});
}

Result<void> DeviceClient::DisableIrqs(IrqIndex index) {
  return SetIrqs({.flags = kIrqDataNone | kIrqActionTrigger, .index = static_cast<uint32_t>(index)},
                 {}, {});
}

Result<void> DeviceClient::Act(IrqIndex index, uint32_t vector, uint32_t action) {
  return SetIrqs({.flags = kIrqDataNone | action,
                  .index = static_cast<uint32_t>(index),
                  .start = vector,
                  .count = 1},
                 {}, {});
}

}  // namespace farside
