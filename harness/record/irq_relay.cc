#include "harness/record/irq_relay.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <variant>

#include "harness/record/recording.h"

namespace farside::record {

using vfio_user::SetIrqs;

// From one eventfd to another.
class IrqRelay::Bridge final : public FdWatcher, public std::enable_shared_from_this<Bridge> {
 public:
  Bridge(IrqRelay& relay, IrqSignal signal, UniqueFd from, UniqueFd to)
      : relay_(relay), signal_(signal), from_(std::move(from)), to_(std::move(to)) {}

  const IrqSignal& signal() const { return signal_; }

  Result<void> Start() { return watch_.Start(relay_.loop_, from_.get(), EPOLLIN, *this); }
  void Stop() { watch_.Stop(); }

  void OnReady(uint32_t) override {
    const auto self = shared_from_this();  // The observer may have it replaced.
    const uint64_t count = DrainEventfd(from_.get());
    // Ready without a count, an eventfd would be for ever.
    if (count == 0) return watch_.Stop();
    relay_.observer_.BeforeSignal(signal_);
    Deliver(count);
  }

  // What was signalled before it is replaced is not lost.
  void DeliverRest() {
    if (const uint64_t count = DrainEventfd(from_.get()); count != 0) Deliver(count);
  }

 private:
  void Deliver(uint64_t count) {
    relay_.observer_.OnSignal(signal_, std::min(count, kMaxSignals));
    while (write(to_.get(), &count, sizeof count) < 0 && errno == EINTR) {
    }
  }

  IrqRelay& relay_;
  const IrqSignal signal_;
  UniqueFd from_;
  UniqueFd to_;
  FdWatch watch_;
};

Result<void> IrqRelay::OnCommand(vfio_user::Frame& frame) {
  const auto request = vfio_user::DecodeRequest(frame);
  if (!request) {
    // The server judges it; but what it would do with the fds is not known.
    return frame.fds.empty() ? Result<void>() : tl::unexpected(request.error());
  }
  const SetIrqs irqs = std::get<vfio_user::DeviceSetIrqsRequest>(*request);
  const uint32_t data = irqs.flags & vfio_user::kIrqDataMask;
  const uint32_t action = irqs.flags & vfio_user::kIrqActionsMask;
  const bool disables =
      data == vfio_user::kIrqDataNone && action == vfio_user::kIrqActionTrigger && irqs.count == 0;
  if (data != vfio_user::kIrqDataEventfd && !disables) return {};
  if (pending_.size() + pending_fds_ >= kMaxPending) {
    return FailWith(EBUSY, "the server leaves {} DEVICE_SET_IRQS unanswered", pending_.size());
  }
  auto change = MakeBridges(frame, irqs);
  if (!change) return tl::unexpected(change.error());
  if (frame.no_reply()) {
    Make(std::move(*change));
  } else {
    pending_fds_ += change->bridges.size();
    pending_.push_back(std::move(*change));
  }
  return {};
}

Result<IrqRelay::Change> IrqRelay::MakeBridges(vfio_user::Frame& frame, const SetIrqs& request) {
  Change change{.message_id = frame.header.message_id, .request = request, .bridges = {}};
  const uint32_t action = request.flags & vfio_user::kIrqActionsMask;
  std::vector<UniqueFd> for_server;
  uint32_t vector = request.start;
  for (UniqueFd& fd : frame.fds) {
    if (DescribeFd(fd.get()).kind != trace::FdSpec::Kind::kEventfd) {
      return FailWith(EINVAL, "the fd of an interrupt is no eventfd");
    }
    if (auto set = SetNonBlocking(fd.get()); !set) return tl::unexpected(set.error());
    auto ours = MakeEventfd();
    if (!ours) return tl::unexpected(ours.error());
    for_server.emplace_back(fcntl(ours->get(), F_DUPFD_CLOEXEC, 0));
    if (!for_server.back()) return FailWith(errno, "an eventfd: {}", ErrnoText(errno));
    const IrqSignal signal{.action = action, .index = request.index, .vector = vector++};
    const bool from_device = action == vfio_user::kIrqActionTrigger;
    change.bridges.push_back(
        std::make_shared<Bridge>(*this, signal, from_device ? std::move(*ours) : std::move(fd),
                                 from_device ? std::move(fd) : std::move(*ours)));
  }
  frame.fds = std::move(for_server);
  return change;
}

void IrqRelay::OnReply(const vfio_user::Header& reply) {
  const auto found = std::ranges::find(pending_, reply.message_id, &Change::message_id);
  if (found == pending_.end()) return;
  Change change = std::move(*found);
  pending_.erase(found);
  pending_fds_ -= change.bridges.size();
  if ((reply.flags & vfio_user::kFlagError) == 0) Make(std::move(change));
}

void IrqRelay::Make(Change change) {
  const SetIrqs& request = change.request;
  const bool all = (request.flags & vfio_user::kIrqDataEventfd) == 0;
  const uint32_t action = request.flags & vfio_user::kIrqActionsMask;
  std::erase_if(bridges_, [&](const auto& entry) {
    const IrqSignal& signal = entry.first;
    const bool in_range =
        signal.vector >= request.start && signal.vector - request.start < request.count;
    if (signal.index != request.index || (!all && (signal.action != action || !in_range))) {
      return false;
    }
    entry.second->DeliverRest();
    return true;
  });
  for (auto& bridge : change.bridges) {
    // Without a watch its signals would be lost in silence; it can only fail for want of memory.
    if (bridge->Start()) bridges_[bridge->signal()] = std::move(bridge);
  }
}

void IrqRelay::Stop() {
  for (const auto& [signal, bridge] : bridges_) bridge->Stop();
  pending_.clear();
}

}  // namespace farside::record
