// What the tests of disks and CD drives share: a unit on a bus, and CDBs.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <memory>
#include <ostream>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "devices/scsi/big_endian.h"
#include "devices/scsi/bus.h"
#include "devices/scsi/cd.h"
#include "devices/scsi/disk.h"
#include "devices/testing/fake_disk.h"
#include "devices/testing/scsi_initiator.h"

namespace farside::scsi {

using Data = std::vector<std::byte>;

inline Data Raw(std::initializer_list<int> bytes) {
  Data data;
  for (const int byte : bytes) data.push_back(static_cast<std::byte>(byte));
  return data;
}
// A CDB with an LBA and a count in the places of its size; `flags` is byte 1.
inline Data Cdb(Opcode opcode, uint64_t lba, uint64_t count, uint8_t flags = 0) {
  Data cdb(CdbSize(static_cast<uint8_t>(opcode)));
  const Bytes out(cdb);
  if (cdb.size() == 6) {
    StoreBe(out, static_cast<uint32_t>(lba & 0x1f'ffff));
    out[4] = static_cast<std::byte>(count);
  } else if (cdb.size() == 10) {
    StoreBe(out.subspan(2), static_cast<uint32_t>(lba));
    StoreBe(out.subspan(7), static_cast<uint16_t>(count));
  } else if (cdb.size() == 12) {
    StoreBe(out.subspan(2), static_cast<uint32_t>(lba));
    StoreBe(out.subspan(6), static_cast<uint32_t>(count));
  } else {
    StoreBe(out.subspan(2), lba);
    StoreBe(out.subspan(10), static_cast<uint32_t>(count));
  }
  out[0] = std::byte{static_cast<uint8_t>(opcode)};
  if (cdb.size() != 6) out[1] = std::byte{flags};
  return cdb;
}
inline Data PatternOf(size_t size, uint8_t seed) {
  Data data(size);
  for (size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(seed + i * 7 + i / 256 * 13);
  return data;
}
inline bool Same(ConstBytes a, ConstBytes b) { return std::ranges::equal(a, b); }
inline uint8_t At(const Data& data, size_t index) {
  return index < data.size() ? std::to_integer<uint8_t>(data[index]) : 0xee;
}
template <std::unsigned_integral T>
T BeAt(const Data& data, size_t index) {
  if (data.size() < index + sizeof(T)) return static_cast<T>(~T{0});
  return LoadBe<T>(ConstBytes(data).subspan(index));
}

// A bus whose target 0 the test attaches. The parameter: the pieces in which data move, or 0.
class UnitTest : public ::testing::TestWithParam<size_t> {
 protected:
  static constexpr Nexus kNexus{.target = 0};

  static block::BlockLimits DefaultLimits() {
    return {.request_alignment = 512,
            .memory_alignment = 64,
            .discard_granularity = 4096,
            .discard_zeroes = true,
            .fast_zeroes = true};
  }
  ~UnitTest() override {
    if (disk_) disk_->ReleaseAll();
    initiator_.reset();
  }

  void StartDisk(DiskOptions options = {}, block::BlockLimits limits = DefaultLimits(),
                 uint64_t size = 1 << 20) {
    MakeDrive(limits, size);
    options_ = std::move(options);
    AttachDisk();
  }
  void StartCd(uint64_t size = 1 << 20) {
    MakeDrive(DefaultLimits(), size);
    is_cd_ = true;
    AttachCd();
  }
  // A fresh unit on the same drive.
  void Replace() {
    initiator_->Replace();
    is_cd_ ? AttachCd() : AttachDisk();
  }

  TestInitiator::Outcome Run(const Data& cdb, ConstBytes out = {}) {
    return initiator_->Run(kNexus, cdb, out);
  }
  // What a command sends that must end well.
  Data Good(const Data& cdb, ConstBytes out = {}) {
    auto outcome = Run(cdb, out);
    EXPECT_EQ(outcome.status, Status::kGood) << "sense " << std::hex << SenseNow().second;
    return std::move(outcome.in);
  }
  using KeyAndCode = std::pair<SenseKey, uint16_t>;
  KeyAndCode SenseNow() {
    last_sense_ = initiator_->Run(kNexus, Raw({3, 0, 0, 0, 252, 0})).in;
    return {SenseKey{static_cast<uint8_t>(At(last_sense_, 2) & 0xf)},
            BeAt<uint16_t>(last_sense_, 12)};
  }
  // The sense data of a command that must fail.
  KeyAndCode Bad(const Data& cdb, ConstBytes out = {}) {
    EXPECT_EQ(Run(cdb, out).status, Status::kCheckCondition);
    return SenseNow();
  }
  static KeyAndCode Illegal(uint16_t code) { return {SenseKey::kIllegalRequest, code}; }

  Bus& bus() { return initiator_->bus(); }
  FakeDisk& disk() { return *disk_; }
  ConstBytes Blocks(uint64_t first, uint64_t count, size_t size = 512) {
    return ConstBytes(disk_->data()).subspan(first * size, count * size);
  }
  using Op = FakeDisk::Op;
  using Requests = std::vector<FakeDisk::Request>;

  ManualClock clock_;
  Loop loop_{clock_};
  std::unique_ptr<FakeDisk> disk_;
  std::unique_ptr<TestInitiator> initiator_;
  DiskOptions options_;
  bool is_cd_ = false;
  Data last_sense_;

 private:
  void MakeDrive(block::BlockLimits limits, uint64_t size) {
    initiator_.reset();
    disk_ = std::make_unique<FakeDisk>(loop_, size, limits);
    const Data data = PatternOf(size, 1);
    Copy(disk_->data(), data);
    initiator_ = std::make_unique<TestInitiator>(loop_, GetParam());
  }
  void AttachDisk() {
    options_.drive = disk_.get();
    if (options_.identity.product.empty()) options_.identity.product = "TEST DISK";
    Attach(Disk::Create(options_));
  }
  void AttachCd() {
    Attach(Cd::Create({.drive = disk_.get(),
                       .identity = {.type = kCdType, .removable = true, .product = "TEST CD"}}));
  }
  template <typename Made>
  void Attach(Made made) {
    ASSERT_TRUE(made) << made.error().message;
    ASSERT_TRUE(bus().Attach(0, 0, std::move(*made)));
    // As a driver that waits for the disk.
    EXPECT_EQ(Bad(Raw({0, 0, 0, 0, 0, 0})).second, asc::kReset);
  }
};

#define INSTANTIATE_PIECES(suite) \
  INSTANTIATE_TEST_SUITE_P(Piece, suite, ::testing::Values(0u, 13u, 509u))

}  // namespace farside::scsi
