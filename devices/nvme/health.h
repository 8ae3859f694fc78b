// What the log pages tell: errors, SMART and health counters. NVM Express 1.4, section 5.14.1.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "devices/core/state.h"
#include "devices/nvme/command.h"
#include "devices/nvme/commands.h"
#include "devices/nvme/identify.h"

namespace farside::nvme {

// In kelvin. The composite temperature never changes: there is nothing to measure.
inline constexpr uint16_t kCompositeTemperature = 313;
inline constexpr uint16_t kWarningTemperature = 343;
inline constexpr uint16_t kCriticalTemperature = 373;

inline constexpr uint8_t kCriticalWarningTemperature = 1 << 1;

inline constexpr uint16_t kNoCommandId = 0xffff;

// One entry of the Error Information log; unused ones have count 0.
struct ErrorEntry {
  uint64_t count = 0;
  uint64_t lba = 0;
  uint32_t nsid = 0;
  uint16_t sqid = 0;
  uint16_t cid = 0;
  uint16_t status = 0;
};

// Survives every reset, as it would in flash.
class Health {
 public:
  // Counts a command that ended. `blocks_size` is the logical block size.
  void CountCommand(const Command& command, Outcome outcome, uint32_t block_size);
  // Records an error that no command is to blame for: a doorbell.
  void CountDoorbellError(uint16_t queue);

  // A whole log page, or nothing for an identifier that has none. `critical_warning` is SMART's.
  std::optional<std::vector<std::byte>> LogPage(LogId id, uint8_t critical_warning) const;

  void Save(StateWriter& out) const;
  // Reads what Save wrote; any numbers are lawful.
  void Load(StateReader& in);

 private:
  void AddError(ErrorEntry entry);
  std::vector<std::byte> ErrorLog() const;
  std::vector<std::byte> SmartLog(uint8_t critical_warning) const;

  uint64_t error_count_ = 0;
  std::array<ErrorEntry, kErrorLogEntries> errors_{};  // Entry n is at n % kErrorLogEntries.
  // In 512-byte units; the log reports thousands of them.
  uint64_t units_read_ = 0;
  uint64_t units_written_ = 0;
  uint64_t host_reads_ = 0;
  uint64_t host_writes_ = 0;
  uint64_t media_errors_ = 0;
};

}  // namespace farside::nvme
