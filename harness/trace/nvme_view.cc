#include "harness/trace/nvme_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

namespace farside::trace {

using nvme::AdminOpcode;
using nvme::Cqe;
using nvme::IoOpcode;
using nvme::Sqe;

namespace {

struct BitField {
  nvme::Reg reg;
  std::string_view name;
  uint32_t shift;
  uint32_t bits;
};

// NVM Express 1.4, section 3.1.
constexpr BitField kFields[] = {
    {nvme::kCap, "MQES", 0, 16},   {nvme::kCap, "CQR", 16, 1},   {nvme::kCap, "TO", 24, 8},
    {nvme::kCap, "DSTRD", 32, 4},  {nvme::kCap, "CSS", 37, 8},   {nvme::kCap, "MPSMIN", 48, 4},
    {nvme::kCap, "MPSMAX", 52, 4}, {nvme::kVs, "MJR", 16, 16},   {nvme::kVs, "MNR", 8, 8},
    {nvme::kVs, "TER", 0, 8},      {nvme::kCc, "EN", 0, 1},      {nvme::kCc, "CSS", 4, 3},
    {nvme::kCc, "MPS", 7, 4},      {nvme::kCc, "AMS", 11, 3},    {nvme::kCc, "SHN", 14, 2},
    {nvme::kCc, "IOSQES", 16, 4},  {nvme::kCc, "IOCQES", 20, 4}, {nvme::kCsts, "RDY", 0, 1},
    {nvme::kCsts, "CFS", 1, 1},    {nvme::kCsts, "SHST", 2, 2},  {nvme::kCsts, "NSSRO", 4, 1},
    {nvme::kCsts, "PP", 5, 1},     {nvme::kAqa, "ASQS", 0, 12},  {nvme::kAqa, "ACQS", 16, 12},
};

template <typename T>
T EntryAt(ConstBytes data) {
  T entry;
  Copy(AsWritableBytes(entry), data.first(sizeof entry));
  return entry;
}

bool IsAdmin(AdminOpcode opcode, const Sqe& sqe) {
  return sqe.opcode == static_cast<uint8_t>(opcode);
}

std::string AdminFields(const Sqe& sqe) {
  const uint32_t low = sqe.cdw10 & 0xffff;
  const uint32_t high = sqe.cdw10 >> 16;
  switch (AdminOpcode{sqe.opcode}) {
    case AdminOpcode::kCreateSq:
      return fmt::format(" qid {} size {} at {:#x} cq {}", low, high + 1, sqe.prp1,
                         sqe.cdw11 >> 16);
    case AdminOpcode::kCreateCq:
      return fmt::format(" qid {} size {} at {:#x} vector {}", low, high + 1, sqe.prp1,
                         sqe.cdw11 >> 16);
    case AdminOpcode::kDeleteSq:
    case AdminOpcode::kDeleteCq:
      return fmt::format(" qid {}", low);
    case AdminOpcode::kIdentify:
      return fmt::format(" nsid {:#x} cns {:#x}", sqe.nsid, sqe.cdw10 & 0xff);
    case AdminOpcode::kGetLogPage:
      return fmt::format(" nsid {:#x} lid {:#x}", sqe.nsid, sqe.cdw10 & 0xff);
    case AdminOpcode::kAbort:
      return fmt::format(" sqid {} of cid {:#x}", low, high);
    case AdminOpcode::kSetFeatures:
    case AdminOpcode::kGetFeatures:
      return fmt::format(" fid {:#x} dw11 {:#x}", sqe.cdw10 & 0xff, sqe.cdw11);
    case AdminOpcode::kAsyncEventRequest:
      break;
  }
  return {};
}

bool HasBlocks(uint8_t opcode) {
  switch (IoOpcode{opcode}) {
    case IoOpcode::kRead:
    case IoOpcode::kWrite:
    case IoOpcode::kCompare:
    case IoOpcode::kWriteZeroes:
      return true;
    default:
      return false;
  }
}

std::string IoFields(const Sqe& sqe) {
  std::string text = fmt::format(" nsid {}", sqe.nsid);
  if (HasBlocks(sqe.opcode)) {
    text += fmt::format(" slba {:#x} nlb {}", uint64_t{sqe.cdw11} << 32 | sqe.cdw10,
                        (sqe.cdw12 & 0xffff) + 1);
    if ((sqe.cdw12 & 1u << 30) != 0) text += " FUA";
  } else if (IoOpcode{sqe.opcode} == IoOpcode::kDatasetManagement) {
    text += fmt::format(" ranges {}{}", (sqe.cdw10 & 0xff) + 1,
                        (sqe.cdw11 & 1u << 2) != 0 ? " deallocate" : "");
  }
  return text;
}

std::string OpcodeText(bool admin, uint8_t opcode) {
  const std::string_view name = nvme::OpcodeName(admin, opcode);
  return name.empty() ? fmt::format("opcode {:#x}", opcode) : std::string(name);
}

}  // namespace

void NvmeView::Reset() {
  registers_.Reset();
  submission_.clear();
  completion_.clear();
  commands_.clear();
  identify_at_.reset();
}

void NvmeView::WriteRegister(uint64_t offset, ConstBytes data) {
  if (offset >= nvme::kDoorbellBase) return;
  const auto was_enabled = (registers_[nvme::kCc] & nvme::kCcEn) != 0;
  registers_.Write(offset, data, [](size_t, uint64_t, uint64_t) {});
  const bool enabled = (registers_[nvme::kCc] & nvme::kCcEn) != 0;
  if (enabled == was_enabled) return;
  submission_.clear();
  completion_.clear();
  commands_.clear();
  if (!enabled) return;
  const uint64_t aqa = registers_[nvme::kAqa];
  Add(submission_, 0, {registers_[nvme::kAsq], nvme::AqaSubmissionSize(aqa), nvme::kSqeShift});
  Add(completion_, 0, {registers_[nvme::kAcq], nvme::AqaCompletionSize(aqa), nvme::kCqeShift});
}

void NvmeView::Add(Queues& queues, uint32_t id, const Queue& queue) {
  if (queues.size() < kMaxQueues || queues.contains(id)) queues[id] = queue;
}

NvmeView::Queues::const_iterator NvmeView::Find(const Queues& queues, uint64_t iova) {
  return std::ranges::find_if(queues, [&](const auto& entry) { return entry.second.Holds(iova); });
}

void NvmeView::OnAdminCommand(const Sqe& sqe) {
  const uint32_t id = sqe.cdw10 & 0xffff;
  const uint32_t entries = (sqe.cdw10 >> 16) + 1;
  if (IsAdmin(AdminOpcode::kCreateSq, sqe)) {
    Add(submission_, id, {sqe.prp1, entries, nvme::kSqeShift});
  } else if (IsAdmin(AdminOpcode::kCreateCq, sqe)) {
    Add(completion_, id, {sqe.prp1, entries, nvme::kCqeShift});
  } else if (IsAdmin(AdminOpcode::kIdentify, sqe) &&
             (sqe.cdw10 & 0xff) == static_cast<uint32_t>(nvme::Cns::kNamespace)) {
    identify_at_ = sqe.prp1;
  }
}

void NvmeView::OnAdminCompletion(const Sqe& sqe, const Cqe& cqe) {
  const uint32_t id = sqe.cdw10 & 0xffff;
  const bool failed = nvme::StatusOf(cqe) != nvme::Status::kSuccess;
  // Of a queue that could not be made there is none; one that was deleted is no more.
  if (IsAdmin(failed ? AdminOpcode::kCreateSq : AdminOpcode::kDeleteSq, sqe) && id != 0) {
    submission_.erase(id);
  } else if (IsAdmin(failed ? AdminOpcode::kCreateCq : AdminOpcode::kDeleteCq, sqe) && id != 0) {
    completion_.erase(id);
  }
}

std::vector<NvmeSubmission> NvmeView::ReadMemory(uint64_t iova, ConstBytes data) {
  std::vector<NvmeSubmission> out;
  const auto queue = Find(submission_, iova);
  if (queue == submission_.end() || (iova - queue->second.base) % sizeof(Sqe) != 0) return out;
  // A command may change the map of queues.
  const auto [id, where] = *queue;
  auto index = static_cast<uint32_t>((iova - where.base) / sizeof(Sqe));
  for (; data.size() >= sizeof(Sqe) && index < where.entries; data = data.subspan(sizeof(Sqe))) {
    const auto sqe = EntryAt<Sqe>(data);
    out.push_back({.queue = id, .index = index++, .sqe = sqe});
    if (id == 0) OnAdminCommand(sqe);
    if (commands_.size() < kMaxCommands) {
      commands_[{static_cast<uint16_t>(id), sqe.cid}] = sqe;
    }
  }
  return out;
}

std::vector<NvmeCompletion> NvmeView::WriteMemory(uint64_t iova, ConstBytes data) {
  std::vector<NvmeCompletion> out;
  // Identify Namespace, section 5.15.2.1: FLBAS and the LBA formats.
  constexpr size_t kFlbas = 26;
  constexpr size_t kFormats = 128;
  if (identify_at_ == iova && data.size() >= kFormats + 64) {
    const auto format = std::to_integer<size_t>(data[kFlbas] & std::byte{0xf});
    const auto shift = std::to_integer<uint32_t>(data[kFormats + format * 4 + 2]);
    if (shift >= 9 && shift <= 16) block_size_ = uint64_t{1} << shift;
    identify_at_.reset();
  }
  const auto queue = Find(completion_, iova);
  if (queue == completion_.end() || (iova - queue->second.base) % sizeof(Cqe) != 0) return out;
  const auto [id, where] = *queue;
  auto index = static_cast<uint32_t>((iova - where.base) / sizeof(Cqe));
  for (; data.size() >= sizeof(Cqe) && index < where.entries; data = data.subspan(sizeof(Cqe))) {
    NvmeCompletion& completion = out.emplace_back(
        NvmeCompletion{.queue = id, .index = index++, .cqe = EntryAt<Cqe>(data), .sqe = {}});
    const auto command = commands_.find({completion.cqe.sqid, completion.cqe.cid});
    if (command == commands_.end()) continue;
    completion.sqe = command->second;
    commands_.erase(command);
    if (completion.admin()) OnAdminCompletion(*completion.sqe, completion.cqe);
  }
  return out;
}

std::string NvmeView::QueueAt(uint64_t iova, uint64_t size) const {
  for (const auto& [name, queues] :
       {std::pair("SQ", &submission_), std::pair("CQ", &completion_)}) {
    const auto found = Find(*queues, iova);
    if (found == queues->end()) continue;
    const Queue& queue = found->second;
    const uint64_t first = (iova - queue.base) >> queue.entry_shift;
    const uint64_t last = std::min<uint64_t>(
        queue.entries - 1,
        (iova - queue.base + std::max<uint64_t>(size, 1) - 1) >> queue.entry_shift);
    return first == last ? fmt::format("{}{}[{}]", name, found->first, first)
                         : fmt::format("{}{}[{}..{}]", name, found->first, first, last);
  }
  return {};
}

uint64_t NvmeView::TransferSize(const NvmeSubmission& command) const {
  if (command.admin()) return 0;
  const auto opcode = IoOpcode{command.sqe.opcode};
  if (opcode != IoOpcode::kRead && opcode != IoOpcode::kWrite && opcode != IoOpcode::kCompare) {
    return 0;
  }
  return ((command.sqe.cdw12 & 0xffff) + 1) * block_size_;
}

std::string NvmeView::Text(const NvmeSubmission& command) {
  return fmt::format("SQ{}[{}] {} cid {:#x}{}", command.queue, command.index,
                     OpcodeText(command.admin(), command.sqe.opcode), command.sqe.cid,
                     command.admin() ? AdminFields(command.sqe) : IoFields(command.sqe));
}

std::string NvmeView::Text(const NvmeCompletion& completion) {
  const nvme::Status status = nvme::StatusOf(completion.cqe);
  const std::string_view name = nvme::StatusName(status);
  std::string text = fmt::format("CQ{}[{}] ", completion.queue, completion.index);
  if (completion.sqe) text += OpcodeText(completion.admin(), completion.sqe->opcode) + " ";
  text += fmt::format("cid {:#x} of SQ{}: ", completion.cqe.cid, completion.cqe.sqid);
  text +=
      name.empty() ? fmt::format("status {:#x}", static_cast<uint16_t>(status)) : std::string(name);
  if (completion.cqe.dw0 != 0) text += fmt::format(" dw0 {:#x}", completion.cqe.dw0);
  return text;
}

std::string NvmeView::FieldsText(uint64_t offset, size_t size, uint64_t value) {
  std::string text;
  for (const BitField& field : kFields) {
    const RegisterDef& row = nvme::kRegisters[field.reg];
    // Part of a register: its lower half, or its upper one.
    if (offset < row.offset || offset - row.offset >= row.width) continue;
    const auto from = static_cast<uint32_t>(8 * (offset - row.offset));
    if (field.shift < from || field.shift + field.bits > from + 8 * size) continue;
    text += fmt::format(" {}={:#x}", field.name,
                        value >> (field.shift - from) & ((uint64_t{1} << field.bits) - 1));
  }
  return text;
}

}  // namespace farside::trace
