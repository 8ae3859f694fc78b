// IrqTable: interrupts as a vfio-user client sets them up, and the IrqSink they make.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "devices/core/device.h"
#include "devices/core/irq_sink.h"
#include "protocol/vfio_user.h"

namespace farside {

using vfio_user::IrqIndex;
using vfio_user::kIrqIndexCount;

// Carries interrupts in-band, between replies and DMA.
class InbandInterrupts {
 public:
  virtual ~InbandInterrupts() = default;
  virtual void SendInterrupt(IrqIndex index, uint32_t vector) = 0;
};

// A device's interrupts, each by an eventfd of the client's. The client owns the MSI-X table: a
// vector whose eventfd is there is signalled, one without is remembered as pending and signalled
// when it is armed.
class IrqTable final : public IrqSink {
 public:
  explicit IrqTable(EpollLoop& loop) : loop_(loop) {}
  ~IrqTable() override;

  // Called once, when the device is known.
  void SetCounts(const DeviceInfo& info);
  uint32_t count(IrqIndex index) const { return static_cast<uint32_t>(entries(index).size()); }

  // Gives vectors from `start` on the eventfds `fds`; the fds are taken, and made non-blocking,
  // which the client's descriptors of the same eventfd are then, too. EINVAL, and nothing changes,
  // if one is no eventfd.
  Result<void> Arm(IrqIndex index, uint32_t start, std::vector<UniqueFd> fds);
  // The same in-band: by `channel` until they are disarmed. INTx is sent each time it is asserted,
  // and never masked.
  void ArmInband(IrqIndex index, uint32_t start, uint32_t count, InbandInterrupts& channel);
  // INTx by two eventfds, as mpqemu and KVM's resampling have it: `interrupt` is signalled at each
  // rise of the line and, while it is up, at each signal of `resample`. Never masked by itself.
  Result<void> ArmIntxResampled(UniqueFd interrupt, UniqueFd resample);
  // Takes their eventfds away. Ranges are the caller's to check, here and below.
  void Disarm(IrqIndex index, uint32_t start, uint32_t count);
  void DisarmAll();
  // Signals a vector as the client asks for, for its tests of the path.
  void Trigger(IrqIndex index, uint32_t vector);

  // INTx is masked by the server when it signals, as vfio's is (AUTOMASKED), and by the client.
  void MaskIntx();
  void UnmaskIntx();
  // INTx is also unmasked whenever `fd`, an eventfd, is signalled (KVM's resampling); without one
  // no more.
  Result<void> SetIntxUnmaskFd(UniqueFd fd);

  void SetIntx(bool asserted) override;
  void SignalMsi(uint32_t vector) override { Signal(IrqIndex::kMsi, vector); }
  void SignalMsix(uint32_t vector) override { Signal(IrqIndex::kMsix, vector); }
  bool owns_msix_table() const override { return true; }
  bool msix_pending(uint32_t vector) const override;
  void ClearPending() override;

 private:
  struct Entry {
    UniqueFd eventfd;
    InbandInterrupts* inband = nullptr;
    bool pending = false;

    bool armed() const { return eventfd || inband != nullptr; }
  };

  // Unmasks INTx when the client's resampling eventfd says so.
  class UnmaskWatcher final : public FdWatcher {
   public:
    UnmaskWatcher(IrqTable& table, UniqueFd fd) : table_(table), fd_(std::move(fd)) {}
    Result<void> Start(EpollLoop& loop) { return watch_.Start(loop, fd_.get(), EPOLLIN, *this); }
    void OnReady(uint32_t events) override;

   private:
    IrqTable& table_;
    UniqueFd fd_;
    FdWatch watch_;
  };

  std::vector<Entry>& entries(IrqIndex index) { return entries_[static_cast<size_t>(index)]; }
  const std::vector<Entry>& entries(IrqIndex index) const {
    return entries_[static_cast<size_t>(index)];
  }
  void Signal(IrqIndex index, uint32_t vector);
  // To an armed vector.
  void Send(IrqIndex index, uint32_t vector);
  void FireIntx();

  EpollLoop& loop_;
  std::array<std::vector<Entry>, kIrqIndexCount> entries_;
  bool intx_asserted_ = false;
  bool intx_masked_ = false;
  bool intx_resampled_ = false;  // By ArmIntxResampled.
  std::unique_ptr<UnmaskWatcher> unmask_watcher_;
};

}  // namespace farside
