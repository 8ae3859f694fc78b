// The tables of definitions and the arithmetic of the rings.
#include <gtest/gtest.h>

#include "devices/nvme/commands.h"
#include "devices/nvme/queues.h"
#include "devices/nvme/registers.h"

namespace farside::nvme {
namespace {

TEST(Registers, NamesCoverRegistersAndDoorbells) {
  EXPECT_EQ(RegisterName(0x00), "CAP");
  EXPECT_EQ(RegisterName(0x07), "CAP");
  EXPECT_EQ(RegisterName(0x1c), "CSTS");
  EXPECT_EQ(RegisterName(0x18), "");
  EXPECT_EQ(RegisterName(0xe04), "PMRCTL");
  EXPECT_EQ(RegisterName(0x1000), "SQ0TDBL");
  EXPECT_EQ(RegisterName(0x1004), "CQ0HDBL");
  EXPECT_EQ(RegisterName(0x101c), "CQ3HDBL");
  EXPECT_EQ(RegisterName(kRegisterBarSize), "");
}

TEST(Registers, DoorbellsAreWhereTheyAreNamed) {
  for (uint32_t queue = 0; queue <= kMaxQueuePairs; ++queue) {
    EXPECT_EQ(DoorbellAt(SqTailDoorbell(queue)).queue, queue);
    EXPECT_FALSE(DoorbellAt(SqTailDoorbell(queue)).completion);
    EXPECT_EQ(DoorbellAt(CqHeadDoorbell(queue)).queue, queue);
    EXPECT_TRUE(DoorbellAt(CqHeadDoorbell(queue)).completion);
  }
}

TEST(Commands, EveryNamedOpcodeIsNamedOnce) {
  for (const bool admin : {true, false}) {
    size_t named = 0;
    for (int opcode = 0; opcode < 256; ++opcode) {
      if (!OpcodeName(admin, static_cast<uint8_t>(opcode)).empty()) ++named;
    }
    EXPECT_EQ(named, admin ? std::size(kAdminOpcodes) : std::size(kIoOpcodes));
  }
}

TEST(Commands, StatusFieldsKeepThePhaseTagApart) {
  Cqe cqe;
  cqe.status = StatusField(Status::kCompareFailure, true);
  EXPECT_EQ(cqe.status, 0x285 << 1 | 1);
  EXPECT_EQ(StatusOf(cqe), Status::kCompareFailure);
  EXPECT_TRUE(PhaseOf(cqe));
  EXPECT_TRUE(IsMediaError(StatusOf(cqe)));
  EXPECT_FALSE(IsMediaError(Status::kInvalidQueueId));
}

TEST(CompletionQueue, HoldsOneEntryLessThanItsSize) {
  CompletionQueue cq{.size = 4};
  EXPECT_EQ(cq.available(), 3u);
  cq.reserved = 3;
  EXPECT_EQ(cq.available(), 0u);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(cq.Take().index, i);
  EXPECT_EQ(cq.available(), 0u);
  EXPECT_TRUE(cq.MoveHead(2));
  EXPECT_EQ(cq.available(), 2u);
}

TEST(CompletionQueue, InvertsThePhaseTagAtEachWrap) {
  CompletionQueue cq{.size = 2};
  for (int i = 0; i < 8; ++i) {
    cq.reserved = 1;
    const auto entry = cq.Take();
    EXPECT_EQ(entry.index, static_cast<uint32_t>(i % 2));
    EXPECT_EQ(entry.phase, i / 2 % 2 == 0);
    EXPECT_TRUE(cq.MoveHead(static_cast<uint32_t>((i + 1) % 2)));
  }
}

TEST(CompletionQueue, IsUnreadOnlyWhenAnEntryHasBeenWritten) {
  CompletionQueue cq{.size = 4, .reserved = 1};
  cq.Take();
  EXPECT_FALSE(cq.unread()) << "the DMA has not ended";
  cq.writing = 0;
  EXPECT_TRUE(cq.unread());
  EXPECT_TRUE(cq.MoveHead(1));
  EXPECT_FALSE(cq.unread());
}

TEST(CompletionQueue, RefusesHeadsBeyondTheTailOrTheRing) {
  CompletionQueue cq{.size = 4, .reserved = 2};
  cq.Take();
  cq.Take();
  EXPECT_FALSE(cq.MoveHead(3));
  EXPECT_FALSE(cq.MoveHead(4));
  EXPECT_FALSE(cq.MoveHead(0xffff));
  EXPECT_TRUE(cq.MoveHead(0)) << "no movement";
  EXPECT_TRUE(cq.MoveHead(2));
  EXPECT_FALSE(cq.MoveHead(1)) << "backwards";
}

TEST(SubmissionQueue, RefusesMoreEntriesThanAreFree) {
  SubmissionQueue sq{.size = 4};
  EXPECT_FALSE(sq.MoveTail(4));
  EXPECT_TRUE(sq.MoveTail(3));
  EXPECT_EQ(sq.pending(), 3u);
  EXPECT_FALSE(sq.MoveTail(0)) << "the ring is full";
  EXPECT_FALSE(sq.MoveTail(2)) << "backwards";
  sq.fetched = 2;
  EXPECT_TRUE(sq.MoveTail(1));
  EXPECT_EQ(sq.pending(), 3u);
}

TEST(SubmissionQueue, ReportsAHeadThatNeverGoesBack) {
  SubmissionQueue sq{.size = 4};
  sq.fetched = 7;
  EXPECT_EQ(sq.Report(6), 2);
  EXPECT_EQ(sq.Report(5), 2) << "an older command that completes later";
  EXPECT_EQ(sq.Report(7), 3);
}

}  // namespace
}  // namespace farside::nvme
