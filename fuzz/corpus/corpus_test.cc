#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "fuzz/corpus/dictionary.h"
#include "fuzz/corpus/seeds.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/parsers/parsers.h"

namespace farside::fuzz {
namespace {

const TargetDef& Find(std::string_view name) {
  static const bool added = (AddParserTargets(), true);
  EXPECT_TRUE(added);
  const TargetDef* def = FindTarget(name);
  EXPECT_NE(def, nullptr) << name;
  return *def;
}

// A simple engine: flips, cuts and puts words in.
std::vector<std::byte> Damaged(const std::vector<std::byte>& input,
                               const std::vector<std::string>& words, Random& random) {
  std::vector<std::byte> out = input;
  for (uint64_t i = random.Below(4) + 1; i != 0; --i) {
    const auto at = static_cast<ptrdiff_t>(random.Below(out.size() + 1));
    const auto size = static_cast<ptrdiff_t>(random.Below(16));
    switch (random.Below(words.empty() ? 3 : 4)) {
      case 0:
        if (!out.empty()) out[random.Below(out.size())] ^= std::byte(1u << random.Below(8));
        break;
      case 1:
        out.erase(out.begin() + at, std::min(out.begin() + at + size, out.end()));
        break;
      case 2:
        if (!out.empty()) out[random.Below(out.size())] = static_cast<std::byte>(random.Next());
        break;
      default: {
        const auto word = std::as_bytes(std::span(words[random.Below(words.size())]));
        out.insert(out.begin() + at, word.begin(), word.end());
      }
    }
  }
  return out;
}

class TextTargetTest : public ::testing::TestWithParam<std::string> {};

// The oracles abort: it is enough to run them.
TEST_P(TextTargetTest, RunsItsSeedsAndSomeThatAreDamaged) {
  const TargetDef& def = Find(GetParam());
  const auto seeds = SeedsOf(def, FARSIDE_SOURCE_DIR);
  ASSERT_GE(seeds.size(), 2u);
  const auto words = def.facts.words();
  EXPECT_GE(words.size(), 5u);
  const auto target = def.make();
  Random random(7);
  size_t bytes = 0;
  for (const Seed& seed : seeds) target->Run(seed.input);
  for (uint64_t i = 0; i < 300 && bytes < (1u << 20); ++i) {
    const auto input = Damaged(seeds[i % seeds.size()].input, words, random);
    bytes += input.size();
    target->Run(input);
  }
  EXPECT_GE(target->tally().sessions, seeds.size());
}

INSTANTIATE_TEST_SUITE_P(All, TextTargetTest,
                         ::testing::Values("command_line", "qmp", "scenario", "state", "trace"),
                         [](const auto& one) { return one.param; });

TEST(CorpusTest, EveryTargetHasSeedsOfDifferentNames) {
  for (const char* name : {"nvme", "lsi", "server", "block", "state", "qmp", "trace"}) {
    std::set<std::string> names;
    const auto seeds = SeedsOf(Find(name), FARSIDE_SOURCE_DIR);
    EXPECT_GE(seeds.size(), 2u) << name;
    for (const Seed& seed : seeds) {
      EXPECT_LE(seed.input.size(), kMaxInput) << name << ": " << seed.name;
      EXPECT_TRUE(names.insert(seed.name).second) << name << ": " << seed.name;
    }
  }
}

TEST(RecordTest, MadeUpSessionsReplay) {
  for (const char* name : {"record_nvme", "record_lsi"}) {
    const TargetDef& def = Find(name);
    const auto target = def.make();
    for (uint64_t seed = 0; seed < 16; ++seed) {
      Store store;
      target->Run(Encode(MakeUp(def.grammar(), seed, 32, store)));
    }
    EXPECT_GT(target->tally().with_dma, 8u) << name;
  }
}

TEST(CorpusTest, BlockSessionsKeepTheirBytes) {
  const TargetDef& def = Find("block");
  const auto target = def.make();
  for (const Seed& seed : SeedsOf(def, FARSIDE_SOURCE_DIR)) target->Run(seed.input);
  std::vector<std::byte> data(kMaxInput);
  size_t size = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    size = Mutate(def.grammar(), data, size, seed);
    target->Run(ConstBytes(data).first(size));
  }
}

// They end by abort, when something is found: what has a name then stays for ever.
TEST(CorpusTest, TargetsThatListenLeaveNoNameBehind) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "nameless";
  std::filesystem::create_directory(folder);
  setenv("TMPDIR", folder.c_str(), 1);
  for (const char* const name : {"qmp", "disk_proc"}) {
    const auto target = Find(name).make();
    EXPECT_TRUE(std::filesystem::is_empty(folder)) << name;
    target->Run({});
    target->Run({});
  }
  unsetenv("TMPDIR");
  std::filesystem::remove_all(folder);
}

TEST(DictionaryTest, QuotesWhatEnginesWouldMisread) {
  EXPECT_EQ(DictionaryWord("a \"b\"\\c"), R"("a \"b\"\\c")");
  EXPECT_EQ(DictionaryWord(std::string_view("\0\n\x7f\xff", 4)), R"("\x00\x0A\x7F\xFF")");
}

TEST(DictionaryTest, HasRegistersAndKeys) {
  const std::string nvme = DictionaryText(Find("nvme"));
  // CC: read of BAR0 at 0x14, 4 bytes wide.
  EXPECT_THAT(nvme, ::testing::HasSubstr("# BAR0 CC\n\"\\x00\\x00\\x04\\x14\"\n"));
  EXPECT_THAT(DictionaryText(Find("scenario")), ::testing::HasSubstr("\\\"bar.read\\\""));
  EXPECT_THAT(DictionaryText(Find("qmp")), ::testing::HasSubstr("device_add"));
  EXPECT_THAT(DictionaryText(Find("state")), ::testing::HasSubstr("nvme."));
  EXPECT_THAT(DictionaryText(Find("command_line")), ::testing::HasSubstr("\"discard=\""));
}

}  // namespace
}  // namespace farside::fuzz
