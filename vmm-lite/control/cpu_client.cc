#include "vmm-lite/control/cpu_client.h"

#include <sys/epoll.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "base/options.h"

namespace farside::vmm {

using nlohmann::json;

CpuClient::CpuClient(EpollLoop& loop, CpuListener& listener)
    : loop_(loop), listener_(listener), timer_(loop, [this] { TimeOut(); }) {}

Result<void> CpuClient::Connect(UniqueFd socket) {
  if (auto set = SetNonBlocking(socket.get()); !set) return set;
  channel_ = CpuChannel(std::move(socket));
  open_ = true;
  return watch_.Start(loop_, channel_.fd(), EPOLLIN, *this);
}

void CpuClient::Request(const std::string& name, json arguments, std::span<const int> fds,
                        Reply reply, uint64_t timeout_ns) {
  if (!open_) return reply(Fail("{}: the CPU process has ended", name));
  if (pending_.size() >= kMaxPending) {
    return reply(
        Fail("{}: {} requests wait for the CPU process: try again later", name, pending_.size()));
  }
  const uint64_t id = next_id_++;
  const json request{{"execute", name}, {"id", id}, {"arguments", std::move(arguments)}};
  if (const auto sent = channel_.Send(request, fds); !sent) {
    return reply(FailWith(sent.error().code, "{}: {}", name, sent.error().message));
  }
  pending_.emplace(id, Pending{name, loop_.clock().now_ns() + timeout_ns, std::move(reply)});
  ArmTimer();
}

void CpuClient::OnReady(uint32_t) { ReceiveOne(); }

void CpuClient::Drain() {
  while (open_ && ReceiveOne()) {
  }
}

// True if there may be more.
bool CpuClient::ReceiveOne() {
  auto message = channel_.Receive();
  if (!message && message.error().code == EAGAIN) return false;
  Result<void> ok;
  if (!message) {
    ok = tl::unexpected(message.error());
  } else if (*message) {
    ok = Handle((*message)->body);
    if (ok) return true;
  }
  Close(ok);
  return false;
}

Result<void> CpuClient::Handle(const json& body) {
  const auto event = body.find("event");
  if (event == body.end()) return HandleReply(body);
  const auto data = body.find("data");
  if (!event->is_string() || (data != body.end() && !data->is_object())) {
    return FailWith(EPROTO, "the CPU process sent no lawful event: {}", Quote(body.dump()));
  }
  listener_.OnCpuEvent(event->get<std::string>(), data != body.end() ? *data : json::object());
  return {};
}

Result<void> CpuClient::HandleReply(const json& body) {
  const auto id = body.find("id");
  const auto result = body.find("return");
  const auto error = body.find("error");
  const bool lawful = id != body.end() && id->is_number_unsigned() &&
                      ((result != body.end()) != (error != body.end())) &&
                      (error == body.end() || (error->is_object() && error->contains("desc") &&
                                               (*error)["desc"].is_string()));
  if (!lawful) {
    return FailWith(EPROTO, "the CPU process sent no lawful reply: {}",
                    Quote(body.dump(-1, ' ', false, json::error_handler_t::replace)));
  }
  const auto found = pending_.find(id->get<uint64_t>());
  if (found == pending_.end()) return {};  // It came after its time-out.
  const Reply reply = std::move(found->second.reply);
  pending_.erase(found);
  ArmTimer();
  if (result != body.end()) {
    reply(*result);
  } else {
    reply(Fail("{}", (*error)["desc"].get<std::string>()));
  }
  return {};
}

void CpuClient::Close(const Result<void>& why) {
  if (!std::exchange(open_, false)) return;
  watch_.Stop();
  channel_ = CpuChannel(UniqueFd());
  timer_.Disarm();
  for (auto& [id, request] : std::exchange(pending_, {})) {
    request.reply(Fail("{}: the CPU process has ended", request.name));
  }
  listener_.OnCpuClosed(why);
}

void CpuClient::ArmTimer() {
  uint64_t first = UINT64_MAX;
  for (const auto& [id, request] : pending_) first = std::min(first, request.deadline_ns);
  if (pending_.empty()) {
    timer_.Disarm();
  } else {
    timer_.Arm(first);
  }
}

void CpuClient::TimeOut() {
  std::vector<Pending> late;
  const uint64_t now = loop_.clock().now_ns();
  for (auto it = pending_.begin(); it != pending_.end();) {
    if (it->second.deadline_ns > now) {
      ++it;
      continue;
    }
    late.push_back(std::move(it->second));
    it = pending_.erase(it);
  }
  ArmTimer();
  for (const Pending& request : late) {
    request.reply(FailWith(ETIME, "{}: the CPU process gave no answer in time", request.name));
  }
}

}  // namespace farside::vmm
