#include "devices/server/dma_table.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <memory>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr uint64_t kBase = 0x10'0000;
const UniqueFd kNoFd;

// Messages that wait until the test answers them.
class FakeMessenger final : public DmaMessenger {
 public:
  struct Access {
    Access(Loop& loop, bool is_read, uint64_t at, Bytes to, ConstBytes from)
        : read(is_read), iova(at), out(to), in(from.begin(), from.end()), done(loop) {}
    bool read;
    uint64_t iova;
    Bytes out;
    ByteVector in;
    Completion<DmaStatus> done;
  };

  explicit FakeMessenger(Loop& loop) : loop_(loop) {}

  Task<DmaStatus> ReadByMessage(uint64_t iova, Bytes out) override {
    Access& access = accesses.emplace_back(loop_, true, iova, out, ConstBytes{});
    co_return co_await access.done;
  }
  Task<DmaStatus> WriteByMessage(uint64_t iova, ConstBytes in) override {
    Access& access = accesses.emplace_back(loop_, false, iova, Bytes{}, in);
    co_return co_await access.done;
  }

  std::deque<Access> accesses;  // All there ever were.

 private:
  Loop& loop_;
};

struct Outcome {
  std::optional<DmaStatus> status;
};

Task<void> Store(Task<DmaStatus> task, Outcome* out) { out->status = co_await task; }

class DmaTableTest : public testing::Test {
 protected:
  DmaTableTest() { table_.set_messenger(&messenger_); }
  ~DmaTableTest() override { table_.Clear(); }

  int Add(uint64_t iova, uint64_t size, int fd = -1, uint64_t offset = 0, bool readable = true,
          bool writable = true) {
    const UniqueFd copy(fd < 0 ? -1 : dup(fd));
    const auto added = table_.Add(
        {.iova = iova, .size = size, .readable = readable, .writable = writable, .offset = offset},
        copy, 1000);
    return added ? 0 : added.error().code;
  }
  int Remove(uint64_t iova, uint64_t size) {
    const auto removed = table_.Remove(iova, size);
    return removed ? 0 : removed.error().code;
  }
  void Spawn(Task<DmaStatus> task, Outcome& out) {
    scope_.Spawn(Store(std::move(task), &out));
    loop_.RunUntilIdle();
  }
  DmaStatus Run(Task<DmaStatus> task) {
    Outcome out;
    Spawn(std::move(task), out);
    EXPECT_TRUE(out.status) << "the access waits";
    return out.status.value_or(DmaStatus::kCancelled);
  }
  DmaStatus Read(uint64_t iova, size_t size) {
    read_.assign(size, std::byte{0xcc});
    return Run(table_.Read(iova, read_));
  }
  DmaStatus Write(uint64_t iova, const ByteVector& data) { return Run(table_.Write(iova, data)); }
  DmaStatus Map(std::vector<DmaSegment> segments, DmaAccess access, DmaBuffer& buffer) {
    return Run(table_.Map(segments, access, &buffer));
  }
  void Answer(size_t index, DmaStatus status) {
    messenger_.accesses[index].done.Set(status);
    loop_.RunUntilIdle();
  }

  ManualClock clock_;
  Loop loop_{clock_};
  TaskScope scope_;
  FakeMessenger messenger_{loop_};
  DmaTable table_{loop_};
  SharedMemory memory_{16 * kPage};
  ByteVector read_;
};

Bytes BytesOf(const iovec& part) { return {static_cast<std::byte*>(part.iov_base), part.iov_len}; }

// --- Windows.

TEST_F(DmaTableTest, AWindowIsTheClientsMemory) {
  ASSERT_EQ(Add(kBase, 4 * kPage, memory_.fd(), 2 * kPage), 0);
  ASSERT_EQ(Write(kBase + 0x123, Counting(300)), DmaStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(memory_.bytes().subspan(2 * kPage + 0x123, 300), Counting(300)));
  Copy(memory_.bytes().subspan(6 * kPage - 8, 8), Counting(8, 0x40));
  ASSERT_EQ(Read(kBase + 4 * kPage - 8, 8), DmaStatus::kOk) << "its last bytes";
  EXPECT_EQ(read_, Counting(8, 0x40));
  EXPECT_EQ(Read(kBase - 1, 1), DmaStatus::kFault);
  EXPECT_EQ(Read(kBase + 4 * kPage, 1), DmaStatus::kFault);
}

TEST_F(DmaTableTest, AWindowThatBeginsInTheMiddleOfAPageIsMappedAsItLies) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd(), kPage + 0x234), 0);
  memory_.bytes()[kPage + 0x234] = std::byte{0x5a};
  memory_.bytes()[2 * kPage + 0x233] = std::byte{0xa5};
  ASSERT_EQ(Read(kBase, kPage), DmaStatus::kOk);
  EXPECT_EQ(read_.front(), std::byte{0x5a});
  EXPECT_EQ(read_.back(), std::byte{0xa5});
}

TEST_F(DmaTableTest, OverlapsAreRefusedAndNeighboursAreNot) {
  ASSERT_EQ(Add(kBase, 4 * kPage), 0);
  for (const auto& [iova, size] :
       std::vector<std::pair<uint64_t, uint64_t>>{{kBase, 4 * kPage},
                                                  {kBase, 1},
                                                  {kBase + 4 * kPage - 1, 1},
                                                  {kBase + kPage, kPage},
                                                  {kBase - 1, 2},
                                                  {kBase - kPage, 6 * kPage},
                                                  {0, ~uint64_t{0}}}) {
    EXPECT_EQ(Add(iova, size), EEXIST) << iova << "+" << size;
  }
  EXPECT_EQ(Add(kBase - kPage, kPage), 0);
  EXPECT_EQ(Add(kBase + 4 * kPage, 1), 0);
  EXPECT_EQ(table_.window_count(), 3u);
}

TEST_F(DmaTableTest, TheLastPageOfTheAddressSpaceIsAWindowLikeAnyOther) {
  const uint64_t last = ~uint64_t{0} - (kPage - 1);
  ASSERT_EQ(Add(last, kPage, memory_.fd()), 0);
  EXPECT_EQ(Add(last - kPage, 2 * kPage), EEXIST);
  EXPECT_EQ(Add(0, kPage, memory_.fd(), kPage), 0) << "does not touch it";
  EXPECT_EQ(Write(~uint64_t{0} - 3, Counting(4)), DmaStatus::kOk);
  EXPECT_EQ(Write(~uint64_t{0} - 3, Counting(8)), DmaStatus::kFault) << "wraps into window 0";
  EXPECT_EQ(memory_.bytes()[kPage], std::byte{0});
  EXPECT_EQ(Remove(last, kPage), 0);
  EXPECT_EQ(table_.window_count(), 1u);
}

TEST_F(DmaTableTest, MoreWindowsThanAgreedAreRefused) {
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(table_.Add({.iova = i * kPage, .size = kPage}, kNoFd, 3));
  }
  const auto more = table_.Add({.iova = kBase, .size = kPage}, kNoFd, 3);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, ENOSPC);
}

TEST_F(DmaTableTest, AFileTooShortForItsWindowIsRefused) {
  EXPECT_EQ(Add(kBase, 16 * kPage, memory_.fd()), 0);
  EXPECT_EQ(Remove(kBase, 16 * kPage), 0);
  EXPECT_EQ(Add(kBase, 16 * kPage + 1, memory_.fd()), EINVAL);
  EXPECT_EQ(Add(kBase, kPage, memory_.fd(), 15 * kPage + 1), EINVAL);
  EXPECT_EQ(Add(kBase, 1, memory_.fd(), ~uint64_t{0} - 1), EINVAL) << "an offset past the end";
  EXPECT_EQ(Add(kBase, 1, memory_.fd(), 16 * kPage), EINVAL);
  EXPECT_EQ(table_.window_count(), 0u);
}

TEST_F(DmaTableTest, WhatCannotBeMappedIsRefusedWithMmapsErrno) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd pipe_read(pipe_fds[0]);
  const UniqueFd pipe_write(pipe_fds[1]);
  const auto sockets = MakeSocketPair().value();
  const UniqueFd directory(open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const Eventfds eventfd(1);
  for (const int fd :
       {pipe_read.get(), pipe_write.get(), sockets.first.get(), directory.get(), eventfd.fd()}) {
    EXPECT_NE(Add(kBase, kPage, fd), 0);
  }
  EXPECT_EQ(table_.window_count(), 0u);
  EXPECT_EQ(Add(kBase, kPage), 0) << "the address is still free";
}

TEST_F(DmaTableTest, MemoryThatMayNotBeWrittenIsRefusedForWritingAndTakenForReading) {
  const UniqueFd sealed = MakeMemfd("sealed", kPage).value();
  ASSERT_EQ(fcntl(sealed.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK), 0);
  EXPECT_EQ(Add(kBase, kPage, sealed.get()), EPERM);
  EXPECT_EQ(Add(kBase, kPage, sealed.get(), 0, true, false), 0);

  const std::string path = "/proc/self/fd/" + std::to_string(memory_.fd());
  const UniqueFd read_only(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(Add(2 * kBase, kPage, read_only.get()), EACCES);
  EXPECT_EQ(Add(2 * kBase, kPage, read_only.get(), 0, true, false), 0);
  EXPECT_EQ(Write(2 * kBase, Counting(4)), DmaStatus::kFault);
  EXPECT_EQ(Read(2 * kBase, 4), DmaStatus::kOk);
}

TEST_F(DmaTableTest, AWindowAllowsWhatItsClientSaid) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd(), 0, true, false), 0);
  ASSERT_EQ(Add(2 * kBase, kPage, memory_.fd(), 0, false, true), 0);
  ASSERT_EQ(Add(3 * kBase, kPage, memory_.fd(), 0, false, false), 0);
  EXPECT_EQ(Read(kBase, 4), DmaStatus::kOk);
  EXPECT_EQ(Write(kBase, Counting(4)), DmaStatus::kFault);
  EXPECT_EQ(Write(2 * kBase, Counting(4)), DmaStatus::kOk);
  EXPECT_EQ(Read(2 * kBase, 4), DmaStatus::kFault);
  EXPECT_EQ(Read(3 * kBase, 4), DmaStatus::kFault);
  EXPECT_EQ(Write(3 * kBase, Counting(4)), DmaStatus::kFault);
  DmaBuffer buffer;
  EXPECT_EQ(Map({{kBase, 16}}, DmaAccess::kWrite, buffer), DmaStatus::kFault);
  EXPECT_EQ(Map({{2 * kBase, 16}}, DmaAccess::kRead, buffer), DmaStatus::kFault);
}

TEST_F(DmaTableTest, HugePagesAreMappedWhole) {
  // Without free huge pages the reservation fails, but the request itself must be a lawful one.
  const uint64_t huge = 2 << 20;
  const UniqueFd fd(memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB));
  ASSERT_TRUE(fd) << ErrnoText(errno);
  ASSERT_EQ(ftruncate(fd.get(), 2 * huge), 0);
  const int added = Add(kBase, 3 * kPage, fd.get(), huge - kPage);
  if (added != 0) {
    EXPECT_EQ(added, ENOMEM);
    return;
  }
  ASSERT_EQ(Write(kBase + kPage - 4, Counting(8)), DmaStatus::kOk);
  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase + kPage - 4, 8}}, DmaAccess::kRead, buffer), DmaStatus::kOk);
  table_.RemoveAll();
  table_.RevokeRemoved();
  EXPECT_TRUE(std::ranges::equal(BytesOf(buffer.iovecs()[0]), Counting(8)));
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kCancelled);
}

TEST_F(DmaTableTest, WindowsKeepNoDescriptorAndGiveTheirMemoryBack) {
  const auto before = CountOpenFds();
  for (uint64_t i = 0; i < 200; ++i) ASSERT_EQ(Add(i * kPage, kPage, memory_.fd()), 0);
  EXPECT_EQ(CountOpenFds(), before);
  table_.RemoveAll();
  EXPECT_EQ(Read(0, 1), DmaStatus::kFault);
}

// --- Accesses over several windows.

TEST_F(DmaTableTest, AnAccessMayCrossFromOneWindowIntoTheNext) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd(), 8 * kPage), 0);
  ASSERT_EQ(Add(kBase + kPage, kPage, memory_.fd(), 0), 0);
  ASSERT_EQ(Add(kBase + 2 * kPage, kPage, memory_.fd(), 4 * kPage), 0);
  const ByteVector data = Counting(kPage + 32);
  ASSERT_EQ(Write(kBase + kPage - 16, data), DmaStatus::kOk);
  const ConstBytes all = data;
  EXPECT_TRUE(std::ranges::equal(memory_.bytes().subspan(9 * kPage - 16, 16), all.first(16)));
  EXPECT_TRUE(std::ranges::equal(memory_.bytes().first(kPage), all.subspan(16, kPage)));
  EXPECT_TRUE(std::ranges::equal(memory_.bytes().subspan(4 * kPage, 16), all.last(16)));
  ASSERT_EQ(Read(kBase + kPage - 16, data.size()), DmaStatus::kOk);
  EXPECT_EQ(read_, data);
}

TEST_F(DmaTableTest, AnAccessOverAHoleOrAForbiddenWindowMovesNothing) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd()), 0);
  ASSERT_EQ(Add(kBase + 2 * kPage, kPage, memory_.fd(), kPage), 0);
  EXPECT_EQ(Write(kBase + kPage - 4, Counting(kPage + 8, 1)), DmaStatus::kFault);
  EXPECT_THAT(memory_.bytes().subspan(kPage - 4, 4), Each(std::byte{0}));

  ASSERT_EQ(Add(kBase + kPage, kPage, memory_.fd(), 2 * kPage, true, false), 0);
  EXPECT_EQ(Write(kBase + kPage - 4, Counting(8, 1)), DmaStatus::kFault);
  EXPECT_THAT(memory_.bytes().subspan(kPage - 4, 4), Each(std::byte{0}));
  EXPECT_EQ(Read(kBase + kPage - 4, 8), DmaStatus::kOk);
}

TEST_F(DmaTableTest, AnAccessMayBeHalfByFdAndHalfByMessage) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd()), 0);
  ASSERT_EQ(Add(kBase + kPage, kPage), 0);
  Outcome write;
  const ByteVector data = Counting(24, 1);
  Spawn(table_.Write(kBase + kPage - 8, data), write);
  ASSERT_EQ(messenger_.accesses.size(), 1u);
  EXPECT_EQ(messenger_.accesses[0].iova, kBase + kPage);
  EXPECT_EQ(messenger_.accesses[0].in, Counting(16, 9));
  EXPECT_FALSE(write.status);
  Answer(0, DmaStatus::kOk);
  EXPECT_EQ(write.status, DmaStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(memory_.bytes().subspan(kPage - 8, 8), Counting(8, 1)));

  Outcome read;
  ByteVector out(24);
  Spawn(table_.Read(kBase + kPage - 8, out), read);
  Copy(messenger_.accesses[1].out, Counting(16, 9));
  Answer(1, DmaStatus::kOk);
  EXPECT_EQ(read.status, DmaStatus::kOk);
  EXPECT_EQ(out, data);
}

TEST_F(DmaTableTest, WhatTheClientAnswersIsWhatTheDeviceGets) {
  ASSERT_EQ(Add(kBase, kPage), 0);
  for (const DmaStatus status : {DmaStatus::kFault, DmaStatus::kCancelled}) {
    Outcome read;
    ByteVector out(8);
    Spawn(table_.Read(kBase, out), read);
    Answer(messenger_.accesses.size() - 1, status);
    EXPECT_EQ(read.status, status);
  }
  table_.set_messenger(nullptr);
  EXPECT_EQ(Read(kBase, 8), DmaStatus::kFault);
  EXPECT_EQ(Write(kBase, Counting(8)), DmaStatus::kFault);
}

TEST_F(DmaTableTest, AnAccessDoesNotGoOnIntoAWindowThatWentWhileItWaited) {
  for (const bool by_fd : {true, false}) {
    ASSERT_EQ(Add(kBase, kPage), 0);
    ASSERT_EQ(Add(kBase + kPage, kPage, by_fd ? memory_.fd() : -1), 0);
    Outcome write;
    const ByteVector data = Counting(16, 1);
    Spawn(table_.Write(kBase + kPage - 8, data), write);
    const size_t messages = messenger_.accesses.size();
    ASSERT_EQ(Remove(kBase + kPage, kPage), 0);
    Answer(messages - 1, DmaStatus::kOk);
    EXPECT_EQ(write.status, DmaStatus::kCancelled);
    EXPECT_EQ(messenger_.accesses.size(), messages) << "no message about what is unmapped";
    EXPECT_THAT(memory_.bytes().first(8), Each(std::byte{0}));
    table_.RemoveAll();
  }
}

// --- Unmapping.

TEST_F(DmaTableTest, RemoveTakesNoneOneOrSeveralWindowsButNeverAPart) {
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(Add(kBase + 2 * i * kPage, kPage, memory_.fd()), 0);
  EXPECT_EQ(Remove(0, kPage), 0) << "nothing there";
  EXPECT_EQ(Remove(kBase + kPage, kPage), 0) << "a gap";
  EXPECT_EQ(table_.window_count(), 4u);
  EXPECT_EQ(Remove(kBase, kPage / 2), EINVAL);
  EXPECT_EQ(Remove(kBase + 1, kPage), EINVAL);
  EXPECT_EQ(Remove(kBase + kPage, kPage + 1), EINVAL) << "the next one's first byte";
  EXPECT_EQ(Remove(kBase, 2 * kPage + kPage / 2), EINVAL) << "one and a half";
  EXPECT_EQ(table_.window_count(), 4u) << "nothing changed";
  EXPECT_EQ(Read(kBase, kPage), DmaStatus::kOk);

  EXPECT_EQ(Remove(kBase - kPage, 4 * kPage), 0) << "two, and what is around them";
  EXPECT_EQ(table_.window_count(), 2u);
  EXPECT_EQ(Read(kBase + 2 * kPage, 1), DmaStatus::kFault);
  EXPECT_EQ(Read(kBase + 4 * kPage, 1), DmaStatus::kOk);
  EXPECT_EQ(Remove(0, ~uint64_t{0}), 0);
  EXPECT_EQ(table_.window_count(), 0u);
}

// --- Leases.

TEST_F(DmaTableTest, ALeaseIsIovecsStraightIntoTheWindowsInTheOrderOfTheSegments) {
  ASSERT_EQ(Add(kBase, 4 * kPage, memory_.fd()), 0);
  ASSERT_EQ(Add(2 * kBase, kPage, memory_.fd(), 8 * kPage), 0);
  DmaBuffer buffer;
  ASSERT_EQ(Map({{2 * kBase, 512}, {kBase + kPage, 1024}, {kBase + kPage + 1024, 16}},
                DmaAccess::kWrite, buffer),
            DmaStatus::kOk);
  ASSERT_EQ(buffer.iovecs().size(), 2u) << "what lies side by side is one";
  EXPECT_EQ(buffer.iovecs()[0].iov_len, 512u);
  EXPECT_EQ(buffer.iovecs()[1].iov_len, 1040u);
  Fill(BytesOf(buffer.iovecs()[0]), 0x11);
  Fill(BytesOf(buffer.iovecs()[1]), 0x22);
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kOk);
  EXPECT_THAT(memory_.bytes().subspan(8 * kPage, 512), Each(std::byte{0x11}));
  EXPECT_THAT(memory_.bytes().subspan(kPage, 1040), Each(std::byte{0x22}));
  EXPECT_TRUE(buffer.iovecs().empty());
}

TEST_F(DmaTableTest, SegmentsByMessageGoThroughBounceMemory) {
  ASSERT_EQ(Add(kBase, kPage), 0);
  ASSERT_EQ(Add(kBase + kPage, kPage, memory_.fd()), 0);
  Copy(memory_.bytes().first(8), Counting(8, 0x80));
  DmaBuffer buffer;
  Outcome mapped;
  const DmaSegment segment{kBase + kPage - 8, 16};
  Spawn(table_.Map(std::span(&segment, 1), DmaAccess::kRead, &buffer), mapped);
  EXPECT_FALSE(mapped.status) << "the bytes must come first";
  Copy(messenger_.accesses[0].out, Counting(8, 0x40));
  Answer(0, DmaStatus::kOk);
  ASSERT_EQ(mapped.status, DmaStatus::kOk);
  ASSERT_EQ(buffer.iovecs().size(), 2u);
  EXPECT_TRUE(std::ranges::equal(BytesOf(buffer.iovecs()[0]), Counting(8, 0x40)));
  EXPECT_TRUE(std::ranges::equal(BytesOf(buffer.iovecs()[1]), Counting(8, 0x80)));
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kOk);
  EXPECT_EQ(messenger_.accesses.size(), 1u) << "a read writes nothing back";
}

TEST_F(DmaTableTest, BounceMemoryIsWrittenBackWholeAndHoldsNothingOfOurs) {
  ASSERT_EQ(Add(kBase, 2 * kPage), 0);
  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase, 512}, {kBase + kPage, 16}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  EXPECT_THAT(BytesOf(buffer.iovecs()[0]), Each(std::byte{0})) << "whatever the I/O leaves out";
  Copy(BytesOf(buffer.iovecs()[0]).first(8), Counting(8, 1));
  Outcome finished;
  Spawn(buffer.Finish(), finished);
  EXPECT_EQ(messenger_.accesses[0].iova, kBase);
  EXPECT_EQ(messenger_.accesses[0].in.size(), 512u);
  Answer(0, DmaStatus::kOk);
  EXPECT_EQ(messenger_.accesses[1].iova, kBase + kPage);
  Answer(1, DmaStatus::kFault);
  EXPECT_EQ(finished.status, DmaStatus::kFault);
}

TEST_F(DmaTableTest, AMapThatFailsLeavesTheBufferAsItWas) {
  ASSERT_EQ(Add(kBase, kPage), 0);
  DmaBuffer buffer;
  EXPECT_EQ(Map({{kBase, 16}, {0, 16}}, DmaAccess::kRead, buffer), DmaStatus::kFault);
  EXPECT_TRUE(messenger_.accesses.empty());
  Outcome mapped;
  const DmaSegment segment{kBase, 16};
  Spawn(table_.Map(std::span(&segment, 1), DmaAccess::kRead, &buffer), mapped);
  Answer(0, DmaStatus::kFault);
  EXPECT_EQ(mapped.status, DmaStatus::kFault);
  EXPECT_TRUE(buffer.iovecs().empty());
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kOk) << "there is nothing to finish";
}

TEST_F(DmaTableTest, WhatWasBouncedIsNotWrittenToAnotherWindowAtItsAddress) {
  ASSERT_EQ(Add(kBase, kPage), 0);
  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase, 16}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  ASSERT_EQ(Remove(kBase, kPage), 0);
  ASSERT_EQ(Add(kBase, kPage, memory_.fd()), 0) << "as an IOMMU reuses addresses";
  Fill(BytesOf(buffer.iovecs()[0]), 0x66);
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kCancelled);
  EXPECT_THAT(memory_.bytes().first(16), Each(std::byte{0}));
}

TEST_F(DmaTableTest, AMapIsCancelledWhenOneOfItsWindowsGoesWhileItReads) {
  ASSERT_EQ(Add(kBase, kPage), 0);
  ASSERT_EQ(Add(kBase + kPage, kPage, memory_.fd()), 0);
  DmaBuffer buffer;
  Outcome mapped;
  const DmaSegment segment{kBase + kPage - 8, 16};
  Spawn(table_.Map(std::span(&segment, 1), DmaAccess::kRead, &buffer), mapped);
  ASSERT_EQ(Remove(kBase + kPage, kPage), 0);
  Answer(0, DmaStatus::kOk);
  EXPECT_EQ(mapped.status, DmaStatus::kCancelled);
  EXPECT_EQ(table_.leases_in_removed(), 0u);
}

TEST_F(DmaTableTest, ARemovedWindowLivesUntilItsLeasesEnd) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd()), 0);
  ASSERT_EQ(Add(2 * kBase, kPage, memory_.fd(), kPage), 0);
  DmaBuffer first;
  DmaBuffer second;
  ASSERT_EQ(Map({{kBase, 16}, {kBase + 64, 16}}, DmaAccess::kWrite, first), DmaStatus::kOk);
  ASSERT_EQ(Map({{2 * kBase, 16}}, DmaAccess::kWrite, second), DmaStatus::kOk);
  ASSERT_EQ(Remove(kBase, kPage), 0);
  EXPECT_EQ(table_.leases_in_removed(), 2u) << "not those in the window that stays";
  EXPECT_EQ(Read(kBase, 1), DmaStatus::kFault);

  Fill(BytesOf(first.iovecs()[0]), 0x33);
  EXPECT_EQ(Run(first.Finish()), DmaStatus::kOk) << "the memory was there to the end";
  EXPECT_THAT(memory_.bytes().first(16), Each(std::byte{0x33}));
  EXPECT_EQ(table_.leases_in_removed(), 0u);
  EXPECT_EQ(Run(second.Finish()), DmaStatus::kOk);
}

TEST_F(DmaTableTest, ARevokedLeaseKeepsItsBytesButIsNobodysMemory) {
  ASSERT_EQ(Add(kBase, 4 * kPage, memory_.fd()), 0);
  Copy(memory_.bytes().subspan(kPage - 8, 16), Counting(16, 1));
  DmaBuffer buffer;
  DmaBuffer same_page;
  ASSERT_EQ(Map({{kBase + kPage - 8, 16}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  ASSERT_EQ(Map({{kBase + kPage + 64, 8}}, DmaAccess::kWrite, same_page), DmaStatus::kOk);
  table_.RemoveAll();
  EXPECT_EQ(table_.leases_in_removed(), 2u);
  table_.RevokeRemoved();
  EXPECT_EQ(table_.leases_in_removed(), 0u);

  const Bytes leased = BytesOf(buffer.iovecs()[0]);
  EXPECT_TRUE(std::ranges::equal(leased, Counting(16, 1))) << "I/O in flight finds its data";
  Fill(leased, 0x99);
  Fill(BytesOf(same_page.iovecs()[0]), 0x99);
  EXPECT_TRUE(std::ranges::equal(memory_.bytes().subspan(kPage - 8, 16), Counting(16, 1)));
  EXPECT_THAT(memory_.bytes().subspan(kPage + 64, 8), Each(std::byte{0}));
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kCancelled);
  EXPECT_EQ(Run(same_page.Finish()), DmaStatus::kCancelled);
}

TEST_F(DmaTableTest, AfterClearNothingOfTheClientIsLeft) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd()), 0);
  const DmaSegment logged{kBase, kPage};
  ASSERT_TRUE(table_.dirty_log().Start(kPage, std::span(&logged, 1)));
  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase, 16}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  table_.Clear();
  EXPECT_EQ(table_.window_count(), 0u);
  EXPECT_EQ(table_.leases_in_removed(), 0u);
  EXPECT_FALSE(table_.dirty_log().on());
  Fill(BytesOf(buffer.iovecs()[0]), 0x44);
  EXPECT_THAT(memory_.bytes().first(16), Each(std::byte{0}));
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kCancelled);
}

// --- Dirty pages.

TEST_F(DmaTableTest, PagesThatTheDeviceWritesInPlaceAreLogged) {
  ASSERT_EQ(Add(kBase, 8 * kPage, memory_.fd()), 0);
  ASSERT_EQ(Add(kBase + 8 * kPage, kPage), 0);
  const DmaSegment logged{kBase, 9 * kPage};
  ASSERT_TRUE(table_.dirty_log().Start(kPage, std::span(&logged, 1)));
  const auto report = [&] { return table_.dirty_log().Report(kBase, 9 * kPage, kPage).value(); };

  EXPECT_EQ(Read(kBase, kPage), DmaStatus::kOk);
  EXPECT_THAT(report(), ElementsAre(0u));
  EXPECT_EQ(Write(kBase + 2 * kPage - 1, Counting(2)), DmaStatus::kOk);
  EXPECT_THAT(report(), ElementsAre(0b110u));

  Outcome write;
  const ByteVector data = Counting(16);
  Spawn(table_.Write(kBase + 8 * kPage - 8, data), write);
  Answer(0, DmaStatus::kOk);
  EXPECT_THAT(report(), ElementsAre(0x80u)) << "the client logs what comes by message";

  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase + 4 * kPage, 2 * kPage}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kOk);
  EXPECT_THAT(report(), ElementsAre(0b110000u));
  ASSERT_EQ(Map({{kBase, kPage}}, DmaAccess::kRead, buffer), DmaStatus::kOk);
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kOk);
  EXPECT_THAT(report(), ElementsAre(0u));

  EXPECT_EQ(Write(kBase, Counting(1)), DmaStatus::kOk);
  table_.RemoveAll();
  EXPECT_THAT(report(), ElementsAre(1u)) << "unmapping does not end the log";
}

// --- Files that shrink.

class DmaTableSigbusTest : public DmaTableTest {
 protected:
  DmaTableSigbusTest() {
    sigaction(SIGBUS, nullptr, &before_);
    EXPECT_TRUE(InstallSigbusHandler());
  }
  ~DmaTableSigbusTest() override { sigaction(SIGBUS, &before_, nullptr); }

  void Shrink() { ASSERT_EQ(ftruncate(fd_.get(), kPage), 0); }

  struct sigaction before_ {};
  UniqueFd fd_ = MakeMemfd("shrinks", 8 * kPage).value();
};

TEST_F(DmaTableSigbusTest, AWindowWhoseFileShrankIsDeadAndTheOthersAreNot) {
  ASSERT_EQ(Add(kBase, 8 * kPage, fd_.get()), 0);
  ASSERT_EQ(Add(2 * kBase, kPage, memory_.fd()), 0);
  Shrink();
  EXPECT_EQ(Read(kBase, 16), DmaStatus::kOk) << "what is still there";
  EXPECT_EQ(Read(kBase + 4 * kPage, 16), DmaStatus::kFault);
  EXPECT_THAT(read_, Each(std::byte{0})) << "nothing of ours";
  EXPECT_EQ(Read(kBase, 16), DmaStatus::kFault) << "the whole window is dead";
  EXPECT_EQ(Write(2 * kBase, Counting(16)), DmaStatus::kOk);
  EXPECT_EQ(Remove(kBase, 8 * kPage), 0);
  EXPECT_EQ(Add(kBase, kPage, memory_.fd()), 0) << "its address can be used again";
  EXPECT_EQ(Read(kBase, 16), DmaStatus::kOk);
}

TEST_F(DmaTableSigbusTest, AWriteIntoAFileThatShrankFails) {
  ASSERT_EQ(Add(kBase, 8 * kPage, fd_.get()), 0);
  ASSERT_EQ(Add(kBase + 8 * kPage, kPage, memory_.fd()), 0);
  Shrink();
  EXPECT_EQ(Write(kBase + 8 * kPage - 8, Counting(16)), DmaStatus::kFault);
  EXPECT_EQ(Write(kBase + 2 * kPage, Counting(16)), DmaStatus::kFault);
}

TEST_F(DmaTableSigbusTest, AnAccessOverTwoWindowsOneOfWhichShrankFails) {
  ASSERT_EQ(Add(kBase, kPage, memory_.fd()), 0);
  ASSERT_EQ(Add(kBase + kPage, kPage, fd_.get(), 4 * kPage), 0);
  Shrink();
  EXPECT_EQ(Read(kBase + kPage - 8, 16), DmaStatus::kFault);
}

TEST_F(DmaTableSigbusTest, ALeaseOfAFileThatShrankFailsAtItsEnd) {
  ASSERT_EQ(Add(kBase, 8 * kPage, fd_.get()), 0);
  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase + 2 * kPage, 64}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  Shrink();
  Fill(BytesOf(buffer.iovecs()[0]), 0x12);
  EXPECT_EQ(Run(buffer.Finish()), DmaStatus::kFault);
}

TEST_F(DmaTableSigbusTest, ARevokedLeaseOfAFileThatShrankIsStillMemory) {
  ASSERT_EQ(Add(kBase, 7 * kPage + 16, fd_.get(), 8), 0);
  DmaBuffer buffer;
  ASSERT_EQ(Map({{kBase + 7 * kPage, 16}}, DmaAccess::kWrite, buffer), DmaStatus::kOk);
  Shrink();
  table_.RemoveAll();
  table_.RevokeRemoved();
  Fill(BytesOf(buffer.iovecs()[0]), 0x12);
  EXPECT_NE(Run(buffer.Finish()), DmaStatus::kOk);
}

TEST_F(DmaTableSigbusTest, ASigbusElsewhereEndsTheProcessAsBefore) {
  EXPECT_EXIT(
      {
        if (!InstallSigbusHandler()) _exit(1);
        const UniqueFd fd = MakeMemfd("not a window", kPage).value();
        const auto mapping = Mapping::Map(fd.get(), 0, kPage, PROT_READ | PROT_WRITE).value();
        if (ftruncate(fd.get(), 0) != 0) _exit(1);
        *mapping.data() = std::byte{1};
        _exit(0);
      },
      testing::KilledBySignal(SIGBUS), "");
}

}  // namespace
}  // namespace farside
