// DMA by message: what a client sees of a device that reads and writes windows without an fd.
#include "devices/server/dma_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <set>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::Each;
using vfio_user::Command;

constexpr uint64_t kWindow = 0x20'0000;
constexpr uint64_t kWindowSize = 1 << 20;

class DmaMessagesTest : public testing::Test {
 protected:
  void SetUp() override { Start(1 << 20); }

  // A client that takes and makes transfers of up to `max_transfer` bytes.
  void Start(uint64_t max_transfer) {
    client_.reset();
    bench_.Settle();
    client_ = bench_.Connect();
    ASSERT_NE(client_, nullptr);
    const std::string json =
        R"({"capabilities":{"max_data_xfer_size":)" + std::to_string(max_transfer) + "}}";
    ASSERT_EQ(client_->Version(json).error(), 0);
    client_->Write(Region::kConfig, pci::kCommand, static_cast<uint8_t>(pci::kCommandBusMaster));
    ASSERT_EQ(client_->Map(kWindow, kWindowSize), 0);
    ASSERT_EQ(client_->Map(kWindow + kWindowSize, kWindowSize), 0);
  }

  // The next command of the server's, which must be there.
  Received ExpectCommand(Command command, uint64_t iova, uint64_t count) {
    auto received = client_->Receive();
    if (!received) {
      ADD_FAILURE() << "the device sends nothing";
      return {};
    }
    EXPECT_EQ(received->header.command, static_cast<uint16_t>(command));
    EXPECT_EQ(received->header.flags, vfio_user::kFlagTypeCommand) << "a reply is expected";
    EXPECT_EQ(received->Get<vfio_user::DmaAccess>().iova, iova);
    EXPECT_EQ(received->Get<vfio_user::DmaAccess>().count, count);
    return std::move(*received);
  }
  Received ExpectRead(uint64_t iova, uint64_t count) {
    Received command = ExpectCommand(Command::kDmaRead, iova, count);
    EXPECT_EQ(command.payload.size(), sizeof(vfio_user::DmaAccess));
    return command;
  }
  ByteVector ExpectWrite(uint64_t iova, uint64_t count, Received* command) {
    *command = ExpectCommand(Command::kDmaWrite, iova, count);
    EXPECT_EQ(command->payload.size(), sizeof(vfio_user::DmaAccess) + count);
    return {command->payload.begin() + sizeof(vfio_user::DmaAccess), command->payload.end()};
  }
  void AnswerRead(const Received& command, const ByteVector& data) {
    client_->Reply(command, Pack(command.Get<vfio_user::DmaAccess>(), data));
    bench_.Settle();
  }
  void ExpectNothing() { EXPECT_FALSE(client_->Receive()); }
  uint64_t stray() { return bench_.server().counters().stray_replies; }
  FakeDevice& device() { return bench_.device(); }

  Bench bench_;
  std::unique_ptr<RawClient> client_;
};

TEST_F(DmaMessagesTest, AReadIsACommandWhoseReplyHasTheBytes) {
  const auto read = device().StartRead(kWindow + 0x123, 16);
  const Received command = ExpectRead(kWindow + 0x123, 16);
  EXPECT_FALSE(read->status);
  AnswerRead(command, Counting(16, 7));
  EXPECT_EQ(read->status, DmaStatus::kOk);
  EXPECT_EQ(read->data, Counting(16, 7));
  EXPECT_EQ(stray(), 0u);
}

TEST_F(DmaMessagesTest, AWriteHasTheBytesAndIsDoneWhenItIsAnswered) {
  // What clients answer: the spec's table (12 bytes of it), QEMU, and a header only.
  for (const size_t reply_size : {12u, 16u, 0u}) {
    const auto write = device().StartWrite(kWindow, Counting(100, 3));
    Received command;
    EXPECT_EQ(ExpectWrite(kWindow, 100, &command), Counting(100, 3));
    EXPECT_FALSE(write->status);
    ByteVector reply = Pack(command.Get<vfio_user::DmaAccess>());
    reply.resize(reply_size);
    client_->Reply(command, reply);
    bench_.Settle();
    EXPECT_EQ(write->status, DmaStatus::kOk) << reply_size << " bytes";
  }
}

TEST_F(DmaMessagesTest, LargeAccessesGoInTransfersOfTheAgreedSizeOneByOne) {
  Start(64);
  const auto read = device().StartRead(kWindow, 150);
  AnswerRead(ExpectRead(kWindow, 64), Counting(64));
  AnswerRead(ExpectRead(kWindow + 64, 64), Counting(64, 64));
  EXPECT_FALSE(read->status);
  AnswerRead(ExpectRead(kWindow + 128, 22), Counting(22, 128));
  EXPECT_EQ(read->status, DmaStatus::kOk);
  EXPECT_EQ(read->data, Counting(150));

  const auto write = device().StartWrite(kWindow, Counting(65));
  Received command;
  EXPECT_EQ(ExpectWrite(kWindow, 64, &command), Counting(64));
  ExpectNothing();
  client_->Reply(command, Pack(command.Get<vfio_user::DmaAccess>()));
  EXPECT_EQ(ExpectWrite(kWindow + 64, 1, &command), Counting(1, 64));
  client_->Reply(command, Pack(command.Get<vfio_user::DmaAccess>()));
  bench_.Settle();
  EXPECT_EQ(write->status, DmaStatus::kOk);
}

TEST_F(DmaMessagesTest, AnErrorReplyFailsTheAccessAndNothingMoreOfItIsSent) {
  Start(64);
  const auto read = device().StartRead(kWindow, 100);
  client_->ReplyError(ExpectRead(kWindow, 64), EFAULT);
  ExpectNothing();
  EXPECT_EQ(read->status, DmaStatus::kFault);

  const auto write = device().StartWrite(kWindow, Counting(100));
  Received command;
  ExpectWrite(kWindow, 64, &command);
  client_->ReplyError(command, ENODEV);
  ExpectNothing();
  EXPECT_EQ(write->status, DmaStatus::kFault);
  EXPECT_EQ(stray(), 0u);
}

TEST_F(DmaMessagesTest, AReplyWithMoreOrFewerBytesThanAskedForFailsTheRead) {
  uint64_t expected_stray = 0;
  for (const size_t size : {0u, 15u, 17u, 4096u}) {
    const auto read = device().StartRead(kWindow, 16);
    AnswerRead(ExpectRead(kWindow, 16), Counting(size, 1));
    EXPECT_EQ(read->status, DmaStatus::kFault) << size << " bytes";
    EXPECT_THAT(read->data, Each(std::byte{0})) << size << " bytes";
    EXPECT_EQ(stray(), ++expected_stray);
  }
  const auto read = device().StartRead(kWindow, 16);
  const Received command = ExpectRead(kWindow, 16);
  client_->Reply(command, {});
  bench_.Settle();
  EXPECT_EQ(read->status, DmaStatus::kFault) << "a header only";
}

TEST_F(DmaMessagesTest, RepliesThatBelongToNothingAreCountedAndDropped) {
  const auto read = device().StartRead(kWindow, 16);
  const Received command = ExpectRead(kWindow, 16);
  const ByteVector payload = Pack(command.Get<vfio_user::DmaAccess>(), Counting(16));

  Received other_id{.header = command.header, .payload = {}, .fds = {}};
  for (const unsigned id : {command.header.message_id + 1u, 63u, 64u, 0xffffu}) {
    other_id.header.message_id = static_cast<uint16_t>(id);
    client_->Reply(other_id, payload);
  }
  Received other_command{.header = command.header, .payload = {}, .fds = {}};
  for (const Command wrong : {Command::kDmaWrite, Command::kRegionRead, Command{0}}) {
    other_command.header.command = static_cast<uint16_t>(wrong);
    client_->Reply(other_command, payload);
  }
  bench_.Settle();
  EXPECT_EQ(stray(), 7u);
  EXPECT_FALSE(read->status) << "it still waits for its own";

  AnswerRead(command, Counting(16, 5));
  EXPECT_EQ(read->status, DmaStatus::kOk);
  EXPECT_EQ(read->data, Counting(16, 5));
  AnswerRead(command, Counting(16, 9));
  EXPECT_EQ(stray(), 8u) << "the second answer";
  EXPECT_EQ(read->data, Counting(16, 5));
  EXPECT_EQ(client_->Read<uint16_t>(Region::kConfig, 0), 0x1b36) << "the channel lives";
}

TEST_F(DmaMessagesTest, AReadThatIsNeverAnsweredFailsAfterFiveSeconds) {
  const auto read = device().StartRead(kWindow, 16);
  const Received command = ExpectRead(kWindow, 16);
  bench_.Advance(DmaMessages::kReplyTimeoutNs - 1);
  EXPECT_FALSE(read->status);
  bench_.Advance(1);
  EXPECT_EQ(read->status, DmaStatus::kFault);

  const auto next = device().StartRead(kWindow, 16);
  const Received next_command = ExpectRead(kWindow, 16);
  EXPECT_NE(next_command.header.message_id, command.header.message_id) << "the old id is taken";
  AnswerRead(command, Counting(16, 1));
  EXPECT_EQ(stray(), 0u) << "late, but an answer";
  EXPECT_THAT(read->data, Each(std::byte{0}));
  EXPECT_FALSE(next->status);
  AnswerRead(next_command, Counting(16, 2));
  EXPECT_EQ(next->data, Counting(16, 2));

  device().StartRead(kWindow, 16);
  EXPECT_EQ(ExpectRead(kWindow, 16).header.message_id, command.header.message_id) << "free again";
}

TEST_F(DmaMessagesTest, EachTransferHasItsOwnFiveSeconds) {
  Start(64);
  const auto read = device().StartRead(kWindow, 128);
  const Received first = ExpectRead(kWindow, 64);
  bench_.Advance(DmaMessages::kReplyTimeoutNs - 1);
  AnswerRead(first, Counting(64));
  const Received second = ExpectRead(kWindow + 64, 64);
  bench_.Advance(DmaMessages::kReplyTimeoutNs - 1);
  EXPECT_FALSE(read->status);
  AnswerRead(second, Counting(64));
  EXPECT_EQ(read->status, DmaStatus::kOk);
}

TEST_F(DmaMessagesTest, MoreAccessesThanIdsTakeTurns) {
  constexpr size_t kReads = DmaMessages::kMaxInFlight + 6;
  std::vector<std::shared_ptr<FakeDevice::Dma>> reads;
  for (size_t i = 0; i < kReads; ++i) reads.push_back(device().StartRead(kWindow + 16 * i, 16));
  std::vector<Received> commands;
  std::set<uint16_t> ids;
  while (auto command = client_->Receive()) {
    ids.insert(command->header.message_id);
    commands.push_back(std::move(*command));
  }
  ASSERT_EQ(commands.size(), DmaMessages::kMaxInFlight);
  EXPECT_EQ(ids.size(), commands.size()) << "no two commands in flight share an id";

  // Answered from the last to the first: order is the client's business.
  for (size_t done = 0; !commands.empty(); ++done) {
    ASSERT_LT(done, kReads);
    const Received command = std::move(commands.back());
    commands.pop_back();
    const uint64_t index = (command.Get<vfio_user::DmaAccess>().iova - kWindow) / 16;
    AnswerRead(command, Counting(16, static_cast<uint8_t>(index)));
    while (auto next = client_->Receive()) commands.push_back(std::move(*next));
  }
  for (size_t i = 0; i < kReads; ++i) {
    EXPECT_EQ(reads[i]->status, DmaStatus::kOk) << i;
    EXPECT_EQ(reads[i]->data, Counting(16, static_cast<uint8_t>(i))) << i;
  }
}

TEST_F(DmaMessagesTest, AClientThatAnswersNothingFailsWhatWaitsForAnIdToo) {
  std::vector<std::shared_ptr<FakeDevice::Dma>> reads;
  for (size_t i = 0; i < DmaMessages::kMaxInFlight + 6; ++i) {
    reads.push_back(device().StartRead(kWindow, 16));
  }
  while (client_->Receive()) {
  }
  bench_.Advance(DmaMessages::kReplyTimeoutNs);
  for (const auto& read : reads) EXPECT_EQ(read->status, DmaStatus::kFault);
  ExpectNothing();
}

// --- Cancelled accesses.

TEST_F(DmaMessagesTest, UnmapCancelsWhatTouchesItsWindowAndNothingElse) {
  const auto there = device().StartRead(kWindow + kWindowSize - 16, 16);
  const auto elsewhere = device().StartRead(kWindow + kWindowSize, 16);
  const Received command = ExpectRead(kWindow + kWindowSize - 16, 16);
  const Received other = ExpectRead(kWindow + kWindowSize, 16);
  EXPECT_EQ(client_->Unmap(kWindow, kWindowSize), 0);
  EXPECT_EQ(there->status, DmaStatus::kCancelled);
  EXPECT_FALSE(elsewhere->status);

  AnswerRead(command, Counting(16, 1));
  EXPECT_THAT(there->data, Each(std::byte{0})) << "a late reply is dropped";
  AnswerRead(other, Counting(16, 2));
  EXPECT_EQ(elsewhere->status, DmaStatus::kOk);
}

TEST_F(DmaMessagesTest, AfterUnmapNoMoreTransfersOfACancelledAccessAreSent) {
  Start(64);
  const auto read = device().StartRead(kWindow, 256);
  const Received command = ExpectRead(kWindow, 64);
  // In one batch: the answer to the first transfer, then the UNMAP.
  const vfio_user::DmaUnmap unmap{.argsz = 24, .iova = kWindow, .size = kWindowSize};
  client_->SendBytes(Pack(vfio_user::ReplyHeader(command.header, 80),
                          Pack(command.Get<vfio_user::DmaAccess>(), Counting(64)),
                          vfio_user::CommandHeader(1000, Command::kDmaUnmap, sizeof unmap),
                          Pack(unmap)));
  bench_.Settle();
  size_t after_reply = 0;
  bool replied = false;
  while (const auto message = client_->Receive()) {
    if (message->is_reply()) replied = true;
    if (!message->is_reply() && replied) ++after_reply;
  }
  EXPECT_TRUE(replied);
  EXPECT_EQ(after_reply, 0u);
  EXPECT_EQ(read->status, DmaStatus::kCancelled);
}

TEST_F(DmaMessagesTest, UnmapCancelsWhatWaitsForAnIdToo) {
  std::vector<std::shared_ptr<FakeDevice::Dma>> reads;
  for (size_t i = 0; i < DmaMessages::kMaxInFlight; ++i) {
    reads.push_back(device().StartRead(kWindow + kWindowSize, 16));
  }
  const auto waits = device().StartRead(kWindow, 16);
  std::vector<Received> commands;
  while (auto command = client_->Receive()) commands.push_back(std::move(*command));
  ASSERT_EQ(commands.size(), DmaMessages::kMaxInFlight);
  EXPECT_EQ(client_->Unmap(kWindow, kWindowSize), 0);
  EXPECT_EQ(waits->status, DmaStatus::kCancelled);
  for (const Received& command : commands) AnswerRead(command, Counting(16));
  ExpectNothing();
  EXPECT_EQ(reads.back()->status, DmaStatus::kOk);
}

TEST_F(DmaMessagesTest, ResetCancelsEveryWait) {
  const auto read = device().StartRead(kWindow, 16);
  const auto write = device().StartWrite(kWindow + kWindowSize, Counting(16));
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceReset, {}), 0);
  EXPECT_EQ(read->status, DmaStatus::kCancelled);
  EXPECT_EQ(write->status, DmaStatus::kCancelled);
}

TEST_F(DmaMessagesTest, DisconnectCancelsEveryWaitAndTheNextClientHearsNothingOfThem) {
  Start(64);
  const auto read = device().StartRead(kWindow, 256);
  const Received command = ExpectRead(kWindow, 64);
  std::vector<std::shared_ptr<FakeDevice::Dma>> waiting;
  for (size_t i = 0; i < DmaMessages::kMaxInFlight; ++i) {
    waiting.push_back(device().StartRead(kWindow, 16));
  }
  client_->Close();
  bench_.Settle();
  EXPECT_EQ(read->status, DmaStatus::kCancelled);
  for (const auto& access : waiting) EXPECT_EQ(access->status, DmaStatus::kCancelled);

  Start(64);
  ExpectNothing();
  const auto next = device().StartRead(kWindow, 16);
  const Received fresh = ExpectRead(kWindow, 16);
  AnswerRead(fresh, Counting(16, 8));
  EXPECT_EQ(next->data, Counting(16, 8)) << "all ids are free again";
}

TEST_F(DmaMessagesTest, AnAnswerThatCameBeforeTheEndDoesNotMakeTheNextClientPay) {
  Start(64);
  const auto read = device().StartRead(kWindow, 256);
  const Received command = ExpectRead(kWindow, 64);
  // The answer is taken, and before the device's task sees it the client is gone and another there.
  const ByteVector payload = Pack(command.Get<vfio_user::DmaAccess>(), Counting(64));
  const vfio_user::Frame reply{.header = vfio_user::ReplyHeader(command.header, payload.size()),
                               .payload = payload};
  EXPECT_TRUE(bench_.slot().messages().OnReply(reply));
  bench_.server().Disconnect();
  Start(64);
  EXPECT_EQ(read->status, DmaStatus::kCancelled);
  ExpectNothing();
}

TEST_F(DmaMessagesTest, WithoutAClientThereIsNothingToWaitFor) {
  client_->Close();
  bench_.Settle();
  ByteVector data(16);
  std::optional<DmaStatus> status;
  TaskScope scope;
  const auto run = [](Task<DmaStatus> task, std::optional<DmaStatus>* out) -> Task<void> {
    *out = co_await task;
  };
  scope.Spawn(run(bench_.slot().messages().ReadByMessage(kWindow, data), &status));
  EXPECT_EQ(status, DmaStatus::kCancelled);
}

TEST_F(DmaMessagesTest, WhileADeviceWaitsForMemoryItsRegistersAreServed) {
  const auto read = device().StartRead(kWindow, 16);
  const Received command = ExpectRead(kWindow, 16);
  client_->Write(Region::kBar0, 0x40, uint32_t{0x12345678});
  EXPECT_EQ(client_->Read<uint32_t>(Region::kBar0, 0x40), 0x12345678u);
  EXPECT_FALSE(read->status);
  AnswerRead(command, Counting(16));
  EXPECT_EQ(read->status, DmaStatus::kOk);
}

TEST_F(DmaMessagesTest, ARegisterReadThatStartsDmaAnswersWithItsOwnBytes) {
  device().bar0[0x10] = std::byte{0x77};
  device().read_starts_dma = kWindow;
  EXPECT_EQ(client_->Read<uint8_t>(Region::kBar0, 0x10), 0x77);
  AnswerRead(ExpectRead(kWindow, 64), Counting(64));
  EXPECT_EQ(device().started_by_read->data, Counting(64));
}

}  // namespace
}  // namespace farside
