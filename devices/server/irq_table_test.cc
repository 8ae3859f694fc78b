// Interrupts as a client sets them up with DEVICE_SET_IRQS and receives them.
#include "devices/server/irq_table.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using vfio_user::Command;
using vfio_user::IrqInfo;
using vfio_user::kIrqActionMask;
using vfio_user::kIrqActionTrigger;
using vfio_user::kIrqActionUnmask;
using vfio_user::kIrqDataBool;
using vfio_user::kIrqDataEventfd;
using vfio_user::kIrqDataNone;

constexpr uint32_t kArm = kIrqDataEventfd | kIrqActionTrigger;
constexpr uint32_t kTrigger = kIrqDataNone | kIrqActionTrigger;
constexpr uint32_t kMask = kIrqDataNone | kIrqActionMask;
constexpr uint32_t kUnmask = kIrqDataNone | kIrqActionUnmask;

class IrqTableTest : public testing::Test {
 protected:
  // Messages are writes to memory.
  void EnableBusMaster() { client_->Write(Region::kConfig, pci::kCommand, pci::kCommandBusMaster); }
  void EnableMsix() {
    EnableBusMaster();
    client_->Write(Region::kConfig, FakeDevice::kMsixControl, pci::kMsixEnable);
  }
  void EnableMsi(uint32_t log2_vectors) {
    EnableBusMaster();
    client_->Write(Region::kConfig, FakeDevice::kMsiControl,
                   static_cast<uint16_t>(pci::kMsiEnable | log2_vectors << 4));
  }
  uint64_t Pba() { return client_->Read<uint64_t>(Region::kBar4, FakeDevice::kMsixPba); }
  int SetIrqsBool(uint32_t action, IrqIndex index, uint32_t start, std::vector<uint8_t> bools) {
    const vfio_user::SetIrqs irqs{.argsz = static_cast<uint32_t>(sizeof irqs + bools.size()),
                                  .flags = kIrqDataBool | action,
                                  .index = static_cast<uint32_t>(index),
                                  .start = start,
                                  .count = static_cast<uint32_t>(bools.size())};
    ByteVector payload = Pack(irqs);
    for (const uint8_t value : bools) payload.push_back(std::byte{value});
    return client_->ErrorOf(Command::kDeviceSetIrqs, payload);
  }
  FakeDevice& device() { return bench_.device(); }

  Bench bench_;
  std::unique_ptr<RawClient> client_ = bench_.ConnectReady();
  Eventfds events_{8};
};

TEST_F(IrqTableTest, InfoTellsHowManyThereAreOfEachKind) {
  const auto count = [&](uint32_t index) {
    const IrqInfo ask{.argsz = sizeof ask, .flags = 0, .index = index, .count = 0};
    const Received reply = client_->Call(Command::kDeviceGetIrqInfo, Pack(ask));
    EXPECT_EQ(reply.payload.size(), sizeof ask);
    const auto info = reply.Get<IrqInfo>();
    EXPECT_EQ(info.index, index);
    EXPECT_TRUE(info.flags & vfio_user::kIrqFlagEventfd);
    EXPECT_EQ((info.flags & vfio_user::kIrqFlagAutomasked) != 0, index == 0) << "INTx only";
    return info.count;
  };
  EXPECT_EQ(count(0), 1u);
  EXPECT_EQ(count(1), FakeDevice::kMsiVectors);
  EXPECT_EQ(count(2), FakeDevice::kMsixVectors);
  EXPECT_EQ(count(3), 1u) << "errors";
  EXPECT_EQ(count(4), 1u) << "requests";
}

// --- MSI-X.

TEST_F(IrqTableTest, AnArmedVectorSignalsItsEventfdAndNoOther) {
  EnableMsix();
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 2, 3, events_.fds(0, 3)), 0);
  device().SignalVector(3);
  EXPECT_EQ(events_.Take(0), 0u);
  EXPECT_EQ(events_.Take(1), 1u);
  EXPECT_EQ(events_.Take(2), 0u);
  device().SignalVector(4);
  device().SignalVector(4);
  EXPECT_EQ(events_.Take(2), 2u);
}

TEST_F(IrqTableTest, AVectorWithoutAnEventfdIsPendingAndFiresWhenItIsArmed) {
  EnableMsix();
  device().SignalVector(5);
  device().SignalVector(5);
  EXPECT_EQ(Pba(), 0x20u);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 4, 2, events_.fds(0, 2)), 0);
  EXPECT_EQ(events_.Take(0), 0u);
  EXPECT_EQ(events_.Take(1), 1u) << "once, however often it was signalled";
  EXPECT_EQ(Pba(), 0u);
}

TEST_F(IrqTableTest, DisarmedVectorsKeepQuietAndBecomePending) {
  EnableMsix();
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 3, events_.fds(0, 3)), 0);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 1, 1), 0) << "no fds: QEMU's way to disarm";
  for (uint32_t vector : {0u, 1u, 2u}) device().SignalVector(vector);
  EXPECT_EQ(events_.Take(0), 1u);
  EXPECT_EQ(events_.Take(1), 0u);
  EXPECT_EQ(events_.Take(2), 1u);
  EXPECT_EQ(Pba(), 2u);

  ASSERT_EQ(client_->SetIrqs(kTrigger, IrqIndex::kMsix, 0, 0), 0) << "disable the whole index";
  device().SignalVector(0);
  EXPECT_EQ(events_.Take(0), 0u);
  EXPECT_EQ(Pba(), 3u);
}

TEST_F(IrqTableTest, ArmingAgainReplacesTheEventfd) {
  EnableMsix();
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 1, events_.fds(0, 1)), 0);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 1, events_.fds(1, 1)), 0);
  device().SignalVector(0);
  EXPECT_EQ(events_.Take(0), 0u);
  EXPECT_EQ(events_.Take(1), 1u);
}

TEST_F(IrqTableTest, OneEventfdMayServeSeveralVectors) {
  EnableMsix();
  const std::vector<int> same = {events_.fd(0), events_.fd(0)};
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 2, same), 0);
  device().SignalVector(0);
  device().SignalVector(1);
  EXPECT_EQ(events_.Take(0), 2u);
}

TEST_F(IrqTableTest, ResetForgetsWhatIsPendingButKeepsTheEventfds) {
  EnableMsix();
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 1, events_.fds(0, 1)), 0);
  device().SignalVector(6);
  EXPECT_EQ(Pba(), 0x40u);
  ASSERT_EQ(client_->ErrorOf(Command::kDeviceReset, {}), 0);
  EXPECT_EQ(Pba(), 0u);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 6, 1, events_.fds(1, 1)), 0);
  EXPECT_EQ(events_.Take(1), 0u) << "an interrupt of before the reset";
  EnableMsix();
  device().SignalVector(0);
  EXPECT_EQ(events_.Take(0), 1u);
}

// --- MSI.

TEST_F(IrqTableTest, MsiVectorsSignalTheirEventfds) {
  EnableMsi(2);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsi, 0, 4, events_.fds(0, 4)), 0);
  device().SignalVector(3);
  EXPECT_EQ(events_.Take(3), 1u);
  EXPECT_EQ(events_.Take(0), 0u);
}

// --- Signals that the client asks for.

TEST_F(IrqTableTest, TriggerSignalsTheVectorsThatAreSelected) {
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 4, events_.fds(0, 4)), 0);
  ASSERT_EQ(client_->SetIrqs(kTrigger, IrqIndex::kMsix, 1, 2), 0);
  EXPECT_EQ(events_.Take(0), 0u);
  EXPECT_EQ(events_.Take(1), 1u);
  EXPECT_EQ(events_.Take(2), 1u);
  ASSERT_EQ(SetIrqsBool(kIrqActionTrigger, IrqIndex::kMsix, 0, {1, 0, 255, 0}), 0);
  EXPECT_EQ(events_.Take(0), 1u);
  EXPECT_EQ(events_.Take(1), 0u);
  EXPECT_EQ(events_.Take(2), 1u);
  EXPECT_EQ(events_.Take(3), 0u);
  ASSERT_EQ(client_->SetIrqs(kTrigger, IrqIndex::kMsix, 7, 1), 0) << "nobody listens there";
  EXPECT_EQ(Pba(), 0u);
}

TEST_F(IrqTableTest, ErrorAndRequestInterruptsCanBeArmedAndTriggered) {
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kError, 0, 1, events_.fds(0, 1)), 0);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kRequest, 0, 1, events_.fds(1, 1)), 0);
  ASSERT_EQ(client_->SetIrqs(kTrigger, IrqIndex::kError, 0, 1), 0);
  EXPECT_EQ(events_.Take(0), 1u);
  EXPECT_EQ(events_.Take(1), 0u);
}

// --- INTx.

TEST_F(IrqTableTest, IntxFiresOnceAndAgainAfterUnmaskWhileTheLineIsUp) {
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)), 0);
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 1u);
  device().SetIntxLevel(false);
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 0u) << "masked by the first";
  ASSERT_EQ(client_->SetIrqs(kUnmask, IrqIndex::kIntx, 0, 1), 0);
  EXPECT_EQ(events_.Take(), 1u);
  device().SetIntxLevel(false);
  ASSERT_EQ(client_->SetIrqs(kUnmask, IrqIndex::kIntx, 0, 1), 0);
  EXPECT_EQ(events_.Take(), 0u) << "the line is down";
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 1u);
}

TEST_F(IrqTableTest, AClientsMaskHoldsIntxBack) {
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)), 0);
  ASSERT_EQ(client_->SetIrqs(kMask, IrqIndex::kIntx, 0, 1), 0);
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 0u);
  ASSERT_EQ(SetIrqsBool(kIrqActionUnmask, IrqIndex::kIntx, 0, {0}), 0);
  EXPECT_EQ(events_.Take(), 0u) << "not selected";
  ASSERT_EQ(SetIrqsBool(kIrqActionUnmask, IrqIndex::kIntx, 0, {1}), 0);
  EXPECT_EQ(events_.Take(), 1u);
}

TEST_F(IrqTableTest, IntxThatIsUpBeforeItIsArmedFiresThen) {
  device().SetIntxLevel(true);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)), 0);
  EXPECT_EQ(events_.Take(), 1u);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1), 0);
  ASSERT_EQ(client_->SetIrqs(kUnmask, IrqIndex::kIntx, 0, 1), 0);
  EXPECT_EQ(events_.Take(), 0u) << "disarmed";
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)), 0);
  EXPECT_EQ(events_.Take(), 1u);
}

TEST_F(IrqTableTest, AResampleEventfdUnmasksIntx) {
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)), 0);
  ASSERT_EQ(client_->SetIrqs(kIrqDataEventfd | kIrqActionUnmask, IrqIndex::kIntx, 0, 1,
                             events_.fds(1, 1)),
            0);
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 1u);
  SignalEventfd(events_.fd(1));
  bench_.Settle();
  EXPECT_EQ(events_.Take(), 1u) << "still up, so it fires again";
  device().SetIntxLevel(false);
  SignalEventfd(events_.fd(1));
  bench_.Settle();
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 1u);

  ASSERT_EQ(client_->SetIrqs(kIrqDataEventfd | kIrqActionUnmask, IrqIndex::kIntx, 0, 1), 0);
  SignalEventfd(events_.fd(1));
  bench_.Settle();
  EXPECT_EQ(events_.Take(), 0u) << "taken away again";
}

TEST_F(IrqTableTest, AResampleFdThatIsNoEventfdDoesNotKeepTheLoopBusy) {
  // An epoll instance has no file type either. This one is always ready and can't be read.
  const UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{.events = EPOLLIN, .data = {}};
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, events_.fd(2), &event), 0);
  SignalEventfd(events_.fd(2));
  const int fd = epoll.get();
  ASSERT_EQ(client_->SetIrqs(kIrqDataEventfd | kIrqActionUnmask, IrqIndex::kIntx, 0, 1,
                             std::span(&fd, 1)),
            0);
  bench_.Settle();
  const MonotonicClock clock;
  const uint64_t before = clock.now_ns();
  bench_.loop().RunOnce(/*timeout_ms=*/20);
  EXPECT_GE(clock.now_ns() - before, 15'000'000u) << "the loop had something to do";

  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)), 0);
  device().SetIntxLevel(true);
  EXPECT_EQ(events_.Take(), 1u);
  bench_.Settle();
  EXPECT_EQ(events_.Take(), 0u) << "it unmasks nothing";
}

// --- What a client may get wrong.

TEST_F(IrqTableTest, RangesOutsideOfAnIndexAreRefused) {
  const auto arm = [&](uint32_t index, uint32_t start, uint32_t count) {
    return client_->SetIrqs(kArm, IrqIndex{index}, start, count);
  };
  EXPECT_EQ(arm(2, 0, FakeDevice::kMsixVectors), 0);
  EXPECT_EQ(arm(2, 0, FakeDevice::kMsixVectors + 1), EINVAL);
  EXPECT_EQ(arm(2, FakeDevice::kMsixVectors, 1), EINVAL);
  EXPECT_EQ(arm(2, FakeDevice::kMsixVectors, 0), 0) << "an empty range at the end";
  EXPECT_EQ(arm(2, FakeDevice::kMsixVectors + 1, 0), EINVAL);
  EXPECT_EQ(arm(2, 1, ~0u), EINVAL);
  EXPECT_EQ(arm(2, ~0u, 1), EINVAL);
  EXPECT_EQ(arm(2, ~0u, ~0u), EINVAL);
  EXPECT_EQ(arm(0, 1, 1), EINVAL);
  EXPECT_EQ(arm(5, 0, 0), EINVAL);
  EXPECT_EQ(arm(~0u, 0, 1), EINVAL);
}

TEST_F(IrqTableTest, NeitherOneFdTooManyNorOneTooFewIsTaken) {
  EXPECT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 2, events_.fds(0, 1)), EINVAL);
  EXPECT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 2, events_.fds(0, 3)), EINVAL);
  EXPECT_EQ(client_->SetIrqs(kTrigger, IrqIndex::kMsix, 0, 1, events_.fds(0, 1)), EINVAL);
}

TEST_F(IrqTableTest, FlagsOfNoOrOfSeveralMeaningsAreRefused) {
  for (const uint32_t flags :
       {0u, kIrqDataNone, kIrqActionTrigger, kIrqDataNone | kIrqDataBool | kIrqActionTrigger,
        kTrigger | kIrqActionMask, kTrigger | 0x40u, ~0u}) {
    EXPECT_EQ(client_->SetIrqs(flags, IrqIndex::kIntx, 0, 1), EINVAL) << flags;
  }
}

TEST_F(IrqTableTest, OnlyIntxCanBeMasked) {
  EXPECT_EQ(client_->SetIrqs(kMask, IrqIndex::kMsix, 0, 1), EINVAL);
  EXPECT_EQ(client_->SetIrqs(kUnmask, IrqIndex::kMsi, 0, 1), EINVAL);
  EXPECT_EQ(
      client_->SetIrqs(kIrqDataEventfd | kIrqActionMask, IrqIndex::kIntx, 0, 1, events_.fds(0, 1)),
      EINVAL);
  EXPECT_EQ(client_->SetIrqs(kMask, IrqIndex::kIntx, 0, 0), 0) << "of none";
}

TEST_F(IrqTableTest, BoolsMustBeAsManyAsTheirInterrupts) {
  const auto with_bools = [&](uint32_t count, size_t bools) {
    const vfio_user::SetIrqs irqs{.argsz = sizeof irqs,
                                  .flags = kIrqDataBool | kIrqActionTrigger,
                                  .index = 2,
                                  .start = 0,
                                  .count = count};
    return client_->ErrorOf(Command::kDeviceSetIrqs, Pack(irqs, ByteVector(bools)));
  };
  EXPECT_EQ(with_bools(4, 4), 0);
  EXPECT_EQ(with_bools(4, 3), EINVAL);
  EXPECT_EQ(with_bools(4, 5), EINVAL);
  EXPECT_EQ(with_bools(~0u, 4), EINVAL);
}

TEST_F(IrqTableTest, AnFdThatIsNoEventfdIsRefusedAndNoneOfItsMessageIsTaken) {
  EnableMsix();
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  const UniqueFd pipe_read(pipe_fds[0]);
  const UniqueFd pipe_write(pipe_fds[1]);
  const auto sockets = MakeSocketPair().value();
  const SharedMemory memory(kPage);
  for (const int wrong : {pipe_write.get(), pipe_read.get(), sockets.first.get(), memory.fd()}) {
    const std::vector<int> fds = {events_.fd(0), wrong};
    EXPECT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 2, fds), EINVAL);
    EXPECT_EQ(client_->SetIrqs(kIrqDataEventfd | kIrqActionUnmask, IrqIndex::kIntx, 0, 1,
                               std::span(&wrong, 1)),
              EINVAL);
  }
  device().SignalVector(0);
  EXPECT_EQ(events_.Take(0), 0u) << "vector 0 was not armed";
  EXPECT_EQ(Pba(), 1u);
}

TEST_F(IrqTableTest, AnEventfdThatIsFullDoesNotBlockTheDevice) {
  EnableMsix();
  const UniqueFd blocking(eventfd(0, EFD_CLOEXEC));
  const uint64_t full = ~uint64_t{0} - 1;
  ASSERT_EQ(write(blocking.get(), &full, sizeof full), 8);
  const int fd = blocking.get();
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 1, std::span(&fd, 1)), 0);
  device().SignalVector(0);
  EXPECT_EQ(DrainEventfd(fd), full) << "the client sees an interrupt all the same";
  device().SignalVector(0);
  EXPECT_EQ(DrainEventfd(fd), 1u);
}

TEST_F(IrqTableTest, AnEventfdWhoseClientClosedItIsWrittenToInVain) {
  EnableMsix();
  auto gone = std::make_unique<Eventfds>(1);
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 1, gone->fds()), 0);
  gone.reset();
  device().SignalVector(0);
  EXPECT_EQ(Pba(), 0u) << "it was delivered, as far as the device can know";
}

TEST_F(IrqTableTest, WithTheClientGoneSoAreItsEventfds) {
  EnableMsix();
  const auto before = CountOpenFds();
  ASSERT_EQ(client_->SetIrqs(kArm, IrqIndex::kMsix, 0, 8, events_.fds()), 0);
  ASSERT_EQ(client_->SetIrqs(kIrqDataEventfd | kIrqActionUnmask, IrqIndex::kIntx, 0, 1,
                             events_.fds(0, 1)),
            0);
  EXPECT_EQ(CountOpenFds(), before + 9);
  client_->Close();
  bench_.Settle();
  EXPECT_EQ(CountOpenFds(), before);
  device().SignalVector(0);
  EXPECT_EQ(events_.Take(0), 0u);
}

}  // namespace
}  // namespace farside
