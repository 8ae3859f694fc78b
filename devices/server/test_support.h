// What the server's tests share: a device that does as it is told, a client that says what it is
// told byte by byte, and both on one loop whose clock stands still.
#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/epoll_loop.h"
#include "base/fd.h"
#include "devices/core/pci_device.h"
#include "devices/server/slot.h"
#include "devices/server/vfio_user_server.h"
#include "protocol/test_support.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kSecond = 1'000'000'000;

// A PCI function with INTx, 4 MSI vectors and 8 of MSI-X. BAR 0 is 4 KiB of memory, BAR 2 another
// 256 bytes, BAR 4 has the MSI-X table at 0 and the PBA at 0x800.
class FakeDevice final : public PciDevice {
 public:
  static constexpr uint64_t kBar0Size = 0x1000;
  // A write of 8 bytes here starts the timer: INTx is asserted after so many nanoseconds.
  static constexpr uint64_t kTimer = 0xff8;
  static constexpr uint32_t kMsiVectors = 4;
  static constexpr uint32_t kMsixVectors = 8;
  static constexpr uint32_t kMsixPba = 0x800;
  // Of capabilities in configuration space.
  static constexpr uint32_t kMsiControl = 0x84 + pci::kMsiControl;
  static constexpr uint32_t kMsixControl = 0x9c + pci::kMsixControl;
  static constexpr uint32_t kPcieDeviceControl = 0x48 + pci::kPcieDeviceControl;

  // An access of the device's to memory. `status` is there when it has ended.
  struct Dma {
    std::optional<DmaStatus> status;
    std::vector<std::byte> data;
  };
  // Block I/O into leased memory: begins when `mapped` is kOk and lasts until EndIo.
  struct Io {
    std::optional<DmaStatus> mapped;
    std::vector<iovec> iovecs;
    bool ended = false;
    std::optional<DmaStatus> status;
  };
  struct BarWrite {
    uint32_t bar;
    uint64_t offset;
    std::vector<std::byte> data;
    friend bool operator==(const BarWrite&, const BarWrite&) = default;
  };

  FakeDevice(DeviceEnv env, std::vector<DoorbellRange> doorbells);

  std::shared_ptr<Dma> StartRead(uint64_t iova, size_t size);
  std::shared_ptr<Dma> StartWrite(uint64_t iova, std::vector<std::byte> data);
  std::shared_ptr<Io> StartIo(std::vector<DmaSegment> segments, DmaAccess access);
  void EndIo(Io& io);
  // What is in flight, and what comes, ends at once.
  void EndAllIo();
  size_t in_flight() const { return in_flight_; }

  using PciDevice::SetIntxLevel;
  using PciDevice::SignalVector;

  // Device.
  void OnDmaChanged() override { ++dma_changes; }
  std::optional<uint64_t> NextDeadline() const override { return paused ? std::nullopt : deadline; }
  void OnDeadline() override;
  Task<void> Drain() override;
  void Resume() override { paused = false; }
  std::span<const DoorbellRange> doorbells() const override { return doorbells_; }

  std::vector<BarWrite> bar_writes;
  std::vector<std::byte> bar0 = std::vector<std::byte>(kBar0Size);
  int resets = 0;
  int dma_changes = 0;
  std::optional<uint64_t> deadline;
  bool paused = false;
  bool refuses_load = false;
  // A read of BAR 0 starts this read of memory in the middle of the access.
  std::optional<uint64_t> read_starts_dma;
  std::shared_ptr<Dma> started_by_read;

 private:
  void ReadBar(uint32_t bar, uint64_t offset, Bytes out) override;
  void WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) override;
  void OnReset(ResetKind kind) override;
  void SaveModel(StateWriter& out) const override;
  Result<void> LoadModel(StateReader& in) override;
  void SaveModelFast(FastState& out) const override;
  void LoadModelFast(FastReader& in) override;

  Task<void> RunRead(std::shared_ptr<Dma> access, uint64_t iova);
  Task<void> RunWrite(std::shared_ptr<Dma> access, uint64_t iova);
  Task<void> RunIo(std::shared_ptr<Io> io, std::vector<DmaSegment> segments, DmaAccess access);
  void End();

  std::vector<DoorbellRange> doorbells_;
  size_t in_flight_ = 0;
  bool ending_ = false;
  Wakeup changed_;
  TaskScope scope_;
};

// A message as it came.
struct Received {
  vfio_user::Header header;
  ByteVector payload;
  std::vector<UniqueFd> fds;

  bool is_reply() const { return (header.flags & vfio_user::kFlagTypeMask) == 1; }
  // The errno of an error reply, else 0.
  int error() const;
  template <typename T>
  T Get(size_t offset = 0) const {
    T value{};
    if (InRange(offset, sizeof(T), payload.size())) {
      Copy(AsWritableBytes(value), ConstBytes(payload).subspan(offset, sizeof(T)));
    } else {
      ADD_FAILURE() << "a payload of " << payload.size() << " bytes has no " << sizeof(T) << " at "
                    << offset;
    }
    return value;
  }
};

class Bench;

// A client's end of a channel. Message ids count up from 1.
class RawClient {
 public:
  RawClient(Bench& bench, std::unique_ptr<Transport> transport)
      : bench_(bench), transport_(std::move(transport)) {}

  // Sends bytes as they are; `fds` stay the caller's.
  void SendBytes(ConstBytes bytes, std::span<const int> fds = {});
  // Sends a command and returns its id.
  uint16_t Send(vfio_user::Command command, const ByteVector& payload, uint32_t flags = 0,
                std::span<const int> fds = {});
  // Answers a command of the server's.
  void Reply(const Received& command, const ByteVector& payload);
  void ReplyError(const Received& command, int error);

  // The next message, once the server has done all it can do now.
  std::optional<Received> Receive();
  // The reply to command `id`; every other message until then is kept for Receive.
  Received Await(uint16_t id);
  Received Call(vfio_user::Command command, const ByteVector& payload,
                std::span<const int> fds = {});
  // The errno of the reply, 0 for success.
  int ErrorOf(vfio_user::Command command, const ByteVector& payload, std::span<const int> fds = {});
  // True when the server has ended the connection.
  bool Closed();
  void Close() { transport_.reset(); }

  // The usual commands.
  Received Version(std::string_view json, uint16_t minor = 1);
  void Negotiate();
  int Map(uint64_t iova, uint64_t size, int fd = -1, uint64_t offset = 0, uint32_t flags = 3);
  int Unmap(uint64_t iova, uint64_t size);
  template <typename T>
  T Read(Region region, uint64_t offset) {
    return Call(vfio_user::Command::kRegionRead, ReadPayload(region, offset, sizeof(T)))
        .template Get<T>(sizeof(vfio_user::RegionAccess));
  }
  template <typename T>
  void Write(Region region, uint64_t offset, T value) {
    EXPECT_EQ(ErrorOf(vfio_user::Command::kRegionWrite, WritePayload(region, offset, value)), 0);
  }
  // DEVICE_SET_IRQS with `fds`; the errno.
  int SetIrqs(uint32_t flags, vfio_user::IrqIndex index, uint32_t start, uint32_t count,
              std::span<const int> fds = {});
  static ByteVector ReadPayload(Region region, uint64_t offset, uint32_t count);
  template <typename T>
  static ByteVector WritePayload(Region region, uint64_t offset, const T& data) {
    const ByteVector bytes = Pack(data);
    return Pack(vfio_user::RegionAccess{.offset = offset,
                                        .region = static_cast<uint32_t>(region),
                                        .count = static_cast<uint32_t>(bytes.size())},
                bytes);
  }

  Transport& transport() { return *transport_; }

 private:
  bool Fetch();

  Bench& bench_;
  std::unique_ptr<Transport> transport_;
  vfio_user::FrameReader reader_{vfio_user::MaxMessageSize(vfio_user::kDefaultMaxDataXferSize)};
  std::deque<Received> queue_;
  uint16_t last_id_ = 0;
  bool ended_ = false;
};

enum class Link { kMemory, kSocket };

// A device in its slot with its server.
class Bench {
 public:
  explicit Bench(Link link = Link::kMemory, std::vector<DoorbellRange> doorbells = {});
  ~Bench();

  // A new client, accepted; nullptr if it was refused.
  std::unique_ptr<RawClient> Connect();
  // The same, past VERSION, with bus mastering on.
  std::unique_ptr<RawClient> ConnectReady();

  // Runs everything that can run now.
  void Settle();
  // Time passes.
  void Advance(uint64_t ns);

  EpollLoop& loop() { return *loop_; }
  Slot& slot() { return *slot_; }
  FakeDevice& device() { return *device_; }
  VfioUserServer& server() { return *server_; }
  const ManualClock& clock() const { return clock_; }

 private:
  const Link link_;
  ManualClock clock_;
  std::unique_ptr<EpollLoop> loop_;
  std::unique_ptr<Slot> slot_;
  FakeDevice* device_ = nullptr;  // The slot's.
  std::unique_ptr<VfioUserServer> server_;
};

// A memory file of a client's, which it sees as it is.
class SharedMemory {
 public:
  explicit SharedMemory(uint64_t size)
      : fd_(MakeMemfd("guest", size).value()),
        mapping_(Mapping::Map(fd_.get(), 0, size, kReadWrite).value()) {}

  int fd() const { return fd_.get(); }
  Bytes bytes() const { return {mapping_.data(), mapping_.size()}; }

 private:
  static constexpr int kReadWrite = 3;

  UniqueFd fd_;
  Mapping mapping_;
};

// Heap memory of this process that is in use.
size_t AllocatedBytes();

// Any number of eventfds.
class Eventfds {
 public:
  explicit Eventfds(size_t count);
  std::span<const int> fds() const { return numbers_; }
  std::span<const int> fds(size_t first, size_t count) const {
    return std::span(numbers_).subspan(first, count);
  }
  int fd(size_t index = 0) const { return numbers_[index]; }
  // Signals since the last look.
  uint64_t Take(size_t index = 0) const { return DrainEventfd(numbers_[index]); }

 private:
  std::vector<UniqueFd> owned_;
  std::vector<int> numbers_;
};

}  // namespace farside
