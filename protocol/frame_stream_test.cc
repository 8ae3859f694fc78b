#include "protocol/vfio_user_codec.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <memory>
#include <thread>

#include "base/random.h"
#include "protocol/test_support.h"

namespace farside::vfio_user {
namespace {

using testing::HasSubstr;

constexpr uint32_t kLimit = MaxMessageSize(kDefaultMaxDataXferSize);

enum class Kind { kSocket, kMemory };

struct Ends {
  std::unique_ptr<Transport> peer;
  std::unique_ptr<Transport> ours;
};

Ends MakeEnds(Kind kind) {
  if (kind == Kind::kMemory) {
    auto [one, other] = MemoryTransport::MakePair();
    return {std::move(one), std::move(other)};
  }
  auto sockets = MakeSocketPair().value();
  return {SocketTransport::Create(std::move(sockets.first)).value(),
          SocketTransport::Create(std::move(sockets.second)).value()};
}

void SendAll(Transport& transport, ConstBytes bytes, std::span<const int> fds = {}) {
  if (bytes.empty()) return;
  ASSERT_EQ(transport.Send(bytes, fds), static_cast<ssize_t>(bytes.size()));
}

// Which file an fd refers to, however often it was passed on.
ino_t FileOf(int fd) {
  struct stat status {};
  EXPECT_EQ(fstat(fd, &status), 0);
  return status.st_ino;
}

struct Received {
  uint16_t id;
  ByteVector payload;
  std::vector<ino_t> files;
  friend bool operator==(const Received&, const Received&) = default;
};

void TakeFrames(FrameReader& reader, std::vector<Received>& out) {
  for (;;) {
    auto frame = reader.Next();
    ASSERT_TRUE(frame) << frame.error().message;
    if (!*frame) return;
    const ConstBytes payload = (*frame)->payload;
    Received received{(*frame)->header.message_id, {payload.begin(), payload.end()}, {}};
    for (const UniqueFd& fd : (*frame)->fds) received.files.push_back(FileOf(fd.get()));
    out.push_back(std::move(received));
  }
}

// Receives until nothing is left.
void Drain(Transport& transport, FrameReader& reader, std::vector<Received>& out) {
  for (;;) {
    const auto status = reader.Fill(transport);
    ASSERT_TRUE(status) << status.error().message;
    if (*status != FrameReader::Status::kData) return;
    TakeFrames(reader, out);
  }
}

class FrameStreamTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override { fds_before_ = CountOpenFds(); }
  void TearDown() override { EXPECT_EQ(CountOpenFds(), fds_before_) << "fds leaked"; }

  ptrdiff_t fds_before_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Transports, FrameStreamTest, testing::Values(Kind::kSocket, Kind::kMemory),
                         [](const auto& test) {
                           return test.param == Kind::kSocket ? "Socket" : "Memory";
                         });

// The burst of rule 16: DMA_MAP without fd, with fd, without fd.
struct Burst {
  ByteVector map1 = Message(1, Command::kDmaMap, DmaMap{32, 3, 0, 0x1000, 0x1000});
  ByteVector map2 = Message(2, Command::kDmaMap, DmaMap{32, 3, 0, 0x2000, 0x1000});
  ByteVector map3 = Message(3, Command::kDmaMap, DmaMap{32, 3, 0, 0x3000, 0x1000});
  UniqueFd file = MakeMemfd("burst", 4096).value();

  size_t size() const { return map1.size() + map2.size() + map3.size(); }
  std::vector<Received> expected() const {
    const auto body = [](const ByteVector& map) {
      return ByteVector(map.begin() + sizeof(Header), map.end());
    };
    return {{1, body(map1), {}}, {2, body(map2), {FileOf(file.get())}}, {3, body(map3), {}}};
  }
};

// Sends each message by itself, and the one in which `split` falls in two parts; the fd goes with
// byte `fd_byte` of the second message. Calls `between` after each part.
template <typename F>
void SendSplit(Transport& peer, const Burst& burst, size_t split, size_t fd_byte, F&& between) {
  const int fd = burst.file.get();
  const size_t fd_at = burst.map1.size() + fd_byte;
  const ByteVector stream = Pack(burst.map1, burst.map2, burst.map3);
  std::vector<size_t> cuts = {
      0, burst.map1.size(), burst.map1.size() + burst.map2.size(), fd_at, split, stream.size()};
  std::sort(cuts.begin(), cuts.end());
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    if (cuts[i] == cuts[i + 1]) continue;
    const ConstBytes part = ConstBytes(stream).subspan(cuts[i], cuts[i + 1] - cuts[i]);
    SendAll(peer, part, cuts[i] == fd_at ? std::span(&fd, 1) : std::span<const int>());
    between();
  }
}

TEST_P(FrameStreamTest, GivesFdsToTheirFrameAtEverySplitReceivedAtOnce) {
  const Burst burst;
  for (size_t split = 0; split <= burst.size(); ++split) {
    const Ends ends = MakeEnds(GetParam());
    SendSplit(*ends.peer, burst, split, 0, [] {});
    FrameReader reader(kLimit);
    std::vector<Received> received;
    Drain(*ends.ours, reader, received);
    EXPECT_EQ(received, burst.expected()) << "split at " << split;
  }
}

TEST_P(FrameStreamTest, GivesFdsToTheirFrameAtEverySplitReceivedInParts) {
  const Burst burst;
  for (size_t split = 0; split <= burst.size(); ++split) {
    const Ends ends = MakeEnds(GetParam());
    FrameReader reader(kLimit);
    std::vector<Received> received;
    SendSplit(*ends.peer, burst, split, 0, [&] { Drain(*ends.ours, reader, received); });
    EXPECT_EQ(received, burst.expected()) << "split at " << split;
  }
}

TEST_P(FrameStreamTest, TakesFdsThatComeWithLaterBytesOfTheirFrame) {
  const Burst burst;
  for (size_t fd_byte = 0; fd_byte < burst.map2.size(); ++fd_byte) {
    const Ends ends = MakeEnds(GetParam());
    FrameReader reader(kLimit);
    std::vector<Received> received;
    SendSplit(*ends.peer, burst, 0, fd_byte, [] {});
    Drain(*ends.ours, reader, received);
    EXPECT_EQ(received, burst.expected()) << "fd with byte " << fd_byte;
  }
}

TEST_P(FrameStreamTest, KeepsFdsOfFramesThatWaitTogether) {
  const Ends ends = MakeEnds(GetParam());
  const Burst first;
  const Burst second;
  FrameReader reader(kLimit);
  for (const Burst* burst : {&first, &second}) SendSplit(*ends.peer, *burst, 0, 0, [] {});
  while (reader.Fill(*ends.ours).value() == FrameReader::Status::kData) {
  }
  std::vector<Received> received;
  TakeFrames(reader, received);
  std::vector<Received> expected = first.expected();
  const auto more = second.expected();
  expected.insert(expected.end(), more.begin(), more.end());
  EXPECT_EQ(received, expected);
}

TEST_P(FrameStreamTest, AssemblesAMessageFromSingleBytes) {
  const Ends ends = MakeEnds(GetParam());
  FrameReader reader(kLimit);
  std::vector<Received> received;
  const ByteVector message = Message(9, Command::kRegionWrite, RegionAccess{0, 0, 4}, uint32_t{7});
  for (const std::byte& byte : message) {
    EXPECT_TRUE(received.empty());
    EXPECT_FALSE(reader.Peek());
    SendAll(*ends.peer, std::span(&byte, 1));
    Drain(*ends.ours, reader, received);
  }
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(received[0].id, 9);
  EXPECT_EQ(received[0].payload.size(), 20u);
}

TEST_P(FrameStreamTest, SplitsManyFramesOfOneReceive) {
  constexpr uint16_t kCount = 3000;  // More than the reader's first buffer.
  const Ends ends = MakeEnds(GetParam());
  ByteVector stream;
  for (uint16_t id = 0; id < kCount; ++id) {
    AppendTo(stream, Message(id, Command::kRegionRead, RegionAccess{id, 0, 4}));
  }
  FrameReader reader(kLimit);
  std::vector<Received> received;
  for (size_t at = 0; at < stream.size();) {
    const ssize_t sent = ends.peer->Send(ConstBytes(stream).subspan(at), {});
    if (sent > 0) at += static_cast<size_t>(sent);
    Drain(*ends.ours, reader, received);
  }
  ASSERT_EQ(received.size(), kCount);
  for (uint16_t id = 0; id < kCount; ++id) EXPECT_EQ(received[id].id, id);
}

TEST_P(FrameStreamTest, PeeksAtTheFrameThatNextReturns) {
  const Ends ends = MakeEnds(GetParam());
  FrameReader reader(kLimit);
  SendAll(*ends.peer, Message(5, Command::kDeviceReset));
  ASSERT_TRUE(reader.Fill(*ends.ours));
  ASSERT_TRUE(reader.Peek());
  EXPECT_EQ(reader.Peek()->message_id, 5);
  EXPECT_EQ(reader.Next().value()->header.message_id, 5);
  EXPECT_FALSE(reader.Peek());
}

TEST_P(FrameStreamTest, TakesMessagesUpToTheLimit) {
  constexpr uint32_t kSmall = 4096;
  const Ends ends = MakeEnds(GetParam());
  FrameReader reader(kSmall);
  SendAll(*ends.peer, Message(1, Command::kMigDataWrite, ByteVector(kSmall - sizeof(Header))));
  std::vector<Received> received;
  Drain(*ends.ours, reader, received);
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(received[0].payload.size(), kSmall - sizeof(Header));
}

TEST_P(FrameStreamTest, RefusesSizesAndTypesThatPutItOutOfStep) {
  const Header lawful = CommandHeader(1, Command::kRegionRead, 16);
  for (const uint32_t size : {0u, 1u, 15u, kLimit + 1, 0x8000'0000u, 0xffff'ffffu}) {
    const Ends ends = MakeEnds(GetParam());
    FrameReader reader(kLimit);
    Header header = lawful;
    header.size = size;
    SendAll(*ends.peer, Pack(header, ByteVector(64)));
    ASSERT_TRUE(reader.Fill(*ends.ours));
    const auto next = reader.Next();
    ASSERT_FALSE(next) << size;
    EXPECT_THAT(next.error().message, HasSubstr(std::to_string(size)));
  }
  for (uint32_t type = 2; type < 16; ++type) {
    const Ends ends = MakeEnds(GetParam());
    FrameReader reader(kLimit);
    Header header = lawful;
    header.flags = type;
    SendAll(*ends.peer, Pack(header, ByteVector(16)));
    ASSERT_TRUE(reader.Fill(*ends.ours));
    EXPECT_FALSE(reader.Next()) << type;
  }
}

TEST_P(FrameStreamTest, ReportsTheEndAtEveryByte) {
  const ByteVector message = Message(1, Command::kRegionWrite, RegionAccess{0, 0, 4}, uint32_t{7});
  for (size_t cut = 0; cut <= message.size(); ++cut) {
    Ends ends = MakeEnds(GetParam());
    SendAll(*ends.peer, ConstBytes(message).first(cut));
    ends.peer.reset();
    FrameReader reader(kLimit);
    std::vector<Received> received;
    if (cut != 0) {
      ASSERT_EQ(reader.Fill(*ends.ours).value(), FrameReader::Status::kData);
      TakeFrames(reader, received);
    }
    EXPECT_EQ(received.size(), cut == message.size() ? 1u : 0u);
    const auto status = reader.Fill(*ends.ours);
    if (cut == 0 || cut == message.size()) {
      ASSERT_TRUE(status) << cut;
      EXPECT_EQ(*status, FrameReader::Status::kEnd);
    } else {
      ASSERT_FALSE(status) << cut;
      EXPECT_EQ(status.error().code, EPIPE);
      EXPECT_THAT(status.error().message, HasSubstr("in the middle of a message"));
    }
  }
}

TEST_P(FrameStreamTest, ClosesFdsOfAMessageThatNeverEnded) {
  Ends ends = MakeEnds(GetParam());
  FrameReader reader(kLimit);
  const auto fds = MakeFds(1);
  const int fd = fds[0].get();
  SendAll(*ends.peer, ByteVector(10), std::span(&fd, 1));
  ends.peer.reset();
  ASSERT_TRUE(reader.Fill(*ends.ours));
  EXPECT_FALSE(reader.Fill(*ends.ours));
}  // TearDown counts.

TEST_P(FrameStreamTest, TakesSixteenFdsAndRefusesMore) {
  for (const size_t count : {kMaxMessageFds, kMaxMessageFds + 1, size_t{200}}) {
    const Ends ends = MakeEnds(GetParam());
    FrameReader reader(kLimit);
    const auto fds = MakeFds(count);
    std::vector<int> numbers;
    for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
    const SetIrqs irqs{20, 0x24, 2, 0, static_cast<uint32_t>(count)};
    SendAll(*ends.peer, Message(1, Command::kDeviceSetIrqs, irqs), numbers);
    const auto status = reader.Fill(*ends.ours);
    if (count == kMaxMessageFds) {
      ASSERT_TRUE(status);
      const auto frame = reader.Next();
      EXPECT_EQ((*frame)->fds.size(), kMaxMessageFds);
    } else {
      ASSERT_FALSE(status);
      EXPECT_THAT(status.error().message, HasSubstr("16 is the most"));
    }
  }
}

TEST_P(FrameStreamTest, RefusesAFloodOfFdsSpreadOverOneMessage) {
  const Ends ends = MakeEnds(GetParam());
  FrameReader reader(kLimit);
  const auto fds = MakeFds(1);
  const int fd = fds[0].get();
  const ByteVector message = Message(1, Command::kRegionRead, RegionAccess{0, 0, 4});
  bool refused = false;
  for (const std::byte& byte : message) {
    SendAll(*ends.peer, std::span(&byte, 1), std::span(&fd, 1));
    refused = refused || !reader.Fill(*ends.ours);
  }
  EXPECT_TRUE(refused);
}

TEST_P(FrameStreamTest, WriterSendsFramesAndFds) {
  const Ends ends = MakeEnds(GetParam());
  const Burst burst;
  const auto expected = burst.expected();
  FrameWriter writer;
  for (uint16_t id = 1; id <= 3; ++id) {
    const ConstBytes payload = expected[id - 1u].payload;
    const Header header = CommandHeader(id, Command::kDmaMap, payload.size());
    if (id == 2) {
      std::vector<UniqueFd> fds;
      fds.emplace_back(fcntl(burst.file.get(), F_DUPFD_CLOEXEC, 0));
      writer.Append(header, payload, std::move(fds));
    } else {
      Copy(writer.Append(header), payload);
    }
  }
  EXPECT_EQ(writer.pending(), burst.size());
  EXPECT_TRUE(writer.Flush(*ends.ours).value());
  EXPECT_EQ(writer.pending(), 0u);
  FrameReader reader(kLimit);
  std::vector<Received> received;
  Drain(*ends.peer, reader, received);
  EXPECT_EQ(received, expected);
}

// A transport that takes only part of what it is given, or nothing.
class Narrow final : public Transport {
 public:
  Narrow(Transport& next, uint64_t seed) : next_(next), random_(seed) {}
  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override {
    return next_.Receive(into.first(std::min<size_t>(into.size(), 1 + random_.Below(40))), fds);
  }
  ssize_t Send(ConstBytes from, std::span<const int> fds) override {
    if (random_.OneIn(3)) return -EAGAIN;
    return next_.Send(from.first(std::min<size_t>(from.size(), 1 + random_.Below(40))), fds);
  }
  int fd() const override { return next_.fd(); }

 private:
  Transport& next_;
  Random random_;
};

TEST_P(FrameStreamTest, SurvivesPartialSendsAndReceives) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Ends ends = MakeEnds(GetParam());
    Narrow narrow_out(*ends.peer, seed);
    Narrow narrow_in(*ends.ours, seed + 1000);
    Random random(seed);
    FrameWriter writer;
    FrameReader reader(kLimit);
    std::vector<Received> expected;
    std::vector<Received> received;
    for (uint16_t id = 0; id < 40; ++id) {
      Received frame{id, Counting(random.Below(100), static_cast<uint8_t>(id)), {}};
      std::vector<UniqueFd> fds = random.OneIn(3) ? MakeFds(1 + random.Below(3)) : MakeFds(0);
      for (const UniqueFd& fd : fds) frame.files.push_back(FileOf(fd.get()));
      const Header header = CommandHeader(id, Command::kDmaMap, frame.payload.size());
      writer.Append(header, frame.payload, std::move(fds));
      expected.push_back(std::move(frame));
      ASSERT_TRUE(writer.Flush(narrow_out));
      Drain(narrow_in, reader, received);
    }
    while (!writer.Flush(narrow_out).value()) {
    }
    Drain(narrow_in, reader, received);
    EXPECT_EQ(received, expected) << "seed " << seed;
  }
}

TEST_P(FrameStreamTest, WriterReportsAPeerThatIsGone) {
  Ends ends = MakeEnds(GetParam());
  ends.peer.reset();
  FrameWriter writer;
  writer.Append(CommandHeader(1, Command::kDeviceReset, 0));
  const auto flushed = writer.Flush(*ends.ours);
  ASSERT_FALSE(flushed);
  EXPECT_EQ(flushed.error().code, EPIPE);
}

TEST(FrameWriterTest, SendsInPartsThroughATinySocketBuffer) {
  auto sockets = MakeSocketPair().value();
  const int tiny = 1;  // The kernel rounds up to about 4 KiB.
  ASSERT_EQ(setsockopt(sockets.first.get(), SOL_SOCKET, SO_SNDBUF, &tiny, sizeof tiny), 0);
  const auto out = SocketTransport::Create(std::move(sockets.first)).value();
  const auto in = SocketTransport::Create(std::move(sockets.second)).value();
  FrameWriter writer;
  const ByteVector payload = Counting(300'000);
  const auto fds = MakeFds(1);
  std::vector<UniqueFd> passed;
  passed.emplace_back(fcntl(fds[0].get(), F_DUPFD_CLOEXEC, 0));
  writer.Append(CommandHeader(1, Command::kMigDataWrite, payload.size()), payload,
                std::move(passed));
  writer.Append(CommandHeader(2, Command::kDeviceReset, 0));

  FrameReader reader(kLimit);
  std::vector<Received> received;
  int waits = 0;
  while (!writer.Flush(*out).value()) {
    ++waits;
    Drain(*in, reader, received);
  }
  Drain(*in, reader, received);
  EXPECT_GT(waits, 0) << "the buffer was not tiny";
  EXPECT_EQ(received, (std::vector<Received>{{1, payload, {FileOf(fds[0].get())}}, {2, {}, {}}}));
}

// Takes all but the last byte of what it is given.
class Miser final : public Transport {
 public:
  ssize_t Receive(Bytes, std::vector<UniqueFd>&) override { return -EAGAIN; }
  ssize_t Send(ConstBytes from, std::span<const int>) override {
    return from.size() == 1 ? -EAGAIN : static_cast<ssize_t>(from.size() - 1);
  }
  int fd() const override { return -1; }
};

TEST(FrameWriterTest, DoesNotGrowWhenSomethingAlwaysRemains) {
  Miser miser;
  FrameWriter writer;
  const std::byte* buffer = nullptr;
  for (int i = 0; i < 100'000; ++i) {
    const Bytes payload = writer.Append(CommandHeader(1, Command::kMigDataWrite, 1000));
    if (i == 100) buffer = payload.data();
    ASSERT_FALSE(writer.Flush(miser).value());
    ASSERT_EQ(writer.pending(), 1u);
  }
  EXPECT_EQ(writer.Append(CommandHeader(1, Command::kMigDataWrite, 1000)).data(), buffer);
}

TEST(SocketTransportTest, RefusesWhatIsNoStreamSocket) {
  EXPECT_FALSE(SocketTransport::Create(MakeEventfd().value()));
  EXPECT_FALSE(SocketTransport::Create(UniqueFd()));
  EXPECT_FALSE(SocketTransport::Create(UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0))));
}

TEST(SocketTransportTest, SaysWhenThisProcessHasNoRoomForFds) {
  auto sockets = MakeSocketPair().value();
  const auto out = SocketTransport::Create(std::move(sockets.first)).value();
  const auto in = SocketTransport::Create(std::move(sockets.second)).value();
  const auto fds = MakeFds(1);
  const int fd = fds[0].get();
  SendAll(*out, Message(1, Command::kDmaMap, DmaMap{32, 3, 0, 0, 4096}), std::span(&fd, 1));
  // UBSan looks at fmt's buffers with the help of a pipe, the first time it meets them.
  const Result<void> warm = FailWith(EMFILE, "{} of {}: {}", 1, size_t{2}, ErrnoText(EMFILE));
  ASSERT_FALSE(warm);

  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  FrameReader reader(kLimit);
  const auto status = reader.Fill(*in);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  ASSERT_FALSE(status) << "a DMA_MAP that lost its fd means something else";
  EXPECT_EQ(status.error().code, EMFILE);
}

TEST(SocketTransportTest, WaitsForDataIfItIsTold) {
  auto sockets = MakeSocketPair().value();
  const auto out = SocketTransport::Create(std::move(sockets.first)).value();
  const auto in = SocketTransport::Create(std::move(sockets.second)).value();
  std::vector<UniqueFd> fds;
  ByteVector buffer(16);
  EXPECT_EQ(in->Receive(buffer, fds), -EAGAIN);
  in->set_receive_waits(true);
  std::thread sender([&] { SendAll(*out, Counting(3)); });
  EXPECT_EQ(in->Receive(buffer, fds), 3);
  sender.join();
}

}  // namespace
}  // namespace farside::vfio_user
