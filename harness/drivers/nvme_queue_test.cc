#include "harness/drivers/nvme_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "devices/nvme/registers.h"
#include "harness/drivers/nvme_driver.h"
#include "protocol/fake_server.h"
#include "protocol/vfio_user_client.h"

namespace farside {
namespace {

using nvme::Cqe;
using nvme::Sqe;
using testing::HasSubstr;
using vfio_user::FakeServer;
using vfio_user::VfioUserClient;

// Queue 3 of four entries. The test plays the controller: it writes completions itself.
class NvmeQueueTest : public testing::Test {
 protected:
  NvmeQueueTest() {
    const MemoryRange range{0x10'0000, 1 << 20};
    memory_ = GuestMemory::Create(std::span(&range, 1), Reach::kFd).value();
    client_ = VfioUserClient::Attach(server_.TakeSocket(), {}, memory_.get()).value();
    queue_ = NvmeQueue::Create(*client_, *memory_, {.id = 3, .entries = 4}).value();
  }
  uint16_t Submit() { return queue_->Submit({.opcode = 2}).value(); }
  // Writes entry `index` of the completion queue.
  void Complete(uint32_t index, Cqe cqe, bool phase) {
    cqe.status = nvme::StatusField(nvme::Status::kSuccess, phase);
    ASSERT_TRUE(memory_->Write(queue_->cq_base() + index * sizeof cqe, AsBytes(cqe)));
  }
  uint32_t Doorbell(uint64_t offset) {
    return client_->Read<uint32_t>({.region = 0, .offset = offset}).value();
  }

  FakeServer server_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<VfioUserClient> client_;
  std::unique_ptr<NvmeQueue> queue_;
};

TEST_F(NvmeQueueTest, PutsEntriesBehindEachOtherAndRings) {
  const uint16_t first = Submit();
  const uint16_t second = queue_->Submit({.opcode = 1, .nsid = 7}, /*ring=*/false).value();
  EXPECT_NE(first, second);
  EXPECT_EQ(Doorbell(nvme::SqTailDoorbell(3)), 1u);
  ASSERT_TRUE(queue_->Ring());
  EXPECT_EQ(Doorbell(nvme::SqTailDoorbell(3)), 2u);
  Sqe sqe;
  ASSERT_TRUE(memory_->Read(queue_->sq_base() + sizeof sqe, AsWritableBytes(sqe)));
  EXPECT_EQ(sqe.nsid, 7u);
  EXPECT_EQ(sqe.cid, second);
}

TEST_F(NvmeQueueTest, FollowsThePhaseAroundTheRing) {
  uint32_t entry = 0;
  for (int i = 0; i < 11; ++i) {
    const uint16_t cid = Submit();
    EXPECT_EQ(queue_->Reap().value(), 0u);
    EXPECT_FALSE(queue_->Take(cid));
    Complete(entry % 4, {.sq_head = static_cast<uint16_t>((i + 1) % 4), .sqid = 3, .cid = cid},
             entry / 4 % 2 == 0);
    ++entry;
    EXPECT_EQ(queue_->Reap().value(), 1u);
    EXPECT_EQ(queue_->Take(cid)->cid, cid);
    EXPECT_FALSE(queue_->Take(cid));
    EXPECT_EQ(Doorbell(nvme::CqHeadDoorbell(3)), entry % 4);
  }
}

TEST_F(NvmeQueueTest, IsFullWithOneLessThanItsEntries) {
  for (int i = 0; i < 3; ++i) Submit();
  EXPECT_EQ(queue_->in_flight(), 3u);
  const auto more = queue_->Submit({});
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, EBUSY);
}

TEST_F(NvmeQueueTest, RefusesCompletionsOfWhatIsNotInFlight) {
  const uint16_t cid = Submit();
  const auto wrong = static_cast<uint16_t>(cid + 1);
  for (const Cqe& cqe :
       {Cqe{.sq_head = 1, .sqid = 3, .cid = wrong}, Cqe{.sq_head = 1, .sqid = 2, .cid = cid},
        Cqe{.sq_head = 4, .sqid = 3, .cid = cid}}) {
    Complete(0, cqe, true);
    const auto reaped = queue_->Reap();
    ASSERT_FALSE(reaped);
    EXPECT_THAT(reaped.error().message, HasSubstr("breaks NVMe"));
  }
  const Cqe right{.sq_head = 1, .sqid = 3, .cid = cid};
  Complete(0, right, true);
  Complete(1, right, true);
  EXPECT_FALSE(queue_->Reap()) << "completed twice";
}

TEST_F(NvmeQueueTest, TheDriverRefusesOtherDevices) {
  server_.region(7)[0] = std::byte{0x34};  // A vendor, but no class.
  const auto driver = NvmeDriver::Probe(*client_, *memory_, {});
  ASSERT_FALSE(driver);
  EXPECT_THAT(driver.error().message, HasSubstr("not an NVMe"));
}

}  // namespace
}  // namespace farside
