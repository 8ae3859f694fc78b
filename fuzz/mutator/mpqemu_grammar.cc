// What a hostile proxy of QEMU's sends: a driver's accesses, memory and interrupts around them, and
// messages of sizes, fds and addresses that no proxy sends. And what a hostile remote answers.
#include "fuzz/mutator/mpqemu_grammar.h"

#include <algorithm>

#include "fuzz/host/host.h"
#include "fuzz/mutator/client_events.h"
#include "protocol/mpqemu.h"
#include "protocol/test_support.h"

namespace farside::fuzz {
namespace {

using mpqemu::Command;

Event Window(Making& making) {
  const uint64_t base = making.Pick({Host::kBase, Host::kHighBase, uint64_t{0x20'0000}});
  return {.kind = Kind::kMap,
          .size = static_cast<uint8_t>(making.OneIn(2) ? 3 : making.Below(64)),
          .at = making.OneIn(6) ? making.Number() : base + 4096 * making.Below(4),
          .value = making.OneIn(6) ? making.Number() : 4096 * making.Below(20)};
}

Event Unmapping(Making& making) {
  const bool all = making.OneIn(3);
  return {.kind = Kind::kUnmap,
          .at = all ? 0 : making.Pick({Host::kBase, Host::kHighBase}),
          .value = all ? ~uint64_t{0} : making.Pick({Host::kSize, Host::kHighSize})};
}

class Proxy final : public Grammar {
 public:
  explicit Proxy(const Grammar& device) : device_(device) {}

  // The disk's requests may be deferred; there is no DMA by message.
  uint8_t flags() const override { return kByMessage | kReady; }
  void AddPrologue(Store& store, std::vector<Event>* out) const override {
    device_.AddPrologue(store, out);
  }
  std::string Describe(const Event& event) const override { return device_.Describe(event); }
  void MutateData(Making& making, const Event& event, Bytes data) const override {
    const bool message = event.kind == Kind::kFrame;
    message ? Grammar::MutateData(making, event, data) : device_.MutateData(making, event, data);
  }

  void AddPiece(Making& making, std::span<const Event> before,
                std::vector<Event>* out) const override {
    if (before.empty() && !making.OneIn(8)) out->push_back({.kind = Kind::kIrqs, .size = 1});
    if (!making.OneIn(3)) return device_.AddPiece(making, before, out);
    switch (making.Below(10)) {
      case 0:
        out->push_back(Window(making));
        return;
      case 1:
        out->push_back(Unmapping(making));
        out->push_back({.kind = Kind::kMap, .size = 3, .at = Host::kBase, .value = Host::kSize});
        return;
      case 2:
        out->push_back({.kind = Kind::kIrqs, .size = static_cast<uint8_t>(making.Below(64))});
        return;
      case 3:
        out->push_back({.kind = making.Pick({Kind::kReconnect, Kind::kReset, Kind::kReset})});
        return AddAccessesAtOldPlaces(making, out);
      case 4:
      case 5:
        out->push_back(Access(making));
        return;
      default:
        out->push_back({.kind = Kind::kFrame,
                        .size = static_cast<uint8_t>(making.OneIn(4) ? making.Below(20) : 0),
                        .data = Frame(making)});
    }
  }

 private:
  // Where a driver's set-up has put the BARs, wherever they are by now.
  static void AddAccessesAtOldPlaces(Making& making, std::vector<Event>* out) {
    for (uint64_t i = making.Below(3); i != 0; --i) {
      const bool io = making.OneIn(3);
      const mpqemu::BarAccess access{.address = (io ? 0x1000 : 0xe000'0000) + making.Below(0x60),
                                     .size = making.Pick({1u, 2u, 4u}),
                                     .memory = io ? uint8_t{0} : uint8_t{1}};
      const mpqemu::Header header{
          .command = static_cast<int32_t>(Command::kBarRead), .padding = 0, .size = sizeof access};
      out->push_back({.kind = Kind::kFrame, .data = making.store.Add(Pack(header, access))});
    }
  }

  // Of sizes and at places of which the proxy knows better.
  static Event Access(Making& making) {
    const auto size = static_cast<uint32_t>(
        making.OneIn(3) ? making.Below(256) : making.Pick({1u, 2u, 4u, 8u, 16u, 64u}));
    const uint32_t region = making.Pick({0u, 1u, 2u, 3u, 5u, 7u, 7u});
    const uint64_t at =
        making.OneIn(3)
            ? making.Number()
            : making.Pick({0u, 0x3cu, 0xfcu, 0xfdu, 0xffu, 0x100u, 0xff8u, 0xffdu, 0x1000u});
    return making.OneIn(2) ? ReadOf(region, at, size) : WriteOf(region, at, size, making.Number());
  }

  static ConstBytes Frame(Making& making) {
    const auto command = static_cast<int32_t>(making.Below(8));
    std::vector<std::byte> payload;
    switch (Command{command}) {
      case Command::kSyncSysmem: {
        mpqemu::SyncSysmem table;
        for (size_t i = 0; i < mpqemu::kMaxRegions; ++i) {
          table.gpas[i] = SomeMemory(making, 4096);
          table.sizes[i] = making.OneIn(4) ? making.Number() : 4096;
          table.offsets[i] = making.OneIn(4) ? making.Number() : 4096;
        }
        payload = Pack(table);
        break;
      }
      case Command::kPciCfgRead:
      case Command::kPciCfgWrite:
        payload = Pack(mpqemu::ConfigAccess{
            .address = static_cast<uint32_t>(making.OneIn(2) ? making.Number() : making.Below(260)),
            .value = static_cast<uint32_t>(making.Number()),
            .size = static_cast<int32_t>(making.OneIn(2) ? making.Number() : making.Below(6))});
        break;
      case Command::kBarRead:
      case Command::kBarWrite:
        payload = Pack(mpqemu::BarAccess{
            .address = making.OneIn(2) ? making.Number() : 0xe000'0000 + making.Below(0x2000),
            .value = making.Number(),
            .size = static_cast<uint32_t>(making.OneIn(2) ? making.Number() : making.Below(10)),
            .memory = static_cast<uint8_t>(making.Below(4))});
        break;
      default:
        payload.resize(making.OneIn(2) ? 0 : making.Below(190));
    }
    mpqemu::Header header{.command = command, .padding = 0, .size = payload.size()};
    switch (making.Below(12)) {
      case 0:
        header.size = making.Number();
        break;
      case 1:
        header.command = static_cast<int32_t>(making.Number());
        break;
      case 2:
        payload.resize(making.Below(payload.size() + 1));
        if (making.OneIn(2)) header.size = payload.size();
        break;
      case 3:
        header.padding = static_cast<uint32_t>(making.Number());
        break;
      default:
        break;
    }
    std::vector<std::byte> message = Pack(header);
    message.insert(message.end(), payload.begin(), payload.end());
    return making.store.Add(message);
  }

  const Grammar& device_;
};

class Remote final : public Grammar {
 public:
  uint8_t flags() const override { return kByMessage; }

  void AddPiece(Making& making, std::span<const Event> before,
                std::vector<Event>* out) const override {
    // The client asks some sixty times before it is attached.
    if (before.empty() && making.OneIn(3)) {
      LetThrough(making.Below(70), out);
      for (uint64_t i = 1 + making.Below(8); i != 0; --i) Spoil(making, out);
    }
    if (making.OneIn(5)) {
      if (making.OneIn(3)) LetThrough(making.Below(6), out);
      Spoil(making, out);
    }
    if (making.OneIn(60)) AddDeafness(making, out);
    AddCall(making, out);
    if (making.OneIn(8)) {
      if (making.OneIn(3)) {
        LetThrough(making.Below(70), out);
        for (uint64_t i = 1 + making.Below(4); i != 0; --i) Spoil(making, out);
      }
      out->push_back({.kind = Kind::kReconnect});
    }
  }

 private:
  static void Add(Spoiling how, uint64_t value, ConstBytes data, std::vector<Event>* out) {
    out->push_back(
        {.kind = Kind::kReply, .what = static_cast<uint8_t>(how), .value = value, .data = data});
  }
  static void LetThrough(uint64_t count, std::vector<Event>* out) {
    for (; count != 0; --count) Add(Spoiling::kOther, 0, {}, out);
  }

  static void Spoil(Making& making, std::vector<Event>* out) {
    switch (making.Below(16)) {
      case 0:
        return Add(Spoiling::kShort, 1 + making.Below(8), {}, out);
      case 1:
        return Add(Spoiling::kLong, 0, making.RandomBytes(1 + making.Below(200)), out);
      case 2:
        return Add(Spoiling::kTwice, 0, {}, out);
      case 3:
        return Add(Spoiling::kNever, 0, {}, out);
      case 4:
        return Add(Spoiling::kFds, making.Below(20), {}, out);
      case 5:
        return Add(Spoiling::kCommand, making.OneIn(2) ? making.Below(9) : making.Number(), {},
                   out);
      case 6:
        return Add(Spoiling::kSize, making.OneIn(2) ? making.Below(200) : making.Number(), {}, out);
      case 7:
        return Add(Spoiling::kFlags, making.Number(), {}, out);
      case 8:
        if (making.OneIn(4)) out->push_back({.kind = Kind::kHangUp});
        return;
      case 9: {
        const ConstBytes bytes = making.RandomBytes(1 + making.Below(40));
        out->push_back({.kind = Kind::kDeviceFrame,
                        .size = static_cast<uint8_t>(making.OneIn(4) ? making.Below(20) : 0),
                        .data = bytes});
        return;
      }
      default: {
        const uint64_t value = making.OneIn(2) ? making.Pick({0u, 1u, 4u, 5u, 0xffff'ffffu, 0xcu,
                                                              0xffff'fff0u, 0x8000'0000u, 0xfff4u})
                                               : making.Number();
        return Add(Spoiling::kOther, 0, making.store.Add(AsBytes(value)), out);
      }
    }
  }

  // The remote stops reading, and more is posted than a socket holds.
  static void AddDeafness(Making& making, std::vector<Event>* out) {
    out->push_back({.kind = Kind::kDeviceFrame});
    for (uint64_t i = making.Below(3); i != 0; --i) {
      out->push_back({.kind = Kind::kWriteData,
                      .what = 2 | kPosted,
                      .data = making.store.Add(making.Below(kMaxData))});
    }
  }

  static void AddCall(Making& making, std::vector<Event>* out) {
    const uint32_t region = making.OneIn(8) ? static_cast<uint32_t>(making.Below(10))
                                            : making.Pick({0u, 1u, 2u, 7u, 7u});
    Event event{.kind = making.Pick({Kind::kRead, Kind::kRead, Kind::kWrite, Kind::kWriteData}),
                .what = static_cast<uint8_t>(region),
                .size = static_cast<uint8_t>(making.OneIn(6) ? making.Below(70)
                                                             : making.Pick({1u, 2u, 4u, 8u})),
                .at = making.OneIn(10) ? making.Number() : making.Below(0x110)};
    switch (making.Below(10)) {
      case 0:
        out->push_back({.kind = making.Pick({Kind::kReset, Kind::kSaveLoad, Kind::kClock})});
        return;
      case 1:
        out->push_back(making.OneIn(3) ? Unmapping(making) : Window(making));
        return;
      case 2:
        out->push_back({.kind = Kind::kIrqs,
                        .what = static_cast<uint8_t>(making.Below(3)),
                        .size = static_cast<uint8_t>(
                            making.OneIn(3) ? making.Below(64) : making.Pick({0u, 0x24u, 0x24u})),
                        .value = making.Below(3)});
        return;
      default:
        break;
    }
    if (event.kind == Kind::kRead && making.OneIn(4)) event.what |= kBegun;
    if (event.kind != Kind::kRead && making.OneIn(3)) event.what |= kPosted;
    if (event.kind == Kind::kWrite) event.value = making.Number();
    if (event.kind == Kind::kWriteData) {
      if (making.OneIn(4)) event.what |= kMulti;
      event.size = 0;
      event.data = making.RandomBytes(1 + making.Below(40));
    }
    out->push_back(event);
  }
};

}  // namespace

const Grammar& MpqemuServerGrammar() {
  static const Proxy grammar(LsiGrammar());
  return grammar;
}

const Grammar& MpqemuClientGrammar() {
  static const Remote grammar;
  return grammar;
}

}  // namespace farside::fuzz
