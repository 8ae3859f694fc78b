#include "protocol/trace/trace_info.h"

#include <nlohmann/json.hpp>

#include "base/options.h"

namespace farside::trace {
namespace {

constexpr uint64_t kVersion = 1;

constexpr OptionWord<TraceInfo::Tap> kTaps[] = {{"device", TraceInfo::Tap::kDevice},
                                                {"wire", TraceInfo::Tap::kWire}};
constexpr OptionWord<TraceInfo::Dma> kDmas[] = {{"direct", TraceInfo::Dma::kDirect},
                                                {"message", TraceInfo::Dma::kMessage}};
constexpr OptionWord<TraceInfo::ClockKind> kClocks[] = {
    {"monotonic", TraceInfo::ClockKind::kMonotonic}, {"virtual", TraceInfo::ClockKind::kVirtual}};

template <typename Enum, size_t kCount>
std::string WordFor(const OptionWord<Enum> (&words)[kCount], Enum value) {
  for (const auto& [word, meaning] : words) {
    if (meaning == value) return std::string(word);
  }
  return {};
}

}  // namespace

std::string FormatTraceInfo(const TraceInfo& info) {
  nlohmann::json json = {{"farside_trace", kVersion},
                         {"program", info.program},
                         {"tap", WordFor(kTaps, info.tap)},
                         {"dma", WordFor(kDmas, info.dma)},
                         {"clock", WordFor(kClocks, info.clock)},
                         {"args", info.args},
                         {"devices", nlohmann::json::array()}};
  for (const auto& device : info.devices) {
    json["devices"].push_back({{"id", device.id}, {"model", device.model}});
  }
  if (!info.note.empty()) json["note"] = info.note;
  // Arguments may hold any bytes: what is no UTF-8 is replaced, not thrown at us.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Result<TraceInfo> ParseTraceInfo(std::string_view text) {
  const auto json = ParseJson(text);
  if (!json) return Fail("the trace's first block is no JSON: {}", json.error().message);
  OptionReader reader("the trace's first block", *json);
  TraceInfo info;
  reader.Number("farside_trace", 0, kVersion, kVersion);
  info.program = reader.String("program", "");
  info.tap = reader.Choice("tap", kTaps, info.tap);
  info.dma = reader.Choice("dma", kDmas, info.dma);
  info.clock = reader.Choice("clock", kClocks, info.clock);
  info.note = reader.String("note", "");
  const auto strings = [&](const nlohmann::json* list, std::vector<std::string>* out) {
    if (list == nullptr || !list->is_array()) return;
    for (const auto& entry : *list) {
      if (entry.is_string()) out->push_back(entry.get<std::string>());
    }
  };
  strings(reader.Value("args"), &info.args);
  if (const auto* devices = reader.Value("devices"); devices != nullptr && devices->is_array()) {
    for (const auto& device : *devices) {
      OptionReader fields("a device of the trace's first block", device);
      info.devices.push_back({fields.String("id", ""), fields.String("model", "")});
    }
  }
  if (auto finished = reader.Finish(); !finished) return tl::unexpected(finished.error());
  return info;
}

}  // namespace farside::trace
