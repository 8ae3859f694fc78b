#include "fuzz/host/client.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/range.h"
#include "fuzz/host/oracle.h"
#include "fuzz/mutator/server_events.h"
#include "protocol/test_support.h"

namespace farside::fuzz {

using vfio_user::Command;

namespace {

constexpr auto kGuardBytes = [] {
  std::array<std::byte, SharedWindow::kGuard> bytes;
  bytes.fill(std::byte{0xdb});
  return bytes;
}();
static_assert(ProtocolReferee::kMaxWindows == 6);
constexpr std::string_view kCapabilities =
    R"({"capabilities":{"max_msg_fds":16,"max_dma_maps":6,"write_multiple":true,"farside":{"interrupt":true,"clock":true}}})";
// How often a wait may find nothing new before what is missing counts as never coming.
constexpr uint32_t kPatience = 4;
constexpr int kMaxLastSteps = 1024;  // Of a server whose client is gone.
constexpr int kMaxSettleSteps = 64;

}  // namespace

SharedWindow::SharedWindow(uint64_t size)
    : fd_(MakeMemfd("fuzz", size + 2 * kGuard).value()),
      mapping_(Mapping::Map(fd_.get(), 0, size + 2 * kGuard, PROT_READ | PROT_WRITE).value()) {
  Copy({mapping_.data(), kGuard}, kGuardBytes);
  Copy({mapping_.data() + kGuard + size, kGuard}, kGuardBytes);
}

void SharedWindow::CheckGuards() const {
  const auto intact = [](const std::byte* guard) {
    return std::memcmp(guard, kGuardBytes.data(), kGuard) == 0;
  };
  if (!intact(mapping_.data()) || !intact(mapping_.data() + mapping_.size() - kGuard)) {
    Violation("guard", "memory beside a window was written");
  }
}

Client::~Client() = default;

void Client::set_referee(ProtocolReferee& referee) {
  referee_ = &referee;
  for (const int fd : {memory_.fd(), high_memory_.fd()}) referee.Keep(fd);
  for (size_t i = 0; i < kVectors; ++i) referee.Keep(eventfds_.fd(i));
}

bool Client::Connect(std::unique_ptr<Transport> transport, bool hasty) {
  transport_ = std::move(transport);
  if (observer_ != nullptr) observer_->OnConnect();
  reader_ = std::make_unique<vfio_user::FrameReader>(
      vfio_user::MaxMessageSize(vfio_user::kDefaultMaxDataXferSize));
  closed_ = broke_framing_ = lost_track_ = held_ = sent_ = false;
  if (referee_ != nullptr) referee_->Begin();
  last_id_ = 0;  // Made-up frames have ids above 0x8000.
  waiting_.reset();
  waiting_count_ = 0;
  held_dma_.clear();
  windows_.clear();
  Fill(memory_.bytes(), 0);
  Fill(high_memory_.bytes(), 0);
  if (hasty) Call(Command::kDeviceGetInfo, AsBytes(vfio_user::DeviceInfo{.argsz = 16}));
  std::vector<std::byte> version = Pack(vfio_user::Version{.major = 0, .minor = 1});
  const ConstBytes text = std::as_bytes(std::span(kCapabilities));
  version.insert(version.end(), text.begin(), text.end());
  version.push_back(std::byte{0});
  const bool taken = Call(Command::kVersion, version).has_value();
  DisarmAll();  // Until now the server may have signalled for the connection before.
  return taken;
}

void Client::MapMemory(bool by_message) {
  by_message_ = by_message;
  Map(Host::kBase, Host::kSize, 3, !by_message);
  Map(Host::kHighBase, Host::kHighSize, 3, !by_message);
  Wait();
}

void Client::ArmInterrupts() {
  for (const auto index : {vfio_user::IrqIndex::kMsix, vfio_user::IrqIndex::kIntx}) {
    const vfio_user::IrqInfo ask{.argsz = sizeof ask, .index = static_cast<uint32_t>(index)};
    const auto reply = Call(Command::kDeviceGetIrqInfo, AsBytes(ask));
    if (!reply || reply->size() < sizeof ask) continue;
    vfio_user::IrqInfo info;
    Copy(AsWritableBytes(info), ConstBytes(*reply).first(sizeof info));
    if (info.count == 0) continue;
    return SetIrqs({.kind = Kind::kIrqs,
                    .what = static_cast<uint8_t>(index),
                    .size = vfio_user::kIrqDataEventfd | vfio_user::kIrqActionTrigger,
                    .value = std::min<uint64_t>(info.count, kDriverVectors)});
  }
}

void Client::Disconnect() {
  if (observer_ != nullptr && transport_ != nullptr) observer_->OnDisconnect(closed_);
  transport_.reset();
  waiting_.reset();
  waiting_count_ = 0;
  held_dma_.clear();
  held_ = false;
  // What was under way may still be written and signalled until the server has seen the end.
  for (int step = 0; step < kMaxLastSteps && pump_.Step(); ++step) {
  }
}

void Client::DisarmAll() {
  for (Vector& vector : vectors_) vector.armed = false;
  eventfds_.Take();
}

uint16_t Client::Send(Command command, ConstBytes payload, uint32_t flags,
                      std::span<const int> fds) {
  const uint16_t id = ++last_id_;
  const vfio_user::Header header = vfio_user::CommandHeader(id, command, payload.size(), flags);
  std::vector<std::byte> message = Pack(header);
  message.insert(message.end(), payload.begin(), payload.end());
  BeginCommand(header, payload, fds);
  SendBytes(message, fds);
  return id;
}

// It counts as sent before it is, since it may be answered within.
void Client::BeginCommand(const vfio_user::Header& header, ConstBytes payload,
                          std::span<const int> fds) {
  last_sent_ = header.message_id;
  if ((header.flags & vfio_user::kFlagNoReply) == 0 && !waiting_[header.message_id]) {
    waiting_.set(header.message_id);
    ++waiting_count_;
  }
  if (referee_ != nullptr && !broke_framing_) referee_->OnCommand(header, payload, fds);
}

void Client::SendBytes(ConstBytes bytes, std::span<const int> fds) {
  const bool goes = !bytes.empty() && transport_ != nullptr && !closed_;
  if (observer_ != nullptr && goes) observer_->OnSend(bytes, fds);
  uint32_t idle = 0;
  while (!bytes.empty() && transport_ != nullptr && !closed_) {
    const ssize_t sent = transport_->Send(bytes, fds);
    if (sent > 0) {
      sent_ = true;
      bytes = bytes.subspan(static_cast<size_t>(sent));
      fds = {};
      idle = 0;
    } else if (sent == -EAGAIN) {
      // The server may wait for this end to read.
      const bool came = Receive();
      if (!pump_.Step() && !came && ++idle > kPatience) {
        Violation("answered", "the server takes no more bytes and sends none");
      }
    } else {
      closed_ = true;
    }
  }
}

std::optional<std::vector<std::byte>> Client::Call(Command command, ConstBytes payload,
                                                   std::span<const int> fds) {
  wanted_payload_.reset();
  wanted_ = static_cast<uint16_t>(last_id_ + 1);
  const uint16_t id = Send(command, payload, 0, fds);
  Wait(id);
  wanted_.reset();
  return std::exchange(wanted_payload_, std::nullopt);
}

void Client::Wait(std::optional<uint16_t> id) {
  uint32_t idle = 0;
  while (transport_ != nullptr && !closed_) {
    if (id ? !waiting_[*id] : waiting_count_ == 0) {
      // Whatever else there is by now; of a server far away the next wait brings it.
      if (pump_.far()) return;
      pump_.Step();
      while (Receive()) {
      }
      return;
    }
    const bool more = pump_.Step();
    const bool came = Receive();
    if (more || came) {
      idle = 0;
      continue;
    }
    // What waits for held DMA, or for bytes that were promised, is not to be answered.
    if (!held_dma_.empty() || broke_framing_ || pump_.holds_up()) return;
    if (++idle < kPatience) continue;
    Violation("answered", "{} requests have no reply, and none will come", waiting_count_);
  }
}

bool Client::Receive() {
  if (transport_ == nullptr || closed_) return false;
  const auto filled = reader_->Fill(*transport_);
  if (!filled || *filled == vfio_user::FrameReader::Status::kEnd) {
    closed_ = true;
    return false;
  }
  if (*filled == vfio_user::FrameReader::Status::kAgain) return false;
  counts_.round_trips += std::exchange(sent_, false);
  for (;;) {
    auto frame = reader_->Next();
    if (!frame) Violation("framing", "the server sent no message: {}", frame.error().message);
    if (!*frame) return true;
    OnFrame(**frame);
    if (transport_ == nullptr || closed_) return true;
  }
}

void Client::OnFrame(const vfio_user::Frame& frame) {
  if (observer_ != nullptr) observer_->OnReceive(AsBytes(frame.header), frame.payload);
  if (frame.is_reply()) return OnReply(frame);
  switch (static_cast<uint16_t>(frame.command())) {
    case static_cast<uint16_t>(Command::kDmaRead):
    case static_cast<uint16_t>(Command::kDmaWrite):
      return OnDma(frame);
    case static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt):
      ++counts_.interrupts;
      return;
    default:
      Violation("framing", "the server sent command {}, which is none of a server's",
                frame.header.command);
  }
}

void Client::OnReply(const vfio_user::Frame& frame) {
  ++counts_.replies;
  const uint16_t id = frame.header.message_id;
  if (broke_framing_) return;
  if (!waiting_[id]) {
    Violation("answered", "a reply to message {}, which waits for none", id);
  }
  waiting_.reset(id);
  --waiting_count_;
  const bool error = (frame.header.flags & vfio_user::kFlagError) != 0;
  if (error && frame.header.error == 0) {
    Violation("framing", "an error reply to message {} has no errno", id);
  }
  if (error && !frame.payload.empty()) {
    Violation("framing", "an error reply to message {} has {} bytes of payload", id,
              frame.payload.size());
  }
  if (referee_ != nullptr) {
    referee_->OnReply(frame);
    const bool resets = frame.command() == Command::kDeviceReset && !error;
    if (resets && id == last_sent_ && pump_.holds_up()) {
      Violation("reset", "RESET is answered while requests of before are in flight");
    }
  }
  if (wanted_ == id && !error) {
    wanted_payload_.emplace(frame.payload.begin(), frame.payload.end());
  }
}

void Client::OnDma(const vfio_user::Frame& frame) {
  vfio_user::DmaAccess access;
  if (frame.payload.size() < sizeof access) {
    Violation("framing", "a DMA request of {} bytes", frame.payload.size());
  }
  Copy(AsWritableBytes(access), frame.payload.first(sizeof access));
  const bool writes = frame.command() == Command::kDmaWrite;
  const uint64_t data = frame.payload.size() - sizeof access;
  if (access.count == 0 || access.count > vfio_user::kDefaultMaxDataXferSize ||
      data != (writes ? access.count : 0)) {
    Violation("framing", "a DMA request for {} bytes has {} of payload", access.count, data);
  }
  // In one window or in several that touch; each must allow it.
  const uint32_t right = writes ? vfio_user::kDmaMapWrite : vfio_user::kDmaMapRead;
  uint64_t left = Wraps(access.iova, access.count) ? 0 : access.count;
  bool allowed = left != 0;
  while (left != 0) {
    const uint64_t at = access.iova + (access.count - left);
    const auto window = std::ranges::find_if(windows_, [&](const Window& one) {
      return (one.flags & right) != 0 && at >= one.iova && at - one.iova < one.size;
    });
    allowed = window != windows_.end();
    if (!allowed) break;
    left -= std::min(left, window->size - (at - window->iova));
  }
  if (!allowed && !broke_framing()) {
    Violation("dma-window", "the device {} {} bytes at {:#x}, where no window allows it",
              writes ? "writes" : "reads", access.count, access.iova);
  }
  const auto twin = [&](const HeldDma& held) {
    return held.header.message_id == frame.header.message_id;
  };
  // Where what the client said may have answered one, its id is free again.
  if (!broke_framing_ && std::ranges::any_of(held_dma_, twin)) {
    Violation("answered", "the server has two requests under the id {}", frame.header.message_id);
  }
  if (writes) WriteMemory(access.iova, frame.payload.subspan(sizeof access));
  const HeldDma dma{.header = frame.header, .access = access};
  if (held_) {
    held_dma_.push_back(dma);
    return;
  }
  AnswerDma(dma,
            source_.TakeAnswer(writes ? farside::DmaAccess::kWrite : farside::DmaAccess::kRead));
}

void Client::AnswerDma(const HeldDma& dma, std::optional<Answer> answer) {
  const bool reads = dma.header.command == static_cast<uint16_t>(Command::kDmaRead);
  if (answer && answer->fault) {
    return SendBytes(AsBytes(vfio_user::ErrorHeader(dma.header, EFAULT)), {});
  }
  ++counts_.dma;
  std::vector<std::byte> payload = Pack(dma.access);
  if (reads) {
    payload.resize(sizeof dma.access + dma.access.count);
    const Bytes data = Bytes(payload).subspan(sizeof dma.access);
    const Bytes memory = Memory(dma.access.iova, data.size());
    Copy(data.first(memory.size()), memory);
    if (answer) {
      const size_t size = std::min(data.size(), answer->data.size());
      Copy(data.first(size), answer->data.first(size));
    }
  }
  std::vector<std::byte> message = Pack(vfio_user::ReplyHeader(dma.header, payload.size()));
  message.insert(message.end(), payload.begin(), payload.end());
  SendBytes(message, {});
}

void Client::Release(Answer answer) {
  if (held_dma_.empty()) return;
  const HeldDma dma = held_dma_.front();
  held_dma_.pop_front();
  AnswerDma(dma, answer);
  Wait();
}

// As much of the range as is memory; windows of a session's own all show the same first bytes.
Bytes Client::Memory(uint64_t iova, uint64_t size) const {
  for (const auto& [base, window] :
       {std::pair(Host::kBase, &memory_), std::pair(Host::kHighBase, &high_memory_)}) {
    const Bytes bytes = window->bytes();
    if (iova >= base && iova - base < bytes.size()) {
      return bytes.subspan(iova - base, std::min<uint64_t>(size, bytes.size() - (iova - base)));
    }
  }
  return {};
}

void Client::WriteMemory(uint64_t iova, ConstBytes data) {
  const Bytes memory = Memory(iova, data.size());
  Copy(memory, data.first(memory.size()));
  if (referee_ != nullptr) referee_->OnGuestWrite(iova, data.first(memory.size()));
}

void Client::Map(uint64_t iova, uint64_t size, uint32_t flags, bool by_fd) {
  const bool high = iova >= Host::kHighBase && size <= Host::kHighSize;
  const SharedWindow& memory = high ? high_memory_ : memory_;
  // None shows the guard behind it.
  if (size > Host::kSize && size <= Host::kSize + SharedWindow::kGuard) by_fd = false;
  MapFile({.flags = flags, .offset = by_fd ? memory.offset() : 0, .iova = iova, .size = size},
          by_fd ? memory.fd() : -1);
}

// The device is left with a mapping that has no memory behind it.
void Client::MapCut(uint64_t iova, uint64_t size, uint32_t flags) {
  if (!cut_file_) cut_file_ = MakeMemfd("cut", Host::kSize).value();
  CHECK(ftruncate(cut_file_.get(), Host::kSize) == 0);
  if (observer_ != nullptr) observer_->OnTruncate(cut_file_.get(), Host::kSize);
  MapFile({.flags = flags, .iova = iova, .size = size}, cut_file_.get());
  if (waiting_[last_id_]) return;
  CHECK(ftruncate(cut_file_.get(), 0) == 0);
  if (observer_ != nullptr) observer_->OnTruncate(cut_file_.get(), 0);
}

// By message where `fd` is negative.
void Client::MapFile(vfio_user::DmaMap map, int fd) {
  map.argsz = sizeof map;
  // Noted before it is answered: what it allows may come at once.
  windows_.push_back({.iova = map.iova, .size = map.size, .flags = map.flags});
  const auto reply = Call(Command::kDmaMap, AsBytes(map), std::span(&fd, fd < 0 ? 0 : 1));
  if (!reply && !waiting_[last_id_] && !windows_.empty()) windows_.pop_back();
}

void Client::Unmap(uint64_t iova, uint64_t size) {
  const bool all = size == UINT64_MAX;
  const vfio_user::DmaUnmap unmap{.argsz = sizeof unmap,
                                  .flags = all ? vfio_user::kDmaUnmapAll : 0,
                                  .iova = all ? 0 : iova,
                                  .size = all ? 0 : size};
  if (!Call(Command::kDmaUnmap, AsBytes(unmap))) return;
  std::erase_if(windows_, [&](const Window& window) {
    return all ||
           (window.iova >= iova && window.size <= size && window.iova - iova <= size - window.size);
  });
}

void Client::Access(const Event& event) {
  constexpr uint8_t kPosted = 0x80;
  const bool reads = event.kind == Kind::kRead;
  const size_t size = event.kind == Kind::kWriteData ? event.data.size() : event.size;
  const vfio_user::RegionAccess access{
      .offset = event.at, .region = event.what & 0xfu, .count = static_cast<uint32_t>(size)};
  if (reads) {
    Send(Command::kRegionRead, AsBytes(access));
    return Wait();
  }
  std::vector<std::byte> payload = Pack(access);
  std::vector<std::byte> data(size);
  if (event.kind == Kind::kWriteData) {
    Copy(data, event.data);
  } else if (!data.empty()) {
    StoreLePartial(data, event.value);
  }
  payload.insert(payload.end(), data.begin(), data.end());
  const bool posted = (event.what & kPosted) != 0;
  Send(Command::kRegionWrite, payload, posted ? vfio_user::kFlagNoReply : 0);
  Wait();
}

void Client::SetIrqs(const Event& event) {
  // Flags in `size`: data kind, action; its top bits choose a data kind that none has.
  vfio_user::SetIrqs set{.argsz = sizeof set,
                         .flags = event.size & 0x3fu,
                         .index = event.what,
                         .start = static_cast<uint32_t>(event.at),
                         .count = static_cast<uint32_t>(event.value)};
  const bool by_file = (event.size & kIrqsOther) == kIrqsByFile;
  if ((event.size & kIrqsOther) == kIrqsInband) {
    set.flags = vfio_user::kIrqDataInband | (set.flags & vfio_user::kIrqActionsMask);
  }
  std::vector<std::byte> payload = Pack(set);
  std::vector<int> fds;
  std::vector<size_t> used;
  const size_t some = std::min<uint64_t>(set.count, kVectors / 2);
  if ((set.flags & vfio_user::kIrqDataBool) != 0)
    payload.resize(payload.size() + some, std::byte{1});
  if (by_file) {
    fds.assign(some, memory_.fd());
  } else if ((set.flags & vfio_user::kIrqDataEventfd) != 0) {
    for (size_t i = 0; i < some; ++i) {
      // One that is armed elsewhere is not used again: who signals it could not be told.
      Vector& vector = vectors_[next_vector_];
      if (vector.armed) break;
      fds.push_back(eventfds_.fd(next_vector_));
      used.push_back(next_vector_);
      next_vector_ = (next_vector_ + 1) % kVectors;
    }
  }
  // They may be signalled before the reply comes: what was pending is let out.
  const bool trigger = (set.flags & vfio_user::kIrqActionTrigger) != 0;
  for (const size_t one : used) vectors_[one].armed = trigger;
  const bool done = Call(Command::kDeviceSetIrqs, payload, fds).has_value();
  LookAtVectors();
  for (size_t one = 0; one < kVectors; ++one) {
    Vector& vector = vectors_[one];
    const auto place = std::ranges::find(used, one);
    if (place != used.end()) {
      // Where the reply waits behind something that is held, it may be armed yet.
      vector.armed = (done || waiting_[last_id_]) && trigger;
      vector.index = set.index;
      vector.number = set.start + static_cast<uint32_t>(place - used.begin());
      continue;
    }
    // No data and no vectors take all away; eventfds replace what was there.
    const bool none = set.count == 0 && (set.flags & vfio_user::kIrqDataNone) != 0;
    const bool named =
        vector.index == set.index &&
        (none || (vector.number >= set.start && vector.number - set.start < set.count));
    constexpr uint32_t kReplaces = vfio_user::kIrqDataEventfd | vfio_user::kIrqDataInband;
    const bool replaced = none || (set.flags & kReplaces) != 0;
    if (done && trigger && named && replaced) vector.armed = false;
  }
}

// Of a vector that is armed nowhere there must be no signals.
void Client::LookAtVectors() {
  const auto signals = eventfds_.Take();
  for (size_t i = 0; i < kVectors; ++i) {
    if (signals[i] != 0 && !vectors_[i].armed && !broke_framing()) {
      Violation("interrupt-unarmed", "an eventfd is signalled that no vector has");
    }
    counts_.interrupts += signals[i];
  }
}

// Bytes as they are. In order they are a message whose header says its size; everything else may
// put the stream out of step.
void Client::SendFrame(const Event& event) {
  const std::vector<int> fds(event.size % 20u, memory_.fd());
  vfio_user::Header header;
  const bool whole = event.data.size() >= sizeof header;
  if (whole) Copy(AsWritableBytes(header), event.data.first(sizeof header));
  const uint32_t type = header.flags & vfio_user::kFlagTypeMask;
  const bool typed = type == vfio_user::kFlagTypeCommand || type == vfio_user::kFlagTypeReply;
  const bool fitting = header.size >= sizeof header && header.size <= ProtocolReferee::kMaxMessage;
  // What no server may go on behind.
  const bool fatal = whole && !broke_framing_ && (!typed || !fitting);
  if (fatal || !whole || header.size != event.data.size() || fds.size() > kMaxFrameFds) {
    LoseStep();
  } else if (type == vfio_user::kFlagTypeReply) {
    NoteReply(header);
  } else {
    NoteCommand(header, event.data.subspan(sizeof header), fds);
  }
  SendBytes(event.data, fds);
  Wait();
  if (fatal) ExpectEnd();
}

void Client::NoteCommand(const vfio_user::Header& header, ConstBytes payload,
                         std::span<const int> fds) {
  // The same id in flight twice: which reply is whose can't be told.
  if (waiting_[header.message_id]) return LoseStep();
  if (header.command == static_cast<uint16_t>(Command::kDeviceFeature)) Settle();
  // What it maps or arms is not followed.
  if (header.command == static_cast<uint16_t>(Command::kDmaMap) ||
      header.command == static_cast<uint16_t>(Command::kDeviceSetIrqs)) {
    lost_track_ = true;
  }
  BeginCommand(header, payload, fds);
}

// It answers a request of the server's that is held, if it fits one: the server heeds no other. Of
// a server that may be asking at this very moment nothing can be said.
void Client::NoteReply(const vfio_user::Header& header) {
  const bool settled = referee_ != nullptr && Settle();
  if (!settled) return LoseStep();
  const auto held = std::ranges::find_if(held_dma_, [&](const HeldDma& one) {
    return one.header.message_id == header.message_id && one.header.command == header.command;
  });
  if (held != held_dma_.end()) held_dma_.erase(held);
}

// The stream is out of step, or replies can't be told from each other.
void Client::LoseStep() {
  broke_framing_ = true;
  if (referee_ != nullptr) referee_->Lose();
}

void Client::ExpectEnd() {
  if (referee_ == nullptr || closed_ || !held_dma_.empty() || pump_.holds_up()) return;
  Violation("framing", "the server goes on behind a header that is none");
}

bool Client::Settle() {
  bool more = true;
  for (int step = 0; step < kMaxSettleSteps && more; ++step) {
    more = pump_.Step();
    more = Receive() || more;
  }
  quiet_ = !more && !pump_.holds_up() && held_dma_.empty();
  return !more;
}

void Client::Execute(const Event& event) {
  if (transport_ == nullptr || closed_) return;
  switch (event.kind) {
    case Kind::kRead:
    case Kind::kWrite:
    case Kind::kWriteData:
      return Access(event);
    case Kind::kMemory:
      if (observer_ != nullptr) {
        observer_->OnGuestWrite(event.at,
                                event.data.first(Memory(event.at, event.data.size()).size()));
      }
      return WriteMemory(event.at, event.data);
    case Kind::kMap: {
      if ((event.size & kWindowCut) != 0) return MapCut(event.at, event.value, event.size & 3u);
      const bool other = (event.size & kWindowOtherReach) != 0;
      const bool by_fd = (event.size & kWindowByFd) != 0 || (other ? by_message_ : !by_message_);
      return Map(event.at, event.value, event.size & 3u, by_fd);
    }
    case Kind::kUnmap:
      return Unmap(event.at, event.value);
    case Kind::kIrqs:
      return SetIrqs(event);
    case Kind::kReset:
      Send(Command::kDeviceReset, {});
      return Wait();
    case Kind::kClock: {
      const vfio_user::ClockAdvance advance{.time_ns = event.value};
      Send(static_cast<Command>(vfio_user::ExtensionCommand::kClockAdvance), AsBytes(advance));
      return Wait();
    }
    case Kind::kFrame:
      return SendFrame(event);
    case Kind::kAnswer:
      return Release({.data = event.data});
    case Kind::kFault:
      return Release({.fault = true});
    case Kind::kHold:
      held_ = true;
      return;
    default:
      return;
  }
}

void Client::Finish() {
  held_ = false;
  while (!held_dma_.empty()) {
    const HeldDma dma = held_dma_.front();
    held_dma_.pop_front();
    AnswerDma(dma, std::nullopt);
  }
  Wait();
  LookAtVectors();
  if (referee_ != nullptr) referee_->OnEnd();
  memory_.CheckGuards();
  high_memory_.CheckGuards();
}

}  // namespace farside::fuzz
