// Migration: the state machine of vfio-user's DEVICE_FEATURE 2 and the data of MIG_DATA_*.
#pragma once

#include <cstddef>
#include <vector>

#include "base/error.h"
#include "base/task.h"
#include "devices/core/device.h"
#include "protocol/vfio_user.h"

namespace farside {

// Supports stop-and-copy: RUNNING, STOP, STOP_COPY, RESUMING and ERROR. Every way from one state to
// another leads through STOP.
class Migration {
 public:
  // The most a saved state may take.
  static constexpr size_t kMaxStateSize = 64 << 20;

  explicit Migration(Device& device) : device_(device) {}

  vfio_user::MigrationState state() const { return state_; }

  // Ends when the new state is reached. EINVAL for an edge that does not exist, and for a state
  // stream that the device refuses, after which the state is ERROR.
  Task<Result<void>> SetState(vfio_user::MigrationState target);

  // Up to out.size() bytes of the stream; fewer at its end. EINVAL outside STOP_COPY.
  Result<size_t> Read(Bytes out);
  // Appends to the stream. EINVAL outside RESUMING, E2BIG past kMaxStateSize.
  Result<void> Write(ConstBytes in);

  // After a device reset: RUNNING, from whatever state.
  void OnReset();
  // The client that asked for the state is gone, and nobody would take the device out of it: it
  // runs. Not while SetState is awaited.
  void OnClientGone();

 private:
  // From the present state to STOP.
  Task<Result<void>> Leave();
  Task<Result<void>> LoadStream();

  Device& device_;
  vfio_user::MigrationState state_ = vfio_user::MigrationState::kRunning;
  std::vector<std::byte> stream_;
  size_t read_ = 0;
};

}  // namespace farside
