#include "fuzz/corpus/seeds.h"

#include <fmt/format.h>

#include <set>
#include <tuple>
#include <utility>

namespace farside::fuzz {
namespace {

// Pieces that are made up in search for new ones.
constexpr uint64_t kTries = 3000;
constexpr size_t kMaxSeeds = 300;

// What tells commands apart: the kind, whom it goes to, and the first bytes of its data, where a
// command has its opcode.
using Sort = std::tuple<Kind, uint8_t, uint64_t, uint8_t>;

Sort SortOf(const Event& event) {
  const bool access = event.kind == Kind::kRead || event.kind == Kind::kWrite;
  const uint8_t first = event.data.empty() ? 0 : std::to_integer<uint8_t>(event.data[0]);
  // Registers count each; but not every byte of a large region.
  return {event.kind, event.what, access && event.at < 0x100 ? event.at : 0, first};
}

std::vector<Seed> SessionSeeds(const Grammar& grammar) {
  std::vector<Seed> seeds;
  Store store;
  Session prologue{.flags = 0, .events = {}};
  grammar.AddPrologue(store, &prologue.events);
  seeds.push_back({"prologue", Encode(prologue)});
  std::set<Sort> seen;
  for (uint64_t seed = 0; seed < kTries && seeds.size() < kMaxSeeds; ++seed) {
    Random random(Mix64(seed));
    Making making{random, store};
    Session session{.flags = grammar.ready(), .events = {}};
    grammar.AddPiece(making, prologue.events, &session.events);
    bool is_new = false;
    for (const Event& event : session.events) is_new |= seen.insert(SortOf(event)).second;
    if (!is_new) continue;
    session.events.resize(std::min(session.events.size(), kMaxEvents));
    seeds.push_back({fmt::format("piece-{:04}", seed), Encode(session)});
  }
  return seeds;
}

}  // namespace

std::vector<Seed> SeedsOf(const TargetDef& def, const std::string& source) {
  if (def.grammar != nullptr) return SessionSeeds(def.grammar());
  return def.facts.seeds == nullptr ? std::vector<Seed>() : def.facts.seeds(source);
}

}  // namespace farside::fuzz
