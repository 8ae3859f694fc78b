// The disk's commands that do not touch its medium.
#include <gtest/gtest.h>

#include "devices/scsi/test_support.h"

namespace farside::scsi {
namespace {

class DiskTest : public UnitTest {
 protected:
  void SetUp() override {
    StartDisk(
        {.identity = {.product = "TEST DISK", .serial = "S-42", .wwn = 0x5000'c500'1234'5678}});
  }
  Data Vpd(int page, int allocation = 255) { return Good(Raw({0x12, 1, page, 0, allocation, 0})); }
  Data ModeSense6(int page, int flags = 0, int allocation = 255) {
    return Good(Raw({0x1a, flags, page, 0, allocation, 0}));
  }
  Data ModeSense10(int page, int flags = 0, int allocation = 0x1ff) {
    return Good(Raw({0x5a, flags, page, 0, 0, 0, 0, allocation >> 8, allocation & 0xff, 0}));
  }
  static Data ModeSelect6(size_t size, int flags = 0x10) {
    return Raw({0x15, flags, 0, 0, static_cast<int>(size), 0});
  }
  static Data ModeSelect10(size_t size, int flags = 0x10) {
    return Raw({0x55, flags, 0, 0, 0, 0, 0, static_cast<int>(size >> 8),
                static_cast<int>(size & 0xff), 0});
  }
  KeyAndCode BadSelect(const Data& list) { return Bad(ModeSelect6(list.size()), list); }
  // Mode parameter header, and what follows.
  static Data List(std::initializer_list<int> rest, int descriptors = 0) {
    Data list = Raw({0, 0, 0, descriptors});
    for (const int byte : rest) list.push_back(static_cast<std::byte>(byte));
    return list;
  }
  static Data CachingList(int wce) {
    return List({8, 18, wce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  }
  static constexpr KeyAndCode kBadList{SenseKey::kIllegalRequest,
                                       asc::kInvalidFieldInParameterList};
};

TEST_P(DiskTest, SaysWhatItIs) {
  const Data data = Good(Raw({0x12, 0, 0, 0, 255, 0}));
  ASSERT_EQ(data.size(), 36u);
  EXPECT_EQ(At(data, 0), 0);
  EXPECT_EQ(At(data, 1), 0);
  EXPECT_EQ(At(data, 2), 5);   // SPC-3
  EXPECT_EQ(At(data, 4), 31);  // ADDITIONAL LENGTH
  EXPECT_EQ(At(data, 7) & 0x02, 0x02) << "tagged commands";
  const auto text = std::as_bytes(std::span("FARSIDE TEST DISK       1.0 ", 28));
  EXPECT_TRUE(Same(ConstBytes(data).subspan(8), text));
  for (const int size : {0, 1, 5, 35}) {
    EXPECT_TRUE(Same(Good(Raw({0x12, 0, 0, 0, size, 0})),
                     ConstBytes(data).first(static_cast<size_t>(size))));
  }
}

TEST_P(DiskTest, RefusesInquiriesOfNothing) {
  EXPECT_EQ(Bad(Raw({0x12, 0, 1, 0, 255, 0})), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Bad(Raw({0x12, 2, 0, 0, 255, 0})), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Bad(Raw({0x12, 1, 0xc0, 0, 255, 0})), Illegal(asc::kInvalidFieldInCdb));
}

TEST_P(DiskTest, ListsItsVpdPages) {
  const Data pages = Vpd(0);
  EXPECT_EQ(pages, Raw({0, 0, 0, 6, 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2}));
  for (size_t i = 4; i < pages.size(); ++i) {
    const Data page = Vpd(At(pages, i));
    EXPECT_EQ(At(page, 1), At(pages, i));
    EXPECT_EQ(BeAt<uint16_t>(page, 2), page.size() - 4);
  }
  EXPECT_EQ(Vpd(0xb0, 9).size(), 9u);
}

TEST_P(DiskTest, HasASerialNumberAndDesignators) {
  EXPECT_EQ(Vpd(0x80), Raw({0, 0x80, 0, 4, 'S', '-', '4', '2'}));
  const Data ids = Vpd(0x83);
  EXPECT_EQ(At(ids, 4), 2);       // ASCII
  EXPECT_EQ(At(ids, 5), 1);       // T10 vendor id
  EXPECT_EQ(At(ids, 7), 24 + 4);  // Vendor, product, serial.
  EXPECT_EQ(BeAt<uint32_t>(ids, 8 + 28), 0x0103'0008u);
  EXPECT_EQ(BeAt<uint64_t>(ids, 8 + 28 + 4), 0x5000'c500'1234'5678u);
  EXPECT_EQ(ids.size(), 8u + 28 + 12);
}

TEST_P(DiskTest, WithoutASerialNumberHasNoPageOfIt) {
  StartDisk();
  EXPECT_EQ(Vpd(0), Raw({0, 0, 0, 5, 0x00, 0x83, 0xb0, 0xb1, 0xb2}));
  EXPECT_EQ(Bad(Raw({0x12, 1, 0x80, 0, 255, 0})), Illegal(asc::kInvalidFieldInCdb));
}

TEST_P(DiskTest, SaysWhatOneCommandMayAskFor) {
  StartDisk({.physical_block_size = 4096});
  const Data limits = Vpd(0xb0);
  ASSERT_EQ(limits.size(), 64u);
  EXPECT_EQ(BeAt<uint16_t>(limits, 6), 8);          // Optimal granularity: a physical block.
  EXPECT_EQ(BeAt<uint32_t>(limits, 8), 0u);         // Any length.
  EXPECT_EQ(BeAt<uint32_t>(limits, 20), 2u << 20);  // Blocks of one UNMAP.
  EXPECT_EQ(BeAt<uint32_t>(limits, 24), 255u);      // Its descriptors.
  EXPECT_EQ(BeAt<uint32_t>(limits, 28), 8u);        // Their granularity.
  EXPECT_EQ(BeAt<uint64_t>(limits, 36), 2u << 20);  // Blocks of one WRITE SAME.
  EXPECT_EQ(Vpd(0xb2), Raw({0, 0xb2, 0, 4, 0, 0xe4, 2, 0}));
}

TEST_P(DiskTest, TellsItsCapacity) {
  StartDisk({.physical_block_size = 4096});
  EXPECT_EQ(Good(Cdb(Opcode::kReadCapacity10, 0, 0)), Raw({0, 0, 7, 0xff, 0, 0, 2, 0}));
  EXPECT_EQ(Bad(Cdb(Opcode::kReadCapacity10, 1, 0)), Illegal(asc::kInvalidFieldInCdb));
  const Data data = Good(Raw({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0}));
  ASSERT_EQ(data.size(), 32u);
  EXPECT_EQ(BeAt<uint64_t>(data, 0), 2047u);
  EXPECT_EQ(BeAt<uint32_t>(data, 8), 512u);
  EXPECT_EQ(At(data, 13), 3);     // 2^3 logical blocks in a physical one.
  EXPECT_EQ(At(data, 14), 0xc0);  // LBPME, LBPRZ
  EXPECT_EQ(Good(Raw({0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0})).size(), 13u);
  EXPECT_EQ(Bad(Raw({0x9e, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0})),
            Illegal(asc::kInvalidFieldInCdb));
}

TEST_P(DiskTest, ShowsAllModePagesOnce) {
  const Data data = ModeSense6(0x3f);
  EXPECT_EQ(At(data, 0), data.size() - 1);
  EXPECT_EQ(At(data, 2), 0x10);  // DPOFUA
  EXPECT_EQ(At(data, 3), 8);
  EXPECT_EQ(BeAt<uint32_t>(data, 4), 2048u);
  EXPECT_EQ(BeAt<uint32_t>(data, 8), 512u);
  std::vector<int> codes;
  size_t at = 12;
  while (at < data.size()) {
    codes.push_back(At(data, at));
    const size_t size = size_t{At(data, at + 1)} + 2;
    const Data one = ModeSense6(At(data, at), 0x08);
    EXPECT_TRUE(Same(ConstBytes(one).subspan(4), ConstBytes(data).subspan(at, size)));
    at += size;
  }
  EXPECT_EQ(at, data.size());
  EXPECT_EQ(codes, (std::vector<int>{1, 4, 5, 8, 0xa, 0x1c}));
  EXPECT_TRUE(Same(ConstBytes(ModeSense6(0x3f, 0, 31)), ConstBytes(data).first(31)));
}

TEST_P(DiskTest, ShowsModePagesInTheLongForm) {
  const Data data = ModeSense10(0x08, 0x10);
  EXPECT_EQ(BeAt<uint16_t>(data, 0), data.size() - 2);
  EXPECT_EQ(At(data, 4), 1);  // LONGLBA
  EXPECT_EQ(BeAt<uint16_t>(data, 6), 16);
  EXPECT_EQ(BeAt<uint64_t>(data, 8), 2048u);
  EXPECT_EQ(BeAt<uint32_t>(data, 20), 512u);
  EXPECT_EQ(At(data, 24), 8);
  EXPECT_EQ(BeAt<uint16_t>(ModeSense10(0x08), 6), 8);
  EXPECT_EQ(ModeSense10(0x08, 0x08).size(), 8u + 20);
  EXPECT_EQ(ModeSense10(0x08, 0x08, 5).size(), 5u);
}

TEST_P(DiskTest, ShowsChangeableDefaultAndNoSavedValues) {
  EXPECT_EQ(At(ModeSense6(0x08, 8), 6), kCachingWce);
  EXPECT_EQ(At(ModeSense6(0x48, 8), 6), kCachingWce);
  EXPECT_EQ(At(ModeSense6(0x4a, 8), 6), kControlDSense);
  EXPECT_EQ(At(ModeSense6(0x4a, 8), 7), 0);
  Good(ModeSelect6(24), CachingList(0));
  EXPECT_EQ(At(ModeSense6(0x08, 8), 6), 0);
  EXPECT_EQ(At(ModeSense6(0x88, 8), 6), kCachingWce);
  EXPECT_EQ(Bad(Raw({0x1a, 0, 0xff, 0, 255, 0})), Illegal(asc::kSavingParametersNotSupported));
  bus().ResetTarget(0);
  EXPECT_EQ(SenseNow().second, asc::kBusDeviceReset);
  EXPECT_EQ(At(ModeSense6(0x08, 8), 6), kCachingWce);
}

TEST_P(DiskTest, RefusesModePagesThatItHasNot) {
  EXPECT_EQ(Bad(Raw({0x1a, 0, 0x02, 0, 255, 0})), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Bad(Raw({0x1a, 0, 0x08, 1, 255, 0})), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Good(Raw({0x1a, 0, 0x3f, 0xff, 255, 0})), ModeSense6(0x3f));
}

// As Linux's sd does when its cache_type is written.
TEST_P(DiskTest, TakesBackWhatItShowed) {
  Data data = ModeSense10(0x3f);
  StoreBe(data, uint16_t{0});  // MODE DATA LENGTH is reserved here.
  Good(ModeSelect10(data.size()), data);
  Data caching = ModeSense6(0x08, 0x08);
  caching[6] &= ~std::byte{kCachingWce};
  Good(ModeSelect6(caching.size()), caching);
  EXPECT_EQ(At(ModeSense6(0x08, 8), 6), 0);
  Good(ModeSelect6(0));
}

// CVE-2023-42467: a block size that is not the unit's, and its later division by it.
TEST_P(DiskTest, KeepsItsBlockSize) {
  for (const int size : {0, 1, 255, 256, 511, 1024}) {
    const Data list = List({0, 0, 8, 0, 0, 0, size >> 8, size & 0xff}, 8);
    EXPECT_EQ(BadSelect(list), kBadList) << size;
  }
  Good(ModeSelect6(12), List({0, 0, 8, 0, 0, 0, 2, 0}, 8));
  Good(ModeSelect6(12), List({0, 0, 0, 0, 0, 0, 2, 0}, 8));
  Good(ModeSelect6(12), List({255, 255, 255, 255, 0, 0, 2, 0}, 8));
  EXPECT_EQ(BadSelect(List({0, 0, 4, 0, 0, 0, 2, 0}, 8)), kBadList) << "another capacity";
  EXPECT_EQ(Good(Cdb(Opcode::kRead10, 0, 1)).size(), 512u);
}

TEST_P(DiskTest, ChecksModeParameterLists) {
  const KeyAndCode cut{SenseKey::kIllegalRequest, asc::kParameterListLength};
  EXPECT_EQ(BadSelect(Raw({0, 0, 0})), cut);
  EXPECT_EQ(BadSelect(List({0, 0, 8}, 8)), cut);
  EXPECT_EQ(BadSelect(List({0, 0, 8, 0}, 4)), kBadList);
  EXPECT_EQ(BadSelect(List({8})), cut);
  EXPECT_EQ(BadSelect(List({8, 18, 4, 0})), cut);
  EXPECT_EQ(BadSelect(List({8, 2, 4, 0})), kBadList) << "a length that the page has not";
  EXPECT_EQ(BadSelect(List({2, 2, 4, 0})), kBadList) << "a page that is not there";
  EXPECT_EQ(BadSelect(List({0x48, 0, 0, 2, 4, 0})), kBadList) << "a subpage";
  Data list = CachingList(5);  // RCD may not change.
  EXPECT_EQ(BadSelect(list), kBadList);
  // Nothing of a list with an error counts.
  list = CachingList(0);
  list.push_back(std::byte{2});
  list.push_back(std::byte{0});
  EXPECT_EQ(BadSelect(list), kBadList);
  EXPECT_EQ(At(ModeSense6(0x08, 8), 6), kCachingWce);
  EXPECT_EQ(Bad(ModeSelect6(24, 0x11), CachingList(0)), Illegal(asc::kInvalidFieldInCdb)) << "SP";
  EXPECT_EQ(Bad(ModeSelect6(24, 0x00), CachingList(0)), Illegal(asc::kInvalidFieldInCdb)) << "PF";
}

TEST_P(DiskTest, TakesWhatOneInitiatorNeedNotHave) {
  Good(Raw({0x16, 0, 0, 0, 0, 0}));
  Good(Raw({0x17, 0, 0, 0, 0, 0}));
  Good(Raw({0x1e, 0, 0, 0, 1, 0}));
  Good(Raw({0x1d, 4, 0, 0, 0, 0}));
  EXPECT_EQ(Bad(Raw({0x1d, 0, 0, 0, 9, 0})), Illegal(asc::kInvalidFieldInCdb));
  EXPECT_EQ(Bad(Raw({0x01, 0, 0, 0, 0, 0})), Illegal(asc::kInvalidOpcode));
}

TEST_P(DiskTest, StopsAndStarts) {
  disk().ForgetRequests();
  Good(Raw({0x1b, 0, 0, 0, 0, 0}));
  EXPECT_EQ(disk().requests(), (Requests{{.op = Op::kFlush}}));
  const KeyAndCode stopped{SenseKey::kNotReady, asc::kInitializingCommandRequired};
  EXPECT_EQ(Bad(Raw({0, 0, 0, 0, 0, 0})), stopped);
  EXPECT_EQ(Bad(Cdb(Opcode::kRead10, 0, 1)), stopped);
  EXPECT_EQ(Good(Raw({0x12, 0, 0, 0, 36, 0})).size(), 36u);
  const auto state = initiator_->Save();
  Replace();
  ASSERT_TRUE(initiator_->Load(state));
  EXPECT_EQ(Bad(Raw({0, 0, 0, 0, 0, 0})), stopped) << "after a migration";
  Good(Raw({0x1b, 0, 0, 0, 1, 0}));
  Good(Raw({0, 0, 0, 0, 0, 0}));
}

TEST_P(DiskTest, ReportsItsOpcodes) {
  const Data all = Good(Raw({0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0}));
  EXPECT_EQ(BeAt<uint32_t>(all, 0), all.size() - 4);
  for (size_t at = 4; at < all.size(); at += 8) {
    EXPECT_NE(FindOpcode(At(all, at)), nullptr);
    EXPECT_EQ(BeAt<uint16_t>(all, at + 6), CdbSize(At(all, at)));
    if (Opcode{At(all, at)} == Opcode::kServiceActionIn16) continue;
    // It does not refuse what it lists.
    Data cdb(CdbSize(At(all, at)));
    cdb[0] = all[at];
    if (Run(cdb).status == Status::kCheckCondition) {
      EXPECT_NE(SenseNow().second, asc::kInvalidOpcode) << std::hex << int{At(all, at)};
    }
    Good(Raw({0x1b, 0, 0, 0, 1, 0}));
  }
  const auto one = [&](int opcode) {
    return Good(Raw({0xa3, 0x0c, 1, opcode, 0, 0, 0, 0, 1, 0, 0, 0}));
  };
  EXPECT_EQ(At(one(0x93), 1), 3);
  EXPECT_EQ(one(0x93).size(), 4u + 16);
  EXPECT_EQ(one(0x83), Raw({0, 1, 0, 0}));
  EXPECT_EQ(Bad(Raw({0xa3, 0x0c, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0})), Illegal(asc::kInvalidFieldInCdb));
}

TEST_P(DiskTest, KeepsModePagesOverAMigration) {
  Good(ModeSelect6(24), CachingList(0));
  const auto state = initiator_->Save();
  Replace();
  ASSERT_TRUE(initiator_->Load(state));
  EXPECT_EQ(At(ModeSense6(0x08, 8), 6), 0);
}

INSTANTIATE_PIECES(DiskTest);

TEST(DiskOptions, AreChecked) {
  ManualClock clock;
  Loop loop(clock);
  FakeDisk drive(loop, 1 << 20, {.request_alignment = 4096});
  const auto error_of = [&](DiskOptions options) {
    options.drive = &drive;
    const auto made = Disk::Create(options);
    return made ? "" : made.error().message;
  };
  EXPECT_EQ(error_of({.logical_block_size = 4096, .physical_block_size = 4096}), "");
  EXPECT_NE(error_of({.logical_block_size = 512}), "") << "smaller than the drive takes";
  EXPECT_NE(error_of({.logical_block_size = 0}), "");
  EXPECT_NE(error_of({.logical_block_size = 768}), "");
  EXPECT_NE(error_of({.logical_block_size = 4096, .physical_block_size = 512}), "");
  EXPECT_NE(error_of({.identity = {.serial = std::string(37, 'x')},
                      .logical_block_size = 4096,
                      .physical_block_size = 4096}),
            "");
  EXPECT_NE(error_of({.identity = {.vendor = "B\xc3\xa4r"},
                      .logical_block_size = 4096,
                      .physical_block_size = 4096}),
            "");
}

}  // namespace
}  // namespace farside::scsi
