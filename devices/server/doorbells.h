// Doorbells: registers that a client may write by eventfd instead of by message.
#pragma once

#include <cstdint>
#include <list>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "devices/core/device.h"

namespace farside {

// The eventfds of a device's doorbells, made when a client first asks for them. A signal is a write
// of zeroes to the register: only doorbells whose data mean nothing are offered
// (Device::doorbells).
class Doorbells {
 public:
  struct Handed {
    DoorbellRange range;
    UniqueFd eventfd;  // A duplicate, the caller's.
  };

  Doorbells(EpollLoop& loop, Device& device) : loop_(loop), device_(device) {}

  // All doorbells of `region`.
  Result<std::vector<Handed>> Hand(Region region);

  // Serves what was signalled up to now: called between receiving messages and handling them, so
  // that a doorbell rung before a message was sent comes before it.
  void Serve();

  // The client is gone; its eventfds ring no more.
  void Clear() { bells_.clear(); }

 private:
  class Bell final : public FdWatcher {
   public:
    Bell(Device& device, const DoorbellRange& range, UniqueFd eventfd)
        : device_(device), range_(range), eventfd_(std::move(eventfd)) {}
    Result<void> Start(EpollLoop& loop);
    void OnReady(uint32_t events) override;
    const DoorbellRange& range() const { return range_; }
    int eventfd() const { return eventfd_.get(); }

   private:
    Device& device_;
    DoorbellRange range_;
    UniqueFd eventfd_;
    FdWatch watch_;
  };

  Result<void> Make();

  EpollLoop& loop_;
  Device& device_;
  std::list<Bell> bells_;
};

}  // namespace farside
