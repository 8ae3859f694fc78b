// LsiDriver: a guest's driver for the LSI53C895A, in the manner of Linux's sym53c8xx: one resident
// script takes commands from a ring, and many of them are in flight by tags.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "devices/lsi53c895a/registers.h"
#include "devices/scsi/definitions.h"
#include "harness/drivers/lsi_script.h"
#include "harness/host/guest_memory.h"
#include "harness/host/irq_collector.h"
#include "harness/host/pci_function.h"
#include "protocol/device_client.h"

namespace farside {

// How the driver learns of completions.
enum class LsiCompletion { kPoll, kIntx };

struct LsiOptions {
  LsiCompletion completion = LsiCompletion::kIntx;
  uint64_t timeout_ns = 10'000'000'000;  // For each command.
  uint32_t cpu = 0;
};

struct LsiCommand {
  uint8_t target = 0;
  uint8_t lun = 0;
  ConstBytes cdb{};      // Up to 16 bytes.
  uint32_t data_in = 0;  // Bytes of room. One direction only.
  ConstBytes data_out{};
  bool tagged = true;      // One of a target without a tag.
  bool disconnect = true;  // The target may go while it works.
  uint32_t segments = 1;   // Table entries for the data; up to lsi_block::kMaxSegments.
  // Where data_in goes to, and stays; a result has no copy then. None: memory of the driver.
  std::optional<uint64_t> buffer{};
};

// How a command ended on the bus.
enum class LsiOutcome {
  kCompleted,
  kSelectionTimeout,  // There is no such target.
  kDisconnected,      // It went to BUS FREE where it should not.
  kReset,             // Of the bus.
};

struct LsiResult {
  LsiOutcome outcome = LsiOutcome::kCompleted;
  uint8_t status = 0xff;  // As the target sent it; 0xff where it did not.
  uint32_t residual = 0;  // Bytes of room or data that did not move.
  std::vector<std::byte> data{};
};

// What halted a script that the driver did not write.
struct LsiHalt {
  uint8_t dstat = 0;
  uint8_t sist0 = 0;
  uint8_t sist1 = 0;
  uint32_t dsp = 0;
  uint32_t dsps = 0;
};

// One chip and the targets on its bus. An Error says that the device, or this use of it, is wrong;
// after one, Enable. For one thread.
class LsiDriver {
 public:
  // Probes the function, places its BARs and enables it. `memory` is mapped to the device already;
  // all three outlive the driver.
  static Result<std::unique_ptr<LsiDriver>> Probe(DeviceClient& client, GuestMemory& memory,
                                                  LsiOptions options);
  // Its memory is zeroes again.
  ~LsiDriver();

  PciFunction& function() { return function_; }
  IrqCollector* irqs() { return irqs_.get(); }
  uint64_t ram_address() const { return function_.bars()[lsi53c895a::kRamBar].address; }

  template <std::unsigned_integral T>
  Result<T> ReadRegister(lsi53c895a::Reg row) {
    return client_.Read<T>(Register(row));
  }
  template <std::unsigned_integral T>
  Result<void> WriteRegister(lsi53c895a::Reg row, T value) {
    return client_.Write<T>(Register(row), value);
  }

  // Resets the chip, not the bus. Commands from before are forgotten; their targets may still work
  // on them.
  Result<void> Enable();

  // An id for Wait, which also is the command's tag.
  Result<uint8_t> Submit(const LsiCommand& command);
  // The same in two steps: the chip need not look before Kick, which is for all that were queued.
  Result<uint8_t> Queue(const LsiCommand& command);
  Result<void> Kick() {
    return WriteRegister<uint8_t>(lsi53c895a::kIstat0, lsi53c895a::kIstat0Sigp);
  }
  Result<LsiResult> Wait(uint8_t id);
  Result<LsiResult> Execute(const LsiCommand& command);

  // Selects and sends a message after which the target goes: ABORT, BUS DEVICE RESET. Commands that
  // it ends are still in flight for the driver until Forget.
  Result<LsiResult> SendMessage(uint8_t target, ConstBytes message);
  void Forget(uint8_t id);
  // Asserts RST/: everything in flight ends with kReset.
  Result<void> ResetBus();

  // Resets the chip, puts `words` at a bus address, in SCRIPTS RAM or memory, and starts them.
  Result<void> StartScript(uint32_t address, std::span<const uint32_t> words, uint32_t dsa);
  Result<LsiHalt> WaitForHalt();

  // Commands on lun 0. Sizes are whole blocks.
  Result<LsiResult> Inquiry(uint8_t target, uint8_t size = 36);
  Result<LsiResult> RequestSense(uint8_t target, uint8_t lun = 0);
  struct Capacity {
    uint64_t blocks = 0;
    uint32_t block_size = 0;  // In bytes.
  };
  Result<Capacity> ReadCapacity(uint8_t target);
  Result<LsiResult> Read(uint8_t target, uint32_t block, uint16_t blocks, uint32_t size);
  // READ(10) to `buffer`, for Wait.
  Result<uint8_t> QueueRead(uint8_t target, uint32_t block, uint16_t blocks, uint32_t size,
                            uint64_t buffer);
  Result<LsiResult> Write(uint8_t target, uint32_t block, uint16_t blocks, ConstBytes data);

 private:
  struct Slot {
    GuestPages data{};  // None: the caller's.
    uint64_t iova = 0;
    uint32_t size = 0;
    bool in = false;
    std::optional<LsiResult> result{};
  };

  LsiDriver(DeviceClient& client, GuestMemory& memory, LsiOptions options, PciFunction function)
      : client_(client), memory_(memory), options_(options), function_(std::move(function)) {}

  GuestAccess Register(lsi53c895a::Reg row) const {
    return {
        .region = lsi53c895a::kMemoryBar, .offset = lsi53c895a::OffsetOf(row), .cpu = options_.cpu};
  }
  uint32_t Block(uint8_t id) const { return places_.blocks + id * lsi_block::kSize; }
  uint32_t RingEntry(uint32_t index) const {
    return ring_ + index % lsi_ring::kEntries * lsi_ring::kEntrySize;
  }
  Result<void> Put32(uint64_t address, uint32_t value) {
    return memory_.Write(address, AsBytes(value));
  }
  Result<uint32_t> Get32(uint64_t address) const;
  Result<void> SetUpMemory();
  Result<void> ResetChip();
  Result<void> ResetRing();
  Result<void> LoadScript(uint32_t address, std::span<const uint32_t> words);
  Result<uint8_t> ChooseSlot(const LsiCommand& command) const;
  Result<void> FillBlock(uint8_t id, const LsiCommand& command, const Slot& slot);
  Result<void> FillTable(uint8_t id, const LsiCommand& command, const Slot& slot);
  Result<void> PutTarget(uint8_t id, uint8_t target, uint64_t message, uint32_t size);
  Result<void> Push(uint8_t id, uint8_t what);
  Result<void> Go(uint32_t address) { return WriteRegister<uint32_t>(lsi53c895a::kDsp, address); }

  Result<bool> WaitForWork(uint64_t timeout_ns);
  Result<bool> Service();
  Result<void> OnScsiInterrupt(uint8_t sist0, uint8_t sist1);
  Result<void> OnDmaInterrupt(uint8_t dstat);
  Result<void> OnPhaseMismatch();
  Result<void> EndCurrent(LsiOutcome outcome);
  Result<void> EndAll();
  Result<uint8_t> CurrentSlot();
  Result<void> Reap();
  Result<uint32_t> Residual(uint8_t id, const Slot& slot) const;
  Result<LsiResult> Collect(uint8_t id);
  void ForgetAll();

  DeviceClient& client_;
  GuestMemory& memory_;
  const LsiOptions options_;
  PciFunction function_;
  std::unique_ptr<IrqCollector> irqs_;
  GuestPages pages_;
  LsiPlaces places_;
  LsiScript script_;
  uint32_t ring_ = 0;
  uint32_t tail_ = 0;            // Of the ring.
  bool running_ = false;         // The resident script.
  std::optional<LsiHalt> halt_;  // Of another script.
  bool foreign_ = false;         // Another script runs.
  bool reset_seen_ = false;      // Of the bus.
  std::map<uint8_t, Slot> slots_;
};

}  // namespace farside
