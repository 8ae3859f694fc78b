// IrqCollector: the interrupts of a device, as eventfds that are counted.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "protocol/device_client.h"

namespace farside {

// Vectors 0 to count - 1 of one kind, from Arm to the end of the object. The enable bits in
// configuration space are PciFunction's. One thread at a time per vector.
class IrqCollector {
 public:
  // `client` outlives the collector.
  static Result<std::unique_ptr<IrqCollector>> Arm(DeviceClient& client, vfio_user::IrqIndex index,
                                                   uint32_t count);
  // Disables the interrupts of this kind, if the client is still alive.
  ~IrqCollector();

  uint32_t count() const { return static_cast<uint32_t>(vectors_.size()); }
  vfio_user::IrqIndex index() const { return index_; }
  // Signals of `vector` since the last Take.
  uint64_t Take(uint32_t vector);
  // Signals of `vector` so far, taken ones too.
  uint64_t total(uint32_t vector);
  // Waits until `vector` was signalled since the last Take; false when the time is over. The
  // device's DMA is answered meanwhile.
  Result<bool> Wait(uint32_t vector, uint64_t timeout_ns);
  int fd(uint32_t vector) const { return vectors_[vector].eventfd.get(); }

  // After an INTx was served: the device signals again if its line is still up.
  Result<void> UnmaskIntx() { return client_.UnmaskIrq(vfio_user::IrqIndex::kIntx, 0); }

 private:
  struct Vector {
    UniqueFd eventfd;
    uint64_t total = 0;
    uint64_t untaken = 0;
  };

  IrqCollector(DeviceClient& client, vfio_user::IrqIndex index) : client_(client), index_(index) {}
  void Drain(Vector& vector);

  DeviceClient& client_;
  const vfio_user::IrqIndex index_;
  std::vector<Vector> vectors_;
};

}  // namespace farside
