#include "block/raw.h"

#include <gmock/gmock.h>

#include "block/file.h"
#include "block/generated.h"
#include "block/memory.h"
#include "block/test_support.h"

namespace farside::block {
namespace {

using ::testing::HasSubstr;

class RawTest : public BlockTest {
 protected:
  std::string ErrorOf(BlockDevice& file, const RawNode::Window& window) {
    const auto created = RawNode::Create({.name = "raw"}, file, window, *loop_);
    return created ? "" : created.error().message;
  }
};

TEST_F(RawTest, ShowsAWindowOfItsFile) {
  GeneratedNode file({.name = "file"}, 1 << 20, 1);
  auto raw =
      std::move(*RawNode::Create({.name = "raw"}, file, {.offset = 4096, .size = 8192}, *loop_));
  EXPECT_EQ(raw->size(), 8192u);
  EXPECT_EQ(Content(*raw, 0, 8192), Content(file, 4096, 8192));
  EXPECT_EQ(Write(*raw, 4096, Buffer::Filled(4096, 0xab)), IoStatus{});
  EXPECT_EQ(Content(file, 8192, 4096), Buffer::Filled(4096, 0xab));
  EXPECT_EQ(Read(*raw, 8192, Buffer(512)), IoStatus{EINVAL})
      << "the file goes on, the disk does not";
  EXPECT_EQ(Await(raw->WriteZeroes(4096, 8192, false)), IoStatus{EINVAL});
}

TEST_F(RawTest, GoesUpToTheFilesEndByDefault) {
  GeneratedNode file({.name = "file"}, 1 << 20, 1);
  EXPECT_EQ((*RawNode::Create({.name = "raw"}, file, {.offset = 4096}, *loop_))->size(),
            (1u << 20) - 4096);
}

TEST_F(RawTest, RefusesAWindowThatIsNone) {
  GeneratedNode file({.name = "file"}, 1 << 20, 1);
  EXPECT_THAT(ErrorOf(file, {.offset = 2 << 20}), HasSubstr("outside its file, which has 1048576"));
  EXPECT_THAT(ErrorOf(file, {.offset = 512, .size = 1 << 20}), HasSubstr("outside"));
  EXPECT_THAT(ErrorOf(file, {.offset = 512, .size = UINT64_MAX}), HasSubstr("outside"));
  EXPECT_THAT(ErrorOf(file, {.offset = 100}), HasSubstr("multiples of 512"));
  EXPECT_THAT(ErrorOf(file, {.size = 1000}), HasSubstr("multiples of 512"));
  EXPECT_THAT(ErrorOf(file, {.offset = 1 << 20}), HasSubstr("size not 0"));
}

TEST_F(RawTest, IsNotWritableOverAReadOnlyFile) {
  GeneratedNode file({.name = "file", .read_only = true}, 1 << 20, 1);
  EXPECT_THAT(ErrorOf(file, {}), HasSubstr("use read-only=on here, too"));
}

TEST_F(RawTest, DiscardsOnlyWhatItIsToldToItself) {
  GeneratedNode file({.name = "file", .unmap = true}, 1 << 20, 1);
  const auto raw = std::move(*RawNode::Create({.name = "raw"}, file, {}, *loop_));
  EXPECT_EQ(raw->limits().discard_granularity, 0u);
  const Buffer before = Content(file, 0, 4096);
  EXPECT_EQ(Await(raw->Discard(0, 4096)), IoStatus{});
  EXPECT_EQ(Content(file, 0, 4096), before);
}

class RawOverDirectTest : public RawTest {
 protected:
  static constexpr size_t kSize = 4 << 20;
  std::unique_ptr<FileNode> file_ = std::move(*FileNode::Open(
      {.name = "file"}, {.filename = dir_.MakeFile("disk.img", kSize), .direct = true}, *loop_));
  std::unique_ptr<RawNode> raw_ = std::move(*RawNode::Create({.name = "raw"}, *file_, {}, *loop_));
};

TEST_F(RawOverDirectTest, TakesMemoryOfAnyAlignment) {
  ASSERT_GT(file_->limits().memory_alignment, 1u);
  EXPECT_EQ(raw_->limits().memory_alignment, 1u);
  EXPECT_EQ(raw_->limits().request_alignment, file_->limits().request_alignment);
  // More than one bounce buffer's worth.
  const Buffer data = Buffer::Random(1 << 20, 1, /*misalignment=*/4);
  EXPECT_EQ(Write(*raw_, 8192, data, /*fua=*/true), IoStatus{});
  EXPECT_EQ(Content(*raw_, 8192, 1 << 20), data) << "read in place";
  const Buffer back(1 << 20, /*misalignment=*/12);
  const iovec iov[] = {back.Part(0, 5), back.Part(5, 100'000), back.Part(100'005, 948'571)};
  EXPECT_EQ(Await(raw_->Read(8192, iov)), IoStatus{});
  EXPECT_EQ(back, data) << "read through the bounce buffer";
  EXPECT_EQ(Read(*raw_, 100, Buffer(512)), IoStatus{EINVAL}) << "requests are not bounced";
}

TEST_F(RawOverDirectTest, RequestsWaitForABounceBuffer) {
  constexpr size_t kRequests = 100;
  constexpr size_t kEach = 4096;
  const Buffer data = Buffer::Random(kRequests * kEach, 1, /*misalignment=*/8);
  int failures = 0;
  for (size_t i = 0; i < kRequests; ++i) {
    scope_.Spawn([](BlockDevice& to, const Buffer& from, size_t index, int& failed) -> Task<void> {
      const iovec iov = from.Part(index * kEach, kEach);
      failed += !(co_await to.Write(index * kEach, {&iov, 1}, false)).ok();
    }(*raw_, data, i, failures));
  }
  EXPECT_GE(raw_->in_flight(), kRequests);
  RunUntil([&] { return raw_->in_flight() == 0; });
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(Content(*raw_, 0, kRequests * kEach), data);
}

}  // namespace
}  // namespace farside::block
