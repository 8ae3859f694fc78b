#include "devices/nvme/controller.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "devices/nvme/identify.h"

namespace farside::nvme {
namespace {

constexpr uint32_t kClassCode = 0x010802;  // Mass storage, NVM, NVM Express.
constexpr uint64_t kPageSize = 4096;       // The MSI-X PBA has pages of its own.

constexpr uint64_t RoundUpToPage(uint64_t size) {
  return (size + kPageSize - 1) / kPageSize * kPageSize;
}

PciConfig MakePciConfig(const Options& options) {
  const uint64_t pba_offset = RoundUpToPage(options.msix_qsize * uint64_t{pci::kMsixEntrySize});
  std::array<BarSpec, kBarCount> bars{};
  bars[kRegisterBar] = {.kind = BarKind::kMemory64, .size = kRegisterBarSize};
  bars[kMsixBar] = {.kind = BarKind::kMemory32, .size = std::bit_ceil(pba_offset + kPageSize)};
  const PciIds ids{.vendor = kVendorId,
                   .device = kDeviceId,
                   .subsystem_vendor = kVendorId,
                   .subsystem = kDeviceId,
                   .class_code = kClassCode,
                   .revision = 1};
  PciConfig config(ids, bars, /*has_intx=*/true);
  config.AddPowerManagement();
  config.AddPcieEndpoint();
  config.AddMsi(kMsiVectors);
  config.AddMsix({.count = options.msix_qsize,
                  .table_bar = kMsixBar,
                  .table_offset = 0,
                  .pba_bar = kMsixBar,
                  .pba_offset = static_cast<uint32_t>(pba_offset)});
  return config;
}

Result<void> CheckOptions(const Options& options) {
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  if (options.serial.empty() || options.serial.size() > kMaxSerialSize ||
      !std::ranges::all_of(options.serial, printable)) {
    return Fail("serial='{}' is not 1 to {} printable ASCII characters", options.serial,
                kMaxSerialSize);
  }
  if (options.drive == nullptr) return Fail("the controller has no disk: give it drive=NODE");
  const auto check = [](std::string_view name, uint32_t value, uint32_t low,
                        uint32_t high) -> Result<void> {
    if (value >= low && value <= high) return {};
    return Fail("{}={} is out of range: use {} to {}", name, value, low, high);
  };
  for (const auto& result :
       {check("max_ioqpairs", options.max_ioqpairs, 1, kMaxQueuePairs),
        check("msix_qsize", options.msix_qsize, 1, 2048), check("mdts", options.mdts, 1, 10),
        check("fetch_batch", options.fetch_batch, 1, kFetchRound)}) {
    if (!result) return result;
  }
  const uint32_t block_size = options.logical_block_size;
  if (!std::has_single_bit(block_size) || block_size < 512 || block_size > 4096) {
    return Fail("logical_block_size={} is not 512, 1024, 2048 or 4096", block_size);
  }
  const uint32_t alignment = options.drive->limits().request_alignment;
  if (block_size % alignment != 0) {
    return Fail(
        "logical_block_size={} is no multiple of the {} bytes that the disk's requests "
        "are aligned to: use {}",
        block_size, alignment, alignment);
  }
  if (options.drive->size() < block_size) {
    return Fail("the disk has {} bytes, less than one logical block of {}: make it larger",
                options.drive->size(), block_size);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Controller>> Controller::Create(DeviceEnv env, const Options& options) {
  if (auto checked = CheckOptions(options); !checked) {
    return tl::unexpected(std::move(checked.error()));
  }
  return std::unique_ptr<Controller>(
      new Controller(std::move(env), options, MakePciConfig(options)));
}

Controller::Controller(DeviceEnv env, const Options& options, const PciConfig& config)
    : PciDevice(kModelName, std::move(env), config, kMsiVectors),
      options_(options),
      namespace_(*options.drive, options.logical_block_size),
      idle_(loop()),
      decided_(loop()),
      changed_(loop()),
      queues_(options.max_ioqpairs),
      rounds_(options.max_ioqpairs + 1),
      features_(options.max_ioqpairs, options.msix_qsize) {
  features_.Reset(clock().now_ns());
}

void Controller::ReadBar(uint32_t bar, uint64_t offset, Bytes out) {
  // Doorbells read as 0 (section 3.1.24), and so does what surrounds the MSI-X table.
  if (bar != kRegisterBar) return Fill(out, 0);
  regs_.Read(offset, out);
}

void Controller::WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) {
  if (bar != kRegisterBar) return;
  if (offset >= kDoorbellBase) return WriteDoorbell(offset, in);
  regs_.Write(offset, in.first(std::min<uint64_t>(in.size(), kDoorbellBase - offset)),
              [this](size_t row, uint64_t old, uint64_t) { OnRegisterWrite(row, old); });
}

void Controller::OnRegisterWrite(size_t row, uint64_t old) {
  switch (row) {
    case kIntms:
    case kIntmc:
      return OnInterruptMaskWrite(row, old);
    case kCc:
      return OnCcWrite(old);
    case kAqa:
    case kAsq:
    case kAcq:
      // The admin queues are made of them when the controller starts.
      if (enabled()) {
        regs_.Set(row, old);
        ++guest_errors_;
      }
      return;
    default:
      return;
  }
}

// Sections 3.1.3 and 3.1.4: two addresses of one mask.
void Controller::OnInterruptMaskWrite(size_t row, uint64_t old) {
  const uint64_t mask = regs_[row];
  regs_.Set(kIntms, mask);
  regs_.Set(kIntmc, mask);
  UpdateIntx();
  if (!vectors_enabled() || config().msix_enabled()) return;
  // MSI, section 7.5.1: an unmasked vector with something to say says it now.
  auto unmasked = static_cast<uint32_t>(old & ~mask);
  for (const CompletionQueue& cq : queues_.cq) {
    if (!cq.exists() || !cq.interrupts || !cq.unread() || cq.vector >= 32) continue;
    const uint32_t bit = 1u << cq.vector;
    if ((unmasked & bit) == 0) continue;
    unmasked &= ~bit;
    SignalVector(cq.vector);
  }
}

void Controller::OnCcWrite(uint64_t old) {
  if ((old & kCcEn) != 0) {
    regs_.Set(kCc, (cc() & ~uint64_t{kCcFixedWhileEnabled}) | (old & kCcFixedWhileEnabled));
    if (!enabled()) ResetController();
  } else if (enabled()) {
    Settle();
  }
  const uint64_t shutdown = cc() & kCcShn;
  if (shutdown != 0 && shutdown != (old & kCcShn) && (csts() & kCstsShst) == 0) BeginShutdown();
}

void Controller::WriteDoorbell(uint64_t offset, ConstBytes in) {
  // Section 3.1.24: doorbells are written whole. Before RDY there are none.
  if (in.size() != kDoorbellSize || offset % kDoorbellSize != 0 || phase_ != Phase::kRunning) {
    ++guest_errors_;
    return;
  }
  const Doorbell doorbell = DoorbellAt(offset);
  const uint32_t value = LoadLe<uint32_t>(in) & 0xffff;  // The upper half is reserved.
  const uint32_t id = doorbell.queue;
  if (!(doorbell.completion ? queues_.HasCq(id) : queues_.HasSq(id))) {
    return OnDoorbellError(Event::kInvalidDoorbellRegister, id);
  }
  if (!doorbell.completion) {
    if (!queues_.sq[id].MoveTail(value)) return OnDoorbellError(Event::kInvalidDoorbellValue, id);
    return Kick(id);
  }
  if (!queues_.cq[id].MoveHead(value)) return OnDoorbellError(Event::kInvalidDoorbellValue, id);
  UpdateIntx();
  for (uint32_t sqid = 0; sqid < queues_.sq.size(); ++sqid) {
    if (queues_.sq[sqid].exists() && queues_.sq[sqid].cqid == id) Kick(sqid);
  }
  if (id == 0) DeliverEvents();
}

void Controller::OnDoorbellError(Event event, uint32_t queue) {
  ++guest_errors_;
  health_.CountDoorbellError(static_cast<uint16_t>(queue));
  RaiseEvent(event);
}

void Controller::SetCsts(uint64_t clear, uint64_t set) {
  regs_.Set(kCsts, (csts() & ~clear) | set);
}

// Brings the controller to where CC wants it, as soon as no task of before is left.
void Controller::Settle() {
  if (tasks_ != 0) return;
  if (phase_ == Phase::kResetting) {
    SetCsts(kCstsRdy, 0);
    phase_ = Phase::kDisabled;
  }
  if (phase_ == Phase::kDisabled && enabled()) StartController();
}

bool Controller::ConfigurationIsValid(const RegisterBlock<kRegCount>& regs) {
  const uint32_t page_shift = CcPageShift(regs[kCc]);
  const uint64_t page_mask = (uint64_t{1} << page_shift) - 1;
  return (regs[kCc] & (kCcCss | kCcAms)) == 0 && page_shift <= kMaxPageShift &&
         AqaSubmissionSize(regs[kAqa]) >= 2 && AqaCompletionSize(regs[kAqa]) >= 2 &&
         ((regs[kAsq] | regs[kAcq]) & page_mask) == 0;
}

void Controller::StartController() {
  if (!ConfigurationIsValid(regs_)) {
    // Never ready and fatal together: RDY stays 0.
    ++guest_errors_;
    SetCsts(0, kCstsCfs);
    phase_ = Phase::kFatal;
    return;
  }
  queues_.sq[0].base = regs_[kAsq];
  queues_.sq[0].size = AqaSubmissionSize(regs_[kAqa]);
  queues_.cq[0].base = regs_[kAcq];
  queues_.cq[0].size = AqaCompletionSize(regs_[kAqa]);
  queues_.cq[0].interrupts = true;
  // A driver that starts again after a shutdown while disabled.
  if ((cc() & kCcShn) == 0) SetCsts(kCstsShst, 0);
  SetCsts(0, kCstsRdy);
  phase_ = Phase::kRunning;
}

// CC.EN went to 0. AQA, ASQ and ACQ stay (section 3.1.5).
void Controller::ResetController() {
  AbandonWork();
  phase_ = (csts() & kCstsRdy) != 0 ? Phase::kResetting : Phase::kDisabled;
  SetCsts(kCstsCfs | kCstsShst, 0);
  regs_.Set(kIntms, 0);
  regs_.Set(kIntmc, 0);
  UpdateIntx();
  Settle();
}

void Controller::OnReset(ResetKind) {
  AbandonWork();
  regs_.Reset();
  phase_ = Phase::kDisabled;
}

// Takes the queues away from under everything that uses them.
void Controller::AbandonWork() {
  ++epoch_;
  CancelCommands();
  queues_.Clear();
  starved_queues_ = 0;
  events_.Clear();
  features_.Reset(clock().now_ns());
  changed_.NotifyAll();
}

// Section 9.5: queue memory that cannot be reached. Nothing moves until the driver resets us.
void Controller::SetFatal() {
  ++epoch_;
  CancelCommands();
  changed_.NotifyAll();
  SetCsts(0, kCstsCfs);
  phase_ = Phase::kFatal;
}

void Controller::CancelCommands() {
  io_commands_.CancelAll();
  admin_commands_.CancelAll();
  decided_.NotifyAll();
}

void Controller::OnTaskEnd() {
  if (--tasks_ != 0) return;
  idle_.NotifyAll();
  Settle();
}

bool Controller::InterruptMasked(uint32_t vector) const {
  return vector < 32 && (regs_[kIntms] >> vector & 1) != 0;
}

void Controller::UpdateIntx() {
  SetIntxLevel(std::ranges::any_of(queues_.cq, [&](const CompletionQueue& cq) {
    return cq.exists() && cq.interrupts && cq.unread() && !InterruptMasked(cq.vector);
  }));
}

uint32_t Controller::vector_limit() const {
  if (config().msix_enabled()) return options_.msix_qsize;
  return config().msi_enabled() ? kMsiVectors : 1;
}

void Controller::OnDmaChanged() {
  ++dma_changes_;
  KickAll();
}

void Controller::OnBusMasterChanged() { KickAll(); }

Task<void> Controller::Drain() {
  paused_ = true;
  while (tasks_ != 0) co_await idle_.Wait();
}

void Controller::Resume() {
  paused_ = false;
  KickAll();
  DeliverEvents();
}

}  // namespace farside::nvme
