// What a peer that breaks mpqemu can do, to a proxy and to a remote; and a vfio-user server that
// promises a socket that it does not send.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "protocol/fake_server.h"
#include "protocol/mpqemu_client.h"
#include "protocol/mpqemu_codec.h"
#include "protocol/vfio_user_client.h"

namespace farside {
namespace {

using testing::HasSubstr;

// A remote without BARs, which answers as often as it is told.
class Remote {
 public:
  explicit Remote(UniqueFd socket)
      : transport_(SocketTransport::Create(std::move(socket)).value()),
        thread_([this] { Run(); }) {}
  ~Remote() {
    shutdown(transport_->fd(), SHUT_RDWR);
    thread_.join();
  }

  std::atomic<int> replies = 1;
  std::atomic<bool> drips = false;  // A byte each 20 ms.
  std::atomic<bool> reads = true;

 private:
  void Run() {
    transport_->set_receive_waits(true);
    mpqemu::FrameReader reader(mpqemu::kMaxFrame);
    for (;;) {
      reads.wait(false);
      const auto filled = reader.Fill(*transport_);
      if (!filled || *filled == FillStatus::kEnd) return;
      while (auto frame = reader.Next().value()) Answer(*frame);
    }
  }
  void Answer(mpqemu::Frame& frame) {
    const mpqemu::Request request = mpqemu::DecodeRequest(frame).value();
    if (std::holds_alternative<mpqemu::SyncSysmemRequest>(request)) return;
    const auto* read = std::get_if<mpqemu::ConfigReadRequest>(&request);
    const uint64_t value = read != nullptr && read->address == 0 ? 0x1000 : 0;
    ByteVector bytes;
    for (int i = 0; i < replies; ++i) {
      AppendTo(bytes, Pack(mpqemu::MakeHeader(mpqemu::Command::kRet, sizeof value), value));
    }
    for (ConstBytes rest(bytes); drips && !rest.empty(); rest = rest.subspan(1)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (transport_->Send(rest.first(1), {}) < 0) return;
    }
    if (!drips) transport_->Send(bytes, {});
  }

  std::unique_ptr<SocketTransport> transport_;
  std::thread thread_;
};

TEST(HostileRemoteTest, AnswersMoreThanItWasAsked) {
  auto sockets = MakeSocketPair().value();
  Remote remote(std::move(sockets.first));
  const auto client = mpqemu::MpqemuClient::Attach(std::move(sockets.second), {}).value();
  remote.replies = 2;
  std::array<std::byte, 2> vendor;
  const auto read = client->RegionRead({.region = 7}, vendor);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("RET of 8 bytes unasked"));
  EXPECT_FALSE(client->alive());
}

TEST(HostileRemoteTest, SaysItsAnswerByteByByte) {
  auto sockets = MakeSocketPair().value();
  Remote remote(std::move(sockets.first));
  const auto client =
      mpqemu::MpqemuClient::Attach(std::move(sockets.second), {.timeout_ns = 100'000'000}).value();
  remote.drips = true;
  std::array<std::byte, 2> vendor;
  const auto read = client->RegionRead({.region = 7}, vendor);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("did not answer within 100 ms"));
  EXPECT_FALSE(client->alive());
}

// What the socket does not take at once is sent behind.
TEST(HostileRemoteTest, ReadsNothingUntilTheSocketIsFull) {
  auto sockets = MakeSocketPair().value();
  const int least = 0;
  ASSERT_EQ(setsockopt(sockets.second.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof least), 0);
  Remote remote(std::move(sockets.first));
  const auto client = mpqemu::MpqemuClient::Attach(std::move(sockets.second), {}).value();
  // It may wait for bytes when it is told.
  remote.reads = false;
  std::array<std::byte, 2> vendor{};
  ASSERT_TRUE(client->RegionRead({.region = 7}, vendor));
  std::thread waker([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    remote.reads = true;
    remote.reads.notify_all();
  });
  const UniqueFd file = MakeMemfd("memory", 0x1000).value();
  for (int i = 0; i < 40; ++i) {
    ASSERT_TRUE(client->DmaMap({.iova = 0x4000, .size = 0x1000, .fd = file.get()})) << i;
    ASSERT_TRUE(client->DmaUnmap(0x4000, 0x1000)) << i;
  }
  EXPECT_TRUE(client->RegionRead({.region = 7}, vendor));
  EXPECT_THAT(vendor, testing::ElementsAre(std::byte{0}, std::byte{0x10}));
  waker.join();
}

TEST(HostileRemoteTest, IsNeverToldOfWindowsThatOverlap) {
  auto sockets = MakeSocketPair().value();
  Remote remote(std::move(sockets.first));
  const auto client = mpqemu::MpqemuClient::Attach(std::move(sockets.second), {}).value();
  const UniqueFd file = MakeMemfd("memory", 0x10000).value();
  const auto map = [&](uint64_t iova, uint64_t size) {
    const auto mapped = client->DmaMap({.iova = iova, .size = size, .fd = file.get()});
    return mapped ? 0 : mapped.error().code;
  };
  EXPECT_EQ(map(0x4000, 0x4000), 0);
  EXPECT_EQ(map(0x1000, 0x4000), EEXIST) << "reaches into it";
  EXPECT_EQ(map(0x7000, 0x1000), EEXIST) << "begins in it";
  EXPECT_EQ(map(0x4000, 0x1000), EEXIST);
  EXPECT_EQ(map(0x1000, 0x3000), 0) << "ends where it begins";
  EXPECT_EQ(map(0x8000, 0x1000), 0);
}

TEST(HostileProxyTest, SendsPayloadsOfOtherSizes) {
  using mpqemu::Command;
  for (const auto command : {Command::kSyncSysmem, Command::kPciCfgWrite, Command::kPciCfgRead,
                             Command::kBarWrite, Command::kBarRead}) {
    for (const size_t size : {size_t{0}, size_t{1}, size_t{11}, size_t{13}, size_t{191},
                              static_cast<size_t>(mpqemu::kMaxPayload)}) {
      if (command == Command::kSyncSysmem && size == mpqemu::kMaxPayload) continue;
      const ByteVector payload(size);
      mpqemu::Frame frame{.header = mpqemu::MakeHeader(command, size), .payload = payload};
      if (command == Command::kSyncSysmem) frame.fds = MakeFds(1);
      const auto request = mpqemu::DecodeRequest(frame);
      ASSERT_FALSE(request) << mpqemu::CommandName(command) << " of " << size;
      EXPECT_EQ(request.error().code, EINVAL);
    }
  }
}

TEST(HostileTwinTest, IsPromisedAndDoesNotCome) {
  vfio_user::FakeServer server;
  server.json = R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}})";
  vfio_user::ClientOptions options;
  options.capabilities.twin_socket = {.supported = true, .fd_index = {}};
  const auto client = vfio_user::VfioUserClient::Attach(server.TakeSocket(), options, nullptr);
  ASSERT_FALSE(client);
  EXPECT_THAT(client.error().message, HasSubstr("twin socket is fd 0 of 0"));
}

}  // namespace
}  // namespace farside
