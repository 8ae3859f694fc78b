// Sense data: what a target says about a command that ended with CHECK CONDITION. SPC-4
// section 4.5.
#pragma once

#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "devices/scsi/definitions.h"

namespace farside::scsi {

struct Sense {
  SenseKey key = SenseKey::kNoSense;
  uint16_t code = 0;                         // ASC in the high byte, ASCQ in the low one.
  std::optional<uint64_t> information = {};  // For media errors and VERIFY: the logical block.

  friend bool operator==(const Sense&, const Sense&) = default;
};

// SPC-4 sections 4.5.2 and 4.5.3.
inline constexpr size_t kFixedSenseSize = 18;
inline constexpr size_t kMaxSenseSize = 20;  // Descriptor format with an information descriptor.

// Writes `sense` as REQUEST SENSE returns it, in descriptor format or fixed; `out` holds
// kMaxSenseSize bytes. How many were written.
size_t FormatSense(const Sense& sense, bool descriptor_format, Bytes out);

constexpr Sense IllegalRequest(uint16_t code) {
  return {.key = SenseKey::kIllegalRequest, .code = code};
}

}  // namespace farside::scsi
