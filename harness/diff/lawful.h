// Lawful: differences that a data sheet allows, from a reviewed file.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "harness/diff/model.h"

namespace farside::diff {

// Rows name bits of a register, or of a field in memory, a reason and a page of the data sheet.
class Lawful {
 public:
  // Rows may mask so much of what can be read of registers, and so much of the fields in memory.
  static constexpr double kMaxMasked = 0.05;

  Lawful() = default;
  // Errors name the file, the row and what is wrong with it.
  static Result<Lawful> Load(const Model& model, const std::string& path);
  // The same for a document that is there already; `name` begins the errors.
  static Result<Lawful> Parse(const Model& model, const std::string& name,
                              const nlohmann::json& document);

  // Bits of a byte that may differ: of a register, of memory.
  uint8_t ReadMask(uint32_t region, uint64_t offset) const {
    return Find(reads_, region, offset) | Find(reserved_, region, offset);
  }
  uint8_t MemoryMask(uint64_t iova) const { return Find(memory_, 0, iova); }
  // Random traffic writes none of these bits.
  uint8_t WriteMask(uint32_t region, uint64_t offset) const {
    return Find(writes_, region, offset);
  }
  // Takes those bits out of a write. False: a byte would have nothing left.
  bool Adapt(Event* write) const;
  // Random traffic leaves out this one of the model's operations().
  bool Avoids(std::string_view operation) const { return avoided_.contains(operation); }
  const std::set<std::string, std::less<>>& avoided() const { return avoided_; }
  // Interrupts may differ while this status, the model's status()[i] is answers[i], is there.
  bool AllowsInterrupt(std::span<const uint64_t> answers) const;

  size_t rows() const { return rows_; }
  uint64_t masked_bits() const { return masked_bits_; }  // Of registers.
  // Of registers, those that random traffic never sets, and those of places without a register:
  // nothing is compared there, though nothing is masked.
  uint64_t unwritten_bits() const { return CountBits(writes_); }
  uint64_t reserved_bits() const { return CountBits(reserved_); }

 private:
  using Masks = std::map<std::pair<uint32_t, uint64_t>, uint8_t>;
  static uint64_t CountBits(const Masks& masks);
  uint8_t Find(const Masks& masks, uint32_t region, uint64_t offset) const {
    const auto repeats = repeats_.find(region);
    if (&masks != &memory_ && repeats != repeats_.end()) offset %= repeats->second;
    const auto found = masks.find({region, offset});
    return found == masks.end() ? 0 : found->second;
  }
  Result<void> AddRow(const Model& model, const nlohmann::json& row);
  Result<void> AddRegister(const Model& model, const std::string& name, const nlohmann::json* bits,
                           Masks* to);
  void AddReserved(const Model& model, Masks* to);
  Result<void> AddMemory(const Model& model, const std::string& name, const nlohmann::json* bits);
  Result<void> AddInterrupt(const Model& model, const std::string& name,
                            const nlohmann::json* bits);
  Result<void> CheckShares(const Model& model);

  Masks reads_;
  Masks reserved_;  // Reads of places without a register.
  Masks writes_;
  Masks memory_;
  std::map<uint32_t, uint64_t> repeats_;  // Of regions.
  std::set<std::string, std::less<>> avoided_;
  std::vector<std::pair<size_t, uint64_t>> interrupts_;  // Indices of status(), and masks.
  size_t rows_ = 0;
  uint64_t masked_bits_ = 0;
};

// Bits of a model's registers, and of its fields in memory.
uint64_t RegisterBits(const Model& model);
uint64_t MemoryBits(const Model& model);

}  // namespace farside::diff
