#include "fuzz/mutator/mutator.h"

#include <algorithm>

namespace farside::fuzz {
namespace {

// A session below this many events grows more often than it is changed.
constexpr size_t kSmall = 12;
constexpr size_t kUsual = 96;  // Beyond it events are taken away more often.

class Mutation {
 public:
  Mutation(const Grammar& grammar, uint64_t seed) : grammar_(grammar), random_(Mix64(seed)) {}

  void Apply(Session& session) {
    const size_t size = session.events.size();
    if (size == 0) {
      session.flags = static_cast<uint8_t>(random_.Next()) & grammar_.flags();
      if (!random_.OneIn(8)) session.flags |= grammar_.ready();
    }
    if (random_.OneIn(30)) {
      session.flags ^= static_cast<uint8_t>(random_.Next() & grammar_.flags());
    }
    for (uint64_t i = 1 + random_.Below(random_.OneIn(4) ? 6 : 2); i != 0; --i) {
      const size_t now = session.events.size();
      if (now < kSmall ? !random_.OneIn(4) : random_.OneIn(3)) {
        Insert(session);
      } else if (now > kUsual && random_.OneIn(2)) {
        Delete(session);
      } else {
        Change(session);
      }
    }
    if (session.events.size() > kMaxEvents) session.events.resize(kMaxEvents);
  }

  Random& random() { return random_; }

 private:
  size_t Place(const Session& session) { return random_.Below(session.events.size() + 1); }

  void Insert(Session& session) {
    // Mostly behind all others: what the device is in then is known best.
    const size_t at = random_.OneIn(3) ? Place(session) : session.events.size();
    std::vector<Event> piece;
    grammar_.AddPiece(making_, std::span(session.events).first(at), &piece);
    session.events.insert(session.events.begin() + static_cast<ptrdiff_t>(at), piece.begin(),
                          piece.end());
  }

  void Delete(Session& session) {
    if (session.events.empty()) return;
    const size_t first = random_.Below(session.events.size());
    const size_t count = 1 + random_.Below(std::min<size_t>(session.events.size() - first, 8));
    const auto at = session.events.begin() + static_cast<ptrdiff_t>(first);
    session.events.erase(at, at + static_cast<ptrdiff_t>(count));
  }

  void Repeat(Session& session) {
    const size_t first = random_.Below(session.events.size());
    const size_t count = 1 + random_.Below(std::min<size_t>(session.events.size() - first, 8));
    const std::vector<Event> copy(session.events.begin() + static_cast<ptrdiff_t>(first),
                                  session.events.begin() + static_cast<ptrdiff_t>(first + count));
    const size_t times = random_.OneIn(6) ? 1 + random_.Below(16) : 1;
    const size_t to = Place(session);
    for (size_t i = 0; i < times; ++i) {
      session.events.insert(session.events.begin() + static_cast<ptrdiff_t>(to), copy.begin(),
                            copy.end());
    }
  }

  void Change(Session& session) {
    if (session.events.empty()) return Insert(session);
    switch (random_.Below(8)) {
      case 0:
        return Delete(session);
      case 1:
        return Repeat(session);
      case 2:
        std::swap(session.events[random_.Below(session.events.size())],
                  session.events[random_.Below(session.events.size())]);
        return;
      case 3:
        // The rest is forgotten.
        session.events.resize(1 + random_.Below(session.events.size()));
        return;
      default:
        return ChangeFields(session.events[random_.Below(session.events.size())]);
    }
  }

  void ChangeFields(Event& event) {
    const KindDef& def = Definition(event.kind);
    if (def.data && !event.data.empty() && !random_.OneIn(4)) return ChangeData(event);
    switch (random_.Below(4)) {
      case 0:
        if (!def.what.empty()) event.what = static_cast<uint8_t>(random_.Below(12));
        return;
      case 1:
        if (def.size == "size") {
          event.size = static_cast<uint8_t>(1u << random_.Below(4));
        } else {
          event.size = static_cast<uint8_t>(random_.Next());
        }
        return;
      case 2:
        event.at = random_.OneIn(4) ? making_.Number() : event.at + random_.Below(17) - 8;
        return;
      default:
        event.value = random_.OneIn(2)   ? making_.Number()
                      : random_.OneIn(2) ? event.value ^ (uint64_t{1} << random_.Below(32))
                                         : event.value + random_.Below(17) - 8;
    }
  }

  void ChangeData(Event& event) {
    size_t size = event.data.size();
    if (random_.OneIn(12)) size = random_.Below(2 * size + 1);
    const Bytes data = store_.Add(std::min(size, kMaxData));
    const size_t kept = std::min(data.size(), event.data.size());
    Copy(data.first(kept), event.data.first(kept));
    grammar_.MutateData(making_, event, data);
    event.data = data;
  }

  const Grammar& grammar_;
  Random random_;
  Store store_;
  Making making_{random_, store_};
};

// As many events as have room.
size_t Put(Session session, Bytes out) {
  std::vector<std::byte> bytes = Encode(session);
  while (bytes.size() > out.size() && !session.events.empty()) {
    session.events.resize(session.events.size() * 3 / 4);
    bytes = Encode(session);
  }
  if (bytes.size() > out.size()) return 0;
  Copy(out.first(bytes.size()), bytes);
  return bytes.size();
}

}  // namespace

size_t Mutate(const Grammar& grammar, Bytes data, size_t size, uint64_t seed) {
  const std::vector<std::byte> input(data.begin(), data.begin() + static_cast<ptrdiff_t>(size));
  Session session;
  Decode(input, &session);
  Mutation mutation(grammar, seed);
  mutation.Apply(session);
  const size_t made = Put(std::move(session), data);
  // Rarely, and on purpose, below the events.
  if (made != 0 && mutation.random().OneIn(64)) {
    data[mutation.random().Below(made)] ^= static_cast<std::byte>(mutation.random().Next());
  }
  return made;
}

size_t CrossOver(const Grammar&, ConstBytes a, ConstBytes b, Bytes out, uint64_t seed) {
  Random random(Mix64(seed));
  Session first;
  Session second;
  Decode(a, &first);
  Decode(b, &second);
  if (!first.events.empty()) first.events.resize(1 + random.Below(first.events.size()));
  if (!second.events.empty()) {
    const size_t from = random.Below(second.events.size());
    first.events.insert(first.events.end(), second.events.begin() + static_cast<ptrdiff_t>(from),
                        second.events.end());
  }
  if (first.events.size() > kMaxEvents) first.events.resize(kMaxEvents);
  return Put(std::move(first), out);
}

Session MakeUp(const Grammar& grammar, uint64_t seed, size_t events, Store& store) {
  Random random(Mix64(seed));
  Making making{random, store};
  Session session;
  session.flags = static_cast<uint8_t>(random.Next()) & grammar.flags();
  if (!random.OneIn(8)) session.flags |= grammar.ready();
  while (session.events.size() < events) {
    std::vector<Event> piece;
    grammar.AddPiece(making, session.events, &piece);
    session.events.insert(session.events.end(), piece.begin(), piece.end());
  }
  session.events.resize(std::min(events, kMaxEvents));
  return session;
}

}  // namespace farside::fuzz
