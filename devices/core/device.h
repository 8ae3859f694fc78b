// Device: a PCI function as its bus sees it. It owns no socket, thread or global and does not know
// that it is remote; the same events from the same seed give the same bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/task.h"
#include "devices/core/dma_space.h"
#include "devices/core/irq_sink.h"

namespace farside {

class FastState;
class StateReader;
class StateWriter;

// Region numbers are vfio's for PCI devices.
enum class Region : uint32_t { kBar0, kBar1, kBar2, kBar3, kBar4, kBar5, kRom, kConfig, kVga };
inline constexpr uint32_t kRegionCount = 9;
inline constexpr uint32_t kBarCount = 6;

struct RegionInfo {
  uint64_t size = 0;  // In bytes; 0 where the device has no such region.
};

// What does not change as long as the device lives.
struct DeviceInfo {
  std::string_view model;  // The name in the registry and on command lines: "nvme".
  std::array<RegionInfo, kRegionCount> regions{};
  uint32_t intx_count = 0;  // 0 or 1.
  uint32_t msi_count = 0;   // A power of two up to 32, or 0.
  uint32_t msix_count = 0;  // Up to 2048.

  const RegionInfo& region(Region index) const { return regions[static_cast<size_t>(index)]; }
};

enum class ResetKind {
  kFunction,  // Conventional or function-level reset: registers to their reset values.
  kShutdown,  // The same, before the device is destroyed.
};

// What a device may use. All of it outlives the device.
struct DeviceEnv {
  std::string id;  // "nvme0": names the device in log lines.
  Loop& loop;
  const Clock& clock;
  DmaSpace& dma;
  IrqSink& irq;
};

// Registers whose writes carry a count or an index and nothing else, so that a doorbell by eventfd
// says enough. Offered to clients as ioeventfds. Sizes and offsets in bytes, within the region.
struct DoorbellRange {
  Region region = Region::kBar0;
  uint64_t offset = 0;
  uint32_t size = 0;
};

class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceInfo& info() const = 0;

  // A guest access: out.size() or in.size() bytes at `offset`, which lie inside the region. Any
  // size and alignment must be answered as the bus does: what the device has no answer for reads as
  // ones and ignores writes. What a driver can read back (status, W1C, masks) is settled at once;
  // DMA and long work go to the device's tasks.
  virtual void ReadRegion(Region region, uint64_t offset, Bytes out) = 0;
  virtual void WriteRegion(Region region, uint64_t offset, ConstBytes in) = 0;

  // Registers go to their reset values now, queued work is gone, tasks are told to end. What waits
  // for the kernel ends later: see Drain.
  virtual void Reset(ResetKind kind) = 0;

  // A DMA window came or went; the DmaSpace has changed already.
  virtual void OnDmaChanged() {}

  // When to call OnDeadline, on its clock, not between Drain and Resume; asked after each event.
  virtual std::optional<uint64_t> NextDeadline() const { return std::nullopt; }
  virtual void OnDeadline() {}

  // Ends when no command is in flight. Commands fetched before it was called complete; while it
  // waits none is fetched. After Reset(kShutdown) and this the device may be destroyed.
  virtual Task<void> Drain() = 0;
  // Fetching goes on after a Drain.
  virtual void Resume() = 0;

  // The whole architectural state, as sections (devices/core/state.h). Called with no task in the
  // middle of a resume. Load leaves the device as it was if the state is refused.
  virtual void Save(StateWriter& out) const = 0;
  virtual Result<void> Load(StateReader& in) = 0;

  // The same state as a copy of memory, for this object alone (devices/core/fast_state.h). Only of
  // a device that is drained and not resumed yet; LoadFast also wants it reset before it was
  // drained. Afterwards Save gives what it gave when `out` was saved, whatever came between; so
  // does all that no state tells of (counters, fairness) and that later events depend on. Times are
  // absolute: the clock is the same. What back-ends and guest memory hold is the caller's.
  virtual void SaveFast(FastState& out) const = 0;
  virtual void LoadFast(const FastState& in) = 0;

  virtual std::span<const DoorbellRange> doorbells() const { return {}; }
};

}  // namespace farside
