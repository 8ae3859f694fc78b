#include "protocol/client_channel.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace farside::vfio_user {
namespace {

constexpr uint64_t kNsPerMs = 1'000'000;

// For the sender's thread: SCM_RIGHTS takes fds, a FrameWriter keeps them until they are sent.
Result<std::vector<UniqueFd>> Duplicate(std::span<const int> fds) {
  std::vector<UniqueFd> out;
  for (const int fd : fds) {
    out.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (!out.back()) return FailWith(errno, "cannot pass fd {}: {}", fd, ErrnoText(errno));
  }
  return out;
}

}  // namespace

bool ClientChannel::Watch::Woke(int fd) const {
  return std::any_of(fds.begin(), fds.begin() + static_cast<ptrdiff_t>(count),
                     [fd](const pollfd& p) { return p.fd == fd && (p.revents & ~POLLOUT) != 0; });
}

ClientChannel::ClientChannel(std::unique_ptr<Transport> transport, SocketTransport* socket,
                             ChannelOptions options, DmaHandler* handler, UniqueFd kick)
    : options_(std::move(options)),
      handler_(handler),
      socket_(socket),
      kick_(std::move(kick)),
      main_{.transport = std::move(transport)} {
  CHECK(options_.timeout_ns >= kNsPerMs);
  waiters_.reserve(64);
  for (size_t i = 0; i < kSlots; ++i) free_[i] = static_cast<uint8_t>(kSlots - 1 - i);
  if (socket_ != nullptr) watchdog_ = std::thread([this] { RunWatchdog(); });
}

ClientChannel::~ClientChannel() {
  {
    const Lock lock(mutex_);
    ending_ = true;
    end_.notify_one();
  }
  if (watchdog_.joinable()) watchdog_.join();
}

void ClientChannel::RunWatchdog() {
  Lock lock(mutex_);
  while (!ending_) {
    end_.wait_for(lock, std::chrono::nanoseconds(options_.timeout_ns / 8));
    if (blocked_on_ != nullptr && clock_.now_ns() >= blocked_until_ns_) DieUnanswered(*blocked_on_);
  }
}

Result<std::unique_ptr<ClientChannel>> ClientChannel::Create(UniqueFd socket,
                                                             ChannelOptions options,
                                                             DmaHandler* handler) {
  auto transport = SocketTransport::Create(std::move(socket));
  if (!transport) return tl::unexpected(transport.error());
  auto kick = MakeEventfd();
  if (!kick) return tl::unexpected(kick.error());
  SocketTransport* const blocking = transport->get();
  return std::unique_ptr<ClientChannel>(new ClientChannel(
      std::move(*transport), blocking, std::move(options), handler, std::move(*kick)));
}

Result<std::unique_ptr<ClientChannel>> ClientChannel::Create(std::unique_ptr<Transport> transport,
                                                             ChannelOptions options,
                                                             DmaHandler* handler) {
  CHECK(transport->fd() >= 0 || options.pump != nullptr);
  auto kick = MakeEventfd();
  if (!kick) return tl::unexpected(kick.error());
  return std::unique_ptr<ClientChannel>(new ClientChannel(
      std::move(transport), nullptr, std::move(options), handler, std::move(*kick)));
}

Result<void> ClientChannel::Exchange(const Outgoing& request, Incoming* reply) {
  Lock lock(mutex_);
  const auto id = Start(lock, request, *reply);
  if (!id) return tl::unexpected(id.error());
  Slot& slot = *FindSlot(*id);
  if (const auto answered = WaitForReply(lock, slot); !answered) return answered;
  auto result = slot.failed ? Result<void>(Refusal(slot)) : Result<void>();
  Copy(reply->head, ConstBytes(slot.head).first(reply->head.size()));
  reply->size = slot.size;
  reply->fds = std::move(slot.fds);
  Free(slot);
  return result;
}

Result<void> ClientChannel::Post(const Outgoing& request) {
  Lock lock(mutex_);
  if (const auto room = WaitForRoom(lock); !room) return room;
  Append(kPostedSlot, kFlagNoReply, request, {});
  Retire(lock);
  return dead_ ? Result<void>(Epitaph()) : Result<void>();
}

Result<uint16_t> ClientChannel::BeginRead(const RegionAccess& access, Bytes out) {
  Lock lock(mutex_);
  std::array<std::byte, sizeof access> head;
  const auto id = Start(lock, {.command = Command::kRegionRead, .head = AsBytes(access)},
                        {.head = head, .data = out});
  if (!id) return id;
  FindSlot(*id)->access = access;
  return id;
}

Result<void> ClientChannel::FinishRead(uint16_t id) {
  Lock lock(mutex_);
  if (dead_) return Epitaph();
  Slot* const found = FindSlot(id);
  CHECK(found != nullptr);  // Finished twice, or never begun.
  Slot& slot = *found;
  if (const auto answered = WaitForReply(lock, slot); !answered) return answered;
  Result<void> result;
  RegionAccess echo;
  Copy(AsWritableBytes(echo), ConstBytes(slot.head).first(sizeof echo));
  if (slot.failed) {
    result = Refusal(slot);
  } else if (slot.size != sizeof echo + slot.data.size() || echo.offset != slot.access.offset ||
             echo.region != slot.access.region || echo.count != slot.access.count) {
    DieLocked({"the server breaks the protocol: its reply to REGION_READ is not of what was asked",
               EPROTO});
    result = Epitaph();
  }
  Free(slot);
  return result;
}

Result<bool> ClientChannel::WaitReadable(int fd, uint64_t timeout_ns) {
  const uint64_t deadline_ns = clock_.now_ns() + timeout_ns;
  Lock lock(mutex_);
  for (;;) {
    Flush();
    if (dead_) return Epitaph();
    Woken woken = Woken::kMaybe;
    if (!leading_) {
      woken = Lead(lock, {.deadline_ns = deadline_ns, .fd = fd});
    } else {
      Watch watch;
      watch.Add(fd, POLLIN);
      watch.Add(kick_.get(), POLLIN);
      ++bystanders_;
      lock.unlock();
      WaitForPoll(watch, deadline_ns);
      if (watch.Woke(kick_.get())) DrainEventfd(kick_.get());
      if (fd >= 0 && watch.Woke(fd)) woken = Woken::kFd;
      lock.lock();
      --bystanders_;
    }
    if (woken != Woken::kMaybe || clock_.now_ns() >= deadline_ns) {
      Retire(lock);
      return woken == Woken::kFd;
    }
  }
}

Result<void> ClientChannel::SendRaw(ConstBytes bytes, std::span<const int> fds) {
  auto copies = Duplicate(fds);
  if (!copies) return tl::unexpected(copies.error());
  Lock lock(mutex_);
  keeps_raw_ = true;
  if (const auto room = WaitForRoom(lock); !room) return room;
  main_.writer.AppendRaw(bytes, std::move(*copies));
  Retire(lock);
  return dead_ ? Result<void>(Epitaph()) : Result<void>();
}

Result<RawReply> ClientChannel::ReceiveRaw(uint64_t timeout_ns) {
  Lock lock(mutex_);
  const auto arrived = [this] { return !raw_replies_.empty(); };
  if (!WaitUntil(lock, clock_.now_ns() + timeout_ns, nullptr, arrived)) {
    if (dead_) return Epitaph();
    return FailWith(ETIMEDOUT, "no reply to raw bytes within {} ms", timeout_ns / kNsPerMs);
  }
  RawReply reply = std::move(raw_replies_.front());
  raw_replies_.erase(raw_replies_.begin());
  return reply;
}

void ClientChannel::SetMaxTransfer(uint32_t size) {
  Lock lock(mutex_);
  max_transfer_ = size;
  main_.reader.set_max_message_size(MaxMessageSize(size));
}

Result<void> ClientChannel::AddTwin(UniqueFd socket) {
  auto transport = SocketTransport::Create(std::move(socket));
  if (!transport) return tl::unexpected(transport.error());
  Lock lock(mutex_);
  twin_.reset(new Line{.transport = std::move(*transport),
                       .reader = FrameReader(MaxMessageSize(max_transfer_))});
  return {};
}

void ClientChannel::AddWindow(const DmaWindow& window) {
  Lock lock(mutex_);
  windows_.Add(window.iova, window.size, window.flags);
}

void ClientChannel::TakeBackWindow(const DmaWindow& window) {
  Lock lock(mutex_);
  windows_.TakeBack(window.iova, window.size, window.flags);
}

void ClientChannel::RemoveWindow(uint64_t iova, uint64_t size) {
  Lock lock(mutex_);
  windows_.Remove(iova, size);
}

void ClientChannel::RemoveAllWindows() {
  Lock lock(mutex_);
  windows_.Clear();
}

tl::unexpected<Error> ClientChannel::Die(Error error) {
  Lock lock(mutex_);
  DieLocked(std::move(error));
  return Epitaph();
}

bool ClientChannel::alive() const {
  Lock lock(mutex_);
  return !dead_;
}

DmaCounts ClientChannel::dma_counts() const {
  Lock lock(mutex_);
  return dma_counts_;
}

Result<uint16_t> ClientChannel::Start(Lock& lock, const Outgoing& request, const Incoming& reply) {
  CHECK(reply.head.size() <= kMaxHead);
  auto fds = Duplicate(request.fds);
  if (!fds) return tl::unexpected(fds.error());
  if (const auto room = WaitForRoom(lock); !room) return tl::unexpected(room.error());
  if (free_count_ == 0) {
    return FailWith(EBUSY, "{} requests are in flight: finish one before the next", kSlots);
  }
  const uint8_t index = free_[--free_count_];
  Slot& slot = slots_[index];
  slot.generation++;
  slot.in_use = true;
  slot.done = slot.failed = false;
  slot.takes_fds = reply.takes_fds;
  slot.command = request.command;
  slot.head_size = reply.head.size();
  slot.data = reply.data;
  slot.size = 0;
  const auto id = static_cast<uint16_t>(slot.generation << 8 | index);
  Append(id, 0, request, std::move(*fds));
  return id;
}

void ClientChannel::Append(uint16_t id, uint32_t flags, const Outgoing& request,
                           std::vector<UniqueFd> fds) {
  const size_t size = request.head.size() + request.data.size();
  const Header header = CommandHeader(id, request.command, size, flags);
  if (fds.empty()) {
    const Bytes payload = main_.writer.Append(header);
    Copy(payload, request.head);
    Copy(payload.subspan(request.head.size()), request.data);
    return;
  }
  std::vector<std::byte> payload(request.head.begin(), request.head.end());
  payload.insert(payload.end(), request.data.begin(), request.data.end());
  main_.writer.Append(header, payload, std::move(fds));
}

Result<void> ClientChannel::WaitForRoom(Lock& lock) {
  const auto has_room = [this] { return pending() <= kMaxPending; };
  if (!dead_ && !has_room()) {
    ++room_waiters_;
    const uint64_t deadline_ns = clock_.now_ns() + options_.timeout_ns;
    if (!WaitUntil(lock, deadline_ns, nullptr, has_room) && !dead_) DieUnread();
    --room_waiters_;
  }
  return dead_ ? Result<void>(Epitaph()) : Result<void>();
}

Result<void> ClientChannel::WaitForReply(Lock& lock, Slot& slot) {
  if (slot.done) return {};
  const auto done = [&slot] { return slot.done; };
  if (WaitUntil(lock, clock_.now_ns() + options_.timeout_ns, &slot, done)) return {};
  if (!dead_) DieUnanswered(slot);
  return Epitaph();
}

template <typename Done>
bool ClientChannel::WaitUntil(Lock& lock, uint64_t deadline_ns, Slot* slot, const Done& done) {
  const Slot* fresh = slot;
  for (;;) {
    Flush();
    if (done() || dead_) break;
    Woken woken = Woken::kMaybe;
    if (leading_) {
      Follow(lock, deadline_ns, slot);
    } else {
      woken = Lead(lock, {.deadline_ns = deadline_ns, .fresh = fresh});
    }
    fresh = nullptr;
    if (done() || woken == Woken::kIdle || clock_.now_ns() >= deadline_ns) break;
  }
  const bool result = done();
  Retire(lock);
  return result;
}

void ClientChannel::Follow(Lock& lock, uint64_t deadline_ns, Slot* slot) {
  Waiter waiter;
  waiters_.push_back(&waiter);
  if (slot != nullptr) slot->waiter = &waiter;
  waiter.wake.wait_until(
      lock, std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline_ns)));
  if (slot != nullptr) slot->waiter = nullptr;
  std::erase(waiters_, &waiter);
}

// Before a thread leaves: what is in the writer is sent, or somebody is there who will, and
// somebody reads for those that still wait.
void ClientChannel::Retire(Lock& lock) {
  Flush();
  const auto busy = [this] {
    return !dead_ && !leading_ && waiters_.empty() && (pending() != 0 || closed_);
  };
  const uint64_t deadline_ns = busy() ? clock_.now_ns() + options_.timeout_ns : 0;
  while (busy()) {
    const Woken woken = Lead(lock, {.deadline_ns = deadline_ns});
    Flush();
    if (busy() && (woken == Woken::kIdle || clock_.now_ns() >= deadline_ns)) DieUnread();
  }
  if (leading_) return;
  if (!waiters_.empty()) {
    waiters_.front()->wake.notify_one();
  } else if (bystanders_ != 0) {
    SignalEventfd(kick_.get());
  }
}

// Waits once for messages and handles them. What can be sent was sent, by Flush, before the caller
// looked whether it must wait at all.
ClientChannel::Woken ClientChannel::Lead(Lock& lock, const Patience& patience) {
  leading_ = true;
  Result<Woken> woken = Woken::kMaybe;
  if (!dead_ && !Dispatch(lock) && !dead_) {
    const bool pump = main_.transport->fd() < 0;
    const bool block = patience.fresh != nullptr && socket_ != nullptr && !twin_ && pending() == 0;
    polling_ = !pump && !block;
    blocked_on_ = block ? patience.fresh : nullptr;
    blocked_until_ns_ = patience.deadline_ns;
    const Watch watch = polling_ ? MakeWatch(patience) : Watch{};
    lock.unlock();
    woken = pump ? Pump(patience) : block ? Block() : Poll(watch, patience);
    lock.lock();
    polling_ = false;
    blocked_on_ = nullptr;
    Dispatch(lock);
    if (!woken) DieLocked(woken.error());
  }
  leading_ = false;
  return woken.value_or(Woken::kMaybe);
}

ClientChannel::Watch ClientChannel::MakeWatch(const Patience& patience) const {
  Watch watch;
  const auto add = [&watch](const Line& line) {
    const size_t unsent = line.writer.pending();
    watch.Add(line.transport->fd(), static_cast<short>((unsent <= kMaxPending ? POLLIN : 0) |
                                                       (unsent != 0 ? POLLOUT : 0)));
  };
  add(main_);
  watch.Add(kick_.get(), POLLIN);
  if (patience.fd >= 0) watch.Add(patience.fd, POLLIN);
  if (twin_) add(*twin_);
  return watch;
}

// Waits until the deadline at most. False if nothing happened.
bool ClientChannel::WaitForPoll(Watch& watch, uint64_t deadline_ns) const {
  const uint64_t now_ns = clock_.now_ns();
  const uint64_t left_ns = deadline_ns - std::min(deadline_ns, now_ns);
  const timespec timeout{.tv_sec = static_cast<time_t>(left_ns / 1'000'000'000),
                         .tv_nsec = static_cast<long>(left_ns % 1'000'000'000)};
  return ppoll(watch.fds.data(), watch.count, &timeout, nullptr) > 0;
}

Result<ClientChannel::Woken> ClientChannel::Poll(Watch watch, const Patience& patience) {
  if (!WaitForPoll(watch, patience.deadline_ns)) return Woken::kMaybe;
  if (watch.Woke(kick_.get())) DrainEventfd(kick_.get());
  for (Line* line : {&main_, twin_.get()}) {
    if (line == nullptr || !watch.Woke(line->transport->fd())) continue;
    if (const auto filled = Fill(*line); !filled) return tl::unexpected(filled.error());
  }
  return patience.fd >= 0 && watch.Woke(patience.fd) ? Woken::kFd : Woken::kMaybe;
}

Result<ClientChannel::Woken> ClientChannel::Block() {
  if (options_.spin_ns != 0) {
    const uint64_t until_ns = clock_.now_ns() + options_.spin_ns;
    do {
      const auto filled = Fill(main_);
      if (!filled) return tl::unexpected(filled.error());
      if (*filled) return Woken::kMaybe;
    } while (clock_.now_ns() < until_ns);
  }
  socket_->set_receive_waits(true);
  const auto filled = Fill(main_);
  socket_->set_receive_waits(false);
  if (!filled) return tl::unexpected(filled.error());
  return Woken::kMaybe;
}

Result<ClientChannel::Woken> ClientChannel::Pump(const Patience& patience) {
  Watch watch;
  if (patience.fd >= 0) watch.Add(patience.fd, POLLIN);
  for (bool more = true; more;) {
    const auto filled = Fill(main_);
    if (!filled) return tl::unexpected(filled.error());
    if (*filled) return Woken::kMaybe;
    if (watch.count != 0 && WaitForPoll(watch, 0)) return Woken::kFd;
    const uint64_t now_ns = clock_.now_ns();
    if (now_ns >= patience.deadline_ns) return Woken::kMaybe;
    const uint64_t left_ms = (patience.deadline_ns - now_ns) / kNsPerMs + 1;
    more = options_.pump(static_cast<int>(std::min<uint64_t>(left_ms, 1000)));
  }
  const auto filled = Fill(main_);
  if (!filled) return tl::unexpected(filled.error());
  if (!*filled && watch.count != 0 && WaitForPoll(watch, 0)) return Woken::kFd;
  return *filled ? Woken::kMaybe : Woken::kIdle;
}

// True if something came.
Result<bool> ClientChannel::Fill(Line& line) {
  const auto status = line.reader.Fill(*line.transport);
  if (!status && status.error().code != ECONNRESET) return tl::unexpected(status.error());
  if (!status || *status == FrameReader::Status::kEnd) {
    return FailWith(EPIPE, "the server closed the channel");
  }
  return *status == FrameReader::Status::kData;
}

// Handles what was received. False if there was nothing whole.
bool ClientChannel::Dispatch(Lock& lock) {
  bool any = false;
  for (Line* line : {&main_, twin_.get()}) {
    while (line != nullptr && !dead_ && line->writer.pending() <= kMaxPending) {
      auto frame = line->reader.Next();
      if (!frame) {
        DieLocked({"the server breaks the protocol: " + frame.error().message, EPROTO});
        break;
      }
      if (!*frame) break;
      any = true;
      if ((*frame)->is_reply()) {
        OnReply(**frame);
      } else {
        OnCommand(lock, **frame, *line);
      }
    }
  }
  return any;
}

void ClientChannel::OnReply(Frame& frame) {
  const Header& header = frame.header;
  Slot* const slot = FindSlot(header.message_id);
  if (slot == nullptr || slot->done || slot->command != frame.command()) {
    if (keeps_raw_) return KeepRaw(frame);
    const bool posted = (header.message_id & 0xff) == kPostedSlot;
    return DieLocked({fmt::format("the server breaks the protocol: it answers {} (command {}, id "
                                  "{:#x})",
                                  posted ? "a posted write" : "what was not asked", header.command,
                                  header.message_id),
                      EPROTO});
  }
  slot->failed = (header.flags & kFlagError) != 0;
  slot->error = header.error;
  if (!slot->failed) {
    const size_t size = frame.payload.size();
    if (size < slot->head_size || size - slot->head_size > slot->data.size() ||
        (!frame.fds.empty() && !slot->takes_fds)) {
      return DieLocked({fmt::format("the server breaks the protocol: its reply to {} has {} bytes "
                                    "and {} fds, where {} to {} bytes are due",
                                    CommandName(slot->command), size, frame.fds.size(),
                                    slot->head_size, slot->head_size + slot->data.size()),
                        EPROTO});
    }
    Copy(Bytes(slot->head).first(slot->head_size), frame.payload.first(slot->head_size));
    Copy(slot->data.first(size - slot->head_size), frame.payload.subspan(slot->head_size));
    slot->size = size;
    slot->fds = std::move(frame.fds);
  }
  slot->done = true;
  if (slot->waiter != nullptr) slot->waiter->wake.notify_one();
}

void ClientChannel::KeepRaw(Frame& frame) {
  if (raw_replies_.size() == kMaxRawReplies) {
    return DieLocked(
        {fmt::format("the server sent {} replies that nobody takes", kMaxRawReplies), EPROTO});
  }
  raw_replies_.push_back(
      {frame.header, {frame.payload.begin(), frame.payload.end()}, std::move(frame.fds)});
  WakeWaiters();
}

// A command of the device: DMA by message is all that it may ask.
void ClientChannel::OnCommand(Lock& lock, const Frame& frame, Line& line) {
  const auto request = DecodeRequest(frame);
  const int error = request ? CallHandler(lock, *request) : request.error().code;
  if (dead_) return;
  if (error != 0) ++dma_counts_.refused;
  if (frame.no_reply()) return;
  if (error != 0) {
    line.writer.Append(ErrorHeader(frame.header, error));
  } else if (const auto* read = std::get_if<DmaReadRequest>(&*request)) {
    ++dma_counts_.reads;
    const DmaAccess access = *read;
    const Bytes payload =
        line.writer.Append(ReplyHeader(frame.header, sizeof access + access.count));
    Copy(payload, AsBytes(access));
    Copy(payload.subspan(sizeof access), ConstBytes(dma_buffer_).first(access.count));
  } else {
    ++dma_counts_.writes;
    const DmaAccess access = std::get<DmaWriteRequest>(*request);
    Copy(line.writer.Append(ReplyHeader(frame.header, sizeof access)), AsBytes(access));
  }
  FlushLine(line);
}

// 0 or an errno. Bytes that were read are in dma_buffer_ then.
int ClientChannel::CallHandler(Lock& lock, const Request& request) {
  const auto* read = std::get_if<DmaReadRequest>(&request);
  const auto* write = std::get_if<DmaWriteRequest>(&request);
  if (read == nullptr && write == nullptr) return ENOTSUP;
  const DmaAccess& access = read != nullptr ? static_cast<const DmaAccess&>(*read) : *write;
  if (access.count > max_transfer_) return EINVAL;
  const uint32_t flag = read != nullptr ? kDmaMapRead : kDmaMapWrite;
  if (handler_ == nullptr || !windows_.Allows(access.iova, access.count, flag)) return EFAULT;
  lock.unlock();
  int error;
  if (read != nullptr) {
    if (dma_buffer_.size() < access.count) dma_buffer_.resize(access.count);
    error = handler_->OnDmaRead(access.iova, Bytes(dma_buffer_).first(access.count));
  } else {
    error = handler_->OnDmaWrite(access.iova, write->data);
  }
  lock.lock();
  return error;
}

void ClientChannel::Flush() {
  FlushLine(main_);
  if (twin_) FlushLine(*twin_);
  if (room_waiters_ != 0 && pending() <= kMaxPending) WakeWaiters();
  if (polling_ && pending() != 0) SignalEventfd(kick_.get());
}

void ClientChannel::FlushLine(Line& line) {
  if (dead_ || line.writer.pending() == 0) return;
  const auto sent = line.writer.Flush(*line.transport);
  if (sent) return;
  if (sent.error().code != EPIPE) return DieLocked(sent.error());
  // What the server said before it closed is still to be read, and then the end.
  line.writer = FrameWriter();
  closed_ = true;
}

size_t ClientChannel::pending() const {
  return main_.writer.pending() + (twin_ ? twin_->writer.pending() : 0);
}

void ClientChannel::DieLocked(Error error) {
  if (dead_) return;
  dead_ = std::move(error);
  for (const Line* line : {&main_, twin_.get()}) {
    if (line != nullptr && line->transport->fd() >= 0) shutdown(line->transport->fd(), SHUT_RDWR);
  }
  WakeWaiters();
  SignalEventfd(kick_.get());
}

void ClientChannel::DieUnread() {
  DieLocked({fmt::format("the server has not read what it was sent for {} ms",
                         options_.timeout_ns / kNsPerMs),
             ETIMEDOUT});
}

void ClientChannel::DieUnanswered(const Slot& slot) {
  DieLocked({fmt::format("the server did not answer {} within {} ms", CommandName(slot.command),
                         options_.timeout_ns / kNsPerMs),
             ETIMEDOUT});
}

void ClientChannel::WakeWaiters() {
  for (Waiter* waiter : waiters_) waiter->wake.notify_one();
}

tl::unexpected<Error> ClientChannel::Refusal(const Slot& slot) const {
  const int code = slot.error == 0 || slot.error > 4095 ? EIO : static_cast<int>(slot.error);
  return FailWith(code, "the device refuses {}: {} (errno {})", CommandName(slot.command),
                  ErrnoText(code), slot.error);
}

ClientChannel::Slot* ClientChannel::FindSlot(uint16_t id) {
  const size_t index = id & 0xff;
  if (index >= kSlots) return nullptr;
  Slot& slot = slots_[index];
  return slot.in_use && slot.generation == id >> 8 ? &slot : nullptr;
}

void ClientChannel::Free(Slot& slot) {
  slot.in_use = false;
  slot.data = {};
  slot.fds.clear();
  free_[free_count_++] = static_cast<uint8_t>(&slot - slots_.data());
}

}  // namespace farside::vfio_user
