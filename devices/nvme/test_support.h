// What the controller's tests share: a controller with its host, disk and driver.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "devices/nvme/controller.h"
#include "devices/testing/fake_disk.h"
#include "devices/testing/fake_host.h"
#include "devices/testing/nvme_driver.h"

namespace farside::nvme {

inline void PrintTo(Status status, std::ostream* out) {
  *out << StatusName(status) << " (" << static_cast<int>(status) << ")";
}

inline constexpr uint64_t kRamSize = 4 << 20;
inline constexpr uint64_t kHeap = 1 << 20;
inline constexpr uint64_t kDiskSize = 1 << 20;
inline constexpr uint32_t kBlock = 512;
inline constexpr uint64_t kNowhere = 0x4000'0000;  // No memory there.

inline std::string ModeName(DmaMode mode) { return mode == DmaMode::kByFd ? "ByFd" : "ByMessage"; }

// The machine of a test. Destroying it ends whatever is in flight, as a process does.
class Machine {
 public:
  explicit Machine(DmaMode mode, Options options = {}, block::BlockLimits limits = DefaultLimits(),
                   bool sink_owns_msix_table = false)
      : host(loop, mode), irq(sink_owns_msix_table), disk(loop, kDiskSize, limits) {
    host.AddMemory(0, kRamSize);
    options_ = std::move(options);
    if (options_.serial.empty()) options_.serial = "test-1";
    options_.drive = &disk;
    controller = Make();
    driver = std::make_unique<Driver>(*controller, host, loop, kHeap, kRamSize - kHeap);
    driver->Probe();
  }
  ~Machine() { Destroy(std::move(controller)); }

  static block::BlockLimits DefaultLimits() {
    return {.request_alignment = 512,
            .memory_alignment = 1,
            .discard_granularity = 4096,
            .discard_zeroes = true,
            .fast_zeroes = true};
  }

  std::unique_ptr<Controller> Make() {
    auto made = Controller::Create(
        DeviceEnv{.id = "nvme0", .loop = loop, .clock = clock, .dma = host, .irq = irq}, options_);
    EXPECT_TRUE(made) << made.error().message;
    return std::move(*made);
  }

  // As a process ends a device.
  void Destroy(std::unique_ptr<Controller> old) {
    if (old == nullptr) return;
    old->Reset(ResetKind::kShutdown);
    disk.ReleaseAll();
    host.Release();
    EXPECT_TRUE(DrainOf(*old)) << "the device does not come to rest";
  }

  // A new device in the place of the old one, with the same driver.
  void Replace() {
    Destroy(std::move(controller));
    controller = Make();
    driver->Attach(*controller);
  }

  // Runs the loop; whether everything in flight ended.
  bool DrainOf(Controller& device) {
    drained_ = false;
    scope_.Spawn(AwaitDrain(device));
    EXPECT_TRUE(loop.RunUntilIdle());
    return drained_;
  }
  // Starts a drain and leaves it waiting.
  void BeginDrain() {
    drained_ = false;
    scope_.Spawn(AwaitDrain(*controller));
    loop.RunUntilIdle();
  }
  bool drained() const { return drained_; }

  std::vector<std::byte> Save(const Controller& device) {
    StateWriter writer;
    device.Save(writer);
    return writer.Finish();
  }
  Result<void> Load(Controller& device, ConstBytes state) {
    auto reader = StateReader::Parse(state);
    if (!reader) return tl::unexpected(reader.error());
    return device.Load(*reader);
  }

  ManualClock clock;
  Loop loop{clock};
  FakeHost host;
  IrqRecorder irq;
  FakeDisk disk;
  std::unique_ptr<Controller> controller;
  std::unique_ptr<Driver> driver;

 private:
  Task<void> AwaitDrain(Controller& device) {
    co_await device.Drain();
    drained_ = true;
  }

  Options options_;
  TaskScope scope_;
  bool drained_ = false;
};

// Runs each test with both kinds of DMA.
class ControllerTest : public ::testing::TestWithParam<DmaMode> {
 protected:
  void SetUp() override { Start(); }

  void Start(Options options = {}, block::BlockLimits limits = Machine::DefaultLimits()) {
    machine_.reset();
    machine_ = std::make_unique<Machine>(GetParam(), std::move(options), limits);
  }

  Machine& machine() { return *machine_; }
  Driver& driver() { return *machine_->driver; }
  FakeHost& host() { return machine_->host; }
  FakeDisk& disk() { return machine_->disk; }
  IrqRecorder& irq() { return machine_->irq; }
  Controller& controller() { return *machine_->controller; }
  void Run() { EXPECT_TRUE(machine_->loop.RunUntilIdle()); }

  // Enabled, with MSI-X and one I/O queue pair on vector 1.
  void EnableWithQueue(uint32_t entries = 16) {
    driver().EnableMsix();
    ASSERT_TRUE(driver().Enable());
    ASSERT_EQ(driver().CreateQueues(1, entries, 1), Status::kSuccess);
    irq().Forget();
  }
  // Data of `size` bytes that differ from each other.
  uint64_t MakeData(uint64_t size, uint8_t seed) {
    const uint64_t data = driver().Allocate(size);
    FillPattern(host().At(data, size), seed);
    return data;
  }
  static void FillPattern(Bytes out, uint8_t seed) {
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<std::byte>(seed + i * 7 + i / 256 * 13);
    }
  }
  static bool IsPattern(ConstBytes in, uint8_t seed) {
    for (size_t i = 0; i < in.size(); ++i) {
      if (in[i] != static_cast<std::byte>(seed + i * 7 + i / 256 * 13)) return false;
    }
    return true;
  }
  static bool IsFilledWith(ConstBytes in, uint8_t value) {
    for (const std::byte byte : in) {
      if (byte != std::byte{value}) return false;
    }
    return true;
  }

 private:
  std::unique_ptr<Machine> machine_;
};

#define INSTANTIATE_DMA_MODES(suite)                                                           \
  INSTANTIATE_TEST_SUITE_P(Dma, suite, ::testing::Values(DmaMode::kByFd, DmaMode::kByMessage), \
                           [](const auto& param) { return ModeName(param.param); })
// For tests of what happens while an access waits.
#define INSTANTIATE_BY_MESSAGE(suite)                                          \
  INSTANTIATE_TEST_SUITE_P(Dma, suite, ::testing::Values(DmaMode::kByMessage), \
                           [](const auto& param) { return ModeName(param.param); })

}  // namespace farside::nvme
