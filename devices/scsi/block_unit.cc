#include "devices/scsi/block_unit.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "devices/core/fast_state.h"
#include "devices/core/state.h"
#include "devices/scsi/big_endian.h"

namespace farside::scsi {
namespace {

// Longer ones would not fit beside vendor and product in a designator of page 83h.
constexpr size_t kMaxSerial = 36;

bool IsPrintable(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

BlockRange ParseRange(ConstBytes cdb) {
  switch (cdb.size()) {
    case 6:
      return {LoadBe24(cdb.subspan(1)) & 0x1f'ffff, std::to_integer<uint64_t>(cdb[4])};
    case 10:
      return {LoadBe<uint32_t>(cdb.subspan(2)), LoadBe<uint16_t>(cdb.subspan(7))};
    case 12:
      return {LoadBe<uint32_t>(cdb.subspan(2)), LoadBe<uint32_t>(cdb.subspan(6))};
    default:
      CHECK(cdb.size() == 16);
      return {LoadBe<uint64_t>(cdb.subspan(2)), LoadBe<uint32_t>(cdb.subspan(10))};
  }
}

BlockUnit::BlockUnit(block::BlockDevice& drive, uint32_t block_size, Identity identity,
                     ModePages modes, std::span<const uint8_t> pages)
    : drive_(drive),
      limits_(drive.limits()),
      block_size_(block_size),
      block_count_(drive.size() / block_size),
      identity_(std::move(identity)),
      modes_(std::move(modes)),
      vpd_pages_(pages) {
  CHECK(block_count_ != 0);
}

Result<void> BlockUnit::Check(const block::BlockDevice& drive, uint32_t block_size,
                              const Identity& identity) {
  const struct {
    std::string_view name;
    std::string_view text;
    size_t max;
  } texts[] = {{"vendor", identity.vendor, 8},
               {"product", identity.product, 16},
               {"ver", identity.version, 4},
               {"serial", identity.serial, kMaxSerial}};
  for (const auto& [name, text, max] : texts) {
    if (text.size() > max || !IsPrintable(text)) {
      return Fail("{} takes at most {} printable ASCII characters", name, max);
    }
  }
  const uint32_t alignment = drive.limits().request_alignment;
  if (block_size % alignment != 0) {
    return Fail("blocks of {} bytes do not fit the drive, which takes multiples of {}", block_size,
                alignment);
  }
  if (drive.size() < block_size) {
    return Fail("the drive has {} bytes, less than one block of {}", drive.size(), block_size);
  }
  return {};
}

void BlockUnit::Reset() { modes_.Reset(); }
void BlockUnit::Save(StateWriter& out) const { modes_.Save(out); }
Result<void> BlockUnit::Load(StateReader& in) { return modes_.Load(in); }
void BlockUnit::SaveFast(FastState& out) const { modes_.SaveFast(out); }
void BlockUnit::LoadFast(FastReader& in) { modes_.LoadFast(in); }

Bytes BlockUnit::DriveBuffer(Request& request, uint64_t size) const {
  return request.buffer(size, std::max<size_t>(limits_.memory_alignment, sizeof(void*)));
}

uint64_t BlockUnit::Progress(Request& request, uint64_t total) const {
  const uint64_t done = std::min(request.resumed(), total) / block_size_ * block_size_;
  request.Skip(done);
  return done;
}

Status BlockUnit::ReadFailed(Request& request, block::IoStatus io, uint64_t offset) const {
  switch (io.error) {
    case EINVAL:
      return request.CheckCondition(
          {.key = SenseKey::kHardwareError, .code = asc::kInternalTargetFailure});
    case ECANCELED:
      return request.CheckCondition({.key = SenseKey::kAbortedCommand, .code = asc::kNone});
    default:
      return request.CheckCondition({.key = SenseKey::kMediumError,
                                     .code = asc::kUnrecoveredReadError,
                                     .information = offset / block_size_});
  }
}

Task<Status> BlockUnit::ReadBlocks(Request& request, BlockRange range) {
  const Extent extent = ExtentOf(range);
  uint64_t done = Progress(request, extent.size);
  const Bytes buffer = DriveBuffer(request, std::min(extent.size, kChunk));
  while (done < extent.size) {
    const Bytes chunk = buffer.first(std::min<uint64_t>(buffer.size(), extent.size - done));
    const iovec iov{.iov_base = chunk.data(), .iov_len = chunk.size()};
    const block::IoStatus io = co_await drive_.Read(extent.offset + done, {&iov, 1});
    if (request.aborted()) co_return Status::kGood;
    if (!io.ok()) co_return ReadFailed(request, io, extent.offset + done);
    if (!co_await request.SendIn(chunk)) co_return Status::kGood;
    done += chunk.size();
  }
  co_return Status::kGood;
}

Task<Status> BlockUnit::Reply(Request& request, ConstBytes data, uint64_t allocation) {
  co_await request.SendIn(data.first(std::min<uint64_t>(data.size(), allocation)));
  co_return Status::kGood;
}

Task<Status> BlockUnit::Inquiry(Request& request) {
  const InquiryCdb cdb = ParseInquiry(request.cdb());
  const bool known = std::ranges::find(vpd_pages_, cdb.page) != vpd_pages_.end() &&
                     (cdb.page != kSerialNumberPage || !identity_.serial.empty());
  if (cdb.obsolete || (cdb.evpd ? !known : cdb.page != 0)) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  const Bytes data = request.buffer(kMaxInquiryData);
  if (!cdb.evpd) {
    FormatStandardInquiry(identity_, data);
    co_return co_await Reply(request, data.first(kStandardInquirySize), cdb.allocation);
  }
  DataWriter writer(data);
  switch (cdb.page) {
    case kSupportedVpdPage:
      FormatSupportedPages(identity_, vpd_pages_, writer);
      break;
    case kSerialNumberPage:
      FormatSerialNumber(identity_, writer);
      break;
    case kDeviceIdPage:
      FormatDeviceId(identity_, writer);
      break;
    default:
      FormatVpdPage(cdb.page, writer);
      break;
  }
  co_return co_await Reply(request, data.first(writer.size()), cdb.allocation);
}

// SBC-3 section 5.15. PMI is obsolete: an LBA without it is an error.
Task<Status> BlockUnit::ReadCapacity10(Request& request) {
  const ConstBytes cdb = request.cdb();
  const bool pmi = (cdb[8] & std::byte{1}) != std::byte{};
  if (!pmi && LoadBe<uint32_t>(cdb.subspan(2)) != 0) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  constexpr size_t kSize = 8;
  DataWriter writer(request.buffer(kSize));
  writer.Put(static_cast<uint32_t>(std::min<uint64_t>(block_count_ - 1, UINT32_MAX)));
  writer.Put(block_size_);
  co_return co_await Reply(request, request.buffer(kSize), kSize);
}

Task<Status> BlockUnit::ModeSense(Request& request, BlockDescriptor descriptor,
                                  uint8_t device_specific) {
  const Bytes data = request.buffer(kMaxModeData);
  const ModePages::Answer answer = modes_.Show(request.cdb(), descriptor, device_specific, data);
  if (answer.sense) co_return request.CheckCondition(*answer.sense);
  co_return co_await Reply(request, data.first(answer.size), answer.allocation);
}

Task<Status> BlockUnit::ModeSelect(Request& request, BlockDescriptor descriptor) {
  const ConstBytes cdb = request.cdb();
  const bool ten = cdb.size() == 10;
  const size_t size = ten ? LoadBe<uint16_t>(cdb.subspan(7)) : std::to_integer<size_t>(cdb[4]);
  const bool page_format = (cdb[1] & std::byte{0x10}) != std::byte{};  // PF
  const bool save = (cdb[1] & std::byte{0x01}) != std::byte{};         // SP
  if (save || (!page_format && size != 0)) co_return Illegal(request, asc::kInvalidFieldInCdb);
  const Bytes list = request.buffer(size);
  if (!co_await request.ReceiveOut(list)) co_return Status::kGood;
  if (const auto sense = modes_.Select(list, ten, descriptor)) {
    co_return request.CheckCondition(*sense);
  }
  co_return Status::kGood;
}

// SPC-4 section 6.35: REPORT SUPPORTED OPERATION CODES, without timeouts.
Task<Status> BlockUnit::ReportOpcodes(Request& request, std::span<const Opcode> supported) {
  constexpr uint8_t kServiceAction = 0x0c;
  constexpr uint8_t kReadCapacity16 = 0x10;
  constexpr size_t kDescriptor = 8;
  const ConstBytes cdb = request.cdb();
  const auto options = std::to_integer<uint8_t>(cdb[2] & std::byte{0x87});  // RCTD and options
  const auto asked = std::to_integer<uint8_t>(cdb[3]);
  const auto allocation = LoadBe<uint32_t>(cdb.subspan(6));
  if ((cdb[1] & std::byte{0x1f}) != std::byte{kServiceAction} || options > 1) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  const auto action_of = [](Opcode opcode) -> uint16_t {
    if (opcode == Opcode::kServiceActionIn16) return kReadCapacity16;
    return opcode == Opcode::kMaintenanceIn ? kServiceAction : 0;
  };
  const Bytes data = request.buffer(4 + supported.size() * kDescriptor + kMaxCdb);
  DataWriter writer(data);
  if (options == 0) {
    writer.PutZeroes(4);
    for (const Opcode opcode : supported) {
      const uint16_t action = action_of(opcode);
      writer.Put(static_cast<uint8_t>(opcode)).PutZeroes(1).Put(action).PutZeroes(1);
      writer.Put(static_cast<uint8_t>(action != 0 ? 1 : 0));  // SERVACTV
      writer.Put(static_cast<uint16_t>(CdbSize(static_cast<uint8_t>(opcode))));
    }
    writer.SetLength<uint32_t>(0);
    co_return co_await Reply(request, data.first(writer.size()), allocation);
  }
  // One command that has no service actions.
  if (action_of(Opcode{asked}) != 0) co_return Illegal(request, asc::kInvalidFieldInCdb);
  const bool has = std::ranges::find(supported, Opcode{asked}) != supported.end();
  const size_t size = has ? CdbSize(asked) : 0;
  writer.PutZeroes(1).Put(static_cast<uint8_t>(has ? 3 : 1)).Put(static_cast<uint16_t>(size));
  for (size_t i = 0; i < size; ++i) writer.Put(i == 0 ? asked : uint8_t{0xff});
  co_return co_await Reply(request, data.first(writer.size()), allocation);
}

}  // namespace farside::scsi
