// GuestRam: the guest's RAM, one memory file that device processes may map.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"
#include "protocol/device_client.h"

namespace farside::vmm {

// Zeroes at first. Any thread may call anything; bytes that the guest's CPUs or devices write at
// the same time are read as they come.
class GuestRam final : public DmaHandler {
 public:
  static constexpr uint64_t kMinSize = 16 << 20;
  static constexpr uint64_t kSizeUnit = 1 << 20;

  // What lies in one piece for the guest, the file and this process.
  struct Block {
    uint64_t gpa = 0;  // Guest physical address.
    uint64_t size = 0;
    uint64_t file_offset = 0;
    std::byte* host = nullptr;
  };

  // `size` in bytes: a multiple of 1 MiB, 16 MiB at least.
  static Result<std::unique_ptr<GuestRam>> Create(uint64_t size);

  // Below kLowRamEnd and, if there is more, from kHighRamStart.
  std::span<const Block> blocks() const { return blocks_; }
  // The file: its size is sealed.
  int fd() const { return file_.get(); }
  uint64_t size() const { return memory_.size(); }
  // Where the RAM below kLowRamEnd ends.
  uint64_t low_end() const { return blocks_.front().size; }

  // The bytes in this process; none unless the whole range lies inside of one block.
  Bytes Find(uint64_t gpa, uint64_t size) const;

  Result<void> Read(uint64_t gpa, Bytes out) const;
  Result<void> Write(uint64_t gpa, ConstBytes in);

  // EFAULT unless the whole range lies inside of one block.
  int OnDmaRead(uint64_t iova, Bytes out) override;
  int OnDmaWrite(uint64_t iova, ConstBytes in) override;

  // Gives all memory back to the host; the guest finds zeroes.
  void Discard();

 private:
  GuestRam(UniqueFd file, Mapping memory);

  UniqueFd file_;
  Mapping memory_;
  std::vector<Block> blocks_;
};

}  // namespace farside::vmm
