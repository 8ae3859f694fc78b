#include "block/file.h"

#include <gmock/gmock.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <ostream>

#include "block/file_engine_threads.h"
#include "block/test_support.h"

namespace farside::block {
namespace {

using ::testing::HasSubstr;

class FileTest : public BlockTest {
 protected:
  Result<std::unique_ptr<FileNode>> Open(const FileOptions& options, NodeOptions node = {}) {
    node.name = "disk";
    return FileNode::Open(node, options, *loop_);
  }
  std::string ErrorOf(const FileOptions& options, const NodeOptions& node = {}) {
    const auto opened = Open(options, node);
    return opened ? "" : opened.error().message;
  }
};

// Opening: what it says about files that are no disks.

TEST_F(FileTest, SaysWhatIsWrongWithAFile) {
  EXPECT_THAT(ErrorOf({.filename = dir_.Path("absent")}), HasSubstr("qemu-img create"));
  EXPECT_THAT(ErrorOf({.filename = dir_.Path(".")}), HasSubstr("name a regular file"));
  EXPECT_THAT(ErrorOf({.filename = dir_.Path(".")}, {.read_only = true}),
              HasSubstr("name a regular file"));
  EXPECT_THAT(ErrorOf({.filename = "/dev/null"}), HasSubstr("name a regular file"));
  ASSERT_EQ(mkfifo(dir_.Path("fifo").c_str(), 0600), 0);
  EXPECT_THAT(ErrorOf({.filename = dir_.Path("fifo")}, {.read_only = true}),
              HasSubstr("name a regular file"));
  EXPECT_THAT(ErrorOf({.filename = dir_.MakeFile("empty", 0)}), HasSubstr("truncate -s 1G"));
  EXPECT_THAT(ErrorOf({.filename = dir_.MakeFile("odd", 1000)}),
              HasSubstr("1000 bytes, which is no multiple of 512"));
}

TEST_F(FileTest, SaysThatItMayNotWrite) {
  const std::string path = dir_.MakeFile("disk.img", 4096);
  ASSERT_EQ(chmod(dir_.Path("").c_str(), 0755), 0);
  ASSERT_EQ(chmod(path.c_str(), 0444), 0);
  // Root may do anything: be somebody else for a moment.
  const uid_t user = geteuid();
  if (user == 0) {
    ASSERT_EQ(seteuid(65534), 0);
  }
  const std::string writing = ErrorOf({.filename = path});
  const std::string reading = ErrorOf({.filename = path}, {.read_only = true});
  ASSERT_EQ(seteuid(user), 0);
  EXPECT_THAT(writing, HasSubstr("Permission denied; run as a user who may write it"));
  EXPECT_EQ(reading, "");
}

TEST_F(FileTest, FollowsASymbolicLink) {
  ASSERT_EQ(symlink(dir_.MakeFile("disk.img", 4096).c_str(), dir_.Path("link").c_str()), 0);
  EXPECT_EQ((*Open({.filename = dir_.Path("link")}))->size(), 4096u);
}

// Locks.

TEST_F(FileTest, OneWriterOrManyReaders) {
  const std::string path = dir_.MakeFile("disk.img", 4096);
  {
    const auto writer = Open({.filename = path});
    ASSERT_TRUE(writer);
    EXPECT_THAT(ErrorOf({.filename = path}), HasSubstr("in use by another process"));
    EXPECT_THAT(ErrorOf({.filename = path}, {.read_only = true}), HasSubstr("in use by another"));
    EXPECT_EQ(ErrorOf({.filename = path, .locking = FileOptions::Locking::kOff}), "");
  }
  const auto reader = Open({.filename = path}, {.read_only = true});
  ASSERT_TRUE(reader) << "the writer's lock ended with it: " << reader.error().message;
  EXPECT_EQ(ErrorOf({.filename = path}, {.read_only = true}), "");
  EXPECT_THAT(ErrorOf({.filename = path, .locking = FileOptions::Locking::kOn}),
              HasSubstr("in use by another process"));
}

TEST_F(FileTest, KeepsOffAFileThatSomebodySharesWithNobody) {
  const std::string path = dir_.MakeFile("disk.img", 4096);
  // As QEMU says that it lets nobody read: a lock on byte 200.
  const UniqueFd other(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct flock byte {
    .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 200, .l_len = 1, .l_pid = 0
  };
  ASSERT_EQ(fcntl(other.get(), F_OFD_SETLK, &byte), 0);
  EXPECT_THAT(ErrorOf({.filename = path}, {.read_only = true}), HasSubstr("in use by another"));
  // And as others might, with exclusive locks.
  byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1, .l_pid = 0};
  const UniqueFd writer(open(path.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(fcntl(writer.get(), F_OFD_SETLK, &byte), 0);
  EXPECT_THAT(ErrorOf({.filename = path}), HasSubstr("in use by another"));
}

// Runs qemu-io's `command` on an image; gives its exit status and what it printed.
struct ToolResult {
  int status;
  std::string output;
};
ToolResult QemuIo(const std::string& flags, const std::string& path, const std::string& command) {
  const std::string line =
      fmt::format("timeout 20 qemu-io {} -f raw -c '{}' '{}' 2>&1", flags, command, path);
  FILE* pipe = popen(line.c_str(), "r");
  CHECK(pipe != nullptr);
  std::string output;
  for (std::array<char, 256> part; fgets(part.data(), part.size(), pipe) != nullptr;) {
    output += part.data();
  }
  return {WEXITSTATUS(pclose(pipe)), output};
}

TEST_F(FileTest, QemuAndWeKeepOffEachOthersImages) {
  const std::string path = dir_.MakeFile("disk.img", 1 << 20);
  {
    const auto writer = Open({.filename = path});
    ASSERT_TRUE(writer);
    EXPECT_THAT(QemuIo("", path, "read 0 512").output, HasSubstr("Failed to get"))
        << "we are writing";
    EXPECT_EQ(QemuIo("-r", path, "read 0 512").status, 0) << "qemu-io -r minds no writer";
  }
  {
    const auto reader = Open({.filename = path}, {.read_only = true});
    ASSERT_TRUE(reader);
    EXPECT_NE(QemuIo("", path, "write 0 512").status, 0) << "we are reading";
    EXPECT_EQ(QemuIo("-r", path, "read 0 512").status, 0);
  }
  EXPECT_EQ(QemuIo("", path, "write 0 512").status, 0);
}

// Both engines.

struct EngineCase {
  const char* name;
  FileOptions::Aio aio;
};
void PrintTo(const EngineCase& engine, std::ostream* out) { *out << engine.name; }

class FileEngineTest : public FileTest, public ::testing::WithParamInterface<EngineCase> {
 protected:
  std::unique_ptr<FileNode> OpenDisk(const std::string& path, const NodeOptions& node = {}) {
    auto opened = Open({.filename = path, .aio = GetParam().aio}, node);
    CHECK(opened.has_value());
    return std::move(*opened);
  }
};

INSTANTIATE_TEST_SUITE_P(Block, FileEngineTest,
                         ::testing::Values(EngineCase{"IoUring", FileOptions::Aio::kIoUring},
                                           EngineCase{"Threads", FileOptions::Aio::kThreads}),
                         [](const auto& test) { return test.param.name; });

TEST_P(FileEngineTest, QemuReadsWhatWeWriteAndWeReadWhatQemuWrites) {
  const std::string path = dir_.MakeFile("disk.img", 4 << 20);
  {
    const auto disk = OpenDisk(path, {.unmap = true});
    EXPECT_EQ(Write(*disk, 0, Buffer::Filled(1 << 20, 0xab)), IoStatus{});
    EXPECT_EQ(Await(disk->WriteZeroes(64 << 10, 64 << 10, false)), IoStatus{});
    EXPECT_EQ(Await(disk->Discard(256 << 10, 64 << 10)), IoStatus{});
    EXPECT_EQ(Write(*disk, 2 << 20, Buffer::Filled(512, 0xcd), /*fua=*/true), IoStatus{});
    EXPECT_EQ(Await(disk->Flush()), IoStatus{});
  }
  for (const char* expected : {"read -P 0xab 0 64k", "read -P 0 64k 64k", "read -P 0xab 128k 128k",
                               "read -P 0 256k 64k", "read -P 0xab 320k 704k", "read -P 0 1M 1M",
                               "read -P 0xcd 2M 512", "read -P 0 2097664 512"}) {
    const ToolResult result = QemuIo("", path, expected);
    EXPECT_EQ(result.status, 0) << result.output;
    EXPECT_THAT(result.output, ::testing::Not(HasSubstr("verification failed"))) << expected;
  }
  EXPECT_EQ(QemuIo("", path, "write -P 0x5a 3M 4k").status, 0);
  const auto disk = OpenDisk(path, {.read_only = true});
  EXPECT_EQ(Content(*disk, 3 << 20, 4096), Buffer::Filled(4096, 0x5a));
}

TEST_P(FileEngineTest, UnmappingGivesSpaceBack) {
  const std::string path = dir_.MakeFile("disk.img", 8 << 20);
  const auto blocks = [&] {
    struct stat status {};
    CHECK(stat(path.c_str(), &status) == 0);
    return status.st_blocks;
  };
  const auto disk = OpenDisk(path, {.unmap = true});
  EXPECT_TRUE(disk->limits().fast_zeroes);
  for (const bool discard : {false, true}) {
    EXPECT_EQ(Write(*disk, 0, Buffer::Filled(8 << 20, 1)), IoStatus{});
    EXPECT_EQ(Await(disk->Flush()), IoStatus{});
    const auto full = blocks();
    EXPECT_EQ(Await(disk->WriteZeroes(0, 4 << 20, false)), IoStatus{});
    EXPECT_GE(blocks(), full) << "zeroes without may_unmap keep their space";
    EXPECT_EQ(Await(discard ? disk->Discard(0, 4 << 20) : disk->WriteZeroes(0, 4 << 20, true)),
              IoStatus{});
    EXPECT_LE(blocks(), full - (4 << 20) / 512) << "discard " << discard;
  }
}

TEST_P(FileEngineTest, AFileThatShrankIsAMediaErrorPastItsEnd) {
  const std::string path = dir_.MakeFile("disk.img", 1 << 20);
  const auto disk = OpenDisk(path);
  ASSERT_EQ(truncate(path.c_str(), 8192), 0);
  EXPECT_EQ(Read(*disk, 4096, Buffer(4096)), IoStatus{});
  EXPECT_EQ(Read(*disk, 4096, Buffer(8192)), IoStatus{EIO}) << "half of it is gone";
  EXPECT_EQ(Read(*disk, 65536, Buffer(4096)), IoStatus{EIO});
  EXPECT_EQ(disk->errors(), 2u);
  EXPECT_EQ(disk->size(), 1u << 20);
}

TEST_P(FileEngineTest, MemoryThatIsGoneIsADmaError) {
  const auto disk = OpenDisk(dir_.MakeFile("disk.img", 1 << 20));
  void* gone = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(gone, MAP_FAILED);
  const Buffer there(4096);
  const iovec iov[] = {there.iov(), {gone, 4096}};
  EXPECT_EQ(Await(disk->Read(0, iov)), IoStatus{EFAULT});
  EXPECT_EQ(Await(disk->Write(0, iov, false)), IoStatus{EFAULT});
  EXPECT_EQ(Await(disk->Read(0, std::span(iov).last(1))), IoStatus{EFAULT});
  EXPECT_EQ(disk->errors(), 0u) << "the guest's affair, not the medium's";
  munmap(gone, 4096);
}

// A file system of `size` bytes that is mounted nowhere and ends with the test.
UniqueFd SmallFileSystem(const char* size) {
  const UniqueFd context(fsopen("tmpfs", FSOPEN_CLOEXEC));
  if (!context) return UniqueFd();
  CHECK(fsconfig(context.get(), FSCONFIG_SET_STRING, "size", size, 0) == 0);
  CHECK(fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
  return UniqueFd(fsmount(context.get(), FSMOUNT_CLOEXEC, 0));
}

TEST_P(FileEngineTest, AFullFileSystemIsNoSpace) {
  const UniqueFd mount = SmallFileSystem("1M");
  if (!mount) GTEST_SKIP() << "needs root, to make a small file system";
  const std::string path = fmt::format("/proc/self/fd/{}/disk.img", mount.get());
  {
    const UniqueFd file(openat(mount.get(), "disk.img", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(file.get(), 4 << 20), 0);
  }
  const auto disk = OpenDisk(path, {.unmap = true});
  const Buffer data = Buffer::Random(2 << 20, 1);
  EXPECT_EQ(Write(*disk, 0, data), IoStatus{ENOSPC});
  // tmpfs has no FALLOC_FL_ZERO_RANGE: these zeroes are written, and there is no room for them.
  EXPECT_EQ(Await(disk->WriteZeroes(2 << 20, 2 << 20, false)), IoStatus{ENOSPC});
  // What is given back can be used again.
  EXPECT_EQ(Await(disk->Discard(0, 4 << 20)), IoStatus{});
  EXPECT_EQ(Write(*disk, 3 << 20, Buffer::Filled(512 << 10, 7)), IoStatus{});
  EXPECT_EQ(Content(*disk, 3 << 20, 512 << 10), Buffer::Filled(512 << 10, 7));
}

TEST_P(FileEngineTest, MoreRequestsThanTheKernelTakesAtOnceWaitTheirTurn) {
  constexpr size_t kRequests = 2000;
  const auto disk = OpenDisk(dir_.MakeFile("disk.img", kRequests * 512));
  const Buffer data = Buffer::Random(kRequests * 512, 9);
  int failures = 0;
  for (size_t i = 0; i < kRequests; ++i) {
    scope_.Spawn([](BlockDevice& to, const Buffer& from, size_t sector, int& failed) -> Task<void> {
      const iovec iov = from.Part(sector * 512, 512);
      failed += !(co_await to.Write(sector * 512, {&iov, 1}, false)).ok();
    }(*disk, data, i, failures));
  }
  EXPECT_EQ(disk->in_flight(), kRequests);
  RunUntil([&] { return disk->in_flight() == 0; });
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(Content(*disk, 0, kRequests * 512), data);
}

// A block device over a file, which ends when its last user closes it. Empty where we may not.
std::string MakeLoopDevice(const std::string& path, UniqueFd& keep) {
  const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  const UniqueFd file(open(path.c_str(), O_RDWR | O_CLOEXEC));
  // Another test may take the one that is free.
  for (int attempt = 0; attempt < 100; ++attempt) {
    const int index = control ? ioctl(control.get(), LOOP_CTL_GET_FREE) : -1;
    if (index < 0) return "";
    std::string name = fmt::format("/dev/loop{}", index);
    keep.reset(open(name.c_str(), O_RDWR | O_CLOEXEC));
    loop_config config{};
    config.fd = static_cast<uint32_t>(file.get());
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
    if (keep && ioctl(keep.get(), LOOP_CONFIGURE, &config) == 0) return name;
    if (keep && errno != EBUSY) return "";
  }
  return "";
}

TEST_P(FileEngineTest, ABlockDeviceIsADisk) {
  UniqueFd keep;
  const std::string name = MakeLoopDevice(dir_.MakeFile("disk.img", 1 << 20), keep);
  if (name.empty()) GTEST_SKIP() << "needs root, to make a loop device";
  const auto disk = OpenDisk(name, {.unmap = true});
  EXPECT_EQ(disk->size(), 1u << 20);
  EXPECT_NE(disk->limits().discard_granularity, 0u);
  EXPECT_FALSE(disk->limits().discard_zeroes) << "not every device's does";
  const Buffer data = Buffer::Random(1 << 20, 1);
  EXPECT_EQ(Write(*disk, 0, data, /*fua=*/true), IoStatus{});
  EXPECT_EQ(Await(disk->WriteZeroes(4096, 65536, true)), IoStatus{});
  // Off the device's own sectors.
  EXPECT_EQ(Await(disk->WriteZeroes(200'000, 100, false)), IoStatus{});
  EXPECT_EQ(Await(disk->Discard((1 << 20) - 8192, 8192)), IoStatus{});
  EXPECT_EQ(Await(disk->Flush()), IoStatus{});
  Fill(data.bytes().subspan(4096, 65536), 0);
  Fill(data.bytes().subspan(200'000, 100), 0);
  const Buffer back = Content(*disk, 0, (1 << 20) - 8192);
  EXPECT_TRUE(std::ranges::equal(back.bytes(), data.bytes().first((1 << 20) - 8192)));
  EXPECT_THAT(ErrorOf({.filename = name}), HasSubstr("in use by another"));
}

TEST_P(FileEngineTest, HandsItsFlagsToTheKernel) {
  const std::string path = dir_.MakeFile("disk.img", 4096);
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  const bool threads = GetParam().aio == FileOptions::Aio::kThreads;
  auto engine = std::move(
      *(threads ? CreateThreadEngine(fd.get(), *loop_) : CreateUringEngine(fd.get(), *loop_)));
  const Buffer data(512);
  const auto write = [&](int flags) {
    return Await([](FileEngine& on, const Buffer& from, int with) -> Task<int> {
      const iovec iov = from.iov();
      co_return co_await on.Run(
          {.kind = FileOperation::Kind::kWrite, .flags = with, .iov = {&iov, 1}});
    }(*engine, data, flags));
  };
  EXPECT_EQ(write(RWF_DSYNC), 512);
  EXPECT_EQ(write(1 << 30), -EOPNOTSUPP) << "there is no such flag";
}

TEST_P(FileEngineTest, DirectRequestsObeyTheLimits) {
  const std::string path = dir_.MakeFile("disk.img", 1 << 20);
  auto opened = Open({.filename = path, .direct = true, .aio = GetParam().aio});
  ASSERT_TRUE(opened) << opened.error().message;
  FileNode& disk = **opened;
  EXPECT_GE(disk.limits().request_alignment, 512u);
  EXPECT_GE(disk.limits().memory_alignment, 512u);
  const Buffer data = Buffer::Random(8192, 1);
  EXPECT_EQ(Write(disk, 4096, data), IoStatus{});
  EXPECT_EQ(Content(disk, 4096, 8192), data);
  EXPECT_EQ(Read(disk, 256, data), IoStatus{EINVAL});
  EXPECT_EQ(Read(disk, 0, Buffer(256)), IoStatus{EINVAL});
  EXPECT_EQ(Read(disk, 0, Buffer(4096, /*misalignment=*/64)), IoStatus{EINVAL});
  EXPECT_EQ(disk.errors(), 0u) << "the kernel was not asked";
}

#ifndef FARSIDE_NO_FRAME_POOL
TEST_P(FileEngineTest, RequestsTakeNoHeapMemoryOnceWarm) {
  const auto disk = OpenDisk(dir_.MakeFile("disk.img", 1 << 20));
  const Buffer buffer(4096);
  uint64_t warm = 0;
  bool done = false;
  scope_.Spawn([](BlockDevice& at, const Buffer& memory, Loop& loop, uint64_t& allocations,
                  bool& finished) -> Task<void> {
    const iovec iov = memory.iov();
    for (int i = 0; i < 200; ++i) {
      // The first turns run before the loop's pool is in force.
      if (i == 100) allocations = loop.frames().heap_allocations();
      const IoStatus status = co_await at.Write(0, {&iov, 1}, false);
      CHECK(status.ok());
    }
    finished = true;
  }(*disk, buffer, *loop_, warm, done));
  RunUntil([&] { return done; });
  EXPECT_EQ(loop_->frames().heap_allocations(), warm);
}
#endif

// What kernels and file systems rarely do, done by an engine of the test's own.

class FakeEngine final : public FileEngine {
 public:
  using Call = std::function<int(const FileOperation&)>;
  FakeEngine(Loop& loop, Call call) : FileEngine(loop), call_(std::move(call)) {}

 private:
  void Submit(Pending& pending) override { pending.done.Set(call_(pending.operation)); }
  Call call_;
};

class FakeEngineTest : public FileTest {
 protected:
  std::unique_ptr<FileNode> OpenWith(FakeEngine::Call call, const NodeOptions& node = {}) {
    const auto factory = [&](int, EpollLoop& loop) -> Result<std::unique_ptr<FileEngine>> {
      return std::make_unique<FakeEngine>(loop, std::move(call));
    };
    auto opened = Open({.filename = path_, .make_uring = factory}, node);
    CHECK(opened.has_value());
    return std::move(*opened);
  }

  static constexpr size_t kSize = 1 << 20;
  const std::string path_ = dir_.MakeFile("disk.img", kSize);
};

TEST_F(FakeEngineTest, GoesOnAfterShortTransfersAndInterruptions) {
  std::vector<std::byte> medium(kSize);
  int calls = 0;
  const auto disk = OpenWith([&](const FileOperation& operation) -> int {
    if (++calls % 3 == 0) return calls % 2 == 0 ? -EINTR : -EAGAIN;
    // At most 700 bytes, wherever that ends.
    size_t done = 0;
    for (const iovec& part : operation.iov) {
      const size_t count = std::min<size_t>(part.iov_len, 700 - done);
      std::byte* at = medium.data() + operation.offset + done;
      auto* memory = static_cast<std::byte*>(part.iov_base);
      if (operation.kind == FileOperation::Kind::kRead) {
        std::copy_n(at, count, memory);
      } else {
        std::copy_n(memory, count, at);
      }
      done += count;
    }
    return static_cast<int>(done);
  });
  const Buffer data = Buffer::Random(8192, 1);
  const iovec out[] = {data.Part(0, 100), data.Part(100, 0), data.Part(100, 600),
                       data.Part(700, 3000), data.Part(3700, 4492)};
  EXPECT_EQ(Await(disk->Write(512, out, false)), IoStatus{});
  EXPECT_EQ(Content(*disk, 512, 8192), data);
}

TEST_F(FakeEngineTest, AnEndlessInterruptionIsAnError) {
  const auto disk = OpenWith([](const FileOperation&) { return -EINTR; }, {.unmap = true});
  EXPECT_EQ(Read(*disk, 0, Buffer(512)), IoStatus{EIO});
  EXPECT_EQ(Await(disk->Flush()), IoStatus{EIO});
  EXPECT_EQ(Await(disk->Discard(0, 512)), IoStatus{EIO});
}

TEST_F(FakeEngineTest, AFlushThatFailedStaysFailed) {
  int flushes = 0;
  const auto disk = OpenWith([&](const FileOperation&) { return ++flushes == 1 ? -EIO : 0; });
  EXPECT_EQ(Await(disk->Flush()), IoStatus{EIO});
  EXPECT_EQ(Await(disk->Flush()), IoStatus{EIO}) << "the kernel dropped what it could not write";
}

TEST_F(FakeEngineTest, AForcedWriteThatFailedFailsLaterFlushes) {
  const auto disk = OpenWith([](const FileOperation& operation) {
    return operation.kind == FileOperation::Kind::kWrite && operation.flags == RWF_DSYNC ? -EIO : 0;
  });
  EXPECT_EQ(Await(disk->Flush()), IoStatus{});
  EXPECT_EQ(Write(*disk, 0, Buffer(512), /*fua=*/true), IoStatus{EIO});
  EXPECT_EQ(Await(disk->Flush()), IoStatus{EIO});
}

TEST_F(FakeEngineTest, WritesZeroesItselfWhereTheFileSystemCannot) {
  std::vector<FileOperation::Kind> kinds;
  uint64_t next = 1536;
  uint64_t nonzero = 0;
  const auto disk = OpenWith(
      [&](const FileOperation& operation) -> int {
        kinds.push_back(operation.kind);
        if (operation.kind == FileOperation::Kind::kAllocate) return -EOPNOTSUPP;
        EXPECT_EQ(operation.offset, next);
        for (const iovec& part : operation.iov) {
          const auto* bytes = static_cast<const char*>(part.iov_base);
          nonzero += part.iov_len - static_cast<size_t>(std::count(bytes, bytes + part.iov_len, 0));
        }
        next += IovecSize(operation.iov);
        return static_cast<int>(IovecSize(operation.iov));
      },
      {.unmap = true});
  using Kind = FileOperation::Kind;
  EXPECT_EQ(Await(disk->WriteZeroes(1536, 300 << 10, true)), IoStatus{});
  EXPECT_EQ(next, 1536u + (300 << 10));
  EXPECT_EQ(nonzero, 0u);
  // Two ways were tried, then four whole buffers and the rest of one were written.
  EXPECT_THAT(kinds,
              ::testing::ElementsAre(Kind::kAllocate, Kind::kAllocate, Kind::kWrite, Kind::kWrite));
  kinds.clear();
  next = 0;
  EXPECT_EQ(Await(disk->WriteZeroes(0, 4096, true)), IoStatus{});
  EXPECT_EQ(Await(disk->Discard(0, 4096)), IoStatus{});
  EXPECT_THAT(kinds, ::testing::ElementsAre(Kind::kWrite)) << "the two ways are not tried again";
}

TEST_F(FakeEngineTest, NamesOfErrnosThatAreNotTheGuests) {
  int error = 0;
  const auto disk = OpenWith([&](const FileOperation&) { return -error; });
  const std::pair<int, int> cases[] = {{ENOSPC, ENOSPC}, {EDQUOT, ENOSPC}, {EFBIG, ENOSPC},
                                       {EIO, EIO},       {EINVAL, EIO},    {ENOMEM, EIO},
                                       {EFAULT, EFAULT}};
  for (const auto& [kernel, expected] : cases) {
    error = kernel;
    EXPECT_EQ(Write(*disk, 0, Buffer(512)), IoStatus{expected}) << ErrnoText(kernel);
  }
}

// Where io_uring is refused.

FileEngineFactory Refusing() {
  return [](int, EpollLoop&) -> Result<std::unique_ptr<FileEngine>> {
    return FailWith(EPERM, "io_uring is refused: {}", ErrnoText(EPERM));
  };
}

TEST_F(FileTest, UsesThreadsWhereIoUringIsRefused) {
  ::testing::internal::CaptureStderr();
  const auto disk =
      Open({.filename = dir_.MakeFile("disk.img", 1 << 20), .make_uring = Refusing()});
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("disk: io_uring is refused: Operation not permitted; using threads"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1);
  ASSERT_TRUE(disk);
  const Buffer data = Buffer::Random(4096, 1);
  EXPECT_EQ(Write(**disk, 0, data), IoStatus{});
  EXPECT_EQ(Content(**disk, 0, 4096), data);
}

TEST_F(FileTest, IoUringThatWasAskedForIsNotReplaced) {
  EXPECT_THAT(ErrorOf({.filename = dir_.MakeFile("disk.img", 1 << 20),
                       .aio = FileOptions::Aio::kIoUring,
                       .make_uring = Refusing()}),
              HasSubstr("use aio=threads, or allow it"));
}

TEST_F(FileTest, LogsErrorsMoreAndMoreRarely) {
  const std::string path = dir_.MakeFile("disk.img", 1 << 20);
  const auto disk = Open({.filename = path});
  ASSERT_TRUE(disk);
  ASSERT_EQ(truncate(path.c_str(), 512), 0);
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Read(**disk, 4096, Buffer(512)), IoStatus{EIO});
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("read at offset 0x1000 failed: the file has become shorter"));
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 7) << "errors 1, 2, 4, ... 64";
  EXPECT_EQ((*disk)->errors(), 100u);
}

}  // namespace
}  // namespace farside::block
