#include "harness/diff/nvme_workload.h"

#include <algorithm>
#include <utility>

#include "devices/core/pci_registers.h"
#include "devices/nvme/registers.h"

namespace farside::diff {

using nvme::AdminOpcode;
using nvme::Cns;
using nvme::FeatureId;
using nvme::IoOpcode;
using nvme::LogId;
using nvme::Sqe;

namespace {

using namespace nvme_memory;  // NOLINT: this file is about them.

constexpr uint32_t kBar = nvme::kRegisterBar;
constexpr uint32_t kEnable = nvme::kCcEn | nvme::kSqeShift << 16 | nvme::kCqeShift << 20;
constexpr uint32_t kTemperature = 0x157;  // The threshold, in kelvins.
constexpr uint32_t kBlockSize = 512;
constexpr uint32_t kMaxBlocks = 24;  // Of one command: three pages, so that PRP lists are needed.
constexpr uint64_t kDiskBlocks = 4096;  // That the disk has, at least.

uint64_t RegisterAt(nvme::Reg row) { return nvme::kRegisters[row].offset; }

Event WriteRegister(nvme::Reg row, uint64_t value) {
  return Write(kBar, RegisterAt(row), nvme::kRegisters[row].width, value);
}

Event AwaitReady(uint64_t ready) {
  return {.kind = Event::Kind::kAwait,
          .region = kBar,
          .size = 4,
          .offset = RegisterAt(nvme::kCsts),
          .value = ready,
          .mask = nvme::kCstsRdy,
          .data = {}};
}

}  // namespace

std::vector<std::byte> NvmeWorkload::RandomBytes(size_t size) {
  std::vector<std::byte> out(size);
  for (size_t done = 0; done < size; done += 8) {
    StoreLePartial(Bytes(out).subspan(done), random_.Next());
  }
  return out;
}

void NvmeWorkload::Prepare(const Event& event, std::vector<Event>* out) {
  const bool may_reset =
      event.kind == Event::Kind::kReset ||
      (event.kind == Event::Kind::kWrite && event.Touches(kBar, RegisterAt(nvme::kCc), 4));
  // QEMU 7.2's remote machine maps all four pins to one line and counts it up for each of them when
  // INTx Disable is cleared while it is up, but down once only: it then stays up for good.
  const bool may_enable_intx = event.kind == Event::Kind::kWrite &&
                               event.Touches(kConfigRegion, pci::kCommand, 2) &&
                               (event.value & pci::kCommandIntxDisable) == 0;
  if (may_reset || may_enable_intx) ConsumeAll(out);
}

void NvmeWorkload::OnOther(const Event& event) {
  const bool is_write = event.kind == Event::Kind::kWrite;
  const bool may_reset = event.kind == Event::Kind::kReset ||
                         (is_write && event.Touches(kBar, RegisterAt(nvme::kCc), 4));
  if (may_reset) pairs_ = {};
  // A doorbell of a queue that there is not changes nothing.
  if (may_reset || (is_write && event.Touches(kBar, nvme::kDoorbellBase, kDoorbellsSize))) {
    running_ = false;
  }
}

void NvmeWorkload::Next(std::vector<Event>* out) {
  if (!running_ || random_.OneIn(300)) return Enable(out);
  const auto queue = static_cast<uint32_t>(1 + random_.Below(kQueues - 1));
  const bool alone = std::ranges::none_of(std::span(pairs_).subspan(1), &Pair::size);
  if (alone && random_.OneIn(2)) return AskForQueues(out);
  if (pairs_[queue].size == 0) return CreatePair(queue, out);
  if (random_.OneIn(60)) return DeletePair(queue, out);
  if (random_.OneIn(4)) return Admin(out);
  Io(queue, out);
}

void NvmeWorkload::Enable(std::vector<Event>* out) {
  ConsumeAll(out);
  out->push_back(WriteRegister(nvme::kCc, 0));
  out->push_back(AwaitReady(0));
  const auto size = static_cast<uint32_t>(4 + random_.Below(12));
  out->push_back(WriteRegister(nvme::kAqa, uint64_t{size - 1} << 16 | (size - 1)));
  out->push_back(WriteMemory(CqBase(0), std::vector<std::byte>(size * sizeof(nvme::Cqe))));
  out->push_back(WriteRegister(nvme::kAsq, SqBase(0)));
  if (random_.OneIn(2)) {
    out->push_back(WriteRegister(nvme::kAcq, CqBase(0)));
  } else {
    out->push_back(Write(kBar, RegisterAt(nvme::kAcq), 4, CqBase(0)));
    out->push_back(Write(kBar, RegisterAt(nvme::kAcq) + 4, 4, 0));
  }
  out->push_back(WriteRegister(nvme::kCc, kEnable));
  out->push_back(AwaitReady(1));
  pairs_ = {};
  pairs_[0].size = size;
  running_ = true;
  // Section 5.21.1: none of them is persistent across a reset, but QEMU 7.2 keeps all four, over a
  // controller reset and over a function's.
  constexpr std::pair<FeatureId, uint32_t> kDefaults[] = {
      {FeatureId::kErrorRecovery, 0},
      {FeatureId::kVolatileWriteCache, 1},
      {FeatureId::kAsyncEventConfiguration, 0},
      {FeatureId::kTemperatureThreshold, kTemperature}};
  for (const auto& [id, value] : kDefaults) {
    Submit(0,
           {.opcode = static_cast<uint8_t>(AdminOpcode::kSetFeatures),
            .cdw10 = static_cast<uint32_t>(id),
            .cdw11 = value},
           out);
  }
}

void NvmeWorkload::Submit(uint32_t queue, Sqe sqe, std::vector<Event>* out) {
  Pair& pair = pairs_[queue];
  sqe.cid = cid_++;
  out->push_back(WriteMemory(SqBase(queue) + pair.tail * sizeof(Sqe), AsBytes(sqe)));
  pair.tail = (pair.tail + 1) % pair.size;
  out->push_back(Write(kBar, nvme::SqTailDoorbell(queue), 4, pair.tail));
  // The phase tag is in the last double word of the entry: section 4.6.
  out->push_back({.kind = Event::Kind::kAwaitMemory,
                  .size = 4,
                  .offset = CqBase(queue) + pair.cq_tail * sizeof(nvme::Cqe) + 12,
                  .value = pair.phase ? 1u << 16 : 0,
                  .mask = 1 << 16,
                  .data = {}});
  pair.cq_tail = (pair.cq_tail + 1) % pair.size;
  if (pair.cq_tail == 0) pair.phase = !pair.phase;
  const uint32_t unread = (pair.cq_tail + pair.size - pair.cq_head) % pair.size;
  if (unread + 1 >= pair.size || !random_.OneIn(8)) Consume(queue, out);
}

void NvmeWorkload::Consume(uint32_t queue, std::vector<Event>* out) {
  Pair& pair = pairs_[queue];
  pair.cq_head = pair.cq_tail;
  out->push_back(Write(kBar, nvme::CqHeadDoorbell(queue), 4, pair.cq_head));
}

// Before a reset of any kind: QEMU 7.2 goes on counting the completion queues that had unread
// entries when it took them away, and then keeps INTx up for good.
void NvmeWorkload::ConsumeAll(std::vector<Event>* out) {
  for (uint32_t queue = 0; queue < kQueues; ++queue) {
    const Pair& pair = pairs_[queue];
    if (pair.size != 0 && pair.cq_head != pair.cq_tail) Consume(queue, out);
  }
}

void NvmeWorkload::CreatePair(uint32_t queue, std::vector<Event>* out) {
  const auto size = static_cast<uint32_t>(4 + random_.Below(28));
  out->push_back(WriteMemory(CqBase(queue), std::vector<std::byte>(size * sizeof(nvme::Cqe))));
  constexpr uint32_t kContiguous = 1;
  const uint32_t interrupts = random_.OneIn(4) ? 0 : 2;
  Submit(0,
         {.opcode = static_cast<uint8_t>(AdminOpcode::kCreateCq),
          .prp1 = CqBase(queue),
          .cdw10 = (size - 1) << 16 | queue,
          .cdw11 = kContiguous | interrupts},
         out);
  Submit(0,
         {.opcode = static_cast<uint8_t>(AdminOpcode::kCreateSq),
          .prp1 = SqBase(queue),
          .cdw10 = (size - 1) << 16 | queue,
          .cdw11 = queue << 16 | kContiguous},
         out);
  pairs_[queue] = {.size = size};
}

// Lawful before there are I/O queues: section 5.21.1.7. Always enough for those to come.
void NvmeWorkload::AskForQueues(std::vector<Event>* out) {
  constexpr uint32_t kAll = 0xfffe;
  const auto submission = static_cast<uint32_t>(kQueues - 2 + random_.Below(80));
  const auto completion = static_cast<uint32_t>(kQueues - 2 + random_.Below(80));
  Submit(0,
         {.opcode = static_cast<uint8_t>(AdminOpcode::kSetFeatures),
          .cdw10 = static_cast<uint32_t>(FeatureId::kNumberOfQueues),
          .cdw11 = ask_for_all_ ? kAll << 16 | kAll : completion << 16 | submission},
         out);
}

void NvmeWorkload::DeletePair(uint32_t queue, std::vector<Event>* out) {
  for (const AdminOpcode opcode : {AdminOpcode::kDeleteSq, AdminOpcode::kDeleteCq}) {
    Submit(0, {.opcode = static_cast<uint8_t>(opcode), .cdw10 = queue}, out);
  }
  pairs_[queue] = {};
}

void NvmeWorkload::Admin(std::vector<Event>* out) {
  switch (random_.Below(8)) {
    case 0:
    case 1:
    case 2:
      return IdentifySomething(out);
    case 3:
    case 4:
    case 5:
      return Features(out);
    case 6: {
      constexpr LogId kLogs[] = {LogId::kFirmwareSlots, LogId::kChangedNamespaces,
                                 LogId::kCommandEffects, LogId::kErrors};  // The maker's last.
      const auto words = static_cast<uint32_t>(1 + random_.Below(128));
      const auto id =
          static_cast<uint32_t>(kLogs[random_.Below(std::size(kLogs) - (read_all_logs_ ? 0 : 2))]);
      return Submit(0,
                    {.opcode = static_cast<uint8_t>(AdminOpcode::kGetLogPage),
                     .nsid = nvme::kAllNamespaces,
                     .prp1 = kLog,
                     .cdw10 = (words - 1) << 16 | id},
                    out);
    }
    default:
      if (random_.OneIn(2)) {
        auto of = static_cast<uint32_t>(random_.Below(kQueues));
        if (pairs_[of].size == 0 && !abort_of_no_queue_) of = 0;
        return Submit(0,
                      {.opcode = static_cast<uint8_t>(AdminOpcode::kAbort),
                       .cdw10 = uint32_t{cid_} << 16 | of},
                      out);
      }
      // One that there is not.
      return Submit(0, {.opcode = static_cast<uint8_t>(0x40 + random_.Below(0x20))}, out);
  }
}

// How many could be is the maker's choice, and so is what those in between are answered with.
uint32_t NvmeWorkload::WrongNamespace() { return random_.OneIn(2) ? 0 : nvme::kAllNamespaces - 1; }

void NvmeWorkload::IdentifySomething(std::vector<Event>* out) {
  Sqe sqe{.opcode = static_cast<uint8_t>(AdminOpcode::kIdentify)};
  const auto cns = static_cast<Cns>(random_.Below(4));
  sqe.cdw10 = static_cast<uint32_t>(cns);
  sqe.prp1 = cns == Cns::kController             ? kIdentifyController
             : cns == Cns::kNamespace            ? kIdentifyNamespace
             : cns == Cns::kNamespaceDescriptors ? kDescriptors
                                                 : kLists;
  if (cns == Cns::kNamespace || cns == Cns::kNamespaceDescriptors) {
    sqe.nsid = random_.OneIn(8) ? WrongNamespace() : nvme::kNamespaceId;
  }
  Submit(0, sqe, out);
}

void NvmeWorkload::Features(std::vector<Event>* out) {
  // Not Timestamp, which time moves.
  constexpr FeatureId kIds[] = {
      FeatureId::kArbitration,         FeatureId::kPowerManagement,
      FeatureId::kErrorRecovery,       FeatureId::kVolatileWriteCache,
      FeatureId::kNumberOfQueues,      FeatureId::kInterruptCoalescing,
      FeatureId::kWriteAtomicity,      FeatureId::kAsyncEventConfiguration,
      FeatureId::kTemperatureThreshold};
  const FeatureId id = kIds[random_.Below(std::size(kIds))];
  bool set = random_.OneIn(3) && id != FeatureId::kNumberOfQueues;
  if (set_few_) {
    constexpr FeatureId kFew[] = {FeatureId::kErrorRecovery, FeatureId::kVolatileWriteCache,
                                  FeatureId::kAsyncEventConfiguration,
                                  FeatureId::kTemperatureThreshold};
    set = set && std::ranges::find(kFew, id) != std::end(kFew);
  }
  Sqe sqe{.opcode =
              static_cast<uint8_t>(set ? AdminOpcode::kSetFeatures : AdminOpcode::kGetFeatures)};
  sqe.cdw10 = static_cast<uint32_t>(id);
  if (set) sqe.cdw11 = static_cast<uint32_t>(random_.Below(3));
  Submit(0, sqe, out);
}

// Section 4.3. The pages behind the first one go up, or down, so that they are not one piece.
void NvmeWorkload::PointAt(uint64_t iova, uint64_t size, Sqe* sqe, std::vector<Event>* out) {
  sqe->prp1 = iova;
  const uint64_t second = iova / kPage * kPage + kPage;
  const uint64_t end = iova + size;
  if (end <= second) return;
  std::vector<uint64_t> list;
  for (uint64_t page = second; page < end; page += kPage) list.push_back(page);
  if (random_.OneIn(2)) {
    list.push_back(list.back() + kPage);
    std::ranges::reverse(list);
    list.pop_back();
  }
  sqe->prp2 = list.front();
  if (list.size() == 1) return;
  out->push_back(WriteMemory(kPrpList, std::as_bytes(std::span(list))));
  sqe->prp2 = kPrpList;
}

void NvmeWorkload::Scribble(std::vector<Event>* out) {
  const size_t size = 8 + random_.Below(15) * 8;
  const uint64_t offset = random_.Below(kMaxBlocks * kBlockSize / 8) * 8;
  out->push_back(WriteMemory(kWriteBuffer + offset, RandomBytes(size)));
}

void NvmeWorkload::Io(uint32_t queue, std::vector<Event>* out) {
  constexpr IoOpcode kOpcodes[] = {IoOpcode::kRead,    IoOpcode::kRead,
                                   IoOpcode::kRead,    IoOpcode::kWrite,
                                   IoOpcode::kWrite,   IoOpcode::kWrite,
                                   IoOpcode::kCompare, IoOpcode::kWriteZeroes,
                                   IoOpcode::kFlush,   IoOpcode::kDatasetManagement};
  const IoOpcode opcode = kOpcodes[random_.Below(std::size(kOpcodes))];
  Sqe sqe{.opcode = static_cast<uint8_t>(opcode), .nsid = nvme::kNamespaceId};
  if (random_.OneIn(40)) sqe.nsid = WrongNamespace();
  const auto blocks = static_cast<uint32_t>(1 + random_.Below(kMaxBlocks));
  const bool beyond = opcode != IoOpcode::kDatasetManagement || name_data_sets_beyond_;
  const uint64_t slba =
      random_.OneIn(30) && beyond ? random_.Next() : random_.Below(kDiskBlocks - blocks);
  if (opcode == IoOpcode::kDatasetManagement) {
    const nvme::DsmRange range{.attributes = 0, .blocks = blocks, .first_block = slba};
    out->push_back(WriteMemory(kRanges, AsBytes(range)));
    sqe.prp1 = kRanges;
    sqe.cdw11 = random_.OneIn(2) ? 4 : 0;  // Deallocate.
  } else if (opcode != IoOpcode::kFlush) {
    sqe.cdw10 = static_cast<uint32_t>(slba);
    sqe.cdw11 = static_cast<uint32_t>(slba >> 32);
    sqe.cdw12 = blocks - 1;
    if (opcode == IoOpcode::kWrite) Scribble(out);
    if (opcode != IoOpcode::kWriteZeroes) {
      const uint64_t offset = random_.OneIn(4) ? random_.Below(kPage / 4) * 4 : 0;
      const uint64_t buffer = opcode == IoOpcode::kRead ? kReadBuffer : kWriteBuffer;
      PointAt(buffer + offset, blocks * kBlockSize, &sqe, out);
    }
  }
  Submit(queue, sqe, out);
}

}  // namespace farside::diff
