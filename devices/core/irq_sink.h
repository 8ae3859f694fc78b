// IrqSink: where a device's interrupts go.
#pragma once

#include <cstdint>

namespace farside {

class IrqSink {
 public:
  virtual ~IrqSink() = default;

  // The INTx line as the device drives it: a level, not an event. Idempotent.
  virtual void SetIntx(bool asserted) = 0;
  virtual void SignalMsi(uint32_t vector) = 0;
  virtual void SignalMsix(uint32_t vector) = 0;

  // True where the peer emulates the MSI-X table and its masks (vfio-user): the device then signals
  // whatever vector it has and never looks at its own table, and the sink keeps the pending bits.
  virtual bool owns_msix_table() const = 0;
  // Pending bit of `vector`, for PBA reads. Only where owns_msix_table().
  virtual bool msix_pending(uint32_t vector) const = 0;
  // The function was reset: what is pending in the sink is gone.
  virtual void ClearPending() {}
};

}  // namespace farside
