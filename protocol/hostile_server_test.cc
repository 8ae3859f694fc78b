// What a hostile or broken server can do to a VfioUserClient: an Error and the end of the client,
// never a crash, a hang, growth or a lost fd.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/fake_server.h"
#include "protocol/vfio_user_client.h"
#include "protocol/vfio_user_replies.h"

namespace farside::vfio_user {
namespace {

using testing::HasSubstr;

using Operation = std::function<Error(VfioUserClient&)>;

template <typename T>
Error ErrorOf(const Result<T>& result) {
  return result ? Error{"no error", 0} : result.error();
}

Error Read4(VfioUserClient& client) { return ErrorOf(client.Read<uint32_t>({.offset = 8})); }
Error Info(VfioUserClient& client) { return ErrorOf(client.GetInfo()); }
Error Region2(VfioUserClient& client) { return ErrorOf(client.GetRegionInfo(2)); }
Error IoFds0(VfioUserClient& client) { return ErrorOf(client.GetRegionIoFds(0)); }

// Answers with a payload of its own.
template <typename... T>
FakeServer::Hook Answering(Command command, const T&... payload) {
  return [command, bytes = Pack(payload...)](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != command) return false;
    self.Reply(frame, bytes);
    return true;
  };
}

FakeServer::Hook OnRead(std::function<void(FakeServer&, Frame&)> act) {
  return [act = std::move(act)](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    act(self, frame);
    return true;
  };
}

struct Attack {
  std::string_view name;
  FakeServer::Hook hook;
  Operation operation;
  std::string_view sentence;  // Part of the Error.
};

const RegionAccess kAsked{8, 0, 4};

std::vector<Attack> AttacksOnStream() {
  return {
      {"size below a header", OnRead([](FakeServer& self, Frame&) {
         self.SendBytes(Pack(Header{.size = 15, .flags = 1}, ByteVector(64)));
       }),
       Read4, "15 bytes"},
      {"size 0", OnRead([](FakeServer& self, Frame&) { self.SendBytes(ByteVector(64)); }), Read4,
       "0 bytes"},
      {"size over the limit", OnRead([](FakeServer& self, Frame& frame) {
         Header header = ReplyHeader(frame.header, 0);
         header.size = 2 << 20;
         self.SendBytes(Pack(header));
       }),
       Read4, "2097152 bytes"},
      {"huge size", OnRead([](FakeServer& self, Frame& frame) {
         Header header = ReplyHeader(frame.header, 0);
         header.size = UINT32_MAX;
         self.SendBytes(Pack(header));
       }),
       Read4, "4294967295 bytes"},
      {"neither command nor reply", OnRead([](FakeServer& self, Frame& frame) {
         Header header = ReplyHeader(frame.header, 0);
         header.flags = 7;
         self.SendBytes(Pack(header));
       }),
       Read4, "neither command nor reply"},
      {"cut header, then closed", OnRead([](FakeServer& self, Frame& frame) {
         self.SendBytes(ConstBytes(Pack(ReplyHeader(frame.header, 20))).first(9));
         self.Close();
       }),
       Read4, "in the middle of a message"},
      {"cut payload, then closed", OnRead([](FakeServer& self, Frame& frame) {
         self.SendBytes(Pack(ReplyHeader(frame.header, 20), kAsked));
         self.Close();
       }),
       Read4, "in the middle of a message"},
      {"reply to another id", OnRead([](FakeServer& self, Frame& frame) {
         Header header = ReplyHeader(frame.header, 20);
         header.message_id ^= 0x100;
         self.SendBytes(Pack(header, kAsked, 0));
       }),
       Read4, "not asked"},
      {"reply of another command", OnRead([](FakeServer& self, Frame& frame) {
         Header header = ReplyHeader(frame.header, 20);
         header.command = 10;
         self.SendBytes(Pack(header, kAsked, 0));
       }),
       Read4, "not asked"},
      {"reply twice", OnRead([](FakeServer& self, Frame& frame) {
         self.Reply(frame, kAsked, 0);
         self.Reply(frame, kAsked, 0);
       }),
       [](VfioUserClient& client) {
         Read4(client);
         return Read4(client);
       },
       "not asked"},
      {"reply to a posted write",
       [](FakeServer& self, Frame& frame) {
         if (frame.no_reply()) self.Reply(frame, kAsked);
         return frame.no_reply();
       },
       [](VfioUserClient& client) {
         EXPECT_TRUE(client.PostWrite({}, AsBytes(1)));
         return Read4(client);
       },
       "answers a posted write"},
      {"an error reply nobody waits for", OnRead([](FakeServer& self, Frame& frame) {
         Header header = ErrorHeader(frame.header, EINVAL);
         header.message_id = 0x7777;
         self.SendBytes(Pack(header));
       }),
       Read4, "not asked"},
      {"fds with a read", OnRead([](FakeServer& self, Frame& frame) {
         const auto fds = MakeFds(1);
         const int fd = fds[0].get();
         self.SendBytes(Pack(ReplyHeader(frame.header, 20), kAsked, 0), std::span(&fd, 1));
       }),
       Read4, "1 fds"},
      {"a flood of fds", OnRead([](FakeServer& self, Frame& frame) {
         const auto fds = MakeFds(100);
         std::vector<int> numbers;
         for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
         self.SendBytes(Pack(ReplyHeader(frame.header, 20), kAsked, 0), numbers);
       }),
       Read4, "100 fds"},
  };
}

std::vector<Attack> AttacksOnReplies() {
  using C = Command;
  const auto version = [](VfioUserClient& client) { return ErrorOf(client.Negotiate()); };
  return {
      {"read short", Answering(C::kRegionRead, kAsked, uint16_t{1}), Read4,
       "not of what was asked"},
      {"read without data", Answering(C::kRegionRead, kAsked), Read4, "not of what was asked"},
      {"read empty", Answering(C::kRegionRead), Read4, "has 0 bytes"},
      {"read long", Answering(C::kRegionRead, kAsked, uint64_t{1}), Read4, "has 24 bytes"},
      {"read elsewhere", Answering(C::kRegionRead, RegionAccess{9, 0, 4}, 0), Read4,
       "not of what was asked"},
      {"read of another region", Answering(C::kRegionRead, RegionAccess{8, 1, 4}, 0), Read4,
       "not of what was asked"},
      {"read of another count", Answering(C::kRegionRead, RegionAccess{8, 0, 1 << 30}, 0), Read4,
       "not of what was asked"},
      {"write elsewhere", Answering(C::kRegionWrite, RegionAccess{9, 0, 4}),
       [](VfioUserClient& client) { return ErrorOf(client.Write<uint32_t>({.offset = 8}, 1)); },
       "not of what was asked"},
      {"write with data", Answering(C::kRegionWrite, kAsked, 0),
       [](VfioUserClient& client) { return ErrorOf(client.Write<uint32_t>({.offset = 8}, 1)); },
       "has 20 bytes"},
      {"unmapped another range", Answering(C::kDmaUnmap, DmaUnmap{24, 0, 4096, 4096}),
       [](VfioUserClient& client) { return ErrorOf(client.DmaUnmap(0, 4096)); },
       "not of what was asked"},
      {"unmap with nothing", Answering(C::kDmaUnmap),
       [](VfioUserClient& client) { return ErrorOf(client.DmaUnmap(0, 4096)); }, "has 0 bytes"},
      {"reset with payload", Answering(C::kDeviceReset, 0),
       [](VfioUserClient& client) { return ErrorOf(client.Reset()); }, "has 4 bytes"},
      {"more writes than were sent", Answering(C::kRegionWriteMulti, WriteMulti{2}),
       [](VfioUserClient& client) {
         const WriteMultiEntry entry{0, 0, 1, {}};
         return ErrorOf(client.WriteMulti(0, std::span(&entry, 1), false));
       },
       "not of what was asked"},
      {"another feature", Answering(C::kDeviceFeature, DeviceFeature{8, kFeatureProbe | 2}),
       [](VfioUserClient& client) { return ErrorOf(client.FeatureProbe(Feature::kMigration, 0)); },
       "not of what was asked"},
      {"more state than was asked", Answering(C::kMigDataRead, MigData{208, 200}, ByteVector(200)),
       [](VfioUserClient& client) {
         ByteVector out(100);
         return ErrorOf(client.MigDataRead(out));
       },
       "has 208 bytes"},
      {"state that is not there", Answering(C::kMigDataRead, MigData{208, 200}),
       [](VfioUserClient& client) {
         ByteVector out(500);
         return ErrorOf(client.MigDataRead(out));
       },
       "not of what was asked"},
      {"info argsz", Answering(C::kDeviceGetInfo, DeviceInfo{0, 3, 9, 5}), Info, "argsz 0"},
      {"info of no PCI device", Answering(C::kDeviceGetInfo, DeviceInfo{16, 1, 9, 5}), Info,
       "not a PCI device"},
      {"info of a million regions", Answering(C::kDeviceGetInfo, DeviceInfo{16, 3, 1000000, 5}),
       Info, "1000000 regions"},
      {"another region", Answering(C::kDeviceGetRegionInfo, RegionInfo{.argsz = 32, .index = 3}),
       Region2, "region 3"},
      {"region argsz", Answering(C::kDeviceGetRegionInfo, RegionInfo{.argsz = 31, .index = 2}),
       Region2, "argsz 31"},
      {"region that always wants more",
       Answering(C::kDeviceGetRegionInfo, RegionInfo{.argsz = 64, .index = 2}), Region2,
       "not of what was asked"},
      {"region that wants 4 GiB",
       Answering(C::kDeviceGetRegionInfo, RegionInfo{.argsz = UINT32_MAX, .index = 2}), Region2,
       "not of what was asked"},
      {"region past the end of any file",
       Answering(C::kDeviceGetRegionInfo, RegionInfo{32, 7, 2, 0, 0x1000, UINT64_MAX}), Region2,
       "of its file"},
      {"irq info of another kind", Answering(C::kDeviceGetIrqInfo, IrqInfo{16, 1, 1, 1}),
       [](VfioUserClient& client) { return ErrorOf(client.GetIrqInfo(IrqIndex::kMsix)); },
       "kind 1"},
      {"four billion vectors", Answering(C::kDeviceGetIrqInfo, IrqInfo{16, 1, 2, UINT32_MAX}),
       [](VfioUserClient& client) { return ErrorOf(client.GetIrqInfo(IrqIndex::kMsix)); },
       "4294967295"},
      {"io fds without fds", Answering(C::kDeviceGetRegionIoFds, RegionIoFds{96, 0, 0, 2}), IoFds0,
       "not of what was asked"},
      {"io fds that want 4 GiB",
       Answering(C::kDeviceGetRegionIoFds, RegionIoFds{UINT32_MAX, 0, 0, 0}), IoFds0,
       "not of what was asked"},
      {"version twice, other major", Answering(C::kVersion, Version{1, 0}, "{}"), version,
       "speaks vfio-user 1.0"},
      {"version minor above", Answering(C::kVersion, Version{0, 1}, "{}"), version,
       "speaks vfio-user 0.1"},
      {"version cut", Answering(C::kVersion, uint16_t{0}), version, "has 2 bytes"},
      {"version broken JSON", Answering(C::kVersion, Version{0, 0}, "{"), version, "JSON"},
      {"version without NUL", Answering(C::kVersion, Version{0, 0}, '{', '}'), version, "NUL"},
      {"version with transfers of 0 bytes",
       Answering(C::kVersion, Version{0, 0}, R"({"capabilities":{"max_data_xfer_size":0}})"),
       version, "max_data_xfer_size"},
      {"version of a megabyte", Answering(C::kVersion, Version{0, 0}, ByteVector(1 << 20)), version,
       "bytes are due"},
  };
}

void Withstand(const Attack& attack) {
  const ptrdiff_t fds_before = CountOpenFds();
  {
    bool negotiated = false;
    FakeServer server([&](FakeServer& self, Frame& frame) {
      // The first VERSION is lawful, so that attacks on VERSION have a client to attack.
      if (frame.command() == Command::kVersion && !negotiated) {
        negotiated = true;
        return false;
      }
      return attack.hook(self, frame);
    });
    auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr).value();
    const Error error = attack.operation(*client);
    EXPECT_THAT(error.message, HasSubstr(attack.sentence)) << attack.name;
    EXPECT_FALSE(client->alive()) << attack.name;
    EXPECT_FALSE(client->Reset()) << attack.name;
  }
  EXPECT_EQ(CountOpenFds(), fds_before) << attack.name;
}

TEST(HostileServerTest, BreaksTheStream) {
  for (const Attack& attack : AttacksOnStream()) Withstand(attack);
}

TEST(HostileServerTest, AnswersWithNonsense) {
  for (const Attack& attack : AttacksOnReplies()) Withstand(attack);
}

TEST(HostileServerTest, RefusesWithEveryKindOfErrno) {
  for (const uint32_t error : {0u, 22u, 5000u, UINT32_MAX}) {
    FakeServer server(OnRead([error](FakeServer& self, Frame& frame) {
      Header header = ErrorHeader(frame.header, 0);
      header.error = error;
      self.SendBytes(Pack(header));
    }));
    const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr).value();
    EXPECT_EQ(Read4(*client).code, error == 22 ? EINVAL : EIO);
    EXPECT_TRUE(client->alive());
  }
}

TEST(HostileServerTest, FloodsItsClientWithDmaAndReadsNothing) {
  FakeServer server(OnRead([](FakeServer& self, Frame&) {
    // Each is refused; the refusals are never read. The client stops to read in its turn.
    std::array<Header, 1000> flood;
    flood.fill(CommandHeader(1, Command{77}, 0));
    for (int i = 0; i < 100'000; ++i) {
      if (!self.TrySend(AsBytes(flood))) return;
    }
    ADD_FAILURE() << "the client reads without end";
  }));
  ClientOptions options;
  options.channel.timeout_ns = 300'000'000;
  const auto client = VfioUserClient::Attach(server.TakeSocket(), options, nullptr).value();
  EXPECT_EQ(Read4(*client).code, ETIMEDOUT);
}

TEST(HostileServerTest, SendsRepliesThatNobodyTakes) {
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.command() != Command{77}) return false;
    for (int i = 0; i < 100; ++i) self.Refuse(frame, EINVAL);
    return true;
  });
  const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr).value();
  ASSERT_TRUE(client->SendRaw(Message(3, Command{77})));
  EXPECT_THAT(Read4(*client).message, HasSubstr("replies that nobody takes"));
}

// The replies that carry lists, without a server.
struct BrokenRegion {
  std::string_view name;
  ByteVector payload;
  size_t fds = 0;
};

TEST(RegionRepliesTest, RefusesBrokenCapabilities) {
  const auto region = [](uint32_t argsz, uint32_t cap_offset) {
    return RegionInfo{argsz, 0xf, 2, cap_offset, 0x10000, 0};
  };
  const SparseMmap one{{1, 1, 0}, 1, 0};
  const BrokenRegion cases[] = {
      {"cap inside the fixed part", Pack(region(64, 16), one, MmapArea{0, 4096})},
      {"cap outside", Pack(region(64, 64), one, MmapArea{0, 4096})},
      {"cap far outside", Pack(region(64, UINT32_MAX), one, MmapArea{0, 4096})},
      {"cap header cut", Pack(region(36, 32), 0)},
      {"cap in a circle", Pack(region(48, 32), RegionCapability{9, 1, 32}, uint64_t{0})},
      {"cap goes back", Pack(region(48, 40), uint64_t{0}, RegionCapability{9, 1, 32})},
      {"sparse cut", Pack(region(40, 32), RegionCapability{1, 1, 0})},
      {"areas missing", Pack(region(48, 32), one)},
      {"areas cut", Pack(region(56, 32), one, uint64_t{0})},
      {"areas by the billion",
       Pack(region(64, 32), SparseMmap{{1, 1, 0}, UINT32_MAX, 0}, MmapArea{0, 4096})},
      {"area past the region", Pack(region(64, 32), one, MmapArea{0xf000, 0x2000})},
      {"area wraps", Pack(region(64, 32), one, MmapArea{UINT64_MAX, 2})},
      {"two fds", Pack(region(64, 32), one, MmapArea{0, 4096}), 2},
      {"cut", ByteVector(31)},
  };
  for (const BrokenRegion& broken : cases) {
    const auto decoded = DecodeRegionInfo(broken.payload, 2, broken.fds);
    ASSERT_FALSE(decoded) << broken.name;
    EXPECT_EQ(decoded.error().code, EPROTO) << broken.name;
  }
}

TEST(RegionRepliesTest, WalksCapabilitiesItDoesNotKnow) {
  const auto payload = Pack(RegionInfo{72, 0xf, 2, 32, 0x10000, 0}, RegionCapability{77, 1, 40},
                            SparseMmap{{1, 1, 0}, 1, 0}, MmapArea{0x1000, 0x1000});
  const auto decoded = DecodeRegionInfo(payload, 2, 1).value();
  ASSERT_EQ(decoded.areas.size(), 1u);
  EXPECT_EQ(decoded.areas[0].offset, 0x1000u);
}

TEST(RegionRepliesTest, TakesTheWholeRegionWhereNothingElseIsSaid) {
  const auto decoded = DecodeRegionInfo(Pack(RegionInfo{32, 7, 2, 0, 0x10000, 0}), 2, 1).value();
  ASSERT_EQ(decoded.areas.size(), 1u);
  EXPECT_EQ(decoded.areas[0].size, 0x10000u);
}

TEST(RegionRepliesTest, RefusesBrokenIoFds) {
  const IoFdEntry entry{0x1000, 4, 0, 0, 0, 0, 0};
  const BrokenRegion cases[] = {
      {"cut", ByteVector(15), 1},
      {"another region", Pack(RegionIoFds{56, 0, 3, 1}, entry), 1},
      {"entry cut", Pack(RegionIoFds{56, 0, 2, 1}, ByteVector(39)), 1},
      {"count above", Pack(RegionIoFds{56, 0, 2, 2}, entry), 1},
      {"count by the billion", Pack(RegionIoFds{56, 0, 2, UINT32_MAX}, entry), 1},
      {"fd that did not come", Pack(RegionIoFds{56, 0, 2, 1}, entry), 0},
  };
  for (const BrokenRegion& broken : cases) {
    uint32_t argsz = 0;
    EXPECT_FALSE(DecodeRegionIoFds(broken.payload, 2, broken.fds, &argsz)) << broken.name;
  }
}

TEST(RegionRepliesTest, TakesLibvfioUsersLongIoFds) {
  const IoFdEntry entry{0x1000, 4, 0, 2, 0, 0, 0x800};  // Behind `flags`: shadow fd and offset.
  uint32_t argsz = 0;
  const auto payload = Pack(RegionIoFds{64, 0, 2, 1}, entry, uint64_t{99});
  const auto entries = DecodeRegionIoFds(payload, 2, 1, &argsz).value();
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].datamatch, 99u);
}

// Found by reading what the fuzz target client does: it asked 64 Ki times.
TEST(HostileServerTest, ARegionInfoThatGrowsEachTimeIsAskedForTwice) {
  int asked = 0;
  FakeServer server([&](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kDeviceGetRegionInfo) return false;
    ++asked;
    RegionInfo info;
    Copy(AsWritableBytes(info), frame.payload.first(sizeof info));
    info.argsz += 8;
    self.Reply(frame, info);
    return true;
  });
  {
    auto client = VfioUserClient::Attach(server.TakeSocket(), {}, nullptr);
    ASSERT_TRUE(client.has_value());
    EXPECT_FALSE((*client)->GetRegionInfo(2).has_value());
    EXPECT_FALSE((*client)->alive());
  }
  server.Join();
  EXPECT_EQ(asked, 2);
}

}  // namespace
}  // namespace farside::vfio_user
