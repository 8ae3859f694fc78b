// The hostile client's own oracles, against a server that the test plays: what a client's bytes may
// have answered can not be held against the server.
#include "fuzz/host/client.h"

#include <gtest/gtest.h>

#include "protocol/test_support.h"

namespace farside::fuzz {
namespace {

using vfio_user::Command;

// Answers each command with success, and asks for memory when the test says so.
class Server final : public Pump {
 public:
  std::unique_ptr<Transport> Open() {
    auto [mine, clients] = MemoryTransport::MakePair();
    wire_ = std::move(mine);
    return std::move(clients);
  }
  void Ask(uint16_t id) {
    const vfio_user::DmaAccess access{.iova = Host::kBase, .count = 8};
    Send(vfio_user::CommandHeader(id, Command::kDmaRead, sizeof access), AsBytes(access));
  }

  bool Step() override {
    const auto filled = reader_.Fill(*wire_);
    if (!filled || *filled != vfio_user::FrameReader::Status::kData) return false;
    for (;;) {
      const auto frame = reader_.Next();
      if (!frame || !*frame) return true;
      if (!(*frame)->is_reply()) Answer(**frame);
    }
  }

 private:
  void Answer(const vfio_user::Frame& frame) {
    std::vector<std::byte> payload;
    if (frame.command() == Command::kVersion) {
      payload = Pack(vfio_user::Version{.major = 0, .minor = 1});
    }
    Send(vfio_user::ReplyHeader(frame.header, payload.size()), payload);
  }
  void Send(const vfio_user::Header& header, ConstBytes payload) {
    std::vector<std::byte> message = Pack(header);
    message.insert(message.end(), payload.begin(), payload.end());
    ASSERT_EQ(wire_->Send(message, {}), static_cast<ssize_t>(message.size()));
  }

  std::unique_ptr<Transport> wire_;
  vfio_user::FrameReader reader_{vfio_user::MaxMessageSize(vfio_user::kDefaultMaxDataXferSize)};
};

class NoAnswers final : public AnswerSource {
  std::optional<Answer> TakeAnswer(DmaAccess) override { return std::nullopt; }
};

class ClientTest : public testing::Test {
 protected:
  ClientTest() {
    EXPECT_TRUE(client_.Connect(server_.Open()));
    client_.MapMemory(true);
    client_.Execute({.kind = Kind::kHold});
    AskUnderOne();
  }
  // And lets the client see it.
  void AskUnderOne() {
    server_.Ask(1);
    client_.Execute({.kind = Kind::kRead, .what = 0, .size = 4});
  }

  Server server_;
  NoAnswers none_;
  Client client_{server_, none_};
};

TEST_F(ClientTest, TwoRequestsUnderOneIdAreAFinding) {
  EXPECT_DEATH(AskUnderOne(), "ORACLE answered: the server has two requests under the id 1");
}

TEST_F(ClientTest, AnIdIsFreeAgainWhereTheClientsBytesMayHaveAnsweredIt) {
  const auto reply = Pack(vfio_user::Header{.message_id = 1,
                                            .command = static_cast<uint16_t>(Command::kDmaRead),
                                            .size = sizeof(vfio_user::Header),
                                            .flags = vfio_user::kFlagTypeReply});
  client_.Execute({.kind = Kind::kFrame, .data = reply});
  AskUnderOne();
  EXPECT_FALSE(client_.closed());
}

}  // namespace
}  // namespace farside::fuzz
