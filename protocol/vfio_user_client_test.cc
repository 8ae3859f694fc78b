#include "protocol/vfio_user_client.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "protocol/fake_server.h"

namespace farside::vfio_user {
namespace {

using testing::HasSubstr;
using testing::Return;

constexpr uint64_t kMs = 1'000'000;

class MockDma : public DmaHandler {
 public:
  MOCK_METHOD(int, OnDmaRead, (uint64_t iova, Bytes out), (override));
  MOCK_METHOD(int, OnDmaWrite, (uint64_t iova, ConstBytes in), (override));
};

std::unique_ptr<VfioUserClient> AttachTo(FakeServer& server, ClientOptions options = {},
                                         DmaHandler* handler = nullptr) {
  auto client = VfioUserClient::Attach(server.TakeSocket(), std::move(options), handler);
  EXPECT_TRUE(client) << client.error().message;
  return client ? std::move(*client) : nullptr;
}

class ClientTest : public testing::Test {
 protected:
  void SetUp() override { fds_before_ = CountOpenFds(); }
  void TearDown() override { EXPECT_EQ(CountOpenFds(), fds_before_) << "fds leaked"; }

  ptrdiff_t fds_before_ = 0;
};

TEST_F(ClientTest, ProposesVersionAndCapabilities) {
  std::string proposal;
  Version version{9, 9};
  FakeServer server([&](FakeServer&, Frame& frame) {
    if (frame.command() != Command::kVersion) return false;
    const auto request = DecodeRequest(frame).value();
    version = std::get<VersionRequest>(request).version;
    proposal = std::get<VersionRequest>(request).json;
    return false;
  });
  const auto client = AttachTo(server);
  EXPECT_EQ(version.major, 0);
  EXPECT_EQ(version.minor, 0);
  EXPECT_EQ(proposal, FormatCapabilities(DefaultClientCapabilities()));
  EXPECT_EQ(client->server_capabilities().write_multiple, true);
  EXPECT_EQ(client->max_irq_fds(), 16u);
  EXPECT_EQ(client->max_transfer(), 1u << 20);
}

TEST_F(ClientTest, TakesTheSmallerTransferSizeAndOneFdWhereTheServerIsSilent) {
  FakeServer server;
  server.json = R"({"capabilities":{"max_data_xfer_size":4096}})";
  const auto client = AttachTo(server);
  EXPECT_EQ(client->max_transfer(), 4096u);
  EXPECT_EQ(client->max_irq_fds(), 1u);
  ByteVector big(4097);
  const auto read = client->RegionRead({}, big);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("4096"));
  EXPECT_TRUE(client->alive());
}

TEST_F(ClientTest, ReadsAndWritesRegions) {
  FakeServer server;
  const auto client = AttachTo(server);
  ASSERT_TRUE(client->Write<uint32_t>({.region = 0, .offset = 0x14}, 0x1234'5678));
  EXPECT_EQ(client->Read<uint32_t>({.region = 0, .offset = 0x14}).value(), 0x1234'5678u);
  EXPECT_EQ(client->Read<uint16_t>({.region = 0, .offset = 0x16}).value(), 0x1234u);
  ByteVector config(4096);
  EXPECT_TRUE(client->RegionRead({.region = 7}, config));
}

TEST_F(ClientTest, ReportsAnErrorReplyAndGoesOn) {
  FakeServer server;
  const auto client = AttachTo(server);
  const auto read = client->Read<uint32_t>({.region = 0, .offset = FakeServer::kRegionSize});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, EINVAL);
  EXPECT_THAT(read.error().message, HasSubstr("REGION_READ"));
  EXPECT_TRUE(client->alive());
  EXPECT_TRUE(client->Read<uint32_t>({}));
}

TEST_F(ClientTest, AsksForInfo) {
  FakeServer server;
  const auto client = AttachTo(server);
  EXPECT_EQ(client->GetInfo().value().num_regions, 9u);
  const auto region = client->GetRegionInfo(3).value();
  EXPECT_EQ(region.info.index, 3u);
  EXPECT_EQ(region.info.size, FakeServer::kRegionSize);
  EXPECT_TRUE(region.areas.empty());
  EXPECT_FALSE(region.fd);
  EXPECT_EQ(client->GetIrqInfo(IrqIndex::kMsix).value().count, 4u);
  EXPECT_TRUE(client->GetRegionIoFds(0).value().entries.empty());
}

TEST_F(ClientTest, AsksAgainForCapabilitiesOfARegion) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() != Command::kDeviceGetRegionInfo) return false;
    RegionInfo info;
    Copy(AsWritableBytes(info), frame.payload);
    if (info.argsz < 64) {
      self.Reply(frame, RegionInfo{64, 7, info.index, 0, 0x10000, 0});
      return true;
    }
    const auto fds = MakeFds(1);
    const int fd = fds[0].get();
    const ByteVector payload = Pack(RegionInfo{64, 0xf, info.index, 32, 0x10000, 0x2000},
                                    SparseMmap{{1, 1, 0}, 1, 0}, MmapArea{0x1000, 0xf000});
    self.SendBytes(Pack(ReplyHeader(frame.header, payload.size()), payload), std::span(&fd, 1));
    return true;
  });
  const auto client = AttachTo(server);
  const auto region = client->GetRegionInfo(2).value();
  ASSERT_EQ(region.areas.size(), 1u);
  EXPECT_EQ(region.areas[0].offset, 0x1000u);
  EXPECT_EQ(region.areas[0].size, 0xf000u);
  EXPECT_EQ(region.info.offset, 0x2000u);
  EXPECT_TRUE(region.fd);
}

TEST_F(ClientTest, TakesDoorbellEventfds) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() != Command::kDeviceGetRegionIoFds) return false;
    RegionIoFds request;
    Copy(AsWritableBytes(request), frame.payload);
    if (request.argsz < 96) {
      self.Reply(frame, RegionIoFds{96, 0, 0, 0});
      return true;
    }
    const auto fds = MakeFds(1);
    const int fd = fds[0].get();
    const ByteVector payload = Pack(RegionIoFds{96, 0, 0, 2}, IoFdEntry{0x1000, 4, 0, 0, 0, 0, 0},
                                    IoFdEntry{0x1008, 4, 0, 0, 0, 0, 7});
    self.SendBytes(Pack(ReplyHeader(frame.header, payload.size()), payload), std::span(&fd, 1));
    return true;
  });
  const auto client = AttachTo(server);
  const auto io_fds = client->GetRegionIoFds(0).value();
  ASSERT_EQ(io_fds.entries.size(), 2u);
  EXPECT_EQ(io_fds.entries[1].offset, 0x1008u);
  EXPECT_EQ(io_fds.entries[1].datamatch, 7u);
  EXPECT_EQ(io_fds.fds.size(), 1u);
}

TEST_F(ClientTest, ArmsInterruptsInPartsAndHearsThem) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.no_reply()) SignalEventfd(self.eventfds.at(9).get());
    return false;
  });
  server.json = R"({"capabilities":{"max_msg_fds":3}})";
  {
    const auto client = AttachTo(server);
    const auto fds = MakeFds(8);
    std::vector<int> numbers;
    for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
    ASSERT_TRUE(client->ArmIrqs(IrqIndex::kMsix, 2, numbers));
    ASSERT_TRUE(client->DisarmIrqs(IrqIndex::kMsix, 3, 1));
    ASSERT_TRUE(client->MaskIrq(IrqIndex::kIntx, 0));
    ASSERT_TRUE(client->UnmaskIrq(IrqIndex::kIntx, 0));
    ASSERT_TRUE(client->PostWrite({}, AsBytes(uint32_t{1})));
    EXPECT_TRUE(client->WaitReadable(fds[7].get(), 5000 * kMs).value());
    EXPECT_FALSE(
        client->SetIrqs({.flags = 0x24, .index = 2, .count = 4}, {}, std::span(numbers).first(4)));
  }
  server.Join();
  EXPECT_EQ(server.eventfds.size(), 7u);
  EXPECT_EQ(std::count(server.commands.begin(), server.commands.end(), 8), 3 + 1 + 2);
  server.eventfds.clear();
}

TEST_F(ClientTest, MapsAndUnmaps) {
  FakeServer server;
  const auto client = AttachTo(server);
  const UniqueFd file = MakeMemfd("ram", 1 << 20).value();
  EXPECT_TRUE(client->DmaMap({.iova = 0, .size = 1 << 20, .fd = file.get()}));
  EXPECT_TRUE(client->DmaMap({.iova = 1 << 20, .size = 4096, .flags = kDmaMapRead}));
  EXPECT_TRUE(client->DmaUnmap(0, 1 << 20));
  EXPECT_TRUE(client->DmaUnmapAll());
  const auto empty = client->DmaMap({.iova = 0, .size = 0});
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().code, EINVAL);
  EXPECT_FALSE(client->DmaMap({.iova = UINT64_MAX, .size = 4096}));
  EXPECT_TRUE(client->alive());
}

TEST_F(ClientTest, ResetsAndUsesFeaturesAndMigrationData) {
  FakeServer server;
  const auto client = AttachTo(server);
  EXPECT_TRUE(client->Reset());
  ByteVector out(8);
  EXPECT_EQ(client->FeatureGet(Feature::kMigrationState, ByteVector(8), out).value(), 8u);
  EXPECT_EQ(out, ByteVector(8, std::byte{1}));
  EXPECT_TRUE(client->FeatureSet(Feature::kMigrationState, Pack(FeatureMigrationState{1, 0})));
  EXPECT_TRUE(client->FeatureProbe(Feature::kMigration, kFeatureGet));
  ByteVector state(4096);
  EXPECT_EQ(client->MigDataRead(state).value(), 100u);
  EXPECT_EQ(state[99], std::byte{99});
  EXPECT_TRUE(client->MigDataWrite(state));
}

TEST_F(ClientTest, PipelinesReadsInOneMessageAndFinishesThemInAnyOrder) {
  std::atomic<int> reads = 0;
  FakeServer server([&](FakeServer&, Frame& frame) {
    reads += frame.command() == Command::kRegionRead;
    return false;
  });
  const auto client = AttachTo(server);
  for (uint32_t i = 0; i < 32; ++i) {
    ASSERT_TRUE(client->Write<uint32_t>({.offset = 4 * i}, i));
  }
  std::array<uint32_t, 32> values{};
  std::vector<DeviceClient::ReadTicket> tickets;
  for (uint32_t i = 0; i < 32; ++i) {
    tickets.push_back(client->BeginRead({.offset = 4 * i}, AsWritableBytes(values[i])).value());
  }
  EXPECT_EQ(reads, 0) << "begun reads are sent together";
  for (auto ticket = tickets.rbegin(); ticket != tickets.rend(); ++ticket) {
    EXPECT_TRUE(client->FinishRead(*ticket));
  }
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(values[i], i);
}

TEST_F(ClientTest, SendsBegunReadsWithTheNextCall) {
  std::atomic<int> reads = 0;
  FakeServer server([&](FakeServer&, Frame& frame) {
    reads += frame.command() == Command::kRegionRead;
    return false;
  });
  const auto client = AttachTo(server);
  uint32_t value = 0;
  const auto ticket = client->BeginRead({}, AsWritableBytes(value)).value();
  ASSERT_TRUE(client->Reset());
  EXPECT_EQ(reads, 1);
  EXPECT_TRUE(client->FinishRead(ticket));
}

TEST_F(ClientTest, RefusesMoreReadsThanItHasIdsFor) {
  FakeServer server;
  const auto client = AttachTo(server);
  uint8_t value = 0;
  std::vector<DeviceClient::ReadTicket> tickets;
  for (int i = 0; i < 255; ++i) {
    tickets.push_back(client->BeginRead({}, AsWritableBytes(value)).value());
  }
  const auto more = client->BeginRead({}, AsWritableBytes(value));
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, EBUSY);
  for (const auto ticket : tickets) EXPECT_TRUE(client->FinishRead(ticket));
  EXPECT_TRUE(client->Read<uint32_t>({}));
}

TEST_F(ClientTest, PostedWritesArriveBeforeALaterRead) {
  FakeServer server;
  const auto client = AttachTo(server);
  for (uint32_t i = 1; i <= 1000; ++i) {
    ASSERT_TRUE(client->PostWrite({.offset = 8}, AsBytes(i)));
    if (i % 100 != 0) continue;
    EXPECT_EQ(client->Read<uint32_t>({.offset = 8}).value(), i);
  }
}

TEST_F(ClientTest, WritesManyInOneMessage) {
  FakeServer server;
  {
    const auto client = AttachTo(server);
    const std::vector<WriteMultiEntry> writes = {{0, 0, 4, {1, 2, 3, 4}}, {8, 1, 1, {9}}};
    ASSERT_TRUE(client->WriteMulti(0, writes, /*posted=*/false));
    ASSERT_TRUE(client->WriteMulti(0, writes, /*posted=*/true));
    EXPECT_EQ(client->Read<uint32_t>({}).value(), 0x04030201u);
    EXPECT_EQ(client->Read<uint8_t>({.region = 1, .offset = 8}).value(), 9u);
  }
  server.Join();
  EXPECT_EQ(server.commands, (std::vector<uint16_t>{1, 15, 15, 9, 9}));
}

TEST_F(ClientTest, WritesOneByOneWhereTheServerTakesNoBatches) {
  FakeServer server;
  server.json = R"({"capabilities":{}})";
  {
    const auto client = AttachTo(server);
    const std::vector<WriteMultiEntry> writes = {{0, 0, 4, {1, 2, 3, 4}}, {8, 1, 1, {9}}};
    ASSERT_TRUE(client->WriteMulti(0, writes, /*posted=*/false));
    ASSERT_TRUE(client->WriteMulti(0, writes, /*posted=*/true));
    EXPECT_EQ(client->Read<uint32_t>({}).value(), 0x04030201u);
  }
  server.Join();
  EXPECT_EQ(server.commands, (std::vector<uint16_t>{1, 10, 10, 10, 10, 9}));
}

TEST_F(ClientTest, AFloodOfPostedWritesWaitsForAServerThatIsBusy) {
  std::atomic<bool> stalled = true;
  FakeServer server([&](FakeServer&, Frame& frame) {
    if (frame.command() == Command::kDeviceReset) stalled.wait(true);
    return false;
  });
  const auto client = AttachTo(server);
  std::thread resetter([&] { EXPECT_TRUE(client->Reset()); });
  std::atomic<bool> flooded = false;
  std::thread flood([&] {
    const ByteVector data(1024);
    for (int i = 0; i < 3000; ++i) ASSERT_TRUE(client->PostWrite({}, data));
    flooded = true;
  });
  EXPECT_FALSE(client->WaitReadable(-1, 50 * kMs).value());
  EXPECT_FALSE(flooded) << "3 MB can't be on their way: memory would grow with what a guest writes";
  stalled = false;
  stalled.notify_all();
  flood.join();
  resetter.join();
  EXPECT_TRUE(client->Read<uint32_t>({}));
}

TEST_F(ClientTest, ManyThreadsShareOneChannel) {
  // Holds replies back until a reset and sends them in reverse, so that no thread reads its own.
  std::vector<ByteVector> held;
  FakeServer server([&](FakeServer& self, Frame& frame) {
    if (frame.command() == Command::kDeviceReset) {
      for (; !held.empty(); held.pop_back()) self.SendBytes(held.back());
    }
    if (frame.command() != Command::kRegionRead) return false;
    RegionAccess access;
    Copy(AsWritableBytes(access), frame.payload);
    const auto value = static_cast<uint32_t>(access.offset * 3);
    held.push_back(Pack(ReplyHeader(frame.header, sizeof access + 4), access, value));
    return true;
  });
  const auto client = AttachTo(server);
  constexpr int kThreads = 6;
  constexpr uint32_t kReads = 300;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint32_t i = 0; i < kReads; ++i) {
        const GuestAccess access{.offset = t * 1000 + i, .cpu = t};
        ASSERT_EQ(client->Read<uint32_t>(access).value(), access.offset * 3);
        ASSERT_TRUE(client->PostWrite({.offset = 4}, AsBytes(i)));
      }
    });
  }
  std::atomic<bool> ended = false;
  std::thread resetter([&] {
    while (!ended) ASSERT_TRUE(client->Reset());
  });
  for (std::thread& thread : threads) thread.join();
  ended = true;
  resetter.join();
}

bool NeverAnswersReads(FakeServer&, Frame& frame) {
  return frame.command() == Command::kRegionRead;
}

// Waits 30 ms for each answer.
auto AttachImpatiently(FakeServer& server) {
  ClientOptions options;
  options.channel.timeout_ns = 30 * kMs;
  return AttachTo(server, options);
}

TEST_F(ClientTest, TimesOutAndIsDeadForAll) {
  FakeServer server(&NeverAnswersReads);
  const auto client = AttachImpatiently(server);
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      const auto read = client->Read<uint32_t>({});
      ASSERT_FALSE(read);
      EXPECT_EQ(read.error().code, ETIMEDOUT);
      EXPECT_THAT(read.error().message, HasSubstr("did not answer REGION_READ within 30 ms"));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(client->alive());
  const auto reset = client->Reset();
  ASSERT_FALSE(reset);
  EXPECT_THAT(reset.error().message, HasSubstr("REGION_READ"));
}

// Nobody else looks at the clock.
TEST_F(ClientTest, TimesOutInItsOnlyThread) {
  FakeServer server(&NeverAnswersReads);
  const auto client = AttachImpatiently(server);
  const auto read = client->Read<uint32_t>({});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ETIMEDOUT);
}

TEST_F(ClientTest, DmaThatNeverEndsDoesNotPutOffTheTimeout) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() == Command::kVersion) return false;
    // Asks for memory again and again instead of answering.
    self.Ask(1, Command::kDmaRead, DmaAccess{0, 4});
    return true;
  });
  const auto client = AttachImpatiently(server);
  const auto read = client->Read<uint32_t>({});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ETIMEDOUT);
  EXPECT_GT(client->dma_counts().refused, 1u);
}

TEST_F(ClientTest, ReportsAServerThatIsGone) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() == Command::kRegionRead) self.Close();
    return frame.command() == Command::kRegionRead;
  });
  const auto client = AttachTo(server);
  const auto read = client->Read<uint32_t>({});
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("closed"));
  EXPECT_FALSE(client->alive());
  EXPECT_FALSE(client->PostWrite({}, AsBytes(uint32_t{1})));
}

TEST_F(ClientTest, PostedWritesNoticeAServerThatIsGone) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() == Command::kDeviceReset) {
      self.Reply(frame);
      self.Close();
    }
    return frame.command() == Command::kDeviceReset;
  });
  const auto client = AttachTo(server);
  ASSERT_TRUE(client->Reset());
  while (client->PostWrite({}, AsBytes(uint32_t{1}))) std::this_thread::yield();
  EXPECT_FALSE(client->alive());
}

TEST_F(ClientTest, ReadsTheLastReplyOfAServerThatRefusesAndCloses) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() != Command::kRegionRead) return false;
    self.Refuse(frame, EPERM);
    self.Close();
    return true;
  });
  const auto client = AttachTo(server);
  const auto read = client->Read<uint32_t>({});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, EPERM);
}

TEST_F(ClientTest, AnswersDmaWhileItWaitsForAReply) {
  MockDma memory;
  EXPECT_CALL(memory, OnDmaRead(0x1100, testing::_)).WillOnce([](uint64_t, Bytes out) {
    Fill(out, 0x5a);
    return 0;
  });
  EXPECT_CALL(memory, OnDmaWrite(0x1200, testing::_)).WillOnce([](uint64_t, ConstBytes in) {
    EXPECT_EQ(LoadLe<uint32_t>(in), 0xdead'beefu);
    return 0;
  });
  EXPECT_CALL(memory, OnDmaRead(0x1300, testing::_)).WillOnce(Return(ENODEV));
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    self.Ask(1, Command::kDmaRead, DmaAccess{0x1100, 256});
    self.Ask(2, Command::kDmaWrite, DmaAccess{0x1200, 4}, 0xdead'beefu);
    self.Ask(3, Command::kDmaRead, DmaAccess{0x1300, 4});
    return false;
  });
  {
    const auto client = AttachTo(server, {}, &memory);
    ASSERT_TRUE(client->DmaMap({.iova = 0x1000, .size = 0x1000}));
    ASSERT_TRUE(client->Read<uint32_t>({}));
    ASSERT_TRUE(client->Reset());
    EXPECT_EQ(client->dma_counts().reads, 1u);
    EXPECT_EQ(client->dma_counts().writes, 1u);
    EXPECT_EQ(client->dma_counts().refused, 1u);
  }
  server.Join();
  ASSERT_EQ(server.dma_headers.size(), 3u);
  EXPECT_EQ(server.dma_headers[0].message_id, 1);
  EXPECT_EQ(server.dma_headers[0].size, 16u + 16u + 256u);
  EXPECT_EQ(server.dma_data[0], Pack(DmaAccess{0x1100, 256}, ByteVector(256, std::byte{0x5a})));
  EXPECT_EQ(server.dma_data[1], Pack(DmaAccess{0x1200, 4}));
  EXPECT_EQ(server.dma_headers[2].flags, kFlagTypeReply | kFlagError);
  EXPECT_EQ(server.dma_headers[2].error, static_cast<uint32_t>(ENODEV));
}

TEST_F(ClientTest, RefusesDmaThatWasNotAllowed) {
  testing::StrictMock<MockDma> memory;
  const struct {
    std::string_view name;
    Command command;
    ByteVector payload;
    uint32_t error;
  } cases[] = {
      {"nothing there", Command::kDmaRead, Pack(DmaAccess{0x9000, 4}), EFAULT},
      {"past the end", Command::kDmaRead, Pack(DmaAccess{0x1ffd, 4}), EFAULT},
      {"before the start", Command::kDmaRead, Pack(DmaAccess{0xfff, 4}), EFAULT},
      {"across a hole", Command::kDmaRead, Pack(DmaAccess{0x1ffc, 0x3000}), EFAULT},
      {"write to read-only", Command::kDmaWrite, Pack(DmaAccess{0x3000, 4}, 0), EFAULT},
      {"too much", Command::kDmaRead, Pack(DmaAccess{0x1000, (1 << 20) + 1}), EINVAL},
      {"far too much", Command::kDmaRead, Pack(DmaAccess{0, UINT64_MAX}), EINVAL},
      {"nothing", Command::kDmaRead, Pack(DmaAccess{0x1000, 0}), EINVAL},
      {"wrapping", Command::kDmaRead, Pack(DmaAccess{UINT64_MAX, 2}), EINVAL},
      {"cut", Command::kDmaRead, ByteVector(15), EINVAL},
      {"short data", Command::kDmaWrite, Pack(DmaAccess{0x1000, 8}, 0), EINVAL},
      {"not its business", Command::kRegionRead, Pack(RegionAccess{0, 0, 4}), ENOTSUP},
      {"retired", Command{14}, {}, ENOTSUP},
  };
  FakeServer server([&](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    for (uint16_t i = 0; i < std::size(cases); ++i) self.Ask(i, cases[i].command, cases[i].payload);
    return false;
  });
  {
    const auto client = AttachTo(server, {}, &memory);
    ASSERT_TRUE(client->DmaMap({.iova = 0x1000, .size = 0x1000}));
    ASSERT_TRUE(client->DmaMap({.iova = 0x3000, .size = 0x1000, .flags = kDmaMapRead}));
    ASSERT_TRUE(client->Read<uint32_t>({}));
    ASSERT_TRUE(client->Reset());
    EXPECT_EQ(client->dma_counts().refused, std::size(cases));
  }
  server.Join();
  ASSERT_EQ(server.dma_headers.size(), std::size(cases));
  for (size_t i = 0; i < std::size(cases); ++i) {
    EXPECT_EQ(server.dma_headers[i].error, cases[i].error) << cases[i].name;
    EXPECT_EQ(server.dma_headers[i].size, sizeof(Header)) << cases[i].name;
  }
}

TEST_F(ClientTest, DmaMayCrossAdjacentWindowsUntilOneGoes) {
  MockDma memory;
  EXPECT_CALL(memory, OnDmaRead(0x1800, testing::_)).WillOnce(Return(0));
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    self.Ask(1, Command::kDmaRead, DmaAccess{0x1800, 0x1000});
    return false;
  });
  const auto client = AttachTo(server, {}, &memory);
  ASSERT_TRUE(client->DmaMap({.iova = 0x2000, .size = 0x1000}));
  ASSERT_TRUE(client->DmaMap({.iova = 0x1000, .size = 0x1000}));
  ASSERT_TRUE(client->Read<uint32_t>({}));
  ASSERT_TRUE(client->DmaUnmap(0x2000, 0x1000));
  ASSERT_TRUE(client->Read<uint32_t>({}));
  EXPECT_EQ(client->dma_counts().reads, 1u);
  EXPECT_EQ(client->dma_counts().refused, 1u);
}

TEST_F(ClientTest, AMapThatIsRefusedLeavesOtherWindowsInItsRange) {
  MockDma memory;
  EXPECT_CALL(memory, OnDmaRead(0x1800, testing::_)).WillOnce(Return(0));
  size_t maps = 0;
  FakeServer server([&](FakeServer& self, Frame& frame) {
    if (frame.is_reply()) return false;
    if (frame.command() == Command::kDmaMap && maps++ != 0) {
      self.Refuse(frame, EEXIST);
      return true;
    }
    if (frame.command() == Command::kRegionRead) {
      self.Ask(1, Command::kDmaRead, DmaAccess{0x1800, 4});
      self.Ask(2, Command::kDmaRead, DmaAccess{0x2800, 4});
    }
    return false;
  });
  const auto client = AttachTo(server, {}, &memory);
  ASSERT_TRUE(client->DmaMap({.iova = 0x1000, .size = 0x1000}));
  EXPECT_FALSE(client->DmaMap({.iova = 0, .size = 0x1'0000}));
  ASSERT_TRUE(client->Read<uint32_t>({}));
  EXPECT_EQ(client->dma_counts().reads, 1u);
  EXPECT_EQ(client->dma_counts().refused, 1u);
}

TEST_F(ClientTest, AnswersDmaLargerThanTheSocketBuffer) {
  MockDma memory;
  EXPECT_CALL(memory, OnDmaRead).Times(4).WillRepeatedly(Return(0));
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    for (uint16_t i = 0; i < 4; ++i) self.Ask(i, Command::kDmaRead, DmaAccess{0, 1 << 20});
    return false;
  });
  {
    const auto client = AttachTo(server, {}, &memory);
    ASSERT_TRUE(client->DmaMap({.iova = 0, .size = 1 << 20}));
    ASSERT_TRUE(client->Read<uint32_t>({}));
    ASSERT_TRUE(client->Reset());
  }
  server.Join();
  EXPECT_EQ(server.dma_headers.size(), 4u);
}

TEST_F(ClientTest, ServesDmaWhileItWaitsForAnInterrupt) {
  MockDma memory;
  EXPECT_CALL(memory, OnDmaWrite(0x100, testing::_)).WillOnce(Return(0));
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.is_reply()) SignalEventfd(self.eventfds.at(0).get());
    if (frame.no_reply()) self.Ask(7, Command::kDmaWrite, DmaAccess{0x100, 4}, 1);
    return false;
  });
  const UniqueFd irq = MakeEventfd().value();
  {
    const auto client = AttachTo(server, {}, &memory);
    ASSERT_TRUE(client->DmaMap({.iova = 0, .size = 0x1000}));
    const int fd = irq.get();
    ASSERT_TRUE(client->ArmIrqs(IrqIndex::kMsix, 0, std::span(&fd, 1)));
    EXPECT_FALSE(client->WaitReadable(fd, 1 * kMs).value());
    ASSERT_TRUE(client->PostWrite({}, AsBytes(uint32_t{1})));
    EXPECT_TRUE(client->WaitReadable(fd, 5000 * kMs).value());
  }
  server.Join();
  server.eventfds.clear();
}

TEST_F(ClientTest, OneWaitsForAnInterruptWhileOthersAccess) {
  FakeServer server;
  const auto client = AttachTo(server);
  const UniqueFd first = MakeEventfd().value();
  const UniqueFd second = MakeEventfd().value();
  std::thread one([&] { EXPECT_TRUE(client->WaitReadable(first.get(), 5000 * kMs).value()); });
  std::thread other([&] { EXPECT_TRUE(client->WaitReadable(second.get(), 5000 * kMs).value()); });
  for (uint32_t i = 0; i < 500; ++i) {
    ASSERT_TRUE(client->Write<uint32_t>({.offset = 4}, i));
    ASSERT_EQ(client->Read<uint32_t>({.offset = 4}).value(), i);
    if (i == 250) SignalEventfd(first.get());
  }
  one.join();
  SignalEventfd(second.get());
  other.join();
}

TEST_F(ClientTest, UsesTheTwinSocketForDma) {
  MockDma memory;
  EXPECT_CALL(memory, OnDmaRead(0x40, testing::_)).WillOnce([](uint64_t, Bytes out) {
    Fill(out, 0x77);
    return 0;
  });
  auto twin = MakeSocketPair().value();
  const auto server_twin = SocketTransport::Create(std::move(twin.first)).value();
  FakeServer server([&](FakeServer& self, Frame& frame) {
    if (frame.command() == Command::kVersion) {
      const int fd = twin.second.get();
      const std::string json =
          R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}})";
      const ByteVector payload = Pack(Version{}, json, '\0');
      self.SendBytes(Pack(ReplyHeader(frame.header, payload.size()), payload), std::span(&fd, 1));
      twin.second.reset();
      return true;
    }
    if (frame.command() != Command::kRegionRead) return false;
    FakeServer::SendOn(*server_twin, Message(5, Command::kDmaRead, DmaAccess{0x40, 8}), {});
    server_twin->set_receive_waits(true);
    FrameReader reader(kDefaultMaxDataXferSize);
    EXPECT_TRUE(reader.Fill(*server_twin));
    const auto reply = reader.Next().value();
    EXPECT_EQ(reply->header.message_id, 5);
    EXPECT_EQ(reply->payload.back(), std::byte{0x77});
    return false;
  });
  ClientOptions options;
  options.capabilities.twin_socket = {.supported = true, .fd_index = {}};
  const auto client = AttachTo(server, options, &memory);
  ASSERT_TRUE(client->DmaMap({.iova = 0, .size = 0x1000}));
  EXPECT_TRUE(client->Read<uint32_t>({}));
}

TEST_F(ClientTest, SpinsForItsReply) {
  FakeServer server;
  ClientOptions options;
  options.channel.spin_ns = 100 * kMs;
  const auto client = AttachTo(server, options);
  for (uint32_t i = 0; i < 100; ++i) EXPECT_TRUE(client->Read<uint32_t>({}));
}

TEST_F(ClientTest, SendsRawBytesAndTakesWhatAnswersThem) {
  FakeServer server;
  const auto client = AttachTo(server);
  ASSERT_TRUE(client->SendRaw(Message(0x4242, Command{77})));
  const auto unknown = client->ReceiveRaw(5000 * kMs).value();
  EXPECT_EQ(unknown.header.message_id, 0x4242);
  EXPECT_EQ(unknown.header.error, static_cast<uint32_t>(ENOTSUP));

  const ByteVector read = Message(0x11, Command::kRegionRead, RegionAccess{0, 0, 4});
  ASSERT_TRUE(client->SendRaw(ConstBytes(read).first(5)));
  ASSERT_TRUE(client->SendRaw(ConstBytes(read).subspan(5)));
  EXPECT_EQ(client->ReceiveRaw(5000 * kMs).value().payload.size(), 20u);

  const auto none = client->ReceiveRaw(1 * kMs);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ETIMEDOUT);
  EXPECT_TRUE(client->Read<uint32_t>({})) << "requests of its own still work";
}

TEST_F(ClientTest, SendsMoreRawFdsThanAnyoneTakes) {
  FakeServer server;
  const auto client = AttachTo(server);
  const auto fds = MakeFds(40);
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  ASSERT_TRUE(client->SendRaw(Message(1, Command::kDeviceReset), numbers));
}

TEST_F(ClientTest, RawBytesMayComeBeforeVersion) {
  FakeServer server;
  const auto client = VfioUserClient::Open(server.TakeSocket(), {}, nullptr).value();
  ASSERT_TRUE(client->SendRaw(Message(1, Command::kDeviceReset)));
  EXPECT_EQ(client->ReceiveRaw(5000 * kMs).value().header.command, 13);
  EXPECT_TRUE(client->Negotiate());
  EXPECT_TRUE(client->Reset());
}

TEST_F(ClientTest, WorksInOneThreadOverMemory) {
  auto [ours, theirs] = MemoryTransport::MakePair();
  FrameReader reader(kDefaultMaxDataXferSize);
  FrameWriter writer;
  bool silent = false;
  const auto serve = [&, end = theirs.get()](int) {
    EXPECT_TRUE(reader.Fill(*end));
    while (auto frame = reader.Next().value()) {
      if (frame->command() == Command::kVersion) {
        const ByteVector payload = Pack(Version{}, "{}");
        writer.Append(ReplyHeader(frame->header, payload.size()), payload, {});
      } else if (!silent) {
        const ByteVector payload(frame->payload.begin(), frame->payload.end());
        const ByteVector reply = Pack(payload, uint32_t{42});
        writer.Append(ReplyHeader(frame->header, reply.size()), reply, {});
      }
    }
    EXPECT_TRUE(writer.Flush(*end));
    return !silent;
  };
  ClientOptions options;
  options.channel.pump = serve;
  const auto client = VfioUserClient::Attach(std::move(ours), options, nullptr).value();
  EXPECT_EQ(client->Read<uint32_t>({.offset = 8}).value(), 42u);
  silent = true;
  EXPECT_FALSE(client->WaitReadable(-1, 1000'000 * kMs).value()) << "nothing more will happen";
  EXPECT_FALSE(client->Read<uint32_t>({}));
}

TEST_F(ClientTest, SaysWhyItCannotConnect) {
  const auto client = VfioUserClient::Connect("/nonexistent/nvme0.sock", {}, nullptr);
  ASSERT_FALSE(client);
  EXPECT_THAT(client.error().message, HasSubstr("/nonexistent/nvme0.sock"));
}

}  // namespace
}  // namespace farside::vfio_user
