#include "protocol/mpqemu_client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace farside::mpqemu {

using namespace vfio_user;  // NOLINT: what a DeviceClient says is spelled as vfio-user has it.

namespace {

constexpr uint32_t kConfigRegion = 7;
constexpr uint32_t kRegions = 9;
constexpr uint32_t kIrqIndexes = 5;

// Offsets and bits of PCI configuration space (PCI Local Bus 3.0, section 6.1).
constexpr uint32_t kCommandAt = 0x04;
constexpr uint32_t kBarsAt = 0x10;
constexpr uint32_t kBarsEnd = 0x28;
constexpr uint32_t kInterruptPinAt = 0x3d;
constexpr uint32_t kDecodeIo = 1;
constexpr uint32_t kDecodeMemory = 2;
constexpr uint32_t kBarIo = 1;
constexpr uint32_t kBar64 = 4;
constexpr uint32_t kIoFlags = 0x3;
constexpr uint32_t kMemoryFlags = 0xf;
// QEMU's remote checks this dword's worth of room whatever the size of the access is, and ends.
constexpr uint32_t kLastDword = kConfigSize - 4;

// Where the region lies that stands for no memory: above all guests.
constexpr uint64_t kNowhere = uint64_t{1} << 46;
constexpr uint64_t kPage = 4096;

tl::unexpected<Error> NotSpoken(std::string_view what) {
  return FailWith(ENOTSUP, "mpqemu has no {}: use a server that speaks vfio-user", what);
}

// The largest lawful access at `offset` of at most `left` bytes and `max`.
uint64_t Piece(uint64_t offset, uint64_t left, uint64_t max) {
  if (std::has_single_bit(left) && left <= max) return left;
  uint64_t size = std::min(std::bit_floor(left), max);
  while (offset % size != 0) size /= 2;
  return size;
}

}  // namespace

MpqemuClient::MpqemuClient(std::unique_ptr<Transport> transport, ClientOptions options)
    : options_(std::move(options)), transport_(std::move(transport)) {}

MpqemuClient::~MpqemuClient() {
  {
    Lock lock(mutex_);
    ending_ = true;
  }
  end_.notify_all();
  if (watchdog_.joinable()) watchdog_.join();
}

void MpqemuClient::RunWatchdog() {
  Lock lock(mutex_);
  while (!ending_) {
    end_.wait_for(lock, std::chrono::nanoseconds(options_.timeout_ns / 8));
    if (blocked_until_ns_ == 0 || clock_.now_ns() < blocked_until_ns_) continue;
    blocked_until_ns_ = 0;
    Die({fmt::format("the remote did not answer within {} ms", options_.timeout_ns / 1'000'000),
         ETIMEDOUT});
  }
}

Result<std::unique_ptr<MpqemuClient>> MpqemuClient::Attach(UniqueFd socket, ClientOptions options) {
  auto transport = SocketTransport::Create(std::move(socket));
  if (!transport) return tl::unexpected(transport.error());
  (*transport)->set_receive_waits(true);
  std::unique_ptr<MpqemuClient> client(new MpqemuClient(std::move(*transport), std::move(options)));
  client->watchdog_ = std::thread([raw = client.get()] { raw->RunWatchdog(); });
  return SetUp(std::move(client));
}

Result<std::unique_ptr<MpqemuClient>> MpqemuClient::Attach(std::unique_ptr<Transport> transport,
                                                           ClientOptions options) {
  CHECK(options.pump != nullptr);
  return SetUp(
      std::unique_ptr<MpqemuClient>(new MpqemuClient(std::move(transport), std::move(options))));
}

Result<std::unique_ptr<MpqemuClient>> MpqemuClient::SetUp(std::unique_ptr<MpqemuClient> client) {
  for (UniqueFd* fd : {&client->resample_, &client->unheard_}) {
    auto made = MakeEventfd();
    if (!made) return tl::unexpected(made.error());
    *fd = std::move(*made);
  }
  auto nowhere = MakeMemfd("nowhere", kPage);
  if (!nowhere) return tl::unexpected(nowhere.error());
  client->nowhere_ = std::move(*nowhere);

  const auto vendor = client->ReadConfigWord(0, 2);
  if (!vendor) return tl::unexpected(vendor.error());
  if (*vendor == 0xffff) return Fail("the remote has no device: its vendor id reads as ones");
  std::this_thread::sleep_for(std::chrono::nanoseconds(client->options_.settle_ns));
  const auto pin = client->ReadConfigWord(kInterruptPinAt, 1);
  if (!pin) return tl::unexpected(pin.error());
  client->has_intx_ = *pin != 0;
  if (auto sized = client->SizeBars(); !sized) return tl::unexpected(sized.error());
  if (auto placed = client->PlaceBars(); !placed) return tl::unexpected(placed.error());
  return client;
}

// The wire.

tl::unexpected<Error> MpqemuClient::Die(Error error) {
  if (!dead_) dead_ = std::move(error);
  if (transport_->fd() >= 0) shutdown(transport_->fd(), SHUT_RDWR);
  received_.notify_all();
  return tl::unexpected(*dead_);
}

bool MpqemuClient::alive() const {
  Lock lock(mutex_);
  return !dead_;
}

Result<void> MpqemuClient::FlushAll() {
  uint64_t deadline_ns = 0;  // Of the whole, once it has to wait.
  for (;;) {
    const auto flushed = writer_.Flush(*transport_);
    if (!flushed) return Die({"the remote is gone: " + flushed.error().message, EPIPE});
    if (*flushed) return {};
    pollfd room{transport_->fd(), POLLOUT, 0};
    const uint64_t now_ns = clock_.now_ns();
    if (deadline_ns == 0) deadline_ns = now_ns + options_.timeout_ns;
    const uint64_t left_ns = deadline_ns - std::min(deadline_ns, now_ns);
    // The lock is kept: nobody else could send either.
    if (left_ns == 0 || poll(&room, 1, static_cast<int>(left_ns / 1'000'000) + 1) == 0) {
      return Die({"the remote does not read its socket", ETIMEDOUT});
    }
    if (dead_) return tl::unexpected(*dead_);
  }
}

Result<void> MpqemuClient::Send(Lock& lock, Command command, ConstBytes payload,
                                std::span<const int> fds, std::shared_ptr<Call> call) {
  if (in_flight_.size() >= kMaxInFlight) {
    const uint64_t deadline_ns = clock_.now_ns() + options_.timeout_ns;
    while (!dead_ && in_flight_.size() >= kMaxInFlight) {
      if (auto got = Receive(lock, deadline_ns); !got) return got;
    }
  }
  if (dead_) return tl::unexpected(*dead_);
  std::vector<UniqueFd> owned;
  for (const int fd : fds) {
    owned.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!owned.back()) return FailWith(errno, "fd {}: {}", fd, ErrnoText(errno));
  }
  writer_.Append(MakeHeader(command, payload.size()), payload, std::move(owned));
  if (call) in_flight_.push_back(std::move(call));
  return FlushAll();
}

// Waits for bytes. A pump says when none will come.
Result<FillStatus> MpqemuClient::Fill() {
  auto filled = reader_.Fill(*transport_);
  for (bool more = options_.pump != nullptr; more && filled && *filled == FillStatus::kAgain;) {
    more =
        options_.pump(static_cast<int>(std::min<uint64_t>(options_.timeout_ns / 1'000'000, 1000)));
    filled = reader_.Fill(*transport_);
    if (!more && filled && *filled == FillStatus::kAgain) {
      return FailWith(ETIMEDOUT, "it does not answer");
    }
  }
  return filled;
}

// Waits for what the socket brings, by itself or by another thread that does already: replies come
// in order, so that its own comes first, or its end.
Result<void> MpqemuClient::Receive(Lock& lock, uint64_t deadline_ns) {
  if (receiving_) {
    received_.wait(lock);
    if (dead_) return tl::unexpected(*dead_);
    return {};
  }
  receiving_ = true;
  blocked_until_ns_ = deadline_ns;
  lock.unlock();
  const auto filled = Fill();
  lock.lock();
  blocked_until_ns_ = 0;
  receiving_ = false;
  received_.notify_all();
  if (dead_) return tl::unexpected(*dead_);
  if (!filled) return Die({"the remote is gone: " + filled.error().message, EPIPE});
  if (*filled == FillStatus::kEnd) return Die({"the remote closed the channel", EPIPE});
  for (;;) {
    const auto frame = reader_.Next();
    if (!frame) return Die(frame.error());
    if (!*frame) return {};
    const ConstBytes payload = (*frame)->payload;
    if ((*frame)->command() != Command::kRet || in_flight_.empty() ||
        (payload.size() != 0 && payload.size() != sizeof(uint64_t))) {
      return Die({fmt::format("the remote sent {} of {} bytes unasked",
                              CommandName((*frame)->command()), payload.size()),
                  EPROTO});
    }
    Call& call = *in_flight_.front();
    if (!payload.empty()) call.value = LoadLe<uint64_t>(payload);
    call.done = true;
    in_flight_.pop_front();
  }
}

Result<uint64_t> MpqemuClient::Wait(Lock& lock, const std::shared_ptr<Call>& call) {
  // A remote that says its answer byte by byte gets no more time for it.
  const uint64_t deadline_ns = clock_.now_ns() + options_.timeout_ns;
  while (!call->done) {
    if (dead_) return tl::unexpected(*dead_);
    if (auto got = Receive(lock, deadline_ns); !got) return tl::unexpected(got.error());
  }
  return call->value;
}

Result<uint64_t> MpqemuClient::Ask(Command command, ConstBytes payload) {
  Lock lock(mutex_);
  auto call = std::make_shared<Call>();
  if (auto sent = Send(lock, command, payload, {}, call); !sent) {
    return tl::unexpected(sent.error());
  }
  return Wait(lock, call);
}

// Configuration space.

Result<uint32_t> MpqemuClient::ReadConfigWord(uint32_t address, uint32_t size) {
  const ConfigAccess access{.address = address, .value = 0, .size = static_cast<int32_t>(size)};
  const auto value = Ask(Command::kPciCfgRead, AsBytes(access));
  if (!value) return tl::unexpected(value.error());
  return static_cast<uint32_t>(*value);
}

Result<void> MpqemuClient::WriteConfigWord(uint32_t address, uint32_t value, uint32_t size) {
  const ConfigAccess access{.address = address, .value = value, .size = static_cast<int32_t>(size)};
  const auto done = Ask(Command::kPciCfgWrite, AsBytes(access));
  if (!done) return tl::unexpected(done.error());
  return {};
}

Result<void> MpqemuClient::ReadConfig(uint64_t offset, Bytes out) {
  farside::Fill(out, 0xff);
  while (!out.empty() && offset < kConfigSize) {
    const auto at = static_cast<uint32_t>(offset);
    const uint64_t size = Piece(offset, std::min<uint64_t>(out.size(), kConfigSize - at), 4);
    // In the last dword only as a whole.
    const bool whole = at > kLastDword;
    const auto value =
        whole ? ReadConfigWord(kLastDword, 4) : ReadConfigWord(at, static_cast<uint32_t>(size));
    if (!value) return tl::unexpected(value.error());
    StoreLePartial(out.first(size), whole ? *value >> (8 * (at - kLastDword)) : *value);
    out = out.subspan(size);
    offset += size;
  }
  return {};
}

Result<void> MpqemuClient::WriteConfig(uint64_t offset, ConstBytes in) {
  const uint64_t end = offset + in.size();
  const bool moves_bars =
      (offset < kCommandAt + 2 && end > kCommandAt) || (offset < kBarsEnd && end > kBarsAt);
  while (!in.empty() && offset < kConfigSize) {
    const auto at = static_cast<uint32_t>(offset);
    const uint64_t size = Piece(offset, std::min<uint64_t>(in.size(), kConfigSize - at), 4);
    auto value = static_cast<uint32_t>(LoadLePartial(in.first(size)));
    Result<void> written;
    if (at > kLastDword) {
      const auto old = ReadConfigWord(kLastDword, 4);
      if (!old) return tl::unexpected(old.error());
      uint32_t merged = *old;
      Copy(AsWritableBytes(merged).subspan(at - kLastDword, size), in.first(size));
      written = WriteConfigWord(kLastDword, merged, 4);
    } else {
      written = WriteConfigWord(at, value, static_cast<uint32_t>(size));
    }
    if (!written) return written;
    in = in.subspan(size);
    offset += size;
  }
  return moves_bars ? RefreshBars() : Result<void>();
}

Result<void> MpqemuClient::SizeBars() {
  const auto command = ReadConfigWord(kCommandAt, 2);
  if (!command) return tl::unexpected(command.error());
  if (auto off = WriteConfigWord(kCommandAt, *command & ~(kDecodeIo | kDecodeMemory), 2); !off) {
    return off;
  }
  for (uint32_t i = 0; i < kBars; ++i) {
    const uint32_t at = kBarsAt + 4 * i;
    const auto old = ReadConfigWord(at, 4);
    if (!old) return tl::unexpected(old.error());
    if (auto written = WriteConfigWord(at, UINT32_MAX, 4); !written) return written;
    const auto sized = ReadConfigWord(at, 4);
    if (!sized) return tl::unexpected(sized.error());
    if (auto written = WriteConfigWord(at, *old, 4); !written) return written;
    if (*sized == 0) continue;
    Bar& bar = bars_[i];
    bar.memory = (*sized & kBarIo) == 0;
    bar.wide = bar.memory && (*sized & kBar64) != 0;
    const uint32_t mask = *sized & ~(bar.memory ? kMemoryFlags : kIoFlags);
    // The upper half of an I/O BAR may be hardwired to 0.
    bar.size = bar.memory || (mask >> 16) != 0 ? uint32_t(~mask + 1) : (~mask & 0xffff) + 1;
    if (!std::has_single_bit(bar.size)) {
      return FailWith(EPROTO, "the remote's BAR {} has no size: it reads {:#x} after all ones", i,
                      *sized);
    }
    if (bar.wide) ++i;
  }
  return WriteConfigWord(kCommandAt, *command, 2);
}

// Gives all BARs their addresses and switches decoding on; or only learns where they lie.
Result<void> MpqemuClient::PlaceBars() {
  if (!options_.place_bars) return RefreshBars();
  uint64_t next_io = options_.io_base;
  uint64_t next_memory = options_.memory_base;
  uint32_t decode = 0;
  for (uint32_t i = 0; i < kBars; ++i) {
    const Bar& bar = bars_[i];
    if (bar.size == 0) continue;
    uint64_t& next = bar.memory ? next_memory : next_io;
    next = (next + bar.size - 1) & ~(bar.size - 1);
    decode |= bar.memory ? kDecodeMemory : kDecodeIo;
    auto placed = WriteConfigWord(kBarsAt + 4 * i, static_cast<uint32_t>(next), 4);
    if (placed && bar.wide) placed = WriteConfigWord(kBarsAt + 4 * i + 4, 0, 4);
    if (!placed) return placed;
    next += bar.size;
  }
  const auto command = ReadConfigWord(kCommandAt, 2);
  if (!command) return tl::unexpected(command.error());
  if (auto on = WriteConfigWord(kCommandAt, *command | decode, 2); !on) return on;
  return RefreshBars();
}

// QEMU maps no BAR beyond the 64 KiB of ports, nor one that reaches the last byte of its addresses.
bool MpqemuClient::IsMapped(const Bar& bar) {
  const uint64_t top = bar.wide ? UINT64_MAX : bar.memory ? UINT32_MAX : 0x1'0000;
  return InRange(bar.address, bar.size, top);
}

Result<void> MpqemuClient::RefreshBars() {
  const auto command = ReadConfigWord(kCommandAt, 2);
  if (!command) return tl::unexpected(command.error());
  std::array<Bar, kBars> now = bars_;
  for (uint32_t i = 0; i < kBars; ++i) {
    Bar& bar = now[i];
    if (bar.size == 0) continue;
    const auto low = ReadConfigWord(kBarsAt + 4 * i, 4);
    if (!low) return tl::unexpected(low.error());
    bar.address = *low & ~(bar.memory ? kMemoryFlags : kIoFlags);
    if (bar.wide) {
      const auto high = ReadConfigWord(kBarsAt + 4 * i + 4, 4);
      if (!high) return tl::unexpected(high.error());
      bar.address |= uint64_t{*high} << 32;
    }
    const bool enabled = (*command & (bar.memory ? kDecodeMemory : kDecodeIo)) != 0;
    bar.decoded = enabled && IsMapped(bar);
  }
  Lock lock(mutex_);
  bars_ = now;
  return {};
}

// Regions.

Result<vfio_user::DeviceInfo> MpqemuClient::GetInfo() {
  return vfio_user::DeviceInfo{.argsz = sizeof(vfio_user::DeviceInfo),
                               .flags = kDeviceFlagReset | kDeviceFlagPci,
                               .num_regions = kRegions,
                               .num_irqs = kIrqIndexes};
}

Result<ClientRegion> MpqemuClient::GetRegionInfo(uint32_t region) {
  if (region >= kRegions) return FailWith(EINVAL, "there is no region {}", region);
  const uint64_t size = region < kBars            ? bars_[region].size
                        : region == kConfigRegion ? kConfigSize
                                                  : 0;
  ClientRegion info;
  info.info = {.argsz = sizeof(vfio_user::RegionInfo),
               .flags = size == 0 ? 0 : kRegionFlagRead | kRegionFlagWrite,
               .index = region,
               .size = size};
  return info;
}

Result<ClientIoFds> MpqemuClient::GetRegionIoFds(uint32_t) { return ClientIoFds{}; }

std::optional<BarAccess> MpqemuClient::Locate(const GuestAccess& access, uint64_t size) const {
  if (access.region >= kBars) return std::nullopt;
  const Bar& bar = bars_[access.region];
  if (!bar.decoded || bar.address == 0 || !InRange(access.offset, size, bar.size)) {
    return std::nullopt;
  }
  return BarAccess{.address = bar.address + access.offset,
                   .value = 0,
                   .size = static_cast<uint32_t>(size),
                   .memory = bar.memory ? uint8_t{1} : uint8_t{0}};
}

Result<void> MpqemuClient::RegionRead(const GuestAccess& access, Bytes out) {
  if (access.region == kConfigRegion) return ReadConfig(access.offset, out);
  GuestAccess at = access;
  while (!out.empty()) {
    const uint64_t size = Piece(at.offset, out.size(), 8);
    const auto ticket = BeginRead(at, out.first(size));
    if (!ticket) return tl::unexpected(ticket.error());
    if (auto read = FinishRead(*ticket); !read) return read;
    out = out.subspan(size);
    at.offset += size;
  }
  return {};
}

Result<void> MpqemuClient::WriteBar(const GuestAccess& access, ConstBytes in, bool posted) {
  GuestAccess at = access;
  Lock lock(mutex_);
  while (!in.empty()) {
    const uint64_t size = Piece(at.offset, in.size(), 8);
    auto located = Locate(at, size);
    if (located) {
      located->value = LoadLePartial(in.first(size));
      auto call = std::make_shared<Call>();
      if (auto sent = Send(lock, Command::kBarWrite, AsBytes(*located), {}, call); !sent) {
        return sent;
      }
      if (!posted) {
        if (auto done = Wait(lock, call); !done) return tl::unexpected(done.error());
      }
    }
    in = in.subspan(size);
    at.offset += size;
  }
  return dead_ ? tl::unexpected(*dead_) : Result<void>();
}

Result<void> MpqemuClient::RegionWrite(const GuestAccess& access, ConstBytes in) {
  if (access.region == kConfigRegion) return WriteConfig(access.offset, in);
  return WriteBar(access, in, false);
}

Result<void> MpqemuClient::PostWrite(const GuestAccess& access, ConstBytes in) {
  // Writes to configuration space are never posted.
  if (access.region == kConfigRegion) return WriteConfig(access.offset, in);
  return WriteBar(access, in, true);
}

Result<void> MpqemuClient::WriteMulti(uint32_t cpu, std::span<const WriteMultiEntry> writes,
                                      bool posted) {
  for (const WriteMultiEntry& entry : writes) {
    const GuestAccess access{.region = entry.region, .offset = entry.offset, .cpu = cpu};
    const ConstBytes data = std::as_bytes(std::span(entry.data)).first(entry.count);
    if (auto done = posted ? PostWrite(access, data) : RegionWrite(access, data); !done) {
      return done;
    }
  }
  return {};
}

Result<DeviceClient::ReadTicket> MpqemuClient::BeginRead(const GuestAccess& access, Bytes out) {
  Begun begun{.call = nullptr, .value = ~uint64_t{0}, .out = out};
  const bool whole = access.region == kConfigRegion || !std::has_single_bit(out.size()) ||
                     out.size() > sizeof(uint64_t);
  if (whole) {
    // In several messages: done at once.
    if (auto read = RegionRead(access, out); !read) return tl::unexpected(read.error());
    begun.out = {};
  }
  Lock lock(mutex_);
  if (dead_) return tl::unexpected(*dead_);
  if (!whole) {
    if (auto located = Locate(access, out.size())) {
      begun.call = std::make_shared<Call>();
      if (auto sent = Send(lock, Command::kBarRead, AsBytes(*located), {}, begun.call); !sent) {
        return tl::unexpected(sent.error());
      }
    }
  }
  auto slot = std::ranges::find(begun_, false, &std::optional<Begun>::has_value);
  if (slot == begun_.end()) slot = begun_.emplace(begun_.end());
  *slot = std::move(begun);
  return ReadTicket{static_cast<uint32_t>(slot - begun_.begin())};
}

Result<void> MpqemuClient::FinishRead(ReadTicket ticket) {
  Lock lock(mutex_);
  Begun begun = std::move(*begun_[ticket.value]);
  begun_[ticket.value].reset();
  uint64_t value = begun.value;
  if (begun.call) {
    const auto got = Wait(lock, begun.call);
    if (!got) return tl::unexpected(got.error());
    value = *got;
  }
  if (!begun.out.empty()) StoreLePartial(begun.out, value);
  return {};
}

Result<void> MpqemuClient::Reset() {
  const auto done = Ask(Command::kDeviceReset, {});
  if (!done) return tl::unexpected(done.error());
  return PlaceBars();
}

// Interrupts.

Result<vfio_user::IrqInfo> MpqemuClient::GetIrqInfo(vfio_user::IrqIndex index) {
  const bool intx = index == IrqIndex::kIntx && has_intx_;
  return vfio_user::IrqInfo{.argsz = sizeof(vfio_user::IrqInfo),
                            .flags = intx ? kIrqFlagEventfd | kIrqFlagMaskable : 0,
                            .index = static_cast<uint32_t>(index),
                            .count = intx ? 1u : 0u};
}

Result<void> MpqemuClient::SendIrqfds(int interrupt) {
  const int fds[] = {interrupt, resample_.get()};
  Lock lock(mutex_);
  return Send(lock, Command::kSetIrqfd, {}, fds, nullptr);
}

Result<void> MpqemuClient::SetIrqs(vfio_user::SetIrqs request, ConstBytes,
                                   std::span<const int> fds) {
  const auto index = IrqIndex{request.index};
  const uint32_t data = request.flags & kIrqDataMask;
  const uint32_t action = request.flags & kIrqActionsMask;
  const bool disarms = action == kIrqActionTrigger && fds.empty() &&
                       (data == kIrqDataEventfd || (data == kIrqDataNone && request.count == 0));
  if (index != IrqIndex::kIntx || !has_intx_) {
    if (disarms) return {};
    return NotSpoken("interrupts but INTx");
  }
  if (disarms) return SendIrqfds(unheard_.get());
  if (action == kIrqActionTrigger && data == kIrqDataEventfd && fds.size() == 1) {
    return SendIrqfds(fds[0]);
  }
  if (action == kIrqActionUnmask && data == kIrqDataNone) {
    SignalEventfd(resample_.get());
    return {};
  }
  return NotSpoken("masks and triggers for INTx");
}

// Memory.

Result<void> MpqemuClient::SendWindows(const std::vector<Window>& windows) {
  SyncSysmem table;
  std::vector<int> fds;
  uint64_t end = 0;
  const Window* last = nullptr;
  for (const Window& window : windows) {
    const bool continues = last != nullptr && end == window.gpa && last->device == window.device &&
                           last->inode == window.inode &&
                           last->offset + last->size == window.offset;
    end = window.gpa + window.size;
    last = &window;
    if (continues) {
      table.sizes[fds.size() - 1] += window.size;
      continue;
    }
    if (fds.size() == kQemuMaxRegions) {
      return FailWith(ENOSPC,
                      "mpqemu carries {} regions of memory, and the windows make more: give "
                      "windows that continue each other in one file",
                      kQemuMaxRegions);
    }
    table.gpas[fds.size()] = window.gpa;
    table.sizes[fds.size()] = window.size;
    table.offsets[fds.size()] = window.offset;
    fds.push_back(window.fd.get());
  }
  // There is no message without a region.
  if (fds.empty()) {
    table.gpas[0] = kNowhere;
    table.sizes[0] = kPage;
    fds.push_back(nowhere_.get());
  }
  Lock lock(mutex_);
  return Send(lock, Command::kSyncSysmem, AsBytes(table), fds, nullptr);
}

Result<void> MpqemuClient::DmaMap(const DmaWindow& window) {
  if (window.fd < 0) return NotSpoken("DMA by message");
  if ((window.flags & kDmaMapWrite) == 0) return NotSpoken("memory that a device may only read");
  struct stat status {};
  if (window.size == 0 || fstat(window.fd, &status) != 0) {
    return FailWith(EINVAL, "window {:#x}+{:#x} is empty, or fd {} is no file", window.iova,
                    window.size, window.fd);
  }
  // QEMU's remote ends at a file that is too short.
  if (!InRange(window.offset, window.size, static_cast<uint64_t>(status.st_size)) ||
      window.offset % kPage != 0) {
    return FailWith(EINVAL, "window {:#x}+{:#x} does not lie in whole pages of its file",
                    window.iova, window.size);
  }
  Lock lock(windows_mutex_);
  const auto next = std::ranges::upper_bound(windows_, window.iova, {}, &Window::gpa);
  if ((next != windows_.end() && next->gpa - window.iova < window.size) ||
      (next != windows_.begin() && window.iova - std::prev(next)->gpa < std::prev(next)->size)) {
    return FailWith(EEXIST, "window {:#x}+{:#x} overlaps one that is mapped", window.iova,
                    window.size);
  }
  UniqueFd fd(fcntl(window.fd, F_DUPFD_CLOEXEC, 0));
  if (!fd) return FailWith(errno, "fd {}: {}", window.fd, ErrnoText(errno));
  const auto added = windows_.insert(next, {.gpa = window.iova,
                                            .size = window.size,
                                            .offset = window.offset,
                                            .fd = std::move(fd),
                                            .device = status.st_dev,
                                            .inode = status.st_ino});
  auto sent = SendWindows(windows_);
  if (!sent) windows_.erase(added);
  return sent;
}

Result<void> MpqemuClient::DmaUnmap(uint64_t iova, uint64_t size) {
  Lock lock(windows_mutex_);
  const auto inside = [&](const Window& window) {
    return window.gpa >= iova && InRange(window.gpa - iova, window.size, size);
  };
  for (const Window& window : windows_) {
    const bool touches =
        window.gpa >= iova ? window.gpa - iova < size : iova - window.gpa < window.size;
    if (touches && !inside(window)) {
      return FailWith(EINVAL, "unmapping {:#x}+{:#x} would cut window {:#x}+{:#x} in two", iova,
                      size, window.gpa, window.size);
    }
  }
  std::erase_if(windows_, inside);
  return SendWindows(windows_);
}

Result<void> MpqemuClient::DmaUnmapAll() {
  Lock lock(windows_mutex_);
  windows_.clear();
  return SendWindows(windows_);
}

// What there is not.

Result<size_t> MpqemuClient::FeatureGet(Feature, ConstBytes, Bytes) {
  return NotSpoken("DEVICE_FEATURE");
}
Result<void> MpqemuClient::FeatureSet(Feature, ConstBytes) { return NotSpoken("DEVICE_FEATURE"); }
Result<void> MpqemuClient::FeatureProbe(Feature, uint32_t) { return NotSpoken("DEVICE_FEATURE"); }
Result<size_t> MpqemuClient::MigDataRead(Bytes) { return NotSpoken("migration"); }
Result<void> MpqemuClient::MigDataWrite(ConstBytes) { return NotSpoken("migration"); }

Result<bool> MpqemuClient::WaitReadable(int fd, uint64_t timeout_ns) {
  // Nothing comes unasked, so there is nothing to answer meanwhile. The remote's end is seen.
  const uint64_t deadline = clock_.now_ns() + timeout_ns;
  for (;;) {
    pollfd fds[] = {{fd, POLLIN, 0}, {transport_->fd(), POLLRDHUP, 0}};
    const uint64_t now = clock_.now_ns();
    const uint64_t left = now < deadline ? deadline - now : 0;
    const timespec wait{.tv_sec = static_cast<time_t>(left / 1'000'000'000),
                        .tv_nsec = static_cast<long>(left % 1'000'000'000)};
    const int ready = ppoll(fds, 2, &wait, nullptr);
    if (ready > 0 && (fds[0].revents & POLLIN) != 0) return true;
    if (ready > 0) {
      Lock lock(mutex_);
      return Die({"the remote closed the channel", EPIPE});
    }
    if (ready == 0) return false;
    if (errno != EINTR) return FailWith(errno, "poll: {}", ErrnoText(errno));
  }
}

}  // namespace farside::mpqemu
