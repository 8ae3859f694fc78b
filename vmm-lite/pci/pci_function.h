// PciFunction: what sits in a slot of a PCI bus, and the configuration space of those that are
// emulated here.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>

#include "base/bytes.h"
#include "devices/core/pci_registers.h"

namespace farside::vmm {

class PciBus;

// Called by any vCPU thread. Offsets are below 4096; 1, 2 or 4 bytes, aligned.
class PciFunction {
 public:
  virtual ~PciFunction() = default;
  virtual void ReadConfig(uint32_t cpu, uint32_t offset, Bytes out) = 0;
  virtual void WriteConfig(uint32_t cpu, uint32_t offset, ConstBytes in) = 0;
  // The machine is reset.
  virtual void Reset() = 0;
  // The bus behind a bridge whose secondary bus has this number now.
  virtual PciBus* FindBus(uint8_t number) {
    (void)number;
    return nullptr;
  }
};

// Configuration space of a function in this process: bytes, and which of their bits can be written
// or are cleared by writing ones.
class ConfigSpace {
 public:
  template <typename T>
  void Set(uint32_t offset, T value) {
    StoreLe<T>(Bytes(bytes_).subspan(offset), value);
  }
  template <typename T>
  T Get(uint32_t offset) const {
    return LoadLe<T>(ConstBytes(bytes_).subspan(offset));
  }
  template <typename T>
  void AllowWrites(uint32_t offset, T mask) {
    StoreLe<T>(Bytes(writable_).subspan(offset), mask);
  }
  template <typename T>
  void AllowClears(uint32_t offset, T mask) {
    StoreLe<T>(Bytes(clearable_).subspan(offset), mask);
  }

  void Read(uint32_t offset, Bytes out) const {
    Copy(out, ConstBytes(bytes_).subspan(offset, out.size()));
  }
  void Write(uint32_t offset, ConstBytes in) {
    for (size_t i = 0; i < in.size(); ++i) {
      std::byte& byte = bytes_[offset + i];
      byte = (byte & ~writable_[offset + i]) | (in[i] & writable_[offset + i]);
      byte &= ~(in[i] & clearable_[offset + i]);
    }
  }

 private:
  std::array<std::byte, pci::kConfigSize> bytes_{};
  std::array<std::byte, pci::kConfigSize> writable_{};
  std::array<std::byte, pci::kConfigSize> clearable_{};
};

}  // namespace farside::vmm
