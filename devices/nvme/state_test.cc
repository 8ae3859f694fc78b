// Saving and loading, at rest and in the middle of traffic.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/random.h"
#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

using ::testing::HasSubstr;

class StateTest : public ControllerTest {
 protected:
  // Saves, destroys the device and goes on with a new one in the same machine. What the disk holds
  // is released for the old one first: its writes reach the medium, its reads reach nobody.
  void Migrate() {
    const auto state = machine().Save(controller());
    const bool held = disk().waiting() != 0;
    machine().Replace();
    if (held) disk().Hold();
    const auto loaded = machine().Load(controller(), state);
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(machine().Save(controller()), state) << "save, load, save";
  }
  // A device with something in every part of its state.
  void MakeBusy() {
    EnableWithQueue(8);
    ASSERT_EQ(driver().CreateQueues(3, 16, 2), Status::kSuccess);
    driver().RunStatus(0, SetFeatureCommand(FeatureId::kTemperatureThreshold, 350));
    driver().RunStatus(0, SetFeatureCommand(FeatureId::kInterruptVectorConfiguration, 2 | 1 << 16));
    for (int i = 0; i < 5; ++i) driver().RunStatus(1, {.opcode = 0x7e});
    for (int i = 0; i < 2; ++i) driver().Put(0, AdminCommand(AdminOpcode::kAsyncEventRequest));
    driver().Ring(0);
    Run();
    disk().Hold();
    const uint64_t data = driver().Allocate(8192);
    driver().Put(1, IoCommand(IoOpcode::kRead, 3, 1, data));
    driver().Put(1, IoCommand(IoOpcode::kFlush, 0, 1));
    driver().Put(3, IoCommand(IoOpcode::kWrite, 9, 1, data + 4096));
    driver().Ring(1);
    driver().Ring(3);
    Run();
    driver().Set(kIntms, 0x8);
    driver().Put(3, IoCommand(IoOpcode::kFlush, 0, 1));
    driver().Ring(3);
  }
};

TEST_P(StateTest, AFreshDeviceIsTheSameAfterwards) {
  Migrate();
  EXPECT_EQ(driver().Get(kCsts), 0u);
  ASSERT_TRUE(driver().Enable());
}

TEST_P(StateTest, AnIdleDeviceGoesOn) {
  EnableWithQueue(4);
  for (int i = 0; i < 6; ++i) driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1));
  Migrate();
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(driver().RunStatus(1, IoCommand(IoOpcode::kFlush, 0, 1)), Status::kSuccess);
  }
  EXPECT_EQ(irq().msix(1), 12u);
}

TEST_P(StateTest, CommandsThatTheDiskHoldsAreDoneAgain) {
  MakeBusy();
  irq().Forget();
  Migrate();
  EXPECT_EQ(driver().Get(kIntms), 0x8u);
  disk().ReleaseAll();
  Run();
  for (const uint16_t queue : {uint16_t{1}, uint16_t{3}}) {
    for (int i = 0; i < 2; ++i) {
      const auto cqe = driver().Take(queue);
      ASSERT_TRUE(cqe) << queue;
      EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
    }
    EXPECT_FALSE(driver().Take(queue)) << queue;
  }
  EXPECT_EQ(irq().msix(1), 2u);
  driver().Write<uint32_t>(SqTailDoorbell(1000), 1);
  Run();
  const auto event = driver().Take(0);
  ASSERT_TRUE(event) << "the event requests came along";
  EXPECT_EQ(event->dw0, 0x01'0000u);
  driver().RingCompletion(0);
  EXPECT_EQ(driver().Run(0, GetFeatureCommand(FeatureId::kTemperatureThreshold)).dw0, 350u);
  const uint64_t data = driver().Allocate(4096);
  driver().RunStatus(0, GetLogCommand(LogId::kErrors, data, 64));
  EXPECT_EQ(host().Peek<uint64_t>(data), 6u) << "and the error log";
}

TEST_P(StateTest, ADeletionThatWaitsGoesOnWaiting) {
  MakeBusy();
  const uint16_t cid = driver().Put(0, DeleteCommand(AdminOpcode::kDeleteSq, 1));
  driver().Ring(0);
  Run();
  Migrate();
  Run();
  EXPECT_FALSE(driver().Take(0));
  disk().ReleaseAll();
  Run();
  const auto cqe = driver().Take(0);
  ASSERT_TRUE(cqe);
  EXPECT_EQ(cqe->cid, cid);
  EXPECT_EQ(StatusOf(*cqe), Status::kSuccess);
}

TEST_P(StateTest, AResetAndAStartThatWaitGoOn) {
  MakeBusy();
  driver().Set(kCc, 0);
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  Migrate();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  Run();
  EXPECT_EQ(driver().Get(kCsts), 0u) << "the new device has nothing in flight";

  ASSERT_TRUE(driver().Enable());
  disk().Hold();
  driver().Put(0, SetFeatureCommand(FeatureId::kVolatileWriteCache, 0));
  driver().Ring(0);
  Run();
  driver().Set(kCc, 0);
  driver().Set(kCc, kCcEn | kSqeShift << 16 | kCqeShift << 20);
  Migrate();
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  driver().Write<uint32_t>(SqTailDoorbell(0), 1);
  EXPECT_EQ(controller().guest_errors(), 0u) << "running";
}

TEST_P(StateTest, AShutdownGoesOn) {
  EnableWithQueue();
  disk().Hold();
  driver().Set(kCc, driver().Get(kCc) | kCcShnNormal);
  Run();
  Migrate();
  disk().ForgetRequests();
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsShstOccurring);
  EXPECT_EQ(disk().requests().size(), 1u) << "flushed again";
  disk().ReleaseAll();
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsShstComplete);
}

TEST_P(StateTest, ADeadControllerStaysDead) {
  EnableWithQueue();
  host().RemoveMemory(0);
  controller().OnDmaChanged();
  driver().Write<uint32_t>(SqTailDoorbell(1), 1);
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsCfs);
  Migrate();
  Run();
  EXPECT_EQ(driver().Get(kCsts), kCstsRdy | kCstsCfs);
  ASSERT_TRUE(driver().Disable());
}

TEST_P(StateTest, ThatThereWereQueuesIsKept) {
  EnableWithQueue();
  for (const AdminOpcode opcode : {AdminOpcode::kDeleteSq, AdminOpcode::kDeleteCq}) {
    ASSERT_EQ(driver().RunStatus(0, DeleteCommand(opcode, 1)), Status::kSuccess);
  }
  Migrate();
  const Sqe set = SetFeatureCommand(FeatureId::kNumberOfQueues, 0);
  EXPECT_EQ(driver().RunStatus(0, set), Status::kCommandSequenceError);
}

TEST_P(StateTest, AStateOfOtherOptionsIsRefused) {
  MakeBusy();
  const auto state = machine().Save(controller());
  Start({.serial = "test-1", .max_ioqpairs = 2});
  auto loaded = machine().Load(controller(), state);
  ASSERT_FALSE(loaded);
  EXPECT_FALSE(loaded.error().message.empty());
  Start({.serial = "test-1", .msix_qsize = 4});
  loaded = machine().Load(controller(), state);
  ASSERT_FALSE(loaded);
}

// `state` with the payload of section `name` put through `change`.
std::vector<std::byte> WithSection(ConstBytes state, std::string_view name,
                                   const std::function<void(std::vector<std::byte>&)>& change) {
  std::vector<std::byte> out(state.begin(), state.begin() + 12);
  for (size_t at = 12; at < state.size();) {
    const auto name_size = LoadLe<uint8_t>(state.subspan(at));
    const size_t size_at = at + 1 + name_size + 3;
    const auto size = LoadLe<uint32_t>(state.subspan(size_at));
    const auto header = state.subspan(at, size_at - at);
    const auto payload = state.subspan(size_at + 4, size);
    std::vector<std::byte> changed(payload.begin(), payload.end());
    const std::string_view found(reinterpret_cast<const char*>(state.data()) + at + 1, name_size);
    if (found == name) change(changed);
    const auto new_size = static_cast<uint32_t>(changed.size());
    out.insert(out.end(), header.begin(), header.end());
    out.insert(out.end(), AsBytes(new_size).begin(), AsBytes(new_size).end());
    out.insert(out.end(), changed.begin(), changed.end());
    at = size_at + 4 + size;
  }
  return out;
}

TEST_P(StateTest, OfBeforeIoCreatedWasSavedTheQueuesThatAreThereTell) {
  EnableWithQueue();
  auto state = WithSection(machine().Save(controller()), "nvme.queues",
                           [](std::vector<std::byte>& payload) { payload.pop_back(); });
  constexpr std::string_view kName = "nvme.queues";
  const std::string_view text(reinterpret_cast<const char*>(state.data()), state.size());
  StoreLe(Bytes(state).subspan(text.find(kName) + kName.size() + 1), uint16_t{1});
  machine().Replace();
  const auto loaded = machine().Load(controller(), state);
  ASSERT_TRUE(loaded) << loaded.error().message;
  const Sqe set = SetFeatureCommand(FeatureId::kNumberOfQueues, 0);
  EXPECT_EQ(driver().RunStatus(0, set), Status::kCommandSequenceError);
}

// Where the model's own sections begin: header, then the section "pci" with configuration space and
// the MSI-X table.
constexpr size_t kOursAt = 12 + 11 + pci::kConfigSize + 65 * pci::kMsixEntrySize + 16;

// A refused state changes nothing; an accepted one makes a device that runs. Which it was.
bool TryState(Machine& machine, ConstBytes state, const std::vector<std::byte>& before) {
  const auto loaded = machine.Load(*machine.controller, state);
  if (!loaded) {
    EXPECT_FALSE(loaded.error().message.empty());
    EXPECT_EQ(machine.Save(*machine.controller), before);
    return false;
  }
  machine.loop.RunUntilIdle();
  machine.driver->Write<uint32_t>(SqTailDoorbell(1), 1);
  machine.driver->Write<uint32_t>(CqHeadDoorbell(1), 1);
  machine.loop.RunUntilIdle();
  machine.Replace();
  return true;
}

TEST_P(StateTest, AStateWithAnyByteFlippedNeverCrashes) {
  MakeBusy();
  const auto state = machine().Save(controller());
  Machine target(GetParam());
  // The driver's memory as it was, so that what is loaded finds its queues.
  Copy(target.host.At(0, kRamSize), host().At(0, kRamSize));
  target.controller->Reset(ResetKind::kFunction);
  const auto before = target.Save(*target.controller);
  ASSERT_TRUE(target.Load(*target.controller, state));
  target.Replace();
  size_t accepted = 0;
  // Configuration space is PciDevice's: a sample of it will do.
  for (size_t at = 0; at < state.size(); at += at < kOursAt ? 41 : 1) {
    SCOPED_TRACE(testing::Message() << "byte " << at);
    auto damaged = state;
    damaged[at] ^= std::byte{0xff};
    if (TryState(target, damaged, before)) ++accepted;
    if (HasFailure()) return;
  }
  EXPECT_GT(accepted, 100u) << "most of it is the guest's to choose";
}

TEST_P(StateTest, AStateCutAnywhereIsRefused) {
  MakeBusy();
  const auto state = machine().Save(controller());
  Machine target(GetParam());
  target.controller->Reset(ResetKind::kFunction);
  const auto before = target.Save(*target.controller);
  for (size_t size = 0; size < state.size(); size += 3) {
    EXPECT_FALSE(target.Load(*target.controller, ConstBytes(state).first(size))) << size;
  }
  EXPECT_EQ(target.Save(*target.controller), before);
}

TEST_P(StateTest, StatesThatContradictThemselvesAreRefused) {
  using Payload = std::vector<std::byte>;
  MakeBusy();
  auto state = machine().Save(controller());
  const auto error = [&](std::string_view section, const std::function<void(Payload&)>& change) {
    Machine target(GetParam());
    const auto before = target.Save(*target.controller);
    const auto loaded = target.Load(*target.controller, WithSection(state, section, change));
    if (loaded) return std::string();
    EXPECT_EQ(target.Save(*target.controller), before);
    return loaded.error().message;
  };
  const auto poke = [](Payload& payload, size_t at, auto value) {
    StoreLe(Bytes(payload).subspan(at), value);
  };
  constexpr size_t kRow = 5;  // Of nvme.registers: phase and count come first.
  constexpr size_t kCqSize = 2 + 8 + 4 + 4 + 4 + 1 + 1 + 2;
  constexpr size_t kCq1 = 4 + kCqSize;
  constexpr size_t kSq0 = 4 + 3 * kCqSize + 4;
  constexpr size_t kCommandSize = 1 + 2 + 8 + 64 + 16 + 4;
  const char* const sections[] = {"nvme.registers", "nvme.queues", "nvme.commands", "nvme.features",
                                  "nvme.health"};
  for (const char* section : sections) {
    EXPECT_THAT(error(section, [](Payload& p) { p.push_back(std::byte{0}); }),
                HasSubstr("1 bytes too many"));
    EXPECT_NE(error(section, [](Payload& p) { p.pop_back(); }), "");
  }
  EXPECT_THAT(error("nvme.registers", [&](Payload& p) { poke(p, 0, uint8_t{0}); }),
              HasSubstr("contradict phase 0"));
  EXPECT_THAT(error("nvme.registers",
                    [&](Payload& p) {
                      poke(p, 0, uint8_t{0});
                      poke(p, kRow + kCsts * 8, uint64_t{0});
                    }),
              HasSubstr("queues contradict"));
  EXPECT_THAT(error("nvme.registers", [&](Payload& p) { poke(p, kRow + kCap * 8, kCapReset + 1); }),
              HasSubstr("register CAP"));
  EXPECT_THAT(error("nvme.registers", [&](Payload& p) { poke(p, kRow + kIntms * 8, uint64_t{1}); }),
              HasSubstr("contradict"));
  EXPECT_THAT(error("nvme.queues", [&](Payload& p) { poke(p, 4 + 2 + 8, uint32_t{1}); }),
              HasSubstr("completion queue 0"));
  EXPECT_THAT(error("nvme.queues", [&](Payload& p) { poke(p, kSq0 + 26, uint64_t{1} << 40); }),
              HasSubstr("submission queue 0"));
  EXPECT_THAT(error("nvme.queues", [](Payload& p) { p.back() = std::byte{0}; }),
              HasSubstr("queues contradict"));
  EXPECT_THAT(error("nvme.commands", [&](Payload& p) { poke(p, 4, uint8_t{7}); }),
              HasSubstr("entry that is not its own"));
  EXPECT_THAT(error("nvme.commands", [&](Payload& p) { poke(p, 4 + 1, uint16_t{2}); }),
              HasSubstr("has no queue"));
  EXPECT_THAT(error("nvme.commands", [&](Payload& p) { poke(p, 4 + 3, uint64_t{99}); }),
              HasSubstr("was never submitted"));
  EXPECT_THAT(error("nvme.commands", [&](Payload& p) { poke(p, 0, uint32_t{81}); }),
              HasSubstr("81 commands"));
  // The first command as many times as it takes, on the admin queue and on its own.
  const auto repeat = [&](Payload& p, uint32_t times, uint16_t sqid) {
    Payload command(p.begin() + 4, p.begin() + 4 + kCommandSize);
    StoreLe(Bytes(command).subspan(1), sqid);
    poke(p, 0, LoadLe<uint32_t>(p) + times);
    for (; times != 0; --times) p.insert(p.begin() + 4, command.begin(), command.end());
  };
  EXPECT_THAT(error("nvme.commands", [&](Payload& p) { repeat(p, kMaxAdminCommands + 1, 0); }),
              HasSubstr("is one too many"));
  EXPECT_THAT(error("nvme.commands", [&](Payload& p) { repeat(p, 8, 1); }),
              HasSubstr("has no completion queue entry"));
  // Two entries on their way where the completion queue has one: of queue 1 five were read.
  state = WithSection(state, "nvme.queues", [&](Payload& p) { poke(p, kCq1 + 18, uint32_t{6}); });
  const auto post = [&](Payload& p) {
    poke(p, 4, uint8_t{2});
    poke(p, 4 + kCommandSize - 4, uint32_t{5});
  };
  EXPECT_EQ(error("nvme.commands", post), "");
  EXPECT_THAT(error("nvme.commands",
                    [&](Payload& p) {
                      post(p);
                      repeat(p, 1, 1);
                    }),
              HasSubstr("entry that is not its own"));
}

TEST_P(StateTest, RandomlyDamagedStatesNeverCrash) {
  MakeBusy();
  const auto state = machine().Save(controller());
  Machine target(GetParam());
  target.controller->Reset(ResetKind::kFunction);
  const auto before = target.Save(*target.controller);
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    auto damaged = state;
    for (uint64_t n = 1 + random.Below(4); n != 0; --n) {
      damaged[kOursAt + random.Below(damaged.size() - kOursAt)] =
          static_cast<std::byte>(random.Next());
    }
    TryState(target, damaged, before);
    if (HasFailure()) return;
  }
}

INSTANTIATE_DMA_MODES(StateTest);

}  // namespace
}  // namespace farside::nvme
