// The host side of a model test: guest memory as a DmaSpace, and a recorder of interrupts.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/loop.h"
#include "devices/core/dma_space.h"
#include "devices/core/irq_sink.h"

namespace farside {

// How a device reaches guest memory. A model must show a driver the same in both modes.
enum class DmaMode {
  kByFd,       // At once, in place.
  kByMessage,  // Every access suspends; block I/O goes through bounce memory.
};

// Guest memory. Addresses are bus addresses.
class FakeHost final : public DmaSpace {
 public:
  FakeHost(Loop& loop, DmaMode mode) : loop_(loop), mode_(mode), released_(loop) {}
  ~FakeHost() override { CHECK(leases_ == 0 && waits_ == 0); }

  DmaMode mode() const { return mode_; }

  // Zeroed memory. Must not overlap what is there.
  void AddMemory(uint64_t iova, uint64_t size, bool writable = true);
  // The window that begins at `iova` goes away: accesses that wait are cancelled, leases in it are
  // revoked. The caller tells the device (OnDmaChanged).
  void RemoveMemory(uint64_t iova);
  // Every access that waits now ends with kCancelled, as on disconnect.
  void CancelWaits() {
    ++cancel_generation_;
    released_.NotifyAll();
  }

  // From now on accesses by message wait until Release.
  void Hold() { held_ = true; }
  void Release() {
    held_ = false;
    released_.NotifyAll();
  }
  // Called from the loop in each wait of an access by message, just before it ends.
  void set_during_wait(std::function<void()> hook) { during_wait_ = std::move(hook); }

  // What the guest's CPU sees. The range must be there.
  Bytes At(uint64_t iova, uint64_t size);
  template <std::integral T>
  T Peek(uint64_t iova) {
    return LoadLe<T>(At(iova, sizeof(T)));
  }
  template <std::integral T>
  void Poke(uint64_t iova, T value) {
    StoreLe(At(iova, sizeof(T)), value);
  }

  struct Access {
    DmaAccess kind;
    uint64_t iova;
    uint64_t size;
  };
  // Every access that was asked for, Map's segments included.
  const std::vector<Access>& accesses() const { return accesses_; }
  void ForgetAccesses() { accesses_.clear(); }

  // DmaSpace.
  Task<DmaStatus> Read(uint64_t iova, Bytes out) override;
  Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override;
  Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                      DmaBuffer* buffer) override;

 private:
  struct Window {
    std::vector<std::byte> bytes;
    bool writable = true;
    bool removed = false;
  };
  struct Part {
    std::shared_ptr<Window> window;
    Bytes bytes;
  };
  class Lease;

  // The parts of windows that make up a range; empty where a byte of it is missing.
  std::vector<Part> Find(uint64_t iova, uint64_t size, DmaAccess access) const;
  // True unless the access was cancelled meanwhile.
  Task<bool> Wait();

  Loop& loop_;
  const DmaMode mode_;
  std::map<uint64_t, std::shared_ptr<Window>> windows_;
  std::function<void()> during_wait_;
  std::vector<Access> accesses_;
  Wakeup released_;
  bool held_ = false;
  uint64_t cancel_generation_ = 0;
  uint32_t leases_ = 0;
  uint32_t waits_ = 0;
};

// Counts interrupts by vector and follows the INTx line.
class IrqRecorder final : public IrqSink {
 public:
  // With `owns_msix_table` the device never looks at its own table, as over vfio-user.
  explicit IrqRecorder(bool owns_msix_table = false) : owns_msix_table_(owns_msix_table) {}

  bool intx() const { return intx_; }
  uint32_t intx_edges() const { return intx_edges_; }  // Times it was asserted.
  uint32_t msi(uint32_t vector) const { return Count(msi_, vector); }
  uint32_t msix(uint32_t vector) const { return Count(msix_, vector); }
  // Called at each MSI or MSI-X signal, with its vector.
  void set_on_signal(std::function<void(uint32_t)> hook) { on_signal_ = std::move(hook); }
  void Forget() {
    msi_.clear();
    msix_.clear();
    intx_edges_ = 0;
  }

  // IrqSink.
  void SetIntx(bool asserted) override;
  void SignalMsi(uint32_t vector) override { Signal(msi_, vector); }
  void SignalMsix(uint32_t vector) override { Signal(msix_, vector); }
  bool owns_msix_table() const override { return owns_msix_table_; }
  bool msix_pending(uint32_t) const override { return false; }

 private:
  void Signal(std::map<uint32_t, uint32_t>& counts, uint32_t vector) {
    ++counts[vector];
    if (on_signal_) on_signal_(vector);
  }
  static uint32_t Count(const std::map<uint32_t, uint32_t>& counts, uint32_t vector) {
    const auto found = counts.find(vector);
    return found == counts.end() ? 0 : found->second;
  }

  const bool owns_msix_table_;
  std::function<void(uint32_t)> on_signal_;
  bool intx_ = false;
  uint32_t intx_edges_ = 0;
  std::map<uint32_t, uint32_t> msi_;
  std::map<uint32_t, uint32_t> msix_;
};

}  // namespace farside
