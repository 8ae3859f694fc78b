// What a device's tap records of it.
#include "devices/server/device_tap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "devices/server/test_support.h"
#include "protocol/trace/trace_reader.h"
#include "protocol/vfio_user_extensions.h"

namespace farside {
namespace {

using testing::ElementsAre;
using trace::Direction;
using trace::Event;
using vfio_user::Command;

constexpr auto kClockAdvance = static_cast<Command>(vfio_user::ExtensionCommand::kClockAdvance);
constexpr auto kInterrupt = static_cast<Command>(vfio_user::ExtensionCommand::kInterrupt);
constexpr uint64_t kNowhere = 0x10'0000;  // No memory is mapped there.
constexpr size_t kSize = 64;              // Of each I/O.

// A message as far as these tests look at it.
struct Seen {
  Direction direction;
  Command command;
  bool reply = false;
  uint32_t error = 0;
  ByteVector data{};  // Of DMA.
  friend bool operator==(const Seen&, const Seen&) = default;
};

// A tapped device with a page of memory at 0, without a server.
class DeviceTapTest : public testing::Test {
 protected:
  DeviceTapTest() {
    auto device = std::make_unique<FakeDevice>(tap_.env(), std::vector<DoorbellRange>{});
    device_ = device.get();
    slot_.Plug(tap_.Wrap(std::move(device)));
    EXPECT_TRUE(
        slot_.dma().Add({.iova = 0, .size = kPage, .readable = true, .writable = true, .offset = 0},
                        UniqueFd(dup(memory_.fd())), /*max_windows=*/1));
    slot_.device().WriteRegion(Region::kConfig, pci::kCommand,
                               AsBytes(uint16_t{pci::kCommandBusMaster}));
  }
  ~DeviceTapTest() override {
    slot_.dma().Clear();
    unlink(path_.c_str());
  }

  void Settle() {
    for (int i = 0; i < 4; ++i) loop_->RunOnce(0);
  }
  std::shared_ptr<FakeDevice::Io> StartIo(uint64_t iova, DmaAccess access) {
    auto io = device_->StartIo({{iova, kSize}}, access);
    Settle();
    return io;
  }
  void EndIo(FakeDevice::Io& io) {
    device_->EndIo(io);
    Settle();
  }

  // The messages of the file, which ends here, without the guest's accesses to registers.
  std::vector<Seen> Messages() {
    EXPECT_TRUE(file_.Finish());
    auto reader = trace::TraceReader::Open(path_).value();
    std::vector<Seen> messages;
    for (auto event = reader->Next().value(); event; event = reader->Next().value()) {
      if (!event->is_message() || event->command() == Command::kRegionRead ||
          event->command() == Command::kRegionWrite) {
        continue;
      }
      const ConstBytes data = event->data_after<vfio_user::DmaAccess>();
      messages.push_back({event->direction, event->command(), event->is_reply(),
                          event->header().error, ByteVector(data.begin(), data.end())});
    }
    return messages;
  }

  const std::string path_ = testing::TempDir() + "/tap-" + std::to_string(getpid()) + ".trace";
  ManualClock clock_;
  std::unique_ptr<EpollLoop> loop_ = EpollLoop::Create(clock_).value();
  SharedMemory memory_{kPage};
  TapFile file_{trace::TraceWriter::Create(
                    path_, {.program = "test", .args = {}, .devices = {{"fake0", "fake"}}})
                    .value(),
                *loop_, clock_};
  Slot slot_{*loop_, "fake0"};
  DeviceTap tap_{file_, 0, slot_.env()};
  FakeDevice* device_ = nullptr;  // The slot's.
};

TEST_F(DeviceTapTest, AReadOfMemoryIsRecordedWithWhatWasThereWhenItBegan) {
  Fill(memory_.bytes(), 5);
  const auto io = StartIo(0, DmaAccess::kRead);
  ASSERT_EQ(io->mapped, DmaStatus::kOk);
  Fill(memory_.bytes(), 6);
  EndIo(*io);
  EXPECT_THAT(Messages(), ElementsAre(Seen{Direction::kOut, Command::kDmaRead},
                                      Seen{Direction::kIn, Command::kDmaRead, true, 0,
                                           ByteVector(kSize, std::byte{5})}));
}

TEST_F(DeviceTapTest, AWriteToMemoryIsRecordedOnceWithWhatIsThereWhenItEnds) {
  const auto io = StartIo(0, DmaAccess::kWrite);
  ASSERT_EQ(io->mapped, DmaStatus::kOk);
  Fill(Bytes(static_cast<std::byte*>(io->iovecs.front().iov_base), kSize), 7);
  EndIo(*io);
  EXPECT_THAT(Messages(), ElementsAre(Seen{Direction::kOut, Command::kDmaWrite, false, 0,
                                           ByteVector(kSize, std::byte{7})},
                                      Seen{Direction::kIn, Command::kDmaWrite, true}));
}

TEST_F(DeviceTapTest, AnAccessThatIsRefusedIsRecordedWithItsError) {
  for (const DmaAccess access : {DmaAccess::kRead, DmaAccess::kWrite}) {
    EXPECT_EQ(StartIo(kNowhere, access)->mapped, DmaStatus::kFault);
  }
  EXPECT_THAT(Messages(), ElementsAre(Seen{Direction::kOut, Command::kDmaRead},
                                      Seen{Direction::kIn, Command::kDmaRead, true, EFAULT},
                                      Seen{Direction::kOut, Command::kDmaWrite},
                                      Seen{Direction::kIn, Command::kDmaWrite, true, EFAULT}));
}

// The memory of those before it is there, and what is behind it was not asked for.
TEST_F(DeviceTapTest, OfSeveralSegmentsOnlyTheOneThatIsRefusedIsRecordedSo) {
  for (const DmaAccess access : {DmaAccess::kRead, DmaAccess::kWrite}) {
    const auto io = device_->StartIo({{0, kSize}, {kNowhere, kSize}, {kSize, kSize}}, access);
    Settle();
    EXPECT_EQ(io->mapped, DmaStatus::kFault);
  }
  EXPECT_THAT(Messages(),
              ElementsAre(Seen{Direction::kOut, Command::kDmaRead},
                          Seen{Direction::kIn, Command::kDmaRead, true, 0, ByteVector(kSize)},
                          Seen{Direction::kOut, Command::kDmaRead},
                          Seen{Direction::kIn, Command::kDmaRead, true, EFAULT},
                          Seen{Direction::kOut, Command::kDmaWrite},
                          Seen{Direction::kIn, Command::kDmaWrite, true, EFAULT}));
}

TEST_F(DeviceTapTest, ATimerIsRecordedBeforeTheInterruptItMakes) {
  slot_.device().WriteRegion(Region::kBar0, FakeDevice::kTimer, AsBytes(uint64_t{1000}));
  Settle();
  clock_.AdvanceTo(1000);
  Settle();
  EXPECT_THAT(Messages(),
              ElementsAre(Seen{Direction::kIn, kClockAdvance}, Seen{Direction::kOut, kInterrupt}));
}

}  // namespace
}  // namespace farside
