// INQUIRY: standard data and vital product data pages. SPC-4 sections 6.6 and 7.8.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "devices/scsi/big_endian.h"

namespace farside::scsi {

inline constexpr size_t kStandardInquirySize = 36;
inline constexpr size_t kMaxInquiryData = 256;

// Peripheral device types, SPC-4 table 147.
inline constexpr uint8_t kDiskType = 0x00;
inline constexpr uint8_t kCdType = 0x05;

// Vital product data pages.
inline constexpr uint8_t kSupportedVpdPage = 0x00;
inline constexpr uint8_t kSerialNumberPage = 0x80;
inline constexpr uint8_t kDeviceIdPage = 0x83;
inline constexpr uint8_t kBlockLimitsPage = 0xb0;      // SBC-3 section 6.5.3
inline constexpr uint8_t kCharacteristicsPage = 0xb1;  // SBC-3 section 6.5.2
inline constexpr uint8_t kProvisioningPage = 0xb2;     // SBC-3 section 6.5.4

struct InquiryCdb {
  bool evpd = false;
  bool obsolete = false;  // Bits that a target is to refuse.
  uint8_t page = 0;
  uint16_t allocation = 0;
};

InquiryCdb ParseInquiry(ConstBytes cdb);

// Who a unit is. Texts are printable ASCII and fit their fields.
struct Identity {
  uint8_t type = kDiskType;
  bool removable = false;
  std::string vendor = "FARSIDE";  // 8 bytes.
  std::string product = "";        // 16 bytes.
  std::string version = "1.0";     // 4 bytes.
  std::string serial = "";         // Empty: it has none.
  uint64_t wwn = 0;                // NAA identifier. 0: it has none.
};

// Builds data from its first byte to its last.
class DataWriter {
 public:
  explicit DataWriter(Bytes out) : out_(out) {}

  template <std::unsigned_integral T>
  DataWriter& Put(T value) {
    StoreBe(out_.subspan(size_), value);
    size_ += sizeof(T);
    return *this;
  }
  // Padded with blanks, or cut.
  DataWriter& PutText(std::string_view text, size_t width);
  DataWriter& PutZeroes(size_t count);
  // A length field that was left for later: the bytes after it until now.
  template <std::unsigned_integral T>
  void SetLength(size_t at) {
    StoreBe(out_.subspan(at), static_cast<T>(size_ - at - sizeof(T)));
  }

  size_t size() const { return size_; }

 private:
  Bytes out_;
  size_t size_ = 0;
};

// What a target answers for a lun that it has not: peripheral qualifier 3, type 1Fh.
void FormatAbsentInquiry(Bytes out);
// kStandardInquirySize bytes.
void FormatStandardInquiry(const Identity& identity, Bytes out);
// The first four bytes of a page; its length is set by SetLength<uint16_t>(2).
void BeginVpdPage(const Identity& identity, uint8_t page, DataWriter& out);
void FormatSupportedPages(const Identity& identity, std::span<const uint8_t> pages,
                          DataWriter& out);
void FormatSerialNumber(const Identity& identity, DataWriter& out);
void FormatDeviceId(const Identity& identity, DataWriter& out);

}  // namespace farside::scsi
