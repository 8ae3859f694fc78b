// MpqemuConfig: a function as a proxy of QEMU's sees it, and where its BARs lie.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "base/bytes.h"
#include "devices/core/device.h"
#include "protocol/mpqemu.h"

namespace farside {

// The first 256 bytes of a device's configuration space, less what mpqemu cannot carry: the proxy
// takes the upper half of a 64-bit BAR for one of its own, so such BARs are 32 bits wide here, and
// without MSI there are no MSI and MSI-X capabilities.
class MpqemuConfig {
 public:
  // `device` outlives it.
  explicit MpqemuConfig(Device& device);

  // An access of 1 to 4 bytes at any address: what lies behind the 256 bytes reads as ones and
  // ignores writes.
  void Read(uint32_t address, Bytes out) const;
  void Write(uint32_t address, ConstBytes in);

  struct Place {
    Region region;
    uint64_t offset;
  };
  // The BAR that decodes all of [address, address + size), as configuration space is now.
  std::optional<Place> Decode(uint64_t address, uint64_t size, bool memory) const;
  // Configuration space was changed by other means: a reset.
  void Refresh();

 private:
  struct Bar {
    bool memory = false;
    uint64_t address = 0;
    uint64_t size = 0;  // In bytes; 0: not there, or not decoded now.
  };

  void Narrow64BitBars();
  void HideVectors();
  void HideCapability(uint32_t link, uint32_t at, uint32_t size);
  uint32_t DeviceRead(uint32_t address, size_t size) const;

  Device& device_;
  std::array<uint8_t, mpqemu::kConfigSize> shown_;   // Bits that are the device's own.
  std::array<uint8_t, mpqemu::kConfigSize> forced_;  // The others.
  std::array<Bar, kBarCount> bars_;
};

}  // namespace farside
