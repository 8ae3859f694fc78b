#include "devices/scsi/bus.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "devices/scsi/big_endian.h"
#include "devices/scsi/inquiry.h"

namespace farside::scsi {
namespace {

uint8_t OpcodeByte(const Request& request) { return std::to_integer<uint8_t>(request.cdb()[0]); }

// Commands that report no unit attention and wait for none: SPC-4 section 5.14 and SAM-3 section
// 5.9.6. An initiator must be able to ask what is wrong.
bool GoesAtOnce(const Request& request) {
  if (request.cdb().empty()) return true;
  const auto opcode = Opcode{OpcodeByte(request)};
  return opcode == Opcode::kInquiry || opcode == Opcode::kReportLuns ||
         opcode == Opcode::kRequestSense;
}

// MMC-6 section 4.1.6.1 excepts two more.
bool ReportsUnitAttention(const Request& request) {
  const auto opcode = Opcode{OpcodeByte(request)};
  return !GoesAtOnce(request) && opcode != Opcode::kGetConfiguration &&
         opcode != Opcode::kGetEventStatus;
}

bool IsOpcode(const Request& request, Opcode opcode) {
  return !request.cdb().empty() && Opcode{OpcodeByte(request)} == opcode;
}

constexpr Sense kAbsentLun = IllegalRequest(asc::kLogicalUnitNotSupported);

}  // namespace

void LogicalUnit::AddUnitAttention(uint16_t code) {
  constexpr uint16_t kResets = 0x29;
  if (code >> 8 == kResets) unit_attentions_.clear();
  if (std::ranges::find(unit_attentions_, code) == unit_attentions_.end()) {
    unit_attentions_.push_back(code);
  }
}

Bus::Bus(Loop& loop, Initiator& initiator) : loop_(loop), initiator_(initiator), rest_(loop) {}

Bus::~Bus() = default;

Result<void> Bus::Attach(uint8_t target, uint8_t lun, std::unique_ptr<LogicalUnit> unit) {
  if (target >= kMaxTargets || lun >= kMaxLuns) {
    return Fail("there is no target {}, lun {} on a SCSI bus: take targets below {}, luns below {}",
                target, lun, kMaxTargets, kMaxLuns);
  }
  if (HasUnit(target, lun)) return Fail("target {}, lun {} of the SCSI bus is taken", target, lun);
  unit->AddUnitAttention(asc::kReset);
  units_.try_emplace(Address(target, lun), std::move(unit), loop_);
  return {};
}

bool Bus::HasTarget(uint8_t target) const {
  const auto first = units_.lower_bound(Address(target, 0));
  return first != units_.end() && first->first >> 8 == target;
}

bool Bus::HasUnit(uint8_t target, uint8_t lun) const {
  return units_.contains(Address(target, lun));
}

Bus::Unit* Bus::FindUnit(const Nexus& nexus) {
  const auto found = units_.find(Address(nexus.target, nexus.lun));
  return found == units_.end() ? nullptr : &found->second;
}

const Bus::Unit* Bus::FindUnit(const Nexus& nexus) const {
  const auto found = units_.find(Address(nexus.target, nexus.lun));
  return found == units_.end() ? nullptr : &found->second;
}

std::shared_ptr<Request> Bus::Start(const Nexus& nexus, ConstBytes cdb) {
  CHECK(HasTarget(nexus.target));
  Unit* const unit = FindUnit(nexus);
  const bool overlaps = Find(nexus) != nullptr;
  if (overlaps) AbortTaskSet(nexus.target, nexus.lun);
  // Luns that are not there share one task set.
  const auto tasks = std::ranges::count_if(requests_, [&](const auto& other) {
    return other->nexus_.target == nexus.target && FindUnit(other->nexus_) == unit;
  });
  const auto request = std::make_shared<Request>(*this, nexus, cdb);
  requests_.push_back(request);
  if (tasks >= static_cast<ptrdiff_t>(kMaxTasks)) {
    request->End(Status::kTaskSetFull);
    return request;
  }
  // Whoever was told of a failure and sends something else does not want its sense data.
  if (unit != nullptr && unit->sense_owed && unit->sense_owner == nullptr &&
      !IsOpcode(*request, Opcode::kRequestSense)) {
    ForgetSense(*unit);
  }
  if (overlaps) {
    const uint16_t code = nexus.tagged()
                              ? static_cast<uint16_t>(asc::kTaggedOverlappedCommands | nexus.tag)
                              : asc::kOverlappedCommands;
    Finish(*request, unit,
           request->CheckCondition({.key = SenseKey::kAbortedCommand, .code = code}));
    return request;
  }
  scope_.Spawn(Run(request));
  return request;
}

// SAM-3 section 8.6, and no command starts before the end of an aborted one.
bool Bus::MayStart(const Request& request) const {
  if (GoesAtOnce(request) || FindUnit(request.nexus_) == nullptr) return true;
  const TaskAttribute attribute = request.nexus_.attribute;
  for (const auto& older : requests_) {
    if (older.get() == &request) return true;
    if (older->nexus_.target != request.nexus_.target || older->nexus_.lun != request.nexus_.lun ||
        older->stage_ == Request::Stage::kEnded) {
      continue;
    }
    if (older->aborted_) {
      if (older->stage_ == Request::Stage::kRunning) return false;
      continue;
    }
    if (attribute == TaskAttribute::kHeadOfQueue) continue;
    if (attribute == TaskAttribute::kOrdered) return false;
    const TaskAttribute other = older->nexus_.attribute;
    if (other == TaskAttribute::kOrdered || other == TaskAttribute::kHeadOfQueue) return false;
  }
  return true;
}

// Whether there is room for the request's sense data.
bool Bus::MayEnd(const Request& request) const {
  const Unit* const unit = FindUnit(request.nexus_);
  return unit == nullptr || request.status_ != Status::kCheckCondition || !unit->sense_owed;
}

Task<void> Bus::Run(std::shared_ptr<Request> request) {
  Unit* const unit = FindUnit(request->nexus_);
  if (request->stage_ == Request::Stage::kQueued) {
    while (!request->aborted_ && !MayStart(*request)) co_await unit->changed.Wait();
    if (!request->aborted_) {
      request->stage_ = Request::Stage::kRunning;
      request->status_ = co_await Execute(*request, unit);
    }
    request->stage_ = Request::Stage::kHeld;
  }
  while (!request->aborted_ && !MayEnd(*request)) {
    rest_.NotifyAll();
    co_await unit->changed.Wait();
  }
  if (request->aborted_) {
    std::erase(requests_, request);
  } else {
    Finish(*request, unit, request->status_);
  }
  if (unit != nullptr) unit->changed.NotifyAll();
  rest_.NotifyAll();
}

void Bus::Finish(Request& request, Unit* unit, Status status) {
  if (unit != nullptr && status == Status::kCheckCondition) {
    unit->sense = request.sense_;
    unit->sense_owed = true;
    unit->sense_owner = &request;
  }
  request.End(status);
}

Task<Status> Bus::Execute(Request& request, Unit* unit) {
  if (unit == nullptr) co_return co_await AnswerForAbsent(request);
  if (request.cdb().empty()) {
    co_return request.CheckCondition(IllegalRequest(asc::kInvalidFieldInCdb));
  }
  if (CdbSize(OpcodeByte(request)) == 0) {
    co_return request.CheckCondition(IllegalRequest(asc::kInvalidOpcode));
  }
  const auto opcode = Opcode{OpcodeByte(request)};
  if (opcode == Opcode::kRequestSense) co_return co_await RequestSense(request, unit);
  if (opcode == Opcode::kReportLuns) co_return co_await ReportLuns(request);
  auto& attentions = unit->logical_unit->unit_attentions_;
  if (ReportsUnitAttention(request) && !request.began_ && !attentions.empty()) {
    const uint16_t code = attentions.front();
    attentions.erase(attentions.begin());
    co_return request.CheckCondition({.key = SenseKey::kUnitAttention, .code = code});
  }
  request.began_ = true;
  co_return co_await unit->logical_unit->Execute(request);
}

// SPC-4 section 5.4.2: what every target answers for luns that it has not.
Task<Status> Bus::AnswerForAbsent(Request& request) {
  if (IsOpcode(request, Opcode::kRequestSense)) co_return co_await RequestSense(request, nullptr);
  if (IsOpcode(request, Opcode::kReportLuns)) co_return co_await ReportLuns(request);
  if (!IsOpcode(request, Opcode::kInquiry)) co_return request.CheckCondition(kAbsentLun);
  const InquiryCdb inquiry = ParseInquiry(request.cdb());
  if (inquiry.evpd || inquiry.page != 0) {
    co_return request.CheckCondition(IllegalRequest(asc::kInvalidFieldInCdb));
  }
  const Bytes data = request.buffer(kStandardInquirySize);
  FormatAbsentInquiry(data);
  co_await request.SendIn(data.first(std::min<size_t>(data.size(), inquiry.allocation)));
  co_return Status::kGood;
}

// SPC-4 section 6.39. The sense data of the last failed command; else a unit attention.
Task<Status> Bus::RequestSense(Request& request, Unit* unit) {
  constexpr std::byte kDescriptor{1};  // DESC
  const bool descriptor = (request.cdb()[1] & kDescriptor) != std::byte{};
  const auto allocation = std::to_integer<size_t>(request.cdb()[4]);
  auto* const attentions = unit != nullptr ? &unit->logical_unit->unit_attentions_ : nullptr;
  Sense sense;
  uint16_t attention = 0;
  if (unit == nullptr) {
    sense = kAbsentLun;
  } else if (unit->sense_owed) {
    sense = unit->sense;
  } else if (!attentions->empty()) {
    attention = attentions->front();
    sense = {.key = SenseKey::kUnitAttention, .code = attention};
  }
  const Bytes data = request.buffer(kMaxSenseSize);
  const size_t size = FormatSense(sense, descriptor, data);
  // The sense data are gone when they have arrived, and not when the transfer was aborted.
  const bool sent = co_await request.SendIn(data.first(std::min(size, allocation)));
  if (!sent || unit == nullptr) co_return Status::kGood;
  if (attention != 0) {
    std::erase(*attentions, attention);
  } else if (unit->sense_owed && unit->sense == sense) {
    ForgetSense(*unit);
  }
  co_return Status::kGood;
}

// SPC-4 section 6.33.
Task<Status> Bus::ReportLuns(Request& request) {
  constexpr size_t kHeader = 8;
  constexpr size_t kEntry = 8;
  constexpr uint32_t kMinAllocation = 16;
  const ConstBytes cdb = request.cdb();
  const auto select = std::to_integer<uint8_t>(cdb[2]);
  const auto allocation = LoadBe<uint32_t>(cdb.subspan(6));
  if (select > 2 || allocation < kMinAllocation) {
    co_return request.CheckCondition(IllegalRequest(asc::kInvalidFieldInCdb));
  }
  const Bytes data = request.buffer(kHeader + kMaxLuns * kEntry);
  Fill(data, 0);
  size_t size = kHeader;
  // SELECT REPORT 1 asks for well known logical units, of which there are none.
  for (uint8_t lun = 0; lun < kMaxLuns && select != 1; ++lun) {
    if (!HasUnit(request.nexus_.target, lun)) continue;
    data[size + 1] = std::byte{lun};  // Peripheral device addressing, bus 0.
    size += kEntry;
  }
  StoreBe(data, static_cast<uint32_t>(size - kHeader));
  co_await request.SendIn(data.first(std::min<size_t>(size, allocation)));
  co_return Status::kGood;
}

template <typename Predicate>
void Bus::AbortWhere(Predicate is_meant) {
  // Abort calls nobody, so the list changes only here.
  for (const auto& request : requests_) {
    if (request->aborted_ || !is_meant(request->nexus_)) continue;
    request->Abort();
    Unit* const unit = FindUnit(request->nexus_);
    if (unit == nullptr) continue;
    if (unit->sense_owner == request.get()) ForgetSense(*unit);
    unit->changed.NotifyAll();
  }
  std::erase_if(requests_, [](const auto& request) {
    return request->aborted_ && request->stage_ == Request::Stage::kEnded;
  });
  rest_.NotifyAll();
}

void Bus::AbortTask(const Nexus& nexus) {
  AbortWhere([&](const Nexus& other) { return other.SameTask(nexus); });
}

void Bus::AbortTaskSet(uint8_t target, uint8_t lun) {
  AbortWhere([&](const Nexus& other) { return other.target == target && other.lun == lun; });
}

void Bus::ResetLogicalUnit(uint8_t target, uint8_t lun) {
  AbortTaskSet(target, lun);
  ResetUnits(asc::kBusDeviceReset, target, lun);
}

void Bus::ResetTarget(uint8_t target) {
  AbortWhere([&](const Nexus& other) { return other.target == target; });
  ResetUnits(asc::kBusDeviceReset, target, -1);
}

void Bus::AbortAll() {
  AbortWhere([](const Nexus&) { return true; });
}

void Bus::ResetAll() {
  AbortAll();
  ResetUnits(asc::kReset, -1, -1);
}

// -1: any.
void Bus::ResetUnits(uint16_t code, int target, int lun) {
  for (auto& [address, unit] : units_) {
    if (target >= 0 && address >> 8 != target) continue;
    if (lun >= 0 && (address & 0xff) != lun) continue;
    ForgetSense(unit);
    unit.logical_unit->Reset();
    unit.logical_unit->AddUnitAttention(code);
  }
}

void Bus::ForgetSense(Unit& unit) {
  unit.sense = {};
  unit.sense_owed = false;
  unit.sense_owner = nullptr;
  unit.changed.NotifyAll();
}

size_t Bus::running() const {
  return static_cast<size_t>(std::ranges::count_if(requests_, [](const auto& request) {
    return !request->aborted_ && request->stage_ != Request::Stage::kEnded;
  }));
}

std::shared_ptr<Request> Bus::Find(const Nexus& nexus) const {
  for (const auto& request : requests_) {
    if (!request->aborted_ && request->nexus_.SameTask(nexus)) return request;
  }
  return nullptr;
}

void Bus::Retire(const Request& request) {
  if (Unit* const unit = FindUnit(request.nexus_)) {
    if (unit->sense_owner == &request) unit->sense_owner = nullptr;
  }
  std::erase_if(requests_, [&](const auto& other) {
    return other.get() == &request && other->stage_ == Request::Stage::kEnded;
  });
}

bool Bus::AnyWorking() const {
  for (const auto& request : requests_) {
    switch (request->stage_) {
      case Request::Stage::kQueued:
        if (request->aborted_ || MayStart(*request)) return true;
        break;
      case Request::Stage::kRunning:
        if (request->working()) return true;
        break;
      case Request::Stage::kHeld:
        if (request->aborted_ || MayEnd(*request)) return true;
        break;
      case Request::Stage::kEnded:
        break;
    }
  }
  return false;
}

Task<void> Bus::Drain() {
  while (AnyWorking()) co_await rest_.Wait();
}

}  // namespace farside::scsi
