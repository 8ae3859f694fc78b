#include "devices/testing/nvme_driver.h"

#include <algorithm>

#include "base/check.h"

namespace farside::nvme {

void Driver::Set(Reg row, uint64_t value) {
  const RegisterDef& def = kRegisters[row];
  if (def.width == 8) return Write<uint64_t>(def.offset, value);
  Write<uint32_t>(def.offset, static_cast<uint32_t>(value));
}

void Driver::Probe() {
  WriteConfig<uint32_t>(pci::kBar0, static_cast<uint32_t>(kBar0));
  WriteConfig<uint32_t>(pci::kBar0 + 4, 0);
  WriteConfig<uint32_t>(pci::kBar0 + 4 * 4, static_cast<uint32_t>(kBar4));
  WriteConfig<uint16_t>(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster);
}

uint32_t Driver::FindCapability(uint8_t id) {
  uint32_t offset = ReadConfig<uint8_t>(pci::kCapabilities);
  while (offset != 0 && ReadConfig<uint8_t>(offset) != id) {
    offset = ReadConfig<uint8_t>(offset + 1);
  }
  return offset;
}

void Driver::EnableMsix() {
  const uint32_t cap = FindCapability(pci::kCapMsix);
  const uint32_t vectors = (ReadConfig<uint16_t>(cap + pci::kMsixControl) & 0x7ffu) + 1;
  for (uint32_t vector = 0; vector < vectors; ++vector) {
    const uint32_t unmasked = 0;
    device_->WriteRegion(Region::kBar4,
                         uint64_t{vector} * pci::kMsixEntrySize + pci::kMsixEntryControl,
                         AsBytes(unmasked));
  }
  WriteConfig<uint16_t>(cap + pci::kMsixControl, pci::kMsixEnable);
}

void Driver::EnableMsi(uint32_t log2_vectors) {
  const uint32_t cap = FindCapability(pci::kCapMsi);
  WriteConfig<uint16_t>(cap + pci::kMsiControl,
                        static_cast<uint16_t>(pci::kMsiEnable | log2_vectors << 4));
}

uint64_t Driver::Allocate(uint64_t size, uint64_t alignment) {
  heap_ = (heap_ + alignment - 1) / alignment * alignment;
  const uint64_t block = heap_;
  CHECK(size <= heap_end_ - block);
  heap_ += size;
  Fill(host_.At(block, size), 0);
  return block;
}

bool Driver::Enable(uint32_t entries, uint32_t page_shift) {
  const uint64_t page = uint64_t{1} << page_shift;
  queues_.assign(queues_.size(), Queue{});
  queues_[0] = {.sq = Allocate(entries * sizeof(Sqe), page),
                .cq = Allocate(entries * sizeof(Cqe), page),
                .sq_size = entries,
                .cq_size = entries};
  Set(kAqa, (entries - 1) | (entries - 1) << 16);
  Set(kAsq, queues_[0].sq);
  Set(kAcq, queues_[0].cq);
  Set(kCc, kCcEn | (page_shift - kMinPageShift) << 7 | kSqeShift << 16 | kCqeShift << 20);
  loop_.RunUntilIdle();
  return Get(kCsts) == kCstsRdy;
}

bool Driver::Disable() {
  Set(kCc, Get(kCc) & ~uint64_t{kCcEn});
  loop_.RunUntilIdle();
  return (Get(kCsts) & kCstsRdy) == 0;
}

Status Driver::CreateQueues(uint16_t id, uint32_t entries, uint16_t vector, bool interrupts) {
  Queue queue{.sq = Allocate(entries * sizeof(Sqe)),
              .cq = Allocate(entries * sizeof(Cqe)),
              .sq_size = entries,
              .cq_size = entries,
              .cq_id = id};
  Status status = RunStatus(0, CreateCqCommand(id, queue.cq, entries, vector, interrupts));
  if (status != Status::kSuccess) return status;
  status = RunStatus(0, CreateSqCommand(id, queue.sq, entries, id));
  if (status == Status::kSuccess) queues_[id] = queue;
  return status;
}

Status Driver::DeleteQueues(uint16_t id) {
  const Status status = RunStatus(0, DeleteCommand(AdminOpcode::kDeleteSq, id));
  if (status != Status::kSuccess) return status;
  return RunStatus(0, DeleteCommand(AdminOpcode::kDeleteCq, queues_[id].cq_id));
}

uint16_t Driver::Put(uint16_t id, Sqe sqe) {
  Queue& queue = queues_[id];
  CHECK(queue.sq_size != 0);
  sqe.cid = next_cid_++;
  if (next_cid_ == 0xffff) next_cid_ = 0;
  Copy(host_.At(queue.sq + uint64_t{queue.tail} * sizeof(Sqe), sizeof(Sqe)), AsBytes(sqe));
  queue.tail = (queue.tail + 1) % queue.sq_size;
  return sqe.cid;
}

void Driver::Ring(uint16_t id) { Write<uint32_t>(SqTailDoorbell(id), queues_[id].tail); }

std::optional<Cqe> Driver::Take(uint16_t id) {
  Queue& queue = queues_[id];
  Cqe cqe;
  Copy(AsWritableBytes(cqe), host_.At(queue.cq + uint64_t{queue.head} * sizeof(Cqe), sizeof(Cqe)));
  if (PhaseOf(cqe) != queue.phase) return std::nullopt;
  queue.head = (queue.head + 1) % queue.cq_size;
  if (queue.head == 0) queue.phase = !queue.phase;
  queue.sq_head = cqe.sq_head;
  return cqe;
}

void Driver::RingCompletion(uint16_t id) {
  const Queue& queue = queues_[id];
  Write<uint32_t>(CqHeadDoorbell(queue.cq_id), queue.head);
}

Cqe Driver::Run(uint16_t id, const Sqe& sqe) {
  Put(id, sqe);
  Ring(id);
  loop_.RunUntilIdle();
  const auto cqe = Take(id);
  if (!cqe) return {.cid = 0xffff, .status = StatusField(kNoCompletion, false)};
  RingCompletion(id);
  return *cqe;
}

Sqe AdminCommand(AdminOpcode opcode) { return {.opcode = static_cast<uint8_t>(opcode)}; }

Sqe IdentifyCommand(Cns cns, uint32_t nsid, uint64_t data) {
  Sqe sqe = AdminCommand(AdminOpcode::kIdentify);
  sqe.nsid = nsid;
  sqe.prp1 = data;
  sqe.cdw10 = static_cast<uint32_t>(cns);
  return sqe;
}

Sqe GetLogCommand(LogId log, uint64_t data, uint64_t size, uint64_t offset) {
  const auto dwords = static_cast<uint32_t>(size / 4 - 1);  // 0's based.
  Sqe sqe = AdminCommand(AdminOpcode::kGetLogPage);
  sqe.nsid = kAllNamespaces;
  sqe.prp1 = data;
  sqe.cdw10 = static_cast<uint32_t>(log) | (dwords & 0xffff) << 16;
  sqe.cdw11 = dwords >> 16;
  sqe.cdw12 = static_cast<uint32_t>(offset);
  sqe.cdw13 = static_cast<uint32_t>(offset >> 32);
  return sqe;
}

Sqe SetFeatureCommand(FeatureId id, uint32_t value) {
  Sqe sqe = AdminCommand(AdminOpcode::kSetFeatures);
  sqe.cdw10 = static_cast<uint32_t>(id);
  sqe.cdw11 = value;
  return sqe;
}

Sqe GetFeatureCommand(FeatureId id, uint32_t select, uint32_t cdw11) {
  Sqe sqe = AdminCommand(AdminOpcode::kGetFeatures);
  sqe.cdw10 = static_cast<uint32_t>(id) | select << 8;
  sqe.cdw11 = cdw11;
  return sqe;
}

Sqe CreateCqCommand(uint16_t id, uint64_t base, uint32_t entries, uint16_t vector,
                    bool interrupts) {
  Sqe sqe = AdminCommand(AdminOpcode::kCreateCq);
  sqe.prp1 = base;
  sqe.cdw10 = id | (entries - 1) << 16;
  sqe.cdw11 = uint32_t{vector} << 16 | (interrupts ? 3u : 1u);
  return sqe;
}

Sqe CreateSqCommand(uint16_t id, uint64_t base, uint32_t entries, uint16_t cqid) {
  Sqe sqe = AdminCommand(AdminOpcode::kCreateSq);
  sqe.prp1 = base;
  sqe.cdw10 = id | (entries - 1) << 16;
  sqe.cdw11 = uint32_t{cqid} << 16 | 1u;
  return sqe;
}

Sqe DeleteCommand(AdminOpcode opcode, uint16_t id) {
  Sqe sqe = AdminCommand(opcode);
  sqe.cdw10 = id;
  return sqe;
}

Sqe IoCommand(IoOpcode opcode, uint64_t block, uint32_t blocks, uint64_t prp1, uint64_t prp2) {
  return {.opcode = static_cast<uint8_t>(opcode),
          .nsid = kNamespaceId,
          .prp1 = prp1,
          .prp2 = prp2,
          .cdw10 = static_cast<uint32_t>(block),
          .cdw11 = static_cast<uint32_t>(block >> 32),
          .cdw12 = blocks - 1};
}

}  // namespace farside::nvme
