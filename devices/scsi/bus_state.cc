// Saved state of a bus. Sections, all version 1, integers little-endian:
//
//   scsi.bus       u32 n, then for each request, in the order of starting: u8 target, lun, tag,
//                  attribute, stage, began, status; sense; u8 CDB size, 16 bytes CDB; u64 moved,
//                  u64 of these in the last call; u32 n, n bytes of the last ReceiveOut. u32 n,
//                  then for each unit, by address: u8 target, lun, sense owed; sense; u32 index of
//                  the request that it belongs to, or all ones; u32 n, a u16 for each unit
//                  attention
//   scsi.unit.T.L  the unit's own, for each unit
//
//   sense: u8 key, u16 code, u8 whether there is information, u64 information
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "devices/core/state.h"
#include "devices/scsi/bus.h"

namespace farside::scsi {
namespace {

constexpr uint16_t kStateVersion = 1;
constexpr uint32_t kNoOwner = UINT32_MAX;
constexpr size_t kMaxRequests = kMaxTargets * (kMaxLuns + 1) * (kMaxTasks + 1);
constexpr size_t kMaxUnitAttentions = 16;
constexpr size_t kMaxReceived = 1 << 20;

void SaveSense(const Sense& sense, StateWriter& out) {
  out.Put(static_cast<uint8_t>(sense.key));
  out.Put(sense.code);
  out.Put(static_cast<uint8_t>(sense.information.has_value()));
  out.Put(sense.information.value_or(0));
}

Sense LoadSense(StateReader& in) {
  Sense sense;
  sense.key = SenseKey{static_cast<uint8_t>(in.Get<uint8_t>() & 0xf)};
  sense.code = in.Get<uint16_t>();
  const bool has_information = in.Get<uint8_t>() != 0;
  const auto information = in.Get<uint64_t>();
  if (has_information) sense.information = information;
  return sense;
}

bool IsStatus(uint8_t status) {
  switch (Status{status}) {
    case Status::kGood:
    case Status::kCheckCondition:
    case Status::kBusy:
    case Status::kReservationConflict:
    case Status::kTaskSetFull:
      return true;
  }
  return false;
}

std::string UnitSection(uint16_t address) {
  return fmt::format("scsi.unit.{}.{}", address >> 8, address & 0xff);
}

Result<void> Close(const StateReader& in, std::string_view section) {
  if (in.remaining() == 0) return {};
  return Fail("the device state's section '{}' has {} bytes too many", section, in.remaining());
}

}  // namespace

void Bus::SaveRequest(const Request& request, StateWriter& out) {
  out.Put(request.nexus_.target);
  out.Put(request.nexus_.lun);
  out.Put(request.nexus_.tag);
  out.Put(static_cast<uint8_t>(request.nexus_.attribute));
  out.Put(static_cast<uint8_t>(request.stage_));
  out.Put(static_cast<uint8_t>(request.began_));
  out.Put(static_cast<uint8_t>(request.status_));
  SaveSense(request.sense_, out);
  out.Put(static_cast<uint8_t>(request.cdb_size_));
  out.PutBytes(request.cdb_);
  // What was loaded and is not run again yet is as it was.
  const bool resumes = request.resumed_ != 0;
  const ConstBytes received =
      resumes ? ConstBytes(request.resumed_out_)
              : ConstBytes(request.received_)
                    .first(std::min<size_t>(request.received_.size(), request.moved_last_));
  out.Put(request.moved_);
  out.Put(resumes ? request.resumed_last_ : request.moved_last_);
  out.Put(static_cast<uint32_t>(received.size()));
  out.PutBytes(received);
}

void Bus::Save(StateWriter& out) const {
  out.Section("scsi.bus", kStateVersion);
  std::vector<const Request*> saved;
  for (const auto& request : requests_) {
    if (!request->aborted_) saved.push_back(request.get());
  }
  out.Put(static_cast<uint32_t>(saved.size()));
  for (const Request* request : saved) SaveRequest(*request, out);
  out.Put(static_cast<uint32_t>(units_.size()));
  for (const auto& [address, unit] : units_) {
    out.Put(static_cast<uint8_t>(address >> 8));
    out.Put(static_cast<uint8_t>(address));
    out.Put(static_cast<uint8_t>(unit.sense_owed));
    SaveSense(unit.sense, out);
    const auto owner = std::ranges::find(saved, unit.sense_owner);
    out.Put(owner == saved.end() ? kNoOwner : static_cast<uint32_t>(owner - saved.begin()));
    out.Put(static_cast<uint32_t>(unit.logical_unit->unit_attentions_.size()));
    for (const uint16_t code : unit.logical_unit->unit_attentions_) out.Put(code);
  }
  for (const auto& [address, unit] : units_) {
    out.Section(UnitSection(address), kStateVersion);
    unit.logical_unit->Save(out);
  }
}

Result<std::shared_ptr<Request>> Bus::LoadRequest(StateReader& in) {
  Nexus nexus{.target = in.Get<uint8_t>(), .lun = in.Get<uint8_t>(), .tag = in.Get<uint8_t>()};
  const auto attribute = in.Get<uint8_t>();
  const auto stage = in.Get<uint8_t>();
  const bool began = in.Get<uint8_t>() != 0;
  const auto status = in.Get<uint8_t>();
  const Sense sense = LoadSense(in);
  const auto cdb_size = in.Get<uint8_t>();
  std::array<std::byte, kMaxCdb> cdb{};
  in.GetBytes(cdb);
  const auto moved = in.Get<uint64_t>();
  const auto last = in.Get<uint64_t>();
  const auto received = in.Get<uint32_t>();
  if (attribute > static_cast<uint8_t>(TaskAttribute::kOrdered) ||
      stage > static_cast<uint8_t>(Request::Stage::kEnded) || !IsStatus(status) ||
      cdb_size > kMaxCdb || !HasTarget(nexus.target) || last > moved || received > last ||
      received > std::min<uint64_t>(kMaxReceived, in.remaining())) {
    return Fail("a saved SCSI command of target {}, lun {} is not one that this bus can have",
                nexus.target, nexus.lun);
  }
  nexus.attribute = TaskAttribute{attribute};
  const auto request = std::make_shared<Request>(*this, nexus, ConstBytes(cdb).first(cdb_size));
  if (request->cdb_size_ != cdb_size) {
    return Fail("a saved SCSI command has {} bytes, which is not the size of its kind", cdb_size);
  }
  request->stage_ = Request::Stage{stage};
  // It is run from its start; what it had to wait for then has ended.
  if (request->stage_ == Request::Stage::kRunning) request->stage_ = Request::Stage::kQueued;
  if (request->stage_ == Request::Stage::kEnded) request->phase_ = Phase::kStatus;
  request->began_ = began;
  request->status_ = Status{status};
  request->sense_ = sense;
  request->moved_ = request->resumed_ = moved;
  request->resumed_last_ = last;
  request->resumed_out_.resize(received);
  in.GetBytes(request->resumed_out_);
  return request;
}

Result<void> Bus::LoadRequests(StateReader& in, std::vector<std::shared_ptr<Request>>& requests) {
  const auto count = in.Get<uint32_t>();
  if (count > kMaxRequests) {
    return Fail("the saved SCSI bus has {} commands: the state is damaged", count);
  }
  for (uint32_t i = 0; i < count; ++i) {
    auto request = LoadRequest(in);
    if (!request) return tl::unexpected(request.error());
    for (const auto& other : requests) {
      if (other->nexus_.SameTask((*request)->nexus_)) {
        return Fail("the saved SCSI bus has two commands of one tag: the state is damaged");
      }
    }
    requests.push_back(std::move(*request));
  }
  return {};
}

Result<void> Bus::LoadTaskSet(Unit& unit, const std::vector<std::shared_ptr<Request>>& requests,
                              StateReader& in) {
  const bool owed = in.Get<uint8_t>() != 0;
  const Sense sense = LoadSense(in);
  const auto owner = in.Get<uint32_t>();
  const auto attentions = in.Get<uint32_t>();
  if ((owner != kNoOwner && owner >= requests.size()) || attentions > kMaxUnitAttentions) {
    return Fail("a saved SCSI unit has sense data that it cannot have: the state is damaged");
  }
  unit.sense = sense;
  unit.sense_owed = owed;
  unit.sense_owner = owner == kNoOwner ? nullptr : requests[owner].get();
  unit.logical_unit->unit_attentions_.clear();
  for (uint32_t i = 0; i < attentions; ++i) {
    unit.logical_unit->unit_attentions_.push_back(in.Get<uint16_t>());
  }
  return {};
}

Result<void> Bus::Load(StateReader& in) {
  if (const auto version = in.Section("scsi.bus", kStateVersion); !version) {
    return tl::unexpected(version.error());
  }
  std::vector<std::shared_ptr<Request>> requests;
  if (auto result = LoadRequests(in, requests); !result) return result;
  if (const auto count = in.Get<uint32_t>(); count != units_.size()) {
    return Fail("the saved SCSI bus has {} units and this one {}: attach the same disks", count,
                units_.size());
  }
  for (auto& [address, unit] : units_) {
    const auto target = in.Get<uint8_t>();
    const auto lun = in.Get<uint8_t>();
    if (Address(target, lun) != address) {
      return Fail(
          "the saved SCSI bus has target {}, lun {} and this one not: attach the same disks",
          target, lun);
    }
    if (auto result = LoadTaskSet(unit, requests, in); !result) return result;
  }
  if (auto result = Close(in, "scsi.bus"); !result) return result;
  for (auto& [address, unit] : units_) {
    const std::string section = UnitSection(address);
    if (const auto version = in.Section(section, kStateVersion); !version) {
      return tl::unexpected(version.error());
    }
    if (auto result = unit.logical_unit->Load(in); !result) return result;
    if (auto result = Close(in, section); !result) return result;
  }
  AbortAll();
  requests_.insert(requests_.end(), requests.begin(), requests.end());
  for (const auto& request : requests) {
    if (request->stage_ != Request::Stage::kEnded) scope_.Spawn(Run(request));
  }
  return {};
}

}  // namespace farside::scsi
