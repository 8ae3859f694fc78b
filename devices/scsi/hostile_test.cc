// CDBs and data that no driver sends: thousands of random ones, from a seed.
#include <gtest/gtest.h>

#include <cerrno>
#include <optional>

#include "base/random.h"
#include "devices/scsi/test_support.h"

namespace farside::scsi {
namespace {

constexpr int kCommands = 3000;  // Of each test.
constexpr size_t kMaxMoved = 1 << 20;

// The most that a command may send, by its CDB.
std::optional<uint64_t> MostIn(const Data& cdb) {
  const auto be16 = [&](size_t at) { return BeAt<uint16_t>(cdb, at); };
  const auto be32 = [&](size_t at) { return BeAt<uint32_t>(cdb, at); };
  switch (Opcode{At(cdb, 0)}) {
    case Opcode::kRequestSense:
    case Opcode::kModeSense6:
      return At(cdb, 4);
    case Opcode::kInquiry:
      return be16(3);
    case Opcode::kModeSense10:
    case Opcode::kReadToc:
    case Opcode::kGetConfiguration:
    case Opcode::kGetEventStatus:
    case Opcode::kReadDiscInformation:
      return be16(7);
    case Opcode::kMechanismStatus:
      return be16(8);
    case Opcode::kServiceActionIn16:
      return be32(10);
    case Opcode::kReportLuns:
    case Opcode::kMaintenanceIn:
      return be32(6);
    case Opcode::kReadCapacity10:
      return 8;
    case Opcode::kRead6:
    case Opcode::kRead10:
    case Opcode::kRead12:
    case Opcode::kRead16:
      return std::nullopt;
    default:
      return 0;
  }
}

class HostileTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  HostileTest() {
    const Data data = PatternOf(kSize, 1);
    Copy(disk_.data(), data);
    Copy(disc_.data(), data);
    Attach();
  }
  ~HostileTest() override {
    disk_.ReleaseAll();
    disc_.ReleaseAll();
  }
  static constexpr size_t kSize = 4 << 20;

  void Attach() {
    auto disk = Disk::Create({.drive = &disk_, .identity = {.product = "D", .serial = "1"}});
    auto cd = Cd::Create({.drive = &disc_, .identity = {.type = kCdType, .product = "C"}});
    ASSERT_TRUE(disk && cd);
    ASSERT_TRUE(bus().Attach(0, 0, std::move(*disk)));
    ASSERT_TRUE(bus().Attach(0, 1, std::move(*cd)));
  }

  Data RandomCdb() {
    Data cdb(random_.OneIn(20) ? random_.Below(17) : 16);
    for (std::byte& byte : cdb) {
      // Small numbers make lawful fields, which random ones are not.
      const uint64_t value = random_.Next();
      byte = static_cast<std::byte>(random_.OneIn(2) ? 0 : random_.OneIn(2) ? value & 0x1f : value);
    }
    if (!cdb.empty() && !random_.OneIn(8)) {
      cdb[0] = std::byte{static_cast<uint8_t>(kOpcodes[random_.Below(std::size(kOpcodes))].opcode)};
      const size_t size = CdbSize(std::to_integer<uint8_t>(cdb[0]));
      if (size > 6 && cdb.size() == 16 && !random_.OneIn(4)) Fill(Bytes(cdb).subspan(2, 4), 0);
      if (size == 16 && cdb.size() == 16 && !random_.OneIn(4)) Fill(Bytes(cdb).subspan(2, 10), 0);
    }
    cdb.shrink_to_fit();
    return cdb;
  }
  Nexus RandomNexus() {
    return {.target = 0,
            .lun = static_cast<uint8_t>(random_.OneIn(16) ? random_.Below(8) : random_.Below(2)),
            .tag = static_cast<uint8_t>(random_.Below(6)),
            .attribute = TaskAttribute{static_cast<uint8_t>(random_.Below(4))}};
  }

  // Moves some data of the request; whether there is more to do with it.
  bool Step(Request& request, const Data& cdb, uint64_t& moved) {
    if (request.aborted() || request.phase() == Phase::kStatus) return false;
    if (request.phase() == Phase::kDataIn) {
      EXPECT_FALSE(request.data_in().empty());
      const size_t size = 1 + random_.Below(request.data_in().size());
      Data copy(request.data_in().begin(),
                request.data_in().begin() + static_cast<ptrdiff_t>(size));
      request.TakeIn(size);
      moved += size;
      const auto most = MostIn(cdb);
      EXPECT_LE(moved, most.value_or(kMaxMoved * 2)) << "opcode " << std::hex << int{At(cdb, 0)};
    } else if (request.phase() == Phase::kDataOut) {
      EXPECT_FALSE(request.data_out().empty());
      const size_t size = 1 + random_.Below(request.data_out().size());
      for (std::byte& byte : request.data_out().first(size)) {
        byte = static_cast<std::byte>(random_.OneIn(2) ? 0 : random_.Next());
      }
      request.PutOut(size);
      moved += size;
    }
    return moved < kMaxMoved;
  }

  void Event() {
    switch (random_.Below(40)) {
      case 0:
        bus().ResetTarget(0);
        break;
      case 1:
        bus().AbortTaskSet(0, static_cast<uint8_t>(random_.Below(2)));
        break;
      case 2:
        bus().AbortTask(RandomNexus());
        break;
      case 3:
        disk_.FailNext(FakeDisk::Op{static_cast<FakeDisk::Op>(random_.Below(5))}, EIO);
        break;
      case 4:
        disk_.set_read_only(random_.OneIn(3));
        break;
      default:
        break;
    }
  }

  Bus& bus() { return initiator_.bus(); }

  ManualClock clock_;
  Loop loop_{clock_};
  FakeDisk disk_{loop_, kSize, {.request_alignment = 512, .discard_granularity = 512}};
  FakeDisk disc_{loop_, kSize, {.request_alignment = 2048}};
  TestInitiator initiator_{loop_};
  Random random_{GetParam()};
};

TEST_P(HostileTest, OneCommandAtATimeEndsOrWaitsForItsData) {
  for (int i = 0; i < kCommands; ++i) {
    SCOPED_TRACE(i);
    const Data cdb = RandomCdb();
    const auto request = bus().Start(RandomNexus(), cdb);
    uint64_t moved = 0;
    bool more = true;
    while (more) {
      ASSERT_TRUE(loop_.RunUntilIdle());
      ASSERT_TRUE(request->phase() != Phase::kWorking || request->aborted())
          << "opcode " << std::hex << int{At(cdb, 0)} << " goes nowhere";
      more = Step(*request, cdb, moved);
    }
    if (request->phase() != Phase::kStatus) bus().AbortTask(request->nexus());
    bus().Retire(*request);
    if (request->status() == Status::kCheckCondition) {
      (void)initiator_.Run({.target = 0, .lun = request->nexus().lun}, Raw({3, 0, 0, 0, 99, 0}));
    }
    ASSERT_EQ(bus().running(), 0u);
    Event();
  }
}

// Many at once, with block I/O that ends out of order, aborts, resets and migrations.
TEST_P(HostileTest, ManyCommandsAtATimeComeToRest) {
  struct Running {
    std::shared_ptr<Request> request;
    Data cdb;
    uint64_t moved = 0;
  };
  std::vector<Running> running;
  disk_.Hold();
  for (int i = 0; i < kCommands; ++i) {
    SCOPED_TRACE(i);
    Data cdb = RandomCdb();
    running.push_back({bus().Start(RandomNexus(), cdb), cdb});
    for (Running& one : running) {
      if (!random_.OneIn(3)) Step(*one.request, one.cdb, one.moved);
      if (one.moved >= kMaxMoved) bus().AbortTask(one.request->nexus());
      if (one.request->phase() == Phase::kStatus && random_.OneIn(2)) bus().Retire(*one.request);
    }
    std::erase_if(running, [&](const Running& one) {
      return one.request->aborted() || bus().Find(one.request->nexus()) != one.request;
    });
    if (disk_.waiting() != 0) disk_.Release(random_.Below(disk_.waiting()));
    ASSERT_TRUE(loop_.RunUntilIdle());
    Event();
    if (!random_.OneIn(200)) continue;
    disk_.ReleaseAll();
    ASSERT_TRUE(initiator_.Drain());
    const auto state = initiator_.Save();
    initiator_.Replace();
    Attach();
    const auto loaded = initiator_.Load(state);
    ASSERT_TRUE(loaded) << loaded.error().message;
    ASSERT_TRUE(initiator_.Drain());
    for (Running& one : running) {
      const uint64_t moved = one.request->moved();
      one.request = bus().Find(one.request->nexus());
      ASSERT_TRUE(one.request == nullptr || one.request->moved() == moved);
    }
    std::erase_if(running, [](const Running& one) { return one.request == nullptr; });
    disk_.Hold();
  }
  disk_.ReleaseAll();
  bus().ResetAll();
  EXPECT_TRUE(initiator_.Drain());
  EXPECT_EQ(bus().running(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Seed, HostileTest, ::testing::Range<uint64_t>(1, 5));

}  // namespace
}  // namespace farside::scsi
