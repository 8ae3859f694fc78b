// MpqemuServerTarget: the server that speaks mpqemu, with an LSI53C895A behind it, under a hostile
// proxy.
#pragma once

#include <memory>
#include <optional>

#include "base/epoll_loop.h"
#include "devices/server/mpqemu_server.h"
#include "devices/server/slot.h"
#include "fuzz/host/dma_counter.h"
#include "fuzz/host/models.h"
#include "fuzz/host/mpqemu_proxy.h"
#include "fuzz/host/snapshots.h"
#include "fuzz/host/witness.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {

class MpqemuServerTarget final : public Target, private Pump, private BarPlaces {
 public:
  MpqemuServerTarget();
  ~MpqemuServerTarget() override;

  void Run(ConstBytes input) override;
  // Runs a session that may be longer than an input.
  void Run(const Session& session);
  MpqemuProxy& proxy() { return proxy_; }

 private:
  void RunSession();
  bool Step() override;
  Place BarPlace(uint32_t bar) const override;
  bool Decodes(uint64_t address, uint64_t size, bool memory) const override;
  uint32_t ReadConfig(uint64_t offset) const;

  void Play(std::span<const Event> events);
  void Execute(const Event& event);
  void LetTimePass(uint64_t ns);
  void Connect();
  void Disconnect();

  SessionClock clock_;
  std::unique_ptr<EpollLoop> loop_ = EpollLoop::Create(clock_).value();
  FramePool::Scope frames_{loop_->frames()};
  Slot slot_{*loop_, "fuzzed"};
  DmaCounter dma_{slot_.dma()};
  ModelBackends backends_{*loop_};
  std::optional<Snapshots> snapshots_;
  Witness witness_{*loop_};
  std::optional<MpqemuServer> server_;
  MemoryTransport* wire_ = nullptr;  // The proxy's end, as long as it is connected.
  MpqemuProxy proxy_{*this, *this};
  Session session_;
};

std::unique_ptr<Target> MakeMpqemuServerTarget();

}  // namespace farside::fuzz
