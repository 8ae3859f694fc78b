#include "devices/scsi/disk.h"

#include <algorithm>
#include <bit>
#include <utility>
#include <vector>

#include "base/mutant.h"
#include "devices/core/fast_state.h"
#include "devices/core/state.h"
#include "devices/scsi/disk_limits.h"

namespace farside::scsi {
namespace {

constexpr uint8_t kVpdPages[] = {kSupportedVpdPage, kSerialNumberPage,    kDeviceIdPage,
                                 kBlockLimitsPage,  kCharacteristicsPage, kProvisioningPage};

constexpr Opcode kSupported[] = {
    Opcode::kTestUnitReady,
    Opcode::kRequestSense,
    Opcode::kRead6,
    Opcode::kWrite6,
    Opcode::kInquiry,
    Opcode::kModeSelect6,
    Opcode::kReserve6,
    Opcode::kRelease6,
    Opcode::kModeSense6,
    Opcode::kStartStopUnit,
    Opcode::kSendDiagnostic,
    Opcode::kPreventAllow,
    Opcode::kReadCapacity10,
    Opcode::kRead10,
    Opcode::kWrite10,
    Opcode::kSeek10,
    Opcode::kWriteAndVerify10,
    Opcode::kVerify10,
    Opcode::kSynchronizeCache10,
    Opcode::kWriteSame10,
    Opcode::kModeSelect10,
    Opcode::kModeSense10,
    Opcode::kRead16,
    Opcode::kWrite16,
    Opcode::kWriteAndVerify16,
    Opcode::kVerify16,
    Opcode::kSynchronizeCache16,
    Opcode::kWriteSame16,
    Opcode::kServiceActionIn16,
    Opcode::kReportLuns,
    Opcode::kMaintenanceIn,
    Opcode::kRead12,
    Opcode::kWrite12,
    Opcode::kWriteAndVerify12,
    Opcode::kVerify12,
};

constexpr uint8_t kWriteProtect = 0x80;  // Device specific parameter, SBC-3 section 6.4.1: WP,
constexpr uint8_t kDpoFua = 0x10;        // DPOFUA.

// A geometry that no driver still looks into: 255 heads of 63 sectors.
ModePages PagesOf(uint64_t blocks, uint32_t block_size) {
  constexpr uint8_t kHeads = 255;
  constexpr uint8_t kSectors = 63;
  const uint64_t cylinders =
      std::clamp<uint64_t>(blocks / (uint64_t{kHeads} * kSectors), 1, 0xff'ffff);
  const auto few = static_cast<uint16_t>(std::min<uint64_t>(cylinders, 0xffff));
  const auto byte = [](uint64_t value, int shift) { return static_cast<uint8_t>(value >> shift); };
  std::vector<ModePage> pages;
  pages.push_back(ModePage(kErrorRecoveryPage, 12).Set(2, 0xc0));  // AWRE, ARRE
  pages.push_back(ModePage(kRigidGeometryPage, 24)
                      .Set(2, byte(cylinders, 16))
                      .Set(3, byte(cylinders, 8))
                      .Set(4, byte(cylinders, 0))
                      .Set(5, kHeads)
                      .Set(20, 5400 >> 8)  // Rotations per minute.
                      .Set(21, 5400 & 0xff));
  pages.push_back(ModePage(kFlexibleDiskPage, 32)
                      .Set(2, 5000 >> 8)  // Kilobits per second.
                      .Set(3, 5000 & 0xff)
                      .Set(4, kHeads)
                      .Set(5, kSectors)
                      .Set(6, byte(block_size, 8))
                      .Set(7, byte(block_size, 0))
                      .Set(8, byte(few, 8))
                      .Set(9, byte(few, 0))
                      .Set(28, 5400 >> 8)
                      .Set(29, 5400 & 0xff));
  pages.push_back(ModePage(kCachingPage, 20).Set(2, kCachingWce, kCachingWce));
  // Byte 3: unrestricted reordering of simple tasks.
  pages.push_back(ModePage(kControlPage, 12).Set(2, 0, kControlDSense).Set(3, 0x10));
  pages.push_back(ModePage(kExceptionsPage, 12).Set(2, 0x08));  // DEXCPT
  return ModePages(std::move(pages));
}

}  // namespace

Result<std::unique_ptr<Disk>> Disk::Create(const DiskOptions& options) {
  const uint32_t logical = options.logical_block_size;
  const uint32_t physical = options.physical_block_size;
  if (!std::has_single_bit(logical) || logical < 512 || logical > 4096) {
    return Fail("logical_block_size {} is not 512, 1024, 2048 or 4096", logical);
  }
  if (!std::has_single_bit(physical) || physical < logical || physical > 65536) {
    return Fail("physical_block_size {} is not a power of two from logical_block_size to 65536",
                physical);
  }
  if (auto result = Check(*options.drive, logical, options.identity); !result) {
    return tl::unexpected(result.error());
  }
  return std::unique_ptr<Disk>(new Disk(options));
}

Disk::Disk(const DiskOptions& options)
    : BlockUnit(
          *options.drive, options.logical_block_size, options.identity,
          PagesOf(options.drive->size() / options.logical_block_size, options.logical_block_size),
          kVpdPages),
      physical_block_size_(options.physical_block_size) {}

bool Disk::write_cache() const {
  return (modes_.Find(kCachingPage)->current(2) & kCachingWce) != 0;
}

Task<Status> Disk::Execute(Request& request) {
  switch (Opcode{std::to_integer<uint8_t>(request.cdb()[0])}) {
    case Opcode::kInquiry:
      co_return co_await Inquiry(request);
    case Opcode::kModeSense6:
    case Opcode::kModeSense10: {
      const uint8_t write_protect = drive_.read_only() ? kWriteProtect : uint8_t{0};
      co_return co_await ModeSense(request, Descriptor(),
                                   static_cast<uint8_t>(write_protect | kDpoFua));
    }
    case Opcode::kModeSelect6:
    case Opcode::kModeSelect10:
      co_return co_await DoModeSelect(request);
    case Opcode::kReserve6:
    case Opcode::kRelease6:
      co_return Status::kGood;  // There is one initiator.
    case Opcode::kStartStopUnit:
      co_return co_await StartStop(request);
    case Opcode::kSendDiagnostic:
      co_return SendDiagnostic(request);
    case Opcode::kPreventAllow:
      co_return Status::kGood;  // The medium cannot be removed.
    case Opcode::kMaintenanceIn:
      co_return co_await ReportOpcodes(request, kSupported);
    default:
      co_return co_await ExecuteIo(request);
  }
}

// A cache that is switched off holds nothing.
Task<Status> Disk::DoModeSelect(Request& request) {
  const bool cached = write_cache();
  const Status status = co_await ModeSelect(request, Descriptor());
  if (status != Status::kGood || request.aborted() || !cached || write_cache()) co_return status;
  co_return co_await Flush(request);
}

// SBC-3 section 5.16.
Task<Status> Disk::ReadCapacity16(Request& request) {
  constexpr std::byte kReadCapacity16{0x10};
  constexpr size_t kSize = 32;
  const ConstBytes cdb = request.cdb();
  if ((cdb[1] & std::byte{0x1f}) != kReadCapacity16) {
    co_return Illegal(request, asc::kInvalidFieldInCdb);
  }
  DataWriter writer(request.buffer(kSize));
  const uint64_t more = MUTANT("scsi-capacity-one-more") ? 1 : 0;
  writer.Put(block_count_ - 1 + more).Put(block_size_).PutZeroes(1);
  writer.Put(static_cast<uint8_t>(std::countr_zero(physical_block_size_ / block_size_)));
  const uint8_t lbpme = provisioned() ? 0x80 : 0;
  const uint8_t lbprz = provisioned() && limits_.discard_zeroes ? 0x40 : 0;
  writer.Put(static_cast<uint8_t>(lbpme | lbprz)).PutZeroes(kSize - 15);
  co_return co_await Reply(request, request.buffer(kSize), LoadBe<uint32_t>(cdb.subspan(10)));
}

// SBC-3 section 5.25. Power conditions other than START_VALID are taken and have no effect.
Task<Status> Disk::StartStop(Request& request) {
  const auto flags = std::to_integer<uint8_t>(request.cdb()[4]);
  if ((flags & 0xf0) != 0) co_return Status::kGood;
  if ((flags & 0x02) != 0) co_return Illegal(request, asc::kInvalidFieldInCdb);  // LOEJ
  if ((flags & 0x01) != 0) {
    stopped_ = false;
    co_return Status::kGood;
  }
  const Status status = co_await Flush(request);
  if (status == Status::kGood && !request.aborted()) stopped_ = true;
  co_return status;
}

// SPC-4 section 6.42: the default self-test, which passes.
Status Disk::SendDiagnostic(Request& request) {
  const ConstBytes cdb = request.cdb();
  const bool self_test = (cdb[1] & std::byte{0x04}) != std::byte{};
  const bool other = (cdb[1] & std::byte{0xe0}) != std::byte{};
  if (!self_test || other || LoadBe<uint16_t>(cdb.subspan(3)) != 0) {
    return Illegal(request, asc::kInvalidFieldInCdb);
  }
  return Status::kGood;
}

void Disk::FormatVpdPage(uint8_t page, DataWriter& out) const {
  BeginVpdPage(identity_, page, out);
  const auto blocks = [this](uint64_t bytes) { return static_cast<uint32_t>(bytes / block_size_); };
  switch (page) {
    case kBlockLimitsPage:
      out.Put(uint8_t{1}).PutZeroes(1);  // WSNZ; no COMPARE AND WRITE.
      out.Put(static_cast<uint16_t>(physical_block_size_ / block_size_));
      out.PutZeroes(4);                      // Any length is taken,
      out.Put(blocks(kChunk)).PutZeroes(4);  // this one is best.
      out.Put(provisioned() ? blocks(kMaxUnmapBytes) : 0);
      out.Put(provisioned() ? kMaxUnmapDescriptors : 0);
      out.Put(blocks(std::min<uint64_t>(limits_.discard_granularity, kMaxUnmapBytes)));
      out.Put(provisioned() ? 0x8000'0000u : 0u);  // UGAVALID, alignment 0.
      out.Put(uint64_t{blocks(kMaxWriteSameBytes)});
      out.PutZeroes(64 - out.size());
      break;
    case kCharacteristicsPage:
      out.PutZeroes(60);  // Rotation rate and form factor not reported.
      break;
    default: {
      const uint8_t unmap = provisioned() ? 0xe0 : 0;  // LBPU, LBPWS, LBPWS10
      const uint8_t zeroes = provisioned() && limits_.discard_zeroes ? 0x04 : 0;  // LBPRZ
      out.PutZeroes(1).Put(static_cast<uint8_t>(unmap | zeroes));
      out.Put(static_cast<uint8_t>(provisioned() ? 2 : 0)).PutZeroes(1);  // Thin.
      break;
    }
  }
  out.SetLength<uint16_t>(2);
}

void Disk::Reset() {
  BlockUnit::Reset();
  stopped_ = false;
}

void Disk::Save(StateWriter& out) const {
  out.Put(static_cast<uint8_t>(stopped_));
  BlockUnit::Save(out);
}

Result<void> Disk::Load(StateReader& in) {
  const bool stopped = in.Get<uint8_t>() != 0;
  if (auto result = BlockUnit::Load(in); !result) return result;
  stopped_ = stopped;
  return {};
}

void Disk::SaveFast(FastState& out) const {
  out.Put(stopped_);
  BlockUnit::SaveFast(out);
}

void Disk::LoadFast(FastReader& in) {
  in.Get(stopped_);
  BlockUnit::LoadFast(in);
}

}  // namespace farside::scsi
