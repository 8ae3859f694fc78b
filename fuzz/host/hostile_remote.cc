#include "fuzz/host/hostile_remote.h"

#include <algorithm>
#include <bit>

#include "devices/core/pci_registers.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {

using mpqemu::Command;

namespace {

constexpr uint64_t kPage = 4096;

}  // namespace

HostileRemote::HostileRemote() {
  for (size_t i = 0; i < bars_.size(); ++i) bars_[i].resize(kBarSizes[i]);
}

void HostileRemote::Begin() {
  queue_.clear();
  spoilings_.clear();
  const Bytes config(config_);
  Fill(config, 0);
  StoreLe<uint32_t>(config, 0x0012'1000);
  StoreLe<uint32_t>(config.subspan(pci::kBar0), pci::kBarIo);
  config_[pci::kInterruptPin] = std::byte{1};
  for (auto& bar : bars_) std::ranges::fill(bar, std::byte{0x5a});
}

void HostileRemote::Reset() {
  Disconnect();
  reader_ = std::make_unique<mpqemu::FrameReader>(mpqemu::kMaxFrame);
  broken_ = unsure_ = altered_ = false;
}

std::unique_ptr<MemoryTransport> HostileRemote::Connect(bool pieces) {
  Reset();
  return line_.Connect(pieces);
}

UniqueFd HostileRemote::ConnectSocket(bool pieces) {
  Reset();
  return line_.ConnectSocket(pieces);
}

void HostileRemote::Disconnect() {
  line_.Close();
  reader_.reset();
}

void HostileRemote::Queue(const Event& event) {
  (event.kind == Kind::kReply ? spoilings_ : queue_).push_back(event);
}

void HostileRemote::Play(const Event& event) {
  if (event.kind == Kind::kHangUp) {
    line_.HangUp();
    broken_ = true;
  } else if (event.kind == Kind::kDeviceFrame && event.data.empty() && line_.across_socket()) {
    // It stops reading. In memory there is always room.
    line_.StopReading();
    unsure_ = broken_ = true;
  } else if (event.kind == Kind::kDeviceFrame && !event.data.empty()) {
    // Whatever it is, it may be taken for a reply.
    unsure_ = true;
    line_.Put(event.data, {}, event.size % 20u);
  }
}

bool HostileRemote::Step() {
  if (!line_.connected()) return false;
  const auto frames = line_.Receive(*reader_);
  if (frames) {
    // Over a socket others may be on their way.
    const size_t last = line_.across_socket() ? frames->size() : frames->size() - 1;
    for (size_t i = 0; i < frames->size(); ++i) Serve((*frames)[i], i == last);
  }
  const bool unsent = !line_.sent();
  line_.SendSome();
  return frames.has_value() || (unsent && !line_.waits_for_room());
}

void HostileRemote::Serve(const mpqemu::Frame& frame, bool last) {
  while (!queue_.empty()) {
    const Event event = queue_.front();
    queue_.pop_front();
    Play(event);
  }
  const auto request = mpqemu::DecodeRequest(frame);
  if (!request) Violation("framing", "the client sends no request: {}", request.error().message);
  uint64_t value = 0;
  if (const auto* table = std::get_if<mpqemu::SyncSysmemRequest>(&*request)) {
    return CheckMemory(*table, frame.fds.size());
  } else if (std::holds_alternative<mpqemu::SetIrqfdRequest>(*request)) {
    return;
  } else if (std::holds_alternative<mpqemu::ResetRequest>(*request)) {
    return Reply({}, last);
  } else if (const auto* read = std::get_if<mpqemu::ConfigReadRequest>(&*request)) {
    value = ReadConfig(*read);
  } else if (const auto* write = std::get_if<mpqemu::ConfigWriteRequest>(&*request)) {
    WriteConfig(*write);
  } else if (const auto* in = std::get_if<mpqemu::BarReadRequest>(&*request)) {
    const Bytes at = Locate(*in);
    if (!at.empty()) value = LoadLePartial(at);
  } else if (const auto* out = std::get_if<mpqemu::BarWriteRequest>(&*request)) {
    const Bytes at = Locate(*out);
    if (!at.empty()) StoreLePartial(at, out->value);
  }
  Reply(AsBytes(value), last);
}

uint64_t HostileRemote::ReadConfig(const mpqemu::ConfigAccess& access) const {
  const bool lawful = access.size == 1 || access.size == 2 || access.size == 4;
  if (!lawful || access.address > mpqemu::kConfigSize - 4) {
    Violation("framing",
              "the client accesses {} bytes of configuration space at {:#x}, where "
              "QEMU's remote ends",
              access.size, access.address);
  }
  return LoadLePartial(
      ConstBytes(config_).subspan(access.address, static_cast<size_t>(access.size)));
}

void HostileRemote::WriteConfig(const mpqemu::ConfigAccess& access) {
  ReadConfig(access);  // The same checks.
  const Bytes config(config_);
  StoreLePartial(config.subspan(access.address, static_cast<size_t>(access.size)), access.value);
  StoreLe<uint32_t>(config, 0x0012'1000);
  for (uint32_t i = 0; i < 6; ++i) {
    const Bytes bar = config.subspan(pci::kBar0 + 4 * i);
    const uint32_t mask = i < kBarSizes.size() ? ~(kBarSizes[i] - 1) : 0;
    StoreLe(bar, (LoadLe<uint32_t>(bar) & mask) | (i == 0 ? pci::kBarIo : 0));
  }
}

// The bytes of an access; empty where no BAR decodes it.
Bytes HostileRemote::Locate(const mpqemu::BarAccess& access) {
  if (!std::has_single_bit(access.size) || access.size > 8) {
    Violation("framing", "the client accesses {} bytes of a BAR", access.size);
  }
  const ConstBytes config(config_);
  const auto command = LoadLe<uint16_t>(config.subspan(pci::kCommand));
  for (uint32_t i = 0; i < kBarSizes.size(); ++i) {
    const bool io = i == 0;
    const uint64_t base = LoadLe<uint32_t>(config.subspan(pci::kBar0 + 4 * i)) &
                          ~(io ? pci::kBarIoFlags : pci::kBarMemoryFlags);
    const bool decoded = (command & (io ? pci::kCommandIo : pci::kCommandMemory)) != 0;
    if (!decoded || base == 0 || io == (access.memory != 0) || access.address < base) continue;
    if (!InRange(access.address - base, access.size, kBarSizes[i])) continue;
    return Bytes(bars_[i]).subspan(access.address - base, access.size);
  }
  if (!altered_ && !unsure_) {
    Violation("framing", "the client accesses {:#x}, where no BAR is and QEMU's remote ends",
              access.address);
  }
  return {};
}

void HostileRemote::CheckMemory(const mpqemu::SyncSysmem& table, size_t fds) const {
  bool right = fds <= mpqemu::kQemuMaxRegions;
  for (size_t i = 0; i < fds && right; ++i) {
    right = table.sizes[i] != 0 && table.offsets[i] % kPage == 0 &&
            table.sizes[i] - 1 <= UINT64_MAX - table.gpas[i];
    for (size_t j = 0; j < i && right; ++j) {
      right = table.gpas[i] - table.gpas[j] >= table.sizes[j] &&
              table.gpas[j] - table.gpas[i] >= table.sizes[i];
    }
  }
  if (!right) Violation("framing", "the client sends {} regions that QEMU's remote ends at", fds);
}

// Replies.

void HostileRemote::Reply(ConstBytes made, bool last) {
  answered_.push_back({});
  mpqemu::Header header = mpqemu::MakeHeader(Command::kRet, made.size());
  std::vector<std::byte> payload(made.begin(), made.end());
  size_t fds = 0;
  bool send = true;
  if (!spoilings_.empty()) {
    const Event event = spoilings_.front();
    spoilings_.pop_front();
    send = Alter(event, header, payload, fds, last);
  }
  Answered& answer = answered_.back();
  if (send) {
    const bool known = header.command >= 0 && header.command < mpqemu::kCommandCount;
    if (!known || header.size > mpqemu::kMaxPayload || fds > kMaxFrameFds) {
      broken_ = true;
    } else if (header.size != payload.size()) {
      unsure_ = true;
    } else if (Command{header.command} != Command::kRet ||
               (payload.size() != 0 && payload.size() != sizeof(uint64_t))) {
      broken_ = true;
    }
    answer.value = payload.size() == sizeof(uint64_t) ? LoadLe<uint64_t>(payload) : 0;
    altered_ = altered_ || !std::ranges::equal(payload, made);
    line_.Put(AsBytes(header), payload, fds);
  }
  if (broken_) answer.outcome = Outcome::kEnd;
  if (unsure_) answer.outcome = Outcome::kUnsure;
  if (!send && !unsure_) {
    // If another is in flight, that one's reply is taken for this one's.
    answer.outcome = last ? Outcome::kEnd : Outcome::kUnsure;
    unsure_ = true;
  }
}

// False if there is no reply at all.
bool HostileRemote::Alter(const Event& event, mpqemu::Header& header,
                          std::vector<std::byte>& payload, size_t& fds, bool last) {
  switch (static_cast<Spoiling>(event.what % static_cast<uint8_t>(Spoiling::kCount))) {
    case Spoiling::kShort:
      payload.resize(payload.size() - std::min<uint64_t>(event.value, payload.size()));
      header.size = payload.size();
      return true;
    case Spoiling::kLong:
      payload.insert(payload.end(), event.data.begin(), event.data.end());
      header.size = payload.size();
      return true;
    case Spoiling::kOther: {
      const size_t size = std::min(payload.size(), event.data.size());
      Copy(Bytes(payload).first(size), event.data.first(size));
      return true;
    }
    case Spoiling::kTwice:
      line_.Put(AsBytes(header), payload, 0);
      unsure_ = true;
      return true;
    case Spoiling::kNever:
    case Spoiling::kLate:
      if (!last) unsure_ = true;
      return false;
    case Spoiling::kFds:
      fds = event.value % 20;
      // What comes with too many is handled first.
      if (fds > kMaxFrameFds) unsure_ = true;
      return true;
    case Spoiling::kCommand:
      header.command = static_cast<int32_t>(event.value);
      return true;
    case Spoiling::kSize:
      header.size = event.value;
      return true;
    case Spoiling::kFlags:
      header.padding = static_cast<uint32_t>(event.value);
      return true;
    default:
      return true;
  }
}

}  // namespace farside::fuzz
