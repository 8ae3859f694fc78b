// Random drivers: whatever they do, the chip neither crashes nor holds up its process, and a device
// reset makes it as new.
#include <gtest/gtest.h>

#include "base/random.h"
#include "devices/lsi53c895a/driver.h"

namespace farside::lsi53c895a {
namespace {

constexpr uint64_t kSeeds = 4;
constexpr int kSteps = 60;

class FuzzTest : public ChipTest {
 protected:
  uint32_t Pick(std::initializer_list<uint32_t> values) {
    return *(values.begin() + random_->Below(values.size()));
  }
  // An address that may make sense.
  uint32_t Address() {
    const auto near = static_cast<uint32_t>(random_->Below(64) * 4);
    switch (random_->Below(8)) {
      case 0:
        return kRegs + near;
      case 1:
        return kRegs + OffsetOf(kDsp);
      case 2:
        return kRam + near;
      case 3:
        return static_cast<uint32_t>(random_->Next());
      default:
        return kData + near;
    }
  }
  uint32_t Count() { return Pick({0, 1, 2, 4, 6, 7, 10, 16, 255, 256, 300, 4096, 0xff'ffff}); }

  // Two or three dwords of an instruction that may be lawful.
  std::vector<uint32_t> Instruction() {
    const auto bits = static_cast<uint32_t>(random_->Next());
    switch (random_->Below(9)) {
      case 0:
        return {bits, Address()};
      case 1:
        return {0x4000'0000 | (bits & 0x0700'0000) | Pick({0, 3, 7}) << 16, kRam};
      case 2:
        return {0x4800'0000 + (bits % 5 << 27), kRam};
      case 3:
        return {0xc000'0000 | Count(), Address(), Address()};
      case 4:
        return {0xe000'0000 | (bits & 0x11ff'0007), Address()};
      case 5:
        return {0x6800'0000 | (bits & 0x17ff'ff80), 0};
      case 6:
        return {0x8000'0000 | (bits & 0x3bff'ffff), kRam + (bits & 0xf8)};
      default:
        return {(bits & 0x3f00'0000 & ~Pick({0, 0x3000'0000})) | Count(), Address()};
    }
  }
  void FillRam() {
    std::vector<uint32_t> words;
    // Begin as a command does, mostly.
    if (random_->Below(4) != 0) {
      words = {0x4100'0000 | Pick({0, 3}) << 16,  kRam,
               0x0e00'0000 | Pick({1, 3, 8, 20}), kData,
               0x0a00'0000 | Pick({6, 10, 16}),   kData + 64};
    }
    while (words.size() < 64) {
      const auto next = Instruction();
      words.insert(words.end(), next.begin(), next.end());
    }
    m().chip->WriteRegion(Region::kBar2, 0, std::as_bytes(std::span(words)));
  }
  void FillData() {
    const Bytes data = host().At(kData, 512);
    for (std::byte& byte : data) byte = static_cast<std::byte>(random_->Below(256));
    constexpr int kMessages[] = {0x80, 0xc0, 0x20, 0x06, 0x0c, 0x0d, 0x0e, 0x01, 0x08};
    for (size_t i = 0; i < 20; ++i) {
      data[i] = std::byte{static_cast<uint8_t>(kMessages[random_->Below(std::size(kMessages))])};
    }
    data[64] = std::byte{static_cast<uint8_t>(Pick({TestUnit::kRead, TestUnit::kWrite, 0, 0x12}))};
    data[65] = std::byte{1};
  }
  void Access() {
    std::array<std::byte, 8> bytes{};
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_->Below(256));
    const size_t size = size_t{1} << random_->Below(4);
    const auto region = Region{static_cast<uint32_t>(random_->Below(3))};
    const uint64_t limit = m().chip->info().region(region).size - size;
    const uint64_t offset =
        random_->Below(4) == 0 ? random_->Below(limit + 1) : random_->Below(256 - size);
    if (random_->Below(2) == 0) {
      m().chip->ReadRegion(region, offset, Bytes(bytes).first(size));
    } else {
      m().chip->WriteRegion(region, offset, ConstBytes(bytes).first(size));
    }
  }
  void Step() {
    switch (random_->Below(24)) {
      case 0:
        FillRam();
        [[fallthrough]];
      case 1:
        FillData();
        [[fallthrough]];
      case 2:
      case 3:
        m().Write32(kDsp, kRam);
        break;
      case 4:
        m().Write8(kIstat0, static_cast<int>(Pick({kIstat0Sigp, kIstat0Abrt, 0, kIstat0Srst})));
        break;
      case 5:
        m().Write8(kScntl1, kScntl1Rst);
        m().Write8(kScntl1, 0);
        break;
      case 6:
        m().unit->held ? m().unit->Release() : m().unit->Hold();
        break;
      case 7:
        m().clock.AdvanceTo(m().clock.now_ns() + random_->Below(1'000'000));
        m().chip->OnDeadline();
        break;
      case 8:
        m().Read32(kDstat);
        m().Read<uint16_t>(kSist0);
        break;
      case 9:
        if (random_->Below(8) == 0) m().chip->Reset(ResetKind::kFunction);
        m().Probe();
        m().Write32(kDsa, kData);
        break;
      default:
        Access();
    }
    m().loop.RunUntilIdle(random_->OneIn(4) ? 10 : 2);
  }

  std::optional<Random> random_;
};
INSTANTIATE_DMA_MODES(FuzzTest);

TEST_P(FuzzTest, RandomRegistersAndScripts) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(seed);
    random_.emplace(seed);
    if (seed % 2 == 0) {
      // Registers change inside every DMA.
      host().set_during_wait([this] { Access(); });
    }
    FillRam();
    for (int step = 0; step < kSteps; ++step) Step();
    host().set_during_wait({});
    // A driver that begins anew finds a chip that works.
    m().unit->Release();
    m().other->Release();
    m().chip->Reset(ResetKind::kFunction);
    ASSERT_TRUE(m().Drain());
    EXPECT_EQ(m().chip->bus().running(), 0u);
    m().chip->Resume();
    m().Probe();
    Driver driver(m());
    for (int i = 0; i < 3; ++i) {  // Unit attention, its sense, good.
      driver.Prepare(0, 0, {0x80},
                     i == 1 ? std::vector<int>{3, 0, 0, 0, 18, 0}
                            : std::vector<int>{TestUnit::kGood, 0, 0, 0, 0, 0},
                     kData, 18);
      ASSERT_EQ(driver.Go(0), kCompleted);
    }
    EXPECT_EQ(driver.StatusOf(0), 0);
  }
}

}  // namespace
}  // namespace farside::lsi53c895a
