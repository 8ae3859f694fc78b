#include "vmm-lite/acpi/acpi.h"

#include <array>
#include <bit>
#include <cstddef>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

// dsdt_aml_code: dsdt.asl as iasl compiled it.
#include "vmm-lite/acpi/dsdt.hex"

// The structures are those of ACPI 6.4, chapter 5, in the specification's spelling.
#pragma pack(push, 1)

// Section 5.2.3.2, Generic Address Structure.
struct Gas {
  uint8_t address_space = 1;  // System I/O.
  uint8_t bit_width = 0;
  uint8_t bit_offset = 0;
  uint8_t access_size = 0;
  uint64_t address = 0;
};
static_assert(sizeof(Gas) == 12);

// Section 5.2.5.3.
struct Rsdp {
  std::array<char, 8> signature{'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  uint8_t checksum = 0;  // Of the first 20 bytes.
  std::array<char, 6> oem_id{'F', 'A', 'R', 'S', 'I', 'D'};
  uint8_t revision = 2;
  uint32_t rsdt_address = 0;
  uint32_t length = 36;
  uint64_t xsdt_address = 0;
  uint8_t extended_checksum = 0;
  std::array<uint8_t, 3> reserved{};
};
static_assert(sizeof(Rsdp) == kRsdpSize);

// Section 5.2.6.
struct Header {
  std::array<char, 4> signature{};
  uint32_t length = 0;
  uint8_t revision = 0;
  uint8_t checksum = 0;
  std::array<char, 6> oem_id{'F', 'A', 'R', 'S', 'I', 'D'};
  std::array<char, 8> oem_table_id{'V', 'M', 'M', 'L', 'I', 'T', 'E', 0};
  uint32_t oem_revision = 1;
  std::array<char, 4> creator_id{'F', 'A', 'R', 'S'};
  uint32_t creator_revision = 1;
};
static_assert(sizeof(Header) == 36);

// Section 5.2.9, as of revision 5.
struct Fadt {
  Header header{.signature = {'F', 'A', 'C', 'P'}, .length = 268, .revision = 5};
  uint32_t firmware_ctrl = 0;
  uint32_t dsdt = 0;
  uint8_t reserved0 = 0;
  uint8_t preferred_pm_profile = 0;  // Unspecified.
  uint16_t sci_int = kSciIrq;
  uint32_t smi_cmd = 0;  // None: ACPI is always on.
  std::array<uint8_t, 4> acpi_enable_to_pstate_cnt{};
  uint32_t pm1a_evt_blk = kPm1EventPort;
  uint32_t pm1b_evt_blk = 0;
  uint32_t pm1a_cnt_blk = kPm1ControlPort;
  uint32_t pm1b_cnt_blk = 0;
  uint32_t pm2_cnt_blk = 0;
  uint32_t pm_tmr_blk = kPmTimerPort;
  uint32_t gpe0_blk = 0;
  uint32_t gpe1_blk = 0;
  uint8_t pm1_evt_len = 4;
  uint8_t pm1_cnt_len = 2;
  uint8_t pm2_cnt_len = 0;
  uint8_t pm_tmr_len = 4;
  std::array<uint8_t, 4> gpe0_len_to_cst_cnt{};
  uint16_t p_lvl2_lat = 0xffff;  // No C2, no C3.
  uint16_t p_lvl3_lat = 0xffff;
  std::array<uint8_t, 9> flush_size_to_century{};
  uint16_t iapc_boot_arch = 1 << 0 | 1 << 2;  // Legacy devices, no VGA; no keyboard controller.
  uint8_t reserved1 = 0;
  // WBINVD, PROC_C1, no fixed power button, no fixed sleep button, RTC wake not in fixed registers,
  // RESET_REG_SUP.
  uint32_t flags = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
  Gas reset_reg{.bit_width = 8, .access_size = 1, .address = kResetPort};
  uint8_t reset_value = kResetValue;
  uint16_t arm_boot_arch = 0;
  uint8_t minor_version = 0;
  uint64_t x_firmware_ctrl = 0;
  uint64_t x_dsdt = 0;
  Gas x_pm1a_evt_blk{.bit_width = 32, .access_size = 2, .address = kPm1EventPort};
  Gas x_pm1b_evt_blk{};
  Gas x_pm1a_cnt_blk{.bit_width = 16, .access_size = 2, .address = kPm1ControlPort};
  Gas x_pm1b_cnt_blk{};
  Gas x_pm2_cnt_blk{};
  Gas x_pm_tmr_blk{.bit_width = 32, .access_size = 3, .address = kPmTimerPort};
  Gas x_gpe0_blk{};
  Gas x_gpe1_blk{};
  Gas sleep_control_reg{};
  Gas sleep_status_reg{};
};
static_assert(sizeof(Fadt) == 268);
static_assert(offsetof(Fadt, iapc_boot_arch) == 109 && offsetof(Fadt, reset_reg) == 116 &&
              offsetof(Fadt, x_dsdt) == 140 && offsetof(Fadt, x_pm_tmr_blk) == 208);

// Section 5.2.10. The guest writes to it; it has no checksum.
struct Facs {
  std::array<char, 4> signature{'F', 'A', 'C', 'S'};
  uint32_t length = 64;
  std::array<uint8_t, 24> hardware_signature_to_x_waking_vector{};
  uint8_t version = 2;
  std::array<uint8_t, 31> reserved{};
};
static_assert(sizeof(Facs) == 64 && offsetof(Facs, version) == 32);

// Section 5.2.12 and those below it.
struct MadtStart {
  Header header;
  uint32_t local_apic_address = kLocalApicBase;
  uint32_t flags = 1;  // PCAT_COMPAT: there is a PIC too.
};
struct MadtLocalApic {
  uint8_t type = 0;
  uint8_t length = 8;
  uint8_t processor_uid = 0;
  uint8_t apic_id = 0;
  uint32_t flags = 1;  // Enabled.
};
struct MadtIoApic {
  uint8_t type = 1;
  uint8_t length = 12;
  uint8_t io_apic_id = 0;
  uint8_t reserved = 0;
  uint32_t address = kIoApicBase;
  uint32_t gsi_base = 0;
};
struct MadtSourceOverride {
  uint8_t type = 2;
  uint8_t length = 10;
  uint8_t bus = 0;
  uint8_t source = 0;
  uint32_t gsi = 0;
  uint16_t flags = 0;  // As the bus has it: edge, active high.
};
struct MadtLocalApicNmi {
  uint8_t type = 4;
  uint8_t length = 6;
  uint8_t processor_uid = 0xff;  // All.
  uint16_t flags = 0;
  uint8_t lint = 1;
};
static_assert(sizeof(MadtStart) == 44 && sizeof(MadtLocalApic) == 8 && sizeof(MadtIoApic) == 12 &&
              sizeof(MadtSourceOverride) == 10 && sizeof(MadtLocalApicNmi) == 6);

// PCI Firmware Specification 3.2, section 4.1.2.
struct Mcfg {
  Header header;
  uint64_t reserved0 = 0;
  uint64_t base_address = kEcamBase;
  uint16_t segment = 0;
  uint8_t start_bus = 0;
  uint8_t end_bus = kEcamSize / (1 << 20) - 1;
  uint32_t reserved1 = 0;
};
static_assert(sizeof(Mcfg) == 60);

#pragma pack(pop)

constexpr uint16_t kLevelActiveHigh = 0x000d;

// What makes the sum of `table` zero when `table` has a zero where it goes.
uint8_t Checksum(ConstBytes table) {
  uint32_t sum = 0;
  for (const std::byte byte : table) sum += std::to_integer<uint32_t>(byte);
  return static_cast<uint8_t>(-sum);
}

// The tables behind each other as they will lie in memory from `base` on.
class TableWriter {
 public:
  explicit TableWriter(uint64_t base) : base_(base) {}

  // Puts `bytes` at the next address that is a multiple of `align`, which it returns.
  uint64_t Put(ConstBytes bytes, size_t align = 16) {
    const size_t at = (bytes_.size() + align - 1) / align * align;
    bytes_.resize(at + bytes.size());
    Copy(Bytes(bytes_).subspan(at), bytes);
    return base_ + at;
  }
  // The same for a table whose header does not know its length and checksum yet.
  uint64_t PutTable(std::vector<std::byte> table) {
    StoreLe(Bytes(table).subspan(offsetof(Header, length)), static_cast<uint32_t>(table.size()));
    table[offsetof(Header, checksum)] = std::byte{0};
    table[offsetof(Header, checksum)] = std::byte{Checksum(table)};
    return Put(table);
  }
  Bytes bytes() { return bytes_; }

 private:
  const uint64_t base_;
  std::vector<std::byte> bytes_;
};

template <typename T>
void Append(std::vector<std::byte>& to, const T& object) {
  const ConstBytes bytes = AsBytes(object);
  to.insert(to.end(), bytes.begin(), bytes.end());
}

std::vector<std::byte> MakeMadt(uint32_t cpus) {
  std::vector<std::byte> out;
  Append(out, MadtStart{.header = {.signature = {'A', 'P', 'I', 'C'}, .revision = 4}});
  for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
    const auto id = static_cast<uint8_t>(cpu);
    Append(out, MadtLocalApic{.processor_uid = id, .apic_id = id});
  }
  Append(out, MadtIoApic{});
  Append(out, MadtSourceOverride{.source = 0, .gsi = 2});  // The PIT.
  // The SCI, and what the DSDT's links route to.
  for (const uint8_t irq : {uint8_t{5}, uint8_t{kSciIrq}, uint8_t{10}, uint8_t{11}}) {
    Append(out, MadtSourceOverride{.source = irq, .gsi = irq, .flags = kLevelActiveHigh});
  }
  Append(out, MadtLocalApicNmi{});
  return out;
}

std::vector<std::byte> MakeFadt(uint64_t facs, uint64_t dsdt) {
  Fadt fadt;
  fadt.firmware_ctrl = static_cast<uint32_t>(facs);
  fadt.dsdt = static_cast<uint32_t>(dsdt);
  fadt.x_dsdt = dsdt;  // Of the FACS, one address is enough; ACPI 6 asks for one.
  std::vector<std::byte> out;
  Append(out, fadt);
  return out;
}

}  // namespace

Result<uint64_t> WriteAcpi(GuestRam& ram, const AcpiConfig& config) {
  if (config.cpus < 1 || config.cpus > 255) {
    return Fail("{} CPUs are not possible: give 1 to 255 by -smp", config.cpus);
  }
  if (config.at % 64 != 0 || config.at > UINT32_MAX - kAcpiMaxSize) {
    return Fail("ACPI tables cannot lie at {:#x}: they need 64 byte alignment and 32 bit addresses",
                config.at);
  }
  TableWriter tables(config.at);
  Rsdp rsdp;
  tables.Put(AsBytes(rsdp));  // Its place; the content comes last.
  const uint64_t facs = tables.Put(AsBytes(Facs{}), 64);
  const ConstBytes aml = std::as_bytes(std::span(dsdt_aml_code));
  const uint64_t dsdt = tables.PutTable({aml.begin(), aml.end()});
  const uint64_t fadt = tables.PutTable(MakeFadt(facs, dsdt));
  const uint64_t madt = tables.PutTable(MakeMadt(config.cpus));
  std::vector<std::byte> mcfg;
  Append(mcfg, Mcfg{.header = {.signature = {'M', 'C', 'F', 'G'}, .revision = 1}});
  std::vector<std::byte> xsdt;
  Append(xsdt, Header{.signature = {'X', 'S', 'D', 'T'}, .revision = 1});
  for (const uint64_t table : {fadt, madt, tables.PutTable(mcfg)}) Append(xsdt, table);

  rsdp.xsdt_address = tables.PutTable(xsdt);
  rsdp.checksum = Checksum(AsBytes(rsdp).first(20));
  rsdp.extended_checksum = Checksum(AsBytes(rsdp));
  Copy(tables.bytes().first(sizeof rsdp), AsBytes(rsdp));
  const auto written = ram.Write(config.at, tables.bytes());
  if (!written) return tl::unexpected(written.error());
  return config.at;
}

}  // namespace farside::vmm
