// IntxRouter: which interrupt of the machine each PIRQ is, and who listens to that.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <set>

#include "base/error.h"
#include "vmm-lite/kvm/vm.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {

// A function's INTx: eventfds for the interrupt and for its end, which stay the function's.
struct IntxLine {
  uint32_t pirq = 0;
  int interrupt = -1;
  int resample = -1;
};

// Lines follow the PIRQ route registers while the guest writes them (D14). Any thread.
class IntxRouter {
 public:
  explicit IntxRouter(Vm& vm) : vm_(vm) {}

  Result<void> Add(const IntxLine& line);
  void Remove(const IntxLine& line);

  // A route register's new value. Every line of the PIRQ leaves its old interrupt; at the new one
  // its device is asked again whether it is up.
  void Route(uint32_t pirq, uint8_t value);

 private:
  // By the eventfd, of which each line has its own.
  struct Less {
    bool operator()(const IntxLine& a, const IntxLine& b) const {
      return a.interrupt < b.interrupt;
    }
  };
  Result<void> Attach(const IntxLine& line);

  Vm& vm_;
  std::mutex mutex_;
  std::array<std::optional<uint32_t>, kPirqCount> gsi_;
  std::set<IntxLine, Less> lines_;
};

}  // namespace farside::vmm
