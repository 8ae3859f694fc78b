// Side: one of the two devices of a comparison, with its guest's memory and interrupts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "harness/diff/event.h"
#include "harness/diff/target.h"
#include "harness/host/guest_memory.h"
#include "harness/host/irq_collector.h"

namespace farside::diff {

// Errors of its calls are the end of the device where alive() is false then, else refusals.
class Side {
 public:
  // Vectors of MSI-X that are watched, where both sides have them.
  static constexpr uint32_t kMaxVectors = 64;

  // Memory by fd, of zeroes. `target` outlives the side.
  static Result<std::unique_ptr<Side>> Create(std::string name, Target& target,
                                              std::span<const MemoryRange> ranges);

  const std::string& name() const { return name_; }
  GuestMemory& memory() { return *memory_; }
  Target& target() { return target_; }
  // Of configuration space, in bytes: as far as the target reaches.
  uint32_t config_size() const { return config_size_; }
  bool alive() const { return connection_ != nullptr && connection_->client().alive(); }

  // Makes a fresh device, places its BARs and enables it. Memory stays as it is.
  Result<void> Start();
  // How the device ended; afterwards it is gone.
  std::string TakeEnding();
  // Ends the device in good order.
  Result<void> Finish();

  // Vectors of MSI-X that the device has.
  uint32_t vectors() const { return vectors_; }
  Result<void> WatchVectors(uint32_t count);

  // BeginRead sends, FinishRead waits; in that order, several at a time.
  struct Reading {
    DeviceClient::ReadTicket ticket;
    std::unique_ptr<uint64_t> value;
    bool refused = false;
  };
  Result<Reading> BeginRead(const Event& read);
  // Nothing where the device refuses.
  Result<std::optional<uint64_t>> FinishRead(Reading& reading);
  Result<void> Write(const Event& write);
  // DEVICE_RESET, and what firmware does behind one.
  Result<void> Reset();

  // INTx was signalled since the last UnmaskIntx.
  bool IntxSignalled();
  // The device signals again if its line is still up.
  Result<void> UnmaskIntx();
  // Signals of MSI-X vectors so far.
  uint64_t Signals(uint32_t vector) { return msix_->total(vector); }

 private:
  Side(std::string name, Target& target) : name_(std::move(name)), target_(target) {}
  // BARs placed, decoding and bus mastering on, and what reset may have left or taken set to 0.
  Result<void> SetUpFunction();
  Result<void> Refused(Result<void> result) const;

  const std::string name_;  // "A" or "B".
  Target& target_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<Connection> connection_;
  std::unique_ptr<IrqCollector> intx_;
  std::unique_ptr<IrqCollector> msix_;
  bool intx_signalled_ = false;
  uint32_t vectors_ = 0;
  uint32_t config_size_ = 0;
};

}  // namespace farside::diff
