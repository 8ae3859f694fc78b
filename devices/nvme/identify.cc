#include "devices/nvme/identify.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>

#include "base/bytes.h"
#include "base/mutant.h"
#include "base/random.h"
#include "devices/nvme/health.h"
#include "devices/nvme/registers.h"

namespace farside::nvme {
namespace {

class Page {
 public:
  template <std::integral T>
  void Put(size_t offset, T value) {
    StoreLe(Bytes(bytes_).subspan(offset), value);
  }
  // ASCII fields are filled up with spaces (section 1.5).
  void PutText(size_t offset, size_t size, std::string_view text) {
    const auto field = Bytes(bytes_).subspan(offset, size);
    Fill(field, ' ');
    Copy(field.first(text.size()), std::as_bytes(std::span(text)));
  }
  void PutBytes(size_t offset, ConstBytes bytes) {
    Copy(Bytes(bytes_).subspan(offset, bytes.size()), bytes);
  }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(kIdentifySize);
};

using Uuid = std::array<uint8_t, 16>;

// RFC 9562, version 8: a UUID of our own making. `salt` tells the things of one serial apart.
Uuid MakeUuid(std::string_view serial, uint64_t salt) {
  uint64_t state = Mix64(salt);
  for (const char c : serial) state = Mix64(state ^ static_cast<uint8_t>(c));
  Uuid uuid;
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i % 8 == 0) state = Mix64(state);
    uuid[i] = static_cast<uint8_t>(state >> (8 * (i % 8)));
  }
  uuid[6] = static_cast<uint8_t>(0x80 | (uuid[6] & 0x0f));
  uuid[8] = static_cast<uint8_t>(0x80 | (uuid[8] & 0x3f));
  return uuid;
}

constexpr uint64_t kNamespaceSalt = 1;
constexpr uint64_t kSubsystemSalt = 2;

std::string SubsystemName(std::string_view serial) {
  std::string name = "nqn.2014-08.org.nvmexpress:uuid:";
  const Uuid uuid = MakeUuid(serial, kSubsystemSalt);
  for (size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) name += '-';
    name += fmt::format("{:02x}", uuid[i]);
  }
  return name;
}

}  // namespace

std::vector<std::byte> IdentifyController(std::string_view serial, uint32_t mdts) {
  Page page;
  page.Put(0, kVendorId);
  page.Put(2, kVendorId);
  page.PutText(4, kMaxSerialSize, serial);
  page.PutText(24, 40, kModelNumber);
  page.PutText(64, 8, kFirmwareRevision);
  page.Put(77, static_cast<uint8_t>(mdts));  // MDTS, a power of two of 4 KiB pages.
  page.Put(80, kVersion);
  page.Put(92, uint32_t{1 << 8});                              // OAES: namespace attribute notices.
  page.Put(111, uint8_t{1});                                   // CNTRLTYPE: I/O controller.
  page.Put(258, static_cast<uint8_t>(kMaxAborts - 1));         // ACL, 0's based.
  page.Put(259, static_cast<uint8_t>(kMaxEventRequests - 1));  // AERL, 0's based.
  page.Put(260, uint8_t{0x03});  // FRMW: one slot, and that read-only.
  page.Put(261, uint8_t{0x07});  // LPA: SMART per namespace, effects log, offsets.
  page.Put(262, static_cast<uint8_t>(kErrorLogEntries - 1));  // ELPE, 0's based.
  page.Put(266, kWarningTemperature);
  page.Put(268, kCriticalTemperature);
  page.Put(512, uint8_t{kSqeShift | kSqeShift << 4});  // SQES: maximum and required.
  page.Put(513, uint8_t{kCqeShift | kCqeShift << 4});  // CQES.
  page.Put(516, uint32_t{1});                          // NN
  // ONCS: Compare, Dataset Management, Write Zeroes, Save and Select fields, Timestamp.
  page.Put(520, uint16_t{1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6});
  page.Put(525, uint8_t{0x07});  // VWC: present; Flush takes all namespaces.
  const std::string name = SubsystemName(serial);
  page.PutBytes(768, std::as_bytes(std::span(name)));
  return page.Take();
}

std::vector<std::byte> IdentifyNamespace(const Namespace& ns) {
  Page page;
  page.Put(0, ns.block_count() - (MUTANT("nvme-nsze-short") ? 1 : 0));  // NSZE
  page.Put(8, ns.block_count());                                        // NCAP
  page.Put(16, ns.block_count());                                       // NUSE
  page.Put(24, uint8_t{1 << 4});  // NSFEAT: NPWG and its like are valid.
  const uint8_t zeroes = ns.limits().discard_zeroes ? 1 : 0;  // What deallocated blocks read as.
  page.Put(33, static_cast<uint8_t>(zeroes | 1 << 3));  // DLFEAT: Write Zeroes may deallocate.
  page.Put(48, ns.block_count() * ns.block_size());     // NVMCAP
  // Granularity and alignment that deallocation prefers, in blocks, 0's based: NPDG, NPDA.
  const uint64_t step =
      std::clamp<uint64_t>(ns.limits().discard_granularity / ns.block_size(), 1, 0x10000);
  page.Put(68, static_cast<uint16_t>(step - 1));
  page.Put(70, static_cast<uint16_t>(step - 1));
  page.Put(99, static_cast<uint8_t>(ns.read_only() ? 1 : 0));  // NSATTR: write protected.
  // LBAF0: no metadata; LBADS is a power of two.
  page.Put(128, static_cast<uint32_t>(std::countr_zero(ns.block_size())) << 16);
  return page.Take();
}

std::vector<std::byte> IdentifyActiveNamespaces(uint32_t after) {
  Page page;
  if (after < kNamespaceId) page.Put(0, kNamespaceId);
  return page.Take();
}

std::vector<std::byte> IdentifyNamespaceDescriptors(std::string_view serial) {
  Page page;
  page.Put(0, uint8_t{3});  // NIDT: UUID.
  page.Put(1, uint8_t{sizeof(Uuid)});
  const Uuid uuid = MakeUuid(serial, kNamespaceSalt);
  page.PutBytes(4, std::as_bytes(std::span(uuid)));
  return page.Take();
}

}  // namespace farside::nvme
