// What a trace says around one of its events.
#include <fmt/format.h>

#include <deque>

#include "harness/replay/replayer.h"
#include "harness/trace/event_file.h"
#include "harness/trace/event_text.h"

namespace farside::replay {

Result<std::vector<std::string>> DescribeAround(const std::string& path, uint32_t number) {
  constexpr size_t kBefore = 6;
  constexpr uint32_t kBehind = 3;
  auto source = trace::OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  const trace::TraceInfo& info = (*source)->info();
  trace::EventText text(info);
  std::deque<std::string> lines;
  for (;;) {
    const auto event = (*source)->Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event || (*event)->number > number + kBehind) break;
    const std::string described = text.Describe(**event);
    lines.push_back(fmt::format("{} {}{}", (*event)->number == number ? "=>" : "  ",
                                trace::LinePrefix(info, **event), described));
    if ((*event)->number < number && lines.size() > kBefore) lines.pop_front();
  }
  return std::vector<std::string>(lines.begin(), lines.end());
}

}  // namespace farside::replay
