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

#include "base/check.h"
#include "devices/core/fast_state.h"
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

// A request but for the bytes of its last ReceiveOut.
struct Bus::SavedRequest {
  Nexus nexus;
  Request::Stage stage = Request::Stage::kQueued;
  bool began = false;
  Status status = Status::kGood;
  Sense sense;
  uint8_t cdb_size = 0;
  std::array<std::byte, kMaxCdb> cdb{};
  uint64_t moved = 0;
  uint64_t last = 0;  // Of these, in the last call of SendIn or ReceiveOut.
};

Bus::SavedRequest Bus::Describe(const Request& request) {
  return {.nexus = request.nexus_,
          .stage = request.stage_,
          .began = request.began_,
          .status = request.status_,
          .sense = request.sense_,
          .cdb_size = static_cast<uint8_t>(request.cdb_size_),
          .cdb = request.cdb_,
          .moved = request.moved_,
          // What was loaded and is not run again yet is as it was.
          .last = request.resumed_ != 0 ? request.resumed_last_ : request.moved_last_};
}

ConstBytes Bus::ReceivedBy(const Request& request) {
  if (request.resumed_ != 0) return request.resumed_out_;
  return ConstBytes(request.received_)
      .first(std::min<size_t>(request.received_.size(), request.moved_last_));
}

// The request anew, for Adopt; the caller gives it what it had received.
std::shared_ptr<Request> Bus::Remake(const SavedRequest& saved) {
  const auto request =
      std::make_shared<Request>(*this, saved.nexus, ConstBytes(saved.cdb).first(saved.cdb_size));
  // It is run from its start; what it had to wait for then has ended.
  request->stage_ = saved.stage == Request::Stage::kRunning ? Request::Stage::kQueued : saved.stage;
  if (request->stage_ == Request::Stage::kEnded) request->phase_ = Phase::kStatus;
  request->began_ = saved.began;
  request->status_ = saved.status;
  request->sense_ = saved.sense;
  request->moved_ = request->resumed_ = saved.moved;
  request->resumed_last_ = saved.last;
  return request;
}

// Runs what Remake made.
void Bus::Adopt(const std::vector<std::shared_ptr<Request>>& requests) {
  requests_.insert(requests_.end(), requests.begin(), requests.end());
  for (const auto& request : requests) {
    if (request->stage_ != Request::Stage::kEnded) scope_.Spawn(Run(request));
  }
}

void Bus::SaveRequest(const Request& request, StateWriter& out) {
  const SavedRequest saved = Describe(request);
  out.Put(saved.nexus.target);
  out.Put(saved.nexus.lun);
  out.Put(saved.nexus.tag);
  out.Put(static_cast<uint8_t>(saved.nexus.attribute));
  out.Put(static_cast<uint8_t>(saved.stage));
  out.Put(static_cast<uint8_t>(saved.began));
  out.Put(static_cast<uint8_t>(saved.status));
  SaveSense(saved.sense, out);
  out.Put(saved.cdb_size);
  out.PutBytes(saved.cdb);
  out.Put(saved.moved);
  out.Put(saved.last);
  const ConstBytes received = ReceivedBy(request);
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
  SavedRequest saved;
  saved.nexus = {.target = in.Get<uint8_t>(), .lun = in.Get<uint8_t>(), .tag = in.Get<uint8_t>()};
  const auto attribute = in.Get<uint8_t>();
  const auto stage = in.Get<uint8_t>();
  saved.began = in.Get<uint8_t>() != 0;
  const auto status = in.Get<uint8_t>();
  saved.sense = LoadSense(in);
  saved.cdb_size = in.Get<uint8_t>();
  in.GetBytes(saved.cdb);
  saved.moved = in.Get<uint64_t>();
  saved.last = in.Get<uint64_t>();
  const auto received = in.Get<uint32_t>();
  if (attribute > static_cast<uint8_t>(TaskAttribute::kOrdered) ||
      stage > static_cast<uint8_t>(Request::Stage::kEnded) || !IsStatus(status) ||
      saved.cdb_size > kMaxCdb || !HasTarget(saved.nexus.target) || saved.last > saved.moved ||
      received > saved.last || received > std::min<uint64_t>(kMaxReceived, in.remaining())) {
    return Fail("a saved SCSI command of target {}, lun {} is not one that this bus can have",
                saved.nexus.target, saved.nexus.lun);
  }
  saved.nexus.attribute = TaskAttribute{attribute};
  saved.stage = Request::Stage{stage};
  saved.status = Status{status};
  const auto request = Remake(saved);
  if (request->cdb_size_ != saved.cdb_size) {
    return Fail("a saved SCSI command has {} bytes, which is not the size of its kind",
                saved.cdb_size);
  }
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
  Adopt(requests);
  return {};
}

// A task set but for its requests.
struct Bus::SavedTaskSet {
  Sense sense;
  bool sense_owed = false;
  size_t owner = kNoOwner;  // Of the sense data, among the requests.
};

void Bus::SaveFast(FastState& out) const {
  CHECK(!AnyWorking());  // So none is aborted, either.
  out.Put(requests_.size());
  for (const auto& request : requests_) {
    out.Put(Describe(*request));
    const ConstBytes received = ReceivedBy(*request);
    out.PutArray(received);
  }
  out.Put(units_.size());
  for (const auto& [address, unit] : units_) {
    const auto owner =
        std::ranges::find(requests_, unit.sense_owner, &std::shared_ptr<Request>::get);
    out.Put(SavedTaskSet{.sense = unit.sense,
                         .sense_owed = unit.sense_owed,
                         .owner = owner == requests_.end()
                                      ? kNoOwner
                                      : static_cast<size_t>(owner - requests_.begin())});
    out.PutArray(unit.logical_unit->unit_attentions_);
    unit.logical_unit->SaveFast(out);
  }
}

void Bus::LoadFast(FastReader& in) {
  CHECK(requests_.empty());
  std::vector<std::shared_ptr<Request>> requests;
  for (auto count = in.Get<size_t>(); count != 0; --count) {
    requests.push_back(Remake(in.Get<SavedRequest>()));
    in.GetArray(requests.back()->resumed_out_);
  }
  CHECK(in.Get<size_t>() == units_.size());
  for (auto& [address, unit] : units_) {
    const auto saved = in.Get<SavedTaskSet>();
    unit.sense = saved.sense;
    unit.sense_owed = saved.sense_owed;
    unit.sense_owner = saved.owner == kNoOwner ? nullptr : requests[saved.owner].get();
    in.GetArray(unit.logical_unit->unit_attentions_);
    unit.logical_unit->LoadFast(in);
  }
  Adopt(requests);
}

}  // namespace farside::scsi
