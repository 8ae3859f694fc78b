// ConfigView: a function's configuration space as far as a trace shows it, and the names of its
// registers.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "devices/core/pci_registers.h"

namespace farside::trace {

class ConfigView {
 public:
  // What a read gave.
  void Learn(uint64_t offset, ConstBytes data);

  // "Command", "BAR0", "MSI-X Message Control"; empty for what has no name. Capabilities are known
  // once they were read.
  std::string NameAt(uint64_t offset) const;

  // Base class, subclass, interface: 0x010802 for NVMe; 0 before it was read.
  uint32_t class_code() const;
  // Device ID above vendor ID; 0 before they were read.
  uint32_t id() const;

 private:
  uint8_t ByteAt(size_t offset) const { return std::to_integer<uint8_t>(bytes_[offset]); }

  std::array<std::byte, pci::kConventionalSize> bytes_{};
};

}  // namespace farside::trace
