#include "fuzz/mutator/mutator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fuzz/targets/target.h"

namespace farside::fuzz {
namespace {

// Each test is run with the grammar of each target that has one.
class MutatorTest : public ::testing::TestWithParam<const TargetDef*> {
 protected:
  const Grammar& grammar() const { return GetParam()->grammar(); }

  // Mutates `input` in a buffer of `room` bytes.
  std::vector<std::byte> Mutated(ConstBytes input, size_t room, uint64_t seed) const {
    std::vector<std::byte> data(room);
    Copy(Bytes(data).first(input.size()), input);
    const size_t size = Mutate(grammar(), data, input.size(), seed);
    EXPECT_LE(size, room);
    data.resize(size);
    return data;
  }
};

TEST_P(MutatorTest, TheSameSeedDoesTheSame) {
  std::vector<std::byte> input;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto first = Mutated(input, kMaxInput, seed);
    ASSERT_EQ(first, Mutated(input, kMaxInput, seed)) << "seed " << seed;
    input = first;
  }
}

TEST_P(MutatorTest, SessionsGrowAndStaySessions) {
  std::vector<std::byte> input;
  size_t most = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    input = Mutated(input, kMaxInput, seed);
    Session session;
    Decode(input, &session);
    ASSERT_LE(session.events.size(), kMaxEvents);
    most = std::max(most, session.events.size());
  }
  EXPECT_GT(most, 20u);
}

TEST_P(MutatorTest, FitsTheRoomThereIs) {
  std::vector<std::byte> large;
  for (uint64_t seed = 0; seed < 100; ++seed) large = Mutated(large, kMaxInput, seed);
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const size_t room = 1 + seed * 11 % 700;
    const auto input = ConstBytes(large).first(std::min(large.size(), room));
    (void)Mutated(input, room, seed);
  }
  EXPECT_EQ(Mutated({}, 0, 1).size(), 0u);
}

// The beginning of one, then the end of the other, and events stay whole.
TEST_P(MutatorTest, CrossesOverBetweenEvents) {
  std::vector<std::byte> a;
  std::vector<std::byte> b;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    a = Mutated(a, kMaxInput, seed);
    b = Mutated(b, kMaxInput, 1000 + seed);
  }
  Session first;
  Session second;
  Decode(a, &first);
  Decode(b, &second);
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::vector<std::byte> out(kMaxInput);
    out.resize(CrossOver(grammar(), a, b, out, seed));
    Session child;
    Decode(out, &child);
    const auto [in_first, in_child] = std::ranges::mismatch(first.events, child.events);
    const auto tail = static_cast<size_t>(child.events.end() - in_child);
    ASSERT_LE(tail, second.events.size()) << "seed " << seed;
    ASSERT_TRUE(std::equal(in_child, child.events.end(),
                           second.events.end() - static_cast<ptrdiff_t>(tail)))
        << "seed " << seed;
  }
}

// AFL++'s mutator finds it by name, and knows no targets.
TEST(BlockGrammar, WordsMeanAPlaceThatIsNotTheFirst) {
  std::vector<Event> words;
  BlockGrammar().AddWords(&words);
  const auto disk = [](const Event& event) { return event.kind == Kind::kDisk; };
  ASSERT_EQ(std::ranges::count_if(words, disk), 4);
  for (const Event& event : words) {
    if (!disk(event)) continue;
    EXPECT_EQ(event.value >> 20, 4096u);
  }
}

TEST_P(MutatorTest, IsFoundByItsName) {
  EXPECT_EQ(FindGrammar(GetParam()->name), &grammar());
  EXPECT_NE(GrammarNames().find(GetParam()->name), std::string::npos);
  EXPECT_EQ(FindGrammar("no"), nullptr);
}

std::vector<const TargetDef*> WithGrammar() {
  std::vector<const TargetDef*> out;
  for (const TargetDef& def : Targets()) {
    if (def.grammar != nullptr) out.push_back(&def);
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(All, MutatorTest, ::testing::ValuesIn(WithGrammar()),
                         [](const auto& one) { return std::string(one.param->name); });

}  // namespace
}  // namespace farside::fuzz
