// An NVMe controller (NVM Express Base Specification 1.4), as much as the tests need.
#pragma once

#include "ci/guest/tiny/pci.h"

namespace tiny {

enum Register : uint64_t {
  kCap = 0x00,
  kVs = 0x08,
  kIntms = 0x0c,
  kIntmc = 0x10,
  kCc = 0x14,
  kCsts = 0x1c,
  kAqa = 0x24,
  kAsq = 0x28,
  kAcq = 0x30,
  kDoorbells = 0x1000
};

constexpr uint8_t kRead = 2, kWrite = 1, kIdentify = 6, kGetFeatures = 0xa;
constexpr uint32_t kQueueSize = 64;

struct Command {
  uint32_t opcode = 0, nsid = 0, reserved[4] = {};
  uint64_t prp1 = 0, prp2 = 0;
  uint32_t words[6] = {};  // CDW10 to CDW15
};

class Nvme {
 public:
  void Attach(Function& at) { at_ = &at; }

  Function& at() { return *at_; }
  Bar& bar() { return at_->bars[0]; }
  uint64_t regs() const { return at_->bars[0].base; }
  bool SetEnabled(bool enabled);
  // Resets the controller and makes both queue pairs, the I/O pair on that MSI-X vector.
  bool Start(uint32_t vector);

  // Queue 0 is the admin queue. Enqueue, then Ring; Completed says whether the next completion has
  // come, Reap takes it, rings its doorbell and returns its status, or -1 if none came in time.
  void Enqueue(unsigned queue, Command command);
  void Ring(unsigned queue);
  bool Completed(unsigned queue);
  int Reap(unsigned queue);
  int Run(unsigned queue, const Command& command);
  // A command that touches no memory.
  void StartNothing();
  uint16_t last_id() const { return last_id_; }

  uint8_t* page(unsigned index) { return pages_->data[index]; }

  // Puts MSI-X vector `index` on the CPU's kMsixVector + index.
  bool SetUpMsix();
  void SetMsix(bool enabled, bool masked);
  void MaskVector(unsigned index, bool masked);
  bool IsPending(unsigned index);
  unsigned msix_count() const { return msix_count_; }

 private:
  struct Pages {
    alignas(4096) uint8_t data[6][4096];  // for the tests 0 and 1; SQ and CQ of each queue
  };
  struct Queue {
    uint32_t tail, head;
    bool phase;
  };
  uint64_t Doorbell(unsigned queue, bool completion) const;
  volatile uint16_t* Entry(unsigned queue);

  Function* at_ = nullptr;
  Pages* pages_ = nullptr;
  Queue queues_[2] = {};
  uint16_t next_id_ = 0, last_id_ = 0;
  unsigned msix_ = 0, msix_count_ = 0;
  uint64_t table_ = 0, pending_ = 0;
};

}  // namespace tiny
