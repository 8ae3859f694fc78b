#include "devices/scsi/mode_pages.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/mutant.h"
#include "devices/core/fast_state.h"
#include "devices/core/state.h"
#include "devices/scsi/big_endian.h"

namespace farside::scsi {
namespace {

// Page control, SPC-4 table 157.
constexpr uint8_t kChangeableValues = 1;
constexpr uint8_t kDefaultValues = 2;
constexpr uint8_t kSavedValues = 3;

constexpr uint8_t kAllSubpages = 0xff;
constexpr size_t kShortDescriptor = 8;
constexpr size_t kLongDescriptor = 16;

size_t HeaderSize(bool ten) { return ten ? 8 : 4; }

void PutDescriptor(BlockDescriptor descriptor, Bytes out) {
  if (out.size() == kLongDescriptor) {
    StoreBe(out, descriptor.blocks);
    StoreBe(out.subspan(12), descriptor.block_size);
    return;
  }
  StoreBe(out, static_cast<uint32_t>(std::min<uint64_t>(descriptor.blocks, UINT32_MAX)));
  StoreBe24(out.subspan(5), descriptor.block_size);
}

// SBC-3 section 6.4.2. A unit keeps its block size and capacity; 0 blocks mean "as it is" and all
// ones "as many as there are".
bool AcceptsDescriptor(ConstBytes bytes, BlockDescriptor descriptor) {
  if (descriptor.block_size == 0) return false;
  const bool is_long = bytes.size() == kLongDescriptor;
  const uint64_t blocks = is_long ? LoadBe<uint64_t>(bytes) : LoadBe<uint32_t>(bytes);
  const uint32_t size = is_long ? LoadBe<uint32_t>(bytes.subspan(12)) : LoadBe24(bytes.subspan(5));
  const uint64_t most = is_long ? UINT64_MAX : UINT32_MAX;
  if (size != descriptor.block_size && !MUTANT("scsi-mode-select-block-size")) return false;
  return blocks == 0 || blocks == most || blocks == descriptor.blocks;
}

}  // namespace

ModePage::ModePage(uint8_t code, size_t size) : code_(code), size_(size) {
  CHECK(size > 2 && size <= kMaxSize);
  Set(0, code, 0);
  Set(1, static_cast<uint8_t>(size - 2), 0);
  // They stand in the mask of changeable bits, too.
  changeable_[0] = defaults_[0];
  changeable_[1] = defaults_[1];
}

ModePage& ModePage::Set(size_t byte, uint8_t value, uint8_t changeable) {
  defaults_[byte] = current_[byte] = std::byte{value};
  changeable_[byte] = std::byte{changeable};
  return *this;
}

bool ModePage::Accepts(ConstBytes page) const {
  CHECK(page.size() == size_);
  for (size_t i = 2; i < size_; ++i) {
    if (((page[i] ^ current_[i]) & ~changeable_[i]) != std::byte{}) return false;
  }
  return true;
}

ModePage* ModePages::Find(uint8_t code) {
  const auto found = std::ranges::find(pages_, code, &ModePage::code);
  return found == pages_.end() ? nullptr : &*found;
}

const ModePage* ModePages::Find(uint8_t code) const {
  const auto found = std::ranges::find(pages_, code, &ModePage::code);
  return found == pages_.end() ? nullptr : &*found;
}

void ModePages::Reset() {
  for (ModePage& page : pages_) page.Reset();
}

size_t ModePages::PutPages(uint8_t page_control, uint8_t code, Bytes out) const {
  size_t size = 0;
  const size_t count = pages_.size() + (MUTANT("scsi-mode-sense-past-table") ? 1 : 0);
  for (size_t i = 0; i < count; ++i) {
    const ModePage& page = pages_[std::min(i, pages_.size() - 1)];
    if (code != kAllPages && code != page.code()) continue;
    const ConstBytes values = page_control == kChangeableValues ? page.changeable()
                              : page_control == kDefaultValues  ? page.defaults()
                                                                : page.current();
    Copy(out.subspan(size, values.size()), values);
    size += values.size();
  }
  return size;
}

// SPC-4 sections 6.13 and 6.14.
ModePages::Answer ModePages::Show(ConstBytes cdb, BlockDescriptor descriptor,
                                  uint8_t device_specific, Bytes out) const {
  const bool ten = cdb.size() == 10;
  const bool no_descriptor = (Byte(cdb, 1) & 0x08) != 0 || descriptor.block_size == 0;  // DBD
  const bool long_lba = ten && (Byte(cdb, 1) & 0x10) != 0;                              // LLBAA
  const auto page_control = static_cast<uint8_t>(Byte(cdb, 2) >> 6);
  const auto code = static_cast<uint8_t>(Byte(cdb, 2) & 0x3f);
  const uint8_t subpage = Byte(cdb, 3);
  Answer answer;
  answer.allocation = ten ? LoadBe<uint16_t>(cdb.subspan(7)) : Byte(cdb, 4);
  if (page_control == kSavedValues) {
    answer.sense = IllegalRequest(asc::kSavingParametersNotSupported);
    return answer;
  }
  if ((subpage != 0 && subpage != kAllSubpages) || (code != kAllPages && Find(code) == nullptr)) {
    answer.sense = IllegalRequest(asc::kInvalidFieldInCdb);
    return answer;
  }
  Fill(out.first(kMaxModeData), 0);
  size_t size = HeaderSize(ten);
  const size_t descriptor_size = no_descriptor ? 0 : long_lba ? kLongDescriptor : kShortDescriptor;
  if (descriptor_size != 0) PutDescriptor(descriptor, out.subspan(size, descriptor_size));
  size += descriptor_size;
  size += PutPages(page_control, code, out.subspan(size));
  answer.size = size;
  if (ten) {
    StoreBe(out, static_cast<uint16_t>(size - 2));
    out[3] = std::byte{device_specific};
    out[4] = static_cast<std::byte>(descriptor_size == kLongDescriptor ? 1 : 0);
    StoreBe(out.subspan(6), static_cast<uint16_t>(descriptor_size));
  } else {
    out[0] = static_cast<std::byte>(size - 1);
    out[2] = std::byte{device_specific};
    out[3] = static_cast<std::byte>(descriptor_size);
  }
  return answer;
}

std::optional<Sense> ModePages::SelectPages(ConstBytes pages, std::vector<ModePage>& next) const {
  while (!pages.empty()) {
    if (pages.size() < 2) return IllegalRequest(asc::kParameterListLength);
    const uint8_t first = Byte(pages, 0);
    const auto found = std::ranges::find(next, first & 0x3f, &ModePage::code);
    // Subpage format, which no page here has; PS is what MODE SENSE set and means nothing.
    if ((first & 0x40) != 0 || found == next.end() || Byte(pages, 1) != found->size() - 2) {
      return IllegalRequest(asc::kInvalidFieldInParameterList);
    }
    if (pages.size() < found->size()) return IllegalRequest(asc::kParameterListLength);
    std::array<std::byte, ModePage::kMaxSize> copy{};
    const Bytes page = Bytes(copy).first(found->size());
    Copy(page, pages.first(found->size()));
    page[0] = found->current()[0];
    if (!found->Accepts(page)) return IllegalRequest(asc::kInvalidFieldInParameterList);
    found->Change(page);
    pages = pages.subspan(found->size());
  }
  return std::nullopt;
}

// SPC-4 sections 6.11 and 7.5.5.
std::optional<Sense> ModePages::Select(ConstBytes list, bool ten, BlockDescriptor descriptor) {
  if (list.empty()) return std::nullopt;
  const size_t header = HeaderSize(ten);
  if (list.size() < header) return IllegalRequest(asc::kParameterListLength);
  const size_t descriptors = ten ? LoadBe<uint16_t>(list.subspan(6)) : Byte(list, 3);
  const bool long_lba = ten && (Byte(list, 4) & 1) != 0;
  const size_t one = long_lba ? kLongDescriptor : kShortDescriptor;
  if (descriptors != 0 && descriptors != one) {
    return IllegalRequest(asc::kInvalidFieldInParameterList);
  }
  if (list.size() < header + descriptors) return IllegalRequest(asc::kParameterListLength);
  if (descriptors != 0 && !AcceptsDescriptor(list.subspan(header, descriptors), descriptor)) {
    return IllegalRequest(asc::kInvalidFieldInParameterList);
  }
  std::vector<ModePage> next = pages_;
  if (auto sense = SelectPages(list.subspan(header + descriptors), next)) return sense;
  pages_ = std::move(next);
  return std::nullopt;
}

// u8 n, then for each page: u8 code, u8 size, the bytes of its current values.
void ModePages::Save(StateWriter& out) const {
  out.Put(static_cast<uint8_t>(pages_.size()));
  for (const ModePage& page : pages_) {
    out.Put(page.code());
    out.Put(static_cast<uint8_t>(page.size()));
    out.PutBytes(page.current());
  }
}

Result<void> ModePages::Load(StateReader& in) {
  std::vector<ModePage> next = pages_;
  if (in.Get<uint8_t>() != next.size()) return Fail("the saved disk has other mode pages");
  for (ModePage& page : next) {
    const auto code = in.Get<uint8_t>();
    const auto size = in.Get<uint8_t>();
    std::array<std::byte, ModePage::kMaxSize> bytes{};
    if (code != page.code() || size != page.size()) {
      return Fail("the saved disk has mode page {:#x} of {} bytes, not {:#x} of {}", code, size,
                  page.code(), page.size());
    }
    const Bytes values = Bytes(bytes).first(size);
    in.GetBytes(values);
    values[0] = page.current()[0];
    values[1] = page.current()[1];
    if (!page.Accepts(values)) {
      return Fail("the saved mode page {:#x} has values that this disk cannot have", code);
    }
    page.Change(values);
  }
  pages_ = std::move(next);
  return {};
}

// Whole pages: one copy is faster than one for what may change of each.
void ModePages::SaveFast(FastState& out) const { out.PutArray(pages_); }
void ModePages::LoadFast(FastReader& in) { in.GetArray(std::span(pages_)); }

}  // namespace farside::scsi
