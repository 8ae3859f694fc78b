#include "devices/nvme/prp.h"

#include <gtest/gtest.h>

#include "devices/nvme/test_support.h"

namespace farside {

static void PrintTo(const DmaSegment& segment, std::ostream* out) {
  *out << std::hex << segment.iova << "+" << segment.size;
}

}  // namespace farside

namespace farside::nvme {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kList = 0x10000;  // Where the tests put their lists.
constexpr uint64_t kList2 = 0x20000;

class PrpTest : public ::testing::TestWithParam<DmaMode> {
 protected:
  PrpTest() { host_.AddMemory(0, kRamSize); }

  Status Walk(uint64_t prp1, uint64_t prp2, uint64_t size, uint64_t page_size = kPage) {
    command_.sqe.prp1 = prp1;
    command_.sqe.prp2 = prp2;
    HostMemory memory{.dma = host_, .page_size = page_size, .max_transfer = 1 << 20};
    Status status = Driver::kNoCompletion;
    scope_.Spawn(Await(memory, size, &status));
    loop_.RunUntilIdle();
    return status;
  }
  void PutList(uint64_t at, std::initializer_list<uint64_t> entries) {
    for (const uint64_t entry : entries) {
      host_.Poke(at, entry);
      at += 8;
    }
  }
  const std::vector<DmaSegment>& segments() const { return command_.segments; }
  using Segments = std::vector<DmaSegment>;

  ManualClock clock_;
  Loop loop_{clock_};
  FakeHost host_{loop_, GetParam()};
  Command command_;

 private:
  Task<void> Await(HostMemory memory, uint64_t size, Status* status) {
    *status = co_await WalkPrps(memory, command_, size);
  }
  TaskScope scope_;
};

TEST_P(PrpTest, OnePageNeedsPrp1Only) {
  EXPECT_EQ(Walk(0x1000, 0xdead'beef, 512), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x1000, 512}}));
}

TEST_P(PrpTest, Prp1MayStartInsideAPage) {
  EXPECT_EQ(Walk(0x1e04, 0x5000, 512), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x1e04, 508}, {0x5000, 4}}));
}

TEST_P(PrpTest, AddressZeroIsAnAddress) {
  // FreeBSD D35328: not a continuation of anything.
  EXPECT_EQ(Walk(0, 0, 512), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0, 512}}));
  EXPECT_EQ(Walk(0x8000, 0, 2 * kPage), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x8000, kPage}, {0, kPage}}));
}

TEST_P(PrpTest, MisalignedEntriesAreInvalid) {
  EXPECT_EQ(Walk(0x1001, 0, 512), Status::kInvalidPrpOffset);
  EXPECT_EQ(Walk(0x1002, 0, 512), Status::kInvalidPrpOffset);
  EXPECT_EQ(Walk(0x1000, 0x2004, 2 * kPage), Status::kInvalidPrpOffset) << "PRP2 as a page";
  EXPECT_EQ(Walk(0x1000, kList + 4, 3 * kPage), Status::kInvalidPrpOffset) << "PRP2 as a list";
  PutList(kList, {0x2000, 0x3010});
  EXPECT_EQ(Walk(0x1000, kList, 3 * kPage), Status::kInvalidPrpOffset) << "inside the list";
}

TEST_P(PrpTest, ListsNameOnePageAnEntry) {
  PutList(kList, {0x9000, 0x7000});
  EXPECT_EQ(Walk(0x1000, kList, 2 * kPage + 512), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x1000, kPage}, {0x9000, kPage}, {0x7000, 512}}));
}

TEST_P(PrpTest, AdjacentPagesAreOneSegment) {
  PutList(kList, {0x2000, 0x3000, 0x5000});
  EXPECT_EQ(Walk(0x1800, kList, 3 * kPage), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x1800, 0x2800}, {0x5000, 0x800}}));
}

TEST_P(PrpTest, NothingIsAdjacentToTheEndOfTheAddressSpace) {
  EXPECT_EQ(Walk(~uint64_t{0} - kPage + 1, 0, 2 * kPage), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{~uint64_t{0} - kPage + 1, kPage}, {0, kPage}}));
}

TEST_P(PrpTest, ListsChainAtTheEndOfTheirPage) {
  // Two entries fit before the end of the first list page; the second is the chain.
  PutList(kList + kPage - 16, {0x9000, kList2});
  PutList(kList2, {0x7000, 0x5000});
  EXPECT_EQ(Walk(0x1000, kList + kPage - 16, 4 * kPage), Status::kSuccess);
  EXPECT_EQ(segments(),
            (Segments{{0x1000, kPage}, {0x9000, kPage}, {0x7000, kPage}, {0x5000, kPage}}));
}

TEST_P(PrpTest, TheLastEntryOfAListPageIsDataWhenNothingFollows) {
  PutList(kList + kPage - 16, {0x9000, 0x7000});
  EXPECT_EQ(Walk(0x1000, kList + kPage - 16, 3 * kPage), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x1000, kPage}, {0x9000, kPage}, {0x7000, kPage}}));
}

TEST_P(PrpTest, AListPageMayHoldNothingButTheChain) {
  PutList(kList + kPage - 8, {kList2});
  PutList(kList2, {0x9000, 0x7000});
  EXPECT_EQ(Walk(0x1000, kList + kPage - 8, 3 * kPage), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x1000, kPage}, {0x9000, kPage}, {0x7000, kPage}}));
}

TEST_P(PrpTest, AMisalignedChainIsInvalid) {
  PutList(kList + kPage - 16, {0x9000, kList2 + 8});
  EXPECT_EQ(Walk(0x1000, kList + kPage - 16, 4 * kPage), Status::kInvalidPrpOffset);
}

TEST_P(PrpTest, AChainInACircleEndsWithTheTransfer) {
  // The list page's last entry points back to the page itself, so it is used again and again.
  for (uint64_t i = 0; i < kPage; i += 8) PutList(kList + i, {kList});
  EXPECT_EQ(Walk(0x1000, kList, 1 << 20), Status::kSuccess);
  uint64_t total = 0;
  for (const DmaSegment& segment : segments()) total += segment.size;
  EXPECT_EQ(total, 1u << 20);
  EXPECT_LE(host_.accesses().size(), 2u);
}

TEST_P(PrpTest, EachEntryIsReadOnce) {
  PutList(kList, {0x9000, 0x7000});
  Walk(0x1000, kList, 3 * kPage);
  ASSERT_EQ(host_.accesses().size(), 1u);
  EXPECT_EQ(host_.accesses()[0].iova, kList);
  EXPECT_EQ(host_.accesses()[0].size, 16u) << "what lies behind the list is not looked at";
}

TEST_P(PrpTest, AListOutsideMemoryIsATransferError) {
  EXPECT_EQ(Walk(0x1000, kNowhere, 3 * kPage), Status::kDataTransferError);
}

TEST_P(PrpTest, PagesHaveTheSizeThatTheDriverChose) {
  PutList(kList, {0x40000, 0x60000});
  EXPECT_EQ(Walk(0x18000, kList, 0x28000, 0x10000), Status::kSuccess);
  EXPECT_EQ(segments(), (Segments{{0x18000, 0x8000}, {0x40000, 0x10000}, {0x60000, 0x10000}}));
  EXPECT_EQ(Walk(0x10000, 0x21000, 0x20000, 0x10000), Status::kInvalidPrpOffset);
}

INSTANTIATE_DMA_MODES(PrpTest);

}  // namespace
}  // namespace farside::nvme
