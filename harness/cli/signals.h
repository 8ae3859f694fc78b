// Signals: SIGINT, SIGTERM and SIGHUP end what farside does, and leave nothing behind.
#pragma once

#include <atomic>
#include <thread>

#include "base/fd.h"
#include "harness/scenario/session.h"

namespace farside::cli {

// Made before any other thread, of which none gets the signals then.
class Signals {
 public:
  Signals();
  ~Signals();

  scenario::Interruption& interruption() { return interruption_; }
  // Readable from the first signal on.
  int fd() const { return eventfd_.get(); }

 private:
  void Watch();

  scenario::Interruption interruption_;
  UniqueFd eventfd_;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace farside::cli
