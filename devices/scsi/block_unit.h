// BlockUnit: what disks and CD drives share. A logical unit of blocks on a block device.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "block/block_device.h"
#include "devices/scsi/bus.h"
#include "devices/scsi/inquiry.h"
#include "devices/scsi/mode_pages.h"

namespace farside::scsi {

// Blocks that a command names.
struct BlockRange {
  uint64_t lba = 0;
  uint64_t count = 0;
};

// The range of a CDB by its size: all commands with an LBA have it in the same place. A count of 0
// stays 0.
BlockRange ParseRange(ConstBytes cdb);

class BlockUnit : public LogicalUnit {
 public:
  void Reset() override;
  void Save(StateWriter& out) const override;
  Result<void> Load(StateReader& in) override;
  void SaveFast(FastState& out) const override;
  void LoadFast(FastReader& in) override;

  uint64_t block_count() const { return block_count_; }
  uint32_t block_size() const { return block_size_; }

  // Identity's texts fit and are printable, `block_size` divides by what the drive asks for, and
  // there is at least one block.
  static Result<void> Check(const block::BlockDevice& drive, uint32_t block_size,
                            const Identity& identity);

 protected:
  // The most that a command has in memory of its data, in bytes.
  static constexpr uint64_t kChunk = 128 << 10;

  // `drive` outlives the unit and its requests. `pages`: the vital product data pages it has.
  BlockUnit(block::BlockDevice& drive, uint32_t block_size, Identity identity, ModePages modes,
            std::span<const uint8_t> pages);

  // Parts of the drive, in bytes.
  struct Extent {
    uint64_t offset = 0;
    uint64_t size = 0;
  };
  Extent ExtentOf(const BlockRange& range) const {
    return {range.lba * block_size_, range.count * block_size_};
  }
  // Without overflow.
  bool Contains(const BlockRange& range) const {
    return InRange(range.lba, range.count, block_count_);
  }

  // Memory that the drive takes.
  Bytes DriveBuffer(Request& request, uint64_t size) const;
  // How much of `total` bytes a command that was loaded has done; it is accounted for.
  uint64_t Progress(Request& request, uint64_t total) const;
  // Sends the range to the initiator.
  Task<Status> ReadBlocks(Request& request, BlockRange range);
  Status ReadFailed(Request& request, block::IoStatus io, uint64_t offset) const;

  static Status Illegal(Request& request, uint16_t code) {
    return request.CheckCondition(IllegalRequest(code));
  }
  // Sends as much of `data` as the command has room for.
  static Task<Status> Reply(Request& request, ConstBytes data, uint64_t allocation);

  Task<Status> Inquiry(Request& request);
  // One that FormatSupportedPages, FormatSerialNumber and FormatDeviceId do not make.
  virtual void FormatVpdPage(uint8_t page, DataWriter& out) const = 0;
  Task<Status> ReadCapacity10(Request& request);
  Task<Status> ModeSense(Request& request, BlockDescriptor descriptor, uint8_t device_specific);
  // Takes the parameter list and changes the pages.
  Task<Status> ModeSelect(Request& request, BlockDescriptor descriptor);
  Task<Status> ReportOpcodes(Request& request, std::span<const Opcode> supported);

  block::BlockDevice& drive_;
  const block::BlockLimits limits_;
  const uint32_t block_size_;
  const uint64_t block_count_;
  const Identity identity_;
  ModePages modes_;

 private:
  const std::span<const uint8_t> vpd_pages_;
};

}  // namespace farside::scsi
