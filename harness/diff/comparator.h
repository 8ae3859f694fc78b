// Comparator: two answers to one question, and what of a device was compared at all.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "harness/diff/lawful.h"
#include "harness/diff/model.h"
#include "harness/host/guest_memory.h"

namespace farside::diff {

struct Difference {
  uint64_t event = 0;  // Its number in the list.
  std::string what;    // "BAR0 CSTS (0x1c) read 4".
  std::string a;       // "0x1 RDY=1".
  std::string b;
  std::string detail;  // "bit 0", "byte 0x2 of Identify Controller"; may be empty.
};

class Comparator {
 public:
  // Both outlive the comparator.
  Comparator(const Model& model, const Lawful& lawful) : model_(model), lawful_(lawful) {}

  // Notes that the read was answered and its bits are compared.
  void Count(const Event& read);
  // What the read gave.
  std::optional<Difference> CompareRead(const Event& read, uint64_t a, uint64_t b);

  // All memory. Where a difference is lawful `b` gets what `a` has, so that nothing follows from
  // it.
  Result<std::optional<Difference>> CompareMemory(const GuestMemory& a, GuestMemory& b);

  // Of the model's registers: bits that were compared at least once, and all of them.
  uint64_t compared_bits() const;
  uint64_t total_bits() const { return RegisterBits(model_); }
  // Of all reads' answers.
  uint64_t bits_of_reads() const { return bits_of_reads_; }
  uint64_t lawful_bits() const { return lawful_bits_; }    // That differed, of reads.
  uint64_t lawful_bytes() const { return lawful_bytes_; }  // That differed, of memory.

 private:
  std::string MemoryName(uint64_t iova) const;

  const Model& model_;
  const Lawful& lawful_;
  std::map<uint32_t, std::vector<bool>> seen_;  // By region: bytes that were read.
  uint64_t bits_of_reads_ = 0;
  uint64_t lawful_bits_ = 0;
  uint64_t lawful_bytes_ = 0;
};

// "bits 7, 3..0".
std::string BitsText(uint64_t bits);

}  // namespace farside::diff
