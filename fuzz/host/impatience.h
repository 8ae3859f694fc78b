// Impatience: a target that waits for a clock as short as it can, and never blames a busy machine.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "fuzz/host/oracle.h"

namespace farside::fuzz {

class Impatience {
 public:
  // How long a client of the session waits for what does not come.
  uint64_t timeout_ns() const { return patient_ ? kPatientNs : kImpatientNs; }

  // Runs `session` once; where that complains, again with patience, and what it complains of then
  // is a violation. `has_clock`: else it is one at once.
  template <typename Session>
  void Run(bool has_clock, const Session& session) {
    patient_ = !has_clock;
    try {
      return session();
    } catch (const Doubt&) {
      patient_ = true;
    }
    session();
  }

  [[noreturn]] void Complain(std::string_view oracle, const std::string& sentence) const {
    if (patient_) Violate(oracle, sentence);
    throw Doubt{};
  }

 private:
  static constexpr uint64_t kImpatientNs = 25'000'000;
  static constexpr uint64_t kPatientNs = 2'000'000'000;

  struct Doubt {};

  bool patient_ = true;
};

}  // namespace farside::fuzz
