#include "fuzz/cli/generic_grammar.h"

#include <algorithm>
#include <utility>

#include "devices/core/pci_registers.h"
#include "fuzz/host/host.h"

namespace farside::fuzz {
namespace {

constexpr uint32_t kConfig = 7;

class Generic final : public Grammar {
 public:
  explicit Generic(std::vector<RegionFacts> regions) {
    std::ranges::copy_if(regions, std::back_inserter(bars_), [](const RegionFacts& region) {
      return region.size != 0 && region.index < kConfig;
    });
  }

  uint8_t flags() const override { return kByMessage | kReady; }

  void AddPrologue(Store&, std::vector<Event>* out) const override {
    out->push_back(WriteOf(kConfig, pci::kCommand, 2,
                           pci::kCommandIo | pci::kCommandMemory | pci::kCommandBusMaster));
  }

  void AddPiece(Making& making, std::span<const Event>, std::vector<Event>* out) const override {
    const uint64_t dice = making.Below(20);
    if (dice < 13 && !bars_.empty()) return AddAccesses(making, out);
    switch (dice) {
      case 13:
      case 14:
        // What a device reads, if it takes addresses from its registers.
        out->push_back({.kind = Kind::kMemory,
                        .at = SomeMemory(making, 64),
                        .data = making.RandomBytes(8 * (1 + making.Below(32)))});
        return;
      case 15:
        out->push_back({.kind = Kind::kHold});
        return;
      case 16:
        out->push_back({.kind = Kind::kReset});
        return;
      default:
        return AddConfig(making, out);
    }
  }

 private:
  static void AddConfig(Making& making, std::vector<Event>* out) {
    const uint32_t size = 1u << making.Below(3);
    const uint64_t offset = making.Below(making.OneIn(4) ? 4096 : 256) / size * size;
    out->push_back(making.OneIn(2) ? ReadOf(kConfig, offset, size)
                                   : WriteOf(kConfig, offset, size, making.Number()));
  }

  // Mostly near the start of a BAR, where registers are, and near the last place.
  void AddAccesses(Making& making, std::vector<Event>* out) const {
    const RegionFacts& bar = bars_[making.Below(bars_.size())];
    const uint64_t reach = making.OneIn(3) ? bar.size : std::min<uint64_t>(bar.size, 256);
    uint64_t offset = making.Below(reach) & ~uint64_t{3};
    for (uint64_t i = 1 + making.Below(6); i != 0; --i) {
      const uint32_t size = making.OneIn(3) ? 1u << making.Below(4) : 4;
      const uint64_t at = making.OneIn(12) ? making.Below(reach) : offset;
      if (bar.readable && making.OneIn(3)) {
        out->push_back(ReadOf(bar.index, at, size));
      } else if (bar.writable) {
        const uint64_t value = making.OneIn(3) ? SomeMemory(making, 4096) : making.Number();
        out->push_back(WriteOf(bar.index, at, size, value));
        if (making.OneIn(4)) {
          out->push_back(
              {.kind = Kind::kAnswer, .data = making.RandomBytes(8 * (1 + making.Below(16)))});
        }
      }
      offset = std::min<uint64_t>(offset + 4, bar.size - 1);
    }
  }

  std::vector<RegionFacts> bars_;
};

}  // namespace

std::unique_ptr<Grammar> MakeGenericGrammar(std::vector<RegionFacts> regions) {
  return std::make_unique<Generic>(std::move(regions));
}

}  // namespace farside::fuzz
