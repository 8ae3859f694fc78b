#include "fuzz/session/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace farside::fuzz {
namespace {

using ::testing::HasSubstr;

Session SomeSession(Store& store) {
  Session session{.flags = 5, .events = {}};
  for (size_t i = 0; i < kKindCount; ++i) {
    const KindDef& def = Definition(static_cast<Kind>(i));
    Event event{.kind = def.kind};
    if (!def.what.empty()) event.what = 255;
    if (!def.size.empty()) event.size = 8;
    if (!def.at.empty()) event.at = UINT64_MAX;
    if (!def.value.empty()) event.value = i << 40;
    if (def.data) event.data = store.Add(i);
    session.events.push_back(event);
  }
  return session;
}

TEST(TextTest, EverythingComesBack) {
  Store store;
  const Session session = SomeSession(store);
  const auto read = ParseSession(FormatSession("nvme", session), store);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->target, "nvme");
  EXPECT_EQ(read->session.flags, session.flags);
  EXPECT_EQ(read->session.events, session.events);
}

TEST(TextTest, ANumberMayBeWrittenAsPeopleDo) {
  Store store;
  const auto read = ParseSession(
      R"({"target": "x", "flags": 0, "events": [
          {"write": {"region": 0, "offset": 20, "size": "4", "value": "0x460001"}}]})",
      store);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->session.events.at(0),
            (Event{.kind = Kind::kWrite, .size = 4, .at = 20, .value = 0x460001}));
}

TEST(TextTest, SaysWhatIsWrong) {
  Store store;
  const auto refuses = [&](const std::string& event, const char* what) {
    const auto read = ParseSession(
        R"({"target": "x", "flags": 0, "events": [{"reset": {}}, )" + event + "]}", store);
    ASSERT_FALSE(read) << event;
    EXPECT_THAT(read.error().message, HasSubstr("events[1]: "));
    EXPECT_THAT(read.error().message, HasSubstr(what));
  };
  refuses("5", "an object with one member");
  refuses("{}", "an object with one member");
  refuses(R"({"reset": {}, "fault": {}})", "one member");
  refuses(R"({"jump": {}})", "\"jump\"");
  refuses(R"({"reset": []})", "\"reset\"");
  refuses(R"({"reset": {"region": 1}})", "other members");
  refuses(R"({"read": {"region": 0, "size": 4}})", "\"offset\"");
  refuses(R"({"read": {"region": 256, "size": 4, "offset": 0}})", "\"region\"");
  refuses(R"({"read": {"region": 0, "size": 4, "offset": "-1"}})", "\"offset\"");
  refuses(R"({"read": {"region": 0, "size": 4, "offset": -1}})", "\"offset\"");
  refuses(R"({"read": {"region": 0, "size": 4, "offset": "0x1g"}})", "\"offset\"");
  refuses(R"({"read": {"region": 0, "size": 4, "offset": "99999999999999999999"}})", "\"offset\"");
  refuses(R"({"frame": {"fds": 0, "data": "abc"}})", "hexadecimal");
  refuses(R"({"frame": {"fds": 0, "data": "xy"}})", "digits");
  refuses(R"({"frame": {"fds": 0, "data": ")" + std::string(2 * kMaxData + 2, '0') + "\"}}",
          "4096");
}

TEST(TextTest, RefusesWhatIsNoSession) {
  Store store;
  for (const char* text :
       {"", "{", "[]", "{}", R"({"target": 1, "flags": 0, "events": []})",
        R"({"target": "x", "flags": -1, "events": []})",
        R"({"target": "x", "flags": 256, "events": []})",
        R"({"target": "x", "flags": 0, "events": {}})", R"({"flags": 0, "events": []})"}) {
    const auto read = ParseSession(text, store);
    ASSERT_FALSE(read) << text;
    EXPECT_FALSE(read.error().message.empty());
  }
  std::string many = R"({"target": "x", "flags": 0, "events": [{"reset": {}})";
  for (size_t i = 0; i < kMaxEvents; ++i) many += R"(,{"reset": {}})";
  const auto read = ParseSession(many + "]}", store);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message, HasSubstr("at most 512 events"));
}

}  // namespace
}  // namespace farside::fuzz
