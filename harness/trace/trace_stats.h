// TraceStats: what a trace has how often.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "harness/trace/device_view.h"
#include "protocol/trace/event.h"

namespace farside::trace {

class TraceStats {
 public:
  // Places in regions, and interrupt vectors, that are counted one by one.
  static constexpr size_t kMaxRows = 4096;
  static constexpr size_t kBiggest = 5;

  explicit TraceStats(const TraceInfo& info);

  void Add(const Event& event);

  // The tables, as text.
  std::string Report() const;

  uint64_t events() const { return events_; }

 private:
  struct Accesses {
    uint64_t reads = 0;
    uint64_t writes = 0;
  };
  struct Commands {
    uint64_t sent = 0;
    uint64_t refused = 0;
  };
  struct NvmeCommands {
    uint64_t count = 0;
    uint64_t failed = 0;
    uint64_t bytes = 0;
    uint64_t least = UINT64_MAX;  // Bytes of the smallest.
    uint64_t most = 0;
  };
  // Device, then region and offset, or kind and vector.
  using Place = std::tuple<uint32_t, uint32_t, uint64_t>;
  // Device, admin, opcode.
  using Opcode = std::tuple<uint32_t, bool, uint8_t>;

  void AddMessage(const Event& event);
  void AddAccess(const Event& event, uint32_t region, uint64_t offset, bool write);
  void AddNvme(const Event& event);
  std::string DeviceText(uint32_t device) const;
  std::string TotalsText() const;
  std::string NvmeText() const;

  const TraceInfo info_;
  std::vector<DeviceView> views_;
  uint64_t events_ = 0;
  uint64_t messages_ = 0;
  uint64_t clients_ = 0;
  uint64_t interrupts_ = 0;
  uint64_t dma_read_bytes_ = 0;
  uint64_t dma_written_bytes_ = 0;
  uint64_t first_ns_ = 0;
  uint64_t last_ns_ = 0;
  std::map<uint16_t, Commands> commands_;
  std::map<Place, std::pair<std::string, Accesses>> places_;
  Accesses other_places_;
  std::map<Place, uint64_t> vectors_;
  std::map<Opcode, NvmeCommands> nvme_;
  // Size, event, what; the biggest first.
  std::vector<std::tuple<uint64_t, uint32_t, std::string>> biggest_;
};

}  // namespace farside::trace
