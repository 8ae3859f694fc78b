// MpqemuClient: a DeviceClient that speaks mpqemu, as QEMU's x-pci-proxy-dev does.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "protocol/device_client.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/transport.h"

namespace farside::mpqemu {

struct ClientOptions {
  // A request that is not answered for so long ends the client. At least 1 ms.
  uint64_t timeout_ns = 5'000'000'000;
  // Between the first read and the first write. QEMU's remote serves before its own first reset,
  // which undoes what was written by then; 300 ms do.
  uint64_t settle_ns = 0;
  // All BARs get addresses from here up, and decoding is switched on, at the start and after each
  // reset. Off: whoever drives the device does that itself, and until then its BARs
  // read as ones.
  bool place_bars = true;
  uint64_t io_base = 0x1000;
  uint64_t memory_base = 0xe000'0000;
  // For transports without an fd: runs the other end, which lives in this thread, and may wait for
  // it up to the given milliseconds. False when the other end can't go on by itself.
  std::function<bool(int)> pump = {};
};

// What the protocol has no words for is an Error with ENOTSUP: MSI and MSI-X, masking, doorbells by
// eventfd, migration, and memory that the device reaches by message or may only read. Accesses that
// would end QEMU's remote never leave: what no BAR decodes reads as ones and ignores writes.
//
// Windows that continue each other in one file are one region; QEMU's remote takes seven.
class MpqemuClient final : public DeviceClient {
 public:
  // Over a connected socket.
  static Result<std::unique_ptr<MpqemuClient>> Attach(UniqueFd socket, ClientOptions options);
  // Over a transport with its pump.
  static Result<std::unique_ptr<MpqemuClient>> Attach(std::unique_ptr<Transport> transport,
                                                      ClientOptions options);
  ~MpqemuClient() override;

  bool alive() const override;
  Result<vfio_user::DeviceInfo> GetInfo() override;
  Result<ClientRegion> GetRegionInfo(uint32_t region) override;
  Result<ClientIoFds> GetRegionIoFds(uint32_t region) override;
  Result<vfio_user::IrqInfo> GetIrqInfo(vfio_user::IrqIndex index) override;
  Result<void> SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                       std::span<const int> fds) override;
  size_t max_irq_fds() const override { return 1; }
  Result<void> DmaMap(const DmaWindow& window) override;
  Result<void> DmaUnmap(uint64_t iova, uint64_t size) override;
  Result<void> DmaUnmapAll() override;
  uint64_t max_transfer() const override { return 4096; }
  Result<void> RegionRead(const GuestAccess& access, Bytes out) override;
  Result<void> RegionWrite(const GuestAccess& access, ConstBytes in) override;
  Result<void> PostWrite(const GuestAccess& access, ConstBytes in) override;
  Result<void> WriteMulti(uint32_t cpu, std::span<const vfio_user::WriteMultiEntry> writes,
                          bool posted) override;
  Result<ReadTicket> BeginRead(const GuestAccess& access, Bytes out) override;
  Result<void> FinishRead(ReadTicket ticket) override;
  Result<void> Reset() override;
  Result<size_t> FeatureGet(vfio_user::Feature feature, ConstBytes in, Bytes out) override;
  Result<void> FeatureSet(vfio_user::Feature feature, ConstBytes in) override;
  Result<void> FeatureProbe(vfio_user::Feature feature, uint32_t operations) override;
  Result<size_t> MigDataRead(Bytes out) override;
  Result<void> MigDataWrite(ConstBytes in) override;
  Result<bool> WaitReadable(int fd, uint64_t timeout_ns) override;

 private:
  using Lock = std::unique_lock<std::mutex>;
  static constexpr uint32_t kBars = 6;
  // Requests on the wire at once: neither end's socket buffer fills up with them.
  static constexpr size_t kMaxInFlight = 64;

  // A request whose reply is still to come.
  struct Call {
    bool done = false;
    uint64_t value = 0;
  };
  struct Bar {
    uint64_t size = 0;  // In bytes; 0: none.
    bool memory = false;
    bool wide = false;     // 64 bits.
    uint64_t address = 0;  // 0: none.
    bool decoded = false;
  };
  struct Window {
    uint64_t gpa = 0;
    uint64_t size = 0;
    uint64_t offset = 0;
    UniqueFd fd;
    uint64_t device = 0;
    uint64_t inode = 0;
  };

  MpqemuClient(std::unique_ptr<Transport> transport, ClientOptions options);
  static Result<std::unique_ptr<MpqemuClient>> SetUp(std::unique_ptr<MpqemuClient> client);
  void RunWatchdog();

  // The wire. Called with the lock held; those that take it let go of it while they wait.
  Result<void> Send(Lock& lock, Command command, ConstBytes payload, std::span<const int> fds,
                    std::shared_ptr<Call> call);
  Result<uint64_t> Wait(Lock& lock, const std::shared_ptr<Call>& call);
  Result<void> Receive(Lock& lock, uint64_t deadline_ns);
  Result<FillStatus> Fill();
  Result<void> FlushAll();
  tl::unexpected<Error> Die(Error error);

  Result<uint64_t> Ask(Command command, ConstBytes payload);
  Result<uint32_t> ReadConfigWord(uint32_t address, uint32_t size);
  Result<void> WriteConfigWord(uint32_t address, uint32_t value, uint32_t size);
  Result<void> ReadConfig(uint64_t offset, Bytes out);
  Result<void> WriteConfig(uint64_t offset, ConstBytes in);
  Result<void> SizeBars();
  Result<void> PlaceBars();
  static bool IsMapped(const Bar& bar);
  Result<void> RefreshBars();
  // Where an access goes on the bus; nothing where no BAR decodes it.
  std::optional<BarAccess> Locate(const GuestAccess& access, uint64_t size) const;
  Result<void> WriteBar(const GuestAccess& access, ConstBytes in, bool posted);

  Result<void> SendWindows(const std::vector<Window>& windows);
  Result<void> SendIrqfds(int interrupt);

  const ClientOptions options_;
  MonotonicClock clock_;

  mutable std::mutex mutex_;  // Of all but the windows.
  std::unique_ptr<Transport> transport_;
  FrameReader reader_{kMaxFrame};
  FrameWriter writer_;
  std::deque<std::shared_ptr<Call>> in_flight_;  // In the order of their replies.
  bool receiving_ = false;                       // Some thread waits for the socket.
  std::condition_variable received_;
  std::optional<Error> dead_;

  std::array<Bar, kBars> bars_;  // Their sizes never change.
  std::mutex windows_mutex_;     // Taken before the other.
  std::vector<Window> windows_;  // By address.
  UniqueFd nowhere_;             // The file of a region that stands for no memory at all.
  UniqueFd resample_;
  UniqueFd unheard_;  // The interrupt eventfd while nobody listens.
  bool has_intx_ = false;

  struct Begun {
    std::shared_ptr<Call> call;  // Null: `value` is known.
    uint64_t value = 0;
    Bytes out;
  };
  std::vector<std::optional<Begun>> begun_;

  // As in vfio-user's channel: a thread that nearly always sleeps watches over those that block.
  uint64_t blocked_until_ns_ = 0;
  bool ending_ = false;
  std::condition_variable end_;
  std::thread watchdog_;
};

}  // namespace farside::mpqemu
