#include "vmm-lite/acpi/acpi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

std::string Text(ConstBytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

uint8_t Sum(ConstBytes bytes) {
  uint32_t sum = 0;
  for (const std::byte byte : bytes) sum += std::to_integer<uint32_t>(byte);
  return static_cast<uint8_t>(sum);
}

// The tables as a guest finds them, by signature.
class Tables {
 public:
  explicit Tables(AcpiConfig config) : ram_(*GuestRam::Create(16 << 20)) {
    const auto rsdp = WriteAcpi(*ram_, config);
    CHECK(rsdp && *rsdp == config.at);
    rsdp_ = ram_->Find(*rsdp, kRsdpSize);
    const Bytes xsdt = Take(LoadLe<uint64_t>(rsdp_.subspan(24)));
    for (size_t at = 36; at < xsdt.size(); at += 8) Take(LoadLe<uint64_t>(xsdt.subspan(at)));
    const Bytes fadt = tables_.at("FACP");
    Take(LoadLe<uint64_t>(fadt.subspan(140)));
    Take(LoadLe<uint32_t>(fadt.subspan(36)));
    EXPECT_EQ(LoadLe<uint32_t>(fadt.subspan(40)), LoadLe<uint64_t>(fadt.subspan(140)));
  }

  Bytes rsdp() const { return rsdp_; }
  Bytes operator[](const std::string& signature) const { return tables_.at(signature); }
  const std::map<std::string, Bytes>& all() const { return tables_; }
  uint64_t end() const { return end_; }

 private:
  Bytes Take(uint64_t gpa) {
    const uint32_t size = LoadLe<uint32_t>(ram_->Find(gpa + 4, 4));
    const Bytes table = ram_->Find(gpa, size);
    tables_[Text(table.first(4))] = table;
    end_ = std::max(end_, gpa + size);
    return table;
  }

  std::unique_ptr<GuestRam> ram_;
  Bytes rsdp_;
  std::map<std::string, Bytes> tables_;
  uint64_t end_ = 0;
};

TEST(Acpi, HasEveryTableWithItsChecksum) {
  for (const uint32_t cpus : {1u, 255u}) {
    const Tables tables({.cpus = cpus});
    EXPECT_EQ(Text(tables.rsdp().first(8)), "RSD PTR ");
    EXPECT_EQ(Sum(tables.rsdp().first(20)), 0);
    EXPECT_EQ(Sum(tables.rsdp()), 0);
    EXPECT_EQ(tables.all().size(), 6u);
    for (const auto& [signature, table] : tables.all()) {
      if (signature == "FACS") continue;  // It has none.
      EXPECT_EQ(Sum(table), 0) << signature;
    }
    EXPECT_LE(tables.end(), kAcpiTables + kAcpiMaxSize);
  }
}

TEST(Acpi, AlignsTheFacs) {
  const Tables tables({.at = 0x80'0000});
  EXPECT_EQ(LoadLe<uint32_t>(tables["FACP"].subspan(36)) % 64, 0u);
}

TEST(Acpi, ListsCpusAndInterruptSources) {
  const Tables tables({.cpus = 3});
  const Bytes madt = tables["APIC"];
  std::map<int, int> entries;
  std::map<int, uint32_t> overrides;  // GSI and flags by ISA IRQ.
  for (size_t at = 44; at < madt.size(); at += std::to_integer<size_t>(madt[at + 1])) {
    const int type = std::to_integer<int>(madt[at]);
    ++entries[type];
    if (type != 2) continue;
    overrides[std::to_integer<int>(madt[at + 3])] =
        LoadLe<uint32_t>(madt.subspan(at + 4)) | LoadLe<uint16_t>(madt.subspan(at + 8)) << 16;
  }
  EXPECT_EQ(entries, (std::map<int, int>{{0, 3}, {1, 1}, {2, 5}, {4, 1}}));
  EXPECT_EQ(overrides, (std::map<int, uint32_t>{
                           {0, 2}, {5, 0xd0005}, {9, 0xd0009}, {10, 0xd000a}, {11, 0xd000b}}));
}

TEST(Acpi, RefusesWhatItCannotDescribe) {
  const auto ram = GuestRam::Create(16 << 20);
  ASSERT_TRUE(ram);
  EXPECT_FALSE(WriteAcpi(**ram, {.cpus = 0}));
  EXPECT_FALSE(WriteAcpi(**ram, {.cpus = 256}));
  EXPECT_FALSE(WriteAcpi(**ram, {.at = 0xe'0010}));
  EXPECT_FALSE(WriteAcpi(**ram, {.at = 0x100'0000 - 64}));
}

// What iasl makes of the tables as they lie in memory.
class Disassembled : public ::testing::Test {
 protected:
  Disassembled() {
    std::string path = ::testing::TempDir() + "farside-acpi-XXXXXX";
    CHECK(mkdtemp(path.data()) != nullptr);
    directory_ = path;
    for (const auto& [signature, table] : tables_.all()) {
      std::ofstream(directory_ / (signature + ".bin")) << Text(table);
      const std::string command = std::string("cd ") + directory_.string() + " && " + FARSIDE_IASL +
                                  " -d " + signature + ".bin >" + signature + ".log 2>&1";
      EXPECT_EQ(std::system(command.c_str()), 0) << Read(signature + ".log");
    }
  }
  ~Disassembled() override { std::filesystem::remove_all(directory_); }

  std::string Read(const std::string& name) const {
    std::stringstream out;
    out << std::ifstream(directory_ / name).rdbuf();
    return out.str();
  }
  void ExpectIn(const std::string& signature, const std::string& line) const {
    EXPECT_NE(Read(signature + ".dsl").find(line), std::string::npos) << line;
  }

  const Tables tables_{{.cpus = 2}};
  std::filesystem::path directory_;
};

TEST_F(Disassembled, FixedTablesSayWhatTheLayoutDoes) {
  for (const auto& [signature, table] : tables_.all()) {
    const std::string text = Read(signature + ".dsl") + Read(signature + ".log");
    EXPECT_EQ(text.find("Incorrect checksum"), std::string::npos) << signature;
    EXPECT_EQ(text.find("Unknown"), std::string::npos) << signature;
    EXPECT_EQ(text.find("rror"), std::string::npos) << text;
  }
  for (const char* line :
       {"PM1A Event Block Address : 00000600", "PM1A Control Block Address : 00000604",
        "PM Timer Block Address : 00000608", "SCI Interrupt : 0009", "SMI Command Port : 00000000",
        "Reset Register Supported (V2) : 1", "Hardware Reduced (V5) : 0",
        "8042 Present on ports 60/64 (V2) : 0", "Value to cause reset : 06"}) {
    ExpectIn("FACP", line);
  }
  ExpectIn("APIC", "Address : FEC00000");
  ExpectIn("APIC", "Local Apic Address : FEE00000");
  ExpectIn("MCFG", "Base Address : 00000000B0000000");
  ExpectIn("MCFG", "End Bus Number : FF");
}

std::string Hex(uint64_t value, int digits) { return fmt::format("0x{:0{}X}", value, digits); }

TEST_F(Disassembled, DsdtSaysWhatTheLayoutDoes) {
  for (const std::string& line :
       {Hex(kPciMem32Start, 8) + ",         // Range Minimum",
        Hex(kPciMem32End - 1, 8) + ",         // Range Maximum",
        Hex(kPciMem32End - kPciMem32Start, 8) + ",         // Length",
        Hex(kPciMem64Start, 16) + ", // Range Minimum",
        Hex(kPciMem64End - 1, 16) + ", // Range Maximum",
        Hex(kPciMem64End - kPciMem64Start, 16) + ", // Length",
        Hex(kPciIoStart, 4) + ",             // Range Minimum",
        Hex(kPciIoEnd - 1, 4) + ",             // Range Maximum",
        Hex(kEcamBase, 8) + ",         // Address Base", Hex(kCom1Port, 4), Hex(kPmBase, 4),
        Hex(kElcrPort, 4), std::string("PCI_Config, ") + Hex(kPirqRoute, 2) + ", 0x04"}) {
    ExpectIn("DSDT", line);
  }
  ExpectIn("DSDT", "Name (_S5, Package");
}

}  // namespace
}  // namespace farside::vmm
