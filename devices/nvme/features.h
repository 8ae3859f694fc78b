// Set and Get Features. NVM Express 1.4, section 5.21.1. Nothing is saveable: every value is gone
// at a controller reset.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <iterator>

#include "base/bytes.h"
#include "base/error.h"
#include "devices/core/state.h"
#include "devices/nvme/command.h"
#include "devices/nvme/commands.h"
#include "devices/nvme/health.h"

namespace farside::nvme {

// Features that are one double word. The others have members of their own.
struct FeatureDef {
  FeatureId id;
  uint32_t reset;
  uint32_t writable;  // Other bits are reserved and stay 0.
};

enum FeatureRow : size_t {
  kRowArbitration,
  kRowPowerManagement,
  kRowErrorRecovery,
  kRowVolatileWriteCache,
  kRowInterruptCoalescing,
  kRowWriteAtomicity,
  kRowAsyncEvents,
  kFeatureRowCount
};

// Interrupt Coalescing has no effect on purpose: its time and threshold are recommendations for how
// long to hold interrupts back, and we never do.
inline constexpr FeatureDef kFeatures[] = {
    {FeatureId::kArbitration, 0x07, 0xffff'ff07},  // AB: no limit.
    {FeatureId::kPowerManagement, 0, 0xff},       {FeatureId::kErrorRecovery, 0, 0xffff},
    {FeatureId::kVolatileWriteCache, 1, 1},       {FeatureId::kInterruptCoalescing, 0, 0xffff},
    {FeatureId::kWriteAtomicity, 0, 1},           {FeatureId::kAsyncEventConfiguration, 0, 0x1ff},
};
static_assert(std::size(kFeatures) == kFeatureRowCount);

// Trivially copyable: a copy is a fast state.
class Features {
 public:
  static constexpr size_t kTimestampSize = 8;
  static constexpr uint32_t kMaxVectors = 2048;

  Features(uint32_t io_pairs, uint32_t vectors);

  void Reset(uint64_t now_ns);

  // Whole commands, but for the data of Timestamp, which SetTimestamp and Timestamp take and give.
  // `io_created`: there was an I/O queue since the reset, so their number is settled.
  Outcome Set(const Sqe& sqe, bool io_created);
  Outcome Get(const Sqe& sqe) const;

  void SetTimestamp(ConstBytes data, uint64_t now_ns);
  std::array<std::byte, kTimestampSize> Timestamp(uint64_t now_ns) const;

  bool write_cache() const { return values_[kRowVolatileWriteCache] != 0; }
  // Identifiers of I/O queues reach up to these.
  uint32_t submission_queues() const { return submission_queues_; }
  uint32_t completion_queues() const { return completion_queues_; }
  // SMART's critical warning: whether the temperature is past a threshold.
  uint8_t critical_warning() const;
  // The host wants an event for it.
  bool warning_enabled() const {
    return (values_[kRowAsyncEvents] & kCriticalWarningTemperature) != 0;
  }

  void Save(StateWriter& out, uint64_t now_ns) const;
  // Into a scratch object; an error where Set would not have taken the value.
  Result<void> Load(StateReader& in, uint64_t now_ns);

 private:
  Outcome SetRow(size_t row, uint32_t value);
  Outcome SetNumberOfQueues(uint32_t value);
  Outcome SetTemperatureThreshold(uint32_t value);
  Outcome SetVectorConfiguration(uint32_t value);
  Outcome Current(FeatureId id, uint32_t cdw11) const;

  uint32_t io_pairs_;
  uint32_t vectors_;
  std::array<uint32_t, kFeatureRowCount> values_{};
  uint32_t submission_queues_ = 0;
  uint32_t completion_queues_ = 0;
  uint16_t over_temperature_ = 0;
  uint16_t under_temperature_ = 0;
  std::bitset<kMaxVectors> coalescing_disabled_;  // By vector: CD.
  uint64_t timestamp_ms_ = 0;                     // At timestamp_set_ns_.
  uint64_t timestamp_set_ns_ = 0;
  bool timestamp_from_host_ = false;
};

}  // namespace farside::nvme
