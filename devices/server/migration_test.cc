// Migration and the other features of DEVICE_FEATURE, as a client uses them.
#include "devices/server/migration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::Each;
using vfio_user::Command;
using vfio_user::DeviceFeature;
using vfio_user::Feature;
using vfio_user::FeatureMigrationState;
using vfio_user::kFeatureGet;
using vfio_user::kFeatureProbe;
using vfio_user::kFeatureSet;
using vfio_user::MigData;
using State = vfio_user::MigrationState;

constexpr uint32_t kPlenty = 4096;

class MigrationTest : public testing::Test {
 protected:
  static ByteVector FeaturePayload(Feature feature, uint32_t operation, const ByteVector& data,
                                   uint32_t argsz = kPlenty) {
    return Pack(DeviceFeature{.argsz = argsz, .flags = static_cast<uint32_t>(feature) | operation},
                data);
  }
  Received CallFeature(Feature feature, uint32_t operation, const ByteVector& data,
                       uint32_t argsz = kPlenty) {
    return client_->Call(Command::kDeviceFeature, FeaturePayload(feature, operation, data, argsz));
  }
  int SetState(State state) {
    const FeatureMigrationState data{.state = static_cast<uint32_t>(state)};
    const Received reply = CallFeature(Feature::kMigrationState, kFeatureSet, Pack(data));
    if (reply.error() != 0) return reply.error();
    EXPECT_EQ(reply.Get<FeatureMigrationState>(sizeof(DeviceFeature)).state, data.state);
    return 0;
  }
  State GetState() {
    const Received reply = CallFeature(Feature::kMigrationState, kFeatureGet, {});
    return State{reply.Get<FeatureMigrationState>(sizeof(DeviceFeature)).state};
  }
  // From RUNNING, by lawful steps.
  void GoTo(State state) {
    if (state == State::kError) {
      ASSERT_EQ(SetState(State::kResuming), 0);
      ASSERT_EQ(SetState(State::kStop), EINVAL) << "without any data";
    } else {
      ASSERT_EQ(SetState(state), 0);
    }
    ASSERT_EQ(GetState(), state);
  }
  int Reset() { return client_->ErrorOf(Command::kDeviceReset, {}); }

  // What the device has to say in STOP_COPY, read `chunk` bytes at a time.
  ByteVector ReadStream(uint32_t chunk) {
    ByteVector stream;
    for (;;) {
      const MigData ask{.argsz = static_cast<uint32_t>(sizeof ask) + chunk, .size = chunk};
      const Received reply = client_->Call(Command::kMigDataRead, Pack(ask));
      EXPECT_EQ(reply.error(), 0);
      const auto head = reply.Get<MigData>();
      EXPECT_EQ(reply.payload.size(), sizeof head + head.size);
      EXPECT_LE(head.size, chunk);
      stream.insert(stream.end(), reply.payload.begin() + sizeof head, reply.payload.end());
      if (head.size < chunk) return stream;
    }
  }
  int WriteStream(const ByteVector& stream, size_t chunk = 64 << 10) {
    for (size_t at = 0; at < stream.size(); at += chunk) {
      const ConstBytes part = ConstBytes(stream).subspan(at, std::min(chunk, stream.size() - at));
      const MigData head{.argsz = static_cast<uint32_t>(sizeof head + part.size()),
                         .size = static_cast<uint32_t>(part.size())};
      const int error = client_->ErrorOf(Command::kMigDataWrite,
                                         Pack(head, ByteVector(part.begin(), part.end())));
      if (error != 0) return error;
    }
    return 0;
  }
  ByteVector SaveStream() {
    GoTo(State::kStopCopy);
    ByteVector stream = ReadStream(kPlenty);
    EXPECT_EQ(SetState(State::kRunning), 0);
    return stream;
  }
  // The errno of loading `stream` into the device, which runs before and after.
  int LoadStream(const ByteVector& stream) {
    GoTo(State::kResuming);
    EXPECT_EQ(WriteStream(stream), 0);
    return SetState(State::kRunning);
  }
  FakeDevice& device() { return bench_.device(); }

  Bench bench_;
  std::unique_ptr<RawClient> client_ = bench_.ConnectReady();
};

// --- The states.

TEST_F(MigrationTest, ADeviceRunsAgainWhenTheClientThatStoppedItIsGone) {
  for (const State state : {State::kStop, State::kStopCopy, State::kResuming, State::kError}) {
    GoTo(state);
    client_->Close();
    bench_.Settle();
    client_ = bench_.ConnectReady();
    ASSERT_NE(client_, nullptr);
    EXPECT_EQ(GetState(), State::kRunning);
    EXPECT_FALSE(device().paused);
  }
}

TEST_F(MigrationTest, StopAndCopyIsWhatThereIs) {
  const Received reply = CallFeature(Feature::kMigration, kFeatureGet, {});
  EXPECT_EQ(reply.payload.size(), sizeof(DeviceFeature) + 8);
  EXPECT_EQ(reply.Get<DeviceFeature>().argsz, reply.payload.size());
  EXPECT_EQ(reply.Get<uint64_t>(sizeof(DeviceFeature)), vfio_user::kMigrationStopCopy);
  EXPECT_EQ(GetState(), State::kRunning);
}

TEST_F(MigrationTest, EveryEdgeOfTheEightStatesIsAsTheProtocolSays) {
  const ByteVector stream = SaveStream();
  for (const State from :
       {State::kError, State::kStop, State::kRunning, State::kStopCopy, State::kResuming}) {
    for (uint32_t number = 0; number <= 8; ++number) {
      const State to{number};
      GoTo(from);
      // Leaving RESUMING loads what came.
      if (from == State::kResuming) {
        ASSERT_EQ(WriteStream(stream), 0);
      }
      const bool known = to == State::kStop || to == State::kRunning || to == State::kStopCopy ||
                         to == State::kResuming;
      const bool lawful = known && from != State::kError;
      EXPECT_EQ(SetState(to), lawful ? 0 : EINVAL)
          << static_cast<uint32_t>(from) << " to " << number;
      EXPECT_EQ(GetState(), lawful ? to : from) << static_cast<uint32_t>(from) << " to " << number;
      ASSERT_EQ(Reset(), 0) << "leads back to RUNNING from every state";
      ASSERT_EQ(GetState(), State::kRunning);
      ASSERT_FALSE(device().paused);
    }
  }
}

TEST_F(MigrationTest, AStoppedDeviceIsPausedAndARunningOneIsNot) {
  GoTo(State::kStop);
  EXPECT_TRUE(device().paused);
  EXPECT_EQ(SetState(State::kStopCopy), 0);
  EXPECT_TRUE(device().paused);
  EXPECT_EQ(SetState(State::kRunning), 0);
  EXPECT_FALSE(device().paused);
}

TEST_F(MigrationTest, StopWaitsForIoInFlightAndHoldsBackWhatComesBehindIt) {
  SharedMemory memory(kPage);
  ASSERT_EQ(client_->Map(0, kPage, memory.fd()), 0);
  const auto io = device().StartIo({{0, 512}}, DmaAccess::kRead);
  const FeatureMigrationState stop{.state = static_cast<uint32_t>(State::kStop)};
  const auto id = client_->Send(Command::kDeviceFeature,
                                FeaturePayload(Feature::kMigrationState, kFeatureSet, Pack(stop)));
  const auto read =
      client_->Send(Command::kRegionRead, RawClient::ReadPayload(Region::kConfig, 0, 2));
  EXPECT_FALSE(client_->Receive());
  device().EndIo(*io);
  EXPECT_EQ(client_->Await(id).error(), 0);
  EXPECT_EQ(client_->Await(read).error(), 0);
  EXPECT_EQ(GetState(), State::kStop);
}

TEST_F(MigrationTest, StopWaitsForDmaByMessageWhoseAnswerLiesBehindOtherCommands) {
  ASSERT_EQ(client_->Map(0, kPage), 0);
  const auto dma = device().StartRead(0, 16);
  const auto command = client_->Receive();
  ASSERT_TRUE(command);
  const FeatureMigrationState stop{.state = static_cast<uint32_t>(State::kStop)};
  const auto id = client_->Send(Command::kDeviceFeature,
                                FeaturePayload(Feature::kMigrationState, kFeatureSet, Pack(stop)));
  const auto read =
      client_->Send(Command::kRegionRead, RawClient::ReadPayload(Region::kConfig, 0, 2));
  client_->Reply(*command, Pack(command->Get<vfio_user::DmaAccess>(), Counting(16)));
  EXPECT_EQ(client_->Await(id).error(), 0);
  EXPECT_EQ(client_->Await(read).error(), 0);
  EXPECT_EQ(dma->status, DmaStatus::kOk);
}

TEST_F(MigrationTest, AClientThatDiesWhileItStopsTheDeviceIsSucceededWhenThatHasEnded) {
  SharedMemory memory(kPage);
  ASSERT_EQ(client_->Map(0, kPage, memory.fd()), 0);
  const auto io = device().StartIo({{0, 512}}, DmaAccess::kRead);
  const FeatureMigrationState copy{.state = static_cast<uint32_t>(State::kStopCopy)};
  client_->Send(Command::kDeviceFeature,
                FeaturePayload(Feature::kMigrationState, kFeatureSet, Pack(copy)));
  client_->Close();
  bench_.Settle();
  EXPECT_FALSE(bench_.server().connected());
  EXPECT_EQ(bench_.Connect(), nullptr) << "the device is between two states";
  device().EndIo(*io);
  bench_.Settle();
  client_ = bench_.ConnectReady();
  ASSERT_NE(client_, nullptr);
  EXPECT_EQ(GetState(), State::kRunning) << "who stopped it is gone";
}

// --- The data.

TEST_F(MigrationTest, ASavedDeviceGoesOnElsewhereAsItWas) {
  for (uint32_t i = 0; i < 256; ++i) client_->Write(Region::kBar0, 4 * i, 0x01010101 * i);
  client_->Write(Region::kConfig, pci::kBar0, uint32_t{0xfe00'0000});
  device().SetIntxLevel(true);
  const ByteVector stream = SaveStream();
  ASSERT_GT(stream.size(), pci::kConfigSize + FakeDevice::kBar0Size);

  Bench other;
  auto other_client = other.ConnectReady();
  client_.swap(other_client);
  ASSERT_EQ(LoadStream(stream), 0);
  EXPECT_EQ(other.device().bar0, device().bar0);
  EXPECT_EQ(client_->Read<uint32_t>(Region::kConfig, pci::kBar0), 0xfe00'0000u);
  EXPECT_TRUE(client_->Read<uint16_t>(Region::kConfig, pci::kStatus) & pci::kStatusInterrupt);
  EXPECT_EQ(SaveStream(), stream) << "saved again it is the same";
  client_.swap(other_client);
}

TEST_F(MigrationTest, TheStreamIsTheSameInPiecesOfAnySize) {
  GoTo(State::kStopCopy);
  const ByteVector stream = ReadStream(kPlenty);
  for (const uint32_t chunk : {1000u, 4096u, 1u << 20, static_cast<uint32_t>(stream.size())}) {
    ASSERT_EQ(SetState(State::kStop), 0);
    ASSERT_EQ(SetState(State::kStopCopy), 0);
    EXPECT_EQ(ReadStream(chunk), stream) << chunk;
    EXPECT_TRUE(ReadStream(chunk).empty()) << "the end stays the end";
  }
  const MigData nothing{.argsz = sizeof nothing, .size = 0};
  EXPECT_EQ(client_->Call(Command::kMigDataRead, Pack(nothing)).payload.size(), sizeof nothing);

  ASSERT_EQ(SetState(State::kRunning), 0);
  ASSERT_EQ(SetState(State::kResuming), 0);
  ASSERT_EQ(WriteStream(stream, 7), 0);
  EXPECT_EQ(SetState(State::kRunning), 0);
}

TEST_F(MigrationTest, DataMovesInItsStatesOnlyAndNoMoreThanAgreed) {
  const auto read_error = [&](uint32_t size) {
    const MigData ask{.argsz = kPlenty, .size = size};
    return client_->ErrorOf(Command::kMigDataRead, Pack(ask));
  };
  for (const State state : {State::kRunning, State::kStop, State::kResuming}) {
    GoTo(state);
    EXPECT_EQ(read_error(16), EINVAL);
    EXPECT_EQ(WriteStream(Counting(4)), state == State::kResuming ? 0 : EINVAL);
    ASSERT_EQ(Reset(), 0);
  }
  GoTo(State::kStopCopy);
  EXPECT_EQ(WriteStream(Counting(4)), EINVAL);
  EXPECT_EQ(read_error((1 << 20) + 1), EINVAL);
  EXPECT_EQ(read_error(~0u), EINVAL);
  EXPECT_EQ(read_error(16), 0);
}

TEST_F(MigrationTest, AStateThatWillNotEndIsCutOff) {
  GoTo(State::kResuming);
  const ByteVector megabyte(1 << 20);
  for (size_t i = 0; i < Migration::kMaxStateSize / megabyte.size(); ++i) {
    ASSERT_EQ(WriteStream(megabyte, megabyte.size()), 0);
  }
  EXPECT_EQ(WriteStream(Counting(1)), E2BIG);
  EXPECT_EQ(SetState(State::kStop), EINVAL);
}

TEST_F(MigrationTest, ACutStreamIsRefusedAndTheDeviceWorksAfterAReset) {
  const ByteVector stream = SaveStream();
  for (size_t size = 0; size < stream.size(); size += 1 + size / 8) {
    ByteVector cut = stream;
    cut.resize(size);
    ASSERT_EQ(LoadStream(cut), EINVAL) << size << " of " << stream.size() << " bytes";
    ASSERT_EQ(GetState(), State::kError);
    ASSERT_EQ(Reset(), 0);
  }
  EXPECT_EQ(LoadStream(stream), 0);
}

TEST_F(MigrationTest, AStreamWithABitFlippedIsRefusedOrTakenButNothingBreaks) {
  client_->Write(Region::kBar0, 0, uint32_t{1});
  const ByteVector stream = SaveStream();
  size_t refused = 0;
  for (size_t at = 0; at < stream.size(); at += 1 + at / 16) {
    ByteVector flipped = stream;
    flipped[at] ^= std::byte{1} << at % 8;
    const int error = LoadStream(flipped);
    ASSERT_TRUE(error == 0 || error == EINVAL) << "byte " << at;
    refused += error != 0;
    ASSERT_EQ(GetState(), error == 0 ? State::kRunning : State::kError);
    ASSERT_EQ(Reset(), 0);
  }
  EXPECT_GT(refused, 30u);
}

TEST_F(MigrationTest, TheStreamOfAnotherDeviceIsRefused) {
  StateWriter writer;
  writer.Section("nvme.registers", 1);
  writer.Put(uint64_t{0});
  EXPECT_EQ(LoadStream(writer.Finish()), EINVAL);
  ASSERT_EQ(Reset(), 0);
  ByteVector twice = SaveStream();
  AppendTo(twice, ByteVector(twice));
  EXPECT_EQ(LoadStream(twice), EINVAL) << "repeated";
  ASSERT_EQ(Reset(), 0);
  device().refuses_load = true;
  EXPECT_EQ(LoadStream(SaveStream()), EINVAL);
}

// --- Features in general.

TEST_F(MigrationTest, ProbeTellsWhatAFeatureCanDo) {
  const auto probe = [&](uint32_t feature, uint32_t operations) {
    const Received reply = CallFeature(Feature{feature}, kFeatureProbe | operations, {});
    const int error = reply.error();
    EXPECT_EQ(reply.payload.size(), error == 0 ? sizeof(DeviceFeature) : 0);
    return error;
  };
  constexpr uint32_t kBoth = kFeatureGet | kFeatureSet;
  const struct {
    uint32_t feature;
    uint32_t possible;
  } features[] = {
      {1, kFeatureGet}, {2, kBoth}, {6, kFeatureSet}, {7, kFeatureSet}, {8, kFeatureGet}};
  for (const auto& [feature, possible] : features) {
    EXPECT_EQ(probe(feature, 0), 0) << feature;
    for (const uint32_t asked : {kFeatureGet, kFeatureSet, kBoth}) {
      EXPECT_EQ(probe(feature, asked), (asked & ~possible) == 0 ? 0 : EINVAL)
          << feature << " " << asked;
    }
  }
  for (const uint32_t unknown : {0u, 3u, 5u, 9u, 0xffffu}) {
    EXPECT_EQ(probe(unknown, kFeatureGet), ENOTTY) << unknown;
  }
}

TEST_F(MigrationTest, FeaturesAreNotAskedForWhatTheyLack) {
  EXPECT_EQ(CallFeature(Feature::kMigration, kFeatureSet, {}).error(), EINVAL);
  EXPECT_EQ(CallFeature(Feature::kDmaLoggingStop, kFeatureGet, {}).error(), EINVAL);
  EXPECT_EQ(CallFeature(Feature::kMigrationState, kFeatureGet | kFeatureSet, {}).error(), EINVAL);
  EXPECT_EQ(CallFeature(Feature::kMigrationState, 0, {}).error(), EINVAL);
  EXPECT_EQ(CallFeature(Feature::kMigrationState, 1u << 31, {}).error(), EINVAL);
  EXPECT_EQ(CallFeature(Feature{3}, kFeatureGet, {}).error(), ENOTTY);
  EXPECT_EQ(CallFeature(Feature::kMigrationState, kFeatureSet, Counting(7)).error(), EINVAL)
      << "a state cut short";
}

TEST_F(MigrationTest, AReplyThatWouldNotFitTellsHowMuchItTakes) {
  for (const auto& [feature, size] :
       {std::pair(Feature::kMigration, 16u), {Feature::kMigrationState, 16u}}) {
    const Received small = CallFeature(feature, kFeatureGet, {}, size - 1);
    EXPECT_EQ(small.payload.size(), sizeof(DeviceFeature));
    EXPECT_EQ(small.Get<DeviceFeature>().argsz, size);
    EXPECT_EQ(CallFeature(feature, kFeatureGet, {}, size).payload.size(), size);
    EXPECT_EQ(CallFeature(feature, kFeatureGet, {}, ~0u).payload.size(), size);
    EXPECT_EQ(CallFeature(feature, kFeatureGet, {}, 7).error(), EINVAL);
  }
}

// --- The dirty log.

class DirtyLogFeatureTest : public MigrationTest {
 protected:
  DirtyLogFeatureTest() { EXPECT_EQ(client_->Map(0, 64 * kPage, memory_.fd()), 0); }

  int Start(uint64_t page_size, std::vector<vfio_user::DmaLoggingRange> ranges) {
    ByteVector data = Pack(vfio_user::FeatureDmaLoggingStart{
        .page_size = page_size, .num_ranges = static_cast<uint32_t>(ranges.size())});
    for (const auto& range : ranges) AppendTo(data, range);
    return CallFeature(Feature::kDmaLoggingStart, kFeatureSet, data).error();
  }
  Received Report(uint64_t iova, uint64_t length, uint64_t page_size, uint32_t argsz = kPlenty) {
    return CallFeature(Feature::kDmaLoggingReport, kFeatureGet,
                       Pack(vfio_user::FeatureDmaLoggingReport{
                           .iova = iova, .length = length, .page_size = page_size}),
                       argsz);
  }
  uint64_t Bits(const Received& reply) {
    return reply.Get<uint64_t>(sizeof(DeviceFeature) + sizeof(vfio_user::FeatureDmaLoggingReport));
  }

  SharedMemory memory_{64 * kPage};
};

TEST_F(DirtyLogFeatureTest, PagesTheDeviceWroteAreReported) {
  ASSERT_EQ(Start(kPage, {{0, 64 * kPage}}), 0);
  EXPECT_EQ(Start(kPage, {{0, 64 * kPage}}), EBUSY);
  device().StartWrite(5 * kPage, Counting(1));
  bench_.Settle();
  const Received reply = Report(0, 64 * kPage, kPage);
  EXPECT_EQ(reply.payload.size(), 8u + 24 + 8);
  EXPECT_EQ(Bits(reply), 0x20u);
  EXPECT_EQ(Bits(Report(0, 64 * kPage, kPage)), 0u);
  EXPECT_EQ(CallFeature(Feature::kDmaLoggingStop, kFeatureSet, {}).error(), 0);
  EXPECT_EQ(Report(0, 64 * kPage, kPage).error(), EINVAL);
}

TEST_F(DirtyLogFeatureTest, AReportWithoutRoomLosesNothing) {
  ASSERT_EQ(Start(kPage, {{0, 64 * kPage}}), 0);
  device().StartWrite(5 * kPage, Counting(1));
  bench_.Settle();
  const Received small = Report(0, 64 * kPage, kPage, 39);
  EXPECT_EQ(small.payload.size(), sizeof(DeviceFeature));
  EXPECT_EQ(small.Get<DeviceFeature>().argsz, 40u);
  EXPECT_EQ(Bits(Report(0, 64 * kPage, kPage, 40)), 0x20u);
}

TEST_F(DirtyLogFeatureTest, UnmappingKeepsTheLogAndDisconnectEndsIt) {
  ASSERT_EQ(Start(kPage, {{0, 64 * kPage}}), 0);
  device().StartWrite(kPage, Counting(1));
  bench_.Settle();
  const vfio_user::DmaUnmap all{
      .argsz = 24, .flags = vfio_user::kDmaUnmapAll, .iova = 0, .size = 0};
  ASSERT_EQ(client_->ErrorOf(Command::kDmaUnmap, Pack(all)), 0);
  EXPECT_EQ(Bits(Report(0, 64 * kPage, kPage)), 2u);
  client_->Close();
  bench_.Settle();
  client_ = bench_.ConnectReady();
  EXPECT_EQ(Report(0, 64 * kPage, kPage).error(), EINVAL);
  EXPECT_EQ(Start(kPage, {{0, kPage}}), 0);
}

TEST_F(DirtyLogFeatureTest, WrongRangesAndPagesAreRefused) {
  EXPECT_EQ(Start(0, {{0, kPage}}), EINVAL);
  EXPECT_EQ(Start(kPage, {{0, 0}}), EINVAL);
  EXPECT_EQ(Start(kPage, {{~uint64_t{0}, 2}}), EINVAL);
  EXPECT_EQ(Start(kPage, {{0, ~uint64_t{0}}}), E2BIG);
  EXPECT_EQ(CallFeature(Feature::kDmaLoggingStart, kFeatureSet, Counting(15)).error(), EINVAL);
  const vfio_user::FeatureDmaLoggingStart lies{.page_size = kPage, .num_ranges = ~0u};
  EXPECT_EQ(CallFeature(Feature::kDmaLoggingStart, kFeatureSet, Pack(lies, Counting(16))).error(),
            EINVAL);
  ASSERT_EQ(Start(kPage, {{0, uint64_t{1} << 36}}), 0) << "64 GiB";
  EXPECT_EQ(Report(0, uint64_t{1} << 36, kPage).error(), E2BIG) << "2 MiB of bits";
  EXPECT_EQ(Report(0, kPage, 0).error(), EINVAL);
  EXPECT_EQ(Report(0, ~uint64_t{0}, uint64_t{1} << 63).error(), EINVAL);
  EXPECT_EQ(CallFeature(Feature::kDmaLoggingReport, kFeatureGet, Counting(23)).error(), EINVAL);
}

TEST_F(DirtyLogFeatureTest, TheTopOfTheAddressSpaceCanBeLogged) {
  const uint64_t last = ~uint64_t{0} - (kPage - 1);
  SharedMemory memory(kPage);
  ASSERT_EQ(client_->Map(last, kPage, memory.fd()), 0);
  ASSERT_EQ(Start(kPage, {{last, kPage}}), 0);
  device().StartWrite(~uint64_t{0}, Counting(1, 1));
  bench_.Settle();
  EXPECT_EQ(memory.bytes().back(), std::byte{1});
  EXPECT_EQ(Bits(Report(last, kPage, kPage)), 1u);
}

}  // namespace
}  // namespace farside
