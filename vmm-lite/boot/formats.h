// What the boot protocols lay out in files and memory: ELF, Linux/x86 (Documentation/arch/x86 of
// the kernel: boot.rst, zero-page.rst) and Xen's PVH
// (xen/include/public/arch-x86/hvm/start_info.h), in their spelling.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace farside::vmm {

// Address ranges by e820; PVH's memory map has the same types.
inline constexpr uint32_t kE820Ram = 1;
inline constexpr uint32_t kE820Reserved = 2;

#pragma pack(push, 1)

struct E820Entry {
  uint64_t addr = 0;
  uint64_t size = 0;
  uint32_t type = 0;
};
static_assert(sizeof(E820Entry) == 20);

// The setup header: in a bzImage at 0x1f1 of the file, in boot_params at 0x1f1 of the page.
struct SetupHeader {
  uint8_t setup_sects;
  uint16_t root_flags;
  uint32_t syssize;  // Of the protected-mode code, in units of 16 bytes.
  uint16_t ram_size;
  uint16_t vid_mode;
  uint16_t root_dev;
  uint16_t boot_flag;
  uint8_t jump;
  uint8_t jump_offset;  // The header ends this far behind the field.
  uint32_t header;
  uint16_t version;
  uint32_t realmode_swtch;
  uint16_t start_sys_seg;
  uint16_t kernel_version;
  uint8_t type_of_loader;
  uint8_t loadflags;
  uint16_t setup_move_size;
  uint32_t code32_start;
  uint32_t ramdisk_image;
  uint32_t ramdisk_size;
  uint32_t bootsect_kludge;
  uint16_t heap_end_ptr;
  uint8_t ext_loader_ver;
  uint8_t ext_loader_type;
  uint32_t cmd_line_ptr;
  uint32_t initrd_addr_max;
  uint32_t kernel_alignment;
  uint8_t relocatable_kernel;
  uint8_t min_alignment;
  uint16_t xloadflags;
  uint32_t cmdline_size;
  uint32_t hardware_subarch;
  uint64_t hardware_subarch_data;
  uint32_t payload_offset;
  uint32_t payload_length;
  uint64_t setup_data;
  uint64_t pref_address;
  uint32_t init_size;
  uint32_t handover_offset;
  uint32_t kernel_info_offset;
};
inline constexpr size_t kSetupHeaderOffset = 0x1f1;
static_assert(kSetupHeaderOffset + offsetof(SetupHeader, header) == 0x202 &&
              kSetupHeaderOffset + offsetof(SetupHeader, xloadflags) == 0x236 &&
              kSetupHeaderOffset + offsetof(SetupHeader, init_size) == 0x260 &&
              kSetupHeaderOffset + sizeof(SetupHeader) == 0x26c);

inline constexpr uint16_t kBootFlag = 0xaa55;
inline constexpr uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
inline constexpr uint16_t kMinVersion = 0x020c;       // The first with xloadflags.
inline constexpr uint16_t kXloadKernel64 = 1 << 0;    // XLF_KERNEL_64
inline constexpr uint8_t kLoaderUndefined = 0xff;
inline constexpr uint64_t kEntry64Offset = 0x200;
inline constexpr uint16_t kBootCs = 0x10;
inline constexpr uint16_t kBootDs = 0x18;

// The zero page.
struct BootParams {
  std::array<std::byte, 0x70> screen_info_and_more{};
  uint64_t acpi_rsdp_addr = 0;
  std::array<std::byte, 0x170> edd_and_more{};
  uint8_t e820_entries = 0;
  std::array<std::byte, 8> sentinel_and_more{};
  SetupHeader hdr{};
  std::array<std::byte, 0x64> reserved{};
  std::array<E820Entry, 128> e820_table{};
  std::array<std::byte, 0x330> eddbuf_and_more{};
};
static_assert(sizeof(BootParams) == 4096 && offsetof(BootParams, e820_entries) == 0x1e8 &&
              offsetof(BootParams, hdr) == kSetupHeaderOffset &&
              offsetof(BootParams, e820_table) == 0x2d0);

struct HvmStartInfo {
  uint32_t magic = 0x336ec578;
  uint32_t version = 1;
  uint32_t flags = 0;
  uint32_t nr_modules = 0;
  uint64_t modlist_paddr = 0;
  uint64_t cmdline_paddr = 0;
  uint64_t rsdp_paddr = 0;
  uint64_t memmap_paddr = 0;
  uint32_t memmap_entries = 0;
  uint32_t reserved = 0;
};
struct HvmModlistEntry {
  uint64_t paddr = 0;
  uint64_t size = 0;
  uint64_t cmdline_paddr = 0;
  uint64_t reserved = 0;
};
struct HvmMemmapEntry {
  uint64_t addr = 0;
  uint64_t size = 0;
  uint32_t type = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(HvmStartInfo) == 56 && sizeof(HvmModlistEntry) == 32 &&
              sizeof(HvmMemmapEntry) == 24);

#pragma pack(pop)

// Xen's note that names the 32-bit entry point of PVH.
inline constexpr uint32_t kNotePhys32Entry = 18;

}  // namespace farside::vmm
