// TraceInfo as the JSON of a trace's first block.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "protocol/trace/event.h"

namespace farside::trace {

std::string FormatTraceInfo(const TraceInfo& info);
Result<TraceInfo> ParseTraceInfo(std::string_view json);

}  // namespace farside::trace
