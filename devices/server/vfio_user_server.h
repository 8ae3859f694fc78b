// VfioUserServer: a device behind a vfio-user channel.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/epoll_loop.h"
#include "devices/server/device_server.h"
#include "devices/server/doorbells.h"
#include "devices/server/migration.h"
#include "devices/server/slot.h"
#include "protocol/capabilities.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside {

// Serves one client at a time, and the next when it is gone; the device keeps its state between
// them. Commands are carried out in their order. A command that has to wait for the device (RESET,
// UNMAP, a migration state) holds back the commands behind it, never the replies to DMA.
class VfioUserServer final : public DeviceServer,
                             private FdWatcher,
                             private DmaMessages::Channel,
                             private InbandInterrupts {
 public:
  // Between two commands the device's tasks may make this many steps.
  static constexpr size_t kTaskQuantum = 64;
  // How long an UNMAP or a RESET waits for I/O in flight.
  static constexpr uint64_t kDrainTimeoutNs = 2'000'000'000;
  // A client that does not read its replies is not read from beyond this many bytes of them.
  static constexpr size_t kMaxPendingOutput = 4 << 20;
  // Commands that are kept behind one that waits: beyond these limits, in bytes and in commands,
  // the client is not read from, and neither are its replies to DMA.
  static constexpr size_t kMaxHeldBytes = 1 << 20;
  static constexpr size_t kMaxHeldCommands = 256;
  // Errors of one client that are logged, each a line.
  static constexpr uint64_t kMaxComplaints = 100;

  // `slot` has its device plugged in and outlives the server, which is destroyed when its device is
  // drained and the loop has run what that made ready.
  explicit VfioUserServer(Slot& slot);
  ~VfioUserServer() override;

  // A client that has hung up is no other one: what it still sent is carried out first.
  Result<void> Accept(std::unique_ptr<Transport> transport) override;
  // Waits for the client's DMA are cancelled, too.
  void Disconnect() override;
  bool connected() const override { return connection_ != nullptr; }
  bool client_failed() const override { return client_failed_; }

  // For transports without a file descriptor: receives and handles what there is.
  void Pump() {
    if (connected()) OnReady(0);
  }

  struct Counters {
    uint64_t commands = 0;
    uint64_t error_replies = 0;
    uint64_t dropped_accesses = 0;  // Guest accesses outside of regions.
    uint64_t stray_replies = 0;     // Replies to no command, or of another size than it asked for.
  };
  const Counters& counters() const { return counters_; }

 private:
  // A command that waits for its turn, with what its frame had.
  struct HeldCommand {
    vfio_user::Header header;
    std::vector<std::byte> payload;
    std::vector<UniqueFd> fds;
  };

  struct Connection {
    explicit Connection(std::unique_ptr<Transport> its_transport)
        : transport(std::move(its_transport)) {}

    std::unique_ptr<Transport> transport;
    vfio_user::FrameReader reader{vfio_user::MaxMessageSize(vfio_user::kDefaultMaxDataXferSize)};
    vfio_user::FrameWriter writer;
    FdWatch watch;
    bool negotiated = false;
    bool corked = false;   // Flush comes at the end of the batch.
    bool stalled = false;  // A command waits for the device; those behind it wait for it.
    bool broken = false;   // To be closed at the end of the batch.
    bool deaf = false;     // It takes no replies any more; what it sent before is carried out.
    std::deque<HeldCommand> held;
    size_t held_bytes = 0;
    uint64_t complaints = 0;
    std::vector<std::byte> read_data;  // Of a REGION_READ: kept, so that none allocates.
    uint64_t max_transfer = vfio_user::kDefaultMaxDataXferSize;
    size_t max_windows = vfio_user::kDefaultMaxDmaMaps;
    vfio_user::Capabilities::Farside extensions;
    size_t max_reply_fds = 1;  // That the client can take in one message.
  };

  void OnReady(uint32_t events) override;
  vfio_user::FrameWriter& writer() override { return connection_->writer; }
  void OnAppended() override;
  void SendInterrupt(IrqIndex index, uint32_t vector) override;

  void FinishHungUp();
  void ProcessFrames();
  bool HandleNext();
  void Hold(vfio_user::Frame& frame);
  bool HeldFull() const;
  bool InputBlocked() const;
  void Flush();
  void UpdateWatch();
  void Break(std::string_view why);

  void Handle(vfio_user::Frame& frame);
  Bytes BeginReply(const vfio_user::Frame& frame, size_t payload_size);
  // Replies with the bytes of `payload`, unless the command wants none.
  template <typename T>
  void Reply(const vfio_user::Frame& frame, const T& payload) {
    if (!frame.no_reply()) Copy(BeginReply(frame, sizeof payload), AsBytes(payload));
  }
  void ReplyEmpty(const vfio_user::Frame& frame);
  void ReplyError(const vfio_user::Frame& frame, const Error& error);
  void ReplyResult(const vfio_user::Frame& frame, const Result<void>& result);

  // One for each command (vfio_user_commands.cc).
  void On(vfio_user::Frame& frame, const vfio_user::VersionRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DmaMapRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DmaUnmapRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceGetInfoRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceGetRegionInfoRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceGetRegionIoFdsRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceGetIrqInfoRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceSetIrqsRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::RegionReadRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::RegionWriteRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DmaReadRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DmaWriteRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceResetRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::RegionWriteMultiRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::DeviceFeatureRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::MigDataReadRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::MigDataWriteRequest& request);
  void On(vfio_user::Frame& frame, const vfio_user::ClockAdvanceRequest& request);

  Result<void> SetIrqs(vfio_user::Frame& frame, const vfio_user::DeviceSetIrqsRequest& request);
  Result<void> Negotiate(vfio_user::Frame& frame, const vfio_user::VersionRequest& request);
  void WriteRegion(uint32_t region, uint64_t offset, ConstBytes data);
  bool RegionHolds(uint32_t region, uint64_t offset, size_t size) const;
  void WarnIfPrivate(const UniqueFd& fd);
  void GetFeature(vfio_user::Frame& frame, const vfio_user::DeviceFeatureRequest& request);
  void SetFeature(vfio_user::Frame& frame, const vfio_user::DeviceFeatureRequest& request);
  template <typename T>
  void ReplyFeature(const vfio_user::Frame& frame, const vfio_user::DeviceFeatureRequest& request,
                    const T& data, ConstBytes rest = {});
  void GetDirtyReport(vfio_user::Frame& frame, const vfio_user::DeviceFeatureRequest& request);
  Result<void> StartDirtyLog(ConstBytes data);

  // Commands that wait. Each replies and lets the next go on if its connection is still there.
  void Stall() { connection_->stalled = true; }
  void Unstall(uint64_t epoch);
  Task<void> FinishUnmap(vfio_user::Header request, vfio_user::DmaUnmap reply, uint64_t epoch);
  Task<void> FinishReset(vfio_user::Header request, uint64_t epoch);
  Task<void> FinishSetState(vfio_user::Header request, vfio_user::FeatureMigrationState state,
                            uint64_t epoch);

  Slot& slot_;
  std::unique_ptr<Connection> connection_;
  // Files of clients' memory, by process, device and inode: those that were looked at last.
  std::vector<std::tuple<pid_t, uint64_t, uint64_t>> looked_at_;
  uint64_t epoch_ = 0;  // Counts connections: a wait sees that its own is gone.
  bool busy_ = false;   // A RESET or a change of migration state has not ended.
  Migration migration_;
  Doorbells doorbells_;
  Timer drain_timer_;
  Timer resume_timer_;
  TaskScope scope_;
  Counters counters_;
  bool client_failed_ = false;
};

// Accepts the clients of one listening socket for one server.
class VfioUserListener final : private FdWatcher {
 public:
  // Where a client can't be accepted for want of descriptors or memory, it is tried again after
  // this.
  static constexpr uint64_t kRetryNs = 1'000'000'000;

  // `socket` is listening and non-blocking; the socket file `path` is removed at the end, if it is
  // not empty.
  static Result<std::unique_ptr<VfioUserListener>> Create(EpollLoop& loop, VfioUserServer& server,
                                                          std::string id, UniqueFd socket,
                                                          std::string path);
  ~VfioUserListener() override;

 private:
  VfioUserListener(EpollLoop& loop, VfioUserServer& server, std::string id, UniqueFd socket,
                   std::string path);
  void OnReady(uint32_t events) override;

  EpollLoop& loop_;
  VfioUserServer& server_;
  std::string id_;
  UniqueFd socket_;
  std::string path_;
  FdWatch watch_;
  Timer retry_;
};

}  // namespace farside
