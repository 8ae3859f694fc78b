// MpqemuProxy: a hostile x-pci-proxy-dev. Plays sessions against a remote and watches what comes
// back.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "fuzz/host/client.h"
#include "fuzz/host/eventfd_set.h"
#include "fuzz/host/wire_observer.h"
#include "fuzz/session/event.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/transport.h"

namespace farside::fuzz {

// Where the device's BARs lie: what an event's accesses are translated with, and judged by.
class BarPlaces {
 public:
  virtual ~BarPlaces() = default;
  struct Place {
    uint64_t address = 0;
    bool memory = false;
  };
  virtual Place BarPlace(uint32_t bar) const = 0;
  // A BAR is decoded there, with all `size` bytes.
  virtual bool Decodes(uint64_t address, uint64_t size, bool memory) const = 0;
};

// Oracles: "answered" (a request without its reply, with two, with one of another kind, or an end
// of the channel that nothing gave reason for; and none where there was reason), "framing" (what is
// no reply), "reply-content" (an access to nothing that does not read as all ones, or of a size
// that there is not), "interrupt-unarmed", "guard".
class MpqemuProxy {
 public:
  MpqemuProxy(Pump& pump, const BarPlaces& places);

  // May be nobody. Outlives this.
  void set_observer(WireObserver* observer) { observer_ = observer; }

  // A new connection, and the usual memory.
  void Connect(std::unique_ptr<Transport> transport);
  void Disconnect();
  bool connected() const { return transport_ != nullptr; }
  bool closed() const { return closed_; }

  void Execute(const Event& event);
  // All requests are answered; nothing is left behind.
  void Finish();
  uint64_t interrupts() const { return interrupts_; }

 private:
  // Of a window: which file it is of.
  enum class File : uint8_t { kMemory, kHighMemory, kEventfd, kPipe, kShort };
  struct Window {
    uint64_t gpa = 0;
    uint64_t size = 0;
    uint64_t offset = 0;
    File file = File::kMemory;
  };
  struct Due {
    mpqemu::Command command{};
    uint32_t size = 0;                   // Of the access.
    std::optional<uint64_t> value = {};  // That it has to read.
  };
  static constexpr size_t kEventfds = 6;

  // `due`: what its reply is held to, if it has one.
  void Send(mpqemu::Command command, ConstBytes payload, std::span<const int> fds, Due due);
  void Send(mpqemu::Command command, ConstBytes payload, std::span<const int> fds = {}) {
    Send(command, payload, fds, Due{});
  }
  void SendBytes(ConstBytes bytes, std::span<const int> fds);
  void SendFrame(const Event& event);
  // What a read of a BAR has to give where nothing is that could give it.
  std::optional<uint64_t> ReadsAs(const mpqemu::BarAccess& access) const;
  void Access(uint32_t region, uint64_t offset, uint32_t size, uint64_t value, bool writes);
  void SendWindows();
  void SetIrqfd(const Event& event);
  void Map(const Event& event);
  int FdOf(File file) const;
  void WriteMemory(uint64_t iova, ConstBytes data);
  void Wait();
  bool Receive();
  void OnReply(const mpqemu::Frame& frame);
  void LookAtEventfds();

  Pump& pump_;
  const BarPlaces& places_;
  WireObserver* observer_ = nullptr;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<mpqemu::FrameReader> reader_;
  bool closed_ = false;
  bool broken_ = false;  // Something was sent that ends the channel.
  bool unsure_ = false;  // Or leaves it in the middle of a message.
  SharedWindow memory_{Host::kSize};
  SharedWindow high_memory_{Host::kHighSize};
  UniqueFd short_file_;
  UniqueFd pipe_;
  std::vector<Window> windows_;
  EventfdSet<kEventfds> eventfds_;
  size_t armed_ = kEventfds;  // Which one is; kEventfds: none.
  std::deque<Due> due_;
  uint64_t interrupts_ = 0;
};

}  // namespace farside::fuzz
