#include "fuzz/host/scsi_referee.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include "devices/scsi/big_endian.h"
#include "devices/scsi/bus.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
namespace {

using scsi::Byte;
using scsi::LoadBe;
using scsi::Opcode;

constexpr uint8_t kGood = 0x00;  // SAM-3 section 5.3.
constexpr uint8_t kCheckCondition = 0x02;

std::string_view Name(Opcode opcode) {
  const scsi::OpcodeDef* const def = scsi::FindOpcode(static_cast<uint8_t>(opcode));
  return def != nullptr ? def->name : "an unknown command";
}

bool IsRead(Opcode opcode) {
  return opcode == Opcode::kRead6 || opcode == Opcode::kRead10 || opcode == Opcode::kRead12 ||
         opcode == Opcode::kRead16;
}

bool IsWrite(Opcode opcode) {
  return opcode == Opcode::kWrite6 || opcode == Opcode::kWrite10 || opcode == Opcode::kWrite12 ||
         opcode == Opcode::kWrite16 || opcode == Opcode::kWriteAndVerify10 ||
         opcode == Opcode::kWriteAndVerify12 || opcode == Opcode::kWriteAndVerify16;
}

// Commands that a CD drive does without a disc are the others.
bool NeedsDisc(Opcode opcode) {
  return IsRead(opcode) || opcode == Opcode::kTestUnitReady || opcode == Opcode::kReadCapacity10 ||
         opcode == Opcode::kReadToc;
}

// SPC-4 section 5.14 and MMC-6 section 4.1.6.1: those that leave a unit attention alone.
bool LeavesAttention(Opcode opcode) {
  return opcode == Opcode::kInquiry || opcode == Opcode::kReportLuns ||
         opcode == Opcode::kGetConfiguration || opcode == Opcode::kGetEventStatus;
}

// Of a read or write, SBC-3 sections 5.7 to 5.10 and 5.31 to 5.38.
struct Blocks {
  uint64_t first = 0;
  uint64_t count = 0;
};

Blocks BlocksOf(ConstBytes cdb) {
  switch (scsi::CdbSize(Byte(cdb, 0))) {
    case 6: {
      const uint64_t count = Byte(cdb, 4);
      return {LoadBe<uint32_t>(cdb) & 0x1f'ffff, count == 0 ? 256 : count};
    }
    case 10:
      return {LoadBe<uint32_t>(cdb.subspan(2)), LoadBe<uint16_t>(cdb.subspan(7))};
    case 12:
      return {LoadBe<uint32_t>(cdb.subspan(2)), LoadBe<uint32_t>(cdb.subspan(6))};
    default:
      return {LoadBe<uint64_t>(cdb.subspan(2)), LoadBe<uint32_t>(cdb.subspan(10))};
  }
}

bool IsBare(ConstBytes bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{}; });
}

// Nothing but the blocks is asked for: no flags, no group, no CONTROL.
bool IsPlainTransfer(ConstBytes cdb) {
  const size_t size = cdb.size();
  if (size == 6) return (Byte(cdb, 1) & 0xe0) == 0 && Byte(cdb, 5) == 0;
  const bool no_group = size == 10 ? Byte(cdb, 6) == 0 : Byte(cdb, size - 2) == 0;
  return Byte(cdb, 1) == 0 && no_group && Byte(cdb, size - 1) == 0;
}

// How much a reply says that it has, by its own header; nothing where that has not come.
std::optional<size_t> SaidSize(Opcode opcode, ConstBytes in) {
  switch (opcode) {
    case Opcode::kRequestSense:  // SPC-4 section 4.5: ADDITIONAL SENSE LENGTH.
      return in.size() < 8 ? std::nullopt : std::optional<size_t>(8 + Byte(in, 7));
    case Opcode::kModeSense6:  // SPC-4 section 7.5.4: MODE DATA LENGTH.
      return in.empty() ? std::nullopt : std::optional<size_t>(1 + Byte(in, 0));
    case Opcode::kModeSense10:
      return in.size() < 2 ? std::nullopt : std::optional<size_t>(2 + LoadBe<uint16_t>(in));
    case Opcode::kReportLuns:  // SPC-4 section 6.33: LUN LIST LENGTH.
      return in.size() < 4 ? std::nullopt : std::optional<size_t>(8 + LoadBe<uint32_t>(in));
    default:
      return std::nullopt;
  }
}

// ALLOCATION LENGTH, SPC-4 section 4.2.5.6.
std::optional<size_t> Allocation(ConstBytes cdb) {
  switch (Opcode{Byte(cdb, 0)}) {
    case Opcode::kRequestSense:
    case Opcode::kModeSense6:
      return Byte(cdb, 4);
    case Opcode::kInquiry:
      return LoadBe<uint16_t>(cdb.subspan(3));
    case Opcode::kModeSense10:
      return LoadBe<uint16_t>(cdb.subspan(7));
    case Opcode::kReportLuns:
      return LoadBe<uint32_t>(cdb.subspan(6));
    default:
      return std::nullopt;
  }
}

void JudgeSize(const ScsiExchange& exchange) {
  const Opcode opcode = exchange.opcode();
  const size_t size = exchange.in.size();
  if (size > Allocation(exchange.cdb).value_or(size)) {
    Violation("scsi-data", "{} carries {} bytes, more than were allocated", Name(opcode), size);
  }
  if (size > SaidSize(opcode, exchange.in).value_or(size)) {
    Violation("scsi-data", "{} carries {} bytes and says that it has {}", Name(opcode), size,
              *SaidSize(opcode, exchange.in));
  }
}

// SPC-4 section 6.39: fixed or descriptor format, as DESC says.
void JudgeSense(const ScsiExchange& exchange) {
  if (exchange.in.empty()) return;
  const uint8_t code = Byte(exchange.in, 0) & 0x7f;
  const bool descriptor = (Byte(exchange.cdb, 1) & 1) != 0;
  if ((code == 0x72 || code == 0x73) == descriptor) return;
  Violation("scsi-data", "REQUEST SENSE with DESC {} gets sense data of code {:#x}", descriptor,
            code);
}

// SPC-4 section 6.13: the page that was asked for, or all by ascending code.
void JudgeModePages(const ScsiExchange& exchange) {
  const ConstBytes in = exchange.in;
  const bool ten = exchange.opcode() == Opcode::kModeSense10;
  const size_t header = ten ? 8 : 4;
  if (in.size() < header) return;
  const size_t descriptors = ten ? LoadBe<uint16_t>(in.subspan(6)) : Byte(in, 3);
  const uint8_t asked = Byte(exchange.cdb, 2) & 0x3f;
  int last = -1;
  for (size_t at = header + descriptors; at + 1 < in.size(); at += 2 + Byte(in, at + 1)) {
    const uint8_t code = Byte(in, at) & 0x3f;
    const bool expected = asked == 0x3f ? code > last : code == asked && last < 0;
    if (!expected) {
      Violation("scsi-data", "MODE SENSE of page {:#x} has page {:#x} behind {:#x}", asked, code,
                last);
    }
    last = code;
  }
}

// SPC-4 sections 6.11 and 7.5: a list that is cut, or wants another block size.
void JudgeModeSelect(const ScsiExchange& exchange, const ScsiUnit& unit) {
  const ConstBytes list = exchange.out;
  if (list.empty()) return;
  const bool ten = exchange.opcode() == Opcode::kModeSelect10;
  const size_t header = ten ? 8 : 4;
  const auto cut = [&](const char* what) {
    Violation("scsi-status", "MODE SELECT takes {} of which not all was sent", what);
  };
  if (list.size() < header) cut("a header");
  const size_t descriptors = ten ? LoadBe<uint16_t>(list.subspan(6)) : Byte(list, 3);
  if (list.size() < header + descriptors) cut("a block descriptor");
  const bool is_long = ten && (Byte(list, 4) & 1) != 0;
  if (descriptors == (is_long ? 16u : 8u)) {
    const ConstBytes descriptor = list.subspan(header, descriptors);
    const uint32_t size =
        is_long ? LoadBe<uint32_t>(descriptor.subspan(12)) : scsi::LoadBe24(descriptor.subspan(5));
    if (size != unit.block_size) {
      Violation("scsi-status", "MODE SELECT changes the block size to {}", size);
    }
  }
  for (size_t at = header + descriptors; at < list.size();) {
    if (list.size() - at < 2) cut("a page");
    const size_t page = 2 + size_t{Byte(list, at + 1)};
    if (list.size() - at < page) cut("a page");
    at += page;
  }
}

// Whether that is what is wrong with a list of MODE SELECT, and all that is: its block descriptor
// lacks bytes, or its first page has but a code and a length, which are those of a page of every
// disk's (SBC-3 section 6.4).
bool IsCut(const ScsiExchange& exchange, const ScsiUnit& unit) {
  const ConstBytes list = exchange.out;
  const bool ten = exchange.opcode() == Opcode::kModeSelect10;
  const size_t header = ten ? 8 : 4;
  const bool plain = (Byte(exchange.cdb, 1) & 0x1) == 0;  // SP
  if (!plain || list.size() < header || (ten && (Byte(list, 4) & 1) != 0)) return false;
  const size_t descriptors = ten ? LoadBe<uint16_t>(list.subspan(6)) : Byte(list, 3);
  if (descriptors != 0 && descriptors != 8) return false;
  if (list.size() < header + descriptors) return true;
  if (descriptors != 0) {
    const ConstBytes descriptor = list.subspan(header, descriptors);
    const bool as_it_is = LoadBe<uint32_t>(descriptor) == 0 &&
                          scsi::LoadBe24(descriptor.subspan(5)) == unit.block_size;
    if (!as_it_is) return false;
  }
  const ConstBytes pages = list.subspan(header + descriptors);
  constexpr std::array<std::array<uint8_t, 2>, 2> kOfAll = {{{0x08, 0x12}, {0x0a, 0x0a}}};
  return pages.size() == 2 && std::ranges::any_of(kOfAll, [&](const auto& page) {
           return Byte(pages, 0) == page[0] && Byte(pages, 1) == page[1];
         });
}

void JudgeCapacity(const ScsiExchange& exchange, const ScsiUnit& unit) {
  const bool is_long = exchange.opcode() == Opcode::kServiceActionIn16;
  const ConstBytes in = exchange.in;
  if (in.size() < (is_long ? 12u : 8u)) return;
  const uint64_t last = is_long ? LoadBe<uint64_t>(in) : LoadBe<uint32_t>(in);
  const auto size = LoadBe<uint32_t>(in.subspan(is_long ? 8 : 4));
  if (size == unit.block_size && last == Disk::kSize / unit.block_size - 1) return;
  Violation("scsi-data", "READ CAPACITY says that the last block is {:#x}, of {} bytes", last,
            size);
}

// SPC-4 section 7.8.5, the Device Identification page: it has the unit's NAA designator.
void JudgeIdentity(const ScsiExchange& exchange, const ScsiUnit& unit) {
  constexpr uint8_t kDeviceIdPage = 0x83;
  constexpr uint8_t kNaa = 3;
  const ConstBytes in = exchange.in;
  const bool asked = (Byte(exchange.cdb, 1) & 1) != 0 && Byte(exchange.cdb, 2) == kDeviceIdPage;
  if (!asked || unit.wwn == 0 || in.size() < 4) return;
  const size_t end = 4 + size_t{LoadBe<uint16_t>(in.subspan(2))};
  if (in.size() < end) return;  // Not all was asked for.
  for (size_t at = 4; at + 4 <= end; at += 4 + size_t{Byte(in, at + 3)}) {
    const bool naa = (Byte(in, at + 1) & 0xf) == kNaa && Byte(in, at + 3) == 8 && at + 12 <= end;
    if (naa && LoadBe<uint64_t>(in.subspan(at + 4)) == unit.wwn) return;
  }
  Violation("scsi-data", "the Device Identification page lacks the unit's NAA designator");
}

}  // namespace

bool ScsiReferee::AnyInFlight() const {
  return std::ranges::any_of(units_, [](const ScsiUnit& unit) {
    return unit.disk != nullptr && unit.disk->in_flight() != 0;
  });
}

void ScsiReferee::Judge(const ScsiExchange& exchange, uint8_t status) {
  const bool good = status == kGood;
  const bool after_reset = JudgeAttention(exchange, good);
  auto& failure = failures_[exchange.target];
  if (failure && good && exchange.alone && exchange.opcode() == Opcode::kRequestSense) {
    JudgeReason(*failure, exchange.in);
  }
  failure.reset();
  if (good) return JudgeGood(exchange);
  if (status != kCheckCondition || !exchange.alone) return;
  if (after_reset) {
    failure = Failure{.opcode = exchange.opcode(), .after_reset = true};
  } else if (!units_[exchange.target].is_cd) {
    failure = FailureOf(exchange, units_[exchange.target]);
  }
}

void ScsiReferee::JudgeTaskSets() const {
  for (const ScsiUnit& unit : units_) {
    if (unit.disk == nullptr || unit.disk->in_flight() <= scsi::kMaxTasks) continue;
    Violation("scsi-status", "{} commands are at work in a task set of {}", unit.disk->in_flight(),
              scsi::kMaxTasks);
  }
}

// SAM-3 section 5.9.6: a reset is the first that a command hears of.
bool ScsiReferee::JudgeAttention(const ScsiExchange& exchange, bool good) {
  if (LeavesAttention(exchange.opcode())) return false;
  const bool due = std::exchange(attention_due_[exchange.target], false);
  if (!due || exchange.opcode() == Opcode::kRequestSense) return false;
  if (good) Violation("scsi-status", "{} after a reset is not told of it", Name(exchange.opcode()));
  return true;
}

// Of a disk: what is known of the request without knowing the unit's modes.
std::optional<ScsiReferee::Failure> ScsiReferee::FailureOf(const ScsiExchange& exchange,
                                                           const ScsiUnit& unit) {
  Failure failure{.opcode = exchange.opcode()};
  switch (failure.opcode) {
    case Opcode::kModeSelect6:
    case Opcode::kModeSelect10:
      if (!IsCut(exchange, unit)) return std::nullopt;
      failure.reason = scsi::asc::kParameterListLength;
      return failure;
    case Opcode::kTestUnitReady:
    case Opcode::kReadCapacity10:
      failure.lawful = IsBare(ConstBytes(exchange.cdb).subspan(1));
      return failure;
    default:
      if ((!IsRead(failure.opcode) && !IsWrite(failure.opcode)) || !IsPlainTransfer(exchange.cdb)) {
        return std::nullopt;
      }
  }
  const Blocks blocks = BlocksOf(exchange.cdb);
  if (blocks.count == 0) return std::nullopt;
  failure.lawful = InRange(blocks.first, blocks.count, Disk::kSize / unit.block_size);
  if (!failure.lawful) failure.reason = scsi::asc::kLbaOutOfRange;
  return failure;
}

// SPC-4 section 4.5: fixed and descriptor format.
void ScsiReferee::JudgeReason(const Failure& failure, ConstBytes sense) {
  const bool descriptor = !sense.empty() && (Byte(sense, 0) & 2) != 0;
  if (sense.size() < (descriptor ? 4u : 14u)) return;
  const auto key = scsi::SenseKey{static_cast<uint8_t>(Byte(sense, descriptor ? 1 : 2) & 0xf)};
  const auto code = LoadBe<uint16_t>(sense.subspan(descriptor ? 2 : 12));
  if (failure.after_reset && key != scsi::SenseKey::kUnitAttention) {
    Violation("scsi-status", "{} after a reset is told {:#06x}, not of it", Name(failure.opcode),
              code);
  }
  if (key != scsi::SenseKey::kIllegalRequest) return;
  if (failure.lawful || code != failure.reason.value_or(code)) {
    Violation("scsi-status", "{} fails with {:#06x}, for which there is no reason",
              Name(failure.opcode), code);
  }
}

void ScsiReferee::JudgeGood(const ScsiExchange& exchange) {
  const ScsiUnit& unit = units_[exchange.target];
  JudgeSize(exchange);
  switch (const Opcode opcode = exchange.opcode()) {
    case Opcode::kRequestSense:
      return JudgeSense(exchange);
    case Opcode::kModeSense6:
    case Opcode::kModeSense10:
      return JudgeModePages(exchange);
    case Opcode::kModeSelect6:
    case Opcode::kModeSelect10:
      if (!unit.is_cd) JudgeModeSelect(exchange, unit);
      return;
    case Opcode::kInquiry:
      return JudgeIdentity(exchange, unit);
    case Opcode::kStartStopUnit:
      return FollowTray(exchange);
    default:
      if (NeedsDisc(opcode) || IsWrite(opcode)) JudgeMedium(exchange, unit);
      if (opcode == Opcode::kReadCapacity10 ||
          (opcode == Opcode::kServiceActionIn16 && (Byte(exchange.cdb, 1) & 0x1f) == 0x10)) {
        JudgeCapacity(exchange, unit);
      }
  }
}

void ScsiReferee::JudgeMedium(const ScsiExchange& exchange, const ScsiUnit& unit) const {
  const Opcode opcode = exchange.opcode();
  if (unit.is_cd && tray_open_) {
    Violation("scsi-status", "{} succeeds with the tray open", Name(opcode));
  }
  if (IsWrite(opcode) && unit.disk->read_only()) {
    Violation("scsi-status", "{} succeeds on a medium that is write-protected", Name(opcode));
  }
  if (IsRead(opcode) || IsWrite(opcode)) JudgeTransfer(exchange, unit);
}

// What crossed the bus, and the disk, are the same.
void ScsiReferee::JudgeTransfer(const ScsiExchange& exchange, const ScsiUnit& unit) const {
  const Opcode opcode = exchange.opcode();
  const Blocks blocks = BlocksOf(exchange.cdb);
  if (!InRange(blocks.first, blocks.count, Disk::kSize / unit.block_size)) {
    Violation("scsi-status", "{} of {} blocks at {:#x} succeeds; there are {}", Name(opcode),
              blocks.count, blocks.first, Disk::kSize / unit.block_size);
  }
  const ConstBytes crossed = IsWrite(opcode) ? exchange.out : exchange.in;
  const ConstBytes medium =
      unit.disk->data().subspan(blocks.first * unit.block_size, blocks.count * unit.block_size);
  if (crossed.size() != medium.size()) {
    Violation("scsi-data", "{} of {} blocks carries {} bytes", Name(opcode), blocks.count,
              crossed.size());
  }
  if (!exchange.alone || crossed.empty()) return;
  if (std::memcmp(crossed.data(), medium.data(), crossed.size()) == 0) return;
  Violation("scsi-data", "after {} of {} blocks at {:#x} the disk holds other bytes", Name(opcode),
            blocks.count, blocks.first);
}

// MMC-6 section 6.42.
void ScsiReferee::FollowTray(const ScsiExchange& exchange) {
  const uint8_t flags = Byte(exchange.cdb, 4);
  const bool load_eject = (flags & 0xf2) == 0x02;
  if (units_[exchange.target].is_cd && load_eject) tray_open_ = (flags & 1) == 0;
}

}  // namespace farside::fuzz
