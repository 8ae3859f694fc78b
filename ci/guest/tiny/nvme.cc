#include "ci/guest/tiny/nvme.h"

namespace tiny {

bool Nvme::SetEnabled(bool enabled) {
  Write<uint32_t>(regs() + kCc, enabled ? 0x0046'0001 : 0);  // entries of 64 and 16 bytes
  return WaitFor([&] { return (Read<uint32_t>(regs() + kCsts) & 1) == enabled; });
}

bool Nvme::Start(uint32_t vector) {
  static Pages pool[4];
  static size_t used = 0;
  if (pages_ == nullptr) pages_ = &pool[used++ % 4];
  SetCommand(*at_, kMemoryDecode | kBusMaster, 0);
  if (!SetEnabled(false)) return false;
  memset(pages_, 0, sizeof *pages_);
  for (Queue& queue : queues_) queue = {0, 0, true};
  Write<uint32_t>(regs() + kAqa, (kQueueSize - 1) << 16 | (kQueueSize - 1));
  Write(regs() + kAsq, reinterpret_cast<uint64_t>(page(2)));
  Write(regs() + kAcq, reinterpret_cast<uint64_t>(page(3)));
  if (!SetEnabled(true)) return false;
  Command create = {.opcode = 5,
                    .prp1 = reinterpret_cast<uint64_t>(page(5)),
                    .words = {(kQueueSize - 1) << 16 | 1, vector << 16 | 3}};  // interrupts on
  if (Run(0, create) != 0) return false;
  create = {.opcode = 1,
            .prp1 = reinterpret_cast<uint64_t>(page(4)),
            .words = {(kQueueSize - 1) << 16 | 1, 1 << 16 | 1}};
  return Run(0, create) == 0;
}

uint64_t Nvme::Doorbell(unsigned queue, bool completion) const {
  return regs() + kDoorbells + 4 * (2 * queue + completion);  // where CAP.DSTRD is 0
}

void Nvme::Enqueue(unsigned queue, Command command) {
  command.opcode |= uint32_t{next_id_++} << 16;
  memcpy(page(2 + 2 * queue) + queues_[queue].tail * sizeof command, &command, sizeof command);
  queues_[queue].tail = (queues_[queue].tail + 1) % kQueueSize;
}

void Nvme::Ring(unsigned queue) { Write(Doorbell(queue, false), queues_[queue].tail); }

volatile uint16_t* Nvme::Entry(unsigned queue) {
  return reinterpret_cast<uint16_t*>(page(3 + 2 * queue) + 16 * queues_[queue].head);
}

bool Nvme::Completed(unsigned queue) { return (Entry(queue)[7] & 1) == queues_[queue].phase; }

int Nvme::Reap(unsigned queue) {
  if (!WaitFor([&] { return Completed(queue); })) return -1;
  const int status = Entry(queue)[7] >> 1;
  last_id_ = Entry(queue)[6];
  if (++queues_[queue].head == kQueueSize)
    queues_[queue] = {queues_[queue].tail, 0, !queues_[queue].phase};
  Write(Doorbell(queue, true), queues_[queue].head);
  return status;
}

int Nvme::Run(unsigned queue, const Command& command) {
  Enqueue(queue, command);
  Ring(queue);
  return Reap(queue);
}

void Nvme::StartNothing() {
  Enqueue(0, {.opcode = kGetFeatures, .words = {7}});  // the number of queues
  Ring(0);
}

bool Nvme::SetUpMsix() {
  msix_ = FindCapability(*at_, 0x11);
  if (msix_ == 0) return false;
  msix_count_ = (ReadConfig<uint16_t>(*at_, msix_ + 2) & 0x7ff) + 1u;
  const auto address = [&](unsigned offset) -> uint64_t {
    const auto value = ReadConfig<uint32_t>(*at_, msix_ + offset);
    for (const Bar& bar : at_->bars) {
      if (bar.size != 0 && bar.reg == 0x10 + 4 * (value & 7)) return bar.base + (value & ~7u);
    }
    return 0;
  };
  table_ = address(4), pending_ = address(8);
  if (table_ == 0 || pending_ == 0) return false;
  SetCommand(*at_, kMemoryDecode | kBusMaster, 0);
  for (unsigned i = 0; i < msix_count_ && i < 8; i++) {
    Write(table_ + 16 * i, static_cast<uint32_t>(MsiAddress()));
    Write<uint32_t>(table_ + 16 * i + 4, 0);
    Write<uint32_t>(table_ + 16 * i + 8, kMsixVector + i);
    MaskVector(i, false);
  }
  return true;
}

void Nvme::SetMsix(bool enabled, bool masked) {
  if (msix_ == 0) return;
  WriteConfig(*at_, msix_ + 2, static_cast<uint16_t>(enabled << 15 | masked << 14));
}

void Nvme::MaskVector(unsigned index, bool masked) {
  Write<uint32_t>(table_ + 16 * index + 12, masked);
}

bool Nvme::IsPending(unsigned index) {
  return Read<uint64_t>(pending_ + index / 64 * 8) >> index % 64 & 1;
}

}  // namespace tiny
