#include "devices/scsi/sense.h"

#include "base/check.h"
#include "devices/scsi/big_endian.h"

namespace farside::scsi {
namespace {

constexpr uint8_t kCurrentFixed = 0x70;
constexpr uint8_t kCurrentDescriptor = 0x72;
constexpr uint8_t kValid = 0x80;
// Information descriptor, SPC-4 section 4.5.2.2: type 0, 10 more bytes.
constexpr uint8_t kInformationType = 0;
constexpr uint8_t kInformationSize = 12;

}  // namespace

size_t FormatSense(const Sense& sense, bool descriptor_format, Bytes out) {
  CHECK(out.size() >= kMaxSenseSize);
  Fill(out, 0);
  const auto asc = static_cast<uint8_t>(sense.code >> 8);
  const auto ascq = static_cast<uint8_t>(sense.code);
  if (descriptor_format) {
    out[0] = std::byte{kCurrentDescriptor};
    out[1] = std::byte{static_cast<uint8_t>(sense.key)};
    out[2] = std::byte{asc};
    out[3] = std::byte{ascq};
    if (!sense.information) return 8;
    out[7] = std::byte{kInformationSize};
    out[8] = std::byte{kInformationType};
    out[9] = std::byte{kInformationSize - 2};
    out[10] = std::byte{kValid};
    StoreBe(out.subspan(12), *sense.information);
    return 8 + kInformationSize;
  }
  out[0] = std::byte{kCurrentFixed};
  out[2] = std::byte{static_cast<uint8_t>(sense.key)};
  // Four bytes are all that there is: a larger value is not valid in this format.
  if (sense.information && *sense.information <= UINT32_MAX) {
    out[0] |= std::byte{kValid};
    StoreBe(out.subspan(3), static_cast<uint32_t>(*sense.information));
  }
  out[7] = std::byte{kFixedSenseSize - 8};
  out[12] = std::byte{asc};
  out[13] = std::byte{ascq};
  return kFixedSenseSize;
}

}  // namespace farside::scsi
