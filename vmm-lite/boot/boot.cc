#include "vmm-lite/boot/boot.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "vmm-lite/boot/formats.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

// What the loader keeps below the kernel, in RAM that the guest takes back when it has read it.
constexpr uint64_t kGdt = 0x500;
constexpr uint64_t kStartInfo = 0x6000;  // Then its memory map and module list.
constexpr uint64_t kBootParams = 0x7000;
constexpr uint64_t kPageTables = 0x9000;  // PML4, PDPT and four page directories.
constexpr uint64_t kCommandLine = 0x2'0000;
constexpr uint64_t kMaxCommandLine = 0x1'0000;  // With its zero.
// Linux's COMMAND_LINE_SIZE without its zero, for images that do not name theirs.
constexpr uint32_t kLinuxCommandLine = 2047;
constexpr uint64_t kInitrdMax = 0x7fff'ffff;  // The last byte, likewise.
constexpr uint64_t kPageSize = 4096;
constexpr size_t kMaxProgramHeaders = 128;
constexpr uint64_t kMaxNotes = 1 << 20;

// A regular file that is read by place.
class Image {
 public:
  static Result<Image> Open(int fd, std::string_view name) {
    struct stat status = {};
    if (fstat(fd, &status) != 0) {
      return FailWith(errno, "cannot look at the {}: {}", name, ErrnoText(errno));
    }
    if (!S_ISREG(status.st_mode)) {
      return Fail("the {} is a pipe or a device, not a regular file: copy it to a file first",
                  name);
    }
    return Image(fd, name, static_cast<uint64_t>(status.st_size));
  }

  uint64_t size() const { return size_; }

  Result<void> Read(uint64_t offset, Bytes out) const {
    if (!InRange(offset, out.size(), size_)) return Truncated(offset, out.size());
    while (!out.empty()) {
      const ssize_t got = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FailWith(errno, "cannot read the {}: {}", name_, ErrnoText(errno));
      if (got == 0) return Truncated(offset, out.size());
      out = out.subspan(static_cast<size_t>(got));
      offset += static_cast<uint64_t>(got);
    }
    return {};
  }

  tl::unexpected<Error> Truncated(uint64_t offset, uint64_t size) const {
    return Fail(
        "the {} of {} bytes is truncated: it refers to {} bytes at offset {}; get a whole "
        "one",
        name_, size_, size, offset);
  }

 private:
  Image(int fd, std::string_view name, uint64_t size) : fd_(fd), name_(name), size_(size) {}

  int fd_;
  std::string_view name_;
  uint64_t size_;
};

struct Placed {
  uint64_t gpa = 0;
  uint64_t size = 0;
};

// The smallest -m, in MiB, whose RAM below kLowRamEnd has room for a kernel that ends at `end` and
// for an initrd of `initrd` bytes.
uint64_t MebibytesFor(uint64_t end, uint64_t initrd) {
  const uint64_t pages = (std::min(initrd, kLowRamEnd) + kPageSize - 1) / kPageSize;
  return (end + pages * kPageSize + (1 << 20) - 1) >> 20;
}

std::vector<E820Entry> MemoryMap(const GuestRam& ram) {
  std::vector<E820Entry> out{
      {0, kLegacyStart, kE820Ram},
      {kLegacyStart, kLegacyEnd - kLegacyStart, kE820Reserved},
      {kLegacyEnd, ram.low_end() - kLegacyEnd, kE820Ram},
      {kEcamBase, kEcamSize, kE820Reserved},
      {kIdentityMap, kTssEnd - kIdentityMap, kE820Reserved},
  };
  for (const GuestRam::Block& block : ram.blocks().subspan(1)) {
    out.push_back({block.gpa, block.size, kE820Ram});
  }
  return out;
}

Result<void> WriteCommandLine(GuestRam& ram, const std::string& line, uint64_t limit) {
  limit = std::min(limit, kMaxCommandLine - 1);
  if (line.size() > limit) {
    return Fail("the command line has {} bytes and this kernel takes {}: give a shorter -append",
                line.size(), limit);
  }
  return ram.Write(kCommandLine, std::as_bytes(std::span(line.c_str(), line.size() + 1)));
}

// Puts the initrd as high as it goes: its last byte not beyond `last`, none of it below `floor`,
// where the kernel ends.
Result<Placed> LoadInitrd(GuestRam& ram, int fd, uint64_t floor, uint64_t last) {
  if (fd < 0) return Placed{};
  const auto image = Image::Open(fd, "initrd");
  if (!image) return tl::unexpected(image.error());
  const uint64_t size = image->size();
  if (size == 0) return Fail("the initrd is empty: give another -initrd, or none");
  const uint64_t end = std::min(ram.low_end(), last + 1);
  const uint64_t gpa = size <= end ? (end - size) / kPageSize * kPageSize : 0;
  if (gpa < floor) {
    const uint64_t needed = MebibytesFor(floor, size);
    if (needed << 20 > std::min(kLowRamEnd, last + 1)) {
      return Fail(
          "the initrd of {} bytes does not fit between the kernel's end {:#x} and {:#x}: "
          "give a smaller one",
          size, floor, end);
    }
    return Fail(
        "the initrd of {} bytes does not fit behind the kernel, which ends at {:#x}, in "
        "{} MiB of RAM: give it -m {}M",
        size, floor, ram.size() >> 20, needed);
  }
  const auto read = image->Read(0, ram.Find(gpa, size));
  if (!read) return tl::unexpected(read.error());
  return Placed{gpa, size};
}

// The page tables and the GDT of the 64-bit entry: the first 4 GiB mapped to themselves by pages
// of 2 MiB.
Result<void> WriteLongMode(GuestRam& ram) {
  constexpr uint64_t kPresentWritable = 3;
  constexpr uint64_t kLarge = 0x80;
  std::vector<uint64_t> tables(6 * 512);
  tables[0] = (kPageTables + kPageSize) | kPresentWritable;
  for (uint64_t i = 0; i < 4; ++i) {
    tables[512 + i] = (kPageTables + (2 + i) * kPageSize) | kPresentWritable;
  }
  for (uint64_t i = 0; i < 4 * 512; ++i) tables[1024 + i] = i << 21 | kLarge | kPresentWritable;
  const auto written = ram.Write(kPageTables, std::as_bytes(std::span(tables)));
  if (!written) return written;
  // Flat and present, ring 0: 64-bit code at kBootCs, data at kBootDs.
  constexpr std::array<uint64_t, 4> kDescriptors{0, 0, 0x00af'9b00'0000'ffff,
                                                 0x00cf'9300'0000'ffff};
  return ram.Write(kGdt, AsBytes(kDescriptors));
}

// What all 64-bit entries share, when kernel and initrd are placed.
Result<CpuEntry> EnterLong(GuestRam& ram, const BootSource& source, SetupHeader header,
                           Placed initrd, uint64_t rip) {
  header.type_of_loader = kLoaderUndefined;
  header.cmd_line_ptr = kCommandLine;
  header.ramdisk_image = static_cast<uint32_t>(initrd.gpa);
  header.ramdisk_size = static_cast<uint32_t>(initrd.size);
  BootParams params;
  params.hdr = header;
  params.acpi_rsdp_addr = source.rsdp;
  const auto map = MemoryMap(ram);
  std::ranges::copy(map, params.e820_table.begin());
  params.e820_entries = static_cast<uint8_t>(map.size());
  if (auto written = ram.Write(kBootParams, AsBytes(params)); !written) {
    return tl::unexpected(written.error());
  }
  if (auto written = WriteLongMode(ram); !written) return tl::unexpected(written.error());
  return CpuEntry{.mode = CpuEntry::Mode::kLong64,
                  .rip = rip,
                  .rsi = kBootParams,
                  .cr3 = kPageTables,
                  .gdt_base = kGdt,
                  .gdt_limit = 4 * sizeof(uint64_t) - 1};
}

Result<CpuEntry> EnterPvh(GuestRam& ram, const BootSource& source, Placed initrd, uint64_t rip) {
  std::vector<HvmMemmapEntry> map;
  for (const E820Entry& entry : MemoryMap(ram)) {
    map.push_back({.addr = entry.addr, .size = entry.size, .type = entry.type});
  }
  const HvmModlistEntry module{.paddr = initrd.gpa, .size = initrd.size};
  const ConstBytes map_bytes = std::as_bytes(std::span(map));
  HvmStartInfo info;
  info.memmap_paddr = kStartInfo + sizeof info;
  info.memmap_entries = static_cast<uint32_t>(map.size());
  info.modlist_paddr = info.memmap_paddr + map_bytes.size();
  info.nr_modules = initrd.size != 0 ? 1 : 0;
  info.cmdline_paddr = kCommandLine;
  info.rsdp_paddr = source.rsdp;
  for (const auto& [gpa, bytes] :
       {std::pair(kStartInfo, AsBytes(info)), std::pair(info.memmap_paddr, map_bytes),
        std::pair(info.modlist_paddr, AsBytes(module))}) {
    if (auto written = ram.Write(gpa, bytes); !written) return tl::unexpected(written.error());
  }
  return CpuEntry{.mode = CpuEntry::Mode::kProtected32, .rip = rip, .rbx = kStartInfo};
}

// How much -m a kernel needs that ends at `end`, in MiB: with its initrd, lest the next attempt
// fail for that.
uint64_t NeededFor(uint64_t end, const BootSource& source) {
  uint64_t initrd = 0;
  if (source.initrd >= 0) {
    if (const auto image = Image::Open(source.initrd, "initrd")) initrd = image->size();
  }
  return std::min(MebibytesFor(end, initrd), kLowRamEnd >> 20);
}

// Where [gpa, gpa + size) of guest RAM is, for a part of a kernel that has to lie there. `needed`
// is the -m for all of it.
Result<Bytes> KernelPlace(const GuestRam& ram, uint64_t gpa, uint64_t size, std::string_view what,
                          uint64_t needed) {
  if (gpa < kLegacyEnd) {
    return Fail("the kernel's {} lies at {:#x}, below 1 MiB, where boot data is: link it higher",
                what, gpa);
  }
  if (InRange(gpa, size, ram.low_end())) return ram.Find(gpa, size);
  if (InRange(gpa, size, kLowRamEnd)) {
    return Fail(
        "the kernel's {} of {} bytes at {:#x} lies outside of {} MiB of RAM: give it -m {}M", what,
        size, gpa, ram.size() >> 20, needed);
  }
  return Fail("the kernel's {} of {} bytes at {:#x} does not lie in RAM below {:#x}: link it lower",
              what, size, gpa, kLowRamEnd);
}

// The PVH entry point, if the notes name one.
Result<std::optional<uint64_t>> FindPvhEntry(const Image& image, const Elf64_Phdr& segment) {
  if (segment.p_filesz > kMaxNotes) {
    return Fail("the kernel has notes of {} bytes, and {} are the limit: it is damaged",
                segment.p_filesz, kMaxNotes);
  }
  std::vector<std::byte> bytes(segment.p_filesz);
  if (auto read = image.Read(segment.p_offset, bytes); !read) return tl::unexpected(read.error());
  const uint64_t align = segment.p_align == 8 ? 8 : 4;
  ConstBytes rest(bytes);
  while (rest.size() >= sizeof(Elf64_Nhdr)) {
    const uint64_t name_size = LoadLe<uint32_t>(rest);
    const uint64_t desc_size = LoadLe<uint32_t>(rest.subspan(4));
    const uint32_t type = LoadLe<uint32_t>(rest.subspan(8));
    const uint64_t desc = (sizeof(Elf64_Nhdr) + name_size + align - 1) / align * align;
    if (!InRange(desc, desc_size, rest.size())) {
      return Fail("the kernel has a note that is longer than its segment: it is damaged");
    }
    constexpr std::string_view kXen("Xen\0", 4);
    const bool is_xen = name_size == kXen.size() &&
                        std::ranges::equal(rest.subspan(sizeof(Elf64_Nhdr), kXen.size()),
                                           std::as_bytes(std::span(kXen)));
    if (is_xen && type == kNotePhys32Entry && (desc_size == 4 || desc_size == 8)) {
      return LoadLePartial(rest.subspan(desc, desc_size));
    }
    const uint64_t next = (desc + desc_size + align - 1) / align * align;
    rest = rest.subspan(std::min<uint64_t>(next, rest.size()));
  }
  return std::nullopt;
}

struct Elf {
  uint64_t end = 0;  // Of the last segment in memory.
  std::vector<Placed> segments;
  std::optional<uint64_t> pvh_entry;
};

bool IsLoaded(const Elf64_Phdr& segment) {
  return segment.p_type == PT_LOAD && segment.p_memsz != 0;
}

// Where the last of those ends that can lie below kLowRamEnd.
uint64_t EndOf(std::span<const Elf64_Phdr> segments) {
  uint64_t end = 0;
  for (const Elf64_Phdr& segment : segments) {
    if (IsLoaded(segment) && InRange(segment.p_paddr, segment.p_memsz, kLowRamEnd)) {
      end = std::max(end, segment.p_paddr + segment.p_memsz);
    }
  }
  return end;
}

Result<Elf> LoadSegments(GuestRam& ram, const BootSource& source, const Image& image,
                         const Elf64_Ehdr& header) {
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > kMaxProgramHeaders) {
    return Fail("the kernel has {} program headers of {} bytes: {} of {} bytes are the limit",
                header.e_phnum, header.e_phentsize, kMaxProgramHeaders, sizeof(Elf64_Phdr));
  }
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  if (auto read = image.Read(header.e_phoff, std::as_writable_bytes(std::span(segments))); !read) {
    return tl::unexpected(read.error());
  }
  Elf out{.end = EndOf(segments), .segments = {}, .pvh_entry = {}};
  const uint64_t needed = NeededFor(out.end, source);
  for (const Elf64_Phdr& segment : segments) {
    if (segment.p_type == PT_NOTE && !out.pvh_entry) {
      auto entry = FindPvhEntry(image, segment);
      if (!entry) return tl::unexpected(entry.error());
      out.pvh_entry = *entry;
    }
    if (!IsLoaded(segment)) continue;
    if (segment.p_filesz > segment.p_memsz) {
      return Fail(
          "the kernel has a segment of {} bytes in the file and only {} in memory: it is "
          "damaged",
          segment.p_filesz, segment.p_memsz);
    }
    const auto place = KernelPlace(ram, segment.p_paddr, segment.p_memsz, "segment", needed);
    if (!place) return tl::unexpected(place.error());
    const auto read = image.Read(segment.p_offset, place->first(segment.p_filesz));
    if (!read) return tl::unexpected(read.error());
    out.segments.push_back({segment.p_paddr, segment.p_memsz});
  }
  return out;
}

Result<CpuEntry> LoadElf(GuestRam& ram, const BootSource& source, const Image& image) {
  Elf64_Ehdr header;
  if (auto read = image.Read(0, AsWritableBytes(header)); !read) {
    return tl::unexpected(read.error());
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64) {
    return Fail(
        "the kernel is an ELF of class {}, machine {}: build it for x86-64 (class 2, "
        "machine 62)",
        header.e_ident[EI_CLASS], header.e_machine);
  }
  const auto elf = LoadSegments(ram, source, image, header);
  if (!elf) return tl::unexpected(elf.error());
  if (elf->segments.empty()) {
    return Fail("the kernel is an ELF with nothing to load: link it, or give another -kernel");
  }
  const uint64_t entry = elf->pvh_entry.value_or(header.e_entry);
  if (std::ranges::none_of(elf->segments, [entry](const Placed& segment) {
        return entry >= segment.gpa && entry - segment.gpa < segment.size;
      })) {
    return Fail(
        "the kernel's entry point {:#x} lies in none of its segments: it has to be a "
        "physical address",
        entry);
  }
  const auto initrd = LoadInitrd(ram, source.initrd, elf->end, kInitrdMax);
  if (!initrd) return tl::unexpected(initrd.error());
  auto written = WriteCommandLine(ram, source.command_line, kLinuxCommandLine);
  if (!written) return tl::unexpected(written.error());
  if (elf->pvh_entry) return EnterPvh(ram, source, *initrd, entry);
  SetupHeader setup{};
  setup.boot_flag = kBootFlag;
  setup.header = kHeaderMagic;
  setup.version = kMinVersion;
  setup.loadflags = 1;  // LOADED_HIGH
  return EnterLong(ram, source, setup, *initrd, entry);
}

// The setup header of a bzImage that has a 64-bit entry.
Result<SetupHeader> ReadSetupHeader(const Image& image) {
  SetupHeader header{};
  if (auto read = image.Read(kSetupHeaderOffset, AsWritableBytes(header)); !read) {
    return tl::unexpected(read.error());
  }
  if (header.version < kMinVersion) {
    return Fail(
        "the kernel's boot protocol is {}.{:02}, and 2.12 is needed: give a kernel of 2013 "
        "or later",
        header.version >> 8, header.version & 0xff);
  }
  if ((header.xloadflags & kXloadKernel64) == 0) {
    return Fail("the kernel is for 32-bit CPUs only: build it for x86-64");
  }
  // Older headers are shorter: what is behind them is code, not fields.
  const size_t end = offsetof(SetupHeader, header) + header.jump_offset;
  if (end < offsetof(SetupHeader, handover_offset)) {
    return Fail("the kernel's setup header ends at {:#x}, before init_size: it is damaged",
                kSetupHeaderOffset + end);
  }
  if (end < sizeof header) Fill(AsWritableBytes(header).subspan(end), 0);
  return header;
}

Result<CpuEntry> LoadBzImage(GuestRam& ram, const BootSource& source, const Image& image) {
  const auto header = ReadSetupHeader(image);
  if (!header) return tl::unexpected(header.error());
  const uint64_t setup_sects = header->setup_sects != 0 ? header->setup_sects : 4;
  const uint64_t offset = (setup_sects + 1) * 512;
  const uint64_t size = uint64_t{header->syssize} * 16;
  if (size <= kEntry64Offset) {
    return Fail("the kernel has only {} bytes of code: it is damaged", size);
  }
  if (!InRange(offset, size, image.size())) return image.Truncated(offset, size);
  const uint64_t gpa = header->pref_address;
  const uint64_t room = std::max<uint64_t>(size, header->init_size);
  const auto place = KernelPlace(ram, gpa, room, "image", NeededFor(gpa + room, source));
  if (!place) return tl::unexpected(place.error());
  if (auto read = image.Read(offset, place->first(size)); !read) {
    return tl::unexpected(read.error());
  }
  const auto initrd = LoadInitrd(ram, source.initrd, gpa + room, header->initrd_addr_max);
  if (!initrd) return tl::unexpected(initrd.error());
  auto written = WriteCommandLine(ram, source.command_line, header->cmdline_size);
  if (!written) return tl::unexpected(written.error());
  return EnterLong(ram, source, *header, *initrd, gpa + kEntry64Offset);
}

}  // namespace

Result<CpuEntry> LoadKernel(GuestRam& ram, const BootSource& source) {
  const auto image = Image::Open(source.kernel, "kernel");
  if (!image) return tl::unexpected(image.error());
  std::array<std::byte, kSetupHeaderOffset + offsetof(SetupHeader, version)> start{};
  const Bytes head = Bytes(start).first(std::min<uint64_t>(start.size(), image->size()));
  if (auto read = image->Read(0, head); !read) return tl::unexpected(read.error());
  if (std::memcmp(start.data(), ELFMAG, SELFMAG) == 0) return LoadElf(ram, source, *image);
  const auto header = Bytes(start).subspan(kSetupHeaderOffset);
  if (LoadLe<uint16_t>(header.subspan(offsetof(SetupHeader, boot_flag))) == kBootFlag &&
      LoadLe<uint32_t>(header.subspan(offsetof(SetupHeader, header))) == kHeaderMagic) {
    return LoadBzImage(ram, source, *image);
  }
  return Fail("the kernel is neither an ELF vmlinux nor a bzImage: give another -kernel");
}

}  // namespace farside::vmm
