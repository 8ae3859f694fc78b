#include "vmm-lite/boot/boot.h"

#include <elf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/check.h"
#include "base/fd.h"
#include "vmm-lite/boot/formats.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kEntry = 2 * kMiB;

using Content = std::vector<std::byte>;

template <typename T>
void Put(Content& to, size_t at, const T& object) {
  if (to.size() < at + sizeof object) to.resize(at + sizeof object);
  Copy(Bytes(to).subspan(at, sizeof object), AsBytes(object));
}

// An ELF of a note and a segment of 16 bytes at 2 MiB, which are the file's last.
struct TestElf {
  struct Note {
    Elf64_Nhdr header{.n_namesz = 4, .n_descsz = 4, .n_type = kNotePhys32Entry};
    char name[4] = {'X', 'e', 'n', 0};
    uint32_t entry = kEntry + 4;
  };
  Elf64_Ehdr header{};
  Elf64_Phdr note{.p_type = PT_NOTE,
                  .p_flags = 0,
                  .p_offset = 176,
                  .p_vaddr = 0,
                  .p_paddr = 0,
                  .p_filesz = sizeof(Note),
                  .p_memsz = 0,
                  .p_align = 4};
  Elf64_Phdr load{.p_type = PT_LOAD,
                  .p_flags = 0,
                  .p_offset = 196,
                  .p_vaddr = 0,
                  .p_paddr = kEntry,
                  .p_filesz = 16,
                  .p_memsz = 4096,
                  .p_align = 4};
  Note pvh{};

  TestElf() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_machine = EM_X86_64;
    header.e_entry = kEntry + 8;
    header.e_phoff = 64;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = 2;
  }
  Content Make() const {
    Content out;
    Put(out, 0, header);
    Put(out, 64, note);
    Put(out, 120, load);
    Put(out, 176, pvh);
    out.resize(212, std::byte{0xf4});
    return out;
  }
};

// A bzImage with 1 KiB of code whose bytes are 0x90.
struct TestBzImage {
  SetupHeader header{};

  TestBzImage() {
    header.setup_sects = 1;
    header.syssize = 64;
    header.boot_flag = kBootFlag;
    header.jump = 0xeb;
    header.jump_offset = 0x62;
    header.handover_offset = 0x9090'9090;  // Behind the header's end: code.
    header.header = kHeaderMagic;
    header.version = 0x020f;
    header.loadflags = 1;
    header.initrd_addr_max = 0x7fff'ffff;
    header.xloadflags = kXloadKernel64;
    header.cmdline_size = 100;
    header.pref_address = kEntry;
    header.init_size = kMiB;
  }
  Content Make() const {
    Content out;
    Put(out, kSetupHeaderOffset, header);
    out.resize(1024);
    out.resize(2048, std::byte{0x90});
    return out;
  }
};

UniqueFd FileOf(ConstBytes content) {
  auto fd = MakeMemfd("image", content.size());
  CHECK(fd);
  CHECK(pwrite(fd->get(), content.data(), content.size(), 0) ==
        static_cast<ssize_t>(content.size()));
  return std::move(*fd);
}

class Boot : public ::testing::Test {
 protected:
  Boot() : ram_(*GuestRam::Create(16 * kMiB)) {}

  Result<CpuEntry> Load(ConstBytes kernel, ConstBytes initrd = {}, std::string line = "quiet") {
    ram_->Discard();
    const UniqueFd kernel_fd = FileOf(kernel);
    const UniqueFd initrd_fd = initrd.empty() ? UniqueFd() : FileOf(initrd);
    return LoadKernel(*ram_, {.kernel = kernel_fd.get(),
                              .initrd = initrd_fd.get(),
                              .command_line = std::move(line),
                              .rsdp = kAcpiTables});
  }
  void ExpectRefused(ConstBytes kernel, const std::string& part, ConstBytes initrd = {},
                     std::string line = "quiet") {
    const auto entry = Load(kernel, initrd, std::move(line));
    ASSERT_FALSE(entry) << part;
    EXPECT_NE(entry.error().message.find(part), std::string::npos) << entry.error().message;
  }
  template <typename T>
  T At(uint64_t gpa) const {
    T out;
    CHECK(ram_->Read(gpa, AsWritableBytes(out)));
    return out;
  }
  std::string TextAt(uint64_t gpa) const {
    return reinterpret_cast<const char*>(ram_->Find(gpa, 100).data());
  }

  const std::unique_ptr<GuestRam> ram_;
};

TEST_F(Boot, StartsAnElfWithItsNoteByPvh) {
  const Content initrd(5000, std::byte{7});
  const auto entry = Load(TestElf().Make(), initrd);
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->mode, CpuEntry::Mode::kProtected32);
  EXPECT_EQ(entry->rip, kEntry + 4);
  EXPECT_EQ(At<uint8_t>(kEntry + 15), 0xf4);
  EXPECT_EQ(At<uint8_t>(kEntry + 16), 0);
  const auto info = At<HvmStartInfo>(entry->rbx);
  EXPECT_EQ(+info.magic, 0x336ec578u);
  EXPECT_EQ(+info.version, 1u);
  EXPECT_EQ(+info.rsdp_paddr, kAcpiTables);
  EXPECT_EQ(TextAt(info.cmdline_paddr), "quiet");
  ASSERT_EQ(+info.memmap_entries, 5u);
  const auto low = At<HvmMemmapEntry>(info.memmap_paddr);
  EXPECT_EQ(+low.addr, 0u);
  EXPECT_EQ(+low.size, kLegacyStart);
  const auto high = At<HvmMemmapEntry>(info.memmap_paddr + 2 * sizeof(HvmMemmapEntry));
  EXPECT_EQ(+high.addr, kMiB);
  EXPECT_EQ(+high.size, 15 * kMiB);
  EXPECT_EQ(+high.type, kE820Ram);
  ASSERT_EQ(+info.nr_modules, 1u);
  const auto module = At<HvmModlistEntry>(info.modlist_paddr);
  EXPECT_EQ(+module.paddr, 16 * kMiB - 8192);
  EXPECT_EQ(+module.size, 5000u);
  EXPECT_EQ(At<uint8_t>(module.paddr + 4999), 7);
}

TEST_F(Boot, StartsAnElfWithoutTheNoteInLongMode) {
  TestElf elf;
  elf.pvh.header.n_type = 17;
  const auto entry = Load(elf.Make());
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->mode, CpuEntry::Mode::kLong64);
  EXPECT_EQ(entry->rip, kEntry + 8);
  EXPECT_EQ(+At<BootParams>(entry->rsi).hdr.header, kHeaderMagic);
}

TEST_F(Boot, StartsABzImageInLongMode) {
  const Content initrd(4096, std::byte{7});
  const auto entry = Load(TestBzImage().Make(), initrd, "root=/dev/nvme0n1");
  ASSERT_TRUE(entry) << entry.error().message;
  EXPECT_EQ(entry->mode, CpuEntry::Mode::kLong64);
  EXPECT_EQ(entry->rip, kEntry + 0x200);
  EXPECT_EQ(At<uint8_t>(kEntry + 1023), 0x90);
  const auto params = At<BootParams>(entry->rsi);
  EXPECT_EQ(+params.acpi_rsdp_addr, kAcpiTables);
  EXPECT_EQ(+params.e820_entries, 5);
  EXPECT_EQ(+params.hdr.init_size, kMiB);
  EXPECT_EQ(+params.hdr.handover_offset, 0u);
  EXPECT_EQ(+params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(+params.hdr.ramdisk_image, 16 * kMiB - 4096);
  EXPECT_EQ(+params.hdr.ramdisk_size, 4096u);
  EXPECT_EQ(TextAt(params.hdr.cmd_line_ptr), "root=/dev/nvme0n1");
  // A walk of the page tables for an address in the last GiB of the map.
  constexpr uint64_t kAddress = 0xfee0'0000;
  constexpr uint64_t kFrame = ~uint64_t{0xfff};
  const auto pdpt = At<uint64_t>(entry->cr3) & kFrame;
  const auto directory = At<uint64_t>(pdpt + (kAddress >> 30) * 8) & kFrame;
  EXPECT_EQ(At<uint64_t>(directory + (kAddress >> 21 & 511) * 8), kAddress | 0x83);
  EXPECT_EQ(entry->gdt_limit, 31);
  EXPECT_EQ(At<uint64_t>(entry->gdt_base + kBootCs) >> 40 & 0x20ff, 0x209bu);
}

TEST_F(Boot, TruncationAnywhereIsASentence) {
  for (const Content& whole : {TestElf().Make(), TestBzImage().Make()}) {
    ASSERT_TRUE(Load(whole));
    for (size_t size = 0; size < whole.size(); ++size) {
      const auto entry = Load(ConstBytes(whole).first(size));
      ASSERT_FALSE(entry) << size;
      EXPECT_GT(entry.error().message.size(), 20u);
    }
  }
}

TEST_F(Boot, NoByteOfTheHeadersCrashesIt) {
  for (const Content& whole : {TestElf().Make(), TestBzImage().Make()}) {
    for (size_t at = 0; at < whole.size(); ++at) {
      for (const int value : {0, 1, 0x7f, 0x80, 0xff}) {
        Content image = whole;
        image[at] = static_cast<std::byte>(value);
        const auto entry = Load(image);
        EXPECT_TRUE(entry || entry.error().message.size() > 20);
      }
    }
    // Eight bytes at a time: the largest offsets and sizes.
    for (size_t at = 0; at + 8 <= whole.size(); ++at) {
      Content image = whole;
      Put(image, at, UINT64_MAX - 8);
      (void)Load(image);
    }
  }
}

TEST_F(Boot, NamesWhatIsWrongWithAnElf) {
  const auto changed = [](const auto& change) {
    TestElf elf;
    change(elf);
    return elf.Make();
  };
  ExpectRefused(changed([](TestElf& elf) { elf.header.e_ident[EI_CLASS] = ELFCLASS32; }), "x86-64");
  ExpectRefused(changed([](TestElf& elf) { elf.header.e_machine = EM_AARCH64; }), "machine 183");
  ExpectRefused(changed([](TestElf& elf) { elf.load.p_type = PT_NULL; }), "nothing to load");
  ExpectRefused(changed([](TestElf& elf) { elf.load.p_paddr = 0x9000; }), "below 1 MiB");
  ExpectRefused(changed([](TestElf& elf) { elf.load.p_paddr = 20 * kMiB; }), "-m 21M");
  ExpectRefused(changed([](TestElf& elf) { elf.load.p_paddr = UINT64_MAX; }), "link it lower");
  ExpectRefused(changed([](TestElf& elf) { elf.load.p_filesz = 5000; }), "damaged");
  ExpectRefused(changed([](TestElf& elf) { elf.load.p_offset = UINT64_MAX - 15; }), "truncated");
  ExpectRefused(changed([](TestElf& elf) { elf.pvh.entry = 12; }), "none of its segments");
  ExpectRefused(changed([](TestElf& elf) { elf.pvh.header.n_descsz = 0xffff'fffc; }), "note");
  ExpectRefused(changed([](TestElf& elf) { elf.header.e_phnum = 0xffff; }), "program headers");
}

TEST_F(Boot, NamesWhatIsWrongWithABzImage) {
  const auto changed = [](const auto& change) {
    TestBzImage image;
    change(image.header);
    return image.Make();
  };
  ExpectRefused(changed([](SetupHeader& header) { header.version = 0x020b; }), "2.11");
  ExpectRefused(changed([](SetupHeader& header) { header.xloadflags = 0; }), "32-bit");
  ExpectRefused(changed([](SetupHeader& header) { header.syssize = 65; }), "truncated");
  ExpectRefused(changed([](SetupHeader& header) { header.init_size = 32 << 20; }), "-m 34M");
  ExpectRefused(changed([](SetupHeader& header) { header.header = 0; }), "neither an ELF");
  ExpectRefused(TestBzImage().Make(), "100: give a shorter -append", {}, std::string(101, 'x'));
  EXPECT_TRUE(Load(TestBzImage().Make(), {}, std::string(100, 'x')));
}

// "-m 35M" in the sentence: that is enough for all of it, and less is not.
TEST_F(Boot, NamesTheMemoryForKernelAndInitrdTogether) {
  TestElf elf;
  elf.load.p_paddr = 20 * kMiB;
  elf.header.e_entry = 20 * kMiB;
  elf.note.p_type = PT_LOAD;  // A second segment, behind the first.
  elf.note.p_paddr = 22 * kMiB;
  elf.note.p_memsz = 16 * kMiB;
  TestBzImage image;
  image.header.init_size = 32 * kMiB;
  const Content initrd(14 * kMiB - 100);
  for (const auto& [kernel, needed] : {std::pair(elf.Make(), 52), std::pair(image.Make(), 48)}) {
    ExpectRefused(kernel, fmt::format("-m {}M", needed), initrd);
    const UniqueFd kernel_fd = FileOf(kernel);
    const UniqueFd initrd_fd = FileOf(initrd);
    for (const int mebibytes : {needed - 1, needed}) {
      const auto ram = GuestRam::Create(static_cast<uint64_t>(mebibytes) * kMiB);
      ASSERT_TRUE(ram);
      const BootSource source{.kernel = kernel_fd.get(), .initrd = initrd_fd.get()};
      EXPECT_EQ(LoadKernel(**ram, source).has_value(), mebibytes == needed) << mebibytes;
    }
  }
}

TEST_F(Boot, NamesWhatIsWrongWithFiles) {
  const Content kernel = TestElf().Make();
  ExpectRefused(kernel, "does not fit behind the kernel", Content(14 * kMiB));
  ExpectRefused(kernel, "-m 17M", Content(14 * kMiB));
  ExpectRefused(kernel, "shorter -append", {}, std::string(2048, 'x'));
  const UniqueFd kernel_fd = FileOf(kernel);
  const UniqueFd empty = FileOf({});
  const auto without = LoadKernel(*ram_, {.kernel = kernel_fd.get(), .initrd = empty.get()});
  ASSERT_FALSE(without);
  EXPECT_NE(without.error().message.find("initrd is empty"), std::string::npos);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const UniqueFd in(ends[0]);
  const UniqueFd out(ends[1]);
  const auto piped = LoadKernel(*ram_, {.kernel = in.get()});
  ASSERT_FALSE(piped);
  EXPECT_NE(piped.error().message.find("not a regular file"), std::string::npos);
  EXPECT_FALSE(LoadKernel(*ram_, {}));
}

}  // namespace
}  // namespace farside::vmm
