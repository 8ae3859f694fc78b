// The harness's driver, over its client, against our own NVMe controller behind our own server: in
// another thread over a socket, and in one thread over memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <future>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <vector>

#include "base/epoll_loop.h"
#include "base/random.h"
#include "devices/nvme/controller.h"
#include "devices/server/slot.h"
#include "devices/server/vfio_user_server.h"
#include "devices/testing/fake_disk.h"
#include "harness/drivers/nvme_driver.h"
#include "harness/host/guest_memory.h"
#include "protocol/test_support.h"
#include "protocol/vfio_user_client.h"

namespace farside {
namespace {

using nvme::Status;
using testing::HasSubstr;
using vfio_user::ClientOptions;
using vfio_user::VfioUserClient;

constexpr uint64_t kDiskSize = 4 << 20;
constexpr uint32_t kBlock = 512;

// A controller and its server on a loop.
class Device {
 public:
  explicit Device(std::unique_ptr<Transport> transport)
      : loop_(EpollLoop::Create(clock_).value()),
        slot_(*loop_, "nvme0"),
        disk_(*loop_, kDiskSize,
              {.request_alignment = 512,
               .memory_alignment = 1,
               .discard_granularity = 4096,
               .discard_zeroes = true,
               .fast_zeroes = true}) {
    nvme::Options options;
    options.serial = "harness-1";
    options.drive = &disk_;
    slot_.Plug(nvme::Controller::Create(slot_.env(), options).value());
    server_ = std::make_unique<VfioUserServer>(slot_);
    EXPECT_TRUE(server_->Accept(std::move(transport)));
  }
  ~Device() {
    server_.reset();
    slot_.device().Reset(ResetKind::kShutdown);
    TaskScope scope;
    bool done = false;
    scope.Spawn(Rest(slot_.device(), done));
    EXPECT_TRUE(loop_->RunUntilIdle());
    EXPECT_TRUE(done) << "the device does not come to rest";
  }

  EpollLoop& loop() { return *loop_; }
  VfioUserServer& server() { return *server_; }
  FakeDisk& disk() { return disk_; }

 private:
  static Task<void> Rest(farside::Device& device, bool& done) {
    co_await device.Drain();
    done = true;
  }

  MonotonicClock clock_;
  std::unique_ptr<EpollLoop> loop_;
  Slot slot_;
  FakeDisk disk_;
  std::unique_ptr<VfioUserServer> server_;
};

// A Device on a thread of its own.
class RemoteDevice final : private FdWatcher {
 public:
  explicit RemoteDevice(UniqueFd socket) : stop_(MakeEventfd().value()) {
    std::promise<void> made;
    auto ready = made.get_future();
    thread_ = std::thread([this, socket = std::move(socket), made = std::move(made)]() mutable {
      Device device(SocketTransport::Create(std::move(socket)).value());
      loop_ = &device.loop();
      FdWatch watch;
      ASSERT_TRUE(watch.Start(device.loop(), stop_.get(), EPOLLIN, *this));
      made.set_value();
      device.loop().Run();
    });
    ready.wait();
  }
  ~RemoteDevice() override {
    SignalEventfd(stop_.get());
    thread_.join();
  }

 private:
  void OnReady(uint32_t) override { loop_->Stop(); }

  UniqueFd stop_;
  EpollLoop* loop_ = nullptr;
  std::thread thread_;
};

// How a driver's test sees a device: where it runs, how it reaches memory, how it completes.
struct Way {
  std::string_view name;
  bool remote;
  Reach reach;
  NvmeCompletion completion;
};

void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

class DriveTest : public testing::TestWithParam<Way> {
 protected:
  DriveTest() {
    const MemoryRange ranges[] = {{0, 16 << 20}, {0x1'0000'0000, 4 << 20}};
    memory_ = GuestMemory::Create(ranges, GetParam().reach).value();
    ClientOptions options;
    if (GetParam().remote) {
      auto sockets = MakeSocketPair().value();
      remote_ = std::make_unique<RemoteDevice>(std::move(sockets.first));
      client_ = VfioUserClient::Attach(std::move(sockets.second), options, memory_.get()).value();
    } else {
      auto [ours, theirs] = MemoryTransport::MakePair();
      local_ = std::make_unique<Device>(std::move(theirs));
      options.channel.pump = [device = local_.get()](int) {
        device->server().Pump();
        return device->loop().RunReady(64);
      };
      client_ = VfioUserClient::Attach(std::move(ours), options, memory_.get()).value();
    }
    EXPECT_TRUE(memory_->MapTo(*client_));
  }

  std::unique_ptr<NvmeDriver> Probe() {
    auto driver = NvmeDriver::Probe(*client_, *memory_, {.completion = GetParam().completion});
    EXPECT_TRUE(driver) << driver.error().message;
    return std::move(*driver);
  }
  std::unique_ptr<NvmeDriver> Start() {
    auto driver = Probe();
    const auto enabled = driver->Enable();
    EXPECT_TRUE(enabled) << enabled.error().message;
    const auto created = driver->CreateQueues(2, 8);
    EXPECT_TRUE(created) << created.error().message;
    return driver;
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<RemoteDevice> remote_;
  std::unique_ptr<Device> local_;
  std::unique_ptr<VfioUserClient> client_;
};

constexpr Way kWays[] = {
    {"RemoteByFdMsix", true, Reach::kFd, NvmeCompletion::kMsix},
    {"RemoteByFdIntx", true, Reach::kFd, NvmeCompletion::kIntx},
    {"RemoteByFdPoll", true, Reach::kFd, NvmeCompletion::kPoll},
    {"RemoteByMessageMsix", true, Reach::kMessage, NvmeCompletion::kMsix},
    {"RemoteByMessagePoll", true, Reach::kMessage, NvmeCompletion::kPoll},
    {"LocalByFdMsix", false, Reach::kFd, NvmeCompletion::kMsix},
    {"LocalByMessageIntx", false, Reach::kMessage, NvmeCompletion::kIntx},
    {"LocalByMessagePoll", false, Reach::kMessage, NvmeCompletion::kPoll},
};
INSTANTIATE_TEST_SUITE_P(Ways, DriveTest, testing::ValuesIn(kWays),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(DriveTest, IdentifiesTheController) {
  const auto driver = Start();
  EXPECT_EQ(driver->controller().serial, "harness-1");
  EXPECT_FALSE(driver->controller().model.empty());
  EXPECT_EQ(driver->controller().max_transfer, 4096u << 7);
  EXPECT_EQ(driver->controller().namespaces, 1u);
  EXPECT_EQ(driver->name_space().block_size, kBlock);
  EXPECT_EQ(driver->name_space().blocks, kDiskSize / kBlock);
  EXPECT_EQ(driver->function().class_code(), 0x010802u);
}

TEST_P(DriveTest, ReadsWhatItWroteWithEveryKindOfPrp) {
  const auto driver = Start();
  // PRP1 alone; PRP2 a page; PRP2 a list; the largest transfer.
  for (const size_t size : {size_t{kBlock}, size_t{8192}, size_t{12288}, size_t{4096} << 7}) {
    const ByteVector data = Counting(size, static_cast<uint8_t>(size >> 9));
    ByteVector back(size);
    ASSERT_EQ(driver->Write(1, 3, data).value(), Status::kSuccess) << size;
    ASSERT_EQ(driver->Read(2, 3, back).value(), Status::kSuccess) << size;
    EXPECT_EQ(back, data) << size;
    EXPECT_EQ(driver->Compare(1, 3, data).value(), Status::kSuccess);
    back[size - 1] ^= std::byte{1};
    EXPECT_EQ(driver->Compare(1, 3, back).value(), Status::kCompareFailure);
  }
}

TEST_P(DriveTest, FlushesZeroesAndTrims) {
  const auto driver = Start();
  const ByteVector ones(32768, std::byte{0xff});
  ASSERT_EQ(driver->Write(1, 0, ones, /*fua=*/true).value(), Status::kSuccess);
  EXPECT_EQ(driver->Flush(1).value(), Status::kSuccess);
  EXPECT_EQ(driver->WriteZeroes(1, 8, 8).value(), Status::kSuccess);
  const nvme::DsmRange ranges[] = {{.blocks = 8, .first_block = 24},
                                   {.blocks = 8, .first_block = 40}};
  EXPECT_EQ(driver->Trim(1, ranges).value(), Status::kSuccess);
  ByteVector back(32768);
  ASSERT_EQ(driver->Read(1, 0, back).value(), Status::kSuccess);
  for (size_t page = 0; page < 8; ++page) {
    const bool zero = page == 1 || page == 3 || page == 5;
    EXPECT_EQ(back[page * 4096], std::byte(zero ? 0 : 0xff)) << page;
  }
}

TEST_P(DriveTest, ReportsTheStatusOfWhatFails) {
  const auto driver = Start();
  ByteVector data(kBlock);
  EXPECT_EQ(driver->Read(1, kDiskSize / kBlock, data).value(), Status::kLbaOutOfRange);
  const auto unknown = driver->Execute(1, {.opcode = 0x7e, .nsid = 1}).value();
  EXPECT_EQ(nvme::StatusOf(unknown), Status::kInvalidOpcode);
  const auto feature = driver->GetFeature(nvme::FeatureId::kNumberOfQueues).value();
  EXPECT_EQ(nvme::StatusOf(feature), Status::kSuccess);
  ByteVector log(512);
  EXPECT_EQ(driver->GetLog(nvme::LogId::kSmart, log).value(), Status::kSuccess);
}

TEST_P(DriveTest, RefusesWhatItCannotSend) {
  auto driver = Probe();
  EXPECT_FALSE(driver->Flush(1)) << "no queue yet";
  ASSERT_TRUE(driver->Enable());
  EXPECT_FALSE(driver->CreateQueues(60000, 8));
  EXPECT_THAT(driver->CreateQueues(1, 60000).error().message, HasSubstr("Invalid Queue Size"));
  ASSERT_TRUE(driver->CreateQueues(1, 4));
  ByteVector odd(100);
  EXPECT_FALSE(driver->Read(1, 0, odd));
  ByteVector huge(2 << 20);
  EXPECT_FALSE(driver->Read(1, 0, huge));
  EXPECT_TRUE(client_->alive());
}

TEST_P(DriveTest, KeepsManyCommandsInFlight) {
  const auto driver = Start();
  const uint64_t data = memory_->Allocate(7 * 4096).value();
  Random random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<uint16_t> cids;
    for (uint64_t i = 0; i < 7; ++i) {
      const auto cid = driver->Submit(1, {.opcode = 2,
                                          .nsid = 1,
                                          .prp1 = data + i * 4096,
                                          .cdw10 = static_cast<uint32_t>(random.Below(1000)),
                                          .cdw12 = 7});
      ASSERT_TRUE(cid) << cid.error().message;
      cids.push_back(*cid);
    }
    EXPECT_EQ(driver->Submit(1, {.opcode = 2}).error().code, EBUSY);
    for (auto cid = cids.rbegin(); cid != cids.rend(); ++cid) {
      EXPECT_EQ(nvme::StatusOf(driver->Wait(1, *cid).value()), Status::kSuccess);
    }
  }
}

TEST_P(DriveTest, EnablesAgainAfterAResetAndAShutdown) {
  auto driver = Start();
  ByteVector data = Counting(4096);
  ASSERT_EQ(driver->Write(1, 0, data).value(), Status::kSuccess);
  ASSERT_TRUE(driver->DeleteQueue(2));
  ASSERT_TRUE(driver->Shutdown());
  ASSERT_TRUE(driver->Enable());
  EXPECT_FALSE(driver->Flush(1)) << "queues are gone";
  driver.reset();
  ASSERT_TRUE(client_->Reset());
  driver = Start();
  ByteVector back(4096);
  ASSERT_EQ(driver->Read(1, 0, back).value(), Status::kSuccess);
  EXPECT_EQ(back, data);
}

TEST_P(DriveTest, GivesBackEveryPage) {
  const uint64_t first = memory_->Allocate(1).value();
  memory_->Free(first, 1);
  {
    const auto driver = Start();
    ByteVector data(4096 << 7);
    ASSERT_EQ(driver->Read(1, 0, data).value(), Status::kSuccess);
    ASSERT_TRUE(driver->Disable());
  }
  EXPECT_EQ(memory_->Allocate(16 << 20).value(), first) << "the whole first range is free again";
}

TEST_P(DriveTest, InterruptsComeOnTheQueuesVector) {
  const auto driver = Start();
  ByteVector data(kBlock);
  ASSERT_EQ(driver->Read(2, 0, data).value(), Status::kSuccess);
  if (GetParam().completion == NvmeCompletion::kMsix) {
    EXPECT_EQ(driver->irqs()->total(2), 1u);
    EXPECT_EQ(driver->irqs()->total(1), 0u);
    EXPECT_GT(driver->irqs()->total(0), 0u);
  } else if (GetParam().completion == NvmeCompletion::kIntx) {
    EXPECT_GT(driver->irqs()->total(0), 3u);
  } else {
    EXPECT_EQ(driver->irqs(), nullptr);
  }
}

}  // namespace
}  // namespace farside
