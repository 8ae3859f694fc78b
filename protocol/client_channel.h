// ClientChannel: requests of many threads over one channel, and the device's requests in between.
#pragma once

#include <poll.h>

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/device_client.h"
#include "protocol/dma_windows.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside::vfio_user {

inline constexpr uint64_t kDefaultTimeoutNs = 5'000'000'000;

struct ChannelOptions {
  // A request that is not answered for so long ends the client. At least 1 ms.
  uint64_t timeout_ns = kDefaultTimeoutNs;
  // A thread that waits for its reply looks for it this long before it blocks.
  uint64_t spin_ns = 0;
  // For transports without an fd: runs the other end, which lives in this thread, and may wait for
  // it up to the given milliseconds. False when the other end can't go on by itself.
  std::function<bool(int)> pump;
};

// What the device did by message.
struct DmaCounts {
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t refused = 0;  // Malformed, outside the windows, or not answered by the handler.
};

// A message that answers none of this client's own requests, for who sent raw bytes.
struct RawReply {
  Header header;
  std::vector<std::byte> payload;
  std::vector<UniqueFd> fds;
};

// Whoever waits and finds nobody reading, reads: it hands the others their replies and answers the
// device's commands (leader), until its own reply is there; then it wakes another one that waits.
// Nothing is locked while the leader waits or the DmaHandler runs.
class ClientChannel {
 public:
  // What a request carries: a payload in two parts, fds that stay the caller's.
  struct Outgoing {
    Command command;
    ConstBytes head = {};
    ConstBytes data = {};
    std::span<const int> fds = {};
  };
  static constexpr size_t kMaxHead = 32;
  // Where the reply's payload goes: the first head.size() bytes, at most kMaxHead, to `head`, the
  // rest to `data`. A longer payload breaks the protocol.
  struct Incoming {
    Bytes head = {};
    Bytes data = {};
    size_t size = 0;  // Of the payload that came.
    std::vector<UniqueFd> fds = {};
    bool takes_fds = false;  // Else fds break the protocol.
  };

  // `handler` outlives the channel; without one all DMA by message is refused.
  static Result<std::unique_ptr<ClientChannel>> Create(UniqueFd socket, ChannelOptions options,
                                                       DmaHandler* handler);
  static Result<std::unique_ptr<ClientChannel>> Create(std::unique_ptr<Transport> transport,
                                                       ChannelOptions options, DmaHandler* handler);

  ~ClientChannel();

  // Sends and waits for the reply. A payload shorter than reply->head breaks the protocol.
  Result<void> Exchange(const Outgoing& request, Incoming* reply);
  // Sends with kFlagNoReply. Waits only while the transport is full.
  Result<void> Post(const Outgoing& request);

  // A REGION_READ in flight. The request waits to be sent with what follows it.
  Result<uint16_t> BeginRead(const RegionAccess& access, Bytes out);
  Result<void> FinishRead(uint16_t id);

  // Leads until `fd` is readable.
  Result<bool> WaitReadable(int fd, uint64_t timeout_ns);

  // Bytes as they are, and what answers them. From the first call on, replies to nothing known are
  // kept for ReceiveRaw instead of ending the client.
  Result<void> SendRaw(ConstBytes bytes, std::span<const int> fds);
  Result<RawReply> ReceiveRaw(uint64_t timeout_ns);

  // After VERSION.
  void SetMaxTransfer(uint32_t size);
  Result<void> AddTwin(UniqueFd socket);

  void AddWindow(const DmaWindow& window);
  // It was not mapped after all; others in its range stay.
  void TakeBackWindow(const DmaWindow& window);
  void RemoveWindow(uint64_t iova, uint64_t size);
  void RemoveAllWindows();

  // Ends the client: the peer broke the protocol. Returns the Error that all calls now get.
  tl::unexpected<Error> Die(Error error);
  bool alive() const;
  DmaCounts dma_counts() const;

 private:
  using Lock = std::unique_lock<std::mutex>;

  // Ids are a slot and a generation, so that a late or repeated reply is recognised.
  static constexpr size_t kSlots = 255;
  static constexpr uint8_t kPostedSlot = 255;  // In the ids of posted writes.
  // Beyond this much unsent nothing is read or appended until the peer reads.
  static constexpr size_t kMaxPending = 256 << 10;
  static constexpr size_t kMaxRawReplies = 64;

  // A thread that lets another one read for it.
  struct Waiter {
    std::condition_variable wake;
  };

  struct Slot {
    uint8_t generation = 0;
    bool in_use = false;
    bool done = false;
    bool failed = false;  // The reply has kFlagError.
    bool takes_fds = false;
    Command command{};
    uint32_t error = 0;
    size_t head_size = 0;
    Bytes data;
    size_t size = 0;
    std::array<std::byte, kMaxHead> head{};
    std::vector<UniqueFd> fds;
    RegionAccess access;  // Of a begun read.
    Waiter* waiter = nullptr;
  };

  // A socket and the two directions of it. Only the leader touches the reader.
  struct Line {
    std::unique_ptr<Transport> transport;
    FrameReader reader{MaxMessageSize(kDefaultMaxDataXferSize)};
    FrameWriter writer{};
  };

  // What a leader waits for besides messages.
  struct Patience {
    uint64_t deadline_ns = 0;
    // The slot whose reply it waits for, if there is one and it has not waited for it before: then
    // it may block, and the watchdog sees to the deadline.
    const Slot* fresh = nullptr;
    int fd = -1;
  };
  enum class Woken {
    kMaybe,  // Look again.
    kFd,     // Patience::fd is readable.
    kIdle,   // ChannelOptions::pump says that nothing more will come.
  };
  struct Watch {
    std::array<pollfd, 4> fds{};
    size_t count = 0;
    void Add(int fd, short events) { fds[count++] = {.fd = fd, .events = events, .revents = 0}; }
    bool Woke(int fd) const;
  };

  ClientChannel(std::unique_ptr<Transport> transport, SocketTransport* socket,
                ChannelOptions options, DmaHandler* handler, UniqueFd kick);
  void RunWatchdog();

  // Called with the lock held; those that take it may let go of it meanwhile.
  Result<uint16_t> Start(Lock& lock, const Outgoing& request, const Incoming& reply);
  Result<void> WaitForRoom(Lock& lock);
  Result<void> WaitForReply(Lock& lock, Slot& slot);
  template <typename Done>
  bool WaitUntil(Lock& lock, uint64_t deadline_ns, Slot* slot, const Done& done);
  Woken Lead(Lock& lock, const Patience& patience);
  void Follow(Lock& lock, uint64_t deadline_ns, Slot* slot);
  void Retire(Lock& lock);
  bool Dispatch(Lock& lock);
  void OnCommand(Lock& lock, const Frame& frame, Line& line);
  int CallHandler(Lock& lock, const Request& request);
  void OnReply(Frame& frame);
  void KeepRaw(Frame& frame);
  void Append(uint16_t id, uint32_t flags, const Outgoing& request, std::vector<UniqueFd> fds);
  void Flush();
  void FlushLine(Line& line);
  size_t pending() const;
  Watch MakeWatch(const Patience& patience) const;
  void DieLocked(Error error);
  void DieUnread();
  void DieUnanswered(const Slot& slot);
  void WakeWaiters();
  tl::unexpected<Error> Epitaph() const { return tl::unexpected(*dead_); }
  tl::unexpected<Error> Refusal(const Slot& slot) const;
  Slot* FindSlot(uint16_t id);
  void Free(Slot& slot);

  // The leader's, called without the lock.
  Result<Woken> Poll(Watch watch, const Patience& patience);
  Result<Woken> Block();
  Result<Woken> Pump(const Patience& patience);
  Result<bool> Fill(Line& line);
  bool WaitForPoll(Watch& watch, uint64_t deadline_ns) const;

  const ChannelOptions options_;
  DmaHandler* const handler_;
  MonotonicClock clock_;
  SocketTransport* const socket_;  // main_.transport, if it is one.
  const UniqueFd kick_;            // Wakes those that poll.

  mutable std::mutex mutex_;
  std::optional<Error> dead_;
  Line main_;
  std::unique_ptr<Line> twin_;
  bool leading_ = false;     // Some thread leads.
  bool polling_ = false;     // And looks at kick_.
  size_t bystanders_ = 0;    // Threads in WaitReadable that do not lead; they look at kick_.
  size_t room_waiters_ = 0;  // Threads that wait until less is pending.
  bool closed_ = false;      // The peer takes no more bytes.
  std::vector<Waiter*> waiters_;
  std::array<Slot, kSlots> slots_;
  std::array<uint8_t, kSlots> free_{};
  size_t free_count_ = kSlots;
  DmaWindows windows_;
  uint32_t max_transfer_ = kDefaultMaxDataXferSize;
  DmaCounts dma_counts_;
  bool keeps_raw_ = false;
  std::vector<RawReply> raw_replies_;
  std::vector<std::byte> dma_buffer_;  // The leader's.

  // A timer in the kernel for each receive would cost a seventh of a round trip. So a leader that
  // blocks says until when, and a thread that sleeps nearly always looks after it.
  const Slot* blocked_on_ = nullptr;
  uint64_t blocked_until_ns_ = 0;
  bool ending_ = false;
  std::condition_variable end_;
  std::thread watchdog_;
};

}  // namespace farside::vfio_user
