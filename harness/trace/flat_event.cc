#include "harness/trace/flat_event.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/options.h"
#include "harness/scenario/value.h"
#include "harness/trace/message_layout.h"
#include "protocol/trace/pcapng.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::trace {

using nlohmann::json;
using scenario::FormatHex;
using scenario::ParseHex;
using vfio_user::Header;

namespace {

constexpr uint32_t kBars = 6;
constexpr uint32_t kConfig = 7;
// Beyond this, other readers of JSON round numbers.
constexpr uint64_t kExact = 1ull << 53;
constexpr size_t kMaxMessage = pcapng::kMaxBlockSize - 4096;

// Keys of an event beside its verb.
constexpr std::string_view kEnvelope[] = {"number",    "id",   "reply", "error",
                                          "direction", "time", "text"};
constexpr std::string_view kFdKinds[] = {"", "memory", "eventfd", "other"};
constexpr std::string_view kDirections[] = {"in", "out"};

json NumberJson(uint64_t value) {
  return value < kExact ? json(value) : json(fmt::format("{:#x}", value));
}

json FieldJson(const LayoutField& field, uint64_t value) {
  switch (field.style) {
    case LayoutField::Style::kHex:
      return fmt::format("{:#x}", value);
    case LayoutField::Style::kWord:
      if (value < field.words.size() && !field.words[value].empty()) return field.words[value];
      return NumberJson(value);
    case LayoutField::Style::kFlags: {
      std::string text;
      for (uint32_t bit = 0; bit < 8 * field.size; ++bit) {
        if ((value >> bit & 1) == 0) continue;
        if (bit >= field.words.size() || field.words[bit].empty()) {
          return fmt::format("{:#x}", value);
        }
        text += text.empty() ? "" : "|";
        text += field.words[bit];
      }
      return text;
    }
    case LayoutField::Style::kDecimal:
    case LayoutField::Style::kDataSize:
      return NumberJson(value);
  }
  return {};
}

std::optional<uint64_t> ParseWord(const LayoutField& field, std::string_view text) {
  const auto found = std::ranges::find(field.words, text);
  if (text.empty() || found == field.words.end()) return std::nullopt;
  return static_cast<uint64_t>(found - field.words.begin());
}

std::optional<uint64_t> ParseFlags(const LayoutField& field, std::string_view text) {
  uint64_t value = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('|'), text.size());
    const auto bit = ParseWord(field, text.substr(0, end));
    if (!bit) return std::nullopt;
    value |= uint64_t{1} << *bit;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return value;
}

// ---- to JSON ----

bool IsPlainText(ConstBytes text) {
  return std::ranges::all_of(text, [](std::byte byte) {
    const auto c = std::to_integer<unsigned char>(byte);
    return (c >= 0x20 && c < 0x7f) || c == '\t' || c == '\n' || c == '\r';
  });
}

// False if the tail cannot be spelled as it should be.
bool AddTail(LayoutTail tail, ConstBytes bytes, json* params) {
  switch (tail) {
    case LayoutTail::kNone:
      return bytes.empty();
    case LayoutTail::kValue:
      if (!bytes.empty() && bytes.size() <= sizeof(uint64_t)) {
        (*params)["value"] = fmt::format("{:#x}", LoadLePartial(bytes));
        (*params)["size"] = bytes.size();
        return true;
      }
      [[fallthrough]];
    case LayoutTail::kData:
      if (!bytes.empty()) (*params)["data"] = FormatHex(bytes);
      return true;
    case LayoutTail::kText: {
      if (bytes.empty()) return true;
      const ConstBytes text = bytes.first(bytes.size() - 1);
      if (bytes.back() != std::byte{0} || !IsPlainText(text)) return false;
      (*params)["json"] = std::string(reinterpret_cast<const char*>(text.data()), text.size());
      return true;
    }
    case LayoutTail::kWrites: {
      json writes = json::array();
      for (; bytes.size() >= sizeof(vfio_user::WriteMultiEntry);
           bytes = bytes.subspan(sizeof(vfio_user::WriteMultiEntry))) {
        vfio_user::WriteMultiEntry entry;
        Copy(AsWritableBytes(entry), bytes.first(sizeof entry));
        writes.push_back(
            {{"region", entry.region},
             {"offset", fmt::format("{:#x}", entry.offset)},
             {"size", entry.count},
             {"value", fmt::format("{:#x}", LoadLePartial(std::as_bytes(std::span(entry.data))))}});
      }
      (*params)["writes"] = std::move(writes);
      return bytes.empty();
    }
  }
  return false;
}

std::optional<json> SpellPayload(const MessageLayout& layout, ConstBytes payload) {
  if (payload.size() < layout.fixed) return std::nullopt;
  const ConstBytes tail = payload.subspan(layout.fixed);
  json params = json::object();
  for (const LayoutField& field : layout.fields) {
    const uint64_t value = LoadLePartial(payload.subspan(field.offset, field.size));
    const bool follows = field.style == LayoutField::Style::kDataSize && value == tail.size() &&
                         layout.tail != LayoutTail::kNone && !tail.empty();
    if (field.fallback == value || follows) continue;
    params[std::string(field.name)] = FieldJson(field, value);
  }
  if (!AddTail(layout.tail, tail, &params)) return std::nullopt;
  return params;
}

bool PostedByDefault(uint16_t command) {
  return command == static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);
}

Direction UsualDirection(uint16_t command, bool reply) {
  return IsClientCommand(command) != reply ? Direction::kIn : Direction::kOut;
}

// "bar.read" with its bar, "config.read", or "region.read" with its region.
std::string NameRegion(std::string_view verb, json* params) {
  const auto region = params->find("region");
  if ((verb != "region.read" && verb != "region.write") || region == params->end()) {
    return std::string(verb);
  }
  const auto number = region->get<uint64_t>();
  if (number >= kBars && number != kConfig) return std::string(verb);
  params->erase(region);
  if (number < kBars) (*params)["bar"] = number;
  return (number < kBars ? "bar" : "config") + std::string(verb.substr(verb.find('.')));
}

std::optional<json> SpellMessage(const Event& event) {
  const Header header = event.header();
  const bool reply = event.is_reply();
  const MessageLayout* layout = FindLayout(header.command, reply);
  if (layout == nullptr) return std::nullopt;
  json out;
  json params = json::object();
  if ((header.flags & vfio_user::kFlagError) != 0) {
    out["error"] = scenario::ErrnoName(header.error);
  } else if (auto spelled = SpellPayload(*layout, event.payload())) {
    params = std::move(*spelled);
  } else {
    return std::nullopt;
  }
  const bool posted = (header.flags & vfio_user::kFlagNoReply) != 0;
  if (posted != PostedByDefault(header.command)) params["posted"] = posted;
  const std::string verb = NameRegion(layout->verb, &params);
  out[verb] = std::move(params);
  if (reply) out["reply"] = true;
  out["id"] = header.message_id;
  if (event.direction != UsualDirection(header.command, reply)) {
    out["direction"] = kDirections[static_cast<size_t>(event.direction)];
  }
  return out;
}

json SpellFds(const Event& event) {
  json list = json::array();
  for (const FdSpec& fd : event.fds) {
    const auto kind = static_cast<size_t>(fd.kind);
    json spelled = {
        {"kind", kind != 0 && kind < std::size(kFdKinds) ? json(kFdKinds[kind]) : json(kind)}};
    if (fd.size != 0) spelled["size"] = fmt::format("{:#x}", fd.size);
    if (fd.seals != 0) spelled["seals"] = fd.seals;
    list.push_back(std::move(spelled));
  }
  return {{"list", std::move(list)}};
}

// Who an event belongs to, and when.
void AddContext(const TraceInfo& info, const Event& event, json* out) {
  for (auto& [key, value] : out->items()) {
    if (std::ranges::count(kEnvelope, key) != 0) continue;
    if (event.device != 0) {
      const auto& devices = info.devices;
      const auto first =
          std::ranges::find(devices, event.device < devices.size() ? devices[event.device].id : "",
                            &TraceInfo::Device::id);
      const bool unique =
          first != devices.end() && static_cast<size_t>(first - devices.begin()) == event.device;
      value["device"] = unique ? json(first->id) : json(event.device);
    }
    if (event.cpu != 0) value["cpu"] = event.cpu;
  }
  (*out)["time"] = NumberJson(event.time_ns);
}

// ---- from JSON ----

uint64_t ReadField(OptionReader& reader, const LayoutField& field, size_t data_size) {
  const uint64_t most = field.size >= 8 ? UINT64_MAX : (uint64_t{1} << (8 * field.size)) - 1;
  const std::string_view name = field.name;
  const json* given = reader.Value(name);
  if (given == nullptr) {
    if (field.style == LayoutField::Style::kDataSize && data_size != 0) return data_size;
    if (!field.fallback) reader.AddError(fmt::format("'{}' is missing", name));
    return field.fallback.value_or(0);
  }
  if (given->is_string()) {
    const auto& text = given->get_ref<const std::string&>();
    const auto parsed = field.style == LayoutField::Style::kWord    ? ParseWord(field, text)
                        : field.style == LayoutField::Style::kFlags ? ParseFlags(field, text)
                                                                    : std::nullopt;
    if (parsed) return *parsed;
  }
  return reader.Number(name, 0, 0, most);
}

std::vector<std::byte> ReadHex(OptionReader& reader, std::string_view key) {
  if (reader.Value(key) == nullptr) return {};
  auto bytes = ParseHex(reader.String(key, ""));
  if (bytes) return std::move(*bytes);
  reader.AddError(fmt::format("{}: {}", key, bytes.error().message));
  return {};
}

std::vector<std::byte> ReadWrites(OptionReader& reader) {
  std::vector<std::byte> out;
  const json* list = reader.Value("writes");
  if (list == nullptr || !list->is_array()) {
    reader.AddError("'writes' is no list");
    return out;
  }
  for (const json& given : *list) {
    OptionReader fields(reader.owner() + ": a write", given);
    vfio_user::WriteMultiEntry entry;
    entry.region = static_cast<uint32_t>(fields.Number("region", 0, 0, UINT32_MAX));
    entry.offset = fields.Number("offset", 0, 0, UINT64_MAX);
    entry.count = static_cast<uint32_t>(fields.Number("size", 4, 0, UINT32_MAX));
    StoreLe(std::as_writable_bytes(std::span(entry.data)),
            fields.Number("value", 0, 0, UINT64_MAX));
    if (const auto finished = fields.Finish(); !finished) {
      reader.AddError(finished.error().message);
      return out;
    }
    const ConstBytes bytes = AsBytes(entry);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  return out;
}

std::vector<std::byte> ReadTail(OptionReader& reader, LayoutTail tail) {
  switch (tail) {
    case LayoutTail::kNone:
      return {};
    case LayoutTail::kValue:
      if (reader.Value("value") != nullptr) {
        std::vector<std::byte> out(reader.Number("size", 4, 1, sizeof(uint64_t)));
        const uint64_t most = out.size() >= 8 ? UINT64_MAX : (uint64_t{1} << (8 * out.size())) - 1;
        StoreLePartial(out, reader.Number("value", 0, 0, most));
        return out;
      }
      return ReadHex(reader, "data");
    case LayoutTail::kData:
      return ReadHex(reader, "data");
    case LayoutTail::kText: {
      if (reader.Value("json") == nullptr) return {};
      const std::string text = reader.String("json", "");
      const auto bytes = std::as_bytes(std::span(text.c_str(), text.size() + 1));
      return {bytes.begin(), bytes.end()};
    }
    case LayoutTail::kWrites:
      return ReadWrites(reader);
  }
  return {};
}

std::vector<std::byte> ReadPayload(OptionReader& reader, const MessageLayout& layout,
                                   std::optional<uint64_t> region) {
  const auto tail = ReadTail(reader, layout.tail);
  std::vector<std::byte> out(layout.fixed);
  for (const LayoutField& field : layout.fields) {
    const uint64_t value =
        region && field.name == "region" ? *region : ReadField(reader, field, tail.size());
    StoreLePartial(Bytes(out).subspan(field.offset, field.size), value);
  }
  out.insert(out.end(), tail.begin(), tail.end());
  return out;
}

// An event's parameters and what stands beside them.
struct Reading {
  const TraceInfo& info;
  std::string verb;
  OptionReader& params;
  OptionReader& beside;
};

Direction ReadDirection(Reading& reading, Direction usual) {
  static constexpr OptionWord<Direction> kWords[] = {{"in", Direction::kIn},
                                                     {"out", Direction::kOut}};
  return reading.beside.Choice("direction", kWords, usual);
}

void ReadMessage(Reading& reading, Event* event) {
  std::string verb = reading.verb;
  std::optional<uint64_t> region;
  if (verb == "bar.read" || verb == "bar.write") {
    region = reading.params.Number("bar", 0, 0, kBars - 1);
    verb = "region" + verb.substr(3);
  } else if (verb == "config.read" || verb == "config.write") {
    region = kConfig;
    verb = "region" + verb.substr(6);
  }
  const bool reply = reading.beside.Bool("reply", false);
  const MessageLayout* layout = FindLayout(verb, reply);
  if (layout == nullptr) {
    return reading.beside.AddError(
        fmt::format("there is no verb {} in traces: docs/traces.md lists them", Quote(verb)));
  }
  uint32_t flags = reply ? vfio_user::kFlagTypeReply : vfio_user::kFlagTypeCommand;
  if (reading.params.Bool("posted", PostedByDefault(layout->command))) {
    flags |= vfio_user::kFlagNoReply;
  }
  uint64_t error = 0;
  std::vector<std::byte> payload;
  if (reading.beside.Value("error") != nullptr) {
    flags |= vfio_user::kFlagError;
    const auto code = scenario::ParseErrno(reading.beside.String("error", ""));
    if (!code) reading.beside.AddError("'error' is no errno: write \"EINVAL\" or \"22\"");
    error = code.value_or(0);
  } else {
    payload = ReadPayload(reading.params, *layout, region);
  }
  const Header header{
      .message_id = static_cast<uint16_t>(reading.beside.Number("id", 0, 0, UINT16_MAX)),
      .command = layout->command,
      .size = static_cast<uint32_t>(sizeof(Header) + payload.size()),
      .flags = flags,
      .error = static_cast<uint32_t>(error)};
  const ConstBytes head = AsBytes(header);
  event->bytes.assign(head.begin(), head.end());
  event->bytes.insert(event->bytes.end(), payload.begin(), payload.end());
  event->direction = ReadDirection(reading, UsualDirection(layout->command, reply));
}

void ReadFds(Reading& reading, Event* event) {
  const json* list = reading.params.Value("list");
  if (list == nullptr || !list->is_array() || list->size() > UINT8_MAX) {
    return reading.params.AddError("'list' is no list of at most 255 fds");
  }
  for (const json& given : *list) {
    OptionReader fields(reading.params.owner() + ": an fd", given);
    FdSpec& fd = event->fds.emplace_back();
    const json* kind = fields.Value("kind");
    const auto word = kind != nullptr && kind->is_string()
                          ? std::ranges::find(kFdKinds, kind->get_ref<const std::string&>())
                          : std::end(kFdKinds);
    fd.kind = word != std::end(kFdKinds) && !word->empty()
                  ? static_cast<FdSpec::Kind>(word - std::begin(kFdKinds))
                  : static_cast<FdSpec::Kind>(fields.Number("kind", 0, 0, UINT8_MAX));
    fd.size = fields.Number("size", 0, 0, UINT64_MAX);
    fd.seals = static_cast<uint32_t>(fields.Number("seals", 0, 0, UINT32_MAX));
    if (const auto finished = fields.Finish(); !finished) {
      return reading.params.AddError(finished.error().message);
    }
  }
}

void ReadBody(Reading& reading, Event* event) {
  const std::string& verb = reading.verb;
  if (verb == "attach" || verb == "detach") {
    event->kind = verb == "attach" ? EventKind::kAttach : EventKind::kDetach;
  } else if (verb == "steps") {
    event->kind = EventKind::kSteps;
    event->bytes.resize(sizeof(uint64_t));
    StoreLe(Bytes(event->bytes), reading.params.Number("count", 0, 0, UINT64_MAX));
  } else if (verb == "fds") {
    event->kind = EventKind::kFds;
    ReadFds(reading, event);
  } else if (verb == "frame") {
    event->kind = EventKind::kMessage;
    event->bytes = ReadHex(reading.params, "bytes");
    if (event->bytes.size() < sizeof(Header)) {
      reading.params.AddError("'bytes' are no message: it has at least its header of 16 bytes");
    }
  } else {
    event->kind = EventKind::kMessage;
    return ReadMessage(reading, event);
  }
  event->direction = ReadDirection(reading, Direction::kIn);
}

uint32_t ReadDevice(Reading& reading) {
  const json* given = reading.params.Value("device");
  if (given == nullptr) return 0;
  const auto& devices = reading.info.devices;
  if (given->is_string()) {
    const auto found =
        std::ranges::find(devices, given->get_ref<const std::string&>(), &TraceInfo::Device::id);
    if (found != devices.end()) return static_cast<uint32_t>(found - devices.begin());
    reading.params.AddError(fmt::format("there is no device {} in this trace",
                                        Quote(given->get_ref<const std::string&>())));
    return 0;
  }
  const size_t most = devices.empty() ? 0 : devices.size() - 1;
  return static_cast<uint32_t>(reading.params.Number("device", 0, 0, most));
}

Result<void> ReadEvent(Reading reading, Event* event) {
  ReadBody(reading, event);
  event->device = ReadDevice(reading);
  event->cpu = static_cast<uint16_t>(reading.params.Number("cpu", 0, 0, UINT16_MAX));
  event->time_ns = reading.beside.Number("time", 0, 0, UINT64_MAX);
  if (event->bytes.size() > kMaxMessage) {
    return Fail("{}: a message of {} bytes; {} are the most", reading.verb, event->bytes.size(),
                kMaxMessage);
  }
  if (auto finished = reading.beside.Finish(); !finished) return finished;
  return reading.params.Finish();
}

Result<std::string> FindVerb(const json& flat) {
  std::string verb;
  if (!flat.is_object()) return Fail("it is no object: write {{\"bar.read\": {{...}}}}");
  for (const auto& [key, value] : flat.items()) {
    if (std::ranges::count(kEnvelope, key) != 0) continue;
    if (!verb.empty()) return Fail("two verbs in one event, {} and {}", Quote(verb), Quote(key));
    if (!value.is_object()) return Fail("the parameters of {} are no object", Quote(key));
    verb = key;
  }
  if (verb.empty()) return Fail("it has no verb: write {{\"bar.read\": {{...}}}}");
  return verb;
}

}  // namespace

Result<Event> Unflatten(const TraceInfo& info, const json& flat) {
  auto verb = FindVerb(flat);
  if (!verb) return tl::unexpected(verb.error());
  json envelope = json::object();
  for (const std::string_view key : kEnvelope) {
    if (const auto found = flat.find(key); found != flat.end()) envelope[std::string(key)] = *found;
  }
  OptionReader params(*verb, flat[*verb]);
  OptionReader beside("the event", envelope);
  // What `trace show --json` adds.
  beside.Value("number");
  beside.Value("text");
  Event event;
  const Reading reading{.info = info, .verb = *verb, .params = params, .beside = beside};
  if (auto read = ReadEvent(reading, &event); !read) return tl::unexpected(read.error());
  return event;
}

json Flatten(const TraceInfo& info, const Event& event) {
  json out;
  switch (event.kind) {
    case EventKind::kAttach:
      out["attach"] = json::object();
      break;
    case EventKind::kDetach:
      out["detach"] = json::object();
      break;
    case EventKind::kSteps:
      out["steps"] = {{"count", NumberJson(LoadLePartial(event.bytes))}};
      break;
    case EventKind::kFds:
      out["fds"] = SpellFds(event);
      break;
    case EventKind::kMessage: {
      if (auto spelled = SpellMessage(event)) {
        out = std::move(*spelled);
        AddContext(info, event, &out);
        const auto again = Unflatten(info, out);
        if (again && again->bytes == event.bytes) return out;
      }
      out = {{"frame", {{"bytes", FormatHex(event.bytes)}}}};
      break;
    }
  }
  if (event.direction == Direction::kOut) out["direction"] = "out";
  AddContext(info, event, &out);
  return out;
}

std::string FormatFlat(const json& flat) {
  std::string verb;
  std::string rest;
  for (const auto& [key, value] : flat.items()) {
    std::string& text = std::ranges::count(kEnvelope, key) != 0 ? rest : verb;
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", json(key).dump(), value.dump());
  }
  return fmt::format("{{{}{}{}}}", verb, rest.empty() ? "" : ", ", rest);
}

}  // namespace farside::trace
