// Host: the memory and the interrupts of a device that is fuzzed alone. Hostile: what the device
// reads comes from the session, at the moment when it asks. And watchful: see the oracles below.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/loop.h"
#include "devices/core/device.h"
#include "devices/core/dma_space.h"
#include "devices/core/irq_sink.h"
#include "fuzz/host/referee.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// What the session has for a DMA access.
struct Answer {
  bool fault = false;
  ConstBytes data = {};  // Of a read: its first bytes; those that are missing are memory's.
};

// Where answers come from.
class AnswerSource {
 public:
  virtual ~AnswerSource() = default;
  // The next one, if the session has one here.
  virtual std::optional<Answer> TakeAnswer(DmaAccess access) = 0;
};

// Oracles: "bus-master" (an access while the Command register forbids it), "self-access" (an access
// to the device's own BAR that leaves it), "interrupt-unarmed" (one that is masked, disabled, or of
// no vector), "bounded-work" (too many accesses in one turn of the loop).
class Host final : public DmaSpace, public IrqSink {
 public:
  static constexpr uint64_t kBase = 0x10'0000;
  static constexpr uint64_t kSize = 0x3'0000;
  static constexpr uint64_t kHighBase = 0x1'0000'0000;
  static constexpr uint64_t kHighSize = 0x4000;
  static constexpr size_t kMaxWindows = 8;
  static constexpr uint64_t kMaxWindowSize = 64 << 10;
  // More than any lawful piece of work between two turns makes.
  static constexpr uint64_t kMaxAccessesPerTurn = 20'000;

  Host(Loop& loop, AnswerSource& source) : loop_(loop), source_(source), released_(loop) {}
  ~Host() override;

  // The device that uses it; once.
  void Attach(Device& device);
  // Who is told of what the device does; may be nobody. Outlives this.
  void set_referee(Referee* referee) { referee_ = referee; }
  // Of what the device may do in one turn of the loop, if it is less than what any may.
  void set_max_accesses_per_turn(uint64_t most) { max_in_turn_ = most; }

  // Memory, windows and counts as a new session finds them. Nothing waits.
  void Begin(bool by_message, bool own_table);

  // The session's events.
  void Hold() { held_ = true; }
  // The access that has waited longest goes on with this; nothing happens where none waits.
  void Release(Answer answer);
  void ReleaseAll();
  // Those that wait end as cancelled, as at a reset of the device's server.
  void CancelWaits() {
    ++cancellations_;
    released_.NotifyAll();
  }
  // Lawful sizes only are taken. True if a window came or went: the device is to be told.
  bool AddWindow(uint64_t iova, uint64_t size, bool readable, bool writable);
  bool RemoveWindow(uint64_t iova, uint64_t size);
  // The guest's own write: what is outside its memory is left out.
  void WriteMemory(uint64_t iova, ConstBytes data);
  // Where a BAR of the device lies, 0 if nowhere.
  uint64_t BarAddress(uint32_t bar) const;

  struct Counts {
    uint64_t accesses = 0;    // That were asked for.
    uint64_t completed = 0;   // And done.
    uint64_t interrupts = 0;  // INTx: rises.
    uint64_t faults = 0;      // That the session made.
  };
  const Counts& counts() const { return counts_; }
  bool waiting() const { return first_waiting_ != next_waiting_; }

  // As a referee sees it. A part of one window that the device may access so, or nothing.
  ConstBytes Peek(uint64_t iova, uint64_t size, DmaAccess access = DmaAccess::kRead) const;
  // The BAR of the device's, decoded, that the range overlaps.
  std::optional<uint32_t> OwnBar(uint64_t iova, uint64_t size) const;
  bool by_message() const { return by_message_; }
  bool bus_master() const;
  bool intx() const { return intx_; }
  // Neither MSI nor MSI-X is enabled, and INTx is not disabled.
  bool intx_mode() const;
  bool msix_enabled() const;
  bool MsixMasked(uint32_t vector) const;  // By the function or in the device's own table.

  // DmaSpace.
  Task<DmaStatus> Read(uint64_t iova, Bytes out) override { return ReadPart(iova, out, false); }
  Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override {
    return WritePart(iova, in, false);
  }
  Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                      DmaBuffer* buffer) override;

  // IrqSink.
  void SetIntx(bool asserted) override;
  void SignalMsi(uint32_t vector) override;
  void SignalMsix(uint32_t vector) override;
  bool owns_msix_table() const override { return !own_table_; }
  bool msix_pending(uint32_t) const override { return false; }

 private:
  static constexpr uint64_t kPage = 4096;

  struct Window {
    uint64_t iova = 0;
    bool readable = true;
    bool writable = true;
    bool removed = false;
    uint64_t dirty = 0;  // A bit a page.
    std::vector<std::byte> bytes;
  };
  class Lease;
  // Configuration space, as far as every function has the same there: read at once, for every
  // access needs it.
  using Header = std::array<std::byte, 64>;

  // The window that holds the whole range and allows the access.
  const std::shared_ptr<Window>* Find(uint64_t iova, uint64_t size, DmaAccess access) const;
  static Bytes Touch(Window& window, uint64_t iova, uint64_t size);
  // `continues`: the access is a further part of a transfer that had begun, which goes on if bus
  // mastering is switched off meanwhile.
  void Watch(const char* what, uint64_t iova, uint64_t size, bool continues = false);
  Task<DmaStatus> ReadPart(uint64_t iova, Bytes out, bool continues);
  Task<DmaStatus> WritePart(uint64_t iova, ConstBytes in, bool continues);
  // Waits as the session says. False if it was cancelled meanwhile.
  Task<bool> Wait(DmaAccess access, std::optional<Answer>* answer);
  Header ReadHeader() const;
  std::optional<uint32_t> OwnBar(const Header& header, uint64_t iova, uint64_t size) const;
  static uint64_t AddressIn(const Header& header, uint32_t bar);
  // Whether the session lets the access fail.
  bool Faults(const std::optional<Answer>& answer);
  uint16_t Config16(uint64_t offset) const;
  uint32_t Config32(uint64_t offset) const;
  bool msi_enabled() const;
  void CountInterrupt() { ++counts_.interrupts; }
  void CountMessage(const char* kind, uint32_t vector);

  Loop& loop_;
  AnswerSource& source_;
  Device* device_ = nullptr;
  Referee* referee_ = nullptr;
  uint64_t msi_ = 0;  // Offsets of capabilities; 0 where absent.
  uint64_t msix_ = 0;
  std::vector<std::shared_ptr<Window>> windows_;  // The first two are always the same.
  bool by_message_ = false;
  bool own_table_ = false;
  bool held_ = false;
  Wakeup released_;
  // Tickets of those that wait, and what the one whose turn it is goes on with.
  uint64_t next_waiting_ = 0;
  uint64_t first_waiting_ = 0;
  std::optional<Answer> release_;
  uint64_t cancellations_ = 0;
  uint64_t turn_ = 0;  // Of the loop: its resumptions.
  uint64_t in_turn_ = 0;
  uint64_t max_in_turn_ = kMaxAccessesPerTurn;
  bool intx_ = false;
  Counts counts_;
};

}  // namespace farside::fuzz
