#include "fuzz/host/mpqemu_proxy.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {

using mpqemu::Command;

namespace {

constexpr uint32_t kConfig = 7;
constexpr uint32_t kBars = 6;
constexpr uint32_t kPatience = 4;
// Each four bytes are a message, between which a script may go on.
constexpr size_t kMaxWriteData = 256;

// What a message in order looks like; nothing else has the payload or the fds.
bool InOrder(const mpqemu::Header& header, size_t fds) {
  switch (Command{header.command}) {
    case Command::kSyncSysmem:
      return header.size == sizeof(mpqemu::SyncSysmem) && fds >= 1 && fds <= mpqemu::kMaxRegions;
    case Command::kPciCfgRead:
    case Command::kPciCfgWrite:
      return header.size == sizeof(mpqemu::ConfigAccess);
    case Command::kBarRead:
    case Command::kBarWrite:
      return header.size == sizeof(mpqemu::BarAccess);
    case Command::kSetIrqfd:
      return fds == 2;
    case Command::kDeviceReset:
      return true;
    default:
      return false;
  }
}

bool WantsReply(Command command) {
  return command != Command::kSyncSysmem && command != Command::kSetIrqfd;
}

}  // namespace

MpqemuProxy::MpqemuProxy(Pump& pump, const BarPlaces& places)
    : pump_(pump), places_(places), short_file_(MakeMemfd("short", 4096).value()) {
  int ends[2];
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  pipe_.reset(ends[0]);
  close(ends[1]);
}

void MpqemuProxy::Connect(std::unique_ptr<Transport> transport) {
  transport_ = std::move(transport);
  if (observer_ != nullptr) observer_->OnConnect();
  reader_ = std::make_unique<mpqemu::FrameReader>(mpqemu::kMaxFrame);
  closed_ = broken_ = unsure_ = false;
  due_.clear();
  armed_ = kEventfds;
  interrupts_ = 0;
  eventfds_.Take();
  Fill(memory_.bytes(), 0);
  Fill(high_memory_.bytes(), 0);
  windows_ = {{.gpa = Host::kBase, .size = Host::kSize, .offset = memory_.offset()},
              {.gpa = Host::kHighBase,
               .size = Host::kHighSize,
               .offset = high_memory_.offset(),
               .file = File::kHighMemory}};
  SendWindows();
}

void MpqemuProxy::Disconnect() {
  if (observer_ != nullptr && transport_ != nullptr) observer_->OnDisconnect(closed_);
  transport_.reset();
  reader_.reset();
  due_.clear();
}

void MpqemuProxy::Send(Command command, ConstBytes payload, std::span<const int> fds, Due due) {
  const mpqemu::Header header = mpqemu::MakeHeader(command, payload.size());
  const ConstBytes head = AsBytes(header);
  std::vector<std::byte> message(head.begin(), head.end());
  message.insert(message.end(), payload.begin(), payload.end());
  due.command = command;
  if (WantsReply(command)) due_.push_back(due);
  SendBytes(message, fds);
}

void MpqemuProxy::SendBytes(ConstBytes bytes, std::span<const int> fds) {
  if (transport_ == nullptr || closed_ || bytes.empty()) return;
  if (observer_ != nullptr) observer_->OnSend(bytes, fds);
  // Memory takes all at once.
  if (transport_->Send(bytes, fds) < 0) closed_ = true;
  Wait();
}

// Until all is answered, not until the device has nothing more to do: its script may be endless.
void MpqemuProxy::Wait() {
  for (uint32_t idle = 0; idle < kPatience && !closed_;) {
    const bool more = pump_.Step();
    const bool came = Receive();
    if (due_.empty() && !broken_ && !unsure_) break;
    // Where the stream may be in the middle of a message, no reply has to come.
    const bool waits = !due_.empty() && !unsure_;
    idle = (more && waits) || came ? 0 : idle + 1;
  }
  while (Receive()) {
  }
  if (unsure_) return;
  if (closed_ && !broken_) Violation("answered", "the remote closes the channel without a reason");
  if (!closed_ && broken_) Violation("answered", "the remote goes on behind a broken message");
  if (!closed_ && !due_.empty()) {
    Violation("answered", "{} requests have no reply, the first is {}", due_.size(),
              mpqemu::CommandName(due_.front().command));
  }
}

bool MpqemuProxy::Receive() {
  if (transport_ == nullptr || closed_) return false;
  const auto filled = reader_->Fill(*transport_);
  if (!filled || *filled == FillStatus::kEnd) {
    closed_ = true;
    return false;
  }
  if (*filled == FillStatus::kAgain) return false;
  for (;;) {
    const auto frame = reader_->Next();
    if (!frame) Violation("framing", "the remote sent no message: {}", frame.error().message);
    if (!*frame) return true;
    OnReply(**frame);
  }
}

void MpqemuProxy::OnReply(const mpqemu::Frame& frame) {
  if (observer_ != nullptr) observer_->OnReceive(AsBytes(frame.header), frame.payload);
  if (frame.command() != Command::kRet || !frame.fds.empty()) {
    Violation("framing", "the remote sent {}", mpqemu::CommandName(frame.command()));
  }
  if (unsure_) return;
  if (due_.empty()) Violation("answered", "a reply that nothing asked for");
  const Due due = due_.front();
  due_.pop_front();
  const size_t size = due.command == Command::kDeviceReset ? 0 : sizeof(uint64_t);
  if (frame.payload.size() != size) {
    Violation("answered", "a reply to {} of {} bytes", mpqemu::CommandName(due.command),
              frame.payload.size());
  }
  if (size == 0) return;
  const auto value = LoadLe<uint64_t>(frame.payload);
  const bool writes = due.command == Command::kBarWrite || due.command == Command::kPciCfgWrite;
  // Of an access that has a size, no more bits than it has.
  const bool fits = due.size == 0 || due.size >= 8 || value >> (8 * due.size) == 0;
  if (writes ? value != 0 : !fits) {
    Violation("answered", "a reply to {} of {} bytes says {:#x}", mpqemu::CommandName(due.command),
              due.size, value);
  }
  if (due.value && value != *due.value) {
    Violation("reply-content", "a BAR_READ where nothing is says {:#x}, not {:#x}", value,
              *due.value);
  }
}

std::optional<uint64_t> MpqemuProxy::ReadsAs(const mpqemu::BarAccess& access) const {
  const bool lawful = std::has_single_bit(access.size) && access.size <= 8;
  if (!lawful || access.size == 8) {
    const bool there = lawful && places_.Decodes(access.address, access.size, access.memory != 0);
    return there ? std::nullopt : std::optional(~uint64_t{0});
  }
  if (places_.Decodes(access.address, access.size, access.memory != 0)) return std::nullopt;
  return (uint64_t{1} << (8 * access.size)) - 1;
}

void MpqemuProxy::Access(uint32_t region, uint64_t offset, uint32_t size, uint64_t value,
                         bool writes) {
  if (region == kConfig) {
    const mpqemu::ConfigAccess access{.address = static_cast<uint32_t>(offset),
                                      .value = writes ? static_cast<uint32_t>(value) : 0,
                                      .size = static_cast<int32_t>(size)};
    return Send(writes ? Command::kPciCfgWrite : Command::kPciCfgRead, AsBytes(access), {},
                {.size = size <= 4 ? size : 0});
  }
  const BarPlaces::Place place = places_.BarPlace(region % kBars);
  const mpqemu::BarAccess access{.address = place.address + offset,
                                 .value = writes ? value : 0,
                                 .size = size,
                                 .memory = place.memory ? uint8_t{1} : uint8_t{0}};
  const bool lawful = size == 1 || size == 2 || size == 4;
  if (writes) return Send(Command::kBarWrite, AsBytes(access));
  Send(Command::kBarRead, AsBytes(access), {},
       {.size = lawful ? size : 0, .value = ReadsAs(access)});
}

int MpqemuProxy::FdOf(File file) const {
  switch (file) {
    case File::kMemory:
      return memory_.fd();
    case File::kHighMemory:
      return high_memory_.fd();
    case File::kEventfd:
      return eventfds_.fd(0);
    case File::kPipe:
      return pipe_.get();
    case File::kShort:
      return short_file_.get();
  }
  return -1;
}

void MpqemuProxy::SendWindows() {
  mpqemu::SyncSysmem table;
  std::vector<int> fds;
  for (const Window& window : windows_) {
    const size_t i = fds.size();
    table.gpas[i] = window.gpa;
    table.sizes[i] = window.size;
    table.offsets[i] = window.offset;
    fds.push_back(FdOf(window.file));
  }
  if (fds.empty()) return;  // There is no message without a region.
  Send(Command::kSyncSysmem, AsBytes(table), fds);
}

// Bits of `flags` beyond the rights, which mpqemu has not: whose file it is, and where in it.
void MpqemuProxy::Map(const Event& event) {
  constexpr File kFiles[] = {File::kMemory, File::kMemory,  File::kMemory, File::kHighMemory,
                             File::kPipe,   File::kEventfd, File::kShort,  File::kMemory};
  const File file = kFiles[event.size >> 2 & 7];
  const uint64_t begin = file == File::kMemory || file == File::kHighMemory ? memory_.offset() : 0;
  // Never beyond what may be written: the pages behind are the guards.
  const uint64_t most = file == File::kHighMemory ? Host::kHighSize : Host::kSize;
  const uint64_t size = begin != 0 ? std::min(event.value, most) : event.value;
  const uint64_t offset = (event.size & 0x20) != 0 ? event.at : begin;
  if (windows_.size() == mpqemu::kMaxRegions) windows_.pop_back();
  windows_.push_back(
      {.gpa = event.at, .size = size, .offset = begin != 0 ? begin : offset, .file = file});
  SendWindows();
}

void MpqemuProxy::SetIrqfd(const Event& event) {
  const size_t next = (armed_ + 1) % (kEventfds - 1);
  const bool bad = event.size % 8 == 0;
  const int fds[] = {bad ? pipe_.get() : eventfds_.fd(next), eventfds_.fd(kEventfds - 1)};
  LookAtEventfds();
  Send(Command::kSetIrqfd, {}, fds);
  // A bad one may leave the old one in place, which then is signalled as before.
  if (!bad) armed_ = next;
}

void MpqemuProxy::LookAtEventfds() {
  const auto signals = eventfds_.Take();
  for (size_t i = 0; i + 1 < kEventfds; ++i) {
    if (signals[i] != 0 && i != armed_ && !broken_ && !unsure_) {
      Violation("interrupt-unarmed", "an eventfd is signalled that was replaced");
    }
    interrupts_ += signals[i];
  }
}

void MpqemuProxy::WriteMemory(uint64_t iova, ConstBytes data) {
  for (const auto& [base, window] :
       {std::pair(Host::kBase, &memory_), std::pair(Host::kHighBase, &high_memory_)}) {
    const Bytes bytes = window->bytes();
    if (iova < base || iova - base >= bytes.size()) continue;
    const size_t size = std::min<uint64_t>(data.size(), bytes.size() - (iova - base));
    if (observer_ != nullptr) observer_->OnGuestWrite(iova, data.first(size));
    Copy(bytes.subspan(iova - base, size), data.first(size));
  }
}

// Bytes as they are; several messages, if they are.
void MpqemuProxy::SendFrame(const Event& event) {
  const size_t count = event.size % 20u;
  std::vector<int> fds;
  for (size_t i = 0; i < count; ++i) {
    fds.push_back(event.what == 0 && i % 2 == 0 ? memory_.fd() : short_file_.get());
  }
  ConstBytes rest = event.data;
  if (count > kMaxFrameFds) unsure_ = true;
  // The fds are the last message's, where there are several.
  while (!rest.empty() && !broken_ && !unsure_) {
    mpqemu::Header header;
    if (rest.size() < sizeof header) {
      unsure_ = true;
      break;
    }
    Copy(AsWritableBytes(header), rest.first(sizeof header));
    if (header.command < 0 || header.command >= mpqemu::kCommandCount ||
        header.size > mpqemu::kMaxPayload) {
      broken_ = true;
      break;
    }
    const size_t size = sizeof header + header.size;
    if (size > rest.size()) {
      unsure_ = true;
      break;
    }
    const bool last = size == rest.size();
    // Memory and interrupts that it changes are not followed.
    const Command command{header.command};
    if (!InOrder(header, last ? count : 0)) {
      broken_ = true;
    } else if (WantsReply(command)) {
      due_.push_back({.command = command});
      // Where several messages come, those before may move the BARs.
      const bool alone = due_.size() == 1 && last;
      if (alone && command == Command::kBarRead) {
        mpqemu::BarAccess access;
        Copy(AsWritableBytes(access), rest.subspan(sizeof header, sizeof access));
        due_.back().value = ReadsAs(access);
      }
    } else {
      unsure_ = true;
    }
    rest = rest.subspan(size);
  }
  SendBytes(event.data, fds);
}

void MpqemuProxy::Execute(const Event& event) {
  if (transport_ == nullptr || closed_) return;
  const uint32_t region = event.what & 0xfu;
  switch (event.kind) {
    case Kind::kRead:
      return Access(region, event.at, event.size, 0, false);
    case Kind::kWrite:
      return Access(region, event.at, event.size, event.value, true);
    case Kind::kWriteData:
      for (size_t at = 0; at < std::min(event.data.size(), kMaxWriteData); at += 4) {
        const ConstBytes part = event.data.subspan(at, std::min<size_t>(4, event.data.size() - at));
        Access(region, event.at + at, 4, LoadLePartial(part), true);
      }
      return;
    case Kind::kMemory:
      return WriteMemory(event.at, event.data);
    case Kind::kMap:
      return Map(event);
    case Kind::kUnmap:
      std::erase_if(windows_, [&](const Window& window) {
        return event.value == ~uint64_t{0} || window.gpa - event.at < event.value;
      });
      return SendWindows();
    case Kind::kIrqs:
      return SetIrqfd(event);
    case Kind::kReset:
      return Send(Command::kDeviceReset, {});
    case Kind::kFrame:
      return SendFrame(event);
    default:
      return;
  }
}

void MpqemuProxy::Finish() {
  if (transport_ != nullptr && !closed_) Wait();
  LookAtEventfds();
  memory_.CheckGuards();
  high_memory_.CheckGuards();
}

}  // namespace farside::fuzz
