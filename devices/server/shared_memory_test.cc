#include "devices/server/shared_memory.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "devices/server/test_support.h"

namespace farside {
namespace {

constexpr std::string_view kOther =
    "55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]\n"
    "7f0000000000-7f0000001000 r--p 00000000 08:01 1234                       /usr/lib/libc.so.6\n";

Sharing Find(const std::string& lines) {
  return FindSharingIn(std::string(kOther) + lines, makedev(0, 1), 1234);
}

TEST(FindSharingInTest, OneSharedMappingIsEnough) {
  EXPECT_EQ(Find("7f10-7f20 rw-s 00000000 00:01 1234    /memfd:ram (deleted)\n"), Sharing::kShared);
  EXPECT_EQ(Find("7f10-7f20 r--p 00000000 00:01 1234    /memfd:ram (deleted)\n"
                 "7f20-7f30 rw-s 00001000 00:01 1234    /memfd:ram (deleted)\n"),
            Sharing::kShared);
}

TEST(FindSharingInTest, OnlyPrivateMappingsArePrivate) {
  EXPECT_EQ(Find("7f10-7f20 rw-p 00000000 00:01 1234    /memfd:ram (deleted)\n"),
            Sharing::kPrivate);
  EXPECT_EQ(Find("7f10-7f20 rw-p 00000000 00:01 1234"), Sharing::kPrivate) << "without a newline";
}

TEST(FindSharingInTest, FilesOfAnotherDeviceOrInodeAreOthers) {
  EXPECT_EQ(Find(""), Sharing::kShared) << "not mapped yet: nothing speaks against it";
  EXPECT_EQ(Find("7f10-7f20 rw-p 00000000 00:01 12345   /memfd:ram (deleted)\n"), Sharing::kShared);
  EXPECT_EQ(Find("7f10-7f20 rw-p 00000000 00:10 1234    /memfd:ram (deleted)\n"), Sharing::kShared);
  EXPECT_EQ(FindSharingIn("7f10-7f20 rw-p 00000000 fe:1a3 77 /disk\n", makedev(0xfe, 0x1a3), 77),
            Sharing::kPrivate);
}

TEST(FindSharingInTest, TextThatIsNoMapIsReadInVain) {
  EXPECT_EQ(Find("\n\n   \n1 2 3\n7f10-7f20 rw 0 00:01 1234\n"), Sharing::kShared);
  EXPECT_EQ(FindSharingIn("", makedev(0, 1), 1), Sharing::kShared);
}

TEST(FindSharingTest, ThisProcessIsLookedAtAsItIs) {
  const UniqueFd fd = MakeMemfd("guest", kPage).value();
  EXPECT_EQ(FindSharing(getpid(), fd.get()), Sharing::kShared) << "not mapped";
  void* const private_map = mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  EXPECT_EQ(FindSharing(getpid(), fd.get()), Sharing::kPrivate);
  {
    const auto shared = Mapping::Map(fd.get(), 0, kPage, PROT_READ).value();
    EXPECT_EQ(FindSharing(getpid(), fd.get()), Sharing::kShared);
  }
  EXPECT_EQ(FindSharing(getpid(), fd.get()), Sharing::kPrivate);
  EXPECT_EQ(munmap(private_map, kPage), 0);
}

TEST(FindSharingTest, AChildWithPrivateMemoryIsFoundOut) {
  const UniqueFd fd = MakeMemfd("guest", kPage).value();
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const void* map = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0);
    char byte = map == MAP_FAILED ? 'x' : 'm';
    if (write(ready[1], &byte, 1) == 1) pause();
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'm');
  EXPECT_EQ(FindSharing(child, fd.get()), Sharing::kPrivate);
  kill(child, SIGKILL);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(FindSharing(child, fd.get()), Sharing::kUnknown) << "no such process";
  close(ready[0]);
  close(ready[1]);
}

}  // namespace
}  // namespace farside
