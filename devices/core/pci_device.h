// PciDevice: what every PCI function has in common, so that a model is its registers and its work.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "devices/core/device.h"
#include "devices/core/fast_state.h"
#include "devices/core/pci_config.h"
#include "devices/core/state.h"

namespace farside {

// Configuration space, the MSI-X table, interrupt routing, and the gate in front of DMA. A model
// derives from it and answers BAR accesses.
class PciDevice : public Device {
 public:
  const DeviceInfo& info() const override { return info_; }
  void ReadRegion(Region region, uint64_t offset, Bytes out) final;
  void WriteRegion(Region region, uint64_t offset, ConstBytes in) final;
  void Reset(ResetKind kind) final;
  void Save(StateWriter& out) const final;
  Result<void> Load(StateReader& in) final;
  void SaveFast(FastState& out) const final;
  void LoadFast(const FastState& in) final;

 protected:
  // `env` is copied. Regions, INTx, MSI and MSI-X counts of DeviceInfo come from `config`; an
  // MSI-X table and PBA occupy their parts of their BARs and are never seen by the model.
  PciDevice(std::string_view model, DeviceEnv env, const PciConfig& config, uint32_t msi_count);

  // An access to a BAR of the model: bounds are checked, the size is 1 to the BAR's.
  virtual void ReadBar(uint32_t bar, uint64_t offset, Bytes out) = 0;
  virtual void WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) = 0;
  // The model's part of Device::Reset; configuration space has its reset values already.
  virtual void OnReset(ResetKind kind) = 0;
  // Bus mastering was switched on or off, or the power state changed.
  virtual void OnBusMasterChanged() {}
  // The model's sections. LoadModel validates all it reads and calls in.Finish() before it changes
  // anything; configuration space is loaded already and is put back if LoadModel fails. Called on a
  // device that is reset and drained.
  virtual void SaveModel(StateWriter& out) const = 0;
  virtual Result<void> LoadModel(StateReader& in) = 0;
  // The model's part of Device::SaveFast and LoadFast; it sees to it that it is drained. What it
  // gets is what it put.
  virtual void SaveModelFast(FastState& out) const = 0;
  virtual void LoadModelFast(FastReader& in) = 0;
  // The device's own DMA to a BAR of its own, which it lies inside of: what crosses its border is a
  // kFault. The default is what a bus does with an address that nobody claims: kFault, nothing
  // moved. `access` is the device's, as in DmaSpace.
  virtual DmaStatus SelfAccess(uint32_t bar, uint64_t offset, Bytes data, DmaAccess access);

  // The memory that this function reaches: gated by bus mastering and power state, own BARs left
  // out. What a model uses instead of DeviceEnv's.
  DmaSpace& dma() { return gate_; }
  const PciConfig& config() const { return config_; }
  Loop& loop() { return env_.loop; }
  const Clock& clock() const { return env_.clock; }
  const std::string& id() const { return env_.id; }

  // True when the driver has MSI or MSI-X on: vectors are events then, and INTx is silent.
  bool vectors_enabled() const { return config_.msix_enabled() || config_.msi_enabled(); }
  // Signals `vector` by MSI-X or MSI, whichever is on; neither: nothing. Masked vectors become
  // pending. Where the driver allotted fewer MSI vectors, they are shared modulo that number.
  void SignalVector(uint32_t vector);
  // The level the function wants on its INTx pin. While MSI or MSI-X is on neither the line nor the
  // Status register follows; with INTx disabled in the Command register only the latter does.
  void SetIntxLevel(bool asserted);

 private:
  class Gate final : public DmaSpace {
   public:
    explicit Gate(PciDevice& device) : device_(device) {}
    Task<DmaStatus> Read(uint64_t iova, Bytes out) override;
    Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override;
    Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                        DmaBuffer* buffer) override;

   private:
    class Lease;
    PciDevice& device_;
  };

  struct MsixTable {
    std::vector<std::byte> entries;  // 16 bytes each, as in the BAR.
    std::vector<uint64_t> pending;
  };

  // Who answers a part of a BAR, and how much of `size` bytes from its start on.
  enum class Owner { kModel, kMsixTable, kMsixPba };
  struct Piece {
    Owner owner;
    size_t size;
  };
  Piece PieceAt(uint32_t bar, uint64_t offset, size_t size) const;
  bool TakesBarAccess(uint32_t bar, uint64_t offset, size_t size) const;
  void ReadPba(uint64_t offset, Bytes out) const;
  std::vector<uint64_t> PendingBits() const;
  uint64_t PendingWord(size_t index) const;
  bool InsideOwnBar(uint64_t iova, uint64_t size, uint32_t bar, uint64_t offset) const;
  bool MsixMasked(uint32_t vector) const;
  void SignalMsix(uint32_t vector);
  void DeliverPending();
  void UpdateIntx();
  void ResetMsix();

  DeviceEnv env_;
  PciConfig config_;
  DeviceInfo info_;
  Gate gate_{*this};
  MsixTable msix_;
  bool intx_level_ = false;  // What the model asked for.
  bool intx_line_ = false;   // What the sink was told.
};

}  // namespace farside
