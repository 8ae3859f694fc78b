// ClientTarget: the VMM's side of vfio-user under a hostile device process. In memory, in one
// thread and without a clock: when the device has nothing more to say, a call ends at once. Or
// across a socket, with the device in a thread, CPUs in others, and the clock that there is.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "fuzz/host/far_end.h"
#include "fuzz/host/hostile_device.h"
#include "fuzz/host/impatience.h"
#include "fuzz/targets/target.h"
#include "protocol/device_client.h"

namespace farside::fuzz {

// What the target calls. Events are a VMM's; besides, a `read` of size 0 asks what a region is
// (of configuration space: probes the function; of region 8: asks what the device is), and
// `reconnect` attaches again. Bits of `what` beyond the region's: see the source.
//
// Oracles, besides HostileDevice's and ProcessWatch's: "client-answer" (a call ends otherwise than
// the device's answer says, or a client that is over goes on), "dma-window" (the DmaHandler is
// called outside the windows or against their rights), "bounded-work" (a call makes too many
// turns).
class ClientTarget final : public Target, private DmaHandler, private HostileDevice::Windows {
 public:
  // Makes what is under test, attached.
  using MakeSubject = Result<std::unique_ptr<DeviceClient>> (*)(ClientWire wire,
                                                                DmaHandler* handler);
  // Turns of the pump in one call.
  static constexpr size_t kMaxTurns = 200'000;

  ClientTarget(MakeSubject make, bool across_socket);
  ~ClientTarget() override;

  void Run(ConstBytes input) override;

 private:
  static constexpr size_t kMaxBegun = 8;
  static constexpr size_t kEventfds = 16;

  struct Window {
    uint64_t iova = 0;
    uint64_t size = 0;
    uint32_t flags = 0;
  };
  struct Begun {
    DeviceClient::ReadTicket ticket;
    std::vector<std::byte> out;
  };

  int OnDmaRead(uint64_t iova, Bytes out) override;
  int OnDmaWrite(uint64_t iova, ConstBytes in) override;
  bool Allows(uint64_t iova, uint64_t count, bool writes) const override;
  int Handle(uint64_t iova, uint64_t count, bool writes);
  void Turn();
  // What may come of a clock too is tried again with more patience, before it is a violation.
  template <typename... T>
  [[noreturn]] void Complain(fmt::format_string<T...> format, T&&... args) {
    impatience_.Complain("client-answer", fmt::format(format, std::forward<T>(args)...));
  }

  void Play();
  void Execute(const Event& event);
  void Attach();
  void Detach();
  // Between the two the device lives.
  void BeginCall();
  // What the call that ends now had to end with; nothing where the device was not asked. Complains
  // where it did not. `own_mind`: it may fail though every answer was in order.
  template <typename T>
  std::optional<Outcome> EndCall(std::string_view name, const Result<T>& result,
                                 bool own_mind = false) {
    const Error error = result ? Error{} : result.error();
    return Judge(name, result.has_value(), error, own_mind);
  }
  std::optional<Outcome> Judge(std::string_view name, bool ok, const Error& error, bool own_mind);
  std::optional<Outcome> Due(int* error) const;
  const Answered& last() const { return device_.answered().back(); }

  void Read(const Event& event);
  void FinishReads();
  void Write(const Event& event, ConstBytes data);
  void WriteMulti(const Event& event);
  void Query(uint32_t region);
  void QueryRegion(uint32_t region);
  void QueryIoFds(uint32_t region);
  void QueryIrq(uint32_t index);
  void Probe();
  void SetIrqs(const Event& event);
  void Map(const Event& event);
  void Unmap(const Event& event);
  void Migrate();
  void Drain();
  void DrainSocket();

  const MakeSubject make_;
  MonotonicClock clock_;
  Impatience impatience_;
  HostileDevice device_{*this};
  FarEnd far_end_;
  std::unique_ptr<DeviceClient> client_;
  bool over_ = false;  // The client has ended.
  size_t turns_ = 0;   // Of the pump, in this call; 0 across a socket.
  std::vector<Window> windows_;
  std::vector<std::byte> memory_;
  uint32_t faults_ = 0;  // DMA accesses that are refused.
  uint64_t dma_ = 0;     // That were done.
  std::vector<Begun> begun_;
  UniqueFd window_fd_;
  std::vector<UniqueFd> eventfds_;
  Session session_;
};

// vfio_user::VfioUserClient.
Result<std::unique_ptr<DeviceClient>> MakeVfioUserSubject(ClientWire wire, DmaHandler* handler);

}  // namespace farside::fuzz
