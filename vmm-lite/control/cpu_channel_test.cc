#include "vmm-lite/control/cpu_channel.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "base/clock.h"
#include "vmm-lite/control/cpu_client.h"

namespace farside::vmm {
namespace {

using nlohmann::json;

struct Ends {
  Ends() {
    auto pair = CpuChannel::MakePair();
    near = CpuChannel(std::move(pair->first));
    far = CpuChannel(std::move(pair->second));
  }
  CpuChannel near{UniqueFd()};
  CpuChannel far{UniqueFd()};
};

size_t CountFds() {
  size_t count = 0;
  for (int fd = 0; fd < 256; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

TEST(CpuChannelTest, CarriesJsonAndDescriptors) {
  Ends ends;
  auto memory = MakeMemfd("test", 4096);
  ASSERT_TRUE(memory);
  const int fds[] = {memory->get(), memory->get()};
  ASSERT_TRUE(ends.near.Send({{"execute", "start"}}, fds));
  auto message = ends.far.Receive();
  ASSERT_TRUE(message && *message);
  EXPECT_EQ((*message)->body, (json{{"execute", "start"}}));
  ASSERT_EQ((*message)->fds.size(), 2u);
  EXPECT_EQ(lseek((*message)->fds[1].get(), 0, SEEK_END), 4096);
  EXPECT_EQ(fcntl((*message)->fds[0].get(), F_GETFD), FD_CLOEXEC);
}

TEST(CpuChannelTest, EndsWhenThePeerCloses) {
  Ends ends;
  ASSERT_TRUE(ends.near.Send({{"event", "STOP"}}));
  ends.near = CpuChannel(UniqueFd());
  auto message = ends.far.Receive();
  ASSERT_TRUE(message && *message);
  message = ends.far.Receive();
  ASSERT_TRUE(message);
  EXPECT_FALSE(*message);
}

TEST(CpuChannelTest, RefusesWhatIsNoObjectAndGoesOn) {
  Ends ends;
  for (const std::string text : {"{]", "[1]", "3", "{\"a\": \"\xff\"}"}) {
    ASSERT_EQ(send(ends.near.fd(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    const auto message = ends.far.Receive();
    ASSERT_FALSE(message) << text;
    EXPECT_EQ(message.error().code, EPROTO) << text;
  }
  ASSERT_TRUE(ends.near.Send(json::object()));
  EXPECT_TRUE(ends.far.Receive());
}

TEST(CpuChannelTest, RefusesTooMuchAndKeepsNoDescriptor) {
  Ends ends;
  EXPECT_EQ(ends.near.Send({{"a", std::string(CpuChannel::kMaxBytes, 'x')}}).error().code,
            EMSGSIZE);
  const std::vector<int> fds(CpuChannel::kMaxFds + 1, ends.near.fd());
  EXPECT_EQ(ends.near.Send(json::object(), fds).error().code, EMSGSIZE);

  const std::string text(CpuChannel::kMaxBytes + 1, ' ');
  ASSERT_GT(send(ends.near.fd(), text.data(), text.size(), 0), 0);
  EXPECT_EQ(ends.far.Receive().error().code, EPROTO);

  // More descriptors than the receiver has room for, past Send.
  alignas(cmsghdr) char control[CMSG_SPACE(20 * sizeof(int))] = {};
  iovec data{const_cast<char*>("{}"), 2};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  cmsghdr* const part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(20 * sizeof(int));
  for (size_t i = 0; i < 20; ++i) {
    const int fd = ends.near.fd();
    std::memcpy(CMSG_DATA(part) + i * sizeof fd, &fd, sizeof fd);
  }
  ASSERT_EQ(sendmsg(ends.near.fd(), &header, 0), 2);
  const size_t before = CountFds();
  EXPECT_EQ(ends.far.Receive().error().code, EPROTO);
  EXPECT_EQ(CountFds(), before);
}

TEST(CpuChannelTest, NeverWaitsForAPeerThatDoesNotRead) {
  Ends ends;
  Result<void> sent;
  for (int i = 0; i < 10'000 && sent; ++i) sent = ends.near.Send({{"a", std::string(1000, 'x')}});
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, EAGAIN);
}

class CpuClientTest : public ::testing::Test, public CpuListener {
 protected:
  CpuClientTest() {
    auto pair = CpuChannel::MakePair();
    EXPECT_TRUE(client_.Connect(std::move(pair->first)));
    cpu_ = CpuChannel(std::move(pair->second));
  }

  void OnCpuEvent(const std::string& name, const json&) override { events_.push_back(name); }
  void OnCpuClosed(const Result<void>& why) override {
    closed_ = why ? "closed" : why.error().message;
  }

  // Sends a request whose answer becomes a line of answers_.
  void Request(const std::string& name) {
    client_.Request(name, json::object(), {}, [this, name](const Result<json>& reply) {
      answers_.push_back(name + ": " + (reply ? reply->dump() : reply.error().message));
    });
  }

  ManualClock clock_;
  std::unique_ptr<EpollLoop> loop_ = EpollLoop::Create(clock_).value();
  CpuClient client_{*loop_, *this};
  CpuChannel cpu_{UniqueFd()};
  std::vector<std::string> events_;
  std::vector<std::string> answers_;
  std::string closed_;
};

TEST_F(CpuClientTest, MatchesAnswersInAnyOrder) {
  Request("a");
  Request("b");
  ASSERT_TRUE(cpu_.Send({{"return", 2}, {"id", 2}}));
  ASSERT_TRUE(cpu_.Send({{"event", "RESET"}}));
  ASSERT_TRUE(cpu_.Send({{"error", {{"desc", "no"}}}, {"id", 1}}));
  for (int i = 0; i < 4; ++i) loop_->RunOnce(0);
  EXPECT_EQ(answers_, (std::vector<std::string>{"b: 2", "a: no"}));
  EXPECT_EQ(events_, std::vector<std::string>{"RESET"});
}

TEST_F(CpuClientTest, GivesUpAfterTenSecondsAndDropsALateAnswer) {
  Request("early");
  clock_.AdvanceTo(4'000'000'000);
  Request("late");
  clock_.AdvanceTo(10'000'000'000);
  loop_->RunOnce(0);
  EXPECT_EQ(answers_,
            std::vector<std::string>{"early: early: the CPU process gave no answer in time"});
  ASSERT_TRUE(cpu_.Send({{"return", 1}, {"id", 1}}));
  ASSERT_TRUE(cpu_.Send({{"return", 2}, {"id", 2}}));
  for (int i = 0; i < 3; ++i) loop_->RunOnce(0);
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(answers_[1], "late: 2");
}

TEST_F(CpuClientTest, TheEndAnswersAll) {
  Request("a");
  cpu_ = CpuChannel(UniqueFd());
  loop_->RunOnce(0);
  Request("b");
  EXPECT_EQ(answers_, (std::vector<std::string>{"a: a: the CPU process has ended",
                                                "b: b: the CPU process has ended"}));
  EXPECT_EQ(closed_, "closed");
}

TEST_F(CpuClientTest, WhatIsNotTheProtocolEndsTheChannel) {
  for (const char* const text :
       {"{}", R"({"return": 1})", R"({"return": 1, "id": "x"})", R"({"event": 3})",
        R"({"event": "X", "data": 3})", R"({"error": {}, "id": 1})", R"({"error": 1, "id": 1})",
        R"({"return": 1, "error": {"desc": ""}, "id": 1})", R"({"return": 1, "id": -1})"}) {
    closed_.clear();
    auto pair = CpuChannel::MakePair();
    CpuClient client(*loop_, *this);
    ASSERT_TRUE(client.Connect(std::move(pair->first)));
    ASSERT_GT(send(pair->second.get(), text, std::strlen(text), 0), 0);
    loop_->RunOnce(0);
    EXPECT_NE(closed_.find("no lawful"), std::string::npos) << text << ": " << closed_;
  }
}

}  // namespace
}  // namespace farside::vmm
