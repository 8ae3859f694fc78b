// INQUIRY: standard data and vital product data pages. SPC-4 sections 6.6 and 7.8.
#pragma once

#include <cstdint>
#include <string>

#include "base/bytes.h"

namespace farside::scsi {

inline constexpr size_t kStandardInquirySize = 36;

struct InquiryCdb {
  bool evpd = false;
  uint8_t page = 0;
  uint16_t allocation = 0;
};

InquiryCdb ParseInquiry(ConstBytes cdb);

// What a target answers for a lun that it has not: peripheral qualifier 3, type 1Fh.
void FormatAbsentInquiry(Bytes out);

}  // namespace farside::scsi
