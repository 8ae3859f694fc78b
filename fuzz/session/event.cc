#include "fuzz/session/event.h"

#include <algorithm>
#include <array>

namespace farside::fuzz {
namespace {

constexpr std::array<KindDef, kKindCount> kKinds = {{
    {Kind::kRead, "read", "region", "size", "offset", {}},
    {Kind::kWrite, "write", "region", "size", "offset", "value"},
    {Kind::kWriteData, "write_data", "region", {}, "offset", {}, true},
    {Kind::kMemory, "memory", {}, {}, "iova", {}, true},
    {Kind::kMap, "map", {}, "flags", "iova", "size"},
    {Kind::kUnmap, "unmap", {}, {}, "iova", "size"},
    {Kind::kIrqs, "irqs", "index", "flags", "start", "count"},
    {Kind::kReset, "reset"},
    {Kind::kSaveLoad, "save_load", {}, {}, "position", "xor"},
    {Kind::kClock, "clock", {}, {}, {}, "ns"},
    {Kind::kReconnect, "reconnect"},
    {Kind::kFrame, "frame", {}, "fds", {}, {}, true},
    {Kind::kAnswer, "answer", {}, {}, {}, {}, true},
    {Kind::kFault, "fault"},
    {Kind::kHold, "hold"},
    {Kind::kReflect, "reflect", "bar", "at", "offset", {}},
    {Kind::kDisk, "disk", "action", {}, {}, "value"},
    {Kind::kReply, "reply", "spoiling", {}, {}, "value", true},
    {Kind::kDeviceRead, "device_read", {}, {}, "iova", "count"},
    {Kind::kDeviceWrite, "device_write", {}, {}, "iova", "count", true},
    {Kind::kDeviceFrame, "device_frame", {}, "fds", {}, {}, true},
    {Kind::kHangUp, "hang_up"},
}};

constexpr bool InOrder() {
  for (size_t i = 0; i < kKindCount; ++i) {
    if (kKinds[i].kind != static_cast<Kind>(i)) return false;
  }
  return true;
}
static_assert(InOrder());

// Takes integers and bytes off the front; says when the input is over.
class Reader {
 public:
  explicit Reader(ConstBytes input) : rest_(input) {}

  bool empty() const { return rest_.empty(); }
  bool cut() const { return cut_; }
  uint8_t Byte() {
    if (rest_.empty()) {
      cut_ = true;
      return 0;
    }
    const auto byte = std::to_integer<uint8_t>(rest_.front());
    rest_ = rest_.subspan(1);
    return byte;
  }
  // LEB128 of up to ten bytes.
  uint64_t Number() {
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 70; shift += 7) {
      const uint8_t byte = Byte();
      if (shift < 64) value |= uint64_t{byte & 0x7fu} << shift;
      if ((byte & 0x80) == 0) break;
    }
    return value;
  }
  ConstBytes Data() {
    const uint64_t size = std::min<uint64_t>(Number(), kMaxData);
    if (size > rest_.size()) cut_ = true;
    const ConstBytes data = rest_.first(std::min<size_t>(size, rest_.size()));
    rest_ = rest_.subspan(data.size());
    return data;
  }

 private:
  ConstBytes rest_;
  bool cut_ = false;
};

void PutByte(std::vector<std::byte>& out, uint8_t byte) { out.push_back(std::byte{byte}); }

void PutNumber(std::vector<std::byte>& out, uint64_t value) {
  while (value >= 0x80) {
    PutByte(out, static_cast<uint8_t>(value | 0x80));
    value >>= 7;
  }
  PutByte(out, static_cast<uint8_t>(value));
}

}  // namespace

const KindDef& Definition(Kind kind) { return kKinds[static_cast<size_t>(kind)]; }

bool operator==(const Event& a, const Event& b) {
  return a.kind == b.kind && a.what == b.what && a.size == b.size && a.at == b.at &&
         a.value == b.value && std::ranges::equal(a.data, b.data);
}

void Decode(ConstBytes input, Session* session) {
  *session = {.flags = 0, .events = std::move(session->events)};
  session->events.clear();
  input = input.first(std::min(input.size(), kMaxInput));
  Reader in(input);
  if (in.empty()) return;
  session->flags = in.Byte();
  while (!in.empty() && session->events.size() < kMaxEvents) {
    Event event{.kind = static_cast<Kind>(in.Byte() % kKindCount)};
    const KindDef& def = Definition(event.kind);
    if (!def.what.empty()) event.what = in.Byte();
    if (!def.size.empty()) event.size = in.Byte();
    if (!def.at.empty()) event.at = in.Number();
    if (!def.value.empty()) event.value = in.Number();
    if (def.data) event.data = in.Data();
    if (in.cut()) return;
    session->events.push_back(event);
  }
}

std::vector<std::byte> Encode(const Session& session) {
  std::vector<std::byte> out;
  PutByte(out, session.flags);
  for (const Event& event : session.events) {
    const KindDef& def = Definition(event.kind);
    PutByte(out, static_cast<uint8_t>(event.kind));
    if (!def.what.empty()) PutByte(out, event.what);
    if (!def.size.empty()) PutByte(out, event.size);
    if (!def.at.empty()) PutNumber(out, event.at);
    if (!def.value.empty()) PutNumber(out, event.value);
    if (!def.data) continue;
    const ConstBytes data = event.data.first(std::min(event.data.size(), kMaxData));
    PutNumber(out, data.size());
    out.insert(out.end(), data.begin(), data.end());
  }
  return out;
}

}  // namespace farside::fuzz
