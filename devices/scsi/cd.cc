#include "devices/scsi/cd.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "devices/core/fast_state.h"
#include "devices/core/state.h"
#include "devices/scsi/big_endian.h"

namespace farside::scsi {
namespace {

constexpr uint8_t kVpdPages[] = {kSupportedVpdPage, kSerialNumberPage, kDeviceIdPage};

constexpr Opcode kSupported[] = {
    Opcode::kTestUnitReady,
    Opcode::kRequestSense,
    Opcode::kInquiry,
    Opcode::kModeSelect6,
    Opcode::kModeSense6,
    Opcode::kStartStopUnit,
    Opcode::kPreventAllow,
    Opcode::kReadCapacity10,
    Opcode::kRead10,
    Opcode::kReadToc,
    Opcode::kGetConfiguration,
    Opcode::kGetEventStatus,
    Opcode::kReadDiscInformation,
    Opcode::kModeSelect10,
    Opcode::kModeSense10,
    Opcode::kReportLuns,
    Opcode::kMaintenanceIn,
    Opcode::kRead12,
    Opcode::kMechanismStatus,
};

// READ TOC/PMA/ATIP, MMC-6 section 6.25.
constexpr uint8_t kDataTrack = 0x14;  // ADR 1, CONTROL: a data track.
constexpr uint8_t kLeadOut = 0xaa;
constexpr uint32_t kLeadIn = 150;  // Blocks before LBA 0, in MSF addresses.
constexpr uint32_t kBlocksPerSecond = 75;

// Discs larger than an 80 minute CD are DVDs.
constexpr uint64_t kMaxCdBlocks = 80 * 60 * kBlocksPerSecond;

// Features and profiles, MMC-6 section 5.
constexpr uint16_t kCdRomProfile = 0x0008;
constexpr uint16_t kDvdRomProfile = 0x0010;
constexpr uint16_t kProfileListFeature = 0x0000;
constexpr uint16_t kCoreFeature = 0x0001;
constexpr uint16_t kRemovableMediumFeature = 0x0003;
constexpr uint16_t kRandomReadableFeature = 0x0010;
constexpr uint16_t kCdReadFeature = 0x001e;
constexpr uint16_t kDvdReadFeature = 0x001f;

constexpr uint8_t kLockState = 0x02;  // Byte 6 of the capabilities page.
constexpr uint8_t kLockByte = 6;

ModePages Pages() {
  std::vector<ModePage> pages;
  pages.push_back(ModePage(kErrorRecoveryPage, 12).Set(3, 5));  // Read retries.
  pages.push_back(ModePage(kCapabilitiesPage, 24)
                      .Set(2, 0x3b)          // Reads CD-R, CD-RW, DVD-ROM, DVD-R, DVD-RAM.
                      .Set(4, 0x70)          // Mode 2 forms 1 and 2, multi-session.
                      .Set(kLockByte, 0x29)  // A tray, that locks and ejects.
                      .Set(8, 0x15)          // 5540 KB/s: 32x.
                      .Set(9, 0xa4)
                      .Set(12, 0x02)  // 512 KB of buffer.
                      .Set(14, 0x15)
                      .Set(15, 0xa4));
  return ModePages(std::move(pages));
}

void PutAddress(uint64_t lba, bool msf, DataWriter& out) {
  if (!msf) {
    out.Put(static_cast<uint32_t>(std::min<uint64_t>(lba, UINT32_MAX)));
    return;
  }
  // Of what is too long for minutes in a byte the end is told.
  constexpr uint64_t kLast = uint64_t{256} * 60 * kBlocksPerSecond - 1;
  const uint64_t at = std::min(lba + kLeadIn, kLast);
  out.Put(uint8_t{0}).Put(static_cast<uint8_t>(at / kBlocksPerSecond / 60));
  out.Put(static_cast<uint8_t>(at / kBlocksPerSecond % 60));
  out.Put(static_cast<uint8_t>(at % kBlocksPerSecond));
}

}  // namespace

Result<std::unique_ptr<Cd>> Cd::Create(const CdOptions& options) {
  if (auto result = Check(*options.drive, kBlockSize, options.identity); !result) {
    return tl::unexpected(result.error());
  }
  return std::unique_ptr<Cd>(new Cd(options));
}

Cd::Cd(const CdOptions& options)
    : BlockUnit(*options.drive, kBlockSize, options.identity, Pages(), kVpdPages) {}

bool Cd::is_dvd() const { return block_count_ > kMaxCdBlocks; }

Task<Status> Cd::Execute(Request& request) {
  switch (Opcode{Byte(request.cdb(), 0)}) {
    case Opcode::kInquiry:
      co_return co_await Inquiry(request);
    case Opcode::kModeSense6:
    case Opcode::kModeSense10:
      co_return co_await ModeSense(request, {}, 0);
    case Opcode::kModeSelect6:
    case Opcode::kModeSelect10:
      co_return co_await ModeSelect(request, {});
    case Opcode::kStartStopUnit:
      co_return StartStop(request);
    case Opcode::kPreventAllow:
      co_return PreventAllow(request);
    case Opcode::kGetConfiguration:
      co_return co_await GetConfiguration(request);
    case Opcode::kGetEventStatus:
      co_return co_await GetEventStatus(request);
    case Opcode::kMechanismStatus:
      co_return co_await MechanismStatus(request);
    case Opcode::kMaintenanceIn:
      co_return co_await ReportOpcodes(request, kSupported);
    default:
      co_return co_await ExecuteWithDisc(request);
  }
}

Task<Status> Cd::ExecuteWithDisc(Request& request) {
  const auto opcode = Opcode{Byte(request.cdb(), 0)};
  switch (opcode) {
    case Opcode::kTestUnitReady:
    case Opcode::kRead10:
    case Opcode::kRead12:
    case Opcode::kReadCapacity10:
    case Opcode::kReadToc:
    case Opcode::kReadDiscInformation:
      break;
    default:
      co_return Illegal(request, asc::kInvalidOpcode);
  }
  if (tray_open_) {
    co_return request.CheckCondition(
        {.key = SenseKey::kNotReady, .code = asc::kMediumNotPresentTrayOpen});
  }
  switch (opcode) {
    case Opcode::kTestUnitReady:
      co_return Status::kGood;
    case Opcode::kReadCapacity10:
      co_return co_await ReadCapacity10(request);
    case Opcode::kReadToc:
      co_return co_await ReadToc(request);
    case Opcode::kReadDiscInformation:
      co_return co_await ReadDiscInformation(request);
    default:
      co_return co_await Read(request);
  }
}

Task<Status> Cd::Read(Request& request) {
  const BlockRange range = ParseRange(request.cdb());
  if (!Contains(range)) co_return Illegal(request, asc::kLbaOutOfRange);
  co_return co_await ReadBlocks(request, range);
}

// MMC-6 section 6.42.
Status Cd::StartStop(Request& request) {
  const uint8_t flags = Byte(request.cdb(), 4);
  const bool load_eject = (flags & 0x02) != 0;
  const bool start = (flags & 0x01) != 0;
  if ((flags & 0xf0) != 0) return Status::kGood;  // Power conditions.
  if (!load_eject) {
    if (!start || !tray_open_) return Status::kGood;
    return request.CheckCondition(
        {.key = SenseKey::kNotReady, .code = asc::kMediumNotPresentTrayOpen});
  }
  if (!start && !tray_open_ && prevented_) {
    return Illegal(request, asc::kMediumRemovalPrevented);
  }
  SetTray(!start);
  return Status::kGood;
}

void Cd::SetTray(bool open) {
  if (open == tray_open_) return;
  tray_open_ = open;
  event_ = open ? Event::kMediaRemoval : Event::kNewMedia;
  if (!open) AddUnitAttention(asc::kMediumMayHaveChanged);
}

// MMC-6 section 6.16.
Status Cd::PreventAllow(Request& request) {
  SetPrevented((Byte(request.cdb(), 4) & 0x01) != 0);
  return Status::kGood;
}

void Cd::SetPrevented(bool prevented) {
  prevented_ = prevented;
  ModePage& page = *modes_.Find(kCapabilitiesPage);
  const auto others = static_cast<uint8_t>(page.current(kLockByte) & ~kLockState);
  page.Update(kLockByte, static_cast<uint8_t>(others | (prevented ? kLockState : 0)));
}

Task<Status> Cd::ReadToc(Request& request) {
  constexpr size_t kMaxToc = 20;
  const ConstBytes cdb = request.cdb();
  const bool msf = (Byte(cdb, 1) & 0x02) != 0;
  // Old drivers have the format in the top bits of the control byte.
  const auto old_format = static_cast<uint8_t>(Byte(cdb, 9) >> 6);
  const auto format = static_cast<uint8_t>(Byte(cdb, 2) & 0xf);
  const uint8_t wanted = format != 0 ? format : old_format;
  const uint8_t first = Byte(cdb, 6);
  if (wanted > 1 || (wanted == 0 && first > 1 && first != kLeadOut)) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  const Bytes data = request.buffer(kMaxToc);
  DataWriter writer(data);
  writer.PutZeroes(2).Put(uint8_t{1}).Put(uint8_t{1});  // First and last track, or session.
  if (wanted == 1 || first <= 1) {
    writer.PutZeroes(1).Put(kDataTrack).Put(uint8_t{1}).PutZeroes(1);
    PutAddress(0, msf, writer);
  }
  if (wanted == 0) {
    writer.PutZeroes(1).Put(kDataTrack).Put(kLeadOut).PutZeroes(1);
    PutAddress(block_count_, msf, writer);
  }
  writer.SetLength<uint16_t>(0);
  co_return co_await Reply(request, data.first(writer.size()), LoadBe<uint16_t>(cdb.subspan(7)));
}

// MMC-6 section 6.21.
Task<Status> Cd::ReadDiscInformation(Request& request) {
  constexpr size_t kSize = 34;
  constexpr uint8_t kComplete = 0x0e;      // The last session and the disc are complete.
  constexpr uint8_t kUnrestricted = 0x20;  // URU
  const ConstBytes cdb = request.cdb();
  if ((Byte(cdb, 1) & 0x07) != 0) co_return Illegal(request, asc::kInvalidFieldInCdb);
  const Bytes data = request.buffer(kSize);
  DataWriter writer(data);
  writer.PutZeroes(2).Put(kComplete);
  writer.Put(uint8_t{1}).Put(uint8_t{1});  // First track, sessions.
  writer.Put(uint8_t{1}).Put(uint8_t{1});  // First and last track of the last session.
  writer.Put(kUnrestricted).PutZeroes(kSize - 8);
  writer.SetLength<uint16_t>(0);
  co_return co_await Reply(request, data, LoadBe<uint16_t>(cdb.subspan(7)));
}

// MMC-6 section 6.5.
Task<Status> Cd::GetConfiguration(Request& request) {
  constexpr size_t kMaxSize = 128;
  constexpr uint8_t kCurrent = 1;
  const ConstBytes cdb = request.cdb();
  const auto type = static_cast<uint8_t>(Byte(cdb, 1) & 0x03);  // RT
  const auto from = LoadBe<uint16_t>(cdb.subspan(2));
  if (type == 3) co_return Illegal(request, asc::kInvalidFieldInCdb);
  const bool cd = !tray_open_ && !is_dvd();
  const bool dvd = !tray_open_ && is_dvd();
  const Bytes data = request.buffer(kMaxSize);
  DataWriter out(data);
  out.PutZeroes(6).Put(cd ? kCdRomProfile : dvd ? kDvdRomProfile : uint16_t{0});
  // Begins a feature if it was asked for.
  const auto wants = [&](uint16_t feature, uint8_t version, bool current, uint8_t size) {
    if (type == 2 ? feature != from : feature < from || (type == 1 && !current)) return false;
    const bool persistent = feature <= kRemovableMediumFeature;
    out.Put(feature);
    out.Put(static_cast<uint8_t>(version << 2 | (persistent ? 2 : 0) | (current ? kCurrent : 0)));
    out.Put(size);
    return true;
  };
  if (wants(kProfileListFeature, 0, true, 8)) {
    out.Put(kDvdRomProfile).Put(static_cast<uint8_t>(dvd ? kCurrent : 0)).PutZeroes(1);
    out.Put(kCdRomProfile).Put(static_cast<uint8_t>(cd ? kCurrent : 0)).PutZeroes(1);
  }
  if (wants(kCoreFeature, 2, true, 8)) {
    out.Put(uint32_t{1}).Put(uint8_t{0}).PutZeroes(3);  // A SCSI drive.
  }
  if (wants(kRemovableMediumFeature, 0, true, 4)) out.Put(uint8_t{0x29}).PutZeroes(3);
  if (wants(kRandomReadableFeature, 0, cd || dvd, 8)) {
    out.Put(kBlockSize).Put(uint16_t{16}).PutZeroes(2);
  }
  if (wants(kCdReadFeature, 2, cd, 4)) out.PutZeroes(4);
  if (wants(kDvdReadFeature, 0, dvd, 0)) out.PutZeroes(0);
  out.SetLength<uint32_t>(0);
  co_return co_await Reply(request, data.first(out.size()), LoadBe<uint16_t>(cdb.subspan(7)));
}

// MMC-6 section 6.6. Only media events happen.
Task<Status> Cd::GetEventStatus(Request& request) {
  constexpr size_t kMaxSize = 8;
  constexpr uint8_t kMediaClass = 4;
  constexpr uint8_t kMediaMask = 1 << kMediaClass;
  constexpr uint8_t kNoEventAvailable = 0x80;
  const ConstBytes cdb = request.cdb();
  const bool polled = (Byte(cdb, 1) & 0x01) != 0;
  if (!polled) co_return Illegal(request, asc::kInvalidFieldInCdb);
  const Bytes data = request.buffer(kMaxSize);
  DataWriter writer(data);
  writer.PutZeroes(2);
  const Event told = event_;
  const bool asked = (Byte(cdb, 4) & kMediaMask) != 0;
  writer.Put(asked ? kMediaClass : kNoEventAvailable).Put(kMediaMask);
  if (asked) {
    writer.Put(static_cast<uint8_t>(told));
    writer.Put(static_cast<uint8_t>(tray_open_ ? 0x01 : 0x02));  // Tray open; medium present.
    writer.PutZeroes(2);
  }
  writer.SetLength<uint16_t>(0);
  const uint64_t allocation = LoadBe<uint16_t>(cdb.subspan(7));
  const bool sent =
      co_await request.SendIn(data.first(std::min<uint64_t>(writer.size(), allocation)));
  // Told is told once it has arrived with its code.
  if (sent && asked && allocation > 4 && event_ == told) event_ = Event::kNone;
  co_return Status::kGood;
}

// MMC-6 section 6.11.
Task<Status> Cd::MechanismStatus(Request& request) {
  constexpr size_t kSize = 8;
  const ConstBytes cdb = request.cdb();
  DataWriter writer(request.buffer(kSize));
  writer.PutZeroes(1).Put(static_cast<uint8_t>(tray_open_ ? 0x10 : 0)).PutZeroes(kSize - 2);
  co_return co_await Reply(request, request.buffer(kSize), LoadBe<uint16_t>(cdb.subspan(8)));
}

// It has none of its own.
void Cd::FormatVpdPage(uint8_t page, DataWriter& out) const { BeginVpdPage(identity_, page, out); }

void Cd::Reset() {
  BlockUnit::Reset();
  SetPrevented(false);
}

// u8 tray open, u8 removal prevented, u8 event, then what every unit of blocks has.
void Cd::Save(StateWriter& out) const {
  out.Put(static_cast<uint8_t>(tray_open_));
  out.Put(static_cast<uint8_t>(prevented_));
  out.Put(static_cast<uint8_t>(event_));
  BlockUnit::Save(out);
}

Result<void> Cd::Load(StateReader& in) {
  const bool tray_open = in.Get<uint8_t>() != 0;
  const bool prevented = in.Get<uint8_t>() != 0;
  const auto event = in.Get<uint8_t>();
  if (event > static_cast<uint8_t>(Event::kMediaRemoval)) {
    return Fail("the saved CD drive has media event {}, which there is not", event);
  }
  // The lock is not a mode parameter, though it stands in a page.
  const bool was_prevented = prevented_;
  SetPrevented(prevented);
  if (auto result = BlockUnit::Load(in); !result) {
    SetPrevented(was_prevented);
    return result;
  }
  SetPrevented(prevented);
  tray_open_ = tray_open;
  event_ = Event{event};
  return {};
}

void Cd::SaveFast(FastState& out) const {
  out.Put(tray_open_);
  out.Put(prevented_);
  out.Put(event_);
  BlockUnit::SaveFast(out);
}

void Cd::LoadFast(FastReader& in) {
  in.Get(tray_open_);
  in.Get(prevented_);
  in.Get(event_);
  BlockUnit::LoadFast(in);
}

}  // namespace farside::scsi
