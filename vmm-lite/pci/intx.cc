#include "vmm-lite/pci/intx.h"

#include "base/fd.h"
#include "base/log.h"

namespace farside::vmm {

Result<void> IntxRouter::Attach(const IntxLine& line) {
  const auto gsi = gsi_[line.pirq];
  if (!gsi) return {};
  auto attached = vm_.AssignIrqfd(line.interrupt, *gsi, line.resample);
  if (attached) SignalEventfd(line.resample);
  return attached;
}

Result<void> IntxRouter::Add(const IntxLine& line) {
  const std::lock_guard lock(mutex_);
  auto attached = Attach(line);
  if (attached) lines_.insert(line);
  return attached;
}

void IntxRouter::Remove(const IntxLine& line) {
  const std::lock_guard lock(mutex_);
  if (lines_.erase(line) != 0 && gsi_[line.pirq]) {
    vm_.DeassignIrqfd(line.interrupt, *gsi_[line.pirq]);
  }
}

void IntxRouter::Route(uint32_t pirq, uint8_t value) {
  const std::lock_guard lock(mutex_);
  std::optional<uint32_t> gsi;
  if ((value & kPirqDisabled) == 0) gsi = value & kPirqIrqMask;
  if (gsi == gsi_[pirq]) return;
  for (const IntxLine& line : lines_) {
    if (line.pirq == pirq && gsi_[pirq]) vm_.DeassignIrqfd(line.interrupt, *gsi_[pirq]);
  }
  gsi_[pirq] = gsi;
  for (const IntxLine& line : lines_) {
    if (line.pirq != pirq) continue;
    if (auto attached = Attach(line); !attached) {
      LogError("vmm-lite", "interrupt {}: {}", *gsi, attached.error().message);
    }
  }
}

}  // namespace farside::vmm
