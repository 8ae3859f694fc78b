#include "harness/host/guest_memory.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/fake_server.h"
#include "protocol/vfio_user_client.h"

namespace farside {
namespace {

using testing::HasSubstr;
using vfio_user::FakeServer;
using vfio_user::VfioUserClient;

constexpr uint64_t kPage = GuestMemory::kPageSize;

// Two ranges that touch, one apart that the device may only read.
std::unique_ptr<GuestMemory> MakeMemory(Reach reach = Reach::kMessage) {
  const MemoryRange ranges[] = {{0x10'0000, 4 * kPage, false}, {kPage, kPage}, {0, kPage}};
  return GuestMemory::Create(ranges, reach).value();
}

TEST(GuestMemoryTest, ReadsAndWritesAcrossRangesThatTouch) {
  const auto memory = MakeMemory();
  const ByteVector data = Counting(100);
  ASSERT_TRUE(memory->Write(kPage - 50, data));
  ByteVector back(100);
  ASSERT_TRUE(memory->Read(kPage - 50, back));
  EXPECT_EQ(back, data);
  EXPECT_EQ(memory->Load<uint32_t>(kPage).value(), 0x35343332u);
}

TEST(GuestMemoryTest, SaysWhereThereIsNoMemoryAndWritesNothing) {
  const auto memory = MakeMemory();
  const ByteVector data = Counting(100);
  for (const uint64_t iova : {2 * kPage - 99, 2 * kPage, 0x10'0000 - uint64_t{1}, UINT64_MAX}) {
    const auto written = memory->Write(iova, data);
    ASSERT_FALSE(written) << iova;
    EXPECT_THAT(written.error().message, HasSubstr(fmt::format("{:#x}", iova)));
  }
  EXPECT_EQ(memory->Load<uint8_t>(2 * kPage - 1).value(), 0);
  EXPECT_FALSE(memory->Load<uint32_t>(2)) << "not aligned";
  EXPECT_FALSE(memory->Store<uint64_t>(2 * kPage, 1));
  EXPECT_FALSE(memory->Fill(0, UINT64_MAX, 1));
}

TEST(GuestMemoryTest, ComparesAndDigests) {
  const auto memory = MakeMemory();
  const ByteVector data = Counting(2 * kPage);
  ASSERT_TRUE(memory->Write(0, data));
  EXPECT_EQ(memory->Compare(0, data).value(), std::nullopt);
  const uint64_t digest = memory->Digest(0, 2 * kPage).value();
  const uint64_t all = memory->DigestAll();
  ASSERT_TRUE(memory->Store<uint8_t>(kPage + 3, 0xee));
  EXPECT_EQ(memory->Compare(0, data).value(), kPage + 3);
  EXPECT_NE(memory->Digest(0, 2 * kPage).value(), digest);
  EXPECT_NE(memory->DigestAll(), all);
  ASSERT_TRUE(memory->Write(0, data));
  EXPECT_EQ(memory->DigestAll(), all);
  EXPECT_NE(memory->Digest(0, 8).value(), memory->Digest(0, 9).value());
}

TEST(GuestMemoryTest, AllocatesZeroedPagesAndTakesThemBack) {
  const auto memory = MakeMemory();
  ASSERT_TRUE(memory->Fill(0, 2 * kPage, 0xff));
  EXPECT_EQ(memory->Allocate(1).value(), 0u);
  EXPECT_EQ(memory->Load<uint64_t>(0).value(), 0u);
  EXPECT_EQ(memory->Allocate(kPage).value(), kPage);
  const auto none = memory->Allocate(1);
  ASSERT_FALSE(none) << "the device can't write the third range";
  EXPECT_EQ(none.error().code, ENOMEM);
  memory->Free(kPage, kPage);
  memory->Free(0, 1);
  EXPECT_FALSE(memory->Allocate(2 * kPage)) << "one piece lies in one range";
  EXPECT_EQ(memory->Allocate(kPage).value(), 0u);
}

TEST(GuestMemoryTest, KeepsReservedPagesFromTheAllocator) {
  const MemoryRange range{0, 8 * kPage};
  const auto memory = GuestMemory::Create(std::span(&range, 1), Reach::kFd).value();
  memory->Reserve(kPage + 1, 10);
  memory->Reserve(3 * kPage, 2 * kPage);
  EXPECT_EQ(memory->Allocate(2 * kPage).value(), 5 * kPage);
  EXPECT_EQ(memory->Allocate(1).value(), 0u);
  EXPECT_EQ(memory->Allocate(1).value(), 2 * kPage);
  EXPECT_EQ(memory->Allocate(1).value(), 7 * kPage);
  EXPECT_FALSE(memory->Allocate(1));
}

TEST(GuestMemoryTest, RefusesRangesThatAreNone) {
  const std::vector<MemoryRange> cases[] = {
      {{0, 0}},
      {{0, 100}},
      {{1, kPage}},
      {{UINT64_MAX - kPage + 1, 2 * kPage}},
      {{0, 2 * kPage}, {kPage, kPage}},
      {{0, kPage}, {0, kPage}},
  };
  for (const auto& ranges : cases) EXPECT_FALSE(GuestMemory::Create(ranges, Reach::kFd));
}

TEST(GuestMemoryTest, IsMappedByFdOrByMessage) {
  for (const Reach reach : {Reach::kFd, Reach::kMessage}) {
    size_t fds = 0;
    std::vector<uint32_t> flags;
    FakeServer server([&](FakeServer&, vfio_user::Frame& frame) {
      if (frame.command() != vfio_user::Command::kDmaMap) return false;
      fds += frame.fds.size();
      flags.push_back(LoadLe<uint32_t>(frame.payload.subspan(4)));
      return false;
    });
    const auto memory = MakeMemory(reach);
    {
      const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, memory.get()).value();
      EXPECT_TRUE(memory->MapTo(*client));
      EXPECT_TRUE(memory->UnmapFrom(*client));
    }
    server.Join();
    EXPECT_EQ(fds, reach == Reach::kFd ? 3u : 0u);
    EXPECT_EQ(flags, (std::vector<uint32_t>{3, 3, 1}));
  }
}

TEST(GuestMemoryTest, AnswersTheDevicesMessages) {
  const auto memory = MakeMemory();
  ASSERT_TRUE(memory->Write(kPage - 4, Counting(8)));
  FakeServer server([](FakeServer& self, vfio_user::Frame& frame) {
    if (frame.is_reply() || frame.command() != vfio_user::Command::kDeviceReset) return false;
    self.Ask(1, vfio_user::Command::kDmaRead, vfio_user::DmaAccess{kPage - 4, 8});
    self.Ask(2, vfio_user::Command::kDmaWrite, vfio_user::DmaAccess{16, 4}, 0xfeed'f00d);
    self.Ask(3, vfio_user::Command::kDmaWrite, vfio_user::DmaAccess{0x10'0000, 4}, 0);
    return false;
  });
  {
    const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, memory.get()).value();
    ASSERT_TRUE(memory->MapTo(*client));
    ASSERT_TRUE(client->Reset());
    ASSERT_TRUE(client->GetInfo());
  }
  server.Join();
  EXPECT_EQ(memory->Load<uint32_t>(16).value(), 0xfeed'f00du);
  ASSERT_EQ(server.dma_data.size(), 3u);
  EXPECT_EQ(server.dma_data[0], Pack(vfio_user::DmaAccess{kPage - 4, 8}, Counting(8)));
  EXPECT_EQ(server.dma_headers[2].error, static_cast<uint32_t>(EFAULT));
}

}  // namespace
}  // namespace farside
