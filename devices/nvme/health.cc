#include "devices/nvme/health.h"

#include "base/bytes.h"
#include "devices/nvme/namespace.h"

namespace farside::nvme {
namespace {

constexpr size_t kErrorEntrySize = 64;
constexpr size_t kSmartLogSize = 512;
constexpr size_t kFirmwareLogSize = 512;
constexpr size_t kNamespaceListSize = 4096;
constexpr size_t kEffectsLogSize = 4096;
constexpr uint16_t kNoErrorLocation = 0xffff;

std::vector<std::byte> FirmwareLog() {
  std::vector<std::byte> log(kFirmwareLogSize);
  StoreLe(Bytes(log), uint8_t{1});  // AFI: slot 1 is active.
  const auto slot = Bytes(log).subspan(8, 8);
  Fill(slot, ' ');
  Copy(slot.first(kFirmwareRevision.size()), std::as_bytes(std::span(kFirmwareRevision)));
  return log;
}

std::vector<std::byte> EffectsLog() {
  std::vector<std::byte> log(kEffectsLogSize);
  for (const OpcodeDef& row : kAdminOpcodes) {
    StoreLe(Bytes(log).subspan(size_t{row.opcode} * 4), row.effects);
  }
  for (const OpcodeDef& row : kIoOpcodes) {
    StoreLe(Bytes(log).subspan(1024 + size_t{row.opcode} * 4), row.effects);
  }
  return log;
}

}  // namespace

void Health::AddError(ErrorEntry entry) {
  entry.count = ++error_count_;
  errors_[error_count_ % kErrorLogEntries] = entry;
}

void Health::CountCommand(const Command& command, Outcome outcome, uint32_t block_size) {
  const Sqe& sqe = command.sqe;
  const bool io = command.sqid != 0;
  if (outcome.status != Status::kSuccess) {
    AddError({.lba = io ? sqe.cdw10 | uint64_t{sqe.cdw11} << 32 : 0,
              .nsid = sqe.nsid,
              .sqid = command.sqid,
              .cid = sqe.cid,
              .status = StatusField(outcome.status, false)});
    if (IsMediaError(outcome.status)) ++media_errors_;
    return;
  }
  if (!io) return;
  const uint64_t units = BlocksOf(sqe) * (block_size / 512);
  switch (IoOpcode{sqe.opcode}) {
    case IoOpcode::kRead:
    case IoOpcode::kCompare:
      ++host_reads_;
      units_read_ += units;
      break;
    case IoOpcode::kWrite:
      ++host_writes_;
      units_written_ += units;
      break;
    default:
      break;
  }
}

void Health::CountDoorbellError(uint16_t queue) { AddError({.sqid = queue, .cid = kNoCommandId}); }

std::optional<std::vector<std::byte>> Health::LogPage(LogId id, uint8_t critical_warning) const {
  switch (id) {
    case LogId::kErrors:
      return ErrorLog();
    case LogId::kSmart:
      return SmartLog(critical_warning);
    case LogId::kFirmwareSlots:
      return FirmwareLog();
    case LogId::kChangedNamespaces:
      return std::vector<std::byte>(kNamespaceListSize);  // None ever does.
    case LogId::kCommandEffects:
      return EffectsLog();
  }
  return std::nullopt;
}

// Section 5.14.1.1: the latest error comes first.
std::vector<std::byte> Health::ErrorLog() const {
  std::vector<std::byte> log(kErrorLogEntries * kErrorEntrySize);
  for (uint64_t age = 0; age < kErrorLogEntries && age < error_count_; ++age) {
    const ErrorEntry& entry = errors_[(error_count_ - age) % kErrorLogEntries];
    const auto out = Bytes(log).subspan(age * kErrorEntrySize, kErrorEntrySize);
    StoreLe(out, entry.count);
    StoreLe(out.subspan(8), entry.sqid);
    StoreLe(out.subspan(10), entry.cid);
    StoreLe(out.subspan(12), entry.status);
    StoreLe(out.subspan(14), kNoErrorLocation);
    StoreLe(out.subspan(16), entry.lba);
    StoreLe(out.subspan(24), entry.nsid);
  }
  return log;
}

// Section 5.14.1.2. Counters have 16 bytes, of which we need 8. Nothing wears out or loses power.
std::vector<std::byte> Health::SmartLog(uint8_t critical_warning) const {
  std::vector<std::byte> log(kSmartLogSize);
  const auto thousands = [](uint64_t units) { return units / 1000 + (units % 1000 != 0 ? 1 : 0); };
  StoreLe(Bytes(log), critical_warning);
  StoreLe(Bytes(log).subspan(1), kCompositeTemperature);
  StoreLe(Bytes(log).subspan(3), uint8_t{100});  // Available spare, in per cent.
  StoreLe(Bytes(log).subspan(4), uint8_t{10});   // Its threshold.
  StoreLe(Bytes(log).subspan(32), thousands(units_read_));
  StoreLe(Bytes(log).subspan(48), thousands(units_written_));
  StoreLe(Bytes(log).subspan(64), host_reads_);
  StoreLe(Bytes(log).subspan(80), host_writes_);
  StoreLe(Bytes(log).subspan(112), uint64_t{1});  // Power cycles.
  StoreLe(Bytes(log).subspan(160), media_errors_);
  StoreLe(Bytes(log).subspan(176), error_count_);
  return log;
}

void Health::Save(StateWriter& out) const {
  for (const uint64_t counter :
       {error_count_, units_read_, units_written_, host_reads_, host_writes_, media_errors_}) {
    out.Put(counter);
  }
  for (const ErrorEntry& entry : errors_) {
    out.Put(entry.count);
    out.Put(entry.lba);
    out.Put(entry.nsid);
    out.Put(entry.sqid);
    out.Put(entry.cid);
    out.Put(entry.status);
  }
}

void Health::Load(StateReader& in) {
  for (uint64_t* counter : {&error_count_, &units_read_, &units_written_, &host_reads_,
                            &host_writes_, &media_errors_}) {
    *counter = in.Get<uint64_t>();
  }
  for (ErrorEntry& entry : errors_) {
    entry.count = in.Get<uint64_t>();
    entry.lba = in.Get<uint64_t>();
    entry.nsid = in.Get<uint32_t>();
    entry.sqid = in.Get<uint16_t>();
    entry.cid = in.Get<uint16_t>();
    entry.status = in.Get<uint16_t>();
  }
}

}  // namespace farside::nvme
