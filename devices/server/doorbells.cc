#include "devices/server/doorbells.h"

#include <fcntl.h>
#include <sys/epoll.h>

#include <array>
#include <cerrno>

#include "base/check.h"

namespace farside {

Result<void> Doorbells::Make() {
  if (!bells_.empty()) return {};
  for (const DoorbellRange& range : device_.doorbells()) {
    auto eventfd = MakeEventfd();
    if (!eventfd) return tl::unexpected(eventfd.error());
    bells_.emplace_back(device_, range, std::move(*eventfd));
    if (const auto started = bells_.back().Start(loop_); !started) return started;
  }
  return {};
}

Result<std::vector<Doorbells::Handed>> Doorbells::Hand(Region region) {
  if (const auto made = Make(); !made) {
    Clear();
    return tl::unexpected(made.error());
  }
  std::vector<Handed> handed;
  for (const Bell& bell : bells_) {
    if (bell.range().region != region) continue;
    UniqueFd copy(fcntl(bell.eventfd(), F_DUPFD_CLOEXEC, 0));
    if (!copy)
      return FailWith(errno, "cannot duplicate a doorbell's eventfd: {}", ErrnoText(errno));
    handed.push_back({bell.range(), std::move(copy)});
  }
  return handed;
}

void Doorbells::Serve() {
  for (Bell& bell : bells_) bell.OnReady(EPOLLIN);
}

Result<void> Doorbells::Bell::Start(EpollLoop& loop) {
  return watch_.Start(loop, eventfd_.get(), EPOLLIN, *this);
}

void Doorbells::Bell::OnReady(uint32_t) {
  if (DrainEventfd(eventfd_.get()) == 0) return;
  static constexpr std::array<std::byte, 8> kZeroes{};
  CHECK(range_.size <= kZeroes.size());
  device_.WriteRegion(range_.region, range_.offset, ConstBytes(kZeroes).first(range_.size));
}

}  // namespace farside
