#include "fuzz/cli/corpus.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "base/options.h"
#include "fuzz/corpus/dictionary.h"
#include "fuzz/corpus/seeds.h"

namespace farside::fuzz {

int PrintDictionary(const TargetDef& def) {
  fmt::print("{}", DictionaryText(def));
  return 0;
}

int WriteSeeds(const TargetDef& def, const std::string& directory, const std::string& source) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  const auto seeds = SeedsOf(def, source);
  if (seeds.empty()) {
    fmt::print(stderr, "farside-fuzz: {} has no examples below {}: name Farside's source tree\n",
               def.name, Quote(source));
    return 1;
  }
  for (const Seed& seed : seeds) {
    const std::string path = directory + "/" + seed.name;
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(seed.input.data()),
              static_cast<std::streamsize>(seed.input.size()));
    out.flush();
    if (out) continue;
    fmt::print(stderr, "farside-fuzz: can't write {}\n", Quote(path));
    return 1;
  }
  fmt::print("{}: {} seeds in {}\n", def.name, seeds.size(), directory);
  return 0;
}

}  // namespace farside::fuzz
