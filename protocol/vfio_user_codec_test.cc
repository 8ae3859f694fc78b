#include "protocol/vfio_user_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "protocol/test_support.h"

namespace farside::vfio_user {
namespace {

using namespace std::string_view_literals;
using testing::HasSubstr;

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kMax32 = std::numeric_limits<uint32_t>::max();

// Keeps the bytes that the decoded request points into.
struct Decoded {
  ByteVector payload;
  Result<Request> result;
};

Decoded Decode(Command command, ByteVector payload, size_t fd_count = 0) {
  const Frame frame{.header = CommandHeader(7, command, payload.size()),
                    .payload = payload,
                    .fds = MakeFds(fd_count)};
  auto result = DecodeRequest(frame);
  return {std::move(payload), std::move(result)};
}

template <typename T>
T DecodeAs(const Decoded& decoded) {
  EXPECT_TRUE(decoded.result) << decoded.result.error().message;
  if (!decoded.result || !std::holds_alternative<T>(*decoded.result)) {
    ADD_FAILURE() << "not the request that was sent";
    return {};
  }
  return std::get<T>(*decoded.result);
}

TEST(CodecTest, DecodesVersion) {
  const auto decoded = Decode(Command::kVersion, Pack(Version{0, 3}, "{\"a\":1}\0"sv));
  const auto request = DecodeAs<VersionRequest>(decoded);
  EXPECT_EQ(request.version.major, 0);
  EXPECT_EQ(request.version.minor, 3);
  EXPECT_EQ(request.json, "{\"a\":1}");
}

TEST(CodecTest, DecodesVersionWithoutJson) {
  const auto decoded = Decode(Command::kVersion, Pack(Version{0, 1}));
  EXPECT_EQ(DecodeAs<VersionRequest>(decoded).json, "");
}

TEST(CodecTest, DecodesDmaMap) {
  const DmaMap map{sizeof map, kDmaMapRead | kDmaMapWrite, 0x1000, 0x8000'0000, 0x20'0000};
  const auto request = DecodeAs<DmaMapRequest>(Decode(Command::kDmaMap, Pack(map), 1));
  EXPECT_EQ(request.flags, 3u);
  EXPECT_EQ(request.offset, 0x1000u);
  EXPECT_EQ(request.iova, 0x8000'0000u);
  EXPECT_EQ(request.size, 0x20'0000u);
}

TEST(CodecTest, DecodesDmaMapUpToTheLastByte) {
  const DmaMap map{sizeof map, kDmaMapRead, 0, kMax64 - 0xfff, 0x1000};
  EXPECT_EQ(DecodeAs<DmaMapRequest>(Decode(Command::kDmaMap, Pack(map))).size, 0x1000u);
}

TEST(CodecTest, DecodesDmaUnmap) {
  const DmaUnmap unmap{sizeof unmap, 0, 0x1000, 0x3000};
  const auto request = DecodeAs<DmaUnmapRequest>(Decode(Command::kDmaUnmap, Pack(unmap)));
  EXPECT_EQ(request.iova, 0x1000u);
  EXPECT_EQ(request.size, 0x3000u);
  const DmaUnmap all{sizeof all, kDmaUnmapAll, 0, 0};
  EXPECT_EQ(DecodeAs<DmaUnmapRequest>(Decode(Command::kDmaUnmap, Pack(all))).flags, kDmaUnmapAll);
}

TEST(CodecTest, DecodesQuestions) {
  EXPECT_EQ(
      DecodeAs<DeviceGetInfoRequest>(Decode(Command::kDeviceGetInfo, Pack(DeviceInfo{.argsz = 16})))
          .argsz,
      16u);
  const auto region = DecodeAs<DeviceGetRegionInfoRequest>(
      Decode(Command::kDeviceGetRegionInfo, Pack(RegionInfo{.argsz = 64, .index = 2})));
  EXPECT_EQ(region.argsz, 64u);
  EXPECT_EQ(region.index, 2u);
  const auto io_fds = DecodeAs<DeviceGetRegionIoFdsRequest>(
      Decode(Command::kDeviceGetRegionIoFds, Pack(RegionIoFds{.argsz = 96, .index = 4})));
  EXPECT_EQ(io_fds.argsz, 96u);
  EXPECT_EQ(io_fds.index, 4u);
  const auto irq = DecodeAs<DeviceGetIrqInfoRequest>(
      Decode(Command::kDeviceGetIrqInfo, Pack(IrqInfo{.argsz = 16, .index = 3})));
  EXPECT_EQ(irq.index, 3u);
}

TEST(CodecTest, DecodesSetIrqs) {
  const SetIrqs arm{sizeof arm, kIrqDataEventfd | kIrqActionTrigger, 2, 5, 3};
  const auto armed = DecodeAs<DeviceSetIrqsRequest>(Decode(Command::kDeviceSetIrqs, Pack(arm), 3));
  EXPECT_EQ(armed.index, 2u);
  EXPECT_EQ(armed.start, 5u);
  EXPECT_EQ(armed.count, 3u);
  EXPECT_TRUE(armed.bools.empty());
  const auto off = DecodeAs<DeviceSetIrqsRequest>(Decode(Command::kDeviceSetIrqs, Pack(arm)));
  EXPECT_EQ(off.count, 3u) << "an eventfd command without fds takes eventfds away";

  const SetIrqs trigger{sizeof trigger, kIrqDataBool | kIrqActionTrigger, 2, 0, 3};
  const auto bools = Decode(Command::kDeviceSetIrqs, Pack(trigger, "\1\0\1"sv));
  EXPECT_EQ(DecodeAs<DeviceSetIrqsRequest>(bools).bools.size(), 3u);
  const SetIrqs unmask{sizeof unmask, kIrqDataNone | kIrqActionUnmask, 0, 0, 1};
  EXPECT_EQ(DecodeAs<DeviceSetIrqsRequest>(Decode(Command::kDeviceSetIrqs, Pack(unmask))).flags,
            0x11u);
}

TEST(CodecTest, DecodesRegionAccesses) {
  const RegionAccess access{0x1004, 3, 4};
  const auto read = DecodeAs<RegionReadRequest>(Decode(Command::kRegionRead, Pack(access)));
  EXPECT_EQ(read.offset, 0x1004u);
  EXPECT_EQ(read.region, 3u);
  EXPECT_EQ(read.count, 4u);
  const auto decoded = Decode(Command::kRegionWrite, Pack(access, "abcd"sv));
  const auto write = DecodeAs<RegionWriteRequest>(decoded);
  EXPECT_EQ(write.offset, 0x1004u);
  EXPECT_EQ(LoadLe<uint32_t>(write.data), 0x64636261u);
}

TEST(CodecTest, LeavesTheBoundsOfARegionToWhoKnowsThem) {
  const RegionAccess access{kMax64, kMax32, kMax32};
  EXPECT_EQ(DecodeAs<RegionReadRequest>(Decode(Command::kRegionRead, Pack(access))).count, kMax32);
}

TEST(CodecTest, DecodesDma) {
  const DmaAccess access{kMax64 - 3, 4};
  const auto read = DecodeAs<DmaReadRequest>(Decode(Command::kDmaRead, Pack(access)));
  EXPECT_EQ(read.iova, kMax64 - 3);
  EXPECT_EQ(read.count, 4u);
  const auto decoded = Decode(Command::kDmaWrite, Pack(access, "abcd"sv));
  EXPECT_EQ(LoadLe<uint32_t>(DecodeAs<DmaWriteRequest>(decoded).data), 0x64636261u);
}

TEST(CodecTest, DecodesReset) { DecodeAs<DeviceResetRequest>(Decode(Command::kDeviceReset, {})); }

TEST(CodecTest, DecodesWriteMulti) {
  const WriteMultiEntry first{0x10, 0, 4, {1, 2, 3, 4}};
  const WriteMultiEntry second{0x20, 7, 8, {8, 7, 6, 5, 4, 3, 2, 1}};
  const auto decoded = Decode(Command::kRegionWriteMulti, Pack(WriteMulti{2}, first, second));
  const auto request = DecodeAs<RegionWriteMultiRequest>(decoded);
  ASSERT_EQ(request.count(), 2u);
  EXPECT_EQ(request.entry(0).offset, 0x10u);
  EXPECT_EQ(request.entry(1).region, 7u);
  EXPECT_EQ(request.entry(1).data[7], 1);
  const auto none = Decode(Command::kRegionWriteMulti, Pack(WriteMulti{0}));
  EXPECT_EQ(DecodeAs<RegionWriteMultiRequest>(none).count(), 0u);
}

TEST(CodecTest, DecodesFeature) {
  const DeviceFeature set{16, kFeatureSet | static_cast<uint32_t>(Feature::kMigrationState)};
  const auto decoded = Decode(Command::kDeviceFeature, Pack(set, FeatureMigrationState{2, 0}));
  const auto request = DecodeAs<DeviceFeatureRequest>(decoded);
  EXPECT_EQ(request.feature(), Feature::kMigrationState);
  EXPECT_EQ(request.data.size(), 8u);
  const DeviceFeature probe{8, kFeatureProbe | kFeatureGet | kFeatureSet | 9};
  EXPECT_EQ(DecodeAs<DeviceFeatureRequest>(Decode(Command::kDeviceFeature, Pack(probe))).flags,
            probe.flags);
}

TEST(CodecTest, DecodesMigrationData) {
  const auto read =
      DecodeAs<MigDataReadRequest>(Decode(Command::kMigDataRead, Pack(MigData{8, 4096})));
  EXPECT_EQ(read.size, 4096u);
  const auto decoded = Decode(Command::kMigDataWrite, Pack(MigData{11, 3}, "abc"sv));
  EXPECT_EQ(DecodeAs<MigDataWriteRequest>(decoded).data.size(), 3u);
}

struct Malformed {
  std::string_view name;
  Command command;
  ByteVector payload;
  size_t fds = 0;
  int error = EINVAL;
};

std::vector<Malformed> MalformedMessages() {
  using C = Command;
  const RegionAccess four{0, 0, 4};
  const DmaAccess dma_four{0x1000, 4};
  const uint32_t arm = kIrqDataEventfd | kIrqActionTrigger;
  const WriteMultiEntry entry{0, 0, 4, {}};
  const ByteVector cut(3);
  return {
      {"version empty", C::kVersion, {}},
      {"version cut", C::kVersion, cut},
      {"version json without NUL", C::kVersion, Pack(Version{}, "{}"sv)},
      {"version json with early NUL", C::kVersion, Pack(Version{}, "{}\0 \0"sv)},
      {"map cut", C::kDmaMap, ByteVector(31)},
      {"map too long", C::kDmaMap, Pack(DmaMap{32, 3, 0, 0, 4096}, cut)},
      {"map argsz", C::kDmaMap, Pack(DmaMap{31, 3, 0, 0, 4096})},
      {"map flags", C::kDmaMap, Pack(DmaMap{32, 0x10, 0, 0, 4096})},
      {"map size 0", C::kDmaMap, Pack(DmaMap{32, 3, 0, 0x1000, 0})},
      {"map wraps", C::kDmaMap, Pack(DmaMap{32, 3, 0, kMax64 - 0xfff, 0x1001})},
      {"map offset wraps", C::kDmaMap, Pack(DmaMap{32, 3, kMax64, 0, 0x1000}), 1},
      {"map with two fds", C::kDmaMap, Pack(DmaMap{32, 3, 0, 0, 4096}), 2},
      {"map by mmap without fd", C::kDmaMap, Pack(DmaMap{32, 7, 0, 0, 4096})},
      {"map by file without fd", C::kDmaMap, Pack(DmaMap{32, 11, 0, 0, 4096})},
      {"unmap cut", C::kDmaUnmap, ByteVector(23)},
      {"unmap argsz", C::kDmaUnmap, Pack(DmaUnmap{23, 0, 0, 4096})},
      {"unmap with bitmap", C::kDmaUnmap, Pack(DmaUnmap{24, 1, 0, 4096})},
      {"unmap all of a range", C::kDmaUnmap, Pack(DmaUnmap{24, 2, 0, 4096})},
      {"unmap size 0", C::kDmaUnmap, Pack(DmaUnmap{24, 0, 0x1000, 0})},
      {"unmap wraps", C::kDmaUnmap, Pack(DmaUnmap{24, 0, kMax64, 2})},
      {"unmap with fd", C::kDmaUnmap, Pack(DmaUnmap{24, 0, 0, 4096}), 1},
      {"info cut", C::kDeviceGetInfo, ByteVector(15)},
      {"info argsz", C::kDeviceGetInfo, Pack(DeviceInfo{.argsz = 15})},
      {"region info cut", C::kDeviceGetRegionInfo, ByteVector(31)},
      {"region info argsz 0", C::kDeviceGetRegionInfo, Pack(RegionInfo{.argsz = 0})},
      {"region info argsz", C::kDeviceGetRegionInfo, Pack(RegionInfo{.argsz = 31})},
      {"io fds cut", C::kDeviceGetRegionIoFds, ByteVector(15)},
      {"io fds argsz", C::kDeviceGetRegionIoFds, Pack(RegionIoFds{.argsz = 15})},
      {"irq info cut", C::kDeviceGetIrqInfo, ByteVector(15)},
      {"irq info argsz", C::kDeviceGetIrqInfo, Pack(IrqInfo{.argsz = 15})},
      {"irqs cut", C::kDeviceSetIrqs, ByteVector(19)},
      {"irqs argsz", C::kDeviceSetIrqs, Pack(SetIrqs{19, arm, 0, 0, 1}), 1},
      {"irqs without data kind", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x20, 0, 0, 1})},
      {"irqs with two data kinds", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x23, 0, 0, 0})},
      {"irqs without action", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x01, 0, 0, 1})},
      {"irqs with two actions", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x31, 0, 0, 1})},
      {"irqs with unknown flags", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x61, 0, 0, 1})},
      {"irqs overflow", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x21, 0, kMax32, 1})},
      {"irqs bools short", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x22, 0, 0, 4}, cut)},
      {"irqs bools long", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x22, 0, 0, 2}, cut)},
      {"irqs bools huge", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x22, 0, 0, kMax32})},
      {"irqs data without kind", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x21, 0, 0, 3}, cut)},
      {"irqs too few fds", C::kDeviceSetIrqs, Pack(SetIrqs{20, arm, 0, 0, 3}), 2},
      {"irqs too many fds", C::kDeviceSetIrqs, Pack(SetIrqs{20, arm, 0, 0, 1}), 2},
      {"irqs fds without kind", C::kDeviceSetIrqs, Pack(SetIrqs{20, 0x21, 0, 0, 1}), 1},
      {"read cut", C::kRegionRead, ByteVector(15)},
      {"read too long", C::kRegionRead, Pack(four, cut)},
      {"read of nothing", C::kRegionRead, Pack(RegionAccess{0, 0, 0})},
      {"read with fd", C::kRegionRead, Pack(four), 1},
      {"write cut", C::kRegionWrite, ByteVector(15)},
      {"write of nothing", C::kRegionWrite, Pack(RegionAccess{0, 0, 0})},
      {"write short", C::kRegionWrite, Pack(four, cut)},
      {"write long", C::kRegionWrite, Pack(four, "12345"sv)},
      {"write huge", C::kRegionWrite, Pack(RegionAccess{0, 0, kMax32}, cut)},
      {"dma read cut", C::kDmaRead, ByteVector(15)},
      {"dma read too long", C::kDmaRead, Pack(dma_four, cut)},
      {"dma read of nothing", C::kDmaRead, Pack(DmaAccess{0, 0})},
      {"dma read wraps", C::kDmaRead, Pack(DmaAccess{kMax64, 2})},
      {"dma write cut", C::kDmaWrite, ByteVector(15)},
      {"dma write of nothing", C::kDmaWrite, Pack(DmaAccess{0, 0})},
      {"dma write short", C::kDmaWrite, Pack(dma_four, cut)},
      {"dma write wraps", C::kDmaWrite, Pack(DmaAccess{kMax64 - 2, 4}, "1234"sv)},
      {"dma write huge", C::kDmaWrite, Pack(DmaAccess{0, kMax64}, cut)},
      {"reset with payload", C::kDeviceReset, cut},
      {"multi cut", C::kRegionWriteMulti, ByteVector(7)},
      {"multi count above", C::kRegionWriteMulti, Pack(WriteMulti{2}, entry)},
      {"multi count below", C::kRegionWriteMulti, Pack(WriteMulti{0}, entry)},
      {"multi count wraps", C::kRegionWriteMulti, Pack(WriteMulti{(1ull << 61) + 1}, entry)},
      {"multi entry cut", C::kRegionWriteMulti, Pack(WriteMulti{1}, ByteVector(23))},
      {"multi entry of nothing", C::kRegionWriteMulti,
       Pack(WriteMulti{1}, WriteMultiEntry{0, 0, 0, {}})},
      {"multi entry of 9", C::kRegionWriteMulti, Pack(WriteMulti{1}, WriteMultiEntry{0, 0, 9, {}})},
      {"feature cut", C::kDeviceFeature, ByteVector(7)},
      {"feature argsz", C::kDeviceFeature, Pack(DeviceFeature{7, kFeatureGet | 1})},
      {"feature without operation", C::kDeviceFeature, Pack(DeviceFeature{8, 1})},
      {"feature get and set", C::kDeviceFeature, Pack(DeviceFeature{8, 0x30001})},
      {"feature unknown flag", C::kDeviceFeature, Pack(DeviceFeature{8, 0x90001})},
      {"mig read cut", C::kMigDataRead, ByteVector(7)},
      {"mig read argsz", C::kMigDataRead, Pack(MigData{7, 1})},
      {"mig write cut", C::kMigDataWrite, ByteVector(7)},
      {"mig write short", C::kMigDataWrite, Pack(MigData{12, 4}, cut)},
      {"mig write long", C::kMigDataWrite, Pack(MigData{10, 2}, cut)},
      {"mig write huge", C::kMigDataWrite, Pack(MigData{8, kMax32}, cut)},
      {"command 0", Command{0}, {}, 0, ENOTSUP},
      {"retired DIRTY_PAGES", Command{14}, ByteVector(16), 0, ENOTSUP},
      {"command 19", Command{19}, {}, 0, ENOTSUP},
      {"command 65535", Command{65535}, ByteVector(64), 0, ENOTSUP},
  };
}

TEST(CodecTest, RefusesEveryMalformedCommandWithItsErrno) {
  for (const Malformed& message : MalformedMessages()) {
    const auto decoded = Decode(message.command, message.payload, message.fds);
    ASSERT_FALSE(decoded.result) << message.name;
    EXPECT_EQ(decoded.result.error().code, message.error) << message.name;
    EXPECT_FALSE(decoded.result.error().message.empty()) << message.name;
  }
}

TEST(CodecTest, RefusesFdsWhereNoneIsLawful) {
  for (uint16_t command = 1; command <= 18; ++command) {
    if (command == 2 || command == 8 || command == 14) continue;
    const auto decoded = Decode(Command{command}, ByteVector(64), 1);
    ASSERT_FALSE(decoded.result) << command;
    EXPECT_THAT(decoded.result.error().message, HasSubstr("fd")) << command;
  }
}

TEST(CodecTest, ChecksHeaders) {
  constexpr uint32_t kLimit = 4096;
  const auto check = [](uint32_t size, uint32_t flags) {
    return CheckHeader(Header{.size = size, .flags = flags}, kLimit).has_value();
  };
  EXPECT_TRUE(check(16, kFlagTypeCommand));
  EXPECT_TRUE(check(kLimit, kFlagTypeReply));
  EXPECT_TRUE(check(16, kFlagTypeReply | kFlagError));
  EXPECT_TRUE(check(16, kFlagTypeCommand | kFlagNoReply));
  EXPECT_FALSE(check(15, kFlagTypeCommand));
  EXPECT_FALSE(check(0, kFlagTypeCommand));
  EXPECT_FALSE(check(kLimit + 1, kFlagTypeCommand));
  EXPECT_FALSE(check(kMax32, kFlagTypeCommand));
  for (uint32_t type = 2; type < 16; ++type) EXPECT_FALSE(check(16, type)) << type;
}

TEST(CodecTest, RepliesRepeatIdAndCommand) {
  const Header request = CommandHeader(0xbeef, Command::kRegionRead, 16, kFlagNoReply);
  EXPECT_EQ(request.size, 32u);
  EXPECT_EQ(request.flags, 0x10u);
  const Header reply = ReplyHeader(request, 20);
  EXPECT_EQ(reply.message_id, 0xbeef);
  EXPECT_EQ(reply.command, 9);
  EXPECT_EQ(reply.size, 36u);
  EXPECT_EQ(reply.flags, 1u);
  const Header error = ErrorHeader(request, EINVAL);
  EXPECT_EQ(error.size, 16u);
  EXPECT_EQ(error.flags, 0x21u);
  EXPECT_EQ(error.error, 22u);
}

TEST(CodecTest, NamesEveryCommand) {
  for (uint16_t command = 1; command <= 18; ++command) {
    EXPECT_EQ(CommandName(Command{command}).empty(), command == 14) << command;
  }
  EXPECT_EQ(CommandName(Command::kRegionWriteMulti), "REGION_WRITE_MULTI");
}

}  // namespace
}  // namespace farside::vfio_user
