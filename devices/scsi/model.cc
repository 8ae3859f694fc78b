#include "devices/scsi/model.h"

#include <memory>
#include <string>
#include <utility>

#include "devices/scsi/cd.h"
#include "devices/scsi/disk.h"

namespace farside::scsi {
namespace {

constexpr uint64_t kAnyId = UINT8_MAX;

constexpr PropertyHelp kDiskProperties[] = {
    {"drive", "the block node behind it (required)"},
    {"bus", "the SCSI bus, as lsi0.0 (the only one)"},
    {"channel", "0"},
    {"scsi-id", "the target: 0 to 15 without the adapter's 7 (the lowest that is free)"},
    {"lun", "0 to 7 (0)"},
    {"serial", "serial number: up to 36 printable characters"},
    {"wwn", "NAA identifier, a 64-bit number"},
    {"vendor", "up to 8 characters (FARSIDE)"},
    {"product", "up to 16 characters (DISK)"},
    {"ver", "up to 4 characters (1.0)"},
    {"logical_block_size", "bytes of a logical block: 512, 1024, 2048 or 4096 (512)"},
    {"physical_block_size", "bytes of a physical block, up to 65536 (logical_block_size)"},
};

constexpr PropertyHelp kCdProperties[] = {
    {"drive", "the block node behind it (required)"},
    {"bus", "the SCSI bus, as lsi0.0 (the only one)"},
    {"channel", "0"},
    {"scsi-id", "the target: 0 to 15 without the adapter's 7 (the lowest that is free)"},
    {"lun", "0 to 7 (0)"},
    {"serial", "serial number: up to 36 printable characters"},
    {"wwn", "NAA identifier, a 64-bit number"},
    {"vendor", "up to 8 characters (FARSIDE)"},
    {"product", "up to 16 characters (CD-ROM)"},
    {"ver", "up to 4 characters (1.0)"},
};

// Where on which bus, and on what.
struct Place {
  std::string drive;
  std::string bus;
  uint64_t target = kAnyId;
  uint8_t lun = 0;
};

Place ReadPlace(OptionReader& options) {
  Place place;
  place.drive = options.RequiredString("drive");
  place.bus = options.String("bus", "");
  options.Number("channel", 0, 0, 0);
  place.target = options.Number("scsi-id", kAnyId, 0, kMaxTargets - 1);
  place.lun = static_cast<uint8_t>(options.Number("lun", 0, 0, kMaxLuns - 1));
  if (place.target == kAdapterId) {
    options.AddError("scsi-id 7 is the adapter's: take another, or leave it out");
  }
  return place;
}

Identity ReadIdentity(OptionReader& options, Identity identity) {
  identity.vendor = options.String("vendor", identity.vendor);
  identity.product = options.String("product", identity.product);
  identity.version = options.String("ver", identity.version);
  identity.serial = options.String("serial", "");
  identity.wwn = options.Number("wwn", 0, 0, UINT64_MAX);
  return identity;
}

Result<uint8_t> ChooseTarget(const Bus& bus, uint64_t asked) {
  if (asked != kAnyId) return static_cast<uint8_t>(asked);
  for (uint8_t target = 0; target < kMaxTargets; ++target) {
    if (target != kAdapterId && !bus.HasTarget(target)) return target;
  }
  return Fail("the SCSI bus is full: give scsi-id and a lun that is free");
}

// Makes the unit, a Unit of `unit` but for its drive, and puts it in its place.
template <typename Unit, typename UnitOptions>
Result<void> PutInPlace(const Place& place, const std::string& user, UnitOptions unit,
                        Backends& backends) {
  const auto bus = backends.FindScsiBus(place.bus);
  if (!bus) return Fail("{}: {}", user, bus.error().message);
  const auto target = ChooseTarget(**bus, place.target);
  if (!target) return Fail("{}: {}", user, target.error().message);
  const auto node = backends.ClaimBlock(place.drive, user);
  if (!node) return tl::unexpected(node.error());
  unit.drive = *node;
  auto made = Unit::Create(unit);
  if (!made) return Fail("{}: {}", user, made.error().message);
  if (auto result = (*bus)->Attach(*target, place.lun, std::move(*made)); !result) {
    return Fail("{}: {}", user, result.error().message);
  }
  return {};
}

Result<void> AttachDisk(Loop&, OptionReader& options, Backends& backends) {
  const Place place = ReadPlace(options);
  DiskOptions disk;
  disk.identity.product = "DISK";
  disk.identity = ReadIdentity(options, disk.identity);
  disk.logical_block_size =
      static_cast<uint32_t>(options.Number("logical_block_size", 512, 0, UINT32_MAX));
  disk.physical_block_size = static_cast<uint32_t>(
      options.Number("physical_block_size", disk.logical_block_size, 0, UINT32_MAX));
  if (const auto finished = options.Finish(); !finished) return finished;
  return PutInPlace<Disk>(place, options.owner(), disk, backends);
}

Result<void> AttachCd(Loop&, OptionReader& options, Backends& backends) {
  const Place place = ReadPlace(options);
  CdOptions cd;
  cd.identity.product = "CD-ROM";
  cd.identity.type = kCdType;
  cd.identity.removable = true;
  cd.identity = ReadIdentity(options, cd.identity);
  if (const auto finished = options.Finish(); !finished) return finished;
  return PutInPlace<Cd>(place, options.owner(), cd, backends);
}

}  // namespace

const Model kDiskModel = {
    .name = "scsi-hd",
    .help = "SCSI disk, on the bus of a host adapter",
    .properties = kDiskProperties,
    .attach = AttachDisk,
};

const Model kCdModel = {
    .name = "scsi-cd",
    .help = "SCSI CD or DVD drive that reads, on the bus of a host adapter",
    .properties = kCdProperties,
    .attach = AttachCd,
};

}  // namespace farside::scsi
