#include "devices/scsi/inquiry.h"

#include "devices/scsi/big_endian.h"

namespace farside::scsi {
namespace {

constexpr uint8_t kSpc3 = 5;  // VERSION
constexpr uint8_t kAbsent = 0x7f;

}  // namespace

InquiryCdb ParseInquiry(ConstBytes cdb) {
  return {.evpd = (cdb[1] & std::byte{1}) != std::byte{},
          .page = std::to_integer<uint8_t>(cdb[2]),
          .allocation = LoadBe<uint16_t>(cdb.subspan(3))};
}

void FormatAbsentInquiry(Bytes out) {
  Fill(out, 0);
  out[0] = std::byte{kAbsent};
  out[2] = std::byte{kSpc3};
  out[3] = std::byte{2};  // RESPONSE DATA FORMAT
  out[4] = std::byte{kStandardInquirySize - 5};
  Fill(out.subspan(8), ' ');
}

}  // namespace farside::scsi
