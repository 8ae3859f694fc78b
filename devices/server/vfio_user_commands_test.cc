// Each command of the protocol: what it answers, and what it answers to a client that gets it
// wrong.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::Each;
using testing::ElementsAre;
using vfio_user::Command;
using vfio_user::RegionAccess;
using vfio_user::WriteMultiEntry;

class CommandsTest : public testing::Test {
 protected:
  // The errno of `command` with each payload size up to `most` but the lawful ones.
  void ExpectSizesRefused(Command command, const ByteVector& payload, std::vector<size_t> lawful) {
    for (size_t size = 0; size <= payload.size() + 8; ++size) {
      if (std::ranges::count(lawful, size) != 0) continue;
      ByteVector resized = payload;
      resized.resize(size);
      EXPECT_EQ(client_->ErrorOf(command, resized), EINVAL) << size << " bytes";
    }
  }
  template <typename T>
  T Get(Command command, uint32_t argsz, uint32_t index) {
    T ask{};
    ask.argsz = argsz;
    if constexpr (requires { ask.index; }) ask.index = index;
    return client_->Call(command, Pack(ask)).template Get<T>();
  }
  int RegionError(Command command, uint64_t offset, uint32_t region, uint32_t count,
                  const ByteVector& data = {}) {
    const RegionAccess access{.offset = offset, .region = region, .count = count};
    return client_->ErrorOf(command, Pack(access, data));
  }
  uint64_t dropped() { return bench_.server().counters().dropped_accesses; }
  FakeDevice& device() { return bench_.device(); }

  Bench bench_;
  std::unique_ptr<RawClient> client_ = bench_.ConnectReady();
};

// --- VERSION.

class VersionTest : public testing::Test {
 protected:
  static std::string JsonOf(const Received& reply) {
    const auto* text = reinterpret_cast<const char*>(reply.payload.data());
    if (reply.payload.size() < 5 || text[reply.payload.size() - 1] != '\0') return "";
    return {text + 4, reply.payload.size() - 5};
  }

  Bench bench_;
  std::unique_ptr<RawClient> client_ = bench_.Connect();
};

TEST_F(VersionTest, TheServerAnswersWithItsCapabilitiesAmongThoseOffered) {
  const Received reply = client_->Version(
      R"({"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,"pgsizes":4096}})", 7);
  EXPECT_EQ(reply.Get<vfio_user::Version>().major, 0);
  EXPECT_EQ(reply.Get<vfio_user::Version>().minor, 2);
  EXPECT_EQ(JsonOf(reply),
            R"({"capabilities":{"max_data_xfer_size":65536,"max_msg_fds":16,"pgsizes":4096}})");
}

TEST_F(VersionTest, OtherProtocolsAreRefusedAndTheChannelEnds) {
  const auto id = client_->Send(Command::kVersion,
                                Pack(vfio_user::Version{.major = 1, .minor = 0}, ByteVector(1)));
  EXPECT_EQ(client_->Await(id).error(), EINVAL);
  EXPECT_TRUE(client_->Closed());
}

TEST_F(VersionTest, BadJsonIsRefusedAndTheChannelEnds) {
  std::string deep(2000, '[');
  for (const std::string& json :
       {std::string("{"), std::string("[]"), std::string("7"), std::string("nonsense"),
        std::string(R"({"capabilities":[]})"), std::string(R"({"capabilities":{"pgsizes":"x"}})"),
        std::string(R"({"capabilities":{"max_msg_fds":-1}})"),
        std::string(R"({"capabilities":{"max_data_xfer_size":1e400}})"),
        std::string(R"({"capabilities":{"max_data_xfer_size":0}})"), "{\"a\":" + deep}) {
    client_->Close();
    bench_.Settle();
    client_ = bench_.Connect();
    ASSERT_NE(client_, nullptr);
    EXPECT_EQ(client_->Version(json).error(), EINVAL) << json;
    EXPECT_TRUE(client_->Closed()) << json;
  }
}

TEST_F(VersionTest, TextsWithoutOrBehindTheirTerminatorAreRefused) {
  for (const std::string_view text : {std::string_view("{}", 2), std::string_view("{}\0{}\0", 6),
                                      std::string_view("{}\0\0", 4)}) {
    const auto id = client_->Send(Command::kVersion, Pack(vfio_user::Version{}, text));
    EXPECT_EQ(client_->Await(id).error(), EINVAL);
  }
  for (size_t size = 0; size < sizeof(vfio_user::Version); ++size) {
    EXPECT_EQ(client_->ErrorOf(Command::kVersion, ByteVector(size)), EINVAL) << size << " bytes";
  }
  EXPECT_EQ(client_->Version("{}").error(), 0) << "it may still say it well";
}

TEST_F(VersionTest, BeforeVersionNothingElseIsDone) {
  EXPECT_EQ(client_->ErrorOf(Command::kRegionWrite,
                             RawClient::WritePayload(Region::kBar0, 0, uint32_t{1})),
            EINVAL);
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceReset, {}), EINVAL);
  EXPECT_EQ(client_->Map(0, kPage), EINVAL);
  EXPECT_EQ(bench_.device().resets, 0);
  EXPECT_TRUE(bench_.device().bar_writes.empty());
  EXPECT_EQ(bench_.slot().dma().window_count(), 0u);
  EXPECT_EQ(client_->Version("{}").error(), 0) << "late, but well";
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceReset, {}), 0);
}

TEST_F(VersionTest, ASecondVersionIsRefusedAndChangesNothing) {
  client_->Negotiate();
  EXPECT_EQ(client_->Version(R"({"capabilities":{"max_data_xfer_size":16}})").error(), EINVAL);
  EXPECT_FALSE(client_->Closed());
  EXPECT_EQ(client_->Call(Command::kRegionRead, RawClient::ReadPayload(Region::kConfig, 0, 64))
                .payload.size(),
            sizeof(RegionAccess) + 64);
}

TEST_F(VersionTest, VersionWithAnFdIsRefused) {
  const Eventfds fd(1);
  EXPECT_EQ(client_->ErrorOf(Command::kVersion, Pack(vfio_user::Version{}), fd.fds()), EINVAL);
}

// --- GET_*.

TEST_F(CommandsTest, DeviceGetInfo) {
  const auto info = Get<vfio_user::DeviceInfo>(Command::kDeviceGetInfo, 16, 0);
  EXPECT_EQ(info.argsz, 16u);
  EXPECT_EQ(info.flags, vfio_user::kDeviceFlagPci | vfio_user::kDeviceFlagReset);
  EXPECT_EQ(info.num_regions, 9u);
  EXPECT_EQ(info.num_irqs, 5u);
}

TEST_F(CommandsTest, DeviceGetRegionInfo) {
  const uint64_t sizes[] = {0x1000, 0, 0x100, 0, 0x1000, 0, 0, 4096, 0};
  for (uint32_t index = 0; index < 9; ++index) {
    const auto info = Get<vfio_user::RegionInfo>(Command::kDeviceGetRegionInfo, 32, index);
    EXPECT_EQ(info.argsz, 32u);
    EXPECT_EQ(info.index, index);
    EXPECT_EQ(info.size, sizes[index]) << index;
    EXPECT_EQ(info.flags, sizes[index] == 0 ? 0u : 3u) << index << ": to be read and written";
    EXPECT_EQ(info.cap_offset, 0u);
  }
  const vfio_user::RegionInfo beyond{.argsz = 32, .flags = 0, .index = 9};
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetRegionInfo, Pack(beyond)), EINVAL);
}

TEST_F(CommandsTest, ArgszBelowTheFixedFieldsIsRefusedAndAboveIsWelcome) {
  const auto error = [&](Command command, auto ask, uint32_t argsz) {
    ask.argsz = argsz;
    return client_->ErrorOf(command, Pack(ask));
  };
  for (const uint32_t argsz : {0u, 1u, 15u}) {
    EXPECT_EQ(error(Command::kDeviceGetInfo, vfio_user::DeviceInfo{}, argsz), EINVAL);
    EXPECT_EQ(error(Command::kDeviceGetIrqInfo, vfio_user::IrqInfo{}, argsz), EINVAL);
    EXPECT_EQ(error(Command::kDeviceGetRegionIoFds, vfio_user::RegionIoFds{}, argsz), EINVAL);
    EXPECT_EQ(error(Command::kDeviceGetRegionInfo, vfio_user::RegionInfo{}, argsz), EINVAL);
  }
  EXPECT_EQ(error(Command::kDeviceGetRegionInfo, vfio_user::RegionInfo{}, 31), EINVAL);
  for (const uint32_t argsz : {32u, 0x7fff'ffffu, ~0u}) {
    EXPECT_EQ(error(Command::kDeviceGetInfo, vfio_user::DeviceInfo{}, argsz), 0);
    EXPECT_EQ(error(Command::kDeviceGetIrqInfo, vfio_user::IrqInfo{}, argsz), 0);
    EXPECT_EQ(error(Command::kDeviceGetRegionInfo, vfio_user::RegionInfo{}, argsz), 0);
    EXPECT_EQ(error(Command::kDeviceGetRegionIoFds, vfio_user::RegionIoFds{}, argsz), 0);
  }
}

TEST_F(CommandsTest, DeviceGetIrqInfoOfAnIndexThatIsNotThere) {
  for (const uint32_t index : {5u, ~0u}) {
    const vfio_user::IrqInfo ask{.argsz = 16, .flags = 0, .index = index, .count = 0};
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetIrqInfo, Pack(ask)), EINVAL);
  }
}

TEST_F(CommandsTest, DeviceGetRegionIoFdsOfADeviceWithoutDoorbells) {
  const auto reply = Get<vfio_user::RegionIoFds>(Command::kDeviceGetRegionIoFds, 16, 0);
  EXPECT_EQ(reply.argsz, 16u);
  EXPECT_EQ(reply.count, 0u);
  vfio_user::RegionIoFds wrong{.argsz = 16, .flags = 0, .index = 9, .count = 0};
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetRegionIoFds, Pack(wrong)), EINVAL);
  wrong = {.argsz = 16, .flags = 1, .index = 0, .count = 0};
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetRegionIoFds, Pack(wrong)), EINVAL);
  wrong = {.argsz = 16, .flags = 0, .index = 0, .count = 1};
  EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetRegionIoFds, Pack(wrong)), EINVAL);
}

// --- Payloads of the wrong size.

TEST_F(CommandsTest, PayloadsOfTheWrongSizeAreRefused) {
  // Those with a fixed size, or at least one.
  ExpectSizesRefused(Command::kDmaMap, Pack(vfio_user::DmaMap{.argsz = 32, .size = kPage}), {32});
  ExpectSizesRefused(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4), {16});
  ExpectSizesRefused(Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0, uint32_t{0}),
                     {20});
  ExpectSizesRefused(Command::kDeviceSetIrqs,
                     Pack(vfio_user::SetIrqs{.argsz = 20, .flags = 0x21, .index = 2}), {20});
  ExpectSizesRefused(Command::kMigDataWrite, Pack(vfio_user::MigData{.argsz = 8, .size = 16}), {});
  for (size_t size = 0; size < 16; ++size) {
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetInfo, ByteVector(size)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetIrqInfo, ByteVector(size)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetRegionIoFds, ByteVector(size)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDmaUnmap, ByteVector(size)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceGetRegionInfo, ByteVector(2 * size)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceReset, ByteVector(size + 1)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kRegionWriteMulti, ByteVector(size / 2)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceFeature, ByteVector(size / 2)), EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kMigDataRead, ByteVector(size / 2)), EINVAL);
  }
  EXPECT_EQ(device().resets, 0);
  EXPECT_FALSE(client_->Closed());
}

TEST_F(CommandsTest, UnknownAndRetiredCommandsAreNotSupported) {
  for (const unsigned command : {0u, 14u, 19u, 255u, 0xffffu}) {
    EXPECT_EQ(client_->ErrorOf(Command{static_cast<uint16_t>(command)}, ByteVector(24)), ENOTSUP)
        << command;
  }
}

TEST_F(CommandsTest, CommandsOfTheServersAreRefused) {
  const vfio_user::DmaAccess access{.iova = 0, .count = 4};
  EXPECT_EQ(client_->ErrorOf(Command::kDmaRead, Pack(access)), EINVAL);
  EXPECT_EQ(client_->ErrorOf(Command::kDmaWrite, Pack(access, Counting(4))), EINVAL);
}

TEST_F(CommandsTest, FdsWithCommandsThatTakeNoneAreRefusedAndClosed) {
  const auto before = CountOpenFds();
  {
    const Eventfds fds(2);
    EXPECT_EQ(client_->ErrorOf(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4),
                               fds.fds()),
              EINVAL);
    EXPECT_EQ(client_->ErrorOf(Command::kDeviceReset, {}, fds.fds()), EINVAL);
    const vfio_user::DmaMap map{.argsz = 32, .flags = 3, .size = kPage};
    EXPECT_EQ(client_->ErrorOf(Command::kDmaMap, Pack(map), fds.fds()), EINVAL) << "one is enough";
  }
  EXPECT_EQ(CountOpenFds(), before);
}

// --- DMA_MAP and DMA_UNMAP: what the wire adds to dma_table_test.cc.

TEST_F(CommandsTest, DmaMapChecksItsNumbers) {
  const SharedMemory memory(4 * kPage);
  const auto map = [&](vfio_user::DmaMap fields, bool with_fd = true) {
    const int fd = memory.fd();
    return client_->ErrorOf(Command::kDmaMap, Pack(fields), std::span(&fd, with_fd ? 1 : 0));
  };
  EXPECT_EQ(map({.argsz = 31, .flags = 3, .size = kPage}), EINVAL);
  EXPECT_EQ(map({.argsz = 32, .flags = 3, .size = 0}), EINVAL);
  EXPECT_EQ(map({.argsz = 32, .flags = 0x10, .size = kPage}), EINVAL);
  EXPECT_EQ(map({.argsz = 32, .flags = 3, .iova = ~uint64_t{0}, .size = 2}), EINVAL) << "wraps";
  EXPECT_EQ(map({.argsz = 32, .flags = 3, .offset = ~uint64_t{0}, .size = 2}), EINVAL);
  EXPECT_EQ(map({.argsz = 32, .flags = 3, .offset = kPage, .size = 4 * kPage}), EINVAL) << "short";
  EXPECT_EQ(map({.argsz = 32, .flags = 7, .size = kPage}, false), EINVAL) << "mmap of what?";
  EXPECT_EQ(map({.argsz = 32, .flags = 11, .size = kPage}), ENOTSUP) << "by file I/O only";
  EXPECT_EQ(bench_.slot().dma().window_count(), 0u);
  EXPECT_EQ(device().dma_changes, 0);

  EXPECT_EQ(map({.argsz = 32, .flags = 15, .size = kPage}), 0) << "by mmap, too";
  EXPECT_EQ(map({.argsz = 64, .flags = 7, .iova = kPage, .size = kPage}), 0);
  EXPECT_EQ(map({.argsz = 32, .flags = 0, .iova = 2 * kPage, .size = kPage}), 0);
  EXPECT_EQ(device().dma_changes, 3);
  EXPECT_EQ(map({.argsz = 32, .flags = 3, .iova = kPage, .size = 1}), EEXIST);
}

TEST_F(CommandsTest, DmaMapKeepsToTheNumberOfWindowsAgreedOn) {
  client_->Close();
  bench_.Settle();
  client_ = bench_.Connect();
  ASSERT_EQ(client_->Version(R"({"capabilities":{"max_dma_maps":2}})").error(), 0);
  EXPECT_EQ(client_->Map(0, kPage), 0);
  EXPECT_EQ(client_->Map(kPage, kPage), 0);
  EXPECT_EQ(client_->Map(2 * kPage, kPage), ENOSPC);
  EXPECT_EQ(client_->Unmap(0, kPage), 0);
  EXPECT_EQ(client_->Map(2 * kPage, kPage), 0);
}

TEST_F(CommandsTest, DmaUnmapTellsTheDeviceAndChecksItsNumbers) {
  ASSERT_EQ(client_->Map(0, 4 * kPage), 0);
  const auto unmap = [&](vfio_user::DmaUnmap fields) {
    return client_->ErrorOf(Command::kDmaUnmap, Pack(fields));
  };
  EXPECT_EQ(unmap({.argsz = 23, .size = kPage}), EINVAL);
  EXPECT_EQ(unmap({.argsz = 24, .flags = 1, .size = 4 * kPage}), EINVAL) << "a bitmap, version 1";
  EXPECT_EQ(unmap({.argsz = 24, .flags = 2, .size = kPage}), EINVAL) << "all of a range";
  EXPECT_EQ(unmap({.argsz = 24, .flags = 4}), EINVAL);
  EXPECT_EQ(unmap({.argsz = 24, .size = 0}), EINVAL);
  EXPECT_EQ(unmap({.argsz = 24, .iova = 2, .size = ~uint64_t{0}}), EINVAL) << "wraps";
  EXPECT_EQ(unmap({.argsz = 24, .size = kPage}), EINVAL) << "a part";
  EXPECT_EQ(device().dma_changes, 1);
  EXPECT_EQ(client_->Unmap(0, 4 * kPage), 0);
  EXPECT_EQ(device().dma_changes, 2);
  EXPECT_EQ(bench_.slot().dma().window_count(), 0u);
}

TEST_F(CommandsTest, DmaUnmapOfAllTakesAll) {
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(client_->Map(2 * i * kPage, kPage), 0);
  const vfio_user::DmaUnmap all{.argsz = 24, .flags = vfio_user::kDmaUnmapAll};
  const Received reply = client_->Call(Command::kDmaUnmap, Pack(all));
  EXPECT_EQ(reply.payload, Pack(all));
  EXPECT_EQ(bench_.slot().dma().window_count(), 0u);
  EXPECT_EQ(client_->ErrorOf(Command::kDmaUnmap, Pack(all)), 0) << "there is nothing left";
}

// --- REGION_*.

TEST_F(CommandsTest, RegionReadAndWriteMoveBytes) {
  const Received written = client_->Call(
      Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0x10, Counting(5, 1)));
  EXPECT_EQ(written.payload, Pack(RegionAccess{.offset = 0x10, .region = 0, .count = 5}));
  const Received read =
      client_->Call(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0x0f, 7));
  EXPECT_EQ(read.payload, Pack(RegionAccess{.offset = 0x0f, .region = 0, .count = 7}, ByteVector(1),
                               Counting(5, 1), ByteVector(1)));
}

TEST_F(CommandsTest, GuestAccessesOutsideOfARegionReadOnesAreDroppedAndAreCounted) {
  const struct {
    Region region;
    uint64_t offset;
    uint32_t count;
  } outside[] = {{Region::kBar0, 0x1000, 4},
                 {Region::kBar0, 0xffe, 4},
                 {Region::kBar0, ~uint64_t{0} - 1, 4},
                 {Region::kBar0, ~uint64_t{0}, 1},
                 {Region::kConfig, 4096, 1},
                 {Region::kConfig, 0, 4097},
                 {Region::kBar1, 0, 4},
                 {Region::kRom, 0, 2},
                 {Region::kVga, 0, 1}};
  uint64_t expected = 0;
  for (const auto& [region, offset, count] : outside) {
    const Received read =
        client_->Call(Command::kRegionRead, RawClient::ReadPayload(region, offset, count));
    ASSERT_EQ(read.payload.size(), sizeof(RegionAccess) + count);
    EXPECT_THAT(ByteVector(read.payload.begin() + sizeof(RegionAccess), read.payload.end()),
                Each(std::byte{0xff}));
    EXPECT_EQ(dropped(), ++expected);
    EXPECT_EQ(client_->ErrorOf(Command::kRegionWrite,
                               RawClient::WritePayload(region, offset, ByteVector(count))),
              0);
    EXPECT_EQ(dropped(), ++expected);
  }
  EXPECT_TRUE(device().bar_writes.empty());
  EXPECT_EQ(bench_.server().counters().error_replies, 0u);
}

TEST_F(CommandsTest, RegionsAndCountsThatNoGuestCanCauseAreErrors) {
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 9, 4), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, ~0u, 4), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 0, 0), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 0, (1 << 20) + 1), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 0, ~0u), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 0, 1 << 20), 0) << "as much as agreed";
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 9, 4, Counting(4)), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 0, 0), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 0, ~0u, Counting(4)), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 0, 3, Counting(4)), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 0, 1 << 20, ByteVector(1 << 20)), 0);
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 0, (1 << 20) + 1, ByteVector((1 << 20) + 1)),
            EINVAL);
}

TEST_F(CommandsTest, TheAgreedTransferSizeBoundsAccesses) {
  client_->Close();
  bench_.Settle();
  client_ = bench_.Connect();
  ASSERT_EQ(client_->Version(R"({"capabilities":{"max_data_xfer_size":16}})").error(), 0);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 7, 16), 0);
  EXPECT_EQ(RegionError(Command::kRegionRead, 0, 7, 17), EINVAL);
  EXPECT_EQ(RegionError(Command::kRegionWrite, 0, 0, 17, Counting(17)), EINVAL);
}

TEST_F(CommandsTest, WriteMultiWritesInOrderAcrossRegions) {
  const auto entry = [](uint32_t region, uint64_t offset, uint32_t count, uint8_t value) {
    WriteMultiEntry out{.offset = offset, .region = region, .count = count};
    std::ranges::fill(out.data, value);
    return out;
  };
  const Received reply = client_->Call(
      Command::kRegionWriteMulti,
      Pack(vfio_user::WriteMulti{6}, entry(0, 8, 4, 1), entry(2, 16, 8, 2), entry(0, 8, 1, 3),
           entry(0, 0xfff, 4, 4), entry(77, 0, 4, 5), entry(7, pci::kInterruptLine, 1, 9)));
  EXPECT_EQ(reply.Get<vfio_user::WriteMulti>().count, 6u);
  EXPECT_EQ(reply.payload.size(), sizeof(vfio_user::WriteMulti));
  EXPECT_THAT(device().bar_writes,
              ElementsAre(FakeDevice::BarWrite{0, 8, ByteVector(4, std::byte{1})},
                          FakeDevice::BarWrite{2, 16, ByteVector(8, std::byte{2})},
                          FakeDevice::BarWrite{0, 8, ByteVector(1, std::byte{3})}));
  EXPECT_EQ(client_->Read<uint8_t>(Region::kConfig, pci::kInterruptLine), 9);
  EXPECT_EQ(dropped(), 2u) << "across the end, and of no region";
}

TEST_F(CommandsTest, WriteMultiMustHaveWhatItSays) {
  const WriteMultiEntry good{.offset = 0, .region = 0, .count = 4};
  const auto error = [&](uint64_t count, const ByteVector& entries) {
    return client_->ErrorOf(Command::kRegionWriteMulti,
                            Pack(vfio_user::WriteMulti{count}, entries));
  };
  EXPECT_EQ(error(0, {}), 0);
  EXPECT_EQ(error(1, Pack(good)), 0);
  EXPECT_EQ(error(2, Pack(good)), EINVAL);
  EXPECT_EQ(error(0, Pack(good)), EINVAL);
  EXPECT_EQ(error(1, Counting(23)), EINVAL);
  EXPECT_EQ(error(~uint64_t{0}, Pack(good)), EINVAL);
  EXPECT_EQ(error((uint64_t{1} << 61) + 1, Pack(good)), EINVAL) << "times 24 wraps";
  device().bar_writes.clear();
  for (const uint32_t count : {0u, 9u, ~0u}) {
    const WriteMultiEntry bad{.offset = 0, .region = 0, .count = count};
    EXPECT_EQ(error(2, Pack(good, bad)), EINVAL) << count;
  }
  EXPECT_TRUE(device().bar_writes.empty()) << "none of a message that is wrong";
}

// --- NO_REPLY.

class NoReplyTest : public CommandsTest {
 protected:
  // Nothing comes back, and the stream stays in step.
  void ExpectSilence(Command command, const ByteVector& payload, std::span<const int> fds = {}) {
    client_->Send(command, payload, vfio_user::kFlagNoReply, fds);
    EXPECT_FALSE(client_->Receive()) << vfio_user::CommandName(command);
    EXPECT_EQ(client_->Read<uint16_t>(Region::kConfig, 0), 0x1b36)
        << vfio_user::CommandName(command);
  }
};

TEST_F(NoReplyTest, NoCommandIsAnsweredWhetherItSucceedsOrFails) {
  const Eventfds event(1);
  const vfio_user::FeatureMigrationState stop_copy{.state = 3};
  const auto feature = [](vfio_user::Feature which, uint32_t operation, const ByteVector& data) {
    return Pack(
        vfio_user::DeviceFeature{.argsz = 4096, .flags = static_cast<uint32_t>(which) | operation},
        data);
  };
  ExpectSilence(Command::kDmaMap,
                Pack(vfio_user::DmaMap{.argsz = 32, .flags = 3, .iova = 0, .size = kPage}));
  EXPECT_EQ(bench_.slot().dma().window_count(), 1u) << "it was done";
  ExpectSilence(Command::kDmaUnmap, Pack(vfio_user::DmaUnmap{.argsz = 24, .size = kPage}));
  EXPECT_EQ(bench_.slot().dma().window_count(), 0u);
  ExpectSilence(Command::kDeviceGetInfo, Pack(vfio_user::DeviceInfo{.argsz = 16}));
  ExpectSilence(Command::kDeviceGetRegionInfo, Pack(vfio_user::RegionInfo{.argsz = 32}));
  ExpectSilence(Command::kDeviceGetRegionIoFds, Pack(vfio_user::RegionIoFds{.argsz = 4096}));
  ExpectSilence(Command::kDeviceGetIrqInfo, Pack(vfio_user::IrqInfo{.argsz = 16}));
  ExpectSilence(Command::kDeviceSetIrqs,
                Pack(vfio_user::SetIrqs{.argsz = 20, .flags = 0x24, .index = 2, .count = 1}),
                event.fds());
  ExpectSilence(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4));
  ExpectSilence(Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0, uint32_t{7}));
  EXPECT_EQ(device().bar0[0], std::byte{7});
  ExpectSilence(Command::kRegionWriteMulti, Pack(vfio_user::WriteMulti{0}));
  ExpectSilence(Command::kDeviceReset, {});
  EXPECT_EQ(device().resets, 1);
  ExpectSilence(Command::kDeviceFeature,
                feature(vfio_user::Feature::kMigration, vfio_user::kFeatureGet, {}));
  ExpectSilence(Command::kDeviceFeature,
                feature(vfio_user::Feature::kMigrationState, vfio_user::kFeatureProbe, {}));
  ExpectSilence(Command::kDeviceFeature, feature(vfio_user::Feature::kMigrationState,
                                                 vfio_user::kFeatureSet, Pack(stop_copy)));
  ExpectSilence(Command::kMigDataRead, Pack(vfio_user::MigData{.argsz = 64, .size = 16}));
  ExpectSilence(Command::kMigDataWrite, Pack(vfio_user::MigData{.argsz = 8, .size = 0}));
  ExpectSilence(Command::kVersion, Pack(vfio_user::Version{}, ByteVector(1)));
  ExpectSilence(Command::kDmaRead, Pack(vfio_user::DmaAccess{.iova = 0, .count = 4}));
  ExpectSilence(Command::kDmaWrite, Pack(vfio_user::DmaAccess{.iova = 0, .count = 4}, Counting(4)));
  for (unsigned command = 0; command < 20; ++command) {
    ExpectSilence(Command{static_cast<uint16_t>(command)}, Counting(3));
  }
}

TEST_F(NoReplyTest, AVersionThatWantsNoReplyGetsNoneAndCounts) {
  client_->Close();
  bench_.Settle();
  client_ = bench_.Connect();
  client_->Send(Command::kVersion, Pack(vfio_user::Version{}), vfio_user::kFlagNoReply);
  EXPECT_FALSE(client_->Receive());
  EXPECT_EQ(client_->Read<uint16_t>(Region::kConfig, 0), 0x1b36);
}

// --- Fds, over a real socket.

TEST(CommandsOverASocketTest, WindowsAndInterruptsTravelAsDescriptors) {
  Bench bench(Link::kSocket);
  const auto client = bench.ConnectReady();
  SharedMemory memory(4 * kPage);
  const Eventfds events(4);
  ASSERT_EQ(client->Map(0x1000, 4 * kPage, memory.fd()), 0);
  ASSERT_EQ(client->SetIrqs(0x24, vfio_user::IrqIndex::kMsix, 0, 4, events.fds()), 0);
  client->Write(Region::kConfig, FakeDevice::kMsixControl, pci::kMsixEnable);
  const auto write = bench.device().StartWrite(0x1234, Counting(16, 1));
  bench.device().SignalVector(2);
  bench.Settle();
  EXPECT_EQ(write->status, DmaStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(memory.bytes().subspan(0x234, 16), Counting(16, 1)));
  EXPECT_EQ(events.Take(2), 1u);
}

}  // namespace
}  // namespace farside
