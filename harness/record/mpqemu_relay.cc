#include "harness/record/mpqemu_relay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace farside::record {

namespace {

// An eventfd's counter is the number of signals; but a hostile one may hold any number.
constexpr uint64_t kMaxSignals = 256;

}  // namespace

Result<std::unique_ptr<MpqemuRelay>> MpqemuRelay::Create(EpollLoop& loop, Recording& recording,
                                                         UniqueFd client, UniqueFd server) {
  std::unique_ptr<MpqemuRelay> relay(new MpqemuRelay(loop, recording));
  for (auto& [line, socket] :
       {std::pair(&relay->client_, &client), std::pair(&relay->server_, &server)}) {
    auto transport = SocketTransport::Create(std::move(*socket));
    if (!transport) return tl::unexpected(transport.error());
    line->transport = std::move(*transport);
    auto watched = line->watch.Start(loop, line->transport->fd(), EPOLLIN, *line);
    if (!watched) return tl::unexpected(watched.error());
  }
  recording.Attach();
  return relay;
}

void MpqemuRelay::End(std::string failure) {
  if (std::exchange(ended_, true)) return;
  failure_ = std::move(failure);
  recording_.Detach();
  for (Line* line : {&client_, &server_}) line->watch.Stop();
  for (Bridge* bridge : {interrupt_.get(), resample_.get()}) {
    if (bridge != nullptr) bridge->watch.Stop();
  }
  loop_.Stop();
}

void MpqemuRelay::OnReady(Line& line, uint32_t events) {
  const char* const name = line.is_client ? "client" : "server";
  if ((events & EPOLLOUT) != 0) {
    if (const auto flushed = Flush(line); !flushed) return End(flushed.error().message);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  const auto filled = line.reader.Fill(*line.transport);
  if (!filled) {
    return End(fmt::format("the {}'s connection ends: {}", name, filled.error().message));
  }
  if (*filled == FillStatus::kEnd) {
    // What the server said last is recorded, too.
    if (line.is_client) return End("");
    return End("the server is gone");
  }
  while (!ended_) {
    auto frame = line.reader.Next();
    if (!frame) return End(fmt::format("from the {}: {}", name, frame.error().message));
    if (!*frame) break;
    if (const auto passed = Pass(line, std::move(**frame)); !passed) {
      return End(fmt::format("from the {}: {}", name, passed.error().message));
    }
  }
}

Result<void> MpqemuRelay::Pass(Line& from, mpqemu::Frame frame) {
  Line& to = from.is_client ? server_ : client_;
  if (from.is_client) {
    const auto request = mpqemu::DecodeRequest(frame);
    if (!request) return tl::unexpected(request.error());
    view_.OnRequest(*request, frame.fds);
    if (frame.command() == mpqemu::Command::kSetIrqfd) {
      if (auto made = MakeBridges(frame); !made) return made;
    }
  } else {
    view_.OnReply(LoadLePartial(frame.payload.first(std::min<size_t>(frame.payload.size(), 8))));
  }
  to.writer.Append(frame.header, frame.payload, std::move(frame.fds));
  return Flush(to);
}

Result<void> MpqemuRelay::MakeBridges(mpqemu::Frame& frame) {
  if (frame.fds.size() < 2) return {};
  auto interrupt = std::make_unique<Bridge>(*this, true);
  auto resample = std::make_unique<Bridge>(*this, false);
  auto heard = MakeEventfd();
  auto told = MakeEventfd();
  if (!heard || !told) return tl::unexpected((heard ? told : heard).error());
  std::vector<UniqueFd> for_server;
  for (const UniqueFd* fd : {&*heard, &*told}) {
    for_server.emplace_back(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
    if (!for_server.back()) return FailWith(errno, "an eventfd: {}", ErrnoText(errno));
  }
  for (const UniqueFd& fd : frame.fds) {
    if (auto set = SetNonBlocking(fd.get()); !set) return set;
  }
  interrupt->from = std::move(*heard);
  interrupt->to = std::move(frame.fds[0]);
  resample->from = std::move(frame.fds[1]);
  resample->to = std::move(*told);
  for (Bridge* bridge : {interrupt.get(), resample.get()}) {
    auto watched = bridge->watch.Start(loop_, bridge->from.get(), EPOLLIN, *bridge);
    if (!watched) return watched;
  }
  // What was signalled before they are replaced is not lost.
  if (interrupt_) OnSignal(*interrupt_);
  interrupt_ = std::move(interrupt);
  resample_ = std::move(resample);
  frame.fds = std::move(for_server);
  return {};
}

void MpqemuRelay::OnSignal(Bridge& bridge) {
  const uint64_t count = DrainEventfd(bridge.from.get());
  if (count == 0) return;
  if (bridge.is_interrupt) {
    // What the server sent before it signalled comes first.
    OnReady(server_, EPOLLIN);
    if (ended_) return;
    for (uint64_t i = 0; i < std::min(count, kMaxSignals); ++i) {
      recording_.Interrupt(
          {.index = static_cast<uint32_t>(vfio_user::IrqIndex::kIntx), .vector = 0});
    }
  }
  while (write(bridge.to.get(), &count, sizeof count) < 0 && errno == EINTR) {
  }
}

Result<void> MpqemuRelay::Flush(Line& line) {
  const auto flushed = line.writer.Flush(*line.transport);
  if (!flushed) return tl::unexpected(flushed.error());
  line.watch.SetEvents(*flushed ? EPOLLIN : EPOLLIN | EPOLLOUT);
  return {};
}

}  // namespace farside::record
