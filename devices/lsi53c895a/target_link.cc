#include "devices/lsi53c895a/target_link.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/mutant.h"

namespace farside::lsi53c895a {
namespace {

// Messages: SCSI-2 table 20, SPI-3 table 69.
constexpr uint8_t kCommandComplete = 0x00;
constexpr uint8_t kExtended = 0x01;
constexpr uint8_t kSaveDataPointers = 0x02;
constexpr uint8_t kDisconnect = 0x04;
constexpr uint8_t kInitiatorDetectedError = 0x05;
constexpr uint8_t kAbortTaskSet = 0x06;
constexpr uint8_t kMessageReject = 0x07;
constexpr uint8_t kNoOperation = 0x08;
constexpr uint8_t kMessageParityError = 0x09;
constexpr uint8_t kTargetReset = 0x0c;
constexpr uint8_t kAbortTask = 0x0d;
constexpr uint8_t kClearTaskSet = 0x0e;
constexpr uint8_t kLogicalUnitReset = 0x17;
constexpr uint8_t kSimpleTag = 0x20;
constexpr uint8_t kHeadOfQueueTag = 0x21;
constexpr uint8_t kOrderedTag = 0x22;
constexpr uint8_t kIdentify = 0x80;
constexpr uint8_t kIdentifyDisconnect = 0x40;
constexpr uint8_t kIdentifyLun = 0x3f;

constexpr uint8_t kSynchronousTransfer = 0x01;  // Extended message codes.
constexpr uint8_t kWideTransfer = 0x03;
constexpr uint8_t kParallelProtocol = 0x04;

// By the group of the operation code; 0 where the size is not known from it.
constexpr size_t CdbSize(std::byte opcode) {
  constexpr uint8_t kSizes[8] = {6, 10, 10, 0, 16, 12, 0, 0};
  return kSizes[std::to_integer<uint8_t>(opcode) >> 5];
}

constexpr uint16_t kStateVersion = 1;
constexpr size_t kMaxDisconnected = scsi::kMaxTargets * 256 * 65;

}  // namespace

void TargetLink::Reset() {
  state_ = {};
  request_.reset();
  disconnected_.clear();
}

void TargetLink::Drop() {
  if (request_ != nullptr) bus_.AbortTask(request_->nexus());
  Forget();
}

void TargetLink::Forget() {
  state_ = {};
  request_.reset();
}

void TargetLink::GoFree() { Forget(); }

void TargetLink::GoDisconnected() {
  disconnected_.push_back(request_);
  Forget();
}

bool TargetLink::Select(uint8_t target, bool atn) {
  if (!bus_.HasTarget(target)) return false;
  Forget();
  state_.connected = true;
  state_.nexus.target = target;
  state_.atn = atn;
  state_.fresh = !atn;
  return true;
}

bool TargetLink::HasReselection() const {
  return std::ranges::any_of(disconnected_, [](const auto& request) {
    return !request->aborted() && request->phase() != scsi::Phase::kWorking;
  });
}

void TargetLink::Reselect() {
  std::erase_if(disconnected_, [](const auto& request) { return request->aborted(); });
  const auto ready = std::ranges::find_if(
      disconnected_, [](const auto& request) { return request->phase() != scsi::Phase::kWorking; });
  if (ready == disconnected_.end()) return;
  auto request = *ready;
  disconnected_.erase(ready);
  Forget();
  state_.connected = true;
  state_.identified = true;
  state_.may_disconnect = true;
  state_.nexus = request->nexus();
  QueueMessageIn({static_cast<uint8_t>(kIdentify | state_.nexus.lun)});
  if (state_.nexus.tagged()) QueueMessageIn({kSimpleTag, state_.nexus.tag});
  request_ = std::move(request);
}

bool TargetLink::WantsBus() const {
  if (!state_.connected || state_.ack_held) return false;
  if (request_ == nullptr || state_.atn || state_.message_out_size != 0) return true;
  if (state_.message_in_size != 0 || state_.after != After::kNothing || state_.freeing) return true;
  return request_->aborted() || request_->phase() != scsi::Phase::kWorking || state_.may_disconnect;
}

bool TargetLink::WouldDisconnect() const {
  return state_.connected && state_.may_disconnect && !state_.ack_held && !state_.atn &&
         !state_.freeing && state_.message_out_size == 0 && state_.message_in_size == 0 &&
         state_.after == After::kNothing && request_ != nullptr && !request_->aborted() &&
         request_->phase() == scsi::Phase::kWorking;
}

std::optional<BusPhase> TargetLink::Poll() {
  if (!state_.connected || state_.ack_held) return std::nullopt;
  if (state_.atn || state_.message_out_size != 0) return BusPhase::kMessageOut;
  if (state_.freeing) {
    GoFree();
    return std::nullopt;
  }
  if (state_.message_in_size != 0) return BusPhase::kMessageIn;
  switch (std::exchange(state_.after, After::kNothing)) {
    case After::kNothing:
      break;
    case After::kFree:
      GoFree();
      return std::nullopt;
    case After::kDisconnect:
      GoDisconnected();
      return std::nullopt;
  }
  if (request_ == nullptr) return BusPhase::kCommand;
  if (request_->aborted() && !MUTANT("lsi-abort-keeps-request")) {
    GoFree();
    return std::nullopt;
  }
  switch (request_->phase()) {
    case scsi::Phase::kDataIn:
      return BusPhase::kDataIn;
    case scsi::Phase::kDataOut:
      return BusPhase::kDataOut;
    case scsi::Phase::kStatus:
      return BusPhase::kStatus;
    case scsi::Phase::kWorking:
      break;
  }
  if (!state_.may_disconnect) return std::nullopt;
  QueueMessageIn({kSaveDataPointers, kDisconnect});
  state_.after = After::kDisconnect;
  return BusPhase::kMessageIn;
}

// SeaBIOS selects without ATN and sends IDENTIFY all the same.
bool TargetLink::Accepts(BusPhase phase) const {
  return state_.fresh && phase == BusPhase::kMessageOut;
}

void TargetLink::QueueMessageIn(std::initializer_list<uint8_t> bytes) {
  if (bytes.size() > state_.message_in.size() - state_.message_in_size) return;
  for (const uint8_t byte : bytes) state_.message_in[state_.message_in_size++] = std::byte{byte};
}

void TargetLink::TakeMessageIn(size_t size) {
  std::ranges::copy(message_in().subspan(size), state_.message_in.begin());
  state_.message_in_size = static_cast<uint8_t>(state_.message_in_size - size);
  state_.ack_held = true;
}

void TargetLink::TakeStatus() {
  const auto request = std::exchange(request_, nullptr);
  QueueMessageIn({kCommandComplete});
  state_.after = After::kFree;
  bus_.Retire(*request);
}

void TargetLink::PutCommand(ConstBytes bytes, bool last) {
  state_.fresh = false;
  const size_t room = state_.cdb.size() - state_.cdb_size;
  const size_t taken = std::min(room, bytes.size());
  Copy(Bytes(state_.cdb).subspan(state_.cdb_size, taken), bytes.first(taken));
  state_.cdb_size = static_cast<uint8_t>(state_.cdb_size + taken);
  // A target asks for as many bytes as the operation code says. What else the move has is taken
  // and dropped: SeaBIOS always sends 16. Without a size the initiator knows best.
  const size_t wanted = CdbSize(state_.cdb[0]);
  const bool enough = state_.cdb_size >= wanted || MUTANT("scsi-short-cdb");
  if (!last || !enough) return;
  const size_t size = wanted == 0 ? state_.cdb_size : std::min<size_t>(wanted, state_.cdb_size);
  state_.cdb_size = 0;
  request_ = bus_.Start(state_.nexus, ConstBytes(state_.cdb).first(size));
}

// Of the message that has begun; 0 while that is not known.
size_t TargetLink::MessageOutLength() const {
  const auto first = std::to_integer<uint8_t>(state_.message_out[0]);
  if (first == kExtended) {
    if (state_.message_out_size < 2) return 0;
    const auto length = std::to_integer<size_t>(state_.message_out[1]);
    return 2 + (length == 0 ? 256 : length);
  }
  return (first & 0xf0) == kSimpleTag ? 2 : 1;
}

void TargetLink::PutMessageOut(ConstBytes bytes, bool last) {
  state_.fresh = false;
  auto& message = state_.message_out;
  for (const std::byte byte : bytes) {
    size_t at = state_.message_out_size++;
    if (MUTANT("lsi-long-message")) at %= message.size();
    if (at < message.size()) message[at] = byte;
    const size_t length = MessageOutLength();
    if (length == 0 || state_.message_out_size < length) continue;
    state_.message_out_size = 0;
    OnMessageOut(ConstBytes(message).first(std::min(length, message.size())));
  }
  // The chip drops ATN with the last byte of its move; a message that is not complete is still
  // asked for.
  if (last) state_.atn = false;
}

void TargetLink::OnMessageOut(ConstBytes message) {
  const auto code = std::to_integer<uint8_t>(message[0]);
  if ((code & kIdentify) != 0) {
    // A nexus has one lun for life; only the right to disconnect may change.
    if (request_ == nullptr) state_.nexus.lun = code & kIdentifyLun;
    state_.identified = true;
    state_.may_disconnect = (code & kIdentifyDisconnect) != 0;
    return;
  }
  switch (code) {
    case kExtended:
      return OnExtendedMessage(message);
    case kSimpleTag:
    case kHeadOfQueueTag:
    case kOrderedTag:
      if (request_ != nullptr) return QueueMessageIn({kMessageReject});
      state_.nexus.attribute = code == kSimpleTag        ? scsi::TaskAttribute::kSimple
                               : code == kHeadOfQueueTag ? scsi::TaskAttribute::kHeadOfQueue
                                                         : scsi::TaskAttribute::kOrdered;
      state_.nexus.tag = std::to_integer<uint8_t>(message[1]);
      return;
    case kAbortTaskSet:
    case kTargetReset:
    case kAbortTask:
    case kClearTaskSet:
    case kLogicalUnitReset:
      return OnTaskManagement(code);
    case kInitiatorDetectedError:
    case kMessageReject:
    case kNoOperation:
    case kMessageParityError:
      return;
    default:
      return QueueMessageIn({kMessageReject});
  }
}

// The target goes to BUS FREE afterwards, and whatever else comes in this phase finds no command.
void TargetLink::OnTaskManagement(uint8_t code) {
  const scsi::Nexus nexus = request_ != nullptr ? request_->nexus() : state_.nexus;
  if (!MUTANT("lsi-abort-keeps-request")) {
    request_.reset();
    state_.message_in_size = 0;
    state_.after = After::kNothing;
    state_.freeing = true;
  }
  if (code == kTargetReset) return bus_.ResetTarget(nexus.target);
  if (!state_.identified) return;  // Nothing says which unit's commands are meant.
  if (code == kAbortTask) return bus_.AbortTask(nexus);
  if (code == kLogicalUnitReset) return bus_.ResetLogicalUnit(nexus.target, nexus.lun);
  bus_.AbortTaskSet(nexus.target, nexus.lun);
}

// Whatever the initiator can do suits a target that moves bytes in no time, except transfers on
// both edges of the clock, which a bus of this chip does not have.
void TargetLink::OnExtendedMessage(ConstBytes message) {
  const auto at = [&](size_t index) { return std::to_integer<uint8_t>(message[index]); };
  const uint8_t length = at(1);
  const uint8_t code = message.size() < 3 ? 0 : at(2);
  if (code == kSynchronousTransfer && length == 3) {
    return QueueMessageIn({kExtended, 3, code, at(3), at(4)});
  }
  if (code == kWideTransfer && length == 2) {
    return QueueMessageIn({kExtended, 2, code, std::min<uint8_t>(at(3), 1)});
  }
  if (code == kParallelProtocol && length == 6) {
    constexpr uint8_t kFast40 = 10;  // The shortest period without double transitions: 25 ns.
    return QueueMessageIn(
        {kExtended, 6, code, std::max(at(3), kFast40), 0, at(5), std::min<uint8_t>(at(6), 1), 0});
  }
  QueueMessageIn({kMessageReject});
}

void TargetLink::SaveNexus(const scsi::Nexus& nexus, StateWriter& out) {
  out.Put(nexus.target);
  out.Put(nexus.lun);
  out.Put(nexus.tag);
  out.Put(static_cast<uint8_t>(nexus.attribute));
}

Result<scsi::Nexus> TargetLink::LoadNexus(StateReader& in) {
  scsi::Nexus nexus;
  nexus.target = in.Get<uint8_t>();
  nexus.lun = in.Get<uint8_t>();
  nexus.tag = in.Get<uint8_t>();
  const auto attribute = in.Get<uint8_t>();
  if (nexus.target >= scsi::kMaxTargets || nexus.lun > kIdentifyLun ||
      attribute > static_cast<uint8_t>(scsi::TaskAttribute::kOrdered)) {
    return Fail("a saved nexus of target {}, lun {} is none of a SCSI bus", nexus.target,
                nexus.lun);
  }
  nexus.attribute = scsi::TaskAttribute{attribute};
  return nexus;
}

void TargetLink::Save(StateWriter& out) const {
  out.Section("lsi.target", kStateVersion);
  for (const bool flag : {state_.connected, state_.atn, state_.ack_held, state_.fresh,
                          state_.identified, state_.may_disconnect, state_.freeing}) {
    out.Put(static_cast<uint8_t>(flag));
  }
  out.Put(static_cast<uint8_t>(state_.after));
  SaveNexus(state_.nexus, out);
  out.PutBytes(state_.cdb);
  out.Put(state_.cdb_size);
  out.PutBytes(state_.message_out);
  out.Put(state_.message_out_size);
  out.PutBytes(state_.message_in);
  out.Put(state_.message_in_size);
  out.Put(static_cast<uint8_t>(request_ != nullptr));
  const auto alive = [](const auto& request) { return !request->aborted(); };
  out.Put(static_cast<uint32_t>(std::ranges::count_if(disconnected_, alive)));
  for (const auto& request : disconnected_) {
    if (alive(request)) SaveNexus(request->nexus(), out);
  }
}

bool TargetLink::WellFormed(const State& state) {
  return state.after <= After::kDisconnect && state.cdb_size <= state.cdb.size() &&
         state.message_out_size < 2 + 256 && state.message_in_size <= state.message_in.size();
}

Result<std::shared_ptr<TargetLink::Loaded>> TargetLink::Load(StateReader& in) {
  if (const auto version = in.Section("lsi.target", kStateVersion); !version) {
    return tl::unexpected(version.error());
  }
  auto loaded = std::make_shared<Loaded>();
  State& state = loaded->state;
  for (bool* flag : {&state.connected, &state.atn, &state.ack_held, &state.fresh, &state.identified,
                     &state.may_disconnect, &state.freeing}) {
    *flag = in.Get<uint8_t>() != 0;
  }
  state.after = After{in.Get<uint8_t>()};
  const auto nexus = LoadNexus(in);
  if (!nexus) return tl::unexpected(nexus.error());
  state.nexus = *nexus;
  in.GetBytes(state.cdb);
  state.cdb_size = in.Get<uint8_t>();
  in.GetBytes(state.message_out);
  state.message_out_size = in.Get<uint16_t>();
  in.GetBytes(state.message_in);
  state.message_in_size = in.Get<uint8_t>();
  loaded->has_request = in.Get<uint8_t>() != 0;
  const auto count = in.Get<uint32_t>();
  if (!WellFormed(state) || (loaded->has_request && !state.connected) ||
      (state.after == After::kDisconnect && !loaded->has_request) || count > kMaxDisconnected) {
    return Fail("the saved SCSI phase is none that a target can be in: the state is damaged");
  }
  for (uint32_t i = 0; i < count && in.remaining() != 0; ++i) {
    const auto other = LoadNexus(in);
    if (!other) return tl::unexpected(other.error());
    loaded->disconnected.push_back(*other);
  }
  if (in.remaining() != 0 || loaded->disconnected.size() != count) {
    return Fail("the device state's section 'lsi.target' has another size than it says");
  }
  return loaded;
}

Result<void> TargetLink::TakeOver(const Loaded& loaded) {
  std::vector<std::shared_ptr<scsi::Request>> disconnected;
  for (const scsi::Nexus& nexus : loaded.disconnected) {
    disconnected.push_back(bus_.Find(nexus));
    if (disconnected.back() == nullptr) {
      return Fail("the saved state has no command of target {}, lun {}, tag {}: it is damaged",
                  nexus.target, nexus.lun, nexus.tag);
    }
  }
  const auto request = loaded.has_request ? bus_.Find(loaded.state.nexus) : nullptr;
  if (loaded.has_request != (request != nullptr) ||
      (loaded.state.connected && !bus_.HasTarget(loaded.state.nexus.target))) {
    return Fail("the saved state is connected to target {}, which has no such command",
                loaded.state.nexus.target);
  }
  state_ = loaded.state;
  request_ = request;
  disconnected_ = std::move(disconnected);
  return {};
}

void TargetLink::SaveFast(FastState& out) const {
  out.Put(state_);
  out.Put(request_ != nullptr);
  const auto alive = [](const auto& request) { return !request->aborted(); };
  out.Put(std::ranges::count_if(disconnected_, alive));
  for (const auto& request : disconnected_) {
    if (alive(request)) out.Put(request->nexus());
  }
}

void TargetLink::LoadFast(FastReader& in) {
  Loaded loaded;
  in.Get(loaded.state);
  in.Get(loaded.has_request);
  loaded.disconnected.resize(static_cast<size_t>(in.Get<ptrdiff_t>()));
  for (scsi::Nexus& nexus : loaded.disconnected) in.Get(nexus);
  CHECK(TakeOver(loaded).has_value());
}

}  // namespace farside::lsi53c895a
