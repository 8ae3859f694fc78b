// MpqemuClientTarget: our client of QEMU's remotes with a hostile one, in one thread.
#pragma once

#include <memory>
#include <vector>

#include "base/fd.h"
#include "fuzz/host/hostile_remote.h"
#include "fuzz/targets/target.h"
#include "protocol/mpqemu_client.h"

namespace farside::fuzz {

// Events and their bits as in ClientTarget; windows and interrupts have eventfds and files of the
// target's. Oracles, besides HostileRemote's and ProcessWatch's: "client-answer", "bounded-work".
class MpqemuClientTarget final : public Target {
 public:
  static constexpr size_t kMaxTurns = 200'000;
  using Subject = std::unique_ptr<DeviceClient>;
  using MakeSubject = Result<Subject> (*)(std::unique_ptr<Transport> transport,
                                          std::function<bool(int)> pump);

  explicit MpqemuClientTarget(MakeSubject make);

  void Run(ConstBytes input) override;

 private:
  struct Begun {
    DeviceClient::ReadTicket ticket;
    std::vector<std::byte> out;
  };

  bool Pump();
  void Execute(const Event& event);
  void Attach();
  void Detach();
  void BeginCall();
  // `must`: it fails only where the remote's answers say so.
  void EndCall(std::string_view name, bool ok, bool must, bool waits = true);
  void Read(const Event& event);
  void FinishReads();
  void Write(const Event& event, ConstBytes data);
  void Query(uint32_t region);

  const MakeSubject make_;
  HostileRemote remote_;
  Subject client_;
  bool over_ = false;
  size_t turns_ = 0;
  std::vector<Begun> begun_;
  UniqueFd memory_;
  UniqueFd eventfd_;
  Session session_;
};

// mpqemu::MpqemuClient.
Result<std::unique_ptr<DeviceClient>> MakeMpqemuSubject(std::unique_ptr<Transport> transport,
                                                        std::function<bool(int)> pump);
std::unique_ptr<Target> MakeMpqemuClientTarget();

}  // namespace farside::fuzz
