// IrqRelay: stands in for the eventfds that a client gives its device, so that what goes through
// them is seen.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/vfio_user_codec.h"

namespace farside::record {

// What an eventfd says: with kIrqActionTrigger the device signals a vector, with kIrqActionMask or
// kIrqActionUnmask the client masks or unmasks one.
struct IrqSignal {
  uint32_t action = 0;
  uint32_t index = 0;
  uint32_t vector = 0;
  auto operator<=>(const IrqSignal&) const = default;
};

class IrqRelay {
 public:
  // Eventfds of commands that the server has not answered.
  static constexpr size_t kMaxPending = 4096;
  // An eventfd's counter is the number of signals; but a hostile one may hold any number.
  static constexpr uint64_t kMaxSignals = 256;

  class Observer {
   public:
    virtual ~Observer() = default;
    // An eventfd was signalled; `count` times, it says. Afterwards it is passed on. Called from the
    // loop's top level, or from OnReply.
    virtual void OnSignal(const IrqSignal& signal, uint64_t count) = 0;
    // The same, before: what the server sent before it signalled should be looked at first.
    virtual void BeforeSignal(const IrqSignal& signal) = 0;
  };

  IrqRelay(EpollLoop& loop, Observer& observer) : loop_(loop), observer_(observer) {}

  // Looks at a DEVICE_SET_IRQS on its way to the server. Its fds become the ones that the server
  // gets instead, and the change is made when OnReply says that the server made it too; at once, if
  // the command wants no reply. An Error is to be answered to the client, and nothing to be passed
  // on.
  Result<void> OnCommand(vfio_user::Frame& frame);
  // The server's reply to a DEVICE_SET_IRQS.
  void OnReply(const vfio_user::Header& reply);

  // From here on nothing is passed on.
  void Stop();

 private:
  class Bridge;
  struct Change {
    uint16_t message_id = 0;
    vfio_user::SetIrqs request;
    std::vector<std::shared_ptr<Bridge>> bridges;  // Empty: what is there goes.
  };

  Result<Change> MakeBridges(vfio_user::Frame& frame, const vfio_user::SetIrqs& request);
  void Make(Change change);

  EpollLoop& loop_;
  Observer& observer_;
  std::map<IrqSignal, std::shared_ptr<Bridge>> bridges_;
  std::deque<Change> pending_;
  size_t pending_fds_ = 0;
};

}  // namespace farside::record
