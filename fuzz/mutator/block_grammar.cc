// Block nodes, most of them small, one upon another; and users of their disks that reach for edges.
#include <fmt/format.h>

#include <string>

#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {
namespace {

Event Options(Store& store, std::string_view text) {
  return {.kind = Kind::kFrame, .data = store.Add(std::as_bytes(std::span(text)))};
}

class Block final : public Grammar {
 public:
  uint8_t flags() const override { return kReady; }

  void AddPrologue(Store& store, std::vector<Event>* out) const override {
    for (const std::string_view text :
         {"memory,node-name=a,size=64K,discard=unmap", "generated,node-name=b,size=128K,seed=7",
          "generated,node-name=g,size=96K,seed=3,discard=unmap",
          "raw,node-name=c,file=g,offset=4608,size=49152,discard=unmap",
          "raw,node-name=d,file.driver=memory,file.size=36864", "null-co,node-name=e,size=1M"}) {
      out->push_back(Options(store, text));
    }
  }

  void AddPiece(Making& making, std::span<const Event>, std::vector<Event>* out) const override {
    const auto node = static_cast<uint8_t>(making.Below(making.OneIn(8) ? 16 : 6));
    if (making.OneIn(10)) return AddNode(making, out);
    if (making.OneIn(100)) return out->push_back({.kind = Kind::kReset});
    const uint64_t offset = Offset(making);
    const auto size = static_cast<uint8_t>(making.Below(making.OneIn(4) ? 256 : 160));
    switch (making.Below(8)) {
      case 0:
      case 1:
        return out->push_back(ReadOf(node, offset, size));
      case 2:
      case 3:
        return out->push_back(WriteOf(node, offset, size, making.Number()));
      case 4:
        return out->push_back({.kind = Kind::kWriteData,
                               .what = node,
                               .at = offset,
                               .data = making.RandomBytes(1 + making.Below(64))});
      default:
        return out->push_back(
            {.kind = Kind::kDisk,
             .what = static_cast<uint8_t>(static_cast<uint64_t>(node) << 4 | making.Below(4)),
             .value = offset << 20 | (making.Below(1 << making.Below(18)))});
    }
  }

  void AddWords(std::vector<Event>* out) const override {
    static Store store;
    AddPrologue(store, out);
    for (uint8_t action = 0; action < 4; ++action) {
      out->push_back({.kind = Kind::kDisk, .what = action, .value = uint64_t{4096} << 20 | 8192});
    }
  }

  void MutateData(Making& making, const Event& event, Bytes data) const override {
    if (event.kind != Kind::kFrame || making.OneIn(4) || data.empty()) {
      return Grammar::MutateData(making, event, data);
    }
    // A character of the syntax, or a digit.
    constexpr std::string_view kCharacters = "0123456789abcdefgKMGTPE=,.{}[]\":-";
    data[making.Below(data.size())] =
        static_cast<std::byte>(kCharacters[making.Below(kCharacters.size())]);
  }

 private:
  // Around borders of sectors and pages, and of the disks that the prologue makes.
  static uint64_t Offset(Making& making) {
    if (making.OneIn(40)) return making.Number();
    const uint64_t unit = making.Pick({uint64_t{512}, uint64_t{4096}, uint64_t{4096}, uint64_t{1}});
    const uint64_t at = making.Below((128 << 10) / unit + 1) * unit;
    return making.OneIn(3) ? at + making.Below(9) - 4 : at;
  }

  static void AddNode(Making& making, std::vector<Event>* out) {
    const auto letter = [&] { return static_cast<char>('a' + making.Below(12)); };
    const uint64_t size = making.OneIn(8) ? making.Number() : 512 * (1 + making.Below(256));
    const std::string discard = making.OneIn(2) ? ",discard=unmap" : "";
    std::string text;
    switch (making.Below(6)) {
      case 0:
        text = fmt::format("memory,node-name={},size={}{}", letter(), size, discard);
        break;
      case 1:
        text = fmt::format("generated,node-name={},size={},seed={}{}", letter(), size,
                           making.Below(4), discard);
        break;
      case 2:
        text = fmt::format("raw,node-name={},file={}{}", letter(), letter(), discard);
        break;
      case 3:
        text = fmt::format("raw,node-name={},file={},offset={},size={}{}", letter(), letter(),
                           512 * making.Below(64), size, discard);
        break;
      case 4:
        text = fmt::format(
            R"({{"driver":"raw","node-name":"{}","offset":{},"file":{{"driver":"generated","size":{}}}}})",
            letter(), 512 * making.Below(16), size);
        break;
      default:
        text = fmt::format("null-co,node-name={},size={},read-only=on{}", letter(), size, discard);
    }
    out->push_back(Options(making.store, text));
  }
};

}  // namespace

const Grammar& BlockGrammar() {
  static const Block grammar;
  return grammar;
}

}  // namespace farside::fuzz
