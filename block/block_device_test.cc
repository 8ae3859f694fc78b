// What BlockDevice promises, asked of every driver.
#include "block/block_device.h"

#include <gmock/gmock.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <ostream>

#include "block/graph.h"
#include "block/test_support.h"

namespace farside::block {
namespace {

using nlohmann::json;

constexpr uint64_t kSize = 1 << 20;

struct DriverCase {
  const char* name;
  json (*options)(const TempDir& dir);
};
void PrintTo(const DriverCase& driver, std::ostream* out) { *out << driver.name; }

json FileOptions(const TempDir& dir, const char* aio, bool direct) {
  return {{"driver", "file"},
          {"filename", dir.MakeFile("disk.img", kSize)},
          {"aio", aio},
          {"cache", {{"direct", direct}}}};
}

json RawOver(json file) { return {{"driver", "raw"}, {"file", std::move(file)}}; }

const DriverCase kCases[] = {
    {"FileIoUring", [](const TempDir& dir) { return FileOptions(dir, "io_uring", false); }},
    {"FileThreads", [](const TempDir& dir) { return FileOptions(dir, "threads", false); }},
    {"FileIoUringDirect", [](const TempDir& dir) { return FileOptions(dir, "io_uring", true); }},
    {"FileThreadsDirect", [](const TempDir& dir) { return FileOptions(dir, "threads", true); }},
    {"RawFile", [](const TempDir& dir) { return RawOver(FileOptions(dir, "io_uring", false)); }},
    {"RawDirect", [](const TempDir& dir) { return RawOver(FileOptions(dir, "io_uring", true)); }},
    {"RawWindow",
     [](const TempDir&) {
       json options = RawOver({{"driver", "memory"}, {"size", "4M"}});
       options["offset"] = "1M";
       options["size"] = "1M";
       return options;
     }},
    {"Memory",
     [](const TempDir&) {
       return json{{"driver", "memory"}, {"size", "1M"}};
     }},
    {"Generated",
     [](const TempDir&) {
       return json{{"driver", "generated"}, {"size", "1M"}};
     }},
};

class EveryDriver : public BlockTest, public ::testing::WithParamInterface<DriverCase> {
 protected:
  BlockDevice& Open(json more = {{"discard", "unmap"}}) {
    json options = GetParam().options(dir_);
    options.update(more);
    options["node-name"] = "disk";
    const auto added = graph_.Add(options, *loop_);
    EXPECT_TRUE(added) << added.error().message;
    return *graph_.Find("disk");
  }

  Graph graph_;
};

INSTANTIATE_TEST_SUITE_P(Block, EveryDriver, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return test.param.name; });

TEST_P(EveryDriver, ReadsBackWhatWasWritten) {
  BlockDevice& disk = Open();
  EXPECT_EQ(disk.size(), kSize);
  const Buffer before = Content(disk, 0, kSize);
  const Buffer data = Buffer::Random(20 * 512, 1);
  EXPECT_EQ(Write(disk, 4096, data), IoStatus{});
  EXPECT_EQ(Content(disk, 4096, 20 * 512), data);
  EXPECT_EQ(Write(disk, kSize - 20 * 512, data, /*fua=*/true), IoStatus{});
  EXPECT_EQ(Content(disk, kSize - 20 * 512, 20 * 512), data);
  EXPECT_EQ(Await(disk.Flush()), IoStatus{});
  // And nothing else has changed.
  Buffer expected(kSize);
  Copy(expected.bytes(), before.bytes());
  Copy(expected.bytes().subspan(4096, 20 * 512), data.bytes());
  Copy(expected.bytes().subspan(kSize - 20 * 512), data.bytes());
  EXPECT_EQ(Content(disk, 0, kSize), expected);
}

TEST_P(EveryDriver, GathersAndScattersIovecs) {
  BlockDevice& disk = Open();
  const Buffer data = Buffer::Random(8 * 512, 2);
  const iovec out[] = {data.Part(0, 512), data.Part(512, 1024), data.Part(1536, 2560)};
  EXPECT_EQ(Await(disk.Write(512, out, false)), IoStatus{});
  const Buffer back(8 * 512);
  const iovec in[] = {back.Part(0, 3072), back.Part(3072, 0), back.Part(3072, 1024)};
  EXPECT_EQ(Await(disk.Read(512, in)), IoStatus{});
  EXPECT_EQ(back, data);
}

TEST_P(EveryDriver, TakesMoreIovecsThanTheKernelDoesAtOnce) {
  BlockDevice& disk = Open();
  constexpr size_t kCount = 1500;  // The kernel's limit is 1024.
  const Buffer data = Buffer::Random(kCount * 512, 3);
  std::vector<iovec> iov;
  for (size_t i = 0; i < kCount; ++i) iov.push_back(data.Part(i * 512, 512));
  EXPECT_EQ(Await(disk.Write(0, iov, false)), IoStatus{});
  EXPECT_EQ(Content(disk, 0, kCount * 512), data);
  const Buffer back(kCount * 512);
  for (size_t i = 0; i < kCount; ++i) iov[i] = back.Part(i * 512, 512);
  EXPECT_EQ(Await(disk.Read(0, iov)), IoStatus{});
  EXPECT_EQ(back, data);
}

TEST_P(EveryDriver, WritesZeroes) {
  BlockDevice& disk = Open();
  for (const bool may_unmap : {false, true}) {
    const Buffer data = Buffer::Random(256 << 10, 4);
    EXPECT_EQ(Write(disk, 0, data), IoStatus{});
    EXPECT_EQ(Await(disk.WriteZeroes(1536, 200 << 10, may_unmap)), IoStatus{});
    Fill(data.bytes().subspan(1536, 200 << 10), 0);
    EXPECT_EQ(Content(disk, 0, 256 << 10), data) << "may_unmap " << may_unmap;
  }
}

TEST_P(EveryDriver, DiscardsAsItsLimitsSay) {
  BlockDevice& disk = Open();
  EXPECT_NE(disk.limits().discard_granularity, 0u);
  ASSERT_TRUE(disk.limits().discard_zeroes);
  const Buffer data = Buffer::Random(64 << 10, 5);
  EXPECT_EQ(Write(disk, 0, data), IoStatus{});
  EXPECT_EQ(Await(disk.Discard(512, 40 << 10)), IoStatus{});
  Fill(data.bytes().subspan(512, 40 << 10), 0);
  EXPECT_EQ(Content(disk, 0, 64 << 10), data);
}

TEST_P(EveryDriver, IgnoresDiscardsByDefault) {
  BlockDevice& disk = Open(json::object());
  EXPECT_EQ(disk.limits().discard_granularity, 0u);
  EXPECT_FALSE(disk.limits().discard_zeroes);
  const Buffer data = Buffer::Random(64 << 10, 6);
  EXPECT_EQ(Write(disk, 0, data), IoStatus{});
  EXPECT_EQ(Await(disk.Discard(0, 64 << 10)), IoStatus{});
  EXPECT_EQ(Content(disk, 0, 64 << 10), data);
}

TEST_P(EveryDriver, RefusesWhatLiesOutside) {
  BlockDevice& disk = Open();
  const Buffer data(1024);
  for (const uint64_t offset : {kSize - 512, kSize, kSize + 512, UINT64_MAX - 511}) {
    EXPECT_EQ(Read(disk, offset, data), IoStatus{EINVAL}) << offset;
    EXPECT_EQ(Write(disk, offset, data), IoStatus{EINVAL}) << offset;
    EXPECT_EQ(Await(disk.WriteZeroes(offset, 1024, true)), IoStatus{EINVAL}) << offset;
    EXPECT_EQ(Await(disk.Discard(offset, 1024)), IoStatus{EINVAL}) << offset;
  }
  EXPECT_EQ(Await(disk.Discard(512, UINT64_MAX)), IoStatus{EINVAL});
}

TEST_P(EveryDriver, NothingIsARequestToo) {
  BlockDevice& disk = Open();
  EXPECT_EQ(Await(disk.Read(kSize, {})), IoStatus{});
  EXPECT_EQ(Await(disk.Write(0, {}, false)), IoStatus{});
  EXPECT_EQ(Await(disk.WriteZeroes(512, 0, true)), IoStatus{});
  EXPECT_EQ(Await(disk.Discard(512, 0)), IoStatus{});
}

TEST_P(EveryDriver, RefusesToWriteWhenReadOnly) {
  BlockDevice& disk = Open({{"read-only", true}, {"discard", "unmap"}});
  EXPECT_TRUE(disk.read_only());
  const Buffer before = Content(disk, 0, 4096);
  EXPECT_EQ(Write(disk, 0, Buffer::Filled(4096, 0xab)), IoStatus{EPERM});
  EXPECT_EQ(Await(disk.WriteZeroes(0, 4096, true)), IoStatus{EPERM});
  EXPECT_EQ(Await(disk.Discard(0, 4096)), IoStatus{EPERM});
  EXPECT_EQ(Await(disk.Flush()), IoStatus{});
  EXPECT_EQ(Content(disk, 0, 4096), before);
}

// Many tasks at once, each with every kWorkers-th sector to itself, so that requests lie side by
// side but never on top of each other.
class Worker {
 public:
  static constexpr uint64_t kWorkers = 32;
  static constexpr uint64_t kSectors = kSize / 512 / kWorkers;

  Worker(BlockDevice& disk, uint64_t index, uint64_t seed)
      : disk_(disk), index_(index), random_(Mix64(seed + index)), shadow_(kSectors) {}

  Task<void> Run(int count) {
    for (uint64_t slot = 0; slot < kSectors; ++slot) co_await WriteSector(slot);
    while (count-- > 0) {
      const uint64_t slot = random_.Below(kSectors);
      switch (random_.Below(8)) {
        case 0:
          failures_ += !(co_await disk_.WriteZeroes(Offset(slot), 512, random_.OneIn(2))).ok();
          shadow_[slot] = kZero;
          break;
        case 1:
          failures_ += !(co_await disk_.Flush()).ok();
          break;
        case 2:
        case 3:
        case 4:
          co_await WriteSector(slot);
          break;
        default:
          co_await CheckSector(slot);
      }
    }
    for (uint64_t slot = 0; slot < kSectors; ++slot) co_await CheckSector(slot);
  }

  int failures() const { return failures_; }

 private:
  static constexpr uint64_t kZero = 0;

  uint64_t Offset(uint64_t slot) const { return (slot * kWorkers + index_) * 512; }

  Task<void> WriteSector(uint64_t slot) {
    shadow_[slot] = random_.Next() | 1;
    for (size_t at = 0; at < 512; at += 8) StoreLe(buffer_.bytes().subspan(at, 8), shadow_[slot]);
    const iovec iov = buffer_.iov();
    failures_ += !(co_await disk_.Write(Offset(slot), {&iov, 1}, random_.OneIn(16))).ok();
  }

  Task<void> CheckSector(uint64_t slot) {
    // In two halves where the disk takes that, which goes another way through the engines.
    const iovec halves[] = {buffer_.Part(0, 256), buffer_.Part(256, 256)};
    const iovec whole[] = {buffer_.iov()};
    const bool split = disk_.limits().memory_alignment == 1 && random_.OneIn(2);
    Fill(buffer_.bytes(), 0xee);
    const std::span<const iovec> iov = split ? std::span<const iovec>(halves) : whole;
    failures_ += !(co_await disk_.Read(Offset(slot), iov)).ok();
    for (size_t at = 0; at < 512; at += 8) {
      failures_ += LoadLe<uint64_t>(buffer_.bytes().subspan(at, 8)) != shadow_[slot];
    }
  }

  BlockDevice& disk_;
  const uint64_t index_;
  Random random_;
  std::vector<uint64_t> shadow_;  // The word that each sector is full of.
  Buffer buffer_{512};
  int failures_ = 0;
};

TEST_P(EveryDriver, ManyRequestsAtOnceMatchAShadow) {
  BlockDevice& disk = Open();
  const uint64_t seed = Seed();
  SCOPED_TRACE(fmt::format("--gtest_random_seed={}", seed));
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint64_t i = 0; i < Worker::kWorkers; ++i) {
    workers.push_back(std::make_unique<Worker>(disk, i, seed));
    scope_.Spawn(workers.back()->Run(100));
  }
  RunUntil([&] { return scope_.active() == 0; });
  EXPECT_EQ(disk.in_flight(), 0u);
  for (const auto& worker : workers) EXPECT_EQ(worker->failures(), 0);
}

}  // namespace
}  // namespace farside::block
