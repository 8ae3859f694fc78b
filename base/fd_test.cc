#include "base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <vector>

namespace farside {
namespace {

class UnixSocketTest : public ::testing::Test {
 protected:
  UnixSocketTest() { mkdtemp(directory_); }
  ~UnixSocketTest() override {
    unlink(path_().c_str());
    rmdir(directory_);
  }
  std::string path_() const { return std::string(directory_) + "/sock"; }

  char directory_[32] = "/tmp/farside-fd-XXXXXX";
};

TEST_F(UnixSocketTest, ReplacesTheSocketFileOfAServerThatIsGone) {
  { ASSERT_TRUE(ListenUnix(path_())); }
  ASSERT_EQ(access(path_().c_str(), F_OK), 0) << "the file stays behind, as after a crash";
  const auto again = ListenUnix(path_());
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_TRUE(ConnectUnix(path_()));
}

TEST_F(UnixSocketTest, LeavesASocketInUseAlone) {
  const auto first = ListenUnix(path_());
  ASSERT_TRUE(first);
  const auto second = ListenUnix(path_());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, EADDRINUSE);
  EXPECT_TRUE(ConnectUnix(path_())) << "the first server still listens";
}

TEST_F(UnixSocketTest, LeavesASocketOfAnotherTypeAlone) {
  const auto first = ListenUnix(path_(), SOCK_SEQPACKET);
  ASSERT_TRUE(first);
  EXPECT_FALSE(ListenUnix(path_()));
  EXPECT_TRUE(ConnectUnix(path_(), SOCK_SEQPACKET));
}

TEST_F(UnixSocketTest, DoesNotWaitForAServerThatDoesNotAccept) {
  const auto server = ListenUnix(path_());
  ASSERT_TRUE(server);
  std::vector<UniqueFd> clients;
  for (int i = 0; i < 64; ++i) {
    auto client = ConnectUnix(path_(), SOCK_STREAM | SOCK_NONBLOCK);
    if (!client) {
      EXPECT_EQ(client.error().code, EAGAIN);
      return;
    }
    clients.push_back(std::move(*client));
  }
  ADD_FAILURE() << "64 connections wait";
}

TEST_F(UnixSocketTest, NeverRemovesAFileThatIsNoSocket) {
  std::ofstream(path_()) << "precious";
  EXPECT_FALSE(ListenUnix(path_()));
  std::string content;
  std::ifstream(path_()) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(UnixSocketTest, NamesAPathThatIsTooLong) {
  const auto result = ListenUnix(std::string(200, 'x'));
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ENAMETOOLONG);
  EXPECT_NE(result.error().message.find("107"), std::string::npos) << result.error().message;
}

TEST(EventfdTest, CountsAndDrains) {
  const UniqueFd event = std::move(*MakeEventfd());
  EXPECT_EQ(DrainEventfd(event.get()), 0u);
  SignalEventfd(event.get());
  SignalEventfd(event.get());
  EXPECT_EQ(DrainEventfd(event.get()), 2u);
  EXPECT_EQ(DrainEventfd(event.get()), 0u);
}

// QEMU makes every descriptor that it is passed a blocking one, for all who share the eventfd.
TEST(EventfdTest, DrainingNeverWaitsWhateverAPeerDidToItsFlags) {
  const UniqueFd event = std::move(*MakeEventfd());
  ASSERT_EQ(fcntl(event.get(), F_SETFL, 0), 0);
  EXPECT_EQ(DrainEventfd(event.get()), 0u);
  SignalEventfd(event.get());
  EXPECT_EQ(DrainEventfd(event.get()), 1u);
  EXPECT_EQ(DrainEventfd(event.get()), 0u);
}

}  // namespace
}  // namespace farside
