#include "harness/scenario/disk_content.h"

#include <algorithm>
#include <utility>

#include "harness/scenario/value.h"

namespace farside::scenario {

Result<std::vector<std::byte>> DiskContent(const Args& args, uint64_t block_size,
                                           std::string_view choices) {
  constexpr std::pair<std::string_view, Content::Kind> kKinds[] = {
      {"seed", Content::Kind::kSeed},
      {"fill", Content::Kind::kFill},
      {"generated", Content::Kind::kGenerated}};
  std::vector<std::byte> out;
  for (const auto& [name, kind] : kKinds) {
    if (!args.Has(name)) continue;
    if (!out.empty()) return Fail("give one of {}", choices);
    out.resize(args.Number("blocks") * block_size);
    Content{.kind = kind, .number = args.Number(name)}.Produce(args.Number("block") * block_size,
                                                               out);
  }
  return out;
}

Result<void> CheckDiskContent(ConstBytes got, ConstBytes expected, uint64_t offset) {
  constexpr size_t kShown = 16;
  const auto [at, other] = std::ranges::mismatch(got, expected);
  if (at == got.end() && other == expected.end()) return {};
  const auto index = static_cast<size_t>(at - got.begin());
  const auto piece = [&](ConstBytes bytes) {
    return FormatHex(bytes.subspan(index, std::min(kShown, bytes.size() - index)));
  };
  return Fail("the disk has {} from its byte {:#x} on, expected {}", piece(got), offset + index,
              piece(expected));
}

}  // namespace farside::scenario
