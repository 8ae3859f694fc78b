// The mpqemu server as QEMU's proxy uses it, and as nobody should.
#include "devices/server/mpqemu_server.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using mpqemu::Command;

constexpr uint64_t kBar0 = 0xfebf0000;
constexpr uint64_t kAllOnes = ~uint64_t{0};

class MpqemuServerTest : public testing::Test {
 protected:
  MpqemuServerTest() : loop_(EpollLoop::Create(clock_).value()), slot_(*loop_, "fake0") {
    auto device = std::make_unique<FakeDevice>(slot_.env(), std::vector<DoorbellRange>{});
    device_ = device.get();
    slot_.Plug(std::move(device));
    server_ = std::make_unique<MpqemuServer>(slot_);
    Connect();
  }
  ~MpqemuServerTest() override {
    server_->Disconnect();
    device_->EndAllIo();
    Settle();
    server_.reset();
  }

  void Connect() {
    auto sockets = MakeSocketPair().value();
    proxy_ = SocketTransport::Create(std::move(sockets.first)).value();
    ASSERT_TRUE(server_->Accept(SocketTransport::Create(std::move(sockets.second)).value()));
  }

  void Settle() {
    for (int i = 0; i < 8; ++i) loop_->RunOnce(0);
  }

  void Send(const ByteVector& bytes, std::span<const int> fds = {}) {
    ASSERT_EQ(proxy_->Send(bytes, fds), static_cast<ssize_t>(bytes.size()));
    Settle();
  }
  template <typename T>
  static ByteVector Message(Command command, const T& payload) {
    return Pack(mpqemu::MakeHeader(command, sizeof payload), payload);
  }

  // The next reply's payload; nothing when none came.
  std::optional<ByteVector> Reply() {
    Settle();
    for (;;) {
      auto frame = reader_.Next();
      EXPECT_TRUE(frame);
      if (frame && *frame) {
        EXPECT_EQ((*frame)->command(), Command::kRet);
        return ByteVector((*frame)->payload.begin(), (*frame)->payload.end());
      }
      const auto filled = reader_.Fill(*proxy_);
      if (!filled || *filled != FillStatus::kData) return std::nullopt;
    }
  }
  uint64_t ReplyValue() {
    const auto reply = Reply();
    if (!reply || reply->size() != 8) {
      ADD_FAILURE() << "no reply with a value";
      return 0;
    }
    return LoadLe<uint64_t>(*reply);
  }
  bool Closed() {
    Settle();
    return !server_->connected();
  }

  uint64_t ReadConfig(uint32_t address, int32_t size) {
    Send(Message(Command::kPciCfgRead,
                 mpqemu::ConfigAccess{.address = address, .value = 0, .size = size}));
    return ReplyValue();
  }
  void WriteConfig(uint32_t address, uint32_t value, int32_t size) {
    Send(Message(Command::kPciCfgWrite,
                 mpqemu::ConfigAccess{.address = address, .value = value, .size = size}));
    EXPECT_EQ(ReplyValue(), 0u);
  }
  uint64_t ReadBar(uint64_t address, uint32_t size, uint8_t memory = 1) {
    Send(Message(Command::kBarRead,
                 mpqemu::BarAccess{.address = address, .size = size, .memory = memory}));
    return ReplyValue();
  }
  void WriteBar(uint64_t address, uint64_t value, uint32_t size) {
    Send(Message(Command::kBarWrite,
                 mpqemu::BarAccess{.address = address, .value = value, .size = size, .memory = 1}));
    EXPECT_EQ(ReplyValue(), 0u);
  }
  void EnableBar0() {
    WriteConfig(pci::kBar0, kBar0, 4);
    WriteConfig(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster, 2);
  }

  struct Part {
    uint64_t gpa;
    uint64_t size;
    uint64_t offset;
    int fd;
  };
  void Sync(std::initializer_list<Part> parts) {
    mpqemu::SyncSysmem table;
    std::vector<int> fds;
    for (const Part& part : parts) {
      table.gpas[fds.size()] = part.gpa;
      table.sizes[fds.size()] = part.size;
      table.offsets[fds.size()] = part.offset;
      fds.push_back(part.fd);
    }
    Send(Message(Command::kSyncSysmem, table), fds);
  }

  ManualClock clock_;
  std::unique_ptr<EpollLoop> loop_;
  Slot slot_;
  FakeDevice* device_ = nullptr;
  std::unique_ptr<MpqemuServer> server_;
  std::unique_ptr<Transport> proxy_;
  mpqemu::FrameReader reader_{mpqemu::kMaxFrame};
};

TEST_F(MpqemuServerTest, ConfigIsReadAtEveryWidthAndOffset) {
  ByteVector all(mpqemu::kConfigSize);
  for (uint32_t at = 0; at < mpqemu::kConfigSize; ++at) {
    all[at] = std::byte{static_cast<uint8_t>(ReadConfig(at, 1))};
  }
  EXPECT_NE(LoadLe<uint16_t>(all), 0xffff);
  for (int32_t size = 1; size <= 4; ++size) {
    for (uint32_t at = 0; at < mpqemu::kConfigSize; ++at) {
      uint64_t expected = 0;
      for (int32_t i = 0; i < size; ++i) {
        const uint64_t byte = at + static_cast<uint32_t>(i) < all.size()
                                  ? static_cast<uint64_t>(all[at + static_cast<uint32_t>(i)])
                                  : 0xff;
        expected |= byte << (8 * i);
      }
      ASSERT_EQ(ReadConfig(at, size), expected) << at << " " << size;
    }
  }
}

// QEMU's remote ends at these: a guest can take the device away.
TEST_F(MpqemuServerTest, AGuestCannotEndTheProcess) {
  EnableBar0();
  EXPECT_EQ(ReadConfig(0xff, 1) & ~uint64_t{0xff}, 0u);
  EXPECT_EQ(ReadConfig(0x100, 4), 0xffffffffu);
  EXPECT_EQ(ReadConfig(UINT32_MAX, 4), 0xffffffffu);
  WriteConfig(UINT32_MAX, 0, 4);
  EXPECT_EQ(ReadBar(kBar0 + FakeDevice::kBar0Size - 2, 4), 0xffffffffu);
  EXPECT_EQ(ReadBar(0x12340000, 8), kAllOnes);
  EXPECT_EQ(ReadBar(kAllOnes, 8), kAllOnes);
  EXPECT_EQ(ReadBar(kBar0, 4, 0), 0xffffffffu);  // No I/O port there.
  for (const uint32_t size : {0u, 3u, 16u, UINT32_MAX}) EXPECT_EQ(ReadBar(kBar0, size), kAllOnes);
  for (const int32_t size : {-1, 5, 8, INT32_MAX}) EXPECT_EQ(ReadConfig(0, size), kAllOnes);
  WriteBar(kBar0 + FakeDevice::kBar0Size, 1, 4);
  EXPECT_TRUE(device_->bar_writes.empty());
  EXPECT_TRUE(server_->connected());
  EXPECT_GE(server_->counters().dropped_accesses, 10u);
}

TEST_F(MpqemuServerTest, BarsAreDecodedAsConfigurationSpaceSays) {
  WriteConfig(pci::kBar0, kBar0, 4);
  EXPECT_EQ(ReadBar(kBar0, 4), 0xffffffffu);  // Decode is off.
  EnableBar0();
  StoreLe<uint32_t>(Bytes(device_->bar0).subspan(0x34), 0xdeadbeef);
  EXPECT_EQ(ReadBar(kBar0 + 0x34, 4), 0xdeadbeefu);
  EXPECT_EQ(ReadBar(kBar0 + 0x35, 2), 0xadbeu);
  WriteBar(kBar0 + 0x40, 0x1122334455667788, 8);
  const FakeDevice::BarWrite expected{0, 0x40, Pack(uint64_t{0x1122334455667788})};
  EXPECT_EQ(device_->bar_writes.back(), expected);
  WriteConfig(pci::kBar0, 0xe0000000, 4);
  EXPECT_EQ(ReadBar(kBar0 + 0x34, 4), 0xffffffffu);
  EXPECT_EQ(ReadBar(0xe0000034, 4), 0xdeadbeefu);
}

// The proxy makes a BAR of every dword from 0x10 to 0x28 and takes the size from what sticks.
TEST_F(MpqemuServerTest, ProbingSeesNo64BitBarsAndNoVectors) {
  for (uint32_t at = 0x10; at <= 0x28; at += 4) {
    const auto original = static_cast<uint32_t>(ReadConfig(at, 4));
    EXPECT_TRUE((original & 1) != 0 || (original & 4) == 0) << at;
    WriteConfig(at, 0xffffffff, 4);
    const auto sized = static_cast<uint32_t>(ReadConfig(at, 4));
    const bool there = at == 0x10 || at == 0x18 || at == 0x20;
    EXPECT_EQ(sized != 0, there) << at;
    WriteConfig(at, original, 4);
  }
  uint32_t at = static_cast<uint32_t>(ReadConfig(pci::kCapabilities, 1));
  int count = 0;
  for (; at != 0 && count < 64; ++count) {
    const uint64_t id = ReadConfig(at, 1);
    EXPECT_NE(id, pci::kCapMsi);
    EXPECT_NE(id, pci::kCapMsix);
    at = static_cast<uint32_t>(ReadConfig(at + 1, 1));
  }
  EXPECT_GT(count, 0);
  EXPECT_LT(count, 64);
  // Nor can they be switched on behind its back.
  WriteConfig(FakeDevice::kMsixControl, pci::kMsixEnable, 2);
  device_->SetIntxLevel(true);
  EXPECT_NE(ReadConfig(pci::kStatus, 2) & pci::kStatusInterrupt, 0u);
}

TEST_F(MpqemuServerTest, AnUnchangedRegionKeepsItsMappingAndItsLeases) {
  EnableBar0();
  SharedMemory memory(64 * kPage);
  const Part low{0, 32 * kPage, 0, memory.fd()};
  const Part high{0x100000, 32 * kPage, 32 * kPage, memory.fd()};
  Sync({low, high});
  EXPECT_FALSE(Reply());
  EXPECT_EQ(server_->counters().mapped_regions, 2u);
  const int changes = device_->dma_changes;
  const auto io = device_->StartIo({{0x1000, 64}}, DmaAccess::kWrite);
  Settle();
  ASSERT_EQ(io->mapped, DmaStatus::kOk);
  for (int i = 0; i < 82; ++i) Sync({low, high});
  EXPECT_EQ(device_->dma_changes, changes);
  EXPECT_EQ(server_->counters().unchanged_regions, 164u);
  EXPECT_EQ(server_->counters().mapped_regions, 2u);
  Sync({high});
  EXPECT_EQ(slot_.dma().window_count(), 1u);
  EXPECT_EQ(slot_.dma().leases_in_removed(), 1u);
  device_->EndIo(*io);
  Settle();
  EXPECT_EQ(io->status, DmaStatus::kOk);
  // Another file, another offset, another size.
  SharedMemory other(64 * kPage);
  Sync({{high.gpa, high.size, high.offset, other.fd()}});
  Sync({{high.gpa, high.size, 0, other.fd()}});
  Sync({{high.gpa, kPage, 0, other.fd()}});
  EXPECT_EQ(server_->counters().mapped_regions, 5u);
  const auto dma = device_->StartWrite(high.gpa, Counting(16, 1));
  Settle();
  EXPECT_EQ(dma->status, DmaStatus::kOk);
  EXPECT_EQ(ByteVector(other.bytes().begin(), other.bytes().begin() + 16), Counting(16, 1));
}

TEST_F(MpqemuServerTest, ARegionThatCannotBeMappedIsLeftOut) {
  SharedMemory memory(4 * kPage);
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const UniqueFd read_end(pipe_fds[0]);
  const UniqueFd write_end(pipe_fds[1]);
  Sync({{0, 5 * kPage, 0, memory.fd()},         // Longer than its file.
        {0x100000, 0, 0, memory.fd()},          // Empty.
        {kAllOnes, 2, 0, memory.fd()},          // Wraps.
        {0x200000, kPage, 0, read_end.get()},   // No file.
        {0x300000, kPage, kPage, memory.fd()},  // Good.
        {0x300000, kPage, 0, memory.fd()}});    // Overlaps it.
  EXPECT_TRUE(server_->connected());
  EXPECT_EQ(server_->counters().refused_regions, 5u);
  EXPECT_EQ(slot_.dma().window_count(), 1u);
}

TEST_F(MpqemuServerTest, EightRegionsAreTaken) {
  SharedMemory memory(8 * kPage);
  const auto part = [&](uint64_t i) { return Part{i * 0x100000, kPage, i * kPage, memory.fd()}; };
  Sync({part(0), part(1), part(2), part(3), part(4), part(5), part(6), part(7)});
  EXPECT_EQ(slot_.dma().window_count(), 8u);
}

TEST_F(MpqemuServerTest, IntxIsSignalledAtEachRiseAndResampledWhileUp) {
  const Eventfds irq(2);
  Send(Pack(mpqemu::MakeHeader(Command::kSetIrqfd, 0)), irq.fds());
  EXPECT_FALSE(Reply());
  device_->SetIntxLevel(true);
  EXPECT_EQ(irq.Take(), 1u);
  SignalEventfd(irq.fd(1));
  Settle();
  EXPECT_EQ(irq.Take(), 1u);
  device_->SetIntxLevel(false);
  SignalEventfd(irq.fd(1));
  Settle();
  EXPECT_EQ(irq.Take(), 0u);
  // A guest that polls never resamples.
  for (int i = 0; i < 3; ++i) {
    device_->SetIntxLevel(true);
    device_->SetIntxLevel(false);
  }
  EXPECT_EQ(irq.Take(), 3u);
  // A line that is up when the eventfds come, or come anew.
  device_->SetIntxLevel(true);
  const Eventfds again(2);
  Send(Pack(mpqemu::MakeHeader(Command::kSetIrqfd, 0)), again.fds());
  EXPECT_EQ(again.Take(), 1u);
}

TEST_F(MpqemuServerTest, ATimerOfTheDeviceFiresWhenItsTimeHasCome) {
  const Eventfds irq(2);
  Send(Pack(mpqemu::MakeHeader(Command::kSetIrqfd, 0)), irq.fds());
  EnableBar0();
  WriteBar(kBar0 + FakeDevice::kTimer, 1000, 8);
  clock_.AdvanceTo(999);
  Settle();
  EXPECT_EQ(irq.Take(), 0u);
  clock_.AdvanceTo(1000);
  Settle();
  EXPECT_EQ(irq.Take(), 1u);
}

TEST_F(MpqemuServerTest, ResetIsAnsweredWithoutAPayloadWhenItIsDone) {
  EnableBar0();
  SharedMemory memory(kPage);
  Sync({{0, kPage, 0, memory.fd()}});
  const auto io = device_->StartIo({{0, 64}}, DmaAccess::kWrite);
  Settle();
  // Pipelined: what follows waits, too.
  Send(Pack(mpqemu::MakeHeader(Command::kDeviceReset, 0),
            Message(Command::kPciCfgRead, mpqemu::ConfigAccess{.address = 0, .size = 2})));
  EXPECT_EQ(device_->resets, 1);
  EXPECT_FALSE(Reply());
  device_->EndIo(*io);
  Settle();
  const auto reset = Reply();
  ASSERT_TRUE(reset);
  EXPECT_TRUE(reset->empty());
  EXPECT_NE(ReplyValue(), 0xffffu);
  EXPECT_EQ(ReadBar(kBar0, 4), 0xffffffffu);  // Decode is off again.
}

TEST_F(MpqemuServerTest, MessagesComeInAnyPieces) {
  EnableBar0();
  const Eventfds irq(2);
  SharedMemory memory(kPage);
  mpqemu::SyncSysmem table;
  table.sizes[0] = kPage;
  const ByteVector sync = Message(Command::kSyncSysmem, table);
  const ByteVector read =
      Message(Command::kBarRead, mpqemu::BarAccess{.address = kBar0, .size = 4, .memory = 1});
  for (size_t cut = 1; cut < sync.size(); ++cut) {
    // Glued to a message without fds, cut at every place.
    ASSERT_GT(proxy_->Send(read, {}), 0);
    const int fd = memory.fd();
    ASSERT_GT(proxy_->Send(ConstBytes(sync).first(cut), {&fd, 1}), 0);
    Settle();
    ASSERT_GT(proxy_->Send(ConstBytes(sync).subspan(cut), {}), 0);
    ASSERT_GT(proxy_->Send(read, {}), 0);
    ReplyValue();
    ReplyValue();
    ASSERT_TRUE(server_->connected()) << cut;
  }
  EXPECT_EQ(server_->counters().mapped_regions, 1u);
  EXPECT_EQ(server_->counters().unchanged_regions, sync.size() - 2);
}

struct Broken {
  const char* name;
  ByteVector bytes;
  size_t fds;
};

TEST_F(MpqemuServerTest, BrokenMessagesCloseTheChannelAndLeakNothing) {
  const ByteVector body(300);
  const auto header = [](int32_t command, uint64_t size) {
    return Pack(mpqemu::Header{.command = command, .padding = 0xffffffff, .size = size});
  };
  const Broken cases[] = {
      {"no such command", header(8, 0), 0},
      {"negative command", header(-1, 0), 0},
      {"RET", Pack(header(1, 8), uint64_t{0}), 0},
      {"too long", header(5, 193), 0},
      {"endless", header(0, kAllOnes), 0},
      {"config access of 11 bytes", Pack(header(3, 11), body), 0},
      {"BAR access of 12 bytes", Pack(header(5, 12), body), 0},
      {"SYNC_SYSMEM without fds", Pack(header(0, 192), ByteVector(192)), 0},
      {"SYNC_SYSMEM of 9 fds", Pack(header(0, 192), ByteVector(192)), 9},
      {"SET_IRQFD with one fd", header(6, 0), 1},
      {"17 fds", header(7, 0), 17},
  };
  Settle();
  server_->Disconnect();
  const auto before = CountOpenFds();
  for (const Broken& broken : cases) {
    Connect();
    const auto fds = MakeFds(broken.fds);
    std::vector<int> numbers;
    for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
    ASSERT_GT(proxy_->Send(broken.bytes, numbers), 0);
    EXPECT_TRUE(Closed()) << broken.name;
    EXPECT_TRUE(server_->client_failed()) << broken.name;
  }
  proxy_.reset();
  EXPECT_EQ(CountOpenFds(), before - 1);  // The first proxy's end was counted.
}

// QEMU leaks them, one a message.
TEST_F(MpqemuServerTest, FdsThatMeanNothingAreClosed) {
  const auto before = CountOpenFds();
  for (int i = 0; i < 100; ++i) {
    const Eventfds stray(3);
    Send(Message(Command::kPciCfgRead, mpqemu::ConfigAccess{.address = 0, .size = 2}), stray.fds());
    ReplyValue();
  }
  EXPECT_EQ(CountOpenFds(), before);
  EXPECT_TRUE(server_->connected());
}

TEST_F(MpqemuServerTest, TheEndInsideAMessageIsAFailureAndBetweenTwoIsNot) {
  proxy_.reset();
  EXPECT_TRUE(Closed());
  EXPECT_FALSE(server_->client_failed());
  // With a reply that it never read.
  Connect();
  Send(Message(Command::kPciCfgRead, mpqemu::ConfigAccess{.address = 0, .size = 2}));
  proxy_.reset();
  EXPECT_TRUE(Closed());
  EXPECT_FALSE(server_->client_failed());
  Connect();
  Send(ByteVector(7));
  proxy_.reset();
  EXPECT_TRUE(Closed());
  EXPECT_TRUE(server_->client_failed());
}

}  // namespace
}  // namespace farside
