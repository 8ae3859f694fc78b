// The ring of the io_uring engine can do what it is for and nothing else.
#include "block/file_engine_uring.h"

#include <gmock/gmock.h>

#include <cerrno>
#include <functional>

#include "block/test_support.h"

namespace farside::block {
namespace {

using ::testing::HasSubstr;

class RestrictedRingTest : public BlockTest {
 protected:
  // Submits one entry and gives its result.
  int Submit(const std::function<void(io_uring_sqe*)>& prepare) {
    io_uring& ring = ring_->get();
    io_uring_sqe* sqe = io_uring_get_sqe(&ring);
    prepare(sqe);
    EXPECT_EQ(io_uring_submit(&ring), 1);
    io_uring_cqe* cqe = nullptr;
    EXPECT_EQ(io_uring_wait_cqe(&ring, &cqe), 0);
    const int result = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    return result;
  }

  const std::string path_ = dir_.MakeFile("disk.img", 4096);
  const UniqueFd fd_{open(path_.c_str(), O_RDWR | O_CLOEXEC)};
  std::unique_ptr<RestrictedRing> ring_ = std::move(*RestrictedRing::Create(fd_.get(), 8));
  char buffer_[512] = {};
};

TEST_F(RestrictedRingTest, AllowsReadsAndWritesOfItsFile) {
  const auto write = [&](io_uring_sqe* sqe) {
    io_uring_prep_write(sqe, 0, "hello", 5, 10);
    sqe->flags |= IOSQE_FIXED_FILE;
  };
  EXPECT_EQ(Submit(write), 5);
  const auto read = [&](io_uring_sqe* sqe) {
    io_uring_prep_read(sqe, 0, buffer_, 5, 10);
    sqe->flags |= IOSQE_FIXED_FILE;
  };
  EXPECT_EQ(Submit(read), 5);
  EXPECT_STREQ(buffer_, "hello");
}

TEST_F(RestrictedRingTest, RefusesEveryOtherOpcode) {
  for (int opcode = 0; opcode < IORING_OP_LAST; ++opcode) {
    switch (opcode) {
      case IORING_OP_READ:
      case IORING_OP_READV:
      case IORING_OP_WRITE:
      case IORING_OP_WRITEV:
      case IORING_OP_FSYNC:
      case IORING_OP_FALLOCATE:
        continue;
    }
    const auto prepare = [&](io_uring_sqe* sqe) {
      io_uring_prep_rw(opcode, sqe, 0, nullptr, 0, 0);
      sqe->flags |= IOSQE_FIXED_FILE;
    };
    EXPECT_EQ(Submit(prepare), -EACCES) << "opcode " << opcode;
  }
}

TEST_F(RestrictedRingTest, RefusesToOpenAFile) {
  const auto prepare = [&](io_uring_sqe* sqe) {
    io_uring_prep_openat(sqe, AT_FDCWD, path_.c_str(), O_RDONLY, 0);
  };
  EXPECT_EQ(Submit(prepare), -EACCES);
}

TEST_F(RestrictedRingTest, RefusesAnyFileThatIsNotRegistered) {
  const auto prepare = [&](io_uring_sqe* sqe) {
    io_uring_prep_read(sqe, fd_.get(), buffer_, 5, 0);
  };
  EXPECT_EQ(Submit(prepare), -EACCES) << "a plain descriptor, even of the same file";
  const auto other = [&](io_uring_sqe* sqe) {
    io_uring_prep_read(sqe, 1, buffer_, 5, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
  };
  EXPECT_EQ(Submit(other), -EBADF) << "there is no second registered file";
}

TEST_F(RestrictedRingTest, RefusesFurtherRegistration) {
  const int fd = fd_.get();
  EXPECT_EQ(io_uring_register_files_update(&ring_->get(), 0, &fd, 1), -EACCES);
  EXPECT_EQ(io_uring_register_eventfd(&ring_->get(), fd), -EACCES);
  EXPECT_EQ(io_uring_unregister_files(&ring_->get()), -EACCES);
}

TEST_F(RestrictedRingTest, WhereItCannotBeMadeThereIsNoEngine) {
  constexpr int kNoFile = 100'000;
  const auto engine = CreateUringEngine(kNoFile, *loop_);
  ASSERT_FALSE(engine);
  EXPECT_EQ(engine.error().code, EBADF);
  EXPECT_THAT(engine.error().message, HasSubstr("io_uring cannot be restricted"));
}

}  // namespace
}  // namespace farside::block
