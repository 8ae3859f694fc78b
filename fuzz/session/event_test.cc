#include "fuzz/session/event.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace farside::fuzz {
namespace {

std::vector<std::byte> RandomBytes(uint64_t seed, size_t size) {
  Random random(Mix64(seed));
  std::vector<std::byte> out(size);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random.Next());
  return out;
}

// One event of each kind, with all that its kind has.
Session OneOfEach(Store& store) {
  Session session{.flags = kByMessage | kReady, .events = {}};
  for (size_t i = 0; i < kKindCount; ++i) {
    const KindDef& def = Definition(static_cast<Kind>(i));
    Event event{.kind = def.kind};
    if (!def.what.empty()) event.what = static_cast<uint8_t>(200 + i);
    if (!def.size.empty()) event.size = static_cast<uint8_t>(i + 1);
    if (!def.at.empty()) event.at = ~uint64_t{0} >> i;
    if (!def.value.empty()) event.value = uint64_t{1} << (3 * i % 64);
    if (def.data) event.data = store.Add(RandomBytes(i, i * 7));
    session.events.push_back(event);
  }
  return session;
}

TEST(EventTest, EverythingComesBack) {
  Store store;
  const Session session = OneOfEach(store);
  const auto bytes = Encode(session);
  Session decoded;
  Decode(bytes, &decoded);
  EXPECT_EQ(decoded.flags, session.flags);
  EXPECT_EQ(decoded.events, session.events);
}

TEST(EventTest, WhatBytesSayIsSaidAgain) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const auto input = RandomBytes(seed, seed % 700);
    Session first;
    Decode(input, &first);
    const auto encoded = Encode(first);
    Session second;
    Decode(encoded, &second);
    ASSERT_EQ(first.flags, second.flags) << "seed " << seed;
    ASSERT_EQ(first.events, second.events) << "seed " << seed;
  }
}

TEST(EventTest, APrefixOfAnInputHasAPrefixOfItsEvents) {
  Store store;
  const auto bytes = Encode(OneOfEach(store));
  Session whole;
  Decode(bytes, &whole);
  for (size_t size = 0; size <= bytes.size(); ++size) {
    Session part;
    Decode(ConstBytes(bytes).first(size), &part);
    ASSERT_LE(part.events.size(), whole.events.size());
    for (size_t i = 0; i < part.events.size(); ++i) {
      ASSERT_EQ(part.events[i], whole.events[i]) << "event " << i << " of " << size << " bytes";
    }
  }
}

TEST(EventTest, NothingIsASessionToo) {
  Session session{.flags = 3, .events = {Event{}}};
  Decode({}, &session);
  EXPECT_EQ(session.flags, 0);
  EXPECT_TRUE(session.events.empty());
}

TEST(EventTest, LeavesOutWhatIsTooMuch) {
  Session many{.flags = 0, .events = std::vector<Event>(kMaxEvents + 9, {.kind = Kind::kReset})};
  Session decoded;
  const auto bytes = Encode(many);
  Decode(bytes, &decoded);
  EXPECT_EQ(decoded.events.size(), kMaxEvents);

  Store store;
  const Session large{.flags = 0,
                      .events = {{.kind = Kind::kFrame, .data = store.Add(kMaxData + 100)}}};
  const auto encoded = Encode(large);
  Decode(encoded, &decoded);
  ASSERT_EQ(decoded.events.size(), 1u);
  EXPECT_EQ(decoded.events[0].data.size(), kMaxData);

  const std::vector<std::byte> endless(kMaxInput + 4096, std::byte{0xff});
  Decode(endless, &decoded);
  EXPECT_LE(decoded.events.size(), kMaxEvents);
}

}  // namespace
}  // namespace farside::fuzz
