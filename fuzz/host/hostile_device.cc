#include "fuzz/host/hostile_device.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {

using vfio_user::Command;
using vfio_user::Frame;
using vfio_user::Header;

namespace {

bool TakesFds(Command command) {
  return command == Command::kVersion || command == Command::kDeviceGetRegionInfo ||
         command == Command::kDeviceGetRegionIoFds;
}

bool IsReply(const Header& header) {
  return (header.flags & vfio_user::kFlagTypeMask) == vfio_user::kFlagTypeReply;
}
bool IsCommand(const Header& header) {
  return (header.flags & vfio_user::kFlagTypeMask) == vfio_user::kFlagTypeCommand;
}

}  // namespace

HostileDevice::HostileDevice(const Windows& windows) : windows_(windows) {
  for (uint32_t i = 0; i < kRegions; ++i) regions_[i].resize(kRegionSizes[i]);
}

void HostileDevice::Begin() {
  queue_.clear();
  spoilings_.clear();
  for (auto& region : regions_) std::ranges::fill(region, std::byte{0x5a});
  ResetConfig(regions_[kConfig]);
}

void HostileDevice::Reset() {
  Disconnect();
  for (auto* reader : {&reader_, &twin_reader_}) {
    *reader = std::make_unique<vfio_user::FrameReader>(
        vfio_user::MaxMessageSize(vfio_user::kDefaultMaxDataXferSize));
  }
  broken_ = unsure_ = false;
  max_transfer_ = vfio_user::kDefaultMaxDataXferSize;
}

std::unique_ptr<MemoryTransport> HostileDevice::Connect(bool pieces) {
  Reset();
  offers_twin_ = false;
  return line_.Connect(pieces);
}

UniqueFd HostileDevice::ConnectSocket(bool pieces) {
  Reset();
  offers_twin_ = !pieces;
  return line_.ConnectSocket(pieces);
}

void HostileDevice::Disconnect() {
  line_.Close();
  twin_.Close();
  asked_.clear();
  late_.reset();
}

// What goes to the client.

void HostileDevice::Queue(const Event& event) {
  (event.kind == Kind::kReply ? spoilings_ : queue_).push_back(event);
}

void HostileDevice::Release() {
  while (!queue_.empty()) {
    const Event event = queue_.front();
    queue_.pop_front();
    if (line_.connected()) Play(event);
  }
  // On another line than the answers it may be seen before or behind them.
  if (twin_.connected() && broken_) unsure_ = true;
}

void HostileDevice::Play(const Event& event) {
  switch (event.kind) {
    case Kind::kDeviceRead:
    case Kind::kDeviceWrite:
      return SendDma(event, event.kind == Kind::kDeviceWrite);
    case Kind::kDeviceFrame:
      return SendFrame(event);
    case Kind::kHangUp:
      own_line().HangUp();
      broken_ = true;
      return;
    default:
      return;
  }
}

void HostileDevice::SendDma(const Event& event, bool writes) {
  const vfio_user::DmaAccess access{.iova = event.at, .count = event.value};
  std::vector<std::byte> payload(sizeof access);
  Copy(payload, AsBytes(access));
  if (writes) payload.insert(payload.end(), event.data.begin(), event.data.end());
  const Command command = writes ? Command::kDmaWrite : Command::kDmaRead;
  const Header header = vfio_user::CommandHeader(next_id_++, command, payload.size());
  if (header.size > vfio_user::MaxMessageSize(static_cast<uint32_t>(max_transfer_))) {
    broken_ = true;
  } else {
    Expect(header, payload);
  }
  own_line().Put(AsBytes(header), payload, 0);
}

void HostileDevice::SendFrame(const Event& event) {
  const size_t fds = event.size % 20u;
  const uint32_t limit = vfio_user::MaxMessageSize(static_cast<uint32_t>(max_transfer_));
  if (event.data.empty()) {
    // A device that stops reading. In memory there is always room.
    if (!line_.across_socket()) return;
    line_.StopReading();
    unsure_ = broken_ = true;
    return;
  }
  if (fds > kMaxFrameFds) unsure_ = broken_ = true;
  ConstBytes rest = event.data;
  while (!rest.empty() && !broken_ && !unsure_) {
    Header header;
    if (rest.size() < sizeof header) {
      unsure_ = true;
      break;
    }
    Copy(AsWritableBytes(header), rest.first(sizeof header));
    if (header.size < sizeof header || header.size > limit ||
        (!IsReply(header) && !IsCommand(header))) {
      broken_ = true;
    } else if (header.size > rest.size()) {
      unsure_ = true;
    } else if (IsCommand(header)) {
      Expect(header, rest.subspan(sizeof header, header.size - sizeof header));
      rest = rest.subspan(header.size);
    } else if (std::ranges::count(outstanding_, header.message_id) != 0) {
      unsure_ = true;  // It answers a request, maybe as it should be.
    } else {
      broken_ = true;
    }
  }
  own_line().Put(event.data, {}, fds);
}

// What comes from it.

bool HostileDevice::Step() {
  if (!line_.connected()) return false;
  bool more = Receive();
  for (HostileLine* line : {&line_, &twin_}) {
    const bool unsent = !line->sent();
    line->SendSome();
    more = more || (unsent && !line->waits_for_room());
  }
  return more;
}

bool HostileDevice::Receive() {
  if (twin_.connected()) {
    if (const auto frames = twin_.Receive(*twin_reader_)) {
      for (const Frame& frame : *frames) OnDmaReply(frame);
      return true;
    }
  }
  auto frames = line_.Receive(*reader_);
  if (!frames) return false;
  outstanding_.clear();
  for (const Frame& frame : *frames) {
    if (!frame.is_reply() && !frame.no_reply()) outstanding_.push_back(frame.header.message_id);
  }
  for (Frame& frame : *frames) Serve(frame);
  if (late_) answered_[late_->answer].outcome = unsure_ ? Outcome::kUnsure : Outcome::kEnd;
  late_.reset();
  return true;
}

void HostileDevice::Serve(Frame& frame) {
  if (frame.is_reply()) return OnDmaReply(frame);
  // On another line than the answer DMA may be before or behind it: not where that counts.
  const bool moves_windows =
      frame.command() == Command::kDmaMap || frame.command() == Command::kDmaUnmap;
  if (!twin_.connected() || !moves_windows) Release();
  AnswerRequest(frame);
}

void HostileDevice::Expect(const Header& header, ConstBytes payload) {
  const bool reads = header.command == static_cast<uint16_t>(Command::kDmaRead);
  const bool writes = header.command == static_cast<uint16_t>(Command::kDmaWrite);
  Asked asked{.header = header, .access = {}};
  if ((reads || writes) && payload.size() >= sizeof asked.access) {
    Copy(AsWritableBytes(asked.access), payload.first(sizeof asked.access));
    const auto& [iova, count] = asked.access;
    asked.served = count != 0 && count - 1 <= UINT64_MAX - iova && count <= max_transfer_ &&
                   payload.size() - sizeof asked.access == (writes ? count : 0) &&
                   windows_.Allows(iova, count, writes);
  }
  const bool answered = (header.flags & vfio_user::kFlagNoReply) == 0;
  if (answered || asked.served) asked_.push_back(std::move(asked));
}

void HostileDevice::OnHandled(uint64_t iova, uint64_t count, bool writes, int error,
                              ConstBytes data) {
  if (unsure_) return;
  const auto asked =
      std::ranges::find_if(asked_, [](const Asked& one) { return one.served && !one.handled; });
  const Command command = writes ? Command::kDmaWrite : Command::kDmaRead;
  if (asked == asked_.end() || asked->header.command != static_cast<uint16_t>(command) ||
      asked->access.iova != iova || asked->access.count != count) {
    Violation("answered", "the client {} {} bytes at {:#x}, for which its device did not ask",
              writes ? "writes" : "reads", count, iova);
  }
  if ((asked->header.flags & vfio_user::kFlagNoReply) != 0) {
    asked_.erase(asked);
    return;
  }
  asked->handled = true;
  asked->error = error;
  asked->data.assign(data.begin(), data.end());
}

void HostileDevice::OnDmaReply(const Frame& frame) {
  if (unsure_) return;
  if (asked_.empty()) {
    Violation("answered", "the client answers message {:#x}, which waits for no reply",
              frame.header.message_id);
  }
  const Asked asked = std::move(asked_.front());
  asked_.pop_front();
  CheckDmaReply(asked, frame);
}

void HostileDevice::CheckDmaReply(const Asked& asked, const Frame& frame) const {
  const Header& header = frame.header;
  if (header.message_id != asked.header.message_id || header.command != asked.header.command) {
    Violation("answered",
              "the client answers message {:#x} (command {}), {:#x} (command {}) is due",
              header.message_id, header.command, asked.header.message_id, asked.header.command);
  }
  const bool error = (header.flags & vfio_user::kFlagError) != 0;
  const bool due = asked.served && asked.handled && asked.error == 0;
  if (error == due || (asked.served && !asked.handled)) {
    Violation("answered", "the client {} {} bytes at {:#x}, which it must {}",
              error ? "refuses" : "grants", asked.access.count, asked.access.iova,
              asked.served ? "grant" : "refuse");
  }
  if (error) {
    if (header.error == 0 || !frame.payload.empty()) {
      Violation("answered", "the client refuses DMA with errno {} and {} bytes", header.error,
                frame.payload.size());
    }
    return;
  }
  const bool reads = header.command == static_cast<uint16_t>(Command::kDmaRead);
  const ConstBytes access = AsBytes(asked.access);
  const ConstBytes data = reads ? ConstBytes(asked.data) : ConstBytes();
  const bool right = frame.payload.size() == access.size() + data.size() &&
                     std::ranges::equal(frame.payload.first(access.size()), access) &&
                     std::ranges::equal(frame.payload.subspan(access.size()), data);
  if (!right) {
    Violation("answered", "the client answers {} bytes at {:#x} with something else",
              asked.access.count, asked.access.iova);
  }
}

void HostileDevice::CheckAllAnswered() const {
  if (unsure_ || broken_ || asked_.empty()) return;
  Violation("answered", "message {:#x} (command {}) of the device has no reply, and {} more",
            asked_.front().header.message_id, asked_.front().header.command, asked_.size() - 1);
}

// Replies, as they are and spoiled.

std::optional<Event> HostileDevice::NextSpoiling() {
  if (spoilings_.empty()) return std::nullopt;
  const Event event = spoilings_.front();
  spoilings_.pop_front();
  return event;
}

void HostileDevice::Reply(const Frame& request, ConstBytes made, size_t made_fds, int error,
                          UniqueFd own) {
  answered_.push_back({.request = request.header});
  Answered& answer = answered_.back();
  if (request.no_reply()) {
    answer.outcome = Outcome::kPosted;
    return;
  }
  Message message;
  if (error == 0) message.payload.assign(made.begin(), made.end());
  message.fds = error == 0 ? made_fds : 0;
  message.own = std::move(own);
  message.header = error != 0 ? vfio_user::ErrorHeader(request.header, error)
                              : vfio_user::ReplyHeader(request.header, made.size());
  const Event event =
      NextSpoiling().value_or(Event{.what = static_cast<uint8_t>(Spoiling::kOther)});
  const auto how = static_cast<Spoiling>(event.what % static_cast<uint8_t>(Spoiling::kCount));
  Spoil(how, event, request.command(), &message);
  message.as_made =
      error == 0 && message.fds == made_fds && std::ranges::equal(message.payload, made);
  const Outcome none = unsure_ ? Outcome::kUnsure : Outcome::kEnd;
  if (how == Spoiling::kNever) {
    answer.outcome = none;
    return;
  }
  if (how == Spoiling::kLate) {
    if (late_) answered_[late_->answer].outcome = none;
    late_ = Late{.request = {.header = request.header},
                 .message = std::move(message),
                 .answer = answered_.size() - 1};
    return;
  }
  SendReply(request, message, &answer);
  if (how == Spoiling::kTwice) {
    line_.Put(AsBytes(message.header), message.payload, message.fds);
    broken_ = true;
  }
  if (!late_) return;
  Late late = *std::exchange(late_, std::nullopt);
  SendReply(late.request, late.message, &answered_[late.answer]);
}

// What changes the message itself.
void HostileDevice::Spoil(Spoiling how, const Event& event, Command command, Message* message) {
  Header& header = message->header;
  std::vector<std::byte>& payload = message->payload;
  const auto resize = [&](uint64_t size) {
    payload.resize(size);
    header.size = static_cast<uint32_t>(sizeof header + size);
  };
  switch (how) {
    case Spoiling::kError:
      header.flags |= vfio_user::kFlagError;
      header.error = static_cast<uint32_t>(event.value);
      resize(0);
      message->fds = 0;
      return;
    case Spoiling::kShort:
      return resize(payload.size() - std::min<uint64_t>(event.value, payload.size()));
    case Spoiling::kLong:
      resize(payload.size() + event.data.size());
      return Copy(Bytes(payload).last(event.data.size()), event.data);
    case Spoiling::kOther: {
      if (event.data.empty() || (header.flags & vfio_user::kFlagError) != 0) return;
      // The text of VERSION is replaced, what has fixed fields is overwritten.
      const size_t at = std::min<uint64_t>(event.value, payload.size());
      const size_t end = at + event.data.size();
      resize(command == Command::kVersion ? end : std::max(payload.size(), end));
      return Copy(Bytes(payload).subspan(at, event.data.size()), event.data);
    }
    case Spoiling::kWrongId:
      header.message_id = static_cast<uint16_t>(header.message_id + event.value);
      return;
    case Spoiling::kFds:
      message->fds += event.value % 20;
      return;
    case Spoiling::kCommand:
      header.command = static_cast<uint16_t>(event.value);
      return;
    case Spoiling::kSize:
      header.size = static_cast<uint32_t>(event.value);
      return;
    case Spoiling::kFlags:
      header.flags = static_cast<uint32_t>(event.value);
      return;
    default:
      return;
  }
}

void HostileDevice::SendReply(const Frame& request, Message& message, Answered* answer) {
  answer->outcome = Judge(request, message);
  std::erase(outstanding_, request.header.message_id);
  answer->payload = message.payload;
  const uint32_t error = message.header.error;
  answer->error = error == 0 || error > 4095 ? EIO : static_cast<int>(error);
  line_.Put(AsBytes(message.header), message.payload, message.fds, std::move(message.own));
}

Outcome HostileDevice::Judge(const Frame& request, const Message& message) {
  const auto& [header, payload, fds, own, as_made] = message;
  if (unsure_) return Outcome::kUnsure;
  if (broken_) return Outcome::kEnd;
  const auto end = [this] {
    broken_ = true;
    return Outcome::kEnd;
  };
  if (header.size < sizeof header ||
      header.size > vfio_user::MaxMessageSize(static_cast<uint32_t>(max_transfer_)) ||
      (!IsReply(header) && !IsCommand(header))) {
    return end();
  }
  const bool names_another =
      (header.message_id != request.header.message_id &&
       std::ranges::count(outstanding_, header.message_id) != 0) ||
      (late_ && header.message_id == late_->request.header.message_id) ||
      // Of those behind it some may not have come yet.
      (line_.across_socket() && header.message_id != request.header.message_id);
  if (header.size != sizeof header + payload.size() || fds > kMaxFrameFds || names_another) {
    unsure_ = true;
    return Outcome::kUnsure;
  }
  if (IsCommand(header)) {
    // Its order among those of the twin can't be told.
    unsure_ = twin_.connected();
    if (unsure_) return Outcome::kUnsure;
    Expect(header, payload);
    return Outcome::kEnd;  // And no reply comes.
  }
  if (header.message_id != request.header.message_id || header.command != request.header.command) {
    return end();
  }
  if ((header.flags & vfio_user::kFlagError) != 0) return Outcome::kRefused;
  if (fds != 0 && !TakesFds(request.command())) return end();
  return JudgePayload(request, payload, as_made);
}

Outcome HostileDevice::JudgePayload(const Frame& request, ConstBytes payload, bool as_made) const {
  const auto begins_like_request = [&](size_t from, size_t size) {
    return payload.size() >= from + size && request.payload.size() >= from + size &&
           std::ranges::equal(payload.subspan(from, size), request.payload.subspan(from, size));
  };
  switch (request.command()) {
    case Command::kRegionRead:
    case Command::kRegionWrite: {
      // Any data will do, of what was asked for. A late reply's request is gone: it is as made.
      vfio_user::RegionAccess access;
      if (as_made) return Outcome::kAsIs;
      if (!begins_like_request(0, sizeof access)) return Outcome::kEnd;
      Copy(AsWritableBytes(access), payload.first(sizeof access));
      const size_t data = request.command() == Command::kRegionRead ? access.count : 0;
      return payload.size() == sizeof access + data ? Outcome::kAsIs : Outcome::kEnd;
    }
    case Command::kDmaUnmap:
      // Its range; argsz and flags are not looked at.
      return payload.size() == sizeof(vfio_user::DmaUnmap) && begins_like_request(8, 16)
                 ? Outcome::kAsIs
                 : Outcome::kEnd;
    case Command::kRegionWriteMulti: {
      // How many were done.
      if (payload.size() != sizeof(uint64_t)) return Outcome::kEnd;
      const auto done = LoadLe<uint64_t>(payload);
      const auto sent = LoadLe<uint64_t>(request.payload);
      return done > sent ? Outcome::kEnd : done < sent ? Outcome::kRefused : Outcome::kAsIs;
    }
    case Command::kDmaMap:
    case Command::kDeviceSetIrqs:
    case Command::kDeviceReset:
    case Command::kMigDataWrite:
      return payload.empty() ? Outcome::kAsIs : Outcome::kEnd;
    default:
      return as_made ? Outcome::kAsIs : Outcome::kAltered;
  }
}

}  // namespace farside::fuzz
