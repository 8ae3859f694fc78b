#include "devices/nvme/features.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/mutant.h"

namespace farside::nvme {
namespace {

// Select field of Get Features.
enum Select : uint32_t { kCurrent = 0, kDefault = 1, kSaved = 2, kCapabilities = 3 };
constexpr uint32_t kCapabilityNamespaceSpecific = 1 << 1;
constexpr uint32_t kCapabilityChangeable = 1 << 2;

constexpr uint32_t kSave = 1u << 31;             // CDW10 of Set Features.
constexpr uint32_t kPowerStateMask = 0x1f;       // There is only state 0.
constexpr uint32_t kDeallocatedError = 1 << 16;  // DULBE, which Identify does not offer.
constexpr uint32_t kAllSensors = 0xf;            // TMPSEL.
constexpr uint64_t kTimestampMask = (uint64_t{1} << 48) - 1;

std::optional<size_t> RowOf(FeatureId id) {
  for (size_t row = 0; row < kFeatureRowCount; ++row) {
    if (kFeatures[row].id == id) return row;
  }
  return std::nullopt;
}

bool IsKnown(FeatureId id) {
  return RowOf(id).has_value() || id == FeatureId::kTemperatureThreshold ||
         id == FeatureId::kNumberOfQueues || id == FeatureId::kInterruptVectorConfiguration ||
         id == FeatureId::kTimestamp;
}

bool IsNamespaceSpecific(FeatureId id) { return id == FeatureId::kErrorRecovery; }

Outcome Failed(Status status) { return {.status = status}; }

}  // namespace

Features::Features(uint32_t io_pairs, uint32_t vectors) : io_pairs_(io_pairs), vectors_(vectors) {
  CHECK(vectors <= kMaxVectors);
  Reset(0);
}

void Features::Reset(uint64_t now_ns) {
  for (size_t row = 0; row < kFeatureRowCount; ++row) values_[row] = kFeatures[row].reset;
  submission_queues_ = io_pairs_;
  completion_queues_ = io_pairs_;
  over_temperature_ = kWarningTemperature;
  under_temperature_ = 0;
  coalescing_disabled_.reset();
  timestamp_ms_ = 0;
  timestamp_set_ns_ = now_ns;
  timestamp_from_host_ = false;
}

Outcome Features::Set(const Sqe& sqe, bool io_created) {
  const auto id = FeatureId{static_cast<uint8_t>(sqe.cdw10)};
  if (!IsKnown(id)) return Failed(Status::kInvalidField);
  if ((sqe.cdw10 & kSave) != 0) return Failed(Status::kFeatureNotSaveable);
  if (IsNamespaceSpecific(id)) {
    if (sqe.nsid != kNamespaceId && sqe.nsid != kAllNamespaces) {
      return Failed(Status::kInvalidNamespace);
    }
  } else if (sqe.nsid != 0 && sqe.nsid != kAllNamespaces) {
    return Failed(sqe.nsid == kNamespaceId ? Status::kFeatureNotNamespaceSpecific
                                           : Status::kInvalidNamespace);
  }
  switch (id) {
    case FeatureId::kNumberOfQueues:
      // Section 5.21.1.7: not after any I/O queue was created, even if it is gone again.
      if (io_created) return Failed(Status::kCommandSequenceError);
      return SetNumberOfQueues(sqe.cdw11);
    case FeatureId::kTemperatureThreshold:
      return SetTemperatureThreshold(sqe.cdw11);
    case FeatureId::kInterruptVectorConfiguration:
      return SetVectorConfiguration(sqe.cdw11);
    case FeatureId::kTimestamp:
      return {};
    default:
      return SetRow(*RowOf(id), sqe.cdw11);
  }
}

Outcome Features::SetRow(size_t row, uint32_t value) {
  if (row == kRowPowerManagement && (value & kPowerStateMask) != 0) {
    return Failed(Status::kInvalidField);
  }
  if (row == kRowErrorRecovery && (value & kDeallocatedError) != 0) {
    return Failed(Status::kInvalidField);
  }
  // Notices that Identify Controller's OAES does not offer.
  if (row == kRowAsyncEvents && (value & ~kFeatures[row].writable) != 0) {
    return Failed(Status::kInvalidField);
  }
  values_[row] = value & kFeatures[row].writable;
  return {};
}

// Numbers are 0's based in the command and plain in here.
Outcome Features::SetNumberOfQueues(uint32_t value) {
  const uint32_t submission = value & 0xffff;
  const uint32_t completion = value >> 16;
  if (submission == 0xffff || completion == 0xffff) return Failed(Status::kInvalidField);
  submission_queues_ = std::min(submission + 1, io_pairs_);
  completion_queues_ = std::min(completion + 1, io_pairs_);
  Outcome outcome = Current(FeatureId::kNumberOfQueues, 0);
  if (MUTANT("nvme-queues-one-more")) ++outcome.dw0;
  return outcome;
}

Outcome Features::SetTemperatureThreshold(uint32_t value) {
  const uint32_t sensor = value >> 16 & 0xf;
  const uint32_t kind = value >> 20 & 3;
  if ((sensor != 0 && sensor != kAllSensors) || kind > 1) return Failed(Status::kInvalidField);
  (kind == 0 ? over_temperature_ : under_temperature_) = static_cast<uint16_t>(value);
  return {};
}

Outcome Features::SetVectorConfiguration(uint32_t value) {
  const uint32_t vector = value & 0xffff;
  if (vector >= vectors_) return Failed(Status::kInvalidField);
  coalescing_disabled_[vector] = (value >> 16 & 1) != 0;
  return {};
}

Outcome Features::Get(const Sqe& sqe) const {
  const auto id = FeatureId{static_cast<uint8_t>(sqe.cdw10)};
  if (!IsKnown(id)) return Failed(Status::kInvalidField);
  if (IsNamespaceSpecific(id) && sqe.nsid != kNamespaceId) {
    return Failed(Status::kInvalidNamespace);
  }
  switch (sqe.cdw10 >> 8 & 7) {
    case kCurrent:
      return Current(id, sqe.cdw11);
    case kDefault:
    case kSaved: {  // Nothing was ever saved: the default.
      Features fresh(io_pairs_, vectors_);
      return fresh.Current(id, sqe.cdw11);
    }
    case kCapabilities:
      return {.dw0 = kCapabilityChangeable |
                     (IsNamespaceSpecific(id) ? kCapabilityNamespaceSpecific : 0)};
    default:
      return Failed(Status::kInvalidField);
  }
}

Outcome Features::Current(FeatureId id, uint32_t cdw11) const {
  switch (id) {
    case FeatureId::kNumberOfQueues:
      return {.dw0 = (submission_queues_ - 1) | (completion_queues_ - 1) << 16};
    case FeatureId::kTemperatureThreshold: {
      const uint32_t kind = cdw11 >> 20 & 3;
      if ((cdw11 >> 16 & 0xf) != 0 || kind > 1) return Failed(Status::kInvalidField);
      return {.dw0 = kind == 0 ? over_temperature_ : under_temperature_};
    }
    case FeatureId::kInterruptVectorConfiguration: {
      const uint32_t vector = cdw11 & 0xffff;
      if (vector >= vectors_) return Failed(Status::kInvalidField);
      return {.dw0 = vector | uint32_t{coalescing_disabled_[vector]} << 16};
    }
    case FeatureId::kTimestamp:
      return {};
    default:
      return {.dw0 = values_[*RowOf(id)]};
  }
}

// Section 5.21.1.14: milliseconds in 48 bits, then attributes, of which bits 3:1 are the origin.
void Features::SetTimestamp(ConstBytes data, uint64_t now_ns) {
  timestamp_ms_ = LoadLe<uint64_t>(data) & kTimestampMask;
  timestamp_set_ns_ = now_ns;
  timestamp_from_host_ = true;
}

std::array<std::byte, Features::kTimestampSize> Features::Timestamp(uint64_t now_ns) const {
  const uint64_t elapsed_ms = (now_ns - timestamp_set_ns_) / 1'000'000;
  const uint64_t origin = timestamp_from_host_ ? 1 : 0;
  std::array<std::byte, kTimestampSize> data;
  StoreLe(Bytes(data), ((timestamp_ms_ + elapsed_ms) & kTimestampMask) | origin << 49);
  return data;
}

uint8_t Features::critical_warning() const {
  const bool over = kCompositeTemperature >= over_temperature_;
  const bool under = kCompositeTemperature <= under_temperature_;
  return over || under ? kCriticalWarningTemperature : 0;
}

void Features::Save(StateWriter& out, uint64_t now_ns) const {
  for (const uint32_t value : values_) out.Put(value);
  out.Put(submission_queues_);
  out.Put(completion_queues_);
  out.Put(over_temperature_);
  out.Put(under_temperature_);
  for (uint32_t vector = 0; vector < vectors_; ++vector) {
    out.Put(static_cast<uint8_t>(coalescing_disabled_[vector]));
  }
  out.Put(timestamp_ms_);
  out.Put(now_ns - timestamp_set_ns_);
  out.Put(static_cast<uint8_t>(timestamp_from_host_));
}

Result<void> Features::Load(StateReader& in, uint64_t now_ns) {
  for (size_t row = 0; row < kFeatureRowCount; ++row) {
    const auto value = in.Get<uint32_t>();
    if (SetRow(row, value).status != Status::kSuccess || values_[row] != value) {
      return Fail("the saved value {:#x} of feature {:#x} is not one that a driver can set", value,
                  static_cast<int>(kFeatures[row].id));
    }
  }
  submission_queues_ = in.Get<uint32_t>();
  completion_queues_ = in.Get<uint32_t>();
  if (submission_queues_ - 1 >= io_pairs_ || completion_queues_ - 1 >= io_pairs_) {
    return Fail(
        "the saved numbers of queues, {} and {}, do not fit max_ioqpairs={}: use the "
        "options of the saved device",
        submission_queues_, completion_queues_, io_pairs_);
  }
  over_temperature_ = in.Get<uint16_t>();
  under_temperature_ = in.Get<uint16_t>();
  for (uint32_t vector = 0; vector < vectors_; ++vector) {
    coalescing_disabled_[vector] = in.Get<uint8_t>() != 0;
  }
  timestamp_ms_ = in.Get<uint64_t>() & kTimestampMask;
  timestamp_set_ns_ = now_ns - in.Get<uint64_t>();  // May lie before the clock's zero: wraps back.
  timestamp_from_host_ = in.Get<uint8_t>() != 0;
  return {};
}

}  // namespace farside::nvme
