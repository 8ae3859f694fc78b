// Mode pages: what MODE SENSE shows of them and what MODE SELECT may change. SPC-4 section 7.5.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "devices/scsi/sense.h"

namespace farside {
class FastReader;
class FastState;
class StateReader;
class StateWriter;
}  // namespace farside

namespace farside::scsi {

inline constexpr uint8_t kErrorRecoveryPage = 0x01;  // SBC-3 section 6.4.8
inline constexpr uint8_t kRigidGeometryPage = 0x04;  // SBC section 7.1.6
inline constexpr uint8_t kFlexibleDiskPage = 0x05;   // SBC section 7.1.3
inline constexpr uint8_t kCachingPage = 0x08;        // SBC-3 section 6.4.5
inline constexpr uint8_t kControlPage = 0x0a;        // SPC-4 section 7.5.8
inline constexpr uint8_t kExceptionsPage = 0x1c;     // SBC-3 section 6.4.6
inline constexpr uint8_t kCapabilitiesPage = 0x2a;   // MMC-3 section 6.3.11
inline constexpr uint8_t kAllPages = 0x3f;

inline constexpr uint8_t kCachingWce = 0x04;     // Byte 2 of the caching page.
inline constexpr uint8_t kControlDSense = 0x04;  // Byte 2 of the control page.

class ModePage {
 public:
  static constexpr size_t kMaxSize = 32;

  // `size` includes the page's own two bytes of code and length.
  ModePage(uint8_t code, size_t size);

  uint8_t code() const { return code_; }
  size_t size() const { return size_; }
  ConstBytes current() const { return ConstBytes(current_).first(size_); }
  uint8_t current(size_t byte) const { return std::to_integer<uint8_t>(current_[byte]); }
  ConstBytes defaults() const { return ConstBytes(defaults_).first(size_); }
  ConstBytes changeable() const { return ConstBytes(changeable_).first(size_); }

  // Builds the page: a byte's value, and the bits of it that a MODE SELECT may change.
  ModePage& Set(size_t byte, uint8_t value, uint8_t changeable = 0);
  // What the unit itself has to say changes.
  void Update(size_t byte, uint8_t value) { current_[byte] = std::byte{value}; }
  // Whether `page`, of size(), differs from now in nothing but changeable bits.
  bool Accepts(ConstBytes page) const;
  void Change(ConstBytes page) { Copy(Bytes(current_).first(size_), page); }
  void Reset() { current_ = defaults_; }

 private:
  uint8_t code_;
  size_t size_;
  std::array<std::byte, kMaxSize> defaults_{};
  std::array<std::byte, kMaxSize> changeable_{};
  std::array<std::byte, kMaxSize> current_{};
};

// What the block descriptor of a unit says. No block size: the unit has no descriptor.
struct BlockDescriptor {
  uint64_t blocks = 0;
  uint32_t block_size = 0;
};

// The pages of a unit.
class ModePages {
 public:
  // By ascending code.
  explicit ModePages(std::vector<ModePage> pages) : pages_(std::move(pages)) {}

  // Null where there is none.
  ModePage* Find(uint8_t code);
  const ModePage* Find(uint8_t code) const;
  void Reset();

  // A CDB of MODE SENSE(6) or (10), and what it gets. `device_specific` is the header's parameter
  // of that name. `out` has room for kMaxModeData. The bytes there are, or sense data.
  struct Answer {
    size_t size = 0;
    size_t allocation = 0;
    std::optional<Sense> sense;
  };
  Answer Show(ConstBytes cdb, BlockDescriptor descriptor, uint8_t device_specific, Bytes out) const;

  // What a MODE SELECT's parameter list changes: nothing where it has an error. `ten`: it is of
  // MODE SELECT(10).
  std::optional<Sense> Select(ConstBytes list, bool ten, BlockDescriptor descriptor);

  void Save(StateWriter& out) const;
  // Leaves the pages as they were if the state is refused.
  Result<void> Load(StateReader& in);
  // The same as a copy, as Device::SaveFast and LoadFast.
  void SaveFast(FastState& out) const;
  void LoadFast(FastReader& in);

 private:
  size_t PutPages(uint8_t page_control, uint8_t code, Bytes out) const;
  // Checks the pages of a list and changes them in `next`.
  std::optional<Sense> SelectPages(ConstBytes pages, std::vector<ModePage>& next) const;

  std::vector<ModePage> pages_;
};

inline constexpr size_t kMaxModeData = 512;

}  // namespace farside::scsi
