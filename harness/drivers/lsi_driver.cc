#include "harness/drivers/lsi_driver.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/clock.h"

namespace farside {

using namespace lsi53c895a;  // NOLINT: the registers' names.

namespace {

constexpr uint64_t kNsPerMs = 1'000'000;
// Between two looks at the chip while the device's DMA is answered.
constexpr uint64_t kPollNs = 50'000;
constexpr uint32_t kAdapterId = 7;
constexpr uint8_t kIdentify = 0x80;
constexpr uint8_t kMayDisconnect = 0x40;
constexpr uint8_t kSimpleTag = 0x20;
constexpr uint8_t kNotYet = 0xff;
constexpr uint32_t kMaxData = 0xff'ffff;
constexpr uint32_t kNothing = 0xffff'ffff;  // No address of a script.

// Of the pages: the blocks, which DSA's lower 16 bits count, the ring, and what the script keeps.
constexpr uint64_t kBlocksSize = uint64_t{lsi_block::kCount} * lsi_block::kSize;
constexpr uint64_t kRingSize = uint64_t{lsi_ring::kEntries} * lsi_ring::kEntrySize;
constexpr uint64_t kPagesSize = 2 * kBlocksSize + kRingSize + GuestMemory::kPageSize;
static_assert(kBlocksSize == 0x1'0000);

uint32_t LoadBe32(ConstBytes bytes) { return __builtin_bswap32(LoadLe<uint32_t>(bytes)); }

}  // namespace

Result<std::unique_ptr<LsiDriver>> LsiDriver::Probe(DeviceClient& client, GuestMemory& memory,
                                                    LsiOptions options) {
  auto function = PciFunction::Probe(client);
  if (!function) return tl::unexpected(function.error());
  if (function->vendor() != kVendorId || function->device() != kDeviceId) {
    return FailWith(ENODEV, "the device is {:04x}:{:04x}, which is no LSI53C895A",
                    function->vendor(), function->device());
  }
  if (const auto placed = function->PlaceBars(); !placed) return tl::unexpected(placed.error());
  if (const auto enabled = function->Enable(); !enabled) return tl::unexpected(enabled.error());
  const auto& bars = function->bars();
  if (bars[kMemoryBar].size < kRegisterSize || bars[kRamBar].size < kRamSize) {
    return FailWith(EPROTO, "BARs 1 and 2 have {:#x} and {:#x} bytes: too few for an LSI53C895A",
                    bars[kMemoryBar].size, bars[kRamBar].size);
  }
  std::unique_ptr<LsiDriver> out(new LsiDriver(client, memory, options, std::move(*function)));
  if (const auto set_up = out->SetUpMemory(); !set_up) return tl::unexpected(set_up.error());
  if (options.completion == LsiCompletion::kPoll) return out;
  auto irqs = IrqCollector::Arm(client, vfio_user::IrqIndex::kIntx, 1);
  if (!irqs) return tl::unexpected(irqs.error());
  out->irqs_ = std::move(*irqs);
  return out;
}

LsiDriver::~LsiDriver() {
  ForgetAll();
  if (pages_.size() != 0) (void)memory_.Fill(pages_.iova(), pages_.size(), 0);
}

Result<void> LsiDriver::SetUpMemory() {
  auto pages = GuestPages::Take(memory_, kPagesSize);
  if (!pages) return tl::unexpected(pages.error());
  pages_ = std::move(*pages);
  if (pages_.iova() + pages_.size() > UINT32_MAX || ram_address() + kRamSize > UINT32_MAX) {
    return FailWith(ENOMEM, "SCRIPTS have 32-bit addresses: give the guest memory below 4 GiB");
  }
  const uint64_t blocks = (pages_.iova() + kBlocksSize - 1) / kBlocksSize * kBlocksSize;
  // What the rounding leaves is in front or behind.
  const uint64_t before = blocks - pages_.iova();
  const uint64_t rest =
      before >= kRingSize + GuestMemory::kPageSize ? pages_.iova() : blocks + kBlocksSize;
  ring_ = static_cast<uint32_t>(rest);
  const auto variables = static_cast<uint32_t>(rest + kRingSize);
  places_ = {.script = static_cast<uint32_t>(ram_address()),
             .blocks = static_cast<uint32_t>(blocks),
             .ring_pointer = variables,
             .blocks_pointer = variables + 4,
             .scratch = variables + 8};
  script_ = AssembleLsiScript(places_);
  return {};
}

Result<uint32_t> LsiDriver::Get32(uint64_t address) const {
  uint32_t value = 0;
  const auto read = memory_.Read(address, AsWritableBytes(value));
  return read ? Result<uint32_t>(value) : tl::unexpected(read.error());
}

Result<void> LsiDriver::ResetChip() {
  running_ = false;
  foreign_ = false;
  halt_.reset();
  constexpr uint8_t kScsi = kSist0Ma | kSist0Sge | kSist0Udc | kSist0Rst | kSist0Par;
  constexpr uint8_t kDma = kDstatMdpe | kDstatBf | kDstatAbrt | kDstatSsi | kDstatSir | kDstatIid;
  const std::pair<Reg, uint8_t> writes[] = {{kIstat0, kIstat0Srst},
                                            {kIstat0, 0},
                                            {kScid, 0x40 | kAdapterId},
                                            {kRespid0, 1u << kAdapterId},
                                            {kSien0, kScsi},
                                            {kSien1, kSist1Sto},
                                            {kDien, kDma}};
  for (const auto& [reg, value] : writes) {
    if (const auto written = WriteRegister<uint8_t>(reg, value); !written) return written;
  }
  if (irqs_ == nullptr) return {};
  irqs_->Take(0);
  return irqs_->UnmaskIntx();
}

Result<void> LsiDriver::ResetRing() {
  if (const auto cleared = memory_.Fill(ring_, kRingSize, 0); !cleared) return cleared;
  for (uint32_t i = 0; i < lsi_ring::kEntries; ++i) {
    const auto linked = Put32(RingEntry(i) + lsi_ring::kNext, RingEntry(i + 1));
    if (!linked) return linked;
  }
  tail_ = 0;
  if (const auto put = Put32(places_.blocks_pointer, places_.blocks); !put) return put;
  return Put32(places_.ring_pointer, RingEntry(0));
}

Result<void> LsiDriver::LoadScript(uint32_t address, std::span<const uint32_t> words) {
  if (address < ram_address() || !InRange(address - ram_address(), words.size_bytes(), kRamSize)) {
    return memory_.Write(address, std::as_bytes(words));
  }
  GuestAccess access{.region = kRamBar, .offset = address - ram_address(), .cpu = options_.cpu};
  for (const uint32_t word : words) {
    if (const auto written = client_.Write<uint32_t>(access, word); !written) return written;
    access.offset += sizeof word;
  }
  return {};
}

Result<void> LsiDriver::Enable() {
  if (const auto reset = ResetChip(); !reset) return reset;
  ForgetAll();
  if (const auto cleared = memory_.Fill(pages_.iova(), pages_.size(), 0); !cleared) return cleared;
  if (const auto reset = ResetRing(); !reset) return reset;
  if (const auto loaded = LoadScript(places_.script, script_.words); !loaded) return loaded;
  for (const Reg counter : {kScratchB, kScratchC}) {
    if (const auto counted = WriteRegister<uint32_t>(counter, 0); !counted) return counted;
  }
  running_ = true;
  return Go(script_.next);
}

Result<uint8_t> LsiDriver::ChooseSlot(const LsiCommand& command) const {
  if (!running_) return FailWith(ENOENT, "enable the chip first");
  if (command.target > 15 || command.lun > 7 || command.cdb.size() > lsi_block::kCdbSize) {
    return FailWith(EINVAL, "targets are 0 to 15, luns 0 to 7, and a CDB has up to 16 bytes");
  }
  if (command.data_in != 0 && !command.data_out.empty()) {
    return FailWith(EINVAL, "the data of a command go one way: in or out");
  }
  if (command.buffer && (command.data_in == 0 || *command.buffer > UINT32_MAX - command.data_in)) {
    return FailWith(EINVAL, "a buffer is for data that come in, and lies below 4 GiB");
  }
  const uint64_t size = std::max<uint64_t>(command.data_in, command.data_out.size());
  if (size > kMaxData || command.segments == 0 || command.segments > lsi_block::kMaxSegments) {
    return FailWith(EINVAL, "data have up to {} bytes in 1 to {} segments", kMaxData,
                    lsi_block::kMaxSegments);
  }
  if (!command.tagged) {
    const auto id = static_cast<uint8_t>(lsi_block::kUntagged + command.target);
    if (!slots_.contains(id)) return id;
    return FailWith(EBUSY, "target {} has a command without a tag: one at a time", command.target);
  }
  for (uint8_t id = 0; id < lsi_block::kUntagged; ++id) {
    if (!slots_.contains(id)) return id;
  }
  return FailWith(EBUSY, "{} commands are in flight: wait for one", slots_.size());
}

Result<void> LsiDriver::PutTarget(uint8_t id, uint8_t target, uint64_t message, uint32_t size) {
  const uint32_t block = Block(id);
  const std::pair<uint32_t, uint32_t> words[] = {
      {lsi_block::kSelect, uint32_t{target} << 16},
      {lsi_block::kMessageOut, size},
      {lsi_block::kMessageOut + 4, static_cast<uint32_t>(message)},
      {lsi_block::kStatusEntry, 1},
      {lsi_block::kStatusEntry + 4, block + lsi_block::kStatus},
      {lsi_block::kMessageInEntry, 1},
      {lsi_block::kMessageInEntry + 4, block + lsi_block::kMessage},
      {lsi_block::kFinished, script_.overrun},
      {lsi_block::kStatus, uint32_t{kNotYet} << 8 | kNotYet}};
  for (const auto& [offset, value] : words) {
    if (const auto put = Put32(block + offset, value); !put) return put;
  }
  return {};
}

// The last entries of the table, so that the moves of the script end where its data end.
Result<void> LsiDriver::FillTable(uint8_t id, const LsiCommand& command, const Slot& slot) {
  const uint32_t block = Block(id);
  if (slot.size == 0) return Put32(block + lsi_block::kResume, script_.no_data);
  const uint32_t count = std::min(command.segments, slot.size);
  const uint32_t first = lsi_block::kMaxSegments - count;
  uint32_t done = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t left = count - i;
    const uint32_t part = (slot.size - done + left - 1) / left;
    const uint32_t entry = block + lsi_block::kSegments + 8 * (first + i);
    if (const auto put = Put32(entry, part); !put) return put;
    const auto put = Put32(entry + 4, static_cast<uint32_t>(slot.iova) + done);
    if (!put) return put;
    done += part;
  }
  return Put32(block + lsi_block::kResume,
               (slot.in ? script_.data_in : script_.data_out) + 8 * first);
}

Result<void> LsiDriver::FillBlock(uint8_t id, const LsiCommand& command, const Slot& slot) {
  const uint32_t block = Block(id);
  const std::array message = {
      static_cast<std::byte>(kIdentify | (command.disconnect ? kMayDisconnect : 0) | command.lun),
      std::byte{kSimpleTag}, std::byte{id}};
  const auto put =
      PutTarget(id, command.target, block + lsi_block::kMessageBytes, command.tagged ? 3 : 1);
  if (!put) return put;
  const auto said = memory_.Write(block + lsi_block::kMessageBytes, message);
  if (!said) return said;
  const auto told = memory_.Write(block + lsi_block::kCdb, command.cdb);
  if (!told) return told;
  const auto count = Put32(block + lsi_block::kCommand, static_cast<uint32_t>(command.cdb.size()));
  if (!count) return count;
  const auto cdb = Put32(block + lsi_block::kCommand + 4, block + lsi_block::kCdb);
  if (!cdb) return cdb;
  return FillTable(id, command, slot);
}

Result<void> LsiDriver::Push(uint8_t id, uint8_t what) {
  const uint32_t entry = RingEntry(tail_++);
  if (const auto put = Put32(entry + lsi_ring::kBlock, Block(id)); !put) return put;
  return memory_.Write(entry + lsi_ring::kDo, AsBytes(what));
}

// SIGP wakes a script that waits for reselection; one that works looks at the ring by itself, and
// then finds SIGP when it comes to wait.
Result<uint8_t> LsiDriver::Submit(const LsiCommand& command) {
  const auto id = Queue(command);
  if (!id) return id;
  const auto kicked = Kick();
  return kicked ? id : tl::unexpected(kicked.error());
}

Result<uint8_t> LsiDriver::Queue(const LsiCommand& command) {
  const auto id = ChooseSlot(command);
  if (!id) return id;
  Slot slot{.iova = command.buffer.value_or(0),
            .size = std::max(command.data_in, static_cast<uint32_t>(command.data_out.size())),
            .in = command.data_in != 0};
  if (slot.size != 0 && !command.buffer) {
    auto pages = GuestPages::Take(memory_, slot.size);
    if (!pages) return tl::unexpected(pages.error());
    slot.data = std::move(*pages);
    slot.iova = slot.data.iova();
    const auto put = memory_.Write(slot.iova, command.data_out);
    if (!put) return tl::unexpected(put.error());
  }
  if (const auto filled = FillBlock(*id, command, slot); !filled) {
    return tl::unexpected(filled.error());
  }
  slots_[*id] = std::move(slot);
  const auto pushed = Push(*id, lsi_ring::kStart);
  return pushed ? id : tl::unexpected(pushed.error());
}

Result<LsiResult> LsiDriver::SendMessage(uint8_t target, ConstBytes message) {
  const auto id = ChooseSlot({.target = target, .data_out = message});
  if (!id) return tl::unexpected(id.error());
  auto pages = GuestPages::Take(memory_, std::max<uint64_t>(message.size(), 1));
  if (!pages) return tl::unexpected(pages.error());
  const auto put = memory_.Write(pages->iova(), message);
  if (!put) return tl::unexpected(put.error());
  const auto filled = PutTarget(*id, target, pages->iova(), static_cast<uint32_t>(message.size()));
  if (!filled) return tl::unexpected(filled.error());
  if (const auto none = Put32(Block(*id) + lsi_block::kResume, script_.no_data); !none) {
    return tl::unexpected(none.error());
  }
  slots_[*id] = {.data = std::move(*pages)};
  auto sent = Push(*id, lsi_ring::kSend);
  if (sent) sent = Kick();
  return sent ? Wait(*id) : tl::unexpected(sent.error());
}

Result<LsiResult> LsiDriver::Execute(const LsiCommand& command) {
  const auto id = Submit(command);
  return id ? Wait(*id) : tl::unexpected(id.error());
}

Result<LsiResult> LsiDriver::Wait(uint8_t id) {
  const MonotonicClock clock;
  const uint64_t deadline_ns = clock.now_ns() + options_.timeout_ns;
  for (;;) {
    const auto found = slots_.find(id);
    if (found == slots_.end()) return FailWith(ENOENT, "no command with tag {} is in flight", id);
    if (found->second.result) return Collect(id);
    const uint64_t now_ns = clock.now_ns();
    if (now_ns >= deadline_ns) {
      const auto dsp = ReadRegister<uint32_t>(kDsp);
      const auto istat = ReadRegister<uint8_t>(kIstat0);
      return FailWith(
          ETIMEDOUT, "the command with tag {} did not end within {} ms: DSP is {:#x}, ISTAT0 {:#x}",
          id, options_.timeout_ns / kNsPerMs, dsp.value_or(kNothing), istat.value_or(0xff));
    }
    const auto worked = WaitForWork(deadline_ns - now_ns);
    if (!worked) return tl::unexpected(worked.error());
  }
}

Result<LsiResult> LsiDriver::Collect(uint8_t id) {
  auto node = slots_.extract(id);
  Slot& slot = node.mapped();
  LsiResult result = std::move(*slot.result);
  if (slot.size == 0 || slot.data.size() == 0) return result;
  if (slot.in) {
    result.data.resize(slot.size);
    const auto got = memory_.Read(slot.iova, result.data);
    if (!got) return tl::unexpected(got.error());
  }
  const auto cleared = memory_.Fill(slot.iova, slot.size, 0);
  return cleared ? Result<LsiResult>(std::move(result)) : tl::unexpected(cleared.error());
}

void LsiDriver::Forget(uint8_t id) {
  const auto found = slots_.find(id);
  if (found == slots_.end()) return;
  const Slot& slot = found->second;
  if (slot.size != 0 && slot.data.size() != 0) (void)memory_.Fill(slot.iova, slot.size, 0);
  slots_.erase(found);
}

void LsiDriver::ForgetAll() {
  while (!slots_.empty()) Forget(slots_.begin()->first);
}

// After an interrupt if there are any. True if the chip had something to say.
Result<bool> LsiDriver::WaitForWork(uint64_t timeout_ns) {
  if (irqs_ == nullptr) {
    const auto served = Service();
    if (!served || *served) return served;
    const auto waited = client_.WaitReadable(-1, std::min(timeout_ns, kPollNs));
    return waited ? Result<bool>(false) : waited;
  }
  const auto signalled = irqs_->Wait(0, timeout_ns);
  if (!signalled || !*signalled) return signalled;
  irqs_->Take(0);
  const auto served = Service();
  if (!served) return served;
  const auto unmasked = irqs_->UnmaskIntx();
  return unmasked ? served : tl::unexpected(unmasked.error());
}

Result<bool> LsiDriver::Service() {
  const auto istat = ReadRegister<uint8_t>(kIstat0);
  if (!istat) return tl::unexpected(istat.error());
  if ((*istat & (kIstat0Intf | kIstat0Sip | kIstat0Dip)) == 0) return false;
  if ((*istat & kIstat0Intf) != 0) {
    // A SIGP that the script has not seen stays.
    const auto cleared =
        WriteRegister<uint8_t>(kIstat0, static_cast<uint8_t>((*istat & kIstat0Sigp) | kIstat0Intf));
    if (!cleared) return tl::unexpected(cleared.error());
  }
  // What has completed, before other things end all.
  if (const auto reaped = Reap(); !reaped) return tl::unexpected(reaped.error());
  if ((*istat & kIstat0Sip) != 0) {
    const auto sist = client_.Read<uint16_t>(Register(kSist0));
    if (!sist) return tl::unexpected(sist.error());
    const auto done =
        OnScsiInterrupt(static_cast<uint8_t>(*sist), static_cast<uint8_t>(*sist >> 8));
    if (!done) return tl::unexpected(done.error());
  }
  if ((*istat & kIstat0Dip) != 0) {
    const auto dstat = ReadRegister<uint8_t>(kDstat);
    if (!dstat) return tl::unexpected(dstat.error());
    if (const auto done = OnDmaInterrupt(*dstat); !done) return tl::unexpected(done.error());
  }
  return true;
}

Result<void> LsiDriver::Reap() {
  for (auto& [id, slot] : slots_) {
    if (slot.result) continue;
    const auto last = Get32(Block(id) + lsi_block::kStatus);
    if (!last) return tl::unexpected(last.error());
    if ((*last >> 8 & 0xff) != 0) continue;  // COMMAND COMPLETE
    const auto residual = Residual(id, slot);
    if (!residual) return tl::unexpected(residual.error());
    slot.result = {.status = static_cast<uint8_t>(*last), .residual = *residual};
  }
  return {};
}

Result<uint32_t> LsiDriver::Residual(uint8_t id, const Slot& slot) const {
  const auto resume = Get32(Block(id) + lsi_block::kResume);
  if (!resume) return resume;
  const uint32_t begin = slot.in ? script_.data_in : script_.data_out;
  const uint32_t first = (*resume - begin) / 8;
  uint32_t left = 0;
  for (uint32_t i = first; i < lsi_block::kMaxSegments && slot.size != 0; ++i) {
    const auto count = Get32(Block(id) + lsi_block::kSegments + 8 * i);
    if (!count) return count;
    left += *count;
  }
  return left;
}

// Which command has, or had, the bus.
Result<uint8_t> LsiDriver::CurrentSlot() {
  const auto dsa = ReadRegister<uint32_t>(kDsa);
  if (!dsa) return tl::unexpected(dsa.error());
  const uint32_t offset = *dsa - places_.blocks;
  const auto id = static_cast<uint8_t>(offset / lsi_block::kSize);
  if (offset < kBlocksSize && slots_.contains(id)) return id;
  return FailWith(EPROTO, "the chip interrupts for no command in flight: DSA is {:#x}", *dsa);
}

Result<void> LsiDriver::EndCurrent(LsiOutcome outcome) {
  const auto id = CurrentSlot();
  if (!id) return tl::unexpected(id.error());
  const auto residual = Residual(*id, slots_[*id]);
  if (!residual) return tl::unexpected(residual.error());
  slots_[*id].result = {.outcome = outcome, .residual = *residual};
  return Go(script_.next);
}

Result<void> LsiDriver::EndAll() {
  reset_seen_ = true;
  for (auto& [id, slot] : slots_) {
    if (!slot.result) slot.result = {.outcome = LsiOutcome::kReset};
  }
  if (const auto reset = ResetRing(); !reset) return reset;
  return Go(script_.next);
}

Result<void> LsiDriver::OnScsiInterrupt(uint8_t sist0, uint8_t sist1) {
  if (foreign_) {
    if (!halt_) halt_.emplace();
    halt_->sist0 |= sist0;
    halt_->sist1 |= sist1;
    return {};
  }
  if ((sist0 & kSist0Rst) != 0) return EndAll();
  if ((sist1 & kSist1Sto) != 0) return EndCurrent(LsiOutcome::kSelectionTimeout);
  if ((sist0 & kSist0Udc) != 0) return EndCurrent(LsiOutcome::kDisconnected);
  if ((sist0 & kSist0Ma) != 0) return OnPhaseMismatch();
  return FailWith(EIO, "the chip reports SIST0 {:#x}, SIST1 {:#x}", sist0, sist1);
}

// The target has left a phase before the table entry was done: it has less data than room, or
// disconnects meanwhile. The entry is cut, and the script goes on by the new phase.
Result<void> LsiDriver::OnPhaseMismatch() {
  const auto id = CurrentSlot();
  if (!id) return tl::unexpected(id.error());
  const auto dsp = ReadRegister<uint32_t>(kDsp);
  if (!dsp) return tl::unexpected(dsp.error());
  const auto dbc = ReadRegister<uint32_t>(kDbc);
  if (!dbc) return tl::unexpected(dbc.error());
  const uint32_t move = *dsp - 8;
  const uint32_t begin = slots_[*id].in ? script_.data_in : script_.data_out;
  const uint32_t index = (move - begin) / 8;
  if (move < begin || index >= lsi_block::kMaxSegments) return Go(script_.dispatch);
  const uint32_t entry = Block(*id) + lsi_block::kSegments + 8 * index;
  const auto count = Get32(entry);
  if (!count) return tl::unexpected(count.error());
  const auto address = Get32(entry + 4);
  if (!address) return tl::unexpected(address.error());
  const uint32_t left = *dbc & kMaxData;
  if (left == 0 || left > *count) {
    return FailWith(EIO, "a phase mismatch leaves {} of {} bytes in DBC", left, *count);
  }
  if (const auto put = Put32(entry, left); !put) return put;
  if (const auto put = Put32(entry + 4, *address + *count - left); !put) return put;
  if (const auto put = Put32(Block(*id) + lsi_block::kResume, move); !put) return put;
  return Go(script_.dispatch);
}

Result<void> LsiDriver::OnDmaInterrupt(uint8_t dstat) {
  const auto dsps = ReadRegister<uint32_t>(kDsps);
  if (!dsps) return tl::unexpected(dsps.error());
  if (foreign_) {
    if (!halt_) halt_.emplace();
    halt_->dstat |= dstat;
    halt_->dsps = *dsps;
    return {};
  }
  const auto event = static_cast<LsiEvent>(*dsps);
  const bool stopped = (dstat & ~(kDstatDfe | kDstatSir)) != 0;
  if (stopped || event == LsiEvent::kBadPhase || event == LsiEvent::kOverrun) {
    const auto dsp = ReadRegister<uint32_t>(kDsp);
    return FailWith(EIO, "{}: DSTAT is {:#x}, DSPS {:#x}, DSP {:#x}",
                    stopped ? "the script was stopped"
                    : event == LsiEvent::kBadPhase
                        ? "the target is in a phase that there is none of"
                        : "the target has more data than there is room",
                    dstat, *dsps, dsp.value_or(kNothing));
  }
  if (event == LsiEvent::kOtherMessage) return Go(script_.acknowledge);
  return FailWith(EIO, "the script stops with a DSPS of {:#x}, which it has not", *dsps);
}

Result<void> LsiDriver::ResetBus() {
  if (!running_) return FailWith(ENOENT, "enable the chip first");
  reset_seen_ = false;
  for (const uint8_t value : {kScntl1Rst, uint8_t{0}}) {
    if (const auto written = WriteRegister<uint8_t>(kScntl1, value); !written) return written;
  }
  const MonotonicClock clock;
  const uint64_t deadline_ns = clock.now_ns() + options_.timeout_ns;
  while (!reset_seen_) {
    const uint64_t now_ns = clock.now_ns();
    if (now_ns >= deadline_ns) {
      return FailWith(ETIMEDOUT, "RST/ was asserted and the chip does not report it");
    }
    const auto worked = WaitForWork(deadline_ns - now_ns);
    if (!worked) return tl::unexpected(worked.error());
  }
  return {};
}

Result<void> LsiDriver::StartScript(uint32_t address, std::span<const uint32_t> words,
                                    uint32_t dsa) {
  if (const auto reset = ResetChip(); !reset) return reset;
  ForgetAll();
  foreign_ = true;
  if (const auto loaded = LoadScript(address, words); !loaded) return loaded;
  if (const auto put = WriteRegister<uint32_t>(kDsa, dsa); !put) return put;
  return Go(address);
}

Result<LsiHalt> LsiDriver::WaitForHalt() {
  if (!foreign_) return FailWith(ENOENT, "start a script first");
  const MonotonicClock clock;
  const uint64_t deadline_ns = clock.now_ns() + options_.timeout_ns;
  while (!halt_) {
    const uint64_t now_ns = clock.now_ns();
    if (now_ns >= deadline_ns) {
      const auto dsp = ReadRegister<uint32_t>(kDsp);
      return FailWith(ETIMEDOUT, "the script still runs after {} ms: DSP is {:#x}",
                      options_.timeout_ns / kNsPerMs, dsp.value_or(kNothing));
    }
    const auto worked = WaitForWork(deadline_ns - now_ns);
    if (!worked) return tl::unexpected(worked.error());
  }
  const auto dsp = ReadRegister<uint32_t>(kDsp);
  if (!dsp) return tl::unexpected(dsp.error());
  LsiHalt halt = *std::exchange(halt_, std::nullopt);
  halt.dsp = *dsp;
  return halt;
}

Result<LsiResult> LsiDriver::Inquiry(uint8_t target, uint8_t size) {
  const std::array<std::byte, 6> cdb = {std::byte{0x12}, {}, {}, {}, std::byte{size}, {}};
  return Execute({.target = target, .cdb = cdb, .data_in = size});
}

Result<LsiResult> LsiDriver::RequestSense(uint8_t target, uint8_t lun) {
  constexpr uint8_t kSize = 18;
  const std::array<std::byte, 6> cdb = {std::byte{0x03}, {}, {}, {}, std::byte{kSize}, {}};
  return Execute({.target = target, .lun = lun, .cdb = cdb, .data_in = kSize});
}

Result<LsiDriver::Capacity> LsiDriver::ReadCapacity(uint8_t target) {
  const std::array<std::byte, 10> cdb = {std::byte{0x25}};
  // A unit that was reset says so first.
  for (int i = 0; i < 3; ++i) {
    const auto got = Execute({.target = target, .cdb = cdb, .data_in = 8});
    if (!got) return tl::unexpected(got.error());
    if (got->outcome == LsiOutcome::kCompleted && got->status == 0 && got->residual == 0) {
      const ConstBytes data = got->data;
      return Capacity{.blocks = uint64_t{LoadBe32(data)} + 1,
                      .block_size = LoadBe32(data.subspan(4))};
    }
    if (got->status != 2) break;
    if (const auto sense = RequestSense(target); !sense) return tl::unexpected(sense.error());
  }
  return FailWith(EIO, "target {} does not tell its capacity", target);
}

namespace {

std::array<std::byte, 10> BlockCdb(scsi::Opcode opcode, uint32_t block, uint16_t blocks) {
  const auto byte = [](uint32_t value, int shift) {
    return static_cast<std::byte>(value >> shift & 0xff);
  };
  return {static_cast<std::byte>(opcode),
          {},
          byte(block, 24),
          byte(block, 16),
          byte(block, 8),
          byte(block, 0),
          {},
          byte(blocks, 8),
          byte(blocks, 0),
          {}};
}

}  // namespace

Result<LsiResult> LsiDriver::Read(uint8_t target, uint32_t block, uint16_t blocks, uint32_t size) {
  const auto cdb = BlockCdb(scsi::Opcode::kRead10, block, blocks);
  return Execute({.target = target, .cdb = cdb, .data_in = size});
}

Result<uint8_t> LsiDriver::QueueRead(uint8_t target, uint32_t block, uint16_t blocks, uint32_t size,
                                     uint64_t buffer) {
  const auto cdb = BlockCdb(scsi::Opcode::kRead10, block, blocks);
  return Queue({.target = target, .cdb = cdb, .data_in = size, .buffer = buffer});
}

Result<LsiResult> LsiDriver::Write(uint8_t target, uint32_t block, uint16_t blocks,
                                   ConstBytes data) {
  const auto cdb = BlockCdb(scsi::Opcode::kWrite10, block, blocks);
  return Execute({.target = target, .cdb = cdb, .data_out = data});
}

}  // namespace farside
