// What the tests of this folder share.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/epoll_loop.h"
#include "base/random.h"
#include "block/block_device.h"

namespace farside::block {

// A directory that is removed with all that is in it.
class TempDir {
 public:
  TempDir() {
    std::string path = ::testing::TempDir() + "farside-block-XXXXXX";
    CHECK(mkdtemp(path.data()) != nullptr);
    path_ = path;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }

  std::string Path(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Makes a file of `size` zeroes and gives its path.
  std::string MakeFile(std::string_view name, uint64_t size) const {
    const UniqueFd fd(open(Path(name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    CHECK(fd && ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
    return Path(name);
  }

 private:
  std::string path_;
};

// Memory of a request, page-aligned plus `misalignment`.
class Buffer {
 public:
  explicit Buffer(size_t size, size_t misalignment = 0)
      : memory_(
            static_cast<std::byte*>(aligned_alloc(4096, (size + misalignment + 4095) & ~4095ul))),
        bytes_(memory_.get() + misalignment, size) {}

  static Buffer Filled(size_t size, uint8_t value, size_t misalignment = 0) {
    Buffer buffer(size, misalignment);
    Fill(buffer.bytes_, value);
    return buffer;
  }
  static Buffer Random(size_t size, uint64_t seed, size_t misalignment = 0) {
    Buffer buffer(size, misalignment);
    farside::Random random(seed);
    for (std::byte& byte : buffer.bytes_) byte = static_cast<std::byte>(random.Next());
    return buffer;
  }

  Bytes bytes() const { return bytes_; }
  iovec iov() const { return {bytes_.data(), bytes_.size()}; }
  iovec Part(size_t offset, size_t size) const { return {bytes_.data() + offset, size}; }

  friend bool operator==(const Buffer& a, const Buffer& b) {
    return std::equal(a.bytes_.begin(), a.bytes_.end(), b.bytes_.begin(), b.bytes_.end());
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  Bytes bytes_;
};

// One loop, and blocking forms of the requests.
class BlockTest : public ::testing::Test {
 protected:
  // Runs the loop until `task` has ended.
  template <typename T>
  T Await(Task<T> task) {
    std::optional<T> result;
    scope_.Spawn(Store(std::move(task), result));
    RunUntil([&] { return result.has_value(); });
    return std::move(*result);
  }

  template <typename Condition>
  void RunUntil(Condition condition) {
    const uint64_t deadline = clock_.now_ns() + 20'000'000'000;
    for (;;) {
      loop_->RunUntilIdle();
      if (condition()) return;
      CHECK(clock_.now_ns() < deadline);
      loop_->RunOnce(1000);
    }
  }

  IoStatus Write(BlockDevice& disk, uint64_t offset, const Buffer& buffer, bool fua = false) {
    const iovec iov = buffer.iov();
    return Await(disk.Write(offset, {&iov, 1}, fua));
  }

  IoStatus Read(BlockDevice& disk, uint64_t offset, const Buffer& buffer) {
    const iovec iov = buffer.iov();
    return Await(disk.Read(offset, {&iov, 1}));
  }

  // What the disk holds; the read must succeed.
  Buffer Content(BlockDevice& disk, uint64_t offset, size_t size) {
    Buffer buffer = Buffer::Filled(size, 0xee);
    EXPECT_EQ(Read(disk, offset, buffer), IoStatus{});
    return buffer;
  }

  // Of the random requests in a test: --gtest_random_seed.
  static uint64_t Seed() {
    return static_cast<uint64_t>(::testing::UnitTest::GetInstance()->random_seed());
  }

  TempDir dir_;
  MonotonicClock clock_;
  std::unique_ptr<EpollLoop> loop_ = std::move(*EpollLoop::Create(clock_));
  TaskScope scope_;

 private:
  template <typename T>
  static Task<void> Store(Task<T> task, std::optional<T>& result) {
    result.emplace(co_await task);
  }
};

}  // namespace farside::block
