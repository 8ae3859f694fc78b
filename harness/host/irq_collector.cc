#include "harness/host/irq_collector.h"

#include <cerrno>
#include <utility>

namespace farside {

Result<std::unique_ptr<IrqCollector>> IrqCollector::Arm(DeviceClient& client,
                                                        vfio_user::IrqIndex index, uint32_t count) {
  const auto info = client.GetIrqInfo(index);
  if (!info) return tl::unexpected(info.error());
  if (count > info->count) {
    return FailWith(EINVAL, "the device has {} interrupts of kind {}, not {}", info->count,
                    static_cast<uint32_t>(index), count);
  }
  std::unique_ptr<IrqCollector> out(new IrqCollector(client, index));
  std::vector<int> fds;
  for (uint32_t i = 0; i < count; ++i) {
    auto eventfd = MakeEventfd();
    if (!eventfd) return tl::unexpected(eventfd.error());
    fds.push_back(eventfd->get());
    out->vectors_.push_back({.eventfd = std::move(*eventfd)});
  }
  if (const auto armed = client.ArmIrqs(index, 0, fds); !armed) {
    return tl::unexpected(armed.error());
  }
  return out;
}

IrqCollector::~IrqCollector() {
  // A refusal changes nothing: the eventfds are gone in any case.
  if (client_.alive()) (void)client_.DisableIrqs(index_);
}

void IrqCollector::Drain(Vector& vector) {
  const uint64_t signals = DrainEventfd(vector.eventfd.get());
  vector.total += signals;
  vector.untaken += signals;
}

uint64_t IrqCollector::Take(uint32_t vector) {
  Drain(vectors_[vector]);
  return std::exchange(vectors_[vector].untaken, 0);
}

uint64_t IrqCollector::total(uint32_t vector) {
  Drain(vectors_[vector]);
  return vectors_[vector].total;
}

Result<bool> IrqCollector::Wait(uint32_t vector, uint64_t timeout_ns) {
  Drain(vectors_[vector]);
  if (vectors_[vector].untaken != 0) return true;
  const auto readable = client_.WaitReadable(fd(vector), timeout_ns);
  if (!readable) return readable;
  Drain(vectors_[vector]);
  return vectors_[vector].untaken != 0;
}

}  // namespace farside
