// PciFunction: what a guest's PCI code does with a device before a driver gets it.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "protocol/device_client.h"

namespace farside {

struct PciBar {
  enum class Kind { kNone, kIo, kMemory32, kMemory64 };  // kMemory64 takes two BARs.
  Kind kind = Kind::kNone;
  bool prefetchable = false;
  uint64_t size = 0;     // In bytes.
  uint64_t address = 0;  // As PlaceBars or the guest's firmware left it.
};

struct PciCapability {
  uint16_t id = 0;
  uint16_t offset = 0;  // In configuration space; 0x100 and up are PCI Express's.
};

// Where PlaceBars puts BARs, from here up.
struct PciApertures {
  uint64_t io = 0x1000;
  uint64_t memory32 = 0xe000'0000;
  uint64_t memory64 = 0x80'0000'0000;
};

// The answers of one function's configuration space. `client` outlives it.
class PciFunction {
 public:
  static constexpr uint32_t kConfigRegion = 7;
  static constexpr uint8_t kCapMsi = 0x05;
  static constexpr uint8_t kCapMsix = 0x11;

  // Reads ids, sizes BARs (with decoding off, and puts back what was there) and walks the
  // capabilities. What a device may get wrong is an Error: no device, sizes that are no power of
  // two, capabilities in a circle.
  static Result<PciFunction> Probe(DeviceClient& client);

  uint16_t vendor() const { return vendor_; }
  uint16_t device() const { return device_; }
  uint16_t subsystem_vendor() const { return subsystem_vendor_; }
  uint16_t subsystem() const { return subsystem_; }
  uint32_t class_code() const { return class_code_; }  // 0x010802 is NVMe.
  uint8_t revision() const { return revision_; }
  uint8_t interrupt_pin() const { return interrupt_pin_; }  // 0: none; 1: INTA.
  uint32_t config_size() const { return config_size_; }
  const std::array<PciBar, 6>& bars() const { return bars_; }
  const std::vector<PciCapability>& capabilities() const { return capabilities_; }
  // Offset of the first capability `id` below 0x100, or of the first above.
  std::optional<uint16_t> FindCapability(uint16_t id) const;
  std::optional<uint16_t> FindExtendedCapability(uint16_t id) const;

  template <std::unsigned_integral T>
  Result<T> ReadConfig(uint32_t offset) {
    return client_->Read<T>({.region = kConfigRegion, .offset = offset});
  }
  template <std::unsigned_integral T>
  Result<void> WriteConfig(uint32_t offset, T value) {
    return client_->Write<T>({.region = kConfigRegion, .offset = offset}, value);
  }

  // Gives every BAR an address, aligned to its size. Decoding is switched off meanwhile.
  Result<void> PlaceBars(PciApertures apertures = {});
  // Decoding of the BARs that are there, and bus mastering.
  Result<void> Enable(bool bus_master = true);
  Result<void> Disable();

  // Vectors the function has: 0 without the capability.
  uint32_t msix_count() const { return msix_count_; }
  uint32_t msi_count() const { return msi_count_; }
  // The enable bit of MSI-X; the table is not touched, it is the client's. MSI is given 2^log2
  // vectors. Both off: INTx.
  Result<void> SetMsix(bool enable);
  Result<void> SetMsi(bool enable, uint32_t log2_vectors = 0);

 private:
  explicit PciFunction(DeviceClient& client) : client_(&client) {}
  Result<void> ReadIds();
  Result<void> SizeBars();
  Result<uint32_t> SizeBar(uint32_t index, uint32_t* old);
  Result<void> WalkCapabilities();
  Result<void> WalkExtendedCapabilities();
  Result<void> ReadVectorCounts();
  Result<void> ChangeCommand(uint16_t clear, uint16_t set);

  DeviceClient* client_;
  uint32_t config_size_ = 0;
  uint16_t vendor_ = 0;
  uint16_t device_ = 0;
  uint16_t subsystem_vendor_ = 0;
  uint16_t subsystem_ = 0;
  uint32_t class_code_ = 0;
  uint8_t revision_ = 0;
  uint8_t interrupt_pin_ = 0;
  std::array<PciBar, 6> bars_{};
  std::vector<PciCapability> capabilities_;
  uint32_t msix_count_ = 0;
  uint32_t msi_count_ = 0;
};

}  // namespace farside
