#include "harness/diff/event.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/options.h"
#include "harness/scenario/value.h"

namespace farside::diff {

using nlohmann::json;
using Kind = Event::Kind;

namespace {

constexpr uint32_t kBars = 6;

std::string Hex(uint64_t value) { return fmt::format("{:#x}", value); }

json PlaceJson(const Event& event) {
  json params = {{"offset", Hex(event.offset)}, {"size", event.size}};
  if (event.region != kConfigRegion) params["bar"] = event.region;
  return params;
}

// What scenarios say to see that something came; here it is waited for on both sides.
bool OnlyExpects(std::string_view verb) {
  return verb == "memory.check" || verb == "irq.expect" || verb == "irq.arm" ||
         verb == "irq.unmask" || verb == "settle";
}

Event ReadAccess(OptionReader& params, std::string_view verb) {
  Event event;
  event.kind = verb.ends_with(".read") ? Kind::kRead : Kind::kWrite;
  event.region = verb.starts_with("bar.")
                     ? static_cast<uint32_t>(params.Number("bar", 0, 0, kBars - 1))
                     : kConfigRegion;
  event.offset = params.Number("offset", 0, 0, UINT64_MAX - kMaxAccess);
  event.size = static_cast<uint32_t>(params.Number("size", 4, 1, kMaxAccess));
  if (event.kind == Kind::kWrite) event.value = params.Number("value", 0, 0, UINT64_MAX);
  if (event.kind == Kind::kWrite && params.Value("data") != nullptr) {
    const auto data = scenario::ParseHex(params.String("data", ""));
    if (!data || data->empty() || data->size() > kMaxAccess) {
      params.AddError("'data' is not 1 to 8 bytes in hexadecimal digits");
    } else {
      event.size = static_cast<uint32_t>(data->size());
      event.value = LoadLePartial(*data);
    }
  }
  // Of scenarios; here the other side says what is due.
  for (const auto* ignored : {"posted", "expect", "device"}) (void)params.Value(ignored);
  return event;
}

Event ReadAwait(OptionReader& params) {
  Event event;
  const bool memory = params.Value("iova") != nullptr;
  event.kind = memory ? Kind::kAwaitMemory : Kind::kAwait;
  event.offset = params.Number(memory ? "iova" : "offset", 0, 0, UINT64_MAX - kMaxAccess);
  if (!memory) event.region = static_cast<uint32_t>(params.Number("bar", kConfigRegion, 0, 7));
  event.size = static_cast<uint32_t>(params.Number("size", 4, 1, kMaxAccess));
  event.mask = params.Number("mask", UINT64_MAX, 0, UINT64_MAX);
  event.value = params.Number("value", 0, 0, UINT64_MAX);
  event.differs = params.Bool("differs", false);
  return event;
}

Event ReadMemory(OptionReader& params) {
  Event event{.kind = Kind::kMemory, .data = {}};
  event.offset = params.Number("iova", 0, 0, UINT64_MAX - kMaxAccess);
  auto data = scenario::ParseHex(params.RequiredString("data"));
  if (data) {
    event.data = std::move(*data);
  } else {
    params.AddError(data.error().message);
  }
  (void)params.Value("device");
  return event;
}

}  // namespace

Event Read(uint32_t region, uint64_t offset, uint32_t size) {
  return {.kind = Kind::kRead, .region = region, .size = size, .offset = offset, .data = {}};
}

Event Write(uint32_t region, uint64_t offset, uint32_t size, uint64_t value) {
  const uint64_t most = size >= 8 ? UINT64_MAX : (uint64_t{1} << (8 * size)) - 1;
  return {.kind = Kind::kWrite,
          .region = region,
          .size = size,
          .offset = offset,
          .value = value & most,
          .data = {}};
}

Event WriteMemory(uint64_t iova, ConstBytes data) {
  return {.kind = Kind::kMemory, .offset = iova, .data = {data.begin(), data.end()}};
}

json ToJson(const Event& event) {
  const std::string place = event.region == kConfigRegion ? "config" : "bar";
  switch (event.kind) {
    case Kind::kRead:
      return {{place + ".read", PlaceJson(event)}};
    case Kind::kWrite: {
      json params = PlaceJson(event);
      params["value"] = Hex(event.value);
      return {{place + ".write", std::move(params)}};
    }
    case Kind::kMemory:
      return {{"memory.write",
               {{"iova", Hex(event.offset)}, {"data", scenario::FormatHex(event.data)}}}};
    case Kind::kReset:
      return {{"reset", json::object()}};
    case Kind::kAwait:
    case Kind::kAwaitMemory: {
      json params = {{"size", event.size}, {"mask", Hex(event.mask)}, {"value", Hex(event.value)}};
      params[event.kind == Kind::kAwait ? "offset" : "iova"] = Hex(event.offset);
      if (event.kind == Kind::kAwait) params["bar"] = event.region;
      if (event.differs) params["differs"] = true;
      return {{"await", std::move(params)}};
    }
    case Kind::kSettle:
      break;
  }
  return {{"settle", json::object()}};
}

Result<Event> FromJson(const json& given) {
  if (!given.is_object()) return Fail("an event is an object: {{\"bar.read\": {{...}}}}");
  std::string verb;
  for (const auto& [key, value] : given.items()) {
    if (key == "note") continue;
    if (!verb.empty()) return Fail("an event has one verb, not {} and {}", verb, key);
    verb = key;
  }
  if (OnlyExpects(verb)) return Event{.data = {}};
  if (verb == "reset") return Event{.kind = Kind::kReset, .data = {}};
  if (verb.empty() || !given[verb].is_object()) return Fail("an event has a verb's parameters");
  OptionReader params(verb, given[verb]);
  Event event;
  if (verb == "bar.read" || verb == "bar.write" || verb == "config.read" ||
      verb == "config.write") {
    event = ReadAccess(params, verb);
  } else if (verb == "memory.write") {
    event = ReadMemory(params);
  } else if (verb == "await") {
    event = ReadAwait(params);
  } else {
    return Fail("there is no event {}: docs/diff.md lists them", Quote(verb));
  }
  if (auto finished = params.Finish(); !finished) return tl::unexpected(finished.error());
  return event;
}

}  // namespace farside::diff
