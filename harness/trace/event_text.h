// EventText: an event as a line that people read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "harness/trace/device_view.h"
#include "protocol/trace/event.h"

namespace farside::trace {

class EventText {
 public:
  explicit EventText(const TraceInfo& info);

  // What `event` says: "REGION_WRITE BAR0 CC = 0x460001 EN=1". To be called for all events, in
  // order: registers and queues are known by what came before.
  std::string Describe(const Event& event);

 private:
  std::string DescribeMessage(const Event& event, const DeviceView& view);
  std::string DescribeAccess(const Event& event, const DeviceView& view);
  std::string DescribeDma(const Event& event, const DeviceView& view);
  std::string TakeAsked(const Event& event);

  std::vector<DeviceView> views_;
  // What was asked, for error replies, which say nothing of it: by device, direction of the reply,
  // id.
  std::map<std::tuple<uint32_t, Direction, uint16_t>, std::string> asked_;
};

// "    12     0.001234 > " before it; the device's id is there if there are several.
std::string LinePrefix(const TraceInfo& info, const Event& event);

// Sixteen bytes a line, indented.
std::string HexDump(ConstBytes data);

// What a message carries besides its fixed fields: what --data dumps.
ConstBytes DataOf(const Event& event);

}  // namespace farside::trace
