// What the chip's tests share: a chip with its host, and units that do what their CDB says.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/mutant.h"
#include "devices/core/state.h"
#include "devices/lsi53c895a/chip.h"
#include "devices/testing/fake_host.h"
#include "devices/testing/scripts_assembler.h"

namespace farside::lsi53c895a {

inline constexpr uint32_t kHostSize = 1 << 20;
inline constexpr uint32_t kCode = 0x1000;   // A script in guest memory.
inline constexpr uint32_t kData = 0x10000;  // Buffers of a test.
inline constexpr uint32_t kIoBase = 0xc000;
inline constexpr uint32_t kRegs = 0xfebf'0000;  // BAR 1.
inline constexpr uint32_t kRam = 0xfebf'2000;   // BAR 2.

// A unit with commands of six bytes: opcode, part size / 256, total size / 256, fill, 0, 0.
class TestUnit final : public scsi::LogicalUnit {
 public:
  enum Opcode : uint8_t { kGood = 0x00, kRead = 0x08, kWrite = 0x0a, kFail = 0x1d };

  explicit TestUnit(Loop& loop) : released_(loop) {}

  Task<scsi::Status> Execute(scsi::Request& request) override {
    ++executed;
    const auto at = [&](size_t i) { return std::to_integer<uint8_t>(request.cdb()[i]); };
    const uint8_t opcode = at(0);
    const size_t part = at(1) * size_t{256};
    const size_t total = at(2) * size_t{256};
    const auto fill = std::byte{at(3)};
    ++waiting;
    while (held && !request.aborted()) co_await released_.Wait();
    --waiting;
    if (request.aborted()) co_return scsi::Status::kGood;
    if (opcode == kFail) co_return request.CheckCondition({});
    if (opcode == kGood) co_return scsi::Status::kGood;
    const Bytes data = request.buffer(part);
    const size_t begin = part == 0 ? 0 : request.resumed() / part * part;
    request.Skip(begin);
    for (size_t done = begin; done < total && part != 0; done += part) {
      if (opcode == kRead) {
        std::ranges::fill(data, fill);
        data[0] = static_cast<std::byte>(done / part);
        if (!co_await request.SendIn(data)) co_return scsi::Status::kGood;
      } else {
        if (!co_await request.ReceiveOut(data)) co_return scsi::Status::kGood;
        written.insert(written.end(), data.begin(), data.end());
      }
    }
    co_return scsi::Status::kGood;
  }
  void Reset() override { ++resets; }
  void Save(StateWriter& out) const override { out.Put(uint8_t{1}); }
  Result<void> Load(StateReader& in) override {
    in.Get<uint8_t>();
    return {};
  }
  void SaveFast(FastState&) const override {}
  void LoadFast(FastReader&) override {}

  // Commands wait before they do anything.
  void Hold() { held = true; }
  void Release() {
    held = false;
    released_.NotifyAll();
  }

  int executed = 0;
  int resets = 0;
  int waiting = 0;
  bool held = false;
  std::vector<std::byte> written;

 private:
  Wakeup released_;
};

// The machine of a test, with a driver's verbs. Destroying it ends whatever is in flight.
class Machine {
 public:
  explicit Machine(DmaMode mode) : host(loop, mode) {
    host.AddMemory(0, kHostSize);
    Make();
  }
  ~Machine() { Destroy(); }

  void Make() {
    chip = std::make_unique<Chip>(
        DeviceEnv{.id = "lsi0", .loop = loop, .clock = clock, .dma = host, .irq = irq});
    for (const uint8_t target : {uint8_t{0}, uint8_t{3}}) {
      auto made = std::make_unique<TestUnit>(loop);
      (target == 0 ? unit : other) = made.get();
      EXPECT_TRUE(chip->bus().Attach(target, 0, std::move(made)));
    }
    Probe();
    // Power on: the first command of each unit reports that, and then its sense is fetched.
    for (const uint8_t target : {uint8_t{0}, uint8_t{3}}) {
      const scsi::Nexus nexus{.target = target};
      auto request = chip->bus().Start(nexus, CdbOf({0, 0, 0, 0, 0, 0}));
      loop.RunUntilIdle();
      chip->bus().Retire(*request);
      request = chip->bus().Start(nexus, CdbOf({3, 0, 0, 0, 18, 0}));
      loop.RunUntilIdle();
      request->TakeIn(request->data_in().size());
      loop.RunUntilIdle();
      chip->bus().Retire(*request);
    }
    unit->executed = other->executed = 0;
  }
  void Destroy() {
    if (chip == nullptr) return;
    unit->Release();
    other->Release();
    chip->Reset(ResetKind::kShutdown);
    host.Release();
    EXPECT_TRUE(Drain()) << "the device does not come to rest";
    chip.reset();
  }

  static std::vector<std::byte> CdbOf(std::initializer_list<int> bytes) {
    std::vector<std::byte> cdb;
    for (const int byte : bytes) cdb.push_back(static_cast<std::byte>(byte));
    return cdb;
  }

  void Probe() {
    WriteConfig(0x10, kIoBase);
    WriteConfig(0x14, kRegs);
    WriteConfig(0x18, kRam);
    WriteConfig(0x04, 7);
  }
  void WriteConfig(uint32_t offset, uint32_t value) {
    chip->WriteRegion(Region::kConfig, offset, AsBytes(value));
  }

  template <std::integral T>
  T Read(Reg reg, uint32_t byte = 0) {
    T value{};
    chip->ReadRegion(Region::kBar1, OffsetOf(reg) + byte, AsWritableBytes(value));
    return value;
  }
  uint8_t Read8(Reg reg) { return Read<uint8_t>(reg); }
  uint32_t Read32(Reg reg) { return Read<uint32_t>(reg); }
  template <std::integral T>
  void Write(Reg reg, T value) {
    chip->WriteRegion(Region::kBar1, OffsetOf(reg), AsBytes(value));
  }
  void Write8(Reg reg, int value) { Write(reg, static_cast<uint8_t>(value)); }
  void Write32(Reg reg, uint32_t value) { Write(reg, value); }

  // Puts a script where it is to lie; `start` runs it until nothing happens.
  void Put(const Script& script, uint32_t base) {
    const auto bytes = std::as_bytes(script.words());
    if (base >= kRam) {
      chip->WriteRegion(Region::kBar2, base - kRam, bytes);
    } else {
      Copy(host.At(base, bytes.size()), bytes);
    }
  }
  void Start(uint32_t address) {
    Write32(kDsp, address);
    Run();
  }
  void Run() { loop.RunUntilIdle(10'000); }
  void RunScript(const Script& script, uint32_t base) {
    Put(script, base);
    Start(base);
  }

  void PokeBytes(uint32_t address, std::initializer_list<int> bytes) {
    const auto data = CdbOf(bytes);
    Copy(host.At(address, data.size()), data);
  }

  bool Drain() {
    drained_ = false;
    scope_.Spawn(AwaitDrain());
    EXPECT_TRUE(loop.RunUntilIdle());
    return drained_;
  }
  // The same, while the first unit ends what it was held in.
  bool DrainAndRelease() {
    drained_ = false;
    scope_.Spawn(AwaitDrain());
    unit->Release();
    EXPECT_TRUE(loop.RunUntilIdle());
    return drained_;
  }
  std::vector<std::byte> Save() {
    StateWriter writer;
    chip->Save(writer);
    return writer.Finish();
  }
  Result<void> Load(ConstBytes state) {
    auto reader = StateReader::Parse(state);
    if (!reader) return tl::unexpected(reader.error());
    return chip->Load(*reader);
  }
  FastState SaveFast() const {
    FastState state;
    chip->SaveFast(state);
    return state;
  }

  ManualClock clock;
  Loop loop{clock};
  FakeHost host;
  IrqRecorder irq;
  std::unique_ptr<Chip> chip;
  TestUnit* unit = nullptr;   // Target 0.
  TestUnit* other = nullptr;  // Target 3.

 private:
  Task<void> AwaitDrain() {
    co_await chip->Drain();
    drained_ = true;
  }

  TaskScope scope_;
  bool drained_ = false;
};

// Runs each test with both kinds of DMA.
class ChipTest : public ::testing::TestWithParam<DmaMode> {
 protected:
  ChipTest() : machine_(std::make_unique<Machine>(GetParam())) {}
  ~ChipTest() override { SetMutant(""); }

  Machine& m() { return *machine_; }
  FakeHost& host() { return machine_->host; }
  void Restart() {
    machine_.reset();
    machine_ = std::make_unique<Machine>(GetParam());
  }

  static bool IsFilledWith(ConstBytes in, uint8_t value) {
    return std::ranges::all_of(in, [&](std::byte byte) { return byte == std::byte{value}; });
  }

 private:
  std::unique_ptr<Machine> machine_;
};

#define INSTANTIATE_DMA_MODES(suite)                                                              \
  INSTANTIATE_TEST_SUITE_P(                                                                       \
      Dma, suite, ::testing::Values(DmaMode::kByFd, DmaMode::kByMessage), [](const auto& param) { \
        return std::string(param.param == DmaMode::kByFd ? "ByFd" : "ByMessage");                 \
      })

}  // namespace farside::lsi53c895a
