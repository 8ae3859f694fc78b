// Real messages of QEMU and libvfio-user, from scenarios/golden: every one decodes, and encoding it
// again with our structures gives the same bytes.
#include <gtest/gtest.h>

#include <charconv>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "protocol/test_support.h"
#include "protocol/vfio_user_replies.h"

namespace farside::vfio_user {
namespace {

struct GoldenMessage {
  std::string where;  // "file:line".
  size_t fd_count = 0;
  std::string command;
  ByteVector bytes;

  Header header() const {
    Header out;
    Copy(AsWritableBytes(out), ConstBytes(bytes).first(sizeof out));
    return out;
  }
  ConstBytes payload() const { return ConstBytes(bytes).subspan(sizeof(Header)); }
};

ByteVector ParseHex(std::string_view hex) {
  ByteVector out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    uint8_t byte = 0;
    std::from_chars(hex.data() + i, hex.data() + i + 2, byte, 16);
    out.push_back(std::byte{byte});
  }
  return out;
}

std::vector<GoldenMessage> ReadGolden() {
  std::vector<GoldenMessage> out;
  for (const auto& entry : std::filesystem::directory_iterator(FARSIDE_GOLDEN_DIR)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("vfio-user-")) continue;
    std::ifstream file(entry.path());
    int number = 0;
    for (std::string line; std::getline(file, line);) {
      ++number;
      if (line.empty() || line[0] == '#') continue;
      GoldenMessage message;
      std::string direction;
      std::string hex;
      std::istringstream(line) >> direction >> message.fd_count >> message.command >> hex;
      message.where = fmt::format("{}:{}", name, number);
      message.bytes = ParseHex(hex);
      out.push_back(std::move(message));
    }
  }
  return out;
}

// Encodes a request as its sender does: header, fixed fields, what follows.
struct Encoder {
  uint16_t id;
  uint32_t flags;

  template <typename Fixed>
  ByteVector Encode(Command command, const Fixed& fixed, ConstBytes rest = {}) const {
    ByteVector out = Pack(CommandHeader(id, command, sizeof fixed + rest.size(), flags), fixed);
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
  }
  ByteVector operator()(const VersionRequest& r) const {
    const auto json = std::as_bytes(std::span(r.json.data(), r.json.size() + 1));
    return Encode(Command::kVersion, r.version, json);
  }
  ByteVector operator()(const DmaMapRequest& r) const {
    return Encode<DmaMap>(Command::kDmaMap, r);
  }
  ByteVector operator()(const DmaUnmapRequest& r) const {
    return Encode<DmaUnmap>(Command::kDmaUnmap, r);
  }
  ByteVector operator()(const DeviceGetInfoRequest& r) const {
    return Encode<DeviceInfo>(Command::kDeviceGetInfo, r);
  }
  ByteVector operator()(const DeviceGetRegionInfoRequest& r) const {
    return Encode<RegionInfo>(Command::kDeviceGetRegionInfo, r);
  }
  ByteVector operator()(const DeviceGetRegionIoFdsRequest& r) const {
    return Encode<RegionIoFds>(Command::kDeviceGetRegionIoFds, r);
  }
  ByteVector operator()(const DeviceGetIrqInfoRequest& r) const {
    return Encode<IrqInfo>(Command::kDeviceGetIrqInfo, r);
  }
  ByteVector operator()(const DeviceSetIrqsRequest& r) const {
    return Encode<SetIrqs>(Command::kDeviceSetIrqs, r, r.bools);
  }
  ByteVector operator()(const RegionReadRequest& r) const {
    return Encode<RegionAccess>(Command::kRegionRead, r);
  }
  ByteVector operator()(const RegionWriteRequest& r) const {
    return Encode<RegionAccess>(Command::kRegionWrite, r, r.data);
  }
  ByteVector operator()(const DmaReadRequest& r) const {
    return Encode<DmaAccess>(Command::kDmaRead, r);
  }
  ByteVector operator()(const DmaWriteRequest& r) const {
    return Encode<DmaAccess>(Command::kDmaWrite, r, r.data);
  }
  ByteVector operator()(const DeviceResetRequest&) const {
    return Pack(CommandHeader(id, Command::kDeviceReset, 0, flags));
  }
  ByteVector operator()(const RegionWriteMultiRequest& r) const {
    return Encode(Command::kRegionWriteMulti, WriteMulti{r.count()}, r.entries);
  }
  ByteVector operator()(const DeviceFeatureRequest& r) const {
    return Encode<DeviceFeature>(Command::kDeviceFeature, r, r.data);
  }
  ByteVector operator()(const MigDataReadRequest& r) const {
    return Encode<MigData>(Command::kMigDataRead, r);
  }
  ByteVector operator()(const MigDataWriteRequest& r) const {
    return Encode<MigData>(Command::kMigDataWrite, r, r.data);
  }
  ByteVector operator()(const ClockAdvanceRequest& r) const {
    return Encode<ClockAdvance>(static_cast<Command>(ExtensionCommand::kClockAdvance), r);
  }
};

TEST(GoldenTest, CommandsDecodeAndEncodeToTheSameBytes) {
  std::map<std::string, int> seen;
  for (const GoldenMessage& message : ReadGolden()) {
    const Header header = message.header();
    if ((header.flags & kFlagTypeMask) != kFlagTypeCommand) continue;
    ++seen[message.command];
    EXPECT_TRUE(CheckHeader(header, MaxMessageSize(kDefaultMaxDataXferSize))) << message.where;
    const Frame frame{
        .header = header, .payload = message.payload(), .fds = MakeFds(message.fd_count)};
    EXPECT_EQ(CommandName(frame.command()), message.command) << message.where;
    const auto request = DecodeRequest(frame);
    ASSERT_TRUE(request) << message.where << ": " << request.error().message;
    EXPECT_EQ(std::visit(Encoder{header.message_id, header.flags}, *request), message.bytes)
        << message.where;
  }
  for (const char* command : {"VERSION", "DMA_MAP", "DMA_UNMAP", "DEVICE_GET_INFO",
                              "DEVICE_GET_REGION_INFO", "DEVICE_GET_IRQ_INFO", "DEVICE_SET_IRQS",
                              "REGION_READ", "REGION_WRITE", "DMA_READ", "DEVICE_RESET"}) {
    EXPECT_GT(seen[command], 0) << "the golden files have no " << command;
  }
}

// A reply's payload as its sender encodes it.
Result<ByteVector> RecodeReply(const GoldenMessage& message) {
  const Header header = message.header();
  const ConstBytes payload = message.payload();
  const auto index = payload.size() >= 12 ? LoadLe<uint32_t>(payload.subspan(8)) : 0;
  const auto rest = [&](size_t from) {
    return ByteVector(payload.begin() + static_cast<ptrdiff_t>(from), payload.end());
  };
  switch (Command{header.command}) {
    case Command::kVersion: {
      const auto reply = DecodeVersionReply(payload);
      if (!reply) return tl::unexpected(reply.error());
      return Pack(reply->version, reply->json, '\0');
    }
    case Command::kDeviceGetInfo: {
      const auto reply = DecodeDeviceInfo(payload);
      if (!reply) return tl::unexpected(reply.error());
      return Pack(*reply);
    }
    case Command::kDeviceGetRegionInfo: {
      const auto reply = DecodeRegionInfo(payload, index, message.fd_count);
      if (!reply) return tl::unexpected(reply.error());
      if ((reply->info.flags & kRegionFlagCaps) == 0) return Pack(reply->info);
      ByteVector out = Pack(reply->info, SparseMmap{{kRegionCapSparseMmap, 1, 0},
                                                    static_cast<uint32_t>(reply->areas.size())});
      for (const MmapArea& area : reply->areas) AppendTo(out, area);
      return out;
    }
    case Command::kDeviceGetIrqInfo: {
      const auto reply = DecodeIrqInfo(payload, index);
      if (!reply) return tl::unexpected(reply.error());
      return Pack(*reply);
    }
    case Command::kRegionRead:
    case Command::kRegionWrite: {
      RegionAccess access;
      Copy(AsWritableBytes(access), payload.first(sizeof access));
      return Pack(access, rest(sizeof access));
    }
    default:
      return rest(0);
  }
}

TEST(GoldenTest, RepliesDecodeAndEncodeToTheSameBytes) {
  int replies = 0;
  for (const GoldenMessage& message : ReadGolden()) {
    const Header header = message.header();
    if ((header.flags & kFlagTypeMask) != kFlagTypeReply) continue;
    ++replies;
    EXPECT_TRUE(CheckHeader(header, MaxMessageSize(kDefaultMaxDataXferSize))) << message.where;
    if ((header.flags & kFlagError) != 0) {
      EXPECT_EQ(Pack(ErrorHeader(header, static_cast<int>(header.error))), message.bytes)
          << message.where;
      continue;
    }
    const auto payload = RecodeReply(message);
    ASSERT_TRUE(payload) << message.where << ": " << payload.error().message;
    EXPECT_EQ(Pack(ReplyHeader(header, payload->size()), *payload), message.bytes) << message.where;
  }
  EXPECT_GT(replies, 50);
}

}  // namespace
}  // namespace farside::vfio_user
