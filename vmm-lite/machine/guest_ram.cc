#include "vmm-lite/machine/guest_ram.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {

Result<std::unique_ptr<GuestRam>> GuestRam::Create(uint64_t size) {
  if (size < kMinSize || size % kSizeUnit != 0) {
    return FailWith(
        EINVAL,
        "guest RAM of {} bytes is not possible: it is a multiple of 1 MiB and 16 MiB at "
        "least; give another -m",
        size);
  }
  // Pages are taken as the guest touches them: without this, too much would end in the OOM killer.
  struct sysinfo host = {};
  if (sysinfo(&host) == 0) {
    const uint64_t total = (uint64_t{host.totalram} + host.totalswap) * host.mem_unit;
    if (size > total) {
      return FailWith(ENOMEM,
                      "guest RAM of {} MiB is more than this machine's {} MiB: give a "
                      "smaller -m",
                      size >> 20, total >> 20);
    }
  }
  auto file = MakeMemfd("guest-ram", size);
  if (!file) return tl::unexpected(file.error());
  // A device process that could shrink the file would kill this one with SIGBUS.
  if (fcntl(file->get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return FailWith(errno, "cannot seal the size of guest RAM: {}", ErrnoText(errno));
  }
  auto memory = Mapping::Map(file->get(), 0, size, PROT_READ | PROT_WRITE);
  if (!memory) {
    return FailWith(memory.error().code,
                    "there is not enough memory for guest RAM of {} MiB: give a smaller -m ({})",
                    size >> 20, memory.error().message);
  }
  madvise(memory->data(), size, MADV_HUGEPAGE);  // Faster where the host allows it.
  return std::unique_ptr<GuestRam>(new GuestRam(std::move(*file), std::move(*memory)));
}

GuestRam::GuestRam(UniqueFd file, Mapping memory)
    : file_(std::move(file)), memory_(std::move(memory)) {
  const uint64_t low = std::min(memory_.size(), kLowRamEnd);
  blocks_.push_back({.gpa = 0, .size = low, .file_offset = 0, .host = memory_.data()});
  if (low < memory_.size()) {
    blocks_.push_back({.gpa = kHighRamStart,
                       .size = memory_.size() - low,
                       .file_offset = low,
                       .host = memory_.data() + low});
  }
}

Bytes GuestRam::Find(uint64_t gpa, uint64_t size) const {
  for (const Block& block : blocks_) {
    if (gpa >= block.gpa && InRange(gpa - block.gpa, size, block.size)) {
      return {block.host + (gpa - block.gpa), static_cast<size_t>(size)};
    }
  }
  return {};
}

Result<void> GuestRam::Read(uint64_t gpa, Bytes out) const {
  const Bytes at = Find(gpa, out.size());
  if (at.size() != out.size()) {
    return FailWith(EFAULT, "guest RAM has no {} bytes at {:#x}", out.size(), gpa);
  }
  Copy(out, at);
  return {};
}

Result<void> GuestRam::Write(uint64_t gpa, ConstBytes in) {
  const Bytes at = Find(gpa, in.size());
  if (at.size() != in.size()) {
    return FailWith(EFAULT, "guest RAM has no {} bytes at {:#x}", in.size(), gpa);
  }
  Copy(at, in);
  return {};
}

int GuestRam::OnDmaRead(uint64_t iova, Bytes out) { return Read(iova, out) ? 0 : EFAULT; }

int GuestRam::OnDmaWrite(uint64_t iova, ConstBytes in) { return Write(iova, in) ? 0 : EFAULT; }

void GuestRam::Discard() {
  CHECK(fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  static_cast<off_t>(size())) == 0);
}

}  // namespace farside::vmm
