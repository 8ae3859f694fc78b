// Sessions: framing, clients that come and go at any byte, and what a client can't do to its
// server.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::HasSubstr;
using vfio_user::Command;
using vfio_user::Header;
using vfio_user::RegionAccess;

// Lines of this process's memory map that name `file`.
size_t CountMappings(std::string_view file) {
  std::ifstream maps("/proc/self/maps");
  size_t count = 0;
  for (std::string line; std::getline(maps, line);) count += line.find(file) != std::string::npos;
  return count;
}

class SessionTest : public testing::TestWithParam<Link> {
 protected:
  Bench bench_{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Links, SessionTest, testing::Values(Link::kMemory, Link::kSocket),
                         [](const auto& param) {
                           return param.param == Link::kMemory ? "Memory" : "Socket";
                         });

// --- Framing.

TEST_P(SessionTest, AHeaderThatBreaksTheFramingEndsTheChannel) {
  const uint32_t too_large = vfio_user::MaxMessageSize(vfio_user::kDefaultMaxDataXferSize) + 1;
  for (const Header& header :
       {Header{1, 4, 0, 0, 0}, Header{1, 4, 15, 0, 0}, Header{1, 4, too_large, 0, 0},
        Header{1, 4, ~0u, 0, 0}, Header{1, 4, 32, 2, 0}, Header{1, 4, 32, 15, 0}}) {
    const auto client = bench_.ConnectReady();
    ASSERT_NE(client, nullptr);
    client->SendBytes(Pack(header, ByteVector(64)));
    EXPECT_TRUE(client->Closed()) << header.size << " bytes, flags " << header.flags;
    EXPECT_FALSE(bench_.server().connected());
  }
}

TEST_P(SessionTest, AHeaderWithoutTheBodyItsCommandNeedsIsAnError) {
  const auto client = bench_.ConnectReady();
  for (uint16_t command = 1; command <= 18; ++command) {
    if (Command{command} == Command::kDeviceReset) continue;
    client->SendBytes(Pack(Header{command, command, 16, 0, 0}));
    EXPECT_NE(client->Await(command).error(), 0) << command;
  }
  EXPECT_EQ(client->Read<uint16_t>(Region::kConfig, 0), 0x1b36);
}

TEST_P(SessionTest, TheSameMessageIdTwiceIsAnsweredTwice) {
  const auto client = bench_.ConnectReady();
  const ByteVector read = RawClient::ReadPayload(Region::kConfig, 0, 2);
  const Header header = vfio_user::CommandHeader(500, Command::kRegionRead, read.size());
  client->SendBytes(Pack(header, read, header, read));
  EXPECT_EQ(client->Await(500).Get<uint16_t>(sizeof(RegionAccess)), 0x1b36);
  EXPECT_EQ(client->Await(500).Get<uint16_t>(sizeof(RegionAccess)), 0x1b36);
}

TEST_P(SessionTest, RepliesThatNobodyAskedForAreCounted) {
  const auto client = bench_.Connect();
  const Received unasked{
      .header = vfio_user::CommandHeader(0, Command::kDmaRead, 0), .payload = {}, .fds = {}};
  client->Reply(unasked, ByteVector(32));
  client->ReplyError(unasked, 0);
  client->Negotiate();
  client->Reply(unasked, ByteVector(32));
  EXPECT_EQ(client->Read<uint16_t>(Region::kConfig, 0), 0x1b36);
  EXPECT_EQ(bench_.server().counters().stray_replies, 3u);
}

// A session of everything that leaves something behind, as bytes, and where its fds belong.
struct Recorded {
  ByteVector bytes;
  size_t map_at = 0;
  size_t irqs_at = 0;
};

Recorded RecordSession() {
  Recorded session;
  AppendTo(session.bytes, Message(1, Command::kVersion, vfio_user::Version{},
                                  std::string_view("{\"capabilities\":{}}\0", 20)));
  session.map_at = session.bytes.size();
  AppendTo(session.bytes,
           Message(2, Command::kDmaMap, vfio_user::DmaMap{.argsz = 32, .flags = 3, .size = kPage}));
  session.irqs_at = session.bytes.size();
  AppendTo(session.bytes,
           Message(3, Command::kDeviceSetIrqs,
                   vfio_user::SetIrqs{.argsz = 20, .flags = 0x24, .index = 2, .count = 1}));
  AppendTo(session.bytes, Message(4, Command::kRegionWrite,
                                  RawClient::WritePayload(Region::kBar0, 0, uint32_t{1})));
  AppendTo(session.bytes,
           Message(5, Command::kRegionRead, RawClient::ReadPayload(Region::kConfig, 0, 64)));
  AppendTo(session.bytes,
           Message(6, Command::kDmaUnmap, vfio_user::DmaUnmap{.argsz = 24, .size = kPage}));
  AppendTo(session.bytes, Message(7, Command::kDeviceReset));
  return session;
}

class RecordedSessionTest : public SessionTest {
 protected:
  // Sends bytes [from, to), with the fds that travel with them.
  void Send(RawClient& client, size_t from, size_t to) {
    for (const auto& [at, fd] :
         {std::pair(session_.map_at, memory_.fd()), std::pair(session_.irqs_at, event_.fd())}) {
      if (from > at || at >= to) continue;
      if (from != at) client.SendBytes(ConstBytes(session_.bytes).subspan(from, at - from));
      // A frame with fds is sent by itself, as clients do: or all of it that is sent at all.
      const size_t frame_size = LoadLe<uint32_t>(ConstBytes(session_.bytes).subspan(at + 4));
      const size_t end = std::min(to, at + frame_size);
      client.SendBytes(ConstBytes(session_.bytes).subspan(at, end - at), std::span(&fd, 1));
      from = end;
    }
    if (from < to) client.SendBytes(ConstBytes(session_.bytes).subspan(from, to - from));
  }
  static ByteVector ReplyBytes(RawClient& client) {
    ByteVector all;
    while (auto reply = client.Receive()) AppendTo(all, Pack(reply->header, reply->payload));
    return all;
  }

  const Recorded session_ = RecordSession();
  const SharedMemory memory_{kPage};
  const Eventfds event_{1};
};

INSTANTIATE_TEST_SUITE_P(Links, RecordedSessionTest, testing::Values(Link::kMemory, Link::kSocket),
                         [](const auto& param) {
                           return param.param == Link::kMemory ? "Memory" : "Socket";
                         });

TEST_P(RecordedSessionTest, AClientMayVanishAtAnyByte) {
  const auto fds = CountOpenFds();
  const size_t mappings = CountMappings("memfd:guest");
  for (size_t size = 0; size <= session_.bytes.size(); ++size) {
    auto client = bench_.Connect();
    ASSERT_NE(client, nullptr) << "after " << size << " bytes";
    Send(*client, 0, size);
    client->Close();
    bench_.Settle();
    ASSERT_FALSE(bench_.server().connected()) << size;
    ASSERT_EQ(bench_.slot().dma().window_count(), 0u) << size;
    ASSERT_EQ(CountOpenFds(), fds) << size;
    ASSERT_EQ(CountMappings("memfd:guest"), mappings) << size;
  }
  EXPECT_EQ(bench_.device().resets, 1);
}

TEST_P(RecordedSessionTest, TheRepliesAreTheSameHoweverTheBytesArrive) {
  auto client = bench_.Connect();
  Send(*client, 0, session_.bytes.size());
  const ByteVector expected = ReplyBytes(*client);
  EXPECT_GT(expected.size(), 7 * sizeof(Header));
  for (size_t split = 1; split < session_.bytes.size(); ++split) {
    client->Close();
    bench_.Settle();
    client = bench_.Connect();
    Send(*client, 0, split);
    bench_.Settle();
    Send(*client, split, session_.bytes.size());
    ASSERT_EQ(ReplyBytes(*client), expected) << "split at " << split;
  }
}

// --- One after another.

TEST_P(SessionTest, TheDeviceKeepsItsStateFromOneClientToTheNext) {
  auto client = bench_.ConnectReady();
  client->Write(Region::kBar0, 0x20, uint32_t{0xabcd});
  client->Write(Region::kConfig, pci::kInterruptLine, uint8_t{7});
  const SharedMemory memory(kPage);
  ASSERT_EQ(client->Map(0, kPage, memory.fd()), 0);
  const int changes = bench_.device().dma_changes;
  client->Close();
  bench_.Settle();
  EXPECT_EQ(bench_.device().dma_changes, changes + 1) << "the device hears that its memory went";

  client = bench_.ConnectReady();
  EXPECT_EQ(client->Read<uint32_t>(Region::kBar0, 0x20), 0xabcdu);
  EXPECT_EQ(client->Read<uint8_t>(Region::kConfig, pci::kInterruptLine), 7);
  EXPECT_EQ(bench_.device().resets, 0);
  EXPECT_EQ(client->Map(0, kPage, memory.fd()), 0) << "the windows are the new client's to make";
}

TEST_P(SessionTest, ASecondClientIsRefusedAndTheFirstGoesOn) {
  const auto first = bench_.ConnectReady();
  EXPECT_EQ(bench_.Connect(), nullptr);
  EXPECT_EQ(first->Read<uint16_t>(Region::kConfig, 0), 0x1b36);
}

TEST_P(SessionTest, TheEndOfAConnectionIsTold) {
  int told = 0;
  bench_.server().set_on_disconnect([&] { ++told; });
  auto client = bench_.ConnectReady();
  client->Close();
  bench_.Settle();
  EXPECT_EQ(told, 1);
  client = bench_.ConnectReady();
  bench_.server().Disconnect();
  bench_.server().Disconnect();
  EXPECT_EQ(told, 2);
  EXPECT_TRUE(client->Closed());
}

TEST(ServerEndTest, AServerThatIsDestroyedTellsNobody) {
  const ManualClock clock;
  const auto loop = EpollLoop::Create(clock).value();
  Slot slot(*loop, "fake0");
  slot.Plug(std::make_unique<FakeDevice>(slot.env(), std::vector<DoorbellRange>()));
  bool told = false;
  auto [ours, theirs] = MemoryTransport::MakePair();
  {
    VfioUserServer server(slot);
    server.set_on_disconnect([&] { told = true; });
    ASSERT_TRUE(server.Accept(std::move(theirs)));
  }
  EXPECT_FALSE(told) << "who would be told may be half destroyed";
  ByteVector buffer(16);
  std::vector<UniqueFd> fds;
  EXPECT_EQ(ours->Receive(buffer, fds), 0) << "but the connection has ended";
}

// --- Nothing leaks.

TEST_P(SessionTest, AThousandClientsLeaveNoDescriptorNoMappingAndNoMemory) {
  const SharedMemory memory(4 * kPage);
  const Eventfds events(9);
  const auto round = [&] {
    const auto client = bench_.ConnectReady();
    client->Map(0, 4 * kPage, memory.fd());
    client->Map(8 * kPage, kPage);
    client->SetIrqs(0x24, vfio_user::IrqIndex::kMsix, 0, 8, events.fds(0, 8));
    client->SetIrqs(0x14, vfio_user::IrqIndex::kIntx, 0, 1, events.fds(8, 1));
    const auto by_fd = bench_.device().StartIo({{0, 512}}, DmaAccess::kWrite);
    bench_.device().StartRead(8 * kPage, 64);
    client->Send(Command::kDeviceReset, {});
    client->Close();
    bench_.device().EndIo(*by_fd);
    bench_.Settle();
    ASSERT_EQ(bench_.device().in_flight(), 0u);
  };
  for (int i = 0; i < 20; ++i) round();
  const auto fds = CountOpenFds();
  const size_t mappings = CountMappings("memfd:guest");
  const size_t allocated = AllocatedBytes();
  for (int i = 0; i < 1000; ++i) round();
  EXPECT_EQ(CountOpenFds(), fds);
  EXPECT_EQ(CountMappings("memfd:guest"), mappings);
  EXPECT_LT(AllocatedBytes(), allocated + 10'000);
}

// --- Clients that flood.

TEST_P(SessionTest, AFloodOfPostedWritesIsCarriedOutToTheLast) {
  const auto client = bench_.ConnectReady();
  constexpr uint32_t kWrites = 20'000;
  ByteVector burst;
  for (uint32_t i = 1; i <= kWrites; ++i) {
    const ByteVector payload = RawClient::WritePayload(Region::kBar0, 4 * (i % 1024), i);
    AppendTo(burst, vfio_user::CommandHeader(static_cast<uint16_t>(i), Command::kRegionWrite,
                                             payload.size(), vfio_user::kFlagNoReply));
    AppendTo(burst, payload);
  }
  client->SendBytes(burst);
  EXPECT_EQ(client->Read<uint32_t>(Region::kBar0, 4 * (kWrites % 1024)), kWrites);
  EXPECT_EQ(bench_.device().bar_writes.size(), kWrites);
}

TEST(BackpressureTest, AClientThatDoesNotReadIsNotReadFromAndGoesOnWhenItReads) {
  Bench bench(Link::kSocket);
  const auto client = bench.ConnectReady();
  constexpr uint32_t kReadSize = 256 << 10;
  constexpr size_t kReads = 200;
  ByteVector burst;
  for (uint16_t id = 1000; id < 1000 + kReads; ++id) {
    AppendTo(burst, Message(id, Command::kRegionRead,
                            RawClient::ReadPayload(Region::kBar0, 0, kReadSize)));
  }
  const uint64_t before = bench.server().counters().commands;
  client->SendBytes(burst);
  for (int i = 0; i < 100; ++i) bench.Settle();
  const uint64_t handled = bench.server().counters().commands - before;
  EXPECT_GE(handled, VfioUserServer::kMaxPendingOutput / kReadSize);
  EXPECT_LE(handled, VfioUserServer::kMaxPendingOutput / kReadSize + 4) << "what sockets hold";
  for (uint16_t id = 1000; id < 1000 + kReads; ++id) {
    const Received reply = client->Await(id);
    ASSERT_EQ(reply.payload.size(), sizeof(RegionAccess) + kReadSize);
  }
}

// A channel whose other end takes everything at once, and whose descriptor is ready once for each
// burst: no event follows that would make up for frames that were left lying.
class EagerTransport final : public Transport {
 public:
  EagerTransport(std::unique_ptr<Transport> real, int ready) : real_(std::move(real)), fd_(ready) {}

  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override {
    DrainEventfd(fd_);
    return real_->Receive(into, fds);
  }
  ssize_t Send(ConstBytes from, std::span<const int> fds) override {
    return real_->Send(from, fds);
  }
  int fd() const override { return fd_; }

 private:
  std::unique_ptr<Transport> real_;
  int fd_;
};

TEST(BackpressureTest, RepliesBeyondTheLimitToAClientThatReadsAreAllSent) {
  const Eventfds ready(1);
  Bench bench;
  auto [ours, theirs] = MemoryTransport::MakePair();
  MemoryTransport& wire = *ours;
  ASSERT_TRUE(
      bench.server().Accept(std::make_unique<EagerTransport>(std::move(theirs), ready.fd())));
  constexpr uint32_t kReadSize = 1 << 20;
  ByteVector burst = Message(1, Command::kVersion, vfio_user::Version{});
  for (uint16_t id = 2; id < 12; ++id) {
    AppendTo(burst, Message(id, Command::kRegionRead,
                            RawClient::ReadPayload(Region::kBar0, 0, kReadSize)));
  }
  ASSERT_GT(wire.Send(burst, {}), 0);
  SignalEventfd(ready.fd());
  for (int i = 0; i < 10; ++i) bench.loop().RunOnce(0);
  EXPECT_GE(wire.pending(), 10 * size_t{kReadSize});
}

TEST(BackpressureTest, AClientThatNeverReadsAndGoesCostsNothing) {
  Bench bench(Link::kSocket);
  const auto round = [&] {
    const auto client = bench.ConnectReady();
    ByteVector burst;
    for (uint16_t id = 0; id < 8; ++id) {
      AppendTo(burst, Message(id, Command::kRegionRead,
                              RawClient::ReadPayload(Region::kBar0, 0, 1 << 20)));
    }
    client->SendBytes(burst);
    bench.Settle();
    client->Close();
    bench.Settle();
    ASSERT_FALSE(bench.server().connected());
  };
  round();
  const size_t before = AllocatedBytes();
  for (int i = 0; i < 5; ++i) round();
  EXPECT_LT(AllocatedBytes(), before + 10'000);
}

TEST(BackpressureTest, AClientsErrorsFillNoLog) {
  Bench bench;
  const auto client = bench.ConnectReady();
  testing::internal::CaptureStderr();
  for (int i = 0; i < 1000; ++i) client->Send(Command{99}, {});
  while (client->Receive()) {
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::ranges::count(log, '\n'), static_cast<ptrdiff_t>(VfioUserServer::kMaxComplaints));
  EXPECT_THAT(log, HasSubstr("further errors of this client are not logged"));
  EXPECT_EQ(bench.server().counters().error_replies, 1000u);
}

// --- The listener.

class ListenerTest : public testing::Test {
 protected:
  ListenerTest() {
    char directory[] = "/tmp/farside-session-XXXXXX";
    EXPECT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    path_ = directory_ + "/dev.sock";
    listener_ = VfioUserListener::Create(bench_.loop(), bench_.server(), "fake0",
                                         ListenUnix(path_).value(), path_)
                    .value();
  }
  ~ListenerTest() override {
    listener_.reset();
    EXPECT_EQ(rmdir(directory_.c_str()), 0);
  }
  std::unique_ptr<RawClient> Connect() {
    auto transport = SocketTransport::Create(ConnectUnix(path_).value());
    return std::make_unique<RawClient>(bench_, std::move(*transport));
  }

  Bench bench_{Link::kSocket};
  std::string directory_;
  std::string path_;
  std::unique_ptr<VfioUserListener> listener_;
};

TEST_F(ListenerTest, ASecondClientIsHungUpOnWithASentenceInTheLog) {
  const auto first = Connect();
  first->Negotiate();
  testing::internal::CaptureStderr();
  const auto second = Connect();
  EXPECT_TRUE(second->Closed());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("serves another one"));
  EXPECT_EQ(first->Read<uint16_t>(Region::kConfig, 0), 0x1b36);
  first->Close();
  bench_.Settle();
  const auto third = Connect();
  third->Negotiate();
}

TEST_F(ListenerTest, WithoutDescriptorsAClientWaitsAndTheLoopDoesNotSpin) {
  // UBSan needs descriptors of its own the first time it sees a class.
  {
    const auto first = Connect();
    first->Negotiate();
  }
  EXPECT_EQ(bench_.loop().clock().now_ns(), 0u);
  bench_.Settle();
  const auto client = Connect();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  // The lowest free descriptor is the first that is not lawful any more.
  const UniqueFd lowest(dup(0));
  const rlimit none{.rlim_cur = static_cast<rlim_t>(lowest.get()), .rlim_max = before.rlim_max};
  testing::internal::CaptureStderr();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  for (int i = 0; i < 50; ++i) bench_.Settle();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("cannot accept a client"));
  EXPECT_EQ(std::ranges::count(log, '\n'), 1) << log;

  bench_.Settle();
  EXPECT_FALSE(bench_.server().connected());
  bench_.Advance(VfioUserListener::kRetryNs);
  EXPECT_TRUE(bench_.server().connected());
  client->Negotiate();
}

}  // namespace
}  // namespace farside
