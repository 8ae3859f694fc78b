// MpqemuServer: a device behind a channel that speaks mpqemu: the remote of x-pci-proxy-dev.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/epoll_loop.h"
#include "devices/server/device_server.h"
#include "devices/server/mpqemu_config.h"
#include "devices/server/slot.h"
#include "protocol/mpqemu_codec.h"

namespace farside {

// A guest cannot end it: what QEMU's remote ends at, an access outside of every BAR or at the end
// of configuration space, reads as ones here and ignores writes. Only broken framing, and messages
// of a size or with fds that no proxy sends, close the channel.
class MpqemuServer final : public DeviceServer, private FdWatcher {
 public:
  // Between two messages the device's tasks may make this many steps.
  static constexpr size_t kTaskQuantum = 64;
  // How long a DEVICE_RESET waits for I/O in flight.
  static constexpr uint64_t kDrainTimeoutNs = 2'000'000'000;
  // A proxy that does not read its replies is not read from beyond this many bytes of them.
  static constexpr size_t kMaxPendingOutput = 1 << 20;
  // Warnings about one client, each a line.
  static constexpr uint64_t kMaxComplaints = 100;

  // `slot` has its device plugged in and outlives the server, which is destroyed when its device is
  // drained and the loop has run what that made ready.
  explicit MpqemuServer(Slot& slot);
  ~MpqemuServer() override;

  Result<void> Accept(std::unique_ptr<Transport> transport) override;
  void Disconnect() override;
  bool connected() const override { return connection_ != nullptr; }
  bool client_failed() const override { return client_failed_; }

  // For transports without a file descriptor: receives and handles what there is.
  void Pump() {
    if (connected()) OnReady(0);
  }

  struct Counters {
    uint64_t commands = 0;
    uint64_t dropped_accesses = 0;   // Guest accesses that nothing answers.
    uint64_t refused_regions = 0;    // Of SYNC_SYSMEM.
    uint64_t unchanged_regions = 0;  // Of SYNC_SYSMEM: their mapping and its leases were kept.
    uint64_t mapped_regions = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  // A region of the last SYNC_SYSMEM that is mapped, by all that its mapping depends on.
  struct Mapped {
    uint64_t gpa = 0;
    uint64_t size = 0;
    uint64_t offset = 0;
    uint64_t device = 0;
    uint64_t inode = 0;
    friend bool operator==(const Mapped&, const Mapped&) = default;
  };

  struct Connection {
    explicit Connection(std::unique_ptr<Transport> its_transport)
        : transport(std::move(its_transport)) {}

    std::unique_ptr<Transport> transport;
    mpqemu::FrameReader reader{mpqemu::kMaxFrame};
    FrameWriter writer;
    FdWatch watch;
    bool stalled = false;  // A reset waits for the device; what follows waits for it.
    bool processing = false;
    bool broken = false;  // To be closed at the end of the batch.
    std::vector<Mapped> mapped;
    uint64_t complaints = 0;
  };

  void OnReady(uint32_t events) override;
  void ProcessFrames();
  bool HandleNext();
  void Flush();
  void UpdateWatch();
  void Break(std::string_view why);
  template <typename... Args>
  void Complain(fmt::format_string<Args...> format, Args&&... args);
  void ReplyValue(uint64_t value);

  // One for each command.
  void On(mpqemu::Frame& frame, const mpqemu::SyncSysmemRequest& request);
  void On(mpqemu::Frame& frame, const mpqemu::ConfigWriteRequest& request);
  void On(mpqemu::Frame& frame, const mpqemu::ConfigReadRequest& request);
  void On(mpqemu::Frame& frame, const mpqemu::BarWriteRequest& request);
  void On(mpqemu::Frame& frame, const mpqemu::BarReadRequest& request);
  void On(mpqemu::Frame& frame, const mpqemu::SetIrqfdRequest& request);
  void On(mpqemu::Frame& frame, const mpqemu::ResetRequest& request);

  std::vector<std::optional<Mapped>> Describe(const mpqemu::SyncSysmem& table,
                                              std::span<const UniqueFd> fds);
  std::optional<MpqemuConfig::Place> Decode(const mpqemu::BarAccess& access);
  Task<void> FinishReset(uint64_t epoch);

  Slot& slot_;
  MpqemuConfig config_;
  std::unique_ptr<Connection> connection_;
  uint64_t epoch_ = 0;  // Counts connections: a wait sees that its own is gone.
  bool busy_ = false;   // A reset has not ended.
  bool client_failed_ = false;
  Timer drain_timer_;
  Timer resume_timer_;
  TaskScope scope_;
  Counters counters_;
};

}  // namespace farside
