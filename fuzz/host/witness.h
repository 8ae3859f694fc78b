// Witness: a second device in the process that is not attacked, and whose I/O must be right.
#pragma once

#include <cstdint>
#include <memory>

#include "base/loop.h"
#include "devices/testing/fake_host.h"
#include "devices/testing/nvme_driver.h"
#include "fuzz/host/models.h"

namespace farside::fuzz {

// An NVMe controller with a driver of its own. Oracle "witness": its I/O fails, or gives other
// bytes than were written.
class Witness {
 public:
  explicit Witness(Loop& loop);
  ~Witness();

  // Writes a block, reads it and compares. Nothing else is ready in the loop.
  void Check();

 private:
  Loop& loop_;
  FakeHost host_;
  IrqRecorder irqs_;
  ModelBackends backends_;
  std::unique_ptr<Device> device_;
  nvme::Driver driver_;
  uint64_t buffer_ = 0;
  uint64_t round_ = 0;
};

}  // namespace farside::fuzz
