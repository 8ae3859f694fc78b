// What the targets' tests share.
#pragma once

#include <algorithm>
#include <vector>

#include "fuzz/mutator/grammar.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// A made-up session of so many events.
inline std::vector<std::byte> MadeUp(const Grammar& grammar, uint64_t seed, size_t events) {
  Random random(Mix64(seed));
  Store store;
  Making making{random, store};
  Session session;
  session.flags = static_cast<uint8_t>(random.Next()) & grammar.flags();
  if (!random.OneIn(8)) session.flags |= grammar.ready();
  while (session.events.size() < events) {
    std::vector<Event> piece;
    grammar.AddPiece(making, session.events, &piece);
    session.events.insert(session.events.end(), piece.begin(), piece.end());
  }
  session.events.resize(events);
  return Encode(session);
}

}  // namespace farside::fuzz
