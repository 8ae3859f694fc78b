// The kinds of interrupts, as scenarios call them.
#pragma once

#include <string_view>

#include "protocol/vfio_user.h"

namespace farside::scenario {

// By IrqIndex.
inline constexpr std::string_view kIrqWords[] = {"intx", "msi", "msix", "error", "request"};

constexpr std::string_view IrqWord(vfio_user::IrqIndex index) {
  return kIrqWords[static_cast<uint32_t>(index)];
}

}  // namespace farside::scenario
