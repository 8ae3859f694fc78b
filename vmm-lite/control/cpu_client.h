// The control process's end of the channel to the CPU process.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "vmm-lite/control/cpu_channel.h"

namespace farside::vmm {

// Hears what the CPU process says by itself.
class CpuListener {
 public:
  virtual ~CpuListener() = default;
  virtual void OnCpuEvent(const std::string& name, const nlohmann::json& data) = 0;
  // The channel has ended: closed by the CPU process, or, with an error, given up because what came
  // is not the protocol. Said once.
  virtual void OnCpuClosed(const Result<void>& why) = 0;
};

class CpuClient final : public FdWatcher {
 public:
  using Reply = std::function<void(Result<nlohmann::json>)>;
  static constexpr uint64_t kTimeoutNs = 10'000'000'000;
  static constexpr size_t kMaxPending = 256;

  CpuClient(EpollLoop& loop, CpuListener& listener);

  Result<void> Connect(UniqueFd socket);

  // Sends a request; `reply` is called once, later or at once: with what "return" holds, or with an
  // Error (ETIME after `timeout_ns`).
  void Request(const std::string& name, nlohmann::json arguments, std::span<const int> fds,
               Reply reply, uint64_t timeout_ns = kTimeoutNs);

  bool open() const { return open_; }

  // Takes what has come already; for when the CPU process is known to have ended.
  void Drain();

 private:
  struct Pending {
    std::string name;
    uint64_t deadline_ns;
    Reply reply;
  };

  void OnReady(uint32_t events) override;
  bool ReceiveOne();
  Result<void> Handle(const nlohmann::json& body);
  Result<void> HandleReply(const nlohmann::json& body);
  void Close(const Result<void>& why);
  void ArmTimer();
  void TimeOut();

  EpollLoop& loop_;
  CpuListener& listener_;
  CpuChannel channel_{UniqueFd()};
  FdWatch watch_;
  bool open_ = false;
  uint64_t next_id_ = 1;
  std::map<uint64_t, Pending> pending_;
  Timer timer_;  // For the earliest of pending_.
};

}  // namespace farside::vmm
