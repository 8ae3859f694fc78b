// What a VMM asks of a device process, and how that spoils its answers: field by field where the
// answer has fields, and below them in all the ways a stream can go wrong.
#include <fmt/format.h>

#include <string_view>

#include "devices/core/pci_registers.h"
#include "fuzz/host/host.h"
#include "fuzz/host/hostile_device.h"
#include "fuzz/mutator/client_events.h"
#include "fuzz/mutator/grammar.h"
#include "protocol/vfio_user.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::fuzz {
namespace {

using vfio_user::Command;

constexpr std::string_view kSpoilings[] = {"error", "short", "long", "wrong id", "twice", "never",
                                           "late",  "other", "fds",  "command",  "size",  "flags"};
static_assert(std::size(kSpoilings) == static_cast<size_t>(Spoiling::kCount));

constexpr std::string_view kTexts[] = {
    "",
    "{}",
    "{",
    "[]",
    "null",
    R"({"capabilities":{}})",
    R"({"capabilities":[]})",
    R"({"capabilities":{"max_data_xfer_size":1}})",
    R"({"capabilities":{"max_data_xfer_size":0}})",
    R"({"capabilities":{"max_data_xfer_size":18446744073709551615}})",
    R"({"capabilities":{"max_data_xfer_size":99999999999999999999999}})",
    R"({"capabilities":{"max_data_xfer_size":-1}})",
    R"({"capabilities":{"max_data_xfer_size":4096,"write_multiple":false}})",
    R"({"capabilities":{"max_data_xfer_size":16,"write_multiple":true}})",
    R"({"capabilities":{"max_msg_fds":0,"write_multiple":true}})",
    R"({"capabilities":{"max_msg_fds":18446744073709551615}})",
    R"({"capabilities":{"twin_socket":{"supported":true,"fd_index":7}}})",
    R"({"capabilities":{"migration":{"pgsize":0,"max_bitmap_size":1e999}}})",
    R"({"capabilities":{"farside":{"device":"x","clock":true}}})",
    R"({"capabilities":{"write_multiple":1}})",
    "{\"capabilities\":{\"\xff\xfe\":1}}",
    "\xef\xbb\xbf{}",
};

// A field of an answer: where it is, and how wide.
struct Field {
  size_t at;
  size_t size;
};
constexpr Field kRegionFields[] = {{0, 4},  {4, 4},  {8, 4},  {12, 4}, {16, 8}, {24, 8},
                                   {32, 2}, {34, 2}, {36, 4}, {40, 4}, {48, 8}, {56, 8}};
constexpr Field kIoFdFields[] = {{0, 4}, {8, 4}, {12, 4}, {16, 8}, {24, 8}, {32, 4}, {36, 4}};
constexpr Field kInfoFields[] = {{0, 4}, {4, 4}, {8, 4}, {12, 4}};

class Client final : public Grammar {
 public:
  uint8_t flags() const override { return kByMessage; }

  std::string Describe(const Event& event) const override {
    if (event.kind != Kind::kReply) return {};
    return std::string(kSpoilings[event.what % std::size(kSpoilings)]);
  }

  void AddPiece(Making& making, std::span<const Event> before,
                std::vector<Event>* out) const override {
    if (before.empty() && making.OneIn(5)) return SpoilVersion(making, out);
    switch (making.Below(20)) {
      case 0:
      case 1:
      case 2:
        AddDma(making, out);
        break;
      case 3:
        AddWindows(making, out);
        break;
      case 4:
        if (making.OneIn(40)) AddDeafness(making, out);
        if (!making.OneIn(8)) break;
        out->push_back(Frame(making));
        break;
      case 5:
        if (making.OneIn(12)) out->push_back({.kind = Kind::kHangUp});
        break;
      case 6:
      case 7:
      case 8:
        Spoil(making, out);
        break;
      default:
        break;
    }
    AddCall(making, out);
    // What broke is not repaired: a new client, then and now.
    if (making.OneIn(8)) {
      if (making.OneIn(3)) SpoilVersion(making, out);
      out->push_back({.kind = Kind::kReconnect});
    }
  }

 private:
  static Event Reply(Spoiling how, uint64_t value, ConstBytes data = {}) {
    return {.kind = Kind::kReply, .what = static_cast<uint8_t>(how), .value = value, .data = data};
  }
  static Event Overwrite(Making& making, Field field, uint64_t value) {
    return Reply(Spoiling::kOther, field.at, making.store.Add(AsBytes(value).first(field.size)));
  }
  static Event Query(uint32_t region) {
    return {.kind = Kind::kRead, .what = static_cast<uint8_t>(region)};
  }

  static void Spoil(Making& making, std::vector<Event>* out) {
    switch (making.Below(14)) {
      case 0:
        out->push_back(Reply(Spoiling::kShort, 1 + making.Below(20)));
        return;
      case 1:
        out->push_back(Reply(Spoiling::kLong, 0, making.RandomBytes(1 + making.Below(40))));
        return;
      case 2:
        out->push_back(Reply(Spoiling::kWrongId, making.Pick({1u, 0x100u, 0xff00u, 0xffffu})));
        return;
      case 3:
        out->push_back(Reply(Spoiling::kTwice, 0));
        return;
      case 4:
        out->push_back(Reply(Spoiling::kNever, 0));
        return;
      case 5:
        out->push_back(Reply(Spoiling::kLate, 0));
        return;
      case 6:
        out->push_back(Reply(Spoiling::kFds, making.Below(20)));
        return;
      case 7:
        out->push_back(Reply(Spoiling::kCommand, making.Below(20)));
        return;
      case 8:
        out->push_back(
            Reply(Spoiling::kSize, making.OneIn(2) ? making.Below(40) : making.Number()));
        return;
      case 9:
        out->push_back(
            Reply(Spoiling::kFlags, making.OneIn(3) ? making.Number() : making.Below(0x40)));
        return;
      case 10:
        out->push_back(Reply(Spoiling::kOther, making.Below(24), making.RandomBytes(8)));
        return;
      default:
        out->push_back(
            Reply(Spoiling::kError, making.OneIn(3) ? making.Number() : 1 + making.Below(130)));
    }
  }

  using Members = std::initializer_list<std::pair<std::string_view, std::string>>;

  // Some of the members, in JSON; or something else that it is not to be.
  static std::string Object(Making& making, Members members) {
    if (making.OneIn(12)) return making.OneIn(2) ? "3" : "null";
    std::string text;
    for (const auto& [key, value] : members) {
      if (making.OneIn(3)) continue;
      text += fmt::format("{}\"{}\":{}", text.empty() ? "" : ",", key, value);
    }
    return "{" + text + "}";
  }

  // What VERSION can say, mostly of the right types.
  static std::string Capabilities(Making& making) {
    const auto number = [&] {
      if (making.OneIn(16)) return std::string(making.OneIn(2) ? "-1" : "\"1\"");
      return std::to_string(making.OneIn(3) ? making.Number() : making.Below(5));
    };
    const auto boolean = [&] {
      if (making.OneIn(16)) return std::string("1");
      return std::string(making.OneIn(2) ? "true" : "false");
    };
    const std::string name = making.OneIn(8) ? "1" : "\"nvme\"";
    return Object(
        making,
        {{"max_msg_fds", number()},
         {"max_data_xfer_size", number()},
         {"max_dma_maps", number()},
         {"pgsizes", number()},
         {"write_multiple", boolean()},
         {"migration", Object(making, {{"pgsize", number()}, {"max_bitmap_size", number()}})},
         {"twin_socket", Object(making, {{"supported", boolean()}, {"fd_index", number()}})},
         {"farside",
          Object(making, {{"interrupt", boolean()}, {"clock", boolean()}, {"device", name}})}});
  }

  static void SpoilVersion(Making& making, std::vector<Event>* out) {
    if (making.OneIn(6)) return Spoil(making, out);
    if (making.OneIn(8)) {
      return out->push_back(Overwrite(making, {making.Below(2) * 2, 2}, making.Number()));
    }
    std::string text = making.OneIn(2) ? std::string(kTexts[making.Below(std::size(kTexts))])
                                       : Object(making, {{"capabilities", Capabilities(making)}});
    if (making.OneIn(8)) {
      // Deep, or long.
      const size_t size = 1 + making.Below(making.OneIn(4) ? 4000 : 20);
      const std::string open = making.OneIn(2) ? "[" : "{\"a\":";
      text = "{\"capabilities\":";
      while (text.size() + open.size() < size) text += open;
    }
    if (!making.OneIn(10)) text.push_back('\0');
    if (making.OneIn(10)) text += "x";
    out->push_back(Reply(Spoiling::kOther, 4, making.store.Add(std::as_bytes(std::span(text)))));
  }

  // The device stops reading, and more is posted than a socket holds.
  static void AddDeafness(Making& making, std::vector<Event>* out) {
    out->push_back({.kind = Kind::kDeviceFrame});
    for (uint64_t i = making.Below(4); i != 0; --i) {
      out->push_back(
          {.kind = Kind::kWriteData, .what = kPosted, .data = making.store.Add(kMaxData)});
    }
  }

  static void AddCall(Making& making, std::vector<Event>* out) {
    switch (making.Below(14)) {
      case 0:
        return AddRegionQuery(making, out);
      case 1:
        if (making.OneIn(3)) {
          out->push_back(Overwrite(making, kInfoFields[making.Below(4)], making.Number()));
        }
        if (making.OneIn(2)) return out->push_back(Query(HostileDevice::kRegions - 1));
        out->push_back({.kind = Kind::kIrqs,
                        .what = static_cast<uint8_t>(making.Below(making.OneIn(8) ? 256 : 5))});
        return;
      case 2:
        return AddProbe(making, out);
      case 3:
        out->push_back(
            {.kind = Kind::kIrqs,
             .what = static_cast<uint8_t>(making.Below(3)),
             .size = static_cast<uint8_t>(making.OneIn(6) ? making.Below(64)
                                                          : vfio_user::kIrqDataEventfd |
                                                                vfio_user::kIrqActionTrigger),
             .at = making.Below(4),
             .value = making.OneIn(8) ? making.Number() : making.Below(6)});
        return;
      case 4:
        out->push_back({.kind = making.Pick({Kind::kReset, Kind::kSaveLoad, Kind::kClock})});
        return;
      case 5:
        return AddWindows(making, out);
      case 6:
        out->push_back({.kind = Kind::kMemory,
                        .at = SomeMemory(making, 64),
                        .data = making.RandomBytes(8 * (1 + making.Below(8)))});
        return;
      case 7: {
        // Several at once, their replies in any order.
        for (uint64_t i = 1 + making.Below(5); i != 0; --i) {
          if (making.OneIn(5)) Spoil(making, out);
          if (making.OneIn(4)) out->push_back(Reply(Spoiling::kLate, 0));
          Event read = Access(making, Kind::kRead);
          read.what |= kBegun;
          out->push_back(read);
        }
        return;
      }
      default:
        return AddAccess(making, out);
    }
  }

  static Event Access(Making& making, Kind kind) {
    const uint32_t region = making.OneIn(8) ? static_cast<uint32_t>(making.Below(10))
                                            : making.Pick({0u, 0u, 2u, HostileDevice::kConfig});
    return {.kind = kind,
            .what = static_cast<uint8_t>(region),
            .size = static_cast<uint8_t>(making.OneIn(8) ? 1 + making.Below(255)
                                                         : making.Pick({1u, 2u, 4u, 8u})),
            .at = making.OneIn(12) ? making.Number() : making.Below(0x1000)};
  }

  static void AddAccess(Making& making, std::vector<Event>* out) {
    Event access = Access(making, making.Pick({Kind::kRead, Kind::kWrite, Kind::kWriteData}));
    if (access.kind != Kind::kRead && making.OneIn(3)) access.what |= kPosted;
    if (access.kind == Kind::kWrite) access.value = making.random.Next();
    if (access.kind == Kind::kWriteData) {
      if (making.OneIn(2)) access.what |= kMulti;
      access.data = making.RandomBytes(1 + making.Below(making.OneIn(6) ? 600 : 40));
      access.size = 0;
    }
    out->push_back(access);
  }

  // Regions with wild sizes, offsets and capabilities in circles; doorbells of fds that did not
  // come. The first answer says how long the whole one is.
  static void AddRegionQuery(Making& making, std::vector<Event>* out) {
    const bool io = making.OneIn(3);
    const uint32_t region = making.OneIn(6) ? static_cast<uint32_t>(making.Below(10)) : io ? 0 : 2;
    if (making.OneIn(3)) return out->push_back(Query(region));
    // The region's own answer, in two parts, comes before that of its doorbells.
    const auto let_through = [&] { out->push_back(Reply(Spoiling::kOther, 0)); };
    if (!making.OneIn(4)) let_through();
    if (io) let_through();
    if (io && !making.OneIn(4)) let_through();
    const Field field = io ? kIoFdFields[making.Below(std::size(kIoFdFields))]
                           : kRegionFields[making.Below(std::size(kRegionFields))];
    const uint64_t value = making.OneIn(2)
                               ? making.Pick({0u, 1u, 2u, 7u, 16u, 32u, 40u, 64u, 80u, 0x1000u})
                               : making.Number();
    out->push_back(making.OneIn(8) ? Reply(Spoiling::kFds, making.Below(18))
                                   : Overwrite(making, field, value));
    out->push_back(Query(region));
  }

  // Configuration space as no device has it.
  static void AddProbe(Making& making, std::vector<Event>* out) {
    for (uint64_t i = making.Below(4); i != 0; --i) {
      const uint64_t at = making.Pick({0x0u, 0x6u, 0xeu, 0x10u, 0x34u, 0x40u, 0x41u, 0x60u, 0x61u,
                                       0xfcu, 0xffu, 0x100u, 0x102u, 0x140u, 0x142u, 0xffcu});
      const uint64_t value = making.OneIn(2)
                                 ? making.Pick({0x40u, 0x60u, 0x04u, 0xfcu, 0xfdu, 0x05u, 0x11u,
                                                0x1000'0005u, 0xffc1'0001u, 0x1001'0001u})
                                 : making.Number();
      const uint32_t size = making.Pick({1u, 2u, 4u});
      Event write{.kind = Kind::kWrite,
                  .what = HostileDevice::kConfig,
                  .size = static_cast<uint8_t>(size),
                  .at = at,
                  .value = value};
      out->push_back(write);
    }
    if (making.OneIn(2)) {
      // BARs of odd sizes: the answer to one of the reads.
      for (uint64_t i = making.Below(40); i != 0; --i) out->push_back(Reply(Spoiling::kOther, 0));
      for (uint64_t i = making.Below(3); i != 0; --i) {
        out->push_back(Overwrite(making, {16, 4}, making.Number()));
      }
    }
    out->push_back(Query(HostileDevice::kConfig));
  }

  static void AddWindows(Making& making, std::vector<Event>* out) {
    const uint64_t base = making.Pick({Host::kBase, Host::kHighBase, uint64_t{0x20'0000}});
    const uint64_t size = making.OneIn(6) ? making.Number() : 4096 * (1 + making.Below(20));
    const uint64_t iova = making.OneIn(8) ? making.Number() : base + 4096 * making.Below(8);
    if (making.OneIn(4)) {
      const bool all = making.OneIn(4);
      out->push_back({.kind = Kind::kUnmap,
                      .at = all ? 0 : iova,
                      .value = all ? ~uint64_t{0} : making.Pick({size, Host::kSize})});
      return;
    }
    if (making.OneIn(6)) out->push_back(Reply(Spoiling::kError, 17));
    out->push_back({.kind = Kind::kMap,
                    .size = static_cast<uint8_t>(making.OneIn(3) ? making.Below(8) : 3),
                    .at = iova,
                    .value = size});
  }

  static void AddDma(Making& making, std::vector<Event>* out) {
    for (uint64_t i = 1 + making.Below(4); i != 0; --i) {
      uint64_t count = making.Pick({1u, 4u, 16u, 64u, 512u});
      const uint64_t iova =
          making.OneIn(8) ? uint64_t{0} - making.Below(600) : SomeMemory(making, count);
      if (making.OneIn(10)) out->push_back({.kind = Kind::kFault});
      if (making.OneIn(2)) {
        if (making.OneIn(6)) count = making.Number();
        if (making.OneIn(12)) count = making.Pick({0xfffffu, 0x10'0000u, 0x10'0001u, 0xf000u});
        out->push_back({.kind = Kind::kDeviceRead, .at = iova, .value = count});
      } else {
        const ConstBytes data = making.RandomBytes(count);
        if (making.OneIn(8)) count = making.OneIn(2) ? making.Number() : count - 1;
        out->push_back({.kind = Kind::kDeviceWrite, .at = iova, .value = count, .data = data});
      }
    }
    if (making.OneIn(4)) out->push_back({.kind = Kind::kClock});
  }

  static Event Frame(Making& making) {
    vfio_user::Header header{
        .message_id = static_cast<uint16_t>(making.Number()),
        .command = static_cast<uint16_t>(making.OneIn(4) ? making.Number() : making.Below(20)),
        .size = sizeof header,
        .flags = making.OneIn(3) ? vfio_user::kFlagNoReply : 0};
    const ConstBytes payload = making.RandomBytes(making.Below(48));
    header.size += static_cast<uint32_t>(payload.size());
    if (making.OneIn(8)) header.size = static_cast<uint32_t>(making.Number());
    if (making.OneIn(8)) header.flags = static_cast<uint32_t>(making.Number());
    if (making.OneIn(8)) {
      header.command = static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);
    }
    const Bytes data = making.store.Add(sizeof header + payload.size());
    Copy(data.first(sizeof header), AsBytes(header));
    Copy(data.subspan(sizeof header), payload);
    const size_t size = making.OneIn(8) ? making.Below(data.size() + 1) : data.size();
    return {.kind = Kind::kDeviceFrame,
            .size = static_cast<uint8_t>(making.OneIn(4) ? making.Below(20) : 0),
            .data = ConstBytes(data).first(size)};
  }
};

}  // namespace

const Grammar& ClientGrammar() {
  static const Client grammar;
  return grammar;
}

}  // namespace farside::fuzz
