#include "harness/diff/comparator.h"

#include <fmt/format.h>

#include <bit>

namespace farside::diff {
namespace {

// Of the registers that rows name; beyond them nothing is counted.
constexpr uint64_t kMaxCounted = 64 << 10;
constexpr uint64_t kContext = 16;  // Bytes of memory that a difference shows.

std::string HexBytes(ConstBytes bytes) {
  std::string out;
  for (const std::byte byte : bytes) out += fmt::format("{:02x}", std::to_integer<uint32_t>(byte));
  return out;
}

}  // namespace

std::string BitsText(uint64_t bits) {
  std::string out = std::popcount(bits) == 1 ? "bit" : "bits";
  std::string separator = " ";
  while (bits != 0) {
    const int high = 63 - std::countl_zero(bits);
    int low = high;
    while (low > 0 && (bits >> (low - 1) & 1) != 0) --low;
    out += separator + (high == low ? fmt::format("{}", high) : fmt::format("{}..{}", high, low));
    separator = ", ";
    bits = low == 0 ? 0 : bits & ((uint64_t{1} << low) - 1);
  }
  return out;
}

void Comparator::Count(const Event& read) {
  bits_of_reads_ += uint64_t{8} * read.size;
  if (read.offset + read.size <= kMaxCounted) {
    auto& seen = seen_[read.region];
    if (seen.size() < read.offset + read.size) seen.resize(read.offset + read.size);
    for (uint32_t i = 0; i < read.size; ++i) seen[read.offset + i] = true;
  }
}

std::optional<Difference> Comparator::CompareRead(const Event& read, uint64_t a, uint64_t b) {
  if (a == b) return std::nullopt;
  uint64_t unlawful = a ^ b;
  for (uint32_t i = 0; i < read.size; ++i) {
    const uint64_t mask = lawful_.ReadMask(read.region, read.offset + i);
    unlawful &= ~(mask << (8 * i));
  }
  lawful_bits_ += static_cast<uint64_t>(std::popcount((a ^ b) & ~unlawful));
  if (unlawful == 0) return std::nullopt;
  // The register in which the first of them is.
  const uint64_t first = read.offset + static_cast<uint64_t>(std::countr_zero(unlawful)) / 8;
  std::string detail = BitsText(unlawful);
  const RegisterDef* row = model_.Find(read.region, first);
  if (row != nullptr && (row->offset != read.offset || row->width != read.size)) {
    const uint64_t shift =
        8 * (row->offset < read.offset ? read.offset - row->offset : row->offset - read.offset);
    const uint64_t in_row =
        (row->offset < read.offset ? unlawful << shift : unlawful >> shift) & WidthMask(row->width);
    detail = fmt::format("{} {}", model_.PlaceName(read.region, row->offset), BitsText(in_row));
  }
  return Difference{
      .what = model_.Text(read),
      .a = fmt::format("{:#0{}x}{}", a, 2 * read.size + 2, model_.FieldsText(read, a)),
      .b = fmt::format("{:#0{}x}{}", b, 2 * read.size + 2, model_.FieldsText(read, b)),
      .detail = std::move(detail)};
}

std::string Comparator::MemoryName(uint64_t iova) const {
  for (const MemoryField& field : model_.fields()) {
    if (iova < field.iova || iova - field.iova >= field.size) continue;
    return fmt::format("{}+{:#x}", field.name, iova - field.iova);
  }
  return "memory that the guest alone writes";
}

Result<std::optional<Difference>> Comparator::CompareMemory(const GuestMemory& a, GuestMemory& b) {
  for (uint64_t from = 0;;) {
    const auto at = a.FindDifference(b, from);
    if (!at) return std::nullopt;
    std::byte in_a{};
    std::byte in_b{};
    for (const auto& [memory, byte] :
         {std::pair(&a, &in_a), std::pair<const GuestMemory*, std::byte*>(&b, &in_b)}) {
      if (auto read = memory->Read(*at, Bytes(byte, 1)); !read) return tl::unexpected(read.error());
    }
    const auto differs = std::to_integer<uint8_t>(in_a ^ in_b);
    if (differs == 0) {  // A device has written meanwhile.
      from = *at + 1;
      continue;
    }
    if ((differs & ~lawful_.MemoryMask(*at)) == 0) {
      ++lawful_bytes_;
      if (auto wrote = b.Write(*at, ConstBytes(&in_a, 1)); !wrote) {
        return tl::unexpected(wrote.error());
      }
      from = *at + 1;
      continue;
    }
    Difference out{
        .what = fmt::format("memory at {:#x}", *at), .a = {}, .b = {}, .detail = MemoryName(*at)};
    const uint64_t page = *at / GuestMemory::kPageSize * GuestMemory::kPageSize;
    std::vector<std::byte> bytes(std::min(kContext, page + GuestMemory::kPageSize - *at));
    if (a.Read(*at, bytes)) out.a = HexBytes(bytes);
    if (b.Read(*at, bytes)) out.b = HexBytes(bytes);
    return out;
  }
}

uint64_t Comparator::compared_bits() const {
  uint64_t bits = 0;
  for (const RegisterSpace& space : model_.spaces()) {
    const auto seen = seen_.find(space.region);
    if (seen == seen_.end()) continue;
    for (const RegisterDef& row : space.rows) {
      for (uint64_t at = row.offset; at < row.offset + row.width && at < seen->second.size();
           ++at) {
        if (!seen->second[at]) continue;
        bits += 8 - static_cast<uint64_t>(std::popcount(lawful_.ReadMask(space.region, at)));
      }
    }
  }
  return bits;
}

}  // namespace farside::diff
