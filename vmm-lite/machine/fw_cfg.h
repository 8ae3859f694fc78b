// FwCfg: QEMU's firmware configuration device, from which SeaBIOS learns what machine it is on
// (QEMU's docs/specs/fw_cfg). Ports only: there is no DMA interface.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "vmm-lite/machine/address_map.h"
#include "vmm-lite/machine/guest_ram.h"

namespace farside::vmm {

// At the end of low RAM: the ACPI tables, which firmware must not take for its own memory. SeaBIOS
// works at the end of the RAM that the memory map tells (older ones, that CMOS tells): both leave
// this out. In CMOS's unit.
inline constexpr uint64_t kFirmwareTablesSize = 64 << 10;

// The selector (16 bits) and the data port (8 bits, at offset 1). What is behind an item's end
// reads as zeroes, and so does an item that is not there.
class FwCfg final : public IoHandler {
 public:
  static constexpr uint64_t kPorts = 2;
  explicit FwCfg(uint32_t cpus);

  // The name has 55 characters at most. Takes the place of a file that has the same name.
  void SetFile(std::string_view name, ConstBytes content);
  // Writes the ACPI tables to the end of low RAM, and sets the files that lead to them, and the
  // memory map. After a reset, it is to be done again.
  Result<void> Describe(GuestRam& ram, uint32_t cpus);

  void Read(uint32_t cpu, uint64_t offset, Bytes out) override;
  void Write(uint32_t cpu, uint64_t offset, ConstBytes in) override;

 private:
  std::mutex mutex_;
  std::map<uint16_t, std::vector<std::byte>> items_;
  uint16_t selected_ = 0;
  size_t next_ = 0;
};

}  // namespace farside::vmm
