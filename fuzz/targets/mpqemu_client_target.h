// MpqemuClientTarget: our client of QEMU's remotes with a hostile one, in one thread; or across a
// socket, as ClientTarget.
#pragma once

#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "fuzz/host/far_end.h"
#include "fuzz/host/hostile_remote.h"
#include "fuzz/host/impatience.h"
#include "fuzz/targets/target.h"
#include "protocol/mpqemu_client.h"

namespace farside::fuzz {

// Events and their bits as in ClientTarget; windows and interrupts have eventfds and files of the
// target's. Oracles, besides HostileRemote's and ProcessWatch's: "client-answer", "bounded-work".
class MpqemuClientTarget final : public Target {
 public:
  static constexpr size_t kMaxTurns = 200'000;
  using Subject = std::unique_ptr<DeviceClient>;
  using MakeSubject = Result<Subject> (*)(ClientWire wire);

  MpqemuClientTarget(MakeSubject make, bool across_socket);

  void Run(ConstBytes input) override;

 private:
  struct Begun {
    DeviceClient::ReadTicket ticket;
    std::vector<std::byte> out;
  };

  void Turn();
  template <typename... T>
  [[noreturn]] void Complain(fmt::format_string<T...> format, T&&... args) {
    impatience_.Complain("client-answer", fmt::format(format, std::forward<T>(args)...));
  }
  void Play();
  void Execute(const Event& event);
  void Attach();
  void Detach();
  // Between the two the remote lives.
  void BeginCall();
  // `must`: it fails only where the remote's answers say so.
  void EndCall(std::string_view name, bool ok, bool must, bool waits = true);
  void Read(const Event& event);
  void FinishReads();
  void AwaitService();
  void Write(const Event& event, ConstBytes data);
  void WriteMulti(const Event& event);
  void QueryIrq(uint32_t index);
  void Migrate();
  void Query(uint32_t region);

  const MakeSubject make_;
  MonotonicClock clock_;
  Impatience impatience_;
  HostileRemote remote_;
  FarEnd far_end_;
  Subject client_;
  bool over_ = false;
  size_t turns_ = 0;
  std::vector<Begun> begun_;
  UniqueFd memory_;
  UniqueFd eventfd_;
  Session session_;
};

// mpqemu::MpqemuClient.
Result<std::unique_ptr<DeviceClient>> MakeMpqemuSubject(ClientWire wire);
std::unique_ptr<Target> MakeMpqemuClientTarget();
std::unique_ptr<Target> MakeMpqemuClientSocketTarget();

}  // namespace farside::fuzz
