#include "vmm-lite/machine/guest_ram.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;

std::unique_ptr<GuestRam> MakeRam(uint64_t size) {
  auto ram = GuestRam::Create(size);
  EXPECT_TRUE(ram) << ram.error().message;
  return std::move(*ram);
}

TEST(GuestRam, LiesInOneBlockBelowTheHole) {
  const auto ram = MakeRam(16 * kMiB);
  ASSERT_EQ(ram->blocks().size(), 1u);
  EXPECT_EQ(ram->blocks()[0].gpa, 0u);
  EXPECT_EQ(ram->blocks()[0].size, 16 * kMiB);
  EXPECT_EQ(ram->size(), 16 * kMiB);
  struct stat status = {};
  ASSERT_EQ(fstat(ram->fd(), &status), 0);
  EXPECT_EQ(status.st_size, 16 << 20);
}

TEST(GuestRam, ContinuesAbove4GiB) {
  const auto ram = GuestRam::Create(kLowRamEnd + kMiB);
  ASSERT_TRUE(ram) << ram.error().message;
  const auto blocks = (*ram)->blocks();
  ASSERT_EQ(blocks.size(), 2u);
  EXPECT_EQ(blocks[0].size, kLowRamEnd);
  EXPECT_EQ(blocks[1].gpa, kHighRamStart);
  EXPECT_EQ(blocks[1].size, kMiB);
  EXPECT_EQ(blocks[1].file_offset, kLowRamEnd);
  EXPECT_EQ(blocks[1].host, blocks[0].host + kLowRamEnd);
  // Neighbours in the file, not for the guest.
  EXPECT_TRUE((*ram)->Find(kLowRamEnd - 8, 16).empty());
  EXPECT_TRUE((*ram)->Find(kHighRamStart - 8, 16).empty());
  EXPECT_EQ((*ram)->Find(kHighRamStart, kMiB).size(), kMiB);
  const std::array<std::byte, 2> two{std::byte{0x5a}, std::byte{0xa5}};
  ASSERT_TRUE((*ram)->Write(kHighRamStart, two));
  std::array<std::byte, 2> in_file{};
  ASSERT_EQ(pread((*ram)->fd(), in_file.data(), 2, static_cast<off_t>(kLowRamEnd)), 2);
  EXPECT_EQ(in_file, two);
}

TEST(GuestRam, AnswersDmaOutsideWithEfault) {
  const auto ram = MakeRam(16 * kMiB);
  std::array<std::byte, 8> bytes{std::byte{1}, std::byte{2}};
  EXPECT_EQ(ram->OnDmaWrite(16 * kMiB - 8, bytes), 0);
  std::array<std::byte, 8> back{};
  EXPECT_EQ(ram->OnDmaRead(16 * kMiB - 8, back), 0);
  EXPECT_EQ(back, bytes);
  for (const uint64_t gpa : {16 * kMiB - 7, 16 * kMiB, kHighRamStart, UINT64_MAX - 3}) {
    EXPECT_EQ(ram->OnDmaWrite(gpa, bytes), EFAULT) << gpa;
    EXPECT_EQ(ram->OnDmaRead(gpa, back), EFAULT) << gpa;
  }
  EXPECT_TRUE(ram->Find(0, UINT64_MAX).empty());
}

TEST(GuestRam, DiscardLeavesZeroes) {
  const auto ram = MakeRam(16 * kMiB);
  const std::array<std::byte, 1> one{std::byte{1}};
  ASSERT_TRUE(ram->Write(kMiB, one));
  ram->Discard();
  std::array<std::byte, 1> back{std::byte{9}};
  ASSERT_TRUE(ram->Read(kMiB, back));
  EXPECT_EQ(back[0], std::byte{0});
}

TEST(GuestRam, CannotBeShrunk) {
  const auto ram = MakeRam(16 * kMiB);
  EXPECT_EQ(ftruncate(ram->fd(), 4096), -1);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(ftruncate(ram->fd(), 32 << 20), -1);
}

TEST(GuestRam, RefusesSizesBySentence) {
  for (const uint64_t size : {uint64_t{0}, 15 * kMiB, 16 * kMiB + 4096}) {
    const auto ram = GuestRam::Create(size);
    ASSERT_FALSE(ram);
    EXPECT_NE(ram.error().message.find("multiple of 1 MiB"), std::string::npos);
  }
  const auto ram = GuestRam::Create(uint64_t{1} << 50);
  ASSERT_FALSE(ram);
  EXPECT_NE(ram.error().message.find("smaller -m"), std::string::npos);
}

TEST(Layout, WiresPinsAsTheOtherPcDoes) {
  EXPECT_EQ(PirqOf(1, 0), 0u);
  EXPECT_EQ(PirqOf(2, 0), 1u);
  EXPECT_EQ(PirqOf(0, 0), 3u);
  EXPECT_EQ(PirqOf(4, 3), 2u);
}

}  // namespace
}  // namespace farside::vmm
