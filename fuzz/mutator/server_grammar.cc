// What a hostile VMM sends: the accesses of a device's driver, the commands around them, and
// messages that are wrong in all the ways of the vfio-user specification's small print.
#include "fuzz/mutator/server_grammar.h"

#include <string_view>

#include "fuzz/host/host.h"
#include "fuzz/mutator/grammar.h"
#include "fuzz/mutator/server_events.h"
#include "protocol/test_support.h"
#include "protocol/vfio_user.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::fuzz {
namespace {

using vfio_user::Command;

uint32_t Small(Making& making, uint64_t usual) {
  return static_cast<uint32_t>(making.OneIn(4) ? making.Number() : making.Below(usual));
}

// The fixed part of a structure says its own size, mostly.
uint32_t ArgSize(Making& making, size_t size) {
  return making.OneIn(6) ? Small(making, 64) : static_cast<uint32_t>(size);
}

class Server final : public Grammar {
 public:
  explicit Server(const Grammar& device) : device_(device) {}

  uint8_t flags() const override { return kByMessage | kReady; }
  void AddPrologue(Store& store, std::vector<Event>* out) const override {
    device_.AddPrologue(store, out);
  }
  std::string Describe(const Event& event) const override { return device_.Describe(event); }
  void AddWords(std::vector<Event>* out) const override { device_.AddWords(out); }
  void MutateData(Making& making, const Event& event, Bytes data) const override {
    const bool message = event.kind == Kind::kFrame;
    message ? Grammar::MutateData(making, event, data) : device_.MutateData(making, event, data);
  }

  void AddPiece(Making& making, std::span<const Event> before,
                std::vector<Event>* out) const override {
    if (!making.OneIn(3)) return device_.AddPiece(making, before, out);
    switch (making.Below(17)) {
      case 0:
      case 1:
      case 2:
        return AddWindows(making, out);
      case 3:
      case 4:
        return AddIrqs(making, out);
      case 5:
        out->push_back({.kind = Kind::kReconnect});
        return;
      case 6:
        out->push_back({.kind = Kind::kSaveLoad,
                        .at = making.Below(6000),
                        .value = making.OneIn(2) ? 0 : uint64_t{1} << making.Below(8)});
        return;
      case 7:
        return AddDmaReplies(making, before, out);
      case 8:
      case 9:
        return AddStall(making, before, out);
      case 10:
        return AddLogging(making, before, out);
      case 11:
        return AddMigration(making, out);
      case 12:
        return AddFarAccess(making, out);
      default:
        out->push_back({.kind = Kind::kFrame,
                        .size = static_cast<uint8_t>(making.OneIn(6) ? making.Below(20) : 0),
                        .data = Frame(making)});
    }
  }

 private:
  static Event Irqs(uint8_t index, uint32_t flags, uint64_t start, uint64_t count) {
    return {.kind = Kind::kIrqs,
            .what = index,
            .size = static_cast<uint8_t>(flags),
            .at = start,
            .value = count};
  }

  static void AddIrqs(Making& making, std::vector<Event>* out) {
    const auto index = static_cast<uint8_t>(making.Below(making.OneIn(6) ? 256 : 3));
    uint32_t kind = making.OneIn(8) ? static_cast<uint32_t>(making.Below(256))
                                    : making.Pick({1u, 2u, 4u, 4u, 4u}) |
                                          making.Pick({8u, 0x10u, 0x20u, 0x20u});
    if (making.OneIn(6)) kind = kIrqsByFile | making.Pick({0x24u, 0x14u});
    const uint64_t vectors = index == 0 ? 2 : 6;
    const uint64_t start = making.OneIn(8) ? making.Number() : making.Below(vectors - 1);
    const uint64_t count = making.OneIn(8) ? making.Number() : making.Below(vectors);
    out->push_back(Irqs(index, kind, start, count));
  }

  static Event Window(uint64_t iova, uint64_t size) {
    return {.kind = Kind::kMap, .size = 3, .at = iova, .value = size};
  }
  static Event NoWindow(uint64_t iova, uint64_t size) {
    return {.kind = Kind::kUnmap, .at = iova, .value = size};
  }

  // Windows over others, across the end of all addresses, and too many; unmaps that cut one.
  static void AddOddWindows(Making& making, std::vector<Event>* out) {
    constexpr uint64_t kPage = 4096;
    const uint64_t pages = (1 + making.Below(8)) * kPage;
    switch (making.Below(6)) {
      case 0:
        out->push_back(Window(making.Pick({Host::kBase, Host::kHighBase}) - pages, 16 * kPage));
        return;
      case 1:
        out->push_back(Window(0 - pages, pages + making.Below(3) * kPage));
        return;
      case 2:
        for (uint64_t i = 0; i < 6; ++i)
          out->push_back(Window(0x4000'0000 + 16 * i * kPage, kPage));
        return;
      case 3:
        out->push_back(NoWindow(making.Pick({Host::kBase, Host::kHighBase}) - kPage, 2 * kPage));
        return;
      case 4: {
        // Memory that is gone while the device has it.
        Event window = Window(Host::kBase + 2 * kPage * making.Below(4), pages);
        window.size |= kWindowCut;
        out->push_back(NoWindow(Host::kBase, Host::kSize));
        out->push_back(window);
        return;
      }
      default:
        out->push_back(NoWindow(Host::kBase + making.Below(2) * kPage, pages));
    }
  }

  // The device waits for memory, and replies come that are not the right ones, or come twice.
  void AddDmaReplies(Making& making, std::span<const Event> before, std::vector<Event>* out) const {
    const bool held = !making.OneIn(3);
    if (held) out->push_back({.kind = Kind::kHold});
    device_.AddPiece(making, before, out);
    for (uint64_t i = 1 + making.Below(3); i != 0; --i) {
      std::vector<std::byte> payload =
          Pack(vfio_user::DmaAccess{.iova = SomeMemory(making, 64), .count = 64});
      payload.resize(payload.size() + making.Pick({0u, 64u, 64u, 128u, 4096u - 64}));
      vfio_user::Header header =
          HeaderOf(making, making.OneIn(3) ? Command::kDmaWrite : Command::kDmaRead, payload);
      header.message_id = static_cast<uint16_t>(making.Below(3));
      header.flags = vfio_user::kFlagTypeReply;
      out->push_back(FrameOf(making, header, payload));
    }
    if (held) out->push_back({.kind = Kind::kAnswer});
    device_.AddPiece(making, before, out);
    if (making.OneIn(2)) out->push_back({.kind = Kind::kSaveLoad});
  }

  // Work waits for the disk, and is to end or to lose its memory.
  void AddStall(Making& making, std::span<const Event> before, std::vector<Event>* out) const {
    out->push_back({.kind = Kind::kDisk, .what = static_cast<uint8_t>(DiskAction::kHold)});
    for (uint64_t i = 2 + making.Below(4); i != 0; --i) device_.AddPiece(making, before, out);
    const bool resets = making.OneIn(4);
    const bool all = !making.OneIn(4);
    if (resets) {
      out->push_back({.kind = Kind::kReset});
    } else {
      out->push_back(all ? NoWindow(0, ~uint64_t{0}) : NoWindow(Host::kBase, Host::kSize));
    }
    out->push_back({.kind = Kind::kDisk, .what = static_cast<uint8_t>(DiskAction::kResume)});
    if (!resets && making.OneIn(2)) out->push_back(Window(Host::kBase, Host::kSize));
  }

  // Memory is logged while the device works.
  void AddLogging(Making& making, std::span<const Event> before, std::vector<Event>* out) const {
    const auto add = [&](uint32_t operation, vfio_user::Feature feature, const auto&... fields) {
      const auto payload =
          Pack(vfio_user::DeviceFeature{.argsz = 4096,
                                        .flags = operation | static_cast<uint32_t>(feature)},
               fields...);
      out->push_back(FrameOf(making, HeaderOf(making, Command::kDeviceFeature, payload), payload));
    };
    const uint64_t page_size =
        making.OneIn(4) ? making.Pick({0u, 1u, 4095u, 6144u, 8192u, 12288u}) : 4096;
    const vfio_user::DmaLoggingRange low{.iova = Host::kBase, .length = Host::kSize};
    vfio_user::DmaLoggingRange other{.iova = Host::kHighBase, .length = Host::kHighSize};
    if (making.OneIn(3)) other = {.iova = 0 - 4096ull * making.Below(3), .length = 8192};
    add(vfio_user::kFeatureSet, vfio_user::Feature::kDmaLoggingStart,
        vfio_user::FeatureDmaLoggingStart{.page_size = page_size, .num_ranges = 2}, low, other);
    for (uint64_t i = 1 + making.Below(3); i != 0; --i) {
      device_.AddPiece(making, before, out);
      add(vfio_user::kFeatureGet, vfio_user::Feature::kDmaLoggingReport,
          vfio_user::FeatureDmaLoggingReport{
              .iova = low.iova, .length = low.length, .page_size = 4096});
    }
    if (making.OneIn(2)) add(vfio_user::kFeatureSet, vfio_user::Feature::kDmaLoggingStop);
  }

  // From state to state, with data where they do and do not belong.
  static void AddMigration(Making& making, std::vector<Event>* out) {
    for (uint64_t i = 1 + making.Below(5); i != 0; --i) {
      const uint32_t size = making.OneIn(4) ? 0 : static_cast<uint32_t>(making.Below(600));
      std::vector<std::byte> payload = Pack(vfio_user::MigData{.argsz = 8 + size, .size = size});
      Command command = making.Pick({Command::kMigDataRead, Command::kMigDataWrite,
                                     Command::kDeviceFeature, Command::kDeviceFeature});
      if (command == Command::kMigDataWrite) payload.resize(payload.size() + size);
      if (command == Command::kDeviceFeature) {
        const bool sets = !making.OneIn(4);
        payload = Pack(
            vfio_user::DeviceFeature{
                .argsz = 16,
                .flags = (sets ? vfio_user::kFeatureSet : vfio_user::kFeatureGet) |
                         static_cast<uint32_t>(vfio_user::Feature::kMigrationState)},
            vfio_user::FeatureMigrationState{.state = static_cast<uint32_t>(making.Below(9))});
      }
      out->push_back(FrameOf(making, HeaderOf(making, command, payload), payload));
    }
  }

  // Around the end of a region, and of all offsets.
  static void AddFarAccess(Making& making, std::vector<Event>* out) {
    const uint64_t end =
        making.Pick({uint64_t{0}, uint64_t{0}, uint64_t{0x1000}, uint64_t{0x2000}});
    const auto size = static_cast<uint32_t>(making.Pick({1u, 2u, 4u, 8u, 16u, 64u}));
    const uint64_t offset = end - making.Below(2 * size);
    const uint32_t region = making.Pick({0u, 4u, 7u, 8u});
    out->push_back(making.OneIn(4) ? WriteOf(region, offset, size, making.Number())
                                   : ReadOf(region, offset, size));
  }

  static void AddWindows(Making& making, std::vector<Event>* out) {
    if (making.OneIn(3)) return AddOddWindows(making, out);
    const uint64_t base = making.Pick({Host::kBase, Host::kHighBase, uint64_t{0x20'0000}});
    const uint64_t size = making.OneIn(6) ? making.Number() : 4096 * making.Below(20);
    const uint64_t iova = making.OneIn(6) ? making.Number() : base + 4096 * making.Below(4);
    if (making.OneIn(2)) {
      const bool all = making.OneIn(3);
      out->push_back(
          {.kind = Kind::kUnmap,
           .at = all               ? 0
                 : making.OneIn(2) ? base
                                   : iova,
           .value = all ? ~uint64_t{0} : making.Pick({size, Host::kSize, Host::kHighSize})});
      if (making.OneIn(2)) return;
    }
    out->push_back({.kind = Kind::kMap,
                    .size = static_cast<uint8_t>(making.Below(16) | (making.OneIn(2) ? 3 : 0)),
                    .at = making.OneIn(2) ? base : iova,
                    .value = making.Pick({size, Host::kSize, Host::kHighSize})});
  }

  static vfio_user::Header HeaderOf(Making& making, Command command, ConstBytes payload) {
    return {.message_id = static_cast<uint16_t>(0x8000 + making.Below(0x4000)),
            .command = static_cast<uint16_t>(command),
            .size = static_cast<uint32_t>(sizeof(vfio_user::Header) + payload.size())};
  }
  static ConstBytes MessageOf(Making& making, const vfio_user::Header& header, ConstBytes payload) {
    std::vector<std::byte> message = Pack(header);
    message.insert(message.end(), payload.begin(), payload.end());
    return making.store.Add(message);
  }
  static Event FrameOf(Making& making, const vfio_user::Header& header, ConstBytes payload) {
    return {.kind = Kind::kFrame, .data = MessageOf(making, header, payload)};
  }

  static ConstBytes Frame(Making& making) {
    const auto command =
        static_cast<Command>(making.OneIn(10) ? making.Below(20) : 1 + making.Below(18));
    std::vector<std::byte> payload = Payload(making, command);
    vfio_user::Header header = HeaderOf(making, command, payload);
    if (making.OneIn(20)) header.flags = vfio_user::kFlagNoReply;
    switch (making.Below(24)) {
      case 0:
        header.size = making.OneIn(2) ? Small(making, 64)
                                      : making.Pick({0u, 8u, 15u, 1u << 21, 1u << 28, ~0u});
        break;
      case 1:
        header.flags = static_cast<uint32_t>(making.Number());
        break;
      case 2:
        header.flags = vfio_user::kFlagTypeReply | (making.OneIn(2) ? vfio_user::kFlagError : 0);
        break;
      case 3:
        header.error = static_cast<uint32_t>(making.Number());
        break;
      case 4:
        payload.resize(making.Below(payload.size() + 1));
        if (making.OneIn(2)) header.size = static_cast<uint32_t>(sizeof header + payload.size());
        break;
      case 5:
        header.command =
            static_cast<uint16_t>(making.OneIn(2) ? making.Number() : 0x8000 + making.Below(4));
        break;
      default:
        break;
    }
    return MessageOf(making, header, payload);
  }

  static std::vector<std::byte> Payload(Making& making, Command command) {
    switch (command) {
      case Command::kVersion: {
        constexpr std::string_view kTexts[] = {"{}",
                                               "{",
                                               "[]",
                                               R"({"capabilities":{}})",
                                               R"({"capabilities":{"max_msg_fds":99999999}})",
                                               R"({"capabilities":{"max_data_xfer_size":1}})",
                                               R"({"capabilities":{"pgsizes":-1}})",
                                               R"({"capabilities":{"migration":{"pgsize":4096}}})",
                                               "[[[[[[[[[[[[[[[[[[[[[[[[[[[["};
        const std::string_view text = kTexts[making.Below(std::size(kTexts))];
        auto out = Pack(vfio_user::Version{.major = static_cast<uint16_t>(making.Below(2)),
                                           .minor = static_cast<uint16_t>(Small(making, 3))});
        const ConstBytes bytes = std::as_bytes(std::span(text));
        out.insert(out.end(), bytes.begin(), bytes.end());
        if (!making.OneIn(4)) out.push_back(std::byte{0});
        return out;
      }
      case Command::kDmaMap:
        return Pack(vfio_user::DmaMap{.argsz = ArgSize(making, sizeof(vfio_user::DmaMap)),
                                      .flags = Small(making, 16),
                                      .offset = making.OneIn(2) ? 4096 : making.Number(),
                                      .iova = SomeMemory(making, 4096),
                                      .size = making.OneIn(2) ? 8192 : making.Number()});
      case Command::kDmaUnmap:
        return Pack(vfio_user::DmaUnmap{.argsz = ArgSize(making, sizeof(vfio_user::DmaUnmap)),
                                        .flags = Small(making, 4),
                                        .iova = SomeMemory(making, 4096),
                                        .size = making.Number()});
      case Command::kDeviceGetInfo:
        return Pack(vfio_user::DeviceInfo{.argsz = ArgSize(making, 16)});
      case Command::kDeviceGetRegionInfo:
        return Pack(
            vfio_user::RegionInfo{.argsz = ArgSize(making, 32), .index = Small(making, 10)});
      case Command::kDeviceGetRegionIoFds:
        return Pack(vfio_user::RegionIoFds{.argsz = ArgSize(making, 16),
                                           .flags = Small(making, 2),
                                           .index = Small(making, 10),
                                           .count = Small(making, 2)});
      case Command::kDeviceGetIrqInfo:
        return Pack(vfio_user::IrqInfo{.argsz = ArgSize(making, 16), .index = Small(making, 6)});
      case Command::kDeviceSetIrqs: {
        auto out = Pack(vfio_user::SetIrqs{.argsz = ArgSize(making, 20),
                                           .flags = making.OneIn(3)
                                                        ? Small(making, 64)
                                                        : making.Pick({0x21u, 0x22u, 0x24u, 0x12u}),
                                           .index = Small(making, 4),
                                           .start = Small(making, 3),
                                           .count = Small(making, 4)});
        if (making.OneIn(2)) out.resize(out.size() + making.Below(6), std::byte{1});
        return out;
      }
      case Command::kRegionRead:
        return Pack(Access(making));
      case Command::kRegionWrite: {
        auto out = Pack(Access(making));
        out.resize(out.size() + (making.OneIn(2) ? 4 : making.Below(64)));
        return out;
      }
      case Command::kDmaRead:
      case Command::kDmaWrite:
        return Pack(
            vfio_user::DmaAccess{.iova = SomeMemory(making, 64), .count = making.Below(64)});
      case Command::kRegionWriteMulti: {
        const uint64_t count = making.Below(4);
        auto out = Pack(vfio_user::WriteMulti{.count = making.OneIn(6) ? making.Number() : count});
        for (uint64_t i = 0; i < count; ++i) {
          const auto access = Access(making);
          const auto entry =
              Pack(vfio_user::WriteMultiEntry{.offset = access.offset,
                                              .region = access.region,
                                              .count = making.OneIn(4) ? Small(making, 10) : 4});
          out.insert(out.end(), entry.begin(), entry.end());
        }
        return out;
      }
      case Command::kDeviceFeature:
        return FeaturePayload(making);
      case Command::kMigDataRead:
      case Command::kMigDataWrite: {
        const uint32_t size = Small(making, 128);
        auto out = Pack(vfio_user::MigData{.argsz = ArgSize(making, 8u + size), .size = size});
        if (command == Command::kMigDataWrite) out.resize(out.size() + making.Below(128));
        return out;
      }
      default:
        return std::vector<std::byte>(making.Below(16));
    }
  }

  static vfio_user::RegionAccess Access(Making& making) {
    return {.offset = making.OneIn(4) ? making.Number() : making.Below(0x2000),
            .region = making.OneIn(6) ? Small(making, 12) : making.Pick({0u, 4u, 7u}),
            .count = making.OneIn(4) ? Small(making, 4096) : making.Pick({1u, 2u, 4u, 8u})};
  }

  static std::vector<std::byte> FeaturePayload(Making& making) {
    using vfio_user::Feature;
    const auto feature = making.Pick({Feature::kMigration, Feature::kMigrationState,
                                      Feature::kMigrationState, Feature::kDmaLoggingStart,
                                      Feature::kDmaLoggingStop, Feature::kDmaLoggingReport});
    const uint32_t operation = making.Pick({vfio_user::kFeatureGet, vfio_user::kFeatureSet,
                                            vfio_user::kFeatureSet, vfio_user::kFeatureProbe});
    vfio_user::DeviceFeature head{.argsz = ArgSize(making, 4096),
                                  .flags = static_cast<uint32_t>(feature) | operation};
    if (making.OneIn(8)) head.flags ^= 1u << making.Below(20);
    switch (feature) {
      case Feature::kMigrationState:
        return Pack(head, vfio_user::FeatureMigrationState{.state = Small(making, 9)});
      case Feature::kDmaLoggingStart: {
        const vfio_user::FeatureDmaLoggingStart start{
            .page_size = making.OneIn(4) ? making.Number() : 4096, .num_ranges = Small(making, 3)};
        return Pack(head, start,
                    vfio_user::DmaLoggingRange{.iova = Host::kBase, .length = Host::kSize},
                    vfio_user::DmaLoggingRange{.iova = SomeMemory(making, 4096),
                                               .length = making.Number()});
      }
      case Feature::kDmaLoggingReport:
        return Pack(head, vfio_user::FeatureDmaLoggingReport{
                              .iova = making.OneIn(3) ? making.Number() : Host::kBase,
                              .length = making.OneIn(3) ? making.Number() : Host::kSize,
                              .page_size = making.OneIn(4) ? making.Number() : 4096});
      default:
        return Pack(head);
    }
  }

  const Grammar& device_;
};

}  // namespace

const Grammar& ServerGrammar() {
  static const Server grammar(NvmeGrammar());
  return grammar;
}

std::unique_ptr<Grammar> MakeServerGrammar(const Grammar& device) {
  return std::make_unique<Server>(device);
}

}  // namespace farside::fuzz
