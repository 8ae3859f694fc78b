// Referee: knows the rules of a device's specification, and watches a device from outside: what the
// driver writes, what the device reads from and writes to memory, its interrupts. It shares no
// state with the model, so the two do not agree on the same mistake.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "devices/core/device.h"

namespace farside::fuzz {

class Referee {
 public:
  virtual ~Referee() = default;

  // A session begins in the state of a new device or, `ready`, in the one of MarkReady.
  virtual void Begin(bool ready) = 0;
  virtual void MarkReady() = 0;
  // The device is being reset by its server, and is then as new.
  virtual void BeginReset() = 0;
  virtual void EndReset() = 0;
  // Nothing that is known of the device is certain any more, until its driver starts it again.
  virtual void Lose() = 0;

  // An event begins: memory and disks may have changed.
  virtual void OnEvent() = 0;
  // The driver has read.
  virtual void OnRead(Region region, uint64_t offset, ConstBytes out) = 0;
  // The driver writes; and then the device has taken it.
  virtual void BeginWrite(Region region, uint64_t offset, ConstBytes in) = 0;
  virtual void EndWrite(Region region, uint64_t offset, ConstBytes in) = 0;
  // DMA begins; it may wait before it is done.
  virtual void BeginDma(const char* what, uint64_t iova) = 0;
  // And has succeeded, but for leased memory.
  virtual void OnDmaRead(uint64_t iova, ConstBytes out) = 0;
  virtual void OnDmaWrite(uint64_t iova, ConstBytes in) = 0;
  virtual void OnMsix(uint32_t vector) = 0;
  // Nothing is left to do: no task runs, and nothing holds up memory or disks.
  virtual void OnIdle() = 0;
};

}  // namespace farside::fuzz
