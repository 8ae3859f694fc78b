#include "devices/server/migration.h"

#include <algorithm>
#include <cerrno>

#include "base/bytes.h"
#include "devices/core/state.h"

namespace farside {

using State = vfio_user::MigrationState;

Task<Result<void>> Migration::SetState(State target) {
  const bool known = target == State::kRunning || target == State::kStop ||
                     target == State::kStopCopy || target == State::kResuming;
  if (!known || state_ == State::kError) {
    co_return FailWith(EINVAL, "no way leads from migration state {} to {}",
                       static_cast<uint32_t>(state_), static_cast<uint32_t>(target));
  }
  if (target == state_) co_return Result<void>();
  if (state_ != State::kStop) {
    const auto left = co_await Leave();
    if (!left) co_return left;
  }
  if (target == State::kStopCopy) {
    StateWriter writer;
    device_.Save(writer);
    stream_ = writer.Finish();
  } else if (target == State::kRunning) {
    device_.Resume();
  }
  state_ = target;
  co_return Result<void>();
}

Task<Result<void>> Migration::Leave() {
  Result<void> result;
  if (state_ == State::kRunning) {
    co_await device_.Drain();
  } else if (state_ == State::kResuming) {
    result = co_await LoadStream();
  }
  stream_ = {};
  read_ = 0;
  state_ = result ? State::kStop : State::kError;
  co_return result;
}

Task<Result<void>> Migration::LoadStream() {
  auto reader = StateReader::Parse(stream_);
  if (!reader) co_return FailWith(EINVAL, "{}", reader.error().message);
  device_.Reset(ResetKind::kFunction);
  co_await device_.Drain();
  if (const auto loaded = device_.Load(*reader); !loaded) {
    co_return FailWith(EINVAL, "{}", loaded.error().message);
  }
  co_return Result<void>();
}

Result<size_t> Migration::Read(Bytes out) {
  if (state_ != State::kStopCopy) {
    return FailWith(EINVAL, "migration data is read in state STOP_COPY only");
  }
  const size_t size = std::min(out.size(), stream_.size() - read_);
  Copy(out.first(size), ConstBytes(stream_).subspan(read_, size));
  read_ += size;
  return size;
}

Result<void> Migration::Write(ConstBytes in) {
  if (state_ != State::kResuming) {
    return FailWith(EINVAL, "migration data is written in state RESUMING only");
  }
  if (in.size() > kMaxStateSize - stream_.size()) {
    return FailWith(E2BIG, "a device state of more than {} bytes", kMaxStateSize);
  }
  stream_.insert(stream_.end(), in.begin(), in.end());
  return {};
}

void Migration::OnReset() {
  state_ = State::kRunning;
  stream_ = {};
  read_ = 0;
}

void Migration::OnClientGone() {
  if (state_ == State::kRunning) return;
  OnReset();
  device_.Resume();
}

}  // namespace farside
