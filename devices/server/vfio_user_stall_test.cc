// Commands that wait for the device, what waits behind them, and what must not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::Each;
using testing::HasSubstr;
using vfio_user::Command;

constexpr uint64_t kTimeout = VfioUserServer::kDrainTimeoutNs;

class StallTest : public testing::Test {
 protected:
  StallTest() {
    EXPECT_EQ(client_->Map(0, 4 * kPage, memory_.fd()), 0);
    EXPECT_EQ(client_->Map(8 * kPage, 4 * kPage), 0);
  }

  // These two are with the server when they return.
  uint16_t SendUnmap(uint64_t iova, uint64_t size) {
    const auto id = client_->Send(
        Command::kDmaUnmap, Pack(vfio_user::DmaUnmap{.argsz = 24, .iova = iova, .size = size}));
    bench_.Settle();
    return id;
  }
  uint16_t SendReset() {
    const auto id = client_->Send(Command::kDeviceReset, {});
    bench_.Settle();
    return id;
  }
  uint16_t SendRead() {
    return client_->Send(Command::kRegionRead, RawClient::ReadPayload(Region::kConfig, 0, 4));
  }
  // Block I/O that fills a page of the guest's.
  std::shared_ptr<FakeDevice::Io> StartIo(uint64_t iova = 0) {
    auto io = device().StartIo({{iova, kPage}}, DmaAccess::kWrite);
    EXPECT_EQ(io->mapped, DmaStatus::kOk);
    return io;
  }
  static void FillIo(const FakeDevice::Io& io, uint8_t value) {
    for (const iovec& part : io.iovecs) {
      Fill({static_cast<std::byte*>(part.iov_base), part.iov_len}, value);
    }
  }
  void End(FakeDevice::Io& io) {
    device().EndIo(io);
    bench_.Settle();
  }
  void EnableBusMaster() { client_->Write(Region::kConfig, pci::kCommand, pci::kCommandBusMaster); }
  FakeDevice& device() { return bench_.device(); }

  SharedMemory memory_{4 * kPage};
  Bench bench_;
  std::unique_ptr<RawClient> client_ = bench_.ConnectReady();
};

// --- UNMAP.

TEST_F(StallTest, UnmapIsAnsweredWhenTheIoInItsWindowHasEnded) {
  const auto io = StartIo();
  const auto unmap = SendUnmap(0, 4 * kPage);
  EXPECT_FALSE(client_->Receive());
  EXPECT_EQ(device().StartRead(0, 16)->status, DmaStatus::kFault) << "no new access";
  EXPECT_EQ(device().StartIo({{0, 16}}, DmaAccess::kRead)->mapped, DmaStatus::kFault);
  FillIo(*io, 0x11);
  End(*io);
  EXPECT_EQ(io->status, DmaStatus::kOk);
  EXPECT_EQ(client_->Await(unmap).error(), 0);
  EXPECT_THAT(memory_.bytes().first(kPage), Each(std::byte{0x11}));
}

TEST_F(StallTest, UnmapOfAnotherWindowDoesNotWait) {
  const auto io = StartIo();
  EXPECT_EQ(client_->Unmap(8 * kPage, 4 * kPage), 0);
  End(*io);
  EXPECT_EQ(io->status, DmaStatus::kOk);
}

TEST_F(StallTest, AfterTwoSecondsTheIoGoesOnInAPrivateCopyAndItsCommandFails) {
  const auto io = StartIo();
  const auto unmap = SendUnmap(0, 4 * kPage);
  bench_.Advance(kTimeout - 1);
  EXPECT_FALSE(client_->Receive());
  bench_.Advance(1);
  EXPECT_EQ(client_->Await(unmap).error(), 0);
  FillIo(*io, 0x22);
  EXPECT_THAT(memory_.bytes().first(kPage), Each(std::byte{0})) << "the client has its memory back";
  End(*io);
  EXPECT_EQ(io->status, DmaStatus::kCancelled);
}

TEST_F(StallTest, UnmapOfAllWaitsToo) {
  const auto io = StartIo();
  const auto unmap = client_->Send(
      Command::kDmaUnmap, Pack(vfio_user::DmaUnmap{.argsz = 24, .flags = vfio_user::kDmaUnmapAll}));
  EXPECT_FALSE(client_->Receive());
  End(*io);
  EXPECT_EQ(client_->Await(unmap).error(), 0);
}

TEST_F(StallTest, UnmapsOfWindowsInUseCostNoMemoryThatStays) {
  const auto round = [&] {
    const auto io = StartIo();
    const auto unmap = SendUnmap(0, 4 * kPage);
    End(*io);
    EXPECT_EQ(client_->Await(unmap).error(), 0);
    EXPECT_EQ(client_->Map(0, 4 * kPage, memory_.fd()), 0);
  };
  for (int i = 0; i < 20; ++i) round();
  const size_t before = AllocatedBytes();
  for (int i = 0; i < 500; ++i) round();
  EXPECT_LT(AllocatedBytes(), before + 10'000);
}

// --- What waits behind.

TEST_F(StallTest, CommandsBehindOneThatWaitsAreDoneAfterItInTheirOrder) {
  const auto io = StartIo();
  const auto unmap = SendUnmap(0, 4 * kPage);
  const auto write =
      client_->Send(Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0, uint32_t{7}));
  const auto read =
      client_->Send(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4));
  const int fd = memory_.fd();
  const auto map = client_->Send(Command::kDmaMap,
                                 Pack(vfio_user::DmaMap{.argsz = 32, .flags = 3, .size = kPage}), 0,
                                 std::span(&fd, 1));
  EXPECT_FALSE(client_->Receive());
  EXPECT_TRUE(device().bar_writes.empty());
  End(*io);
  for (const uint16_t id : {unmap, write, read, map}) {
    const auto reply = client_->Receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.message_id, id);
    EXPECT_EQ(reply->error(), 0);
    if (id == read) {
      EXPECT_EQ(reply->Get<uint32_t>(16), 7u);
    }
  }
  EXPECT_EQ(device().StartRead(0, 16)->status, DmaStatus::kOk) << "the fd came along";
}

TEST_F(StallTest, RepliesToDmaPassTheCommandsThatAreHeldBack) {
  const auto io = StartIo();
  const auto dma = device().StartRead(8 * kPage, 16);
  const auto command = client_->Receive();
  ASSERT_TRUE(command);
  SendUnmap(0, 4 * kPage);
  SendRead();
  client_->Reply(*command, Pack(command->Get<vfio_user::DmaAccess>(), Counting(16)));
  EXPECT_FALSE(client_->Receive());
  EXPECT_EQ(dma->status, DmaStatus::kOk);
  EXPECT_EQ(dma->data, Counting(16));
  End(*io);
}

TEST_F(StallTest, IoThatEndsInDmaByMessageEndsWhileUnmapWaitsForIt) {
  // Half of it lies in a window by message: its end needs answers from the client that waits.
  const auto io = device().StartIo({{0, 512}, {8 * kPage, 512}}, DmaAccess::kWrite);
  const auto unmap = SendUnmap(0, 4 * kPage);
  const auto read = SendRead();
  FillIo(*io, 0x33);
  End(*io);
  const auto command = client_->Receive();
  ASSERT_TRUE(command);
  EXPECT_EQ(command->header.command, static_cast<uint16_t>(Command::kDmaWrite));
  client_->Reply(*command, Pack(command->Get<vfio_user::DmaAccess>()));
  EXPECT_EQ(client_->Await(unmap).error(), 0);
  EXPECT_EQ(client_->Await(read).error(), 0);
  EXPECT_EQ(io->status, DmaStatus::kOk);
}

TEST_F(StallTest, MoreCommandsThanAreHeldWaitInTheChannel) {
  const auto io = StartIo();
  const auto reset = SendReset();
  std::vector<uint16_t> reads;
  for (size_t i = 0; i < 4 * VfioUserServer::kMaxHeldCommands; ++i) reads.push_back(SendRead());
  EXPECT_FALSE(client_->Receive());
  const uint64_t handled = bench_.server().counters().commands;
  End(*io);
  EXPECT_EQ(client_->Receive()->header.message_id, reset);
  for (const uint16_t id : reads) {
    const auto reply = client_->Receive();
    ASSERT_TRUE(reply);
    EXPECT_EQ(reply->header.message_id, id);
  }
  EXPECT_EQ(bench_.server().counters().commands, handled + reads.size());
}

// Over a socket, whose buffer is what ends it.
TEST(StallLimitTest, AClientThatSendsOnBehindAResetIsNotReadFrom) {
  constexpr size_t kPlenty = 8 * VfioUserServer::kMaxHeldBytes;
  const ByteVector small = RawClient::ReadPayload(Region::kConfig, 0, 4);
  const ByteVector large = RawClient::WritePayload(Region::kBar0, 0, ByteVector(64 << 10));
  for (const auto& [command, payload] :
       {std::pair{Command::kRegionRead, small}, {Command::kRegionWrite, large}}) {
    Bench bench(Link::kSocket);
    const auto client = bench.ConnectReady();
    const SharedMemory memory(kPage);
    EXPECT_EQ(client->Map(0, kPage, memory.fd()), 0);
    const auto io = bench.device().StartIo({{0, kPage}}, DmaAccess::kWrite);
    client->Send(Command::kDeviceReset, {});
    bench.Settle();
    const ByteVector message = Pack(vfio_user::CommandHeader(1, command, payload.size()), payload);
    size_t taken = 0;
    size_t before = 0;
    do {
      before = taken;
      for (ssize_t sent = 0; sent >= 0; taken += static_cast<size_t>(std::max<ssize_t>(sent, 0))) {
        sent = client->transport().Send(ConstBytes(message).subspan(taken % message.size()), {});
      }
      bench.Settle();
    } while (taken != before && taken < kPlenty);
    EXPECT_LT(taken, kPlenty) << payload.size() << " bytes each";
    bench.device().EndIo(*io);
    bench.Settle();
  }
}

TEST_F(StallTest, ASecondStallBehindTheFirstWaitsItsTurn) {
  const auto io = StartIo();
  const auto other = StartIo(2 * kPage);
  const auto unmap = SendUnmap(0, 4 * kPage);
  const auto reset = SendReset();
  const auto read = SendRead();
  End(*io);
  EXPECT_FALSE(client_->Receive()) << "the other I/O is in that window, too";
  EXPECT_EQ(device().resets, 0);
  End(*other);
  for (const uint16_t id : {unmap, reset, read}) {
    EXPECT_EQ(client_->Receive()->header.message_id, id);
  }
  EXPECT_EQ(device().resets, 1);
}

// --- RESET.

TEST_F(StallTest, ResetIsAnsweredWhenNothingIsInFlight) {
  const auto io = StartIo();
  const auto reset = SendReset();
  EXPECT_FALSE(client_->Receive());
  EXPECT_EQ(device().resets, 1) << "the registers are reset at once";
  EXPECT_TRUE(device().paused);
  bench_.Advance(kTimeout - 1);
  EXPECT_FALSE(client_->Receive());
  FillIo(*io, 0x44);
  End(*io);
  EXPECT_EQ(client_->Await(reset).error(), 0);
  EXPECT_FALSE(device().paused);
  bench_.Advance(10 * kTimeout);
  EXPECT_FALSE(client_->Closed()) << "the time limit ended with it";
}

TEST_F(StallTest, ADeviceThatDoesNotResetInTwoSecondsIsDeadUntilItDoes) {
  const auto io = StartIo();
  SendReset();
  bench_.Advance(kTimeout);
  EXPECT_TRUE(client_->Closed()) << "never acknowledged while a write is in flight";
  EXPECT_EQ(bench_.Connect(), nullptr);
  auto [ours, theirs] = MemoryTransport::MakePair();
  const auto refused = bench_.server().Accept(std::move(theirs));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("fake0"));
  EXPECT_EQ(refused.error().code, EBUSY);

  FillIo(*io, 0x55);
  EXPECT_THAT(memory_.bytes().first(kPage), Each(std::byte{0})) << "the client's memory is its own";
  End(*io);
  EXPECT_EQ(io->status, DmaStatus::kCancelled);
  client_ = bench_.ConnectReady();
  ASSERT_NE(client_, nullptr);
  EXPECT_FALSE(device().paused);
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceReset, {}), 0);
}

TEST_F(StallTest, AClientThatDiesInItsResetIsSucceededWhenThatHasEnded) {
  const auto io = StartIo();
  SendReset();
  client_->Close();
  bench_.Settle();
  EXPECT_EQ(bench_.Connect(), nullptr);
  bench_.Advance(kTimeout);
  EXPECT_EQ(bench_.Connect(), nullptr);
  End(*io);
  client_ = bench_.ConnectReady();
  ASSERT_NE(client_, nullptr);
  EXPECT_FALSE(client_->Receive()) << "the answer to the dead one's RESET";
  bench_.Advance(10 * kTimeout);
  EXPECT_FALSE(client_->Closed());
}

TEST_F(StallTest, FunctionLevelResetByTheGuestResetsToo) {
  client_->Write(Region::kBar0, 0, uint32_t{7});
  client_->Write(Region::kConfig, FakeDevice::kPcieDeviceControl, pci::kPcieInitiateFlr);
  EXPECT_EQ(device().resets, 1);
  EXPECT_EQ(client_->Read<uint32_t>(Region::kBar0, 0), 0u);
}

// --- Clients that go while they wait.

TEST_F(StallTest, AClientThatDiesInItsUnmapLeavesNothingForTheNextToWaitFor) {
  const auto io = StartIo();
  SendUnmap(0, 4 * kPage);
  SendRead();
  client_->Close();
  bench_.Settle();
  EXPECT_FALSE(bench_.server().connected());

  client_ = bench_.ConnectReady();
  ASSERT_NE(client_, nullptr);
  SharedMemory fresh(kPage);
  ASSERT_EQ(client_->Map(0, kPage, fresh.fd()), 0);
  EXPECT_EQ(client_->Unmap(0, kPage), 0) << "at once: the old I/O is not its business";
  FillIo(*io, 0x66);
  EXPECT_THAT(memory_.bytes().first(kPage), Each(std::byte{0}));
  End(*io);
  EXPECT_EQ(io->status, DmaStatus::kCancelled);
  EXPECT_FALSE(client_->Receive());
}

TEST_F(StallTest, TheTwoSecondsOfADeadClientsUnmapAreNotTheNextOnes) {
  const auto io = StartIo();
  SendUnmap(0, 4 * kPage);
  bench_.Advance(kTimeout - 1);
  client_->Close();
  bench_.Settle();
  client_ = bench_.ConnectReady();
  SharedMemory fresh(kPage);
  ASSERT_EQ(client_->Map(0, kPage, fresh.fd()), 0);
  const auto next = StartIo();
  const auto unmap = SendUnmap(0, kPage);
  bench_.Advance(kTimeout - 1);
  EXPECT_FALSE(client_->Receive());
  End(*next);
  EXPECT_EQ(next->status, DmaStatus::kOk) << "it was not revoked before its time";
  EXPECT_EQ(client_->Await(unmap).error(), 0);
  End(*io);
}

TEST_F(StallTest, DisconnectTakesTheMemoryAwayFromIoInFlight) {
  const auto io = StartIo();
  client_->Close();
  bench_.Settle();
  FillIo(*io, 0x77);
  EXPECT_THAT(memory_.bytes().first(kPage), Each(std::byte{0}));
  End(*io);
  EXPECT_EQ(io->status, DmaStatus::kCancelled);
}

Task<void> DisconnectWhen(Wakeup& wakeup, VfioUserServer& server) {
  co_await wakeup.Wait();
  server.Disconnect();
}

TEST_F(StallTest, ATaskMayEndTheConnectionInTheMiddleOfABatch) {
  // As a process does that was told to end.
  Wakeup wakeup(bench_.loop());
  TaskScope scope;
  scope.Spawn(DisconnectWhen(wakeup, bench_.server()));
  for (int i = 0; i < 3; ++i) SendRead();
  wakeup.NotifyAll();
  bench_.server().Pump();
  EXPECT_FALSE(bench_.server().connected());
  EXPECT_EQ(scope.active(), 0u);
  client_ = bench_.ConnectReady();
  EXPECT_NE(client_, nullptr);
}

// --- Doorbells by eventfd.

class DoorbellTest : public testing::Test {
 protected:
  static constexpr DoorbellRange kBells[] = {
      {Region::kBar0, 0x100, 4}, {Region::kBar2, 0x10, 2}, {Region::kBar0, 0x104, 8}};

  Received GetIoFds(Region region, uint32_t argsz) {
    return client_->Call(
        Command::kDeviceGetRegionIoFds,
        Pack(vfio_user::RegionIoFds{
            .argsz = argsz, .flags = 0, .index = static_cast<uint32_t>(region), .count = 0}));
  }

  Bench bench_{Link::kSocket, {std::begin(kBells), std::end(kBells)}};
  std::unique_ptr<RawClient> client_ = bench_.ConnectReady();
};

TEST_F(DoorbellTest, AClientFindsTheDoorbellsOfARegionAndRingsThem) {
  const Received reply = GetIoFds(Region::kBar0, 4096);
  EXPECT_EQ(reply.Get<vfio_user::RegionIoFds>().count, 2u);
  EXPECT_EQ(reply.Get<vfio_user::RegionIoFds>().argsz, 16u + 2 * 40);
  ASSERT_EQ(reply.fds.size(), 2u);
  for (uint32_t i = 0; i < 2; ++i) {
    const auto entry = reply.Get<vfio_user::IoFdEntry>(16 + 40 * i);
    EXPECT_EQ(entry.offset, i == 0 ? 0x100u : 0x104u);
    EXPECT_EQ(entry.size, i == 0 ? 4u : 8u);
    EXPECT_EQ(entry.type, vfio_user::kIoFdTypeIoeventfd);
    EXPECT_EQ(entry.fd_index, i);
    EXPECT_EQ(entry.flags, 0u);
  }
  SignalEventfd(reply.fds[1].get());
  bench_.Settle();
  EXPECT_EQ(bench_.device().bar_writes,
            (std::vector<FakeDevice::BarWrite>{{0, 0x104, ByteVector(8)}}));
  SignalEventfd(reply.fds[0].get());
  SignalEventfd(reply.fds[0].get());
  bench_.Settle();
  EXPECT_EQ(bench_.device().bar_writes.size(), 2u) << "rings that were not served yet are one";
}

TEST_F(DoorbellTest, ADoorbellIsServedBeforeAMessageThatWasSentAfterIt) {
  const Received reply = GetIoFds(Region::kBar2, 4096);
  ASSERT_EQ(reply.fds.size(), 1u);
  SignalEventfd(reply.fds[0].get());
  client_->Write(Region::kBar0, 0, uint32_t{1});
  ASSERT_EQ(bench_.device().bar_writes.size(), 2u);
  EXPECT_EQ(bench_.device().bar_writes[0], (FakeDevice::BarWrite{2, 0x10, ByteVector(2)}));
}

TEST_F(DoorbellTest, AClientWithTooLittleRoomLearnsHowMuchToLeave) {
  const Received reply = GetIoFds(Region::kBar0, 95);
  EXPECT_EQ(reply.payload.size(), sizeof(vfio_user::RegionIoFds));
  EXPECT_EQ(reply.Get<vfio_user::RegionIoFds>().argsz, 96u);
  EXPECT_EQ(reply.Get<vfio_user::RegionIoFds>().count, 0u);
  EXPECT_TRUE(reply.fds.empty());
  EXPECT_EQ(GetIoFds(Region::kBar0, 96).fds.size(), 2u);
  EXPECT_EQ(GetIoFds(Region::kBar4, 4096).Get<vfio_user::RegionIoFds>().count, 0u);
}

TEST_F(DoorbellTest, AClientThatTakesOneFdInAMessageIsNotSentTwo) {
  client_->Close();
  bench_.Settle();
  client_ = bench_.Connect();
  ASSERT_EQ(client_->Version("{}").error(), 0) << "absent, max_msg_fds is 1";
  EXPECT_TRUE(GetIoFds(Region::kBar0, 4096).fds.empty());
  EXPECT_EQ(GetIoFds(Region::kBar2, 4096).fds.size(), 1u);
}

TEST_F(DoorbellTest, DoorbellsOfAClientThatIsGoneRingNoMore) {
  const auto before = CountOpenFds();
  Received reply = GetIoFds(Region::kBar0, 4096);
  const UniqueFd bell = std::move(reply.fds[0]);
  reply.fds.clear();
  client_->Close();
  bench_.Settle();
  SignalEventfd(bell.get());
  bench_.Settle();
  EXPECT_TRUE(bench_.device().bar_writes.empty());
  EXPECT_EQ(CountOpenFds(), before - 2 + 1) << "both ends of the socket are gone, our bell is left";
}

}  // namespace
}  // namespace farside
