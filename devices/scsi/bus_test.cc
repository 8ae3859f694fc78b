#include "devices/scsi/bus.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "devices/scsi/big_endian.h"
#include "devices/testing/fake_disk.h"
#include "devices/testing/scsi_initiator.h"

namespace farside::scsi {
namespace {

constexpr size_t kSector = 512;

std::vector<std::byte> Cdb(std::initializer_list<int> bytes) {
  std::vector<std::byte> cdb;
  for (const int byte : bytes) cdb.push_back(static_cast<std::byte>(byte));
  return cdb;
}

// A unit of sectors: READ(10) and WRITE(10) move as many as the CDB says from sector LBA on, one
// sector at a time. TEST UNIT READY is good, whatever else fails with the opcode as its ASC.
class SectorUnit final : public LogicalUnit {
 public:
  explicit SectorUnit(FakeDisk& disk) : disk_(disk) {}

  Task<Status> Execute(Request& request) override {
    executed += static_cast<char>('a' + request.nexus().tag);
    const auto opcode = Opcode{std::to_integer<uint8_t>(request.cdb()[0])};
    if (opcode == Opcode::kTestUnitReady) co_return Status::kGood;
    if (opcode != Opcode::kRead10 && opcode != Opcode::kWrite10) {
      co_return request.CheckCondition(
          IllegalRequest(static_cast<uint16_t>(static_cast<uint8_t>(opcode) << 8)));
    }
    const uint64_t first = LoadBe<uint32_t>(request.cdb().subspan(2));
    const uint64_t count = LoadBe<uint16_t>(request.cdb().subspan(7));
    const uint64_t begin = request.resumed() / kSector;
    request.Skip(begin * kSector);
    const Bytes data = request.buffer(kSector);
    for (uint64_t i = begin; i < count; ++i) {
      const iovec iov{.iov_base = data.data(), .iov_len = data.size()};
      if (opcode == Opcode::kWrite10) {
        if (!co_await request.ReceiveOut(data)) co_return Status::kGood;
        (void)co_await disk_.Write((first + i) * kSector, {&iov, 1}, false);
      } else {
        (void)co_await disk_.Read((first + i) * kSector, {&iov, 1});
        if (!co_await request.SendIn(data)) co_return Status::kGood;
      }
    }
    co_return Status::kGood;
  }

  void Reset() override { ++resets; }
  void Save(StateWriter& out) const override { out.Put(uint32_t{7}); }
  Result<void> Load(StateReader& in) override {
    if (in.Get<uint32_t>() != 7) return Fail("not seven");
    return {};
  }
  void SaveFast(FastState& out) const override { out.Put(uint32_t{7}); }
  void LoadFast(FastReader& in) override { EXPECT_EQ(in.Get<uint32_t>(), 7u); }

  std::string executed;  // A letter for each tag, in the order of starting.
  int resets = 0;

 private:
  FakeDisk& disk_;
};

class BusTest : public ::testing::TestWithParam<size_t> {
 protected:
  BusTest() {
    for (size_t i = 0; i < disk_.data().size(); ++i) {
      disk_.data()[i] = static_cast<std::byte>(i * 7 + i / kSector);
    }
    Attach();
  }
  ~BusTest() override { disk_.ReleaseAll(); }

  void Attach() {
    auto unit = std::make_unique<SectorUnit>(disk_);
    unit_ = unit.get();
    ASSERT_TRUE(bus().Attach(3, 0, std::move(unit)));
    // Power on: the first command says so.
    EXPECT_EQ(Run(Untagged(), Cdb({0, 0, 0, 0, 0, 0})).status, Status::kCheckCondition);
    EXPECT_EQ(SenseCode(), asc::kReset);
    unit_->executed.clear();
  }

  static Nexus Untagged() { return {.target = 3}; }
  static Nexus Tagged(char letter, TaskAttribute attribute = TaskAttribute::kSimple) {
    return {.target = 3, .tag = static_cast<uint8_t>(letter - 'a'), .attribute = attribute};
  }
  static std::vector<std::byte> Read(int lba, int count) {
    return Cdb({0x28, 0, 0, 0, 0, lba, 0, 0, count, 0});
  }
  static std::vector<std::byte> Write(int lba, int count) {
    return Cdb({0x2a, 0, 0, 0, 0, lba, 0, 0, count, 0});
  }
  static std::vector<std::byte> TestUnitReady() { return Cdb({0, 0, 0, 0, 0, 0}); }

  Bus& bus() { return initiator_.bus(); }
  TestInitiator::Outcome Run(const Nexus& nexus, ConstBytes cdb, ConstBytes out = {}) {
    return initiator_.Run(nexus, cdb, out);
  }
  std::vector<std::byte> RequestSense(uint8_t lun = 0, int flags = 0) {
    auto outcome = Run({.target = 3, .lun = lun}, Cdb({3, flags, 0, 0, 252, 0}));
    EXPECT_EQ(outcome.status, Status::kGood);
    EXPECT_GE(outcome.in.size(), 8u);
    return outcome.in;
  }
  uint16_t SenseCode(uint8_t lun = 0) {
    const auto data = RequestSense(lun);
    return data.size() == kFixedSenseSize ? LoadBe<uint16_t>(ConstBytes(data).subspan(12)) : 0xffff;
  }
  ConstBytes Sectors(size_t first, size_t count) {
    return ConstBytes(disk_.data()).subspan(first * kSector, count * kSector);
  }
  static std::vector<std::byte> Pattern(size_t size) {
    std::vector<std::byte> data(size);
    for (size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(i * 11 + i / 256 + 3);
    return data;
  }
  static bool Same(ConstBytes a, ConstBytes b) { return std::ranges::equal(a, b); }

  ManualClock clock_;
  Loop loop_{clock_};
  FakeDisk disk_{loop_, 64 * kSector};
  TestInitiator initiator_{loop_, GetParam()};
  SectorUnit* unit_ = nullptr;
};

TEST_P(BusTest, MovesDataBothWays) {
  const auto data = Pattern(3 * kSector);
  const auto written = Run(Tagged('b'), Write(5, 3), data);
  EXPECT_EQ(written.status, Status::kGood);
  EXPECT_EQ(written.out, data.size());
  EXPECT_TRUE(Same(Sectors(5, 3), data));
  const auto read = Run(Untagged(), Read(4, 5));
  EXPECT_EQ(read.status, Status::kGood);
  EXPECT_TRUE(Same(read.in, Sectors(4, 5)));
}

TEST_P(BusTest, RefusesAddressesThatAreTakenOrAbsent) {
  EXPECT_FALSE(bus().Attach(3, 0, std::make_unique<SectorUnit>(disk_)));
  EXPECT_FALSE(bus().Attach(kMaxTargets, 0, std::make_unique<SectorUnit>(disk_)));
  EXPECT_FALSE(bus().Attach(3, kMaxLuns, std::make_unique<SectorUnit>(disk_)));
  EXPECT_TRUE(bus().HasTarget(3));
  EXPECT_FALSE(bus().HasTarget(2));
  EXPECT_FALSE(bus().HasTarget(4));
}

TEST_P(BusTest, TellsTheAdapterOfEachPhaseOnce) {
  const size_t before = initiator_.phases();
  EXPECT_EQ(Run(Untagged(), Read(0, 2)).status, Status::kGood);
  EXPECT_EQ(initiator_.phases() - before, 3u);  // Two sectors and the status.
}

TEST_P(BusTest, AnswersForAbsentLuns) {
  const Nexus absent{.target = 3, .lun = 2};
  const auto inquiry = Run(absent, Cdb({0x12, 0, 0, 0, 96, 0}));
  EXPECT_EQ(inquiry.status, Status::kGood);
  ASSERT_EQ(inquiry.in.size(), size_t{36});
  EXPECT_EQ(inquiry.in[0], std::byte{0x7f});
  EXPECT_EQ(Run(absent, Cdb({0x12, 0, 0, 0, 5, 0})).in.size(), 5u);
  EXPECT_EQ(Run(absent, TestUnitReady()).status, Status::kCheckCondition);
  EXPECT_EQ(SenseCode(2), asc::kLogicalUnitNotSupported);
  EXPECT_EQ(SenseCode(2), asc::kLogicalUnitNotSupported) << "as long as it is asked";
  EXPECT_EQ(SenseCode(0), asc::kNone) << "the unit that is there has none of it";
}

TEST_P(BusTest, ReportsLuns) {
  ASSERT_TRUE(bus().Attach(3, 5, std::make_unique<SectorUnit>(disk_)));
  ASSERT_TRUE(bus().Attach(4, 1, std::make_unique<SectorUnit>(disk_)));
  const auto report = [&](const Nexus& nexus, int select, int allocation) {
    return Run(nexus, Cdb({0xa0, 0, select, 0, 0, 0, 0, 0, 0, allocation, 0, 0}));
  };
  const auto all = report({.target = 3, .lun = 5}, 0, 252);
  EXPECT_EQ(all.status, Status::kGood) << "no unit attention stops it";
  const auto wanted = Cdb({0, 0, 0, 16, 0, 0, 0, 0,  //
                           0, 0, 0, 0,  0, 0, 0, 0,  //
                           0, 5, 0, 0,  0, 0, 0, 0});
  EXPECT_EQ(all.in, wanted);
  EXPECT_EQ(report({.target = 4, .lun = 0}, 2, 252).in.size(), 16u) << "asked of an absent lun";
  EXPECT_EQ(report(Untagged(), 0, 17).in.size(), 17u);
  EXPECT_EQ(report(Untagged(), 1, 252).in.size(), 8u);
  EXPECT_EQ(report(Untagged(), 3, 252).status, Status::kCheckCondition);
  EXPECT_EQ(report(Untagged(), 0, 15).status, Status::kCheckCondition);
}

TEST_P(BusTest, TakesWhatAnOpcodeAsksForOfALongCdb) {
  std::vector<std::byte> cdb = Read(1, 1);
  cdb.resize(16, std::byte{0xff});
  const auto outcome = Run(Untagged(), cdb);
  EXPECT_EQ(outcome.status, Status::kGood);
  EXPECT_TRUE(Same(outcome.in, Sectors(1, 1)));
}

TEST_P(BusTest, RefusesShortCdbsAndGroupsWithoutASize) {
  for (size_t size = 0; size < 10; ++size) {
    std::vector<std::byte> cdb = Read(1, 1);
    cdb.resize(size);
    cdb.shrink_to_fit();
    EXPECT_EQ(Run(Untagged(), cdb).status, Status::kCheckCondition) << size << " bytes";
    EXPECT_EQ(SenseCode(), asc::kInvalidFieldInCdb);
  }
  EXPECT_EQ(unit_->executed, "");
  for (const int opcode : {0x7f, 0xc0, 0xff}) {
    EXPECT_EQ(Run(Untagged(), Cdb({opcode, 0, 0, 0, 0, 0})).status, Status::kCheckCondition);
    EXPECT_EQ(SenseCode(), asc::kInvalidOpcode);
  }
}

TEST_P(BusTest, KeepsSenseDataUntilTheyAreFetched) {
  EXPECT_EQ(Run(Untagged(), Cdb({0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0})).status,
            Status::kCheckCondition);
  const auto descriptor = RequestSense(0, 1);
  EXPECT_EQ(descriptor, Cdb({0x72, 5, 0x42, 0, 0, 0, 0, 0}));
  EXPECT_EQ(SenseCode(), asc::kNone);
  EXPECT_EQ(Run(Untagged(), Cdb({0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0})).status,
            Status::kCheckCondition);
  EXPECT_EQ(Run(Untagged(), TestUnitReady()).status, Status::kGood);
  EXPECT_EQ(SenseCode(), asc::kNone) << "another command came first";
}

TEST_P(BusTest, GivesNoMoreSenseDataThanAskedFor) {
  EXPECT_EQ(Run(Untagged(), Cdb({3, 0, 0, 0, 0, 0})).in.size(), 0u);
  EXPECT_EQ(Run(Untagged(), Cdb({3, 0, 0, 0, 13, 0})).in.size(), 13u);
}

// Two failures at once: the second one's status waits, or its sense data would replace the first's.
TEST_P(BusTest, HoldsAFailureBackUntilTheSenseDataOfTheOneBeforeAreFetched) {
  const auto first = bus().Start(Tagged('a'), Cdb({0x41, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const auto second = bus().Start(Tagged('b'), Cdb({0x43, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  const auto good = bus().Start(Tagged('c'), TestUnitReady());
  EXPECT_EQ(initiator_.Finish(*first).status, Status::kCheckCondition);
  EXPECT_EQ(second->phase(), Phase::kWorking);
  EXPECT_EQ(initiator_.Finish(*good).status, Status::kGood) << "only failures wait";
  EXPECT_EQ(SenseCode(), 0x4100);
  EXPECT_EQ(initiator_.Finish(*second).status, Status::kCheckCondition);
  EXPECT_EQ(SenseCode(), 0x4300);
}

TEST_P(BusTest, SimpleTasksRunAtTheSameTime) {
  disk_.Hold();
  const auto first = bus().Start(Tagged('a'), Read(0, 1));
  const auto second = bus().Start(Tagged('b'), Read(1, 1));
  EXPECT_EQ(disk_.waiting(), 2u);
  disk_.Release(1);
  EXPECT_EQ(initiator_.Finish(*second).status, Status::kGood);
  EXPECT_EQ(first->phase(), Phase::kWorking);
  EXPECT_EQ(bus().running(), 1u);
  disk_.ReleaseAll();
  EXPECT_EQ(initiator_.Finish(*first).status, Status::kGood);
  EXPECT_EQ(bus().running(), 0u);
}

TEST_P(BusTest, AnOrderedTaskWaitsForOlderOnesAndYoungerOnesWaitForIt) {
  disk_.Hold();
  const auto a = bus().Start(Tagged('a'), Read(0, 1));
  const auto b = bus().Start(Tagged('b', TaskAttribute::kOrdered), Read(1, 1));
  const auto c = bus().Start(Tagged('c'), Read(2, 1));
  const auto d = bus().Start(Tagged('d', TaskAttribute::kHeadOfQueue), Read(3, 1));
  loop_.RunUntilIdle();
  EXPECT_EQ(unit_->executed, "ad");
  disk_.ReleaseOne();
  EXPECT_EQ(initiator_.Finish(*a).status, Status::kGood);
  EXPECT_EQ(unit_->executed, "adb") << "a younger head of queue task does not hold it back";
  disk_.ReleaseOne();
  EXPECT_EQ(initiator_.Finish(*d).status, Status::kGood);
  EXPECT_EQ(unit_->executed, "adb");
  disk_.ReleaseAll();
  EXPECT_EQ(initiator_.Finish(*b).status, Status::kGood);
  EXPECT_EQ(unit_->executed, "adbc");
  EXPECT_EQ(initiator_.Finish(*c).status, Status::kGood);
}

TEST_P(BusTest, OverlappedCommandsAbortTheTaskSet) {
  disk_.Hold();
  const auto a = bus().Start(Tagged('a'), Read(0, 1));
  const auto b = bus().Start(Tagged('b'), Read(1, 1));
  const auto untagged = bus().Start(Untagged(), Read(1, 1));
  const auto again = bus().Start(Tagged('b', TaskAttribute::kOrdered), Read(1, 1));
  EXPECT_TRUE(a->aborted() && b->aborted() && untagged->aborted());
  EXPECT_EQ(again->phase(), Phase::kStatus);
  EXPECT_EQ(initiator_.Finish(*again).status, Status::kCheckCondition);
  const auto sense = RequestSense();
  EXPECT_EQ(sense[2], std::byte{0x0b});
  EXPECT_EQ(LoadBe<uint16_t>(ConstBytes(sense).subspan(12)), 0x4d01);
  disk_.ReleaseAll();
  EXPECT_TRUE(initiator_.Drain());
  EXPECT_EQ(bus().Find(Tagged('a')), nullptr);
}

TEST_P(BusTest, ANexusIsInUseUntilItIsRetired) {
  const auto request = bus().Start(Untagged(), TestUnitReady());
  EXPECT_EQ(request->phase(), Phase::kStatus);
  EXPECT_EQ(bus().Find(Untagged()), request);
  bus().Retire(*request);
  bus().Retire(*request);
  EXPECT_EQ(bus().Find(Untagged()), nullptr);
}

TEST_P(BusTest, RefusesMoreTasksThanAUnitTakes) {
  disk_.Hold();
  std::vector<std::shared_ptr<Request>> requests;
  for (size_t i = 0; i < kMaxTasks; ++i) {
    requests.push_back(bus().Start(
        {.target = 3, .tag = static_cast<uint8_t>(i), .attribute = TaskAttribute::kSimple},
        Read(0, 1)));
    EXPECT_EQ(requests.back()->phase(), Phase::kWorking);
  }
  EXPECT_EQ(Run(Untagged(), TestUnitReady()).status, Status::kTaskSetFull);
  // Aborted ones count as long as their I/O lasts.
  bus().AbortTaskSet(3, 0);
  EXPECT_EQ(Run(Untagged(), TestUnitReady()).status, Status::kTaskSetFull);
  disk_.ReleaseAll();
  EXPECT_TRUE(initiator_.Drain());
  EXPECT_EQ(Run(Untagged(), TestUnitReady()).status, Status::kGood);
}

TEST_P(BusTest, AbortsInTheMiddleOfDataIn) {
  const auto request = bus().Start(Untagged(), Read(0, 2));
  ASSERT_EQ(request->phase(), Phase::kDataIn);
  request->TakeIn(100);
  const ConstBytes left = request->data_in();
  const size_t phases = initiator_.phases();
  bus().AbortTask(Untagged());
  EXPECT_TRUE(request->aborted());
  loop_.RunUntilIdle();
  EXPECT_EQ(bus().running(), 0u);
  EXPECT_EQ(initiator_.phases(), phases);
  EXPECT_TRUE(Same(left, Sectors(0, 1).subspan(100))) << "the adapter may still read it";
  request->TakeIn(left.size());
  loop_.RunUntilIdle();
  EXPECT_EQ(Run(Untagged(), TestUnitReady()).status, Status::kGood);
}

TEST_P(BusTest, AbortsInTheMiddleOfDataOut) {
  const std::vector<std::byte> before(Sectors(0, 2).begin(), Sectors(0, 2).end());
  const auto request = bus().Start(Untagged(), Write(0, 2));
  ASSERT_EQ(request->phase(), Phase::kDataOut);
  request->PutOut(100);
  const Bytes left = request->data_out();
  bus().AbortTask(Untagged());
  loop_.RunUntilIdle();
  Fill(left, 0xaa);  // A DMA that was under way.
  request->PutOut(left.size());
  loop_.RunUntilIdle();
  EXPECT_TRUE(Same(Sectors(0, 2), before));
  EXPECT_EQ(Run(Untagged(), TestUnitReady()).status, Status::kGood);
}

TEST_P(BusTest, ANewCommandWaitsForTheBlockIoOfAnAbortedOne) {
  const auto old_data = Pattern(kSector);
  const std::vector<std::byte> new_data(kSector, std::byte{0x55});
  disk_.Hold();
  const auto old_write = bus().Start(Tagged('a'), Write(0, 1));
  EXPECT_EQ(initiator_.Finish(*old_write, old_data).status, Status::kBusy);
  bus().AbortTask(Tagged('a'));
  const auto new_write = bus().Start(Tagged('a'), Write(0, 1));
  loop_.RunUntilIdle();
  EXPECT_EQ(new_write->phase(), Phase::kWorking);
  EXPECT_EQ(Run(Untagged(), Cdb({3, 0, 0, 0, 18, 0})).status, Status::kGood) << "not REQUEST SENSE";
  EXPECT_FALSE(initiator_.Drain());
  disk_.ReleaseAll();
  EXPECT_EQ(initiator_.Finish(*new_write, new_data).status, Status::kGood);
  EXPECT_TRUE(Same(Sectors(0, 1), new_data));
}

TEST_P(BusTest, ResetsAbortEverythingAndAreReportedOnce) {
  disk_.Hold();
  const auto reading = bus().Start(Tagged('a'), Read(0, 1));
  const auto queued = bus().Start(Tagged('b', TaskAttribute::kOrdered), Read(0, 1));
  const auto writing = bus().Start(Tagged('c', TaskAttribute::kHeadOfQueue), Write(0, 1));
  bus().ResetTarget(3);
  EXPECT_TRUE(reading->aborted() && queued->aborted() && writing->aborted());
  EXPECT_EQ(unit_->resets, 1);
  disk_.ReleaseAll();
  EXPECT_TRUE(initiator_.Drain());
  EXPECT_EQ(Run(Tagged('a'), TestUnitReady()).status, Status::kCheckCondition);
  EXPECT_EQ(SenseCode(), asc::kBusDeviceReset);
  EXPECT_EQ(Run(Tagged('a'), TestUnitReady()).status, Status::kGood);
  bus().ResetLogicalUnit(3, 0);
  bus().ResetAll();
  EXPECT_EQ(SenseCode(), asc::kReset) << "REQUEST SENSE reports it as well";
  EXPECT_EQ(Run(Tagged('a'), TestUnitReady()).status, Status::kGood);
}

TEST_P(BusTest, DrainLeavesRequestsThatWaitForTheBus) {
  disk_.set_deferred(true);
  const auto reading = bus().Start(Tagged('a'), Read(0, 2));
  const auto writing = bus().Start(Tagged('b'), Write(4, 2));
  const auto queued = bus().Start(Tagged('c', TaskAttribute::kOrdered), Read(0, 1));
  EXPECT_TRUE(initiator_.Drain());
  EXPECT_EQ(reading->phase(), Phase::kDataIn);
  EXPECT_EQ(writing->phase(), Phase::kDataOut);
  EXPECT_EQ(queued->phase(), Phase::kWorking);
  EXPECT_EQ(bus().running(), 3u);
}

// What moved before the state was saved is not moved again, wherever the cut is.
TEST_P(BusTest, LoadsCommandsInTheMiddleOfTheirData) {
  for (const size_t cut : {0u, 1u, 511u, 512u, 513u, 1023u, 1024u, 1400u}) {
    const auto data = Pattern(3 * kSector);
    Fill(disk_.data().subspan(8 * kSector), 0);
    const auto reading = bus().Start(Tagged('a'), Read(0, 3));
    const auto writing = bus().Start(Tagged('b'), Write(8, 3));
    const auto queued = bus().Start(Tagged('c', TaskAttribute::kOrdered), Read(8, 1));
    const auto failed = bus().Start(Tagged('d', TaskAttribute::kHeadOfQueue),
                                    Cdb({0x4a, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
    std::vector<std::byte> in;
    for (size_t i = 0; i < cut; ++i) {
      in.push_back(reading->data_in()[0]);
      reading->TakeIn(1);
      writing->data_out()[0] = data[i];
      writing->PutOut(1);
      loop_.RunUntilIdle();
    }
    ASSERT_TRUE(initiator_.Drain());
    ASSERT_EQ(failed->phase(), Phase::kStatus);
    const auto state = initiator_.Save();
    initiator_.Replace();
    Attach();
    const auto loaded = initiator_.Load(state);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(initiator_.Save(), state) << "cut at " << cut;

    const auto rest = bus().Find(Tagged('a'));
    ASSERT_NE(rest, nullptr);
    EXPECT_EQ(rest->moved(), cut);
    const auto read = initiator_.Finish(*rest);
    EXPECT_EQ(read.status, Status::kGood);
    in.insert(in.end(), read.in.begin(), read.in.end());
    EXPECT_TRUE(Same(in, Sectors(0, 3)));
    const auto written = initiator_.Finish(*bus().Find(Tagged('b')), ConstBytes(data).subspan(cut));
    EXPECT_EQ(written.status, Status::kGood);
    EXPECT_EQ(written.out, data.size() - cut);
    EXPECT_TRUE(Same(Sectors(8, 3), data)) << "cut at " << cut;
    const auto last = initiator_.Finish(*bus().Find(Tagged('c')));
    EXPECT_TRUE(Same(last.in, ConstBytes(data).first(kSector)));
    const auto ended = bus().Find(Tagged('d'));
    EXPECT_EQ(initiator_.Finish(*ended).status, Status::kCheckCondition);
    EXPECT_EQ(SenseCode(), 0x4a00);
  }
}

TEST_P(BusTest, ACommandThatHadBegunIsNotToldOfWhatHappenedSince) {
  const auto reading = bus().Start(Tagged('a'), Read(0, 1));
  ASSERT_EQ(reading->phase(), Phase::kDataIn);
  unit_->AddUnitAttention(asc::kMediumMayHaveChanged);
  const auto state = initiator_.Save();
  initiator_.Replace();
  Attach();
  ASSERT_TRUE(initiator_.Load(state));
  EXPECT_EQ(initiator_.Finish(*bus().Find(Tagged('a'))).status, Status::kGood);
  EXPECT_EQ(Run(Tagged('a'), TestUnitReady()).status, Status::kCheckCondition);
  EXPECT_EQ(SenseCode(), asc::kMediumMayHaveChanged);
}

// A write that the drive had not confirmed is written again.
TEST_P(BusTest, LoadsACommandInTheMiddleOfBlockIo) {
  const auto data = Pattern(2 * kSector);
  disk_.Hold();
  const auto writing = bus().Start(Tagged('b'), Write(8, 2));
  EXPECT_EQ(initiator_.Finish(*writing, data).out, kSector);
  const auto state = initiator_.Save();
  disk_.FailNext(FakeDisk::Op::kWrite, 5);
  bus().ResetAll();
  disk_.ReleaseAll();
  initiator_.Replace();
  Attach();
  ASSERT_TRUE(initiator_.Load(state));
  const auto outcome =
      initiator_.Finish(*bus().Find(Tagged('b')), ConstBytes(data).subspan(kSector));
  EXPECT_EQ(outcome.status, Status::kGood);
  EXPECT_EQ(outcome.out, kSector);
  EXPECT_TRUE(Same(Sectors(8, 2), data));
}

TEST_P(BusTest, RefusesDamagedStates) {
  (void)bus().Start(Tagged('a'), Read(0, 3));
  (void)bus().Start(Tagged('b'), Write(8, 3));
  const auto state = initiator_.Save();
  for (size_t i = 0; i < state.size(); ++i) {
    for (const int flip : {0x01, 0xff}) {
      auto damaged = state;
      damaged[i] ^= static_cast<std::byte>(flip);
      initiator_.Replace();
      Attach();
      if (initiator_.Load(damaged)) loop_.RunUntilIdle();  // What is taken must not harm.
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Piece, BusTest, ::testing::Values(0u, 1u, 7u, 300u));

}  // namespace
}  // namespace farside::scsi
