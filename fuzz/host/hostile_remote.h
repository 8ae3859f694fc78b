// HostileRemote: the far end of an mpqemu client, as QEMU's remote with an LSI53C895A, until the
// session spoils its replies, sends bytes of its own or hangs up.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "fuzz/host/far_end.h"
#include "fuzz/host/hostile_line.h"
#include "fuzz/session/event.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/transport.h"

namespace farside::fuzz {

// Oracle "framing": the client sends what is no message, or what QEMU's remote ends at.
class HostileRemote final : public HostileEnd {
 public:
  enum class Outcome {
    kAsIs,    // The value that was sent is the answer.
    kEnd,     // An error, and the client's end.
    kUnsure,  // Whose answer it is can't be told.
  };
  struct Answered {
    Outcome outcome = Outcome::kAsIs;
    uint64_t value = 0;
  };

  HostileRemote();

  std::unique_ptr<MemoryTransport> Connect(bool pieces) override;
  UniqueFd ConnectSocket(bool pieces) override;
  void Disconnect();
  // As a new session finds it.
  void Begin();
  // kReply, kDeviceFrame or kHangUp: takes effect at the next request.
  void Queue(const Event& event);
  // Serves what has come and sends a bit more. False if there was nothing to do.
  bool Step() override;
  Watch watch() const override {
    return {line_.watch(), pollfd{.fd = -1, .events = 0, .revents = 0}};
  }

  void BeginCall() { answered_.clear(); }
  const std::vector<Answered>& answered() const { return answered_; }
  bool broken() const { return broken_; }
  // Nothing that was sent to it waits.
  bool served() const { return line_.nothing_waits(); }
  bool unsure() const { return unsure_; }
  // Some value was another than the device's.
  bool altered() const { return altered_; }

 private:
  // As a new connection finds it.
  void Reset();
  static constexpr std::array<uint32_t, 3> kBarSizes = {0x100, 0x400, 0x2000};

  void Serve(const mpqemu::Frame& frame, bool last);
  void Play(const Event& event);
  void Reply(ConstBytes made, bool last);
  bool Alter(const Event& event, mpqemu::Header& header, std::vector<std::byte>& payload,
             size_t& fds, bool last);

  // The honest remote.
  uint64_t ReadConfig(const mpqemu::ConfigAccess& access) const;
  void WriteConfig(const mpqemu::ConfigAccess& access);
  Bytes Locate(const mpqemu::BarAccess& access);
  void CheckMemory(const mpqemu::SyncSysmem& table, size_t fds) const;

  HostileLine line_{11};
  std::unique_ptr<mpqemu::FrameReader> reader_;
  std::array<std::byte, mpqemu::kConfigSize> config_;
  std::array<std::vector<std::byte>, kBarSizes.size()> bars_;
  std::deque<Event> queue_;
  std::deque<Event> spoilings_;
  std::vector<Answered> answered_;
  bool broken_ = false;
  bool unsure_ = false;
  bool altered_ = false;
};

}  // namespace farside::fuzz
