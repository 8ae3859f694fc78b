#include "harness/drivers/nvme_driver.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace farside {

using nvme::AdminOpcode;
using nvme::Cqe;
using nvme::IoOpcode;
using nvme::Sqe;
using nvme::Status;

namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
// Between two looks at a status or a queue while the device's DMA is answered.
constexpr uint64_t kPollNs = 50'000;
constexpr uint32_t kNvmeClass = 0x0108;
constexpr uint32_t kMaxVectors = 64;
constexpr uint32_t kMaxBlocks = 65536;
constexpr uint32_t kFua = 1u << 30;
constexpr uint32_t kDeallocate = 1u << 25;          // Of Write Zeroes.
constexpr uint32_t kAttributeDeallocate = 1u << 2;  // Of Dataset Management.
constexpr uint32_t kMaxRanges = 256;
constexpr uint64_t kPrpsPerPage = NvmeDriver::kPageSize / sizeof(uint64_t);

// ASCII, padded with blanks.
std::string Text(ConstBytes bytes) {
  std::string out;
  for (const std::byte byte : bytes) out.push_back(static_cast<char>(byte));
  return out.substr(0, out.find_last_not_of(" \0", std::string::npos, 2) + 1);
}

}  // namespace

Result<std::unique_ptr<NvmeDriver>> NvmeDriver::Probe(DeviceClient& client, GuestMemory& memory,
                                                      NvmeOptions options) {
  auto function = PciFunction::Probe(client);
  if (!function) return tl::unexpected(function.error());
  if (function->class_code() >> 8 != kNvmeClass) {
    return FailWith(ENODEV, "the device has class {:#08x}, which is not an NVMe controller's",
                    function->class_code());
  }
  if (function->bars()[nvme::kRegisterBar].size < nvme::kDoorbellBase + 2 * nvme::kDoorbellSize) {
    return FailWith(EPROTO, "the device breaks NVMe: BAR 0 has {:#x} bytes",
                    function->bars()[nvme::kRegisterBar].size);
  }
  if (const auto placed = function->PlaceBars(); !placed) return tl::unexpected(placed.error());
  if (const auto enabled = function->Enable(); !enabled) return tl::unexpected(enabled.error());
  std::unique_ptr<NvmeDriver> out(new NvmeDriver(client, memory, options, std::move(*function)));
  if (const auto set_up = out->SetUpInterrupts(); !set_up) return tl::unexpected(set_up.error());
  return out;
}

Result<void> NvmeDriver::SetUpInterrupts() {
  if (options_.completion == NvmeCompletion::kPoll) return {};
  const bool msix = options_.completion == NvmeCompletion::kMsix;
  auto irqs =
      IrqCollector::Arm(client_, msix ? vfio_user::IrqIndex::kMsix : vfio_user::IrqIndex::kIntx,
                        msix ? std::min(function_.msix_count(), kMaxVectors) : 1);
  if (!irqs) return tl::unexpected(irqs.error());
  irqs_ = std::move(*irqs);
  return msix ? function_.SetMsix(true) : Result<void>();
}

Result<void> NvmeDriver::WaitForStatus(uint32_t mask, uint32_t wanted) {
  const MonotonicClock clock;
  const uint64_t deadline_ns = clock.now_ns() + options_.timeout_ns;
  for (;;) {
    const auto csts = ReadRegister<uint32_t>(nvme::kCsts);
    if (!csts) return tl::unexpected(csts.error());
    if ((*csts & mask) == wanted) return {};
    if (*csts == ~0u) return FailWith(EIO, "CSTS reads as ones: the controller does not decode");
    if ((*csts & nvme::kCstsCfs) != 0 && wanted != 0) {
      return FailWith(EIO, "the controller has failed: CSTS is {:#x}", *csts);
    }
    if (clock.now_ns() >= deadline_ns) {
      return FailWith(ETIMEDOUT, "CSTS is {:#x} after {} ms, where {:#x} of {:#x} is due", *csts,
                      options_.timeout_ns / kNsPerMs, wanted, mask);
    }
    // It may need its DMA answered to get there.
    if (const auto waited = client_.WaitReadable(-1, kPollNs); !waited) {
      return tl::unexpected(waited.error());
    }
  }
}

Result<void> NvmeDriver::Disable() {
  const auto cc = ReadRegister<uint32_t>(nvme::kCc);
  if (!cc) return tl::unexpected(cc.error());
  if (const auto off = WriteRegister<uint32_t>(nvme::kCc, *cc & ~nvme::kCcEn); !off) return off;
  if (const auto gone = WaitForStatus(nvme::kCstsRdy, 0); !gone) return gone;
  queues_.clear();
  return {};
}

Result<void> NvmeDriver::Enable() {
  if (const auto disabled = Disable(); !disabled) return disabled;
  auto admin = NvmeQueue::Create(
      client_, memory_,
      {.id = 0, .entries = options_.admin_entries, .bar = nvme::kRegisterBar, .cpu = options_.cpu});
  if (!admin) return tl::unexpected(admin.error());
  const uint32_t last = options_.admin_entries - 1;
  const uint32_t cc = nvme::kCcEn | nvme::kSqeShift << 16 | nvme::kCqeShift << 20;
  for (const auto& written : {WriteRegister<uint32_t>(nvme::kAqa, last << 16 | last),
                              WriteRegister<uint64_t>(nvme::kAsq, (*admin)->sq_base()),
                              WriteRegister<uint64_t>(nvme::kAcq, (*admin)->cq_base()),
                              WriteRegister<uint32_t>(nvme::kCc, cc)}) {
    if (!written) return written;
  }
  if (const auto ready = WaitForStatus(nvme::kCstsRdy, nvme::kCstsRdy); !ready) return ready;
  queues_[0] = std::move(*admin);
  return IdentifyAll();
}

Result<void> NvmeDriver::Shutdown() {
  const auto cc = ReadRegister<uint32_t>(nvme::kCc);
  if (!cc) return tl::unexpected(cc.error());
  const auto told = WriteRegister<uint32_t>(nvme::kCc, (*cc & ~nvme::kCcShn) | nvme::kCcShnNormal);
  if (!told) return told;
  return WaitForStatus(nvme::kCstsShst, nvme::kCstsShstComplete);
}

// Base Specification 1.4, figures 245 and 247.
Result<void> NvmeDriver::IdentifyAll() {
  std::array<std::byte, nvme::kIdentifySize> data;
  const auto at = [&data](size_t offset, size_t size) {
    return ConstBytes(data).subspan(offset, size);
  };
  const auto failed = [](std::string_view what, Status status) {
    return FailWith(EIO, "Identify {} ended with {:#x} {}", what, static_cast<uint16_t>(status),
                    nvme::StatusName(status));
  };
  auto status = Identify(nvme::Cns::kController, 0, data);
  if (!status) return tl::unexpected(status.error());
  if (*status != Status::kSuccess) return failed("Controller", *status);
  const uint32_t mdts = LoadLe<uint8_t>(at(77, 1));
  controller_ = {.serial = Text(at(4, 20)),
                 .model = Text(at(24, 40)),
                 .firmware = Text(at(64, 8)),
                 .max_transfer = mdts == 0 || mdts > 20 ? 0 : kPageSize << mdts,
                 .namespaces = LoadLe<uint32_t>(at(516, 4)),
                 .optional_commands = LoadLe<uint16_t>(at(520, 2)),
                 .write_cache = (LoadLe<uint8_t>(at(525, 1)) & 1) != 0};
  status = Identify(nvme::Cns::kNamespace, nvme::kNamespaceId, data);
  if (!status) return tl::unexpected(status.error());
  if (*status != Status::kSuccess) return failed("Namespace", *status);
  const uint32_t format = LoadLe<uint8_t>(at(26, 1)) & 0xf;
  const uint32_t shift = LoadLe<uint32_t>(at(128 + 4 * format, 4)) >> 16 & 0xff;
  if (shift < 9 || shift > 16) {
    return FailWith(EPROTO, "the device breaks NVMe: its blocks have 2^{} bytes", shift);
  }
  namespace_ = {.blocks = LoadLe<uint64_t>(at(0, 8)), .block_size = 1u << shift};
  return {};
}

uint32_t NvmeDriver::VectorOf(uint16_t queue) const {
  return irqs_ == nullptr ? 0 : queue % irqs_->count();
}

Result<void> NvmeDriver::CreateQueues(uint16_t count, uint32_t entries) {
  const uint32_t asked = std::max<uint32_t>(count, 1) - 1;
  const auto granted = SetFeature(nvme::FeatureId::kNumberOfQueues, asked << 16 | asked);
  if (!granted) return tl::unexpected(granted.error());
  const uint32_t most = std::min(granted->dw0 & 0xffff, granted->dw0 >> 16) + 1;
  if (nvme::StatusOf(*granted) != Status::kSuccess || most < count) {
    return FailWith(ENOSPC, "the controller grants {} of {} queue pairs: ask for fewer", most,
                    count);
  }
  for (uint16_t id = 1; id <= count; ++id) {
    auto made = NvmeQueue::Create(
        client_, memory_,
        {.id = id, .entries = entries, .bar = nvme::kRegisterBar, .cpu = options_.cpu});
    if (!made) return tl::unexpected(made.error());
    const uint32_t size = (entries - 1) << 16 | id;
    const uint32_t interrupts = irqs_ != nullptr ? VectorOf(id) << 16 | 2 : 0;
    for (const Sqe& sqe : {Sqe{.opcode = static_cast<uint8_t>(AdminOpcode::kCreateCq),
                          .prp1 = (*made)->cq_base(),
                          .cdw10 = size,
                          .cdw11 = interrupts | 1},
                           Sqe{.opcode = static_cast<uint8_t>(AdminOpcode::kCreateSq),
                           .prp1 = (*made)->sq_base(),
                           .cdw10 = size,
                           .cdw11 = uint32_t{id} << 16 | 1}}) {
      const auto status = RunStatus(0, sqe);
      if (!status) return tl::unexpected(status.error());
      if (*status != Status::kSuccess) {
        return FailWith(EINVAL, "{} {} of {} entries ended with {:#x} {}",
                        nvme::OpcodeName(true, sqe.opcode), id, entries,
                        static_cast<uint16_t>(*status), nvme::StatusName(*status));
      }
    }
    queues_[id] = std::move(*made);
  }
  return {};
}

Result<void> NvmeDriver::DeleteQueue(uint16_t id) {
  for (const AdminOpcode opcode : {AdminOpcode::kDeleteSq, AdminOpcode::kDeleteCq}) {
    const auto status = RunStatus(0, {.opcode = static_cast<uint8_t>(opcode), .cdw10 = id});
    if (!status) return tl::unexpected(status.error());
    if (*status != Status::kSuccess) {
      return FailWith(EINVAL, "deleting queue {} ended with {:#x} {}", id,
                      static_cast<uint16_t>(*status), nvme::StatusName(*status));
    }
  }
  queues_.erase(id);
  return {};
}

Result<NvmeQueue*> NvmeDriver::queue(uint16_t id) {
  const auto found = queues_.find(id);
  if (found != queues_.end()) return found->second.get();
  return FailWith(ENOENT, "there is no queue {}: {}", id,
                  queues_.empty() ? "enable the controller first" : "create it first");
}

Result<uint16_t> NvmeDriver::Submit(uint16_t queue_id, const Sqe& sqe) {
  const auto found = queue(queue_id);
  if (!found) return tl::unexpected(found.error());
  return (*found)->Submit(sqe);
}

Result<Cqe> NvmeDriver::Execute(uint16_t queue_id, const Sqe& sqe) {
  const auto cid = Submit(queue_id, sqe);
  if (!cid) return tl::unexpected(cid.error());
  return Wait(queue_id, *cid);
}

Result<Cqe> NvmeDriver::Wait(uint16_t queue_id, uint16_t cid) {
  const auto found = queue(queue_id);
  if (!found) return tl::unexpected(found.error());
  const MonotonicClock clock;
  const uint64_t deadline_ns = clock.now_ns() + options_.timeout_ns;
  for (;;) {
    if (const auto cqe = (*found)->Take(cid)) return *cqe;
    const uint64_t now_ns = clock.now_ns();
    if (now_ns >= deadline_ns) return NoCompletion(queue_id, cid);
    const auto worked = WaitForWork(queue_id, deadline_ns - now_ns);
    if (!worked) return tl::unexpected(worked.error());
  }
}

// Collects what has completed, after an interrupt if there are any. True if there was something.
Result<bool> NvmeDriver::WaitForWork(uint16_t queue_id, uint64_t timeout_ns) {
  const uint32_t vector = VectorOf(queue_id);
  if (irqs_ == nullptr) {
    const auto found = queue(queue_id);
    if (!found) return tl::unexpected(found.error());
    const auto reaped = (*found)->Reap();
    if (!reaped) return tl::unexpected(reaped.error());
    if (*reaped != 0) return true;
    const auto waited = client_.WaitReadable(-1, std::min(timeout_ns, kPollNs));
    return waited ? Result<bool>(false) : waited;
  }
  const auto signalled = irqs_->Wait(vector, timeout_ns);
  if (!signalled || !*signalled) return signalled;
  irqs_->Take(vector);
  if (const auto reaped = ReapSharers(vector); !reaped) return tl::unexpected(reaped.error());
  if (options_.completion == NvmeCompletion::kIntx) {
    if (const auto unmasked = irqs_->UnmaskIntx(); !unmasked) {
      return tl::unexpected(unmasked.error());
    }
  }
  return true;
}

// An interrupt speaks for all queues of its vector: nobody else will hear it.
Result<void> NvmeDriver::ReapSharers(uint32_t vector) {
  for (const auto& [id, queue] : queues_) {
    if (VectorOf(id) != vector) continue;
    if (const auto reaped = queue->Reap(); !reaped) return tl::unexpected(reaped.error());
  }
  return {};
}

tl::unexpected<Error> NvmeDriver::NoCompletion(uint16_t queue_id, uint16_t cid) {
  const uint64_t ms = options_.timeout_ns / kNsPerMs;
  const auto found = queue(queue_id);
  if (found && (*found)->Reap() && (*found)->Take(cid)) {
    return FailWith(EIO, "command {:#x} of queue {} completed without an interrupt within {} ms",
                    cid, queue_id, ms);
  }
  const auto csts = ReadRegister<uint32_t>(nvme::kCsts);
  return FailWith(ETIMEDOUT,
                  "command {:#x} of queue {} did not complete within {} ms; CSTS is {:#x}", cid,
                  queue_id, ms, csts.value_or(~0u));
}

Result<GuestPages> NvmeDriver::BuildPrps(uint64_t iova, uint64_t size, Sqe* sqe) {
  sqe->prp1 = iova;
  const uint64_t first = kPageSize - iova % kPageSize;
  if (size <= first) return GuestPages();
  const uint64_t second = iova + first;
  const uint64_t count = (size - first + kPageSize - 1) / kPageSize;  // Entries behind PRP1.
  if (count == 1) {
    sqe->prp2 = second;
    return GuestPages();
  }
  // All but the last page of a list end with a pointer to the next one.
  const uint64_t lists = (count - 1 + kPrpsPerPage - 2) / (kPrpsPerPage - 1);
  auto pages = GuestPages::Take(memory_, lists * kPageSize);
  if (!pages) return pages;
  std::vector<uint64_t> entries;
  for (uint64_t i = 0; i < count; ++i) {
    if (entries.size() % kPrpsPerPage == kPrpsPerPage - 1 && i != count - 1) {
      entries.push_back(pages->iova() + (entries.size() + 1) * sizeof(uint64_t));
    }
    entries.push_back(second + i * kPageSize);
  }
  const auto put = memory_.Write(pages->iova(), std::as_bytes(std::span(entries)));
  if (!put) return tl::unexpected(put.error());
  sqe->prp2 = pages->iova();
  return pages;
}

Result<Status> NvmeDriver::RunStatus(uint16_t queue_id, const Sqe& sqe) {
  const auto cqe = Execute(queue_id, sqe);
  if (!cqe) return tl::unexpected(cqe.error());
  return nvme::StatusOf(*cqe);
}

Result<Status> NvmeDriver::Transfer(uint16_t queue_id, Sqe sqe, ConstBytes in, Bytes out) {
  const auto pages = GuestPages::Take(memory_, std::max(in.size(), out.size()));
  if (!pages) return tl::unexpected(pages.error());
  if (const auto put = memory_.Write(pages->iova(), in); !put) return tl::unexpected(put.error());
  const auto prps = BuildPrps(pages->iova(), pages->size(), &sqe);
  if (!prps) return tl::unexpected(prps.error());
  const auto status = RunStatus(queue_id, sqe);
  if (!status || *status != Status::kSuccess) return status;
  if (const auto got = memory_.Read(pages->iova(), out); !got) return tl::unexpected(got.error());
  return status;
}

Result<Sqe> NvmeDriver::BlockCommand(IoOpcode opcode, uint64_t block, uint64_t size) const {
  if (namespace_.block_size == 0) return FailWith(ENOENT, "enable the controller first");
  const uint64_t blocks = size / namespace_.block_size;
  const uint64_t limit = controller_.max_transfer != 0 ? controller_.max_transfer : UINT64_MAX;
  if (size % namespace_.block_size != 0 || blocks == 0 || blocks > kMaxBlocks || size > limit) {
    return FailWith(EINVAL, "{} bytes are not 1 to {} blocks of {} bytes, {:#x} bytes at most",
                    size, kMaxBlocks, namespace_.block_size, limit);
  }
  return Sqe{.opcode = static_cast<uint8_t>(opcode),
             .nsid = nvme::kNamespaceId,
             .cdw10 = static_cast<uint32_t>(block),
             .cdw11 = static_cast<uint32_t>(block >> 32),
             .cdw12 = static_cast<uint32_t>(blocks - 1)};
}

Result<Status> NvmeDriver::Read(uint16_t queue_id, uint64_t block, Bytes out) {
  const auto sqe = BlockCommand(IoOpcode::kRead, block, out.size());
  if (!sqe) return tl::unexpected(sqe.error());
  return Transfer(queue_id, *sqe, {}, out);
}

Result<Status> NvmeDriver::Write(uint16_t queue_id, uint64_t block, ConstBytes in, bool fua) {
  auto sqe = BlockCommand(IoOpcode::kWrite, block, in.size());
  if (!sqe) return tl::unexpected(sqe.error());
  if (fua) sqe->cdw12 |= kFua;
  return Transfer(queue_id, *sqe, in, {});
}

Result<Status> NvmeDriver::Compare(uint16_t queue_id, uint64_t block, ConstBytes expected) {
  const auto sqe = BlockCommand(IoOpcode::kCompare, block, expected.size());
  if (!sqe) return tl::unexpected(sqe.error());
  return Transfer(queue_id, *sqe, expected, {});
}

Result<Status> NvmeDriver::Flush(uint16_t queue_id) {
  return RunStatus(queue_id,
                   {.opcode = static_cast<uint8_t>(IoOpcode::kFlush), .nsid = nvme::kNamespaceId});
}

Result<Status> NvmeDriver::WriteZeroes(uint16_t queue_id, uint64_t block, uint32_t blocks,
                                       bool deallocate) {
  if (blocks == 0 || blocks > kMaxBlocks) {
    return FailWith(EINVAL, "{} blocks of zeroes: 1 to {} are lawful", blocks, kMaxBlocks);
  }
  return RunStatus(queue_id, {.opcode = static_cast<uint8_t>(IoOpcode::kWriteZeroes),
                              .nsid = nvme::kNamespaceId,
                              .cdw10 = static_cast<uint32_t>(block),
                              .cdw11 = static_cast<uint32_t>(block >> 32),
                              .cdw12 = (blocks - 1) | (deallocate ? kDeallocate : 0)});
}

Result<Status> NvmeDriver::Trim(uint16_t queue_id, std::span<const nvme::DsmRange> ranges) {
  if (ranges.empty() || ranges.size() > kMaxRanges) {
    return FailWith(EINVAL, "{} ranges to deallocate: 1 to {} are lawful", ranges.size(),
                    kMaxRanges);
  }
  const Sqe sqe{.opcode = static_cast<uint8_t>(IoOpcode::kDatasetManagement),
                .nsid = nvme::kNamespaceId,
                .cdw10 = static_cast<uint32_t>(ranges.size() - 1),
                .cdw11 = kAttributeDeallocate};
  return Transfer(queue_id, sqe, std::as_bytes(ranges), {});
}

Result<Status> NvmeDriver::Identify(nvme::Cns cns, uint32_t nsid, Bytes out) {
  if (out.size() != nvme::kIdentifySize) {
    return FailWith(EINVAL, "Identify returns {} bytes, not {}", nvme::kIdentifySize, out.size());
  }
  const Sqe sqe{.opcode = static_cast<uint8_t>(AdminOpcode::kIdentify),
                .nsid = nsid,
                .cdw10 = static_cast<uint32_t>(cns)};
  return Transfer(0, sqe, {}, out);
}

Result<Status> NvmeDriver::GetLog(nvme::LogId id, Bytes out) {
  if (out.empty() || out.size() % 4 != 0) {
    return FailWith(EINVAL, "a log page is read by multiples of 4 bytes, not {}", out.size());
  }
  const auto dwords = static_cast<uint32_t>(out.size() / 4 - 1);
  const Sqe sqe{.opcode = static_cast<uint8_t>(AdminOpcode::kGetLogPage),
                .nsid = nvme::kAllNamespaces,
                .cdw10 = static_cast<uint32_t>(id) | (dwords & 0xffff) << 16,
                .cdw11 = dwords >> 16};
  return Transfer(0, sqe, {}, out);
}

Result<Cqe> NvmeDriver::SetFeature(nvme::FeatureId id, uint32_t value) {
  return Execute(0, {.opcode = static_cast<uint8_t>(AdminOpcode::kSetFeatures),
                     .cdw10 = static_cast<uint32_t>(id),
                     .cdw11 = value});
}

Result<Cqe> NvmeDriver::GetFeature(nvme::FeatureId id) {
  return Execute(0, {.opcode = static_cast<uint8_t>(AdminOpcode::kGetFeatures),
                     .cdw10 = static_cast<uint32_t>(id)});
}

}  // namespace farside
