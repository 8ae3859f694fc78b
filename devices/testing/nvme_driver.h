// A guest's NVMe driver, as small as tests can do with: it owns no policy and checks nothing that a
// test might want to look at.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/loop.h"
#include "devices/core/device.h"
#include "devices/core/pci_registers.h"
#include "devices/nvme/commands.h"
#include "devices/nvme/registers.h"
#include "devices/testing/fake_host.h"

namespace farside::nvme {

class Driver {
 public:
  // Where it puts the function's BARs.
  static constexpr uint64_t kBar0 = 0xfe00'0000;
  static constexpr uint64_t kBar4 = 0xfe10'0000;

  // Memory for queues and data comes from [heap, heap + size), which the host has.
  Driver(Device& device, FakeHost& host, Loop& loop, uint64_t heap, uint64_t heap_size)
      : device_(&device), host_(host), loop_(loop), heap_(heap), heap_end_(heap + heap_size) {}

  // Goes on with another device in the place of the first, as after a migration.
  void Attach(Device& device) { device_ = &device; }

  template <std::integral T>
  T Read(uint64_t offset) {
    T value;
    device_->ReadRegion(Region::kBar0, offset, AsWritableBytes(value));
    return value;
  }
  template <std::integral T>
  void Write(uint64_t offset, T value) {
    device_->WriteRegion(Region::kBar0, offset, AsBytes(value));
  }
  // Registers by row: Get(kCsts), Set(kCc, value).
  uint64_t Get(Reg row) {
    const RegisterDef& def = kRegisters[row];
    return def.width == 8 ? Read<uint64_t>(def.offset) : Read<uint32_t>(def.offset);
  }
  void Set(Reg row, uint64_t value);
  template <std::integral T>
  T ReadConfig(uint64_t offset) {
    T value;
    device_->ReadRegion(Region::kConfig, offset, AsWritableBytes(value));
    return value;
  }
  template <std::integral T>
  void WriteConfig(uint64_t offset, T value) {
    device_->WriteRegion(Region::kConfig, offset, AsBytes(value));
  }

  // Places the BARs, switches decoding and bus mastering on.
  void Probe();
  // Where capability `id` lies in configuration space; 0 if there is none.
  uint32_t FindCapability(uint8_t id);
  // Enables MSI-X with all vectors unmasked.
  void EnableMsix();
  // Enables MSI with 2^log2 vectors.
  void EnableMsi(uint32_t log2_vectors);

  // Zeroed memory, never given back.
  uint64_t Allocate(uint64_t size, uint64_t alignment = 4096);

  // Sets up the admin queues of `entries` each and CC, and runs the loop; true when CSTS.RDY came.
  bool Enable(uint32_t entries = 32, uint32_t page_shift = kMinPageShift);
  bool Disable();

  // Queues are known by the submission queue's id.
  struct Queue {
    uint64_t sq = 0;
    uint64_t cq = 0;
    uint32_t sq_size = 0;
    uint32_t cq_size = 0;
    uint16_t cq_id = 0;
    uint32_t tail = 0;
    uint32_t head = 0;  // Of the completion queue.
    bool phase = true;
    uint32_t sq_head = 0;  // As last reported.
  };
  Queue& queue(uint16_t id) { return queues_[id]; }

  // Creates queue pair `id`. The status of the first command that failed, or kSuccess.
  Status CreateQueues(uint16_t id, uint32_t entries, uint16_t vector, bool interrupts = true);
  Status DeleteQueues(uint16_t id);

  // Puts an entry into the queue without telling the controller; its command identifier.
  uint16_t Put(uint16_t queue, Sqe sqe);
  void Ring(uint16_t queue);
  // Takes the next completion, if there is one, without telling the controller.
  std::optional<Cqe> Take(uint16_t queue);
  void RingCompletion(uint16_t queue);

  // Put, Ring, run the loop, Take, RingCompletion. A completion with CID 0xffff and an impossible
  // status where none came.
  Cqe Run(uint16_t queue, const Sqe& sqe);
  Status RunStatus(uint16_t queue, const Sqe& sqe) { return StatusOf(Run(queue, sqe)); }
  static constexpr Status kNoCompletion = Status{0x7fff};

 private:
  Device* device_;
  FakeHost& host_;
  Loop& loop_;
  uint64_t heap_;
  uint64_t heap_end_;
  uint16_t next_cid_ = 0;
  std::vector<Queue> queues_ = std::vector<Queue>(128);
};

// Commands as a driver writes them. Blocks and sizes are plain numbers.
Sqe AdminCommand(AdminOpcode opcode);
Sqe IdentifyCommand(Cns cns, uint32_t nsid, uint64_t data);
Sqe GetLogCommand(LogId log, uint64_t data, uint64_t size, uint64_t offset = 0);
Sqe SetFeatureCommand(FeatureId id, uint32_t value);
Sqe GetFeatureCommand(FeatureId id, uint32_t select = 0, uint32_t cdw11 = 0);
Sqe CreateCqCommand(uint16_t id, uint64_t base, uint32_t entries, uint16_t vector,
                    bool interrupts = true);
Sqe CreateSqCommand(uint16_t id, uint64_t base, uint32_t entries, uint16_t cqid);
Sqe DeleteCommand(AdminOpcode opcode, uint16_t id);
Sqe IoCommand(IoOpcode opcode, uint64_t block, uint32_t blocks, uint64_t prp1 = 0,
              uint64_t prp2 = 0);

}  // namespace farside::nvme
