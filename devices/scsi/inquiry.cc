#include "devices/scsi/inquiry.h"

#include <algorithm>
#include <cstring>

#include "devices/scsi/big_endian.h"

namespace farside::scsi {
namespace {

constexpr uint8_t kSpc3 = 5;            // VERSION
constexpr uint8_t kResponseFormat = 2;  // RESPONSE DATA FORMAT
constexpr uint8_t kAbsent = 0x7f;
constexpr uint8_t kRemovable = 0x80;
constexpr uint8_t kSync = 0x10;    // Byte 7: synchronous transfers.
constexpr uint8_t kCmdQue = 0x02;  // Byte 7: tagged commands.

// Designators, SPC-4 section 7.8.5. Association 0: of the logical unit.
constexpr uint8_t kBinary = 1;
constexpr uint8_t kAscii = 2;
constexpr uint8_t kT10VendorId = 1;
constexpr uint8_t kNaa = 3;

}  // namespace

InquiryCdb ParseInquiry(ConstBytes cdb) {
  return {.evpd = (cdb[1] & std::byte{1}) != std::byte{},
          .obsolete = (cdb[1] & std::byte{2}) != std::byte{},  // CMDDT
          .page = std::to_integer<uint8_t>(cdb[2]),
          .allocation = LoadBe<uint16_t>(cdb.subspan(3))};
}

DataWriter& DataWriter::PutText(std::string_view text, size_t width) {
  const Bytes field = out_.subspan(size_, width);
  const size_t used = std::min(text.size(), width);
  Fill(field, ' ');
  Copy(field.first(used), std::as_bytes(std::span(text)).first(used));
  size_ += width;
  return *this;
}

DataWriter& DataWriter::PutZeroes(size_t count) {
  Fill(out_.subspan(size_, count), 0);
  size_ += count;
  return *this;
}

void FormatAbsentInquiry(Bytes out) {
  Fill(out.first(kStandardInquirySize), 0);
  out[0] = std::byte{kAbsent};
  out[2] = std::byte{kSpc3};
  out[3] = std::byte{kResponseFormat};
  out[4] = std::byte{kStandardInquirySize - 5};
  Fill(out.subspan(8, kStandardInquirySize - 8), ' ');
}

void FormatStandardInquiry(const Identity& identity, Bytes out) {
  DataWriter writer(out);
  writer.Put(identity.type).Put(identity.removable ? kRemovable : uint8_t{0});
  writer.Put(kSpc3).Put(kResponseFormat).Put(uint8_t{kStandardInquirySize - 5}).PutZeroes(2);
  writer.Put(static_cast<uint8_t>(kSync | kCmdQue));
  writer.PutText(identity.vendor, 8).PutText(identity.product, 16).PutText(identity.version, 4);
}

void BeginVpdPage(const Identity& identity, uint8_t page, DataWriter& out) {
  out.Put(identity.type).Put(page).PutZeroes(2);
}

void FormatSupportedPages(const Identity& identity, std::span<const uint8_t> pages,
                          DataWriter& out) {
  BeginVpdPage(identity, kSupportedVpdPage, out);
  for (const uint8_t page : pages) {
    if (page != kSerialNumberPage || !identity.serial.empty()) out.Put(page);
  }
  out.SetLength<uint16_t>(2);
}

void FormatSerialNumber(const Identity& identity, DataWriter& out) {
  BeginVpdPage(identity, kSerialNumberPage, out);
  out.PutText(identity.serial, identity.serial.size());
  out.SetLength<uint16_t>(2);
}

void FormatDeviceId(const Identity& identity, DataWriter& out) {
  BeginVpdPage(identity, kDeviceIdPage, out);
  const size_t length_at = out.Put(kAscii).Put(kT10VendorId).PutZeroes(1).size();
  out.PutZeroes(1).PutText(identity.vendor, 8).PutText(identity.product, 16);
  out.PutText(identity.serial, identity.serial.size());
  out.SetLength<uint8_t>(length_at);
  if (identity.wwn != 0) {
    out.Put(kBinary).Put(kNaa).PutZeroes(1).Put(uint8_t{8}).Put(identity.wwn);
  }
  out.SetLength<uint16_t>(2);
}

}  // namespace farside::scsi
