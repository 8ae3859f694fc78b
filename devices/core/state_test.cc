#include "devices/core/state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace farside {
namespace {

using testing::HasSubstr;
using State = std::vector<std::byte>;

State TwoSections() {
  StateWriter writer;
  writer.Section("clock", 2);
  writer.Put(uint64_t{0x1122334455667788});
  writer.Section("fifo", 1, SectionKind::kOptional);
  writer.Put(uint8_t{3});
  writer.PutBytes(std::as_bytes(std::span("abc", 3)));
  return writer.Finish();
}

State Raw(std::string_view bytes) {
  const auto span = std::as_bytes(std::span(bytes));
  return {span.begin(), span.end()};
}

constexpr std::string_view kHeader{"FARSTATE\x01\x00\x00\x00", 12};

std::string ParseError(const State& state) {
  const auto reader = StateReader::Parse(state);
  return reader ? "parsed" : reader.error().message;
}

TEST(StateTest, TheBytesAreThoseOfTheFormatDocument) {
  StateWriter writer;
  writer.Section("pci", 0x0203);
  writer.Put(uint16_t{0xbeef});
  writer.Section("x", 1, SectionKind::kOptional);
  EXPECT_EQ(writer.Finish(), Raw({"FARSTATE\x01\x00\x00\x00"
                                  "\x03pci\x00\x03\x02\x02\x00\x00\x00\xef\xbe"
                                  "\x01x\x01\x01\x00\x00\x00\x00\x00",
                                  34}));
}

TEST(StateTest, AReaderGetsBackWhatWasPutInWhateverOrderItAsks) {
  const State state = TwoSections();
  auto reader = StateReader::Parse(state);
  ASSERT_TRUE(reader) << reader.error().message;

  EXPECT_EQ(reader->Section("fifo", 1), 1);
  EXPECT_EQ(reader->Get<uint8_t>(), 3);
  EXPECT_EQ(reader->remaining(), 3u);
  std::array<char, 3> text{};
  reader->GetBytes(std::as_writable_bytes(std::span(text)));
  EXPECT_EQ(std::string_view(text.data(), 3), "abc");

  EXPECT_EQ(reader->Section("clock", 3), 2);
  EXPECT_EQ(reader->Get<uint64_t>(), 0x1122334455667788u);
  EXPECT_EQ(reader->remaining(), 0u);
  EXPECT_TRUE(reader->Finish());
}

TEST(StateTest, AnEmptyStateIsLawfulAndHasNoSections) {
  StateWriter writer;
  const State state = writer.Finish();
  auto reader = StateReader::Parse(state);
  ASSERT_TRUE(reader);
  EXPECT_TRUE(reader->Finish());
  EXPECT_FALSE(reader->Section("pci", 1));
}

TEST(StateTest, ASectionThatIsAbsentOrTooNewIsRefusedByName) {
  const State state = TwoSections();
  auto reader = StateReader::Parse(state);
  const auto absent = reader->Section("dma", 1);
  ASSERT_FALSE(absent);
  EXPECT_THAT(absent.error().message, HasSubstr("'dma'"));
  const auto newer = reader->Section("clock", 1);
  ASSERT_FALSE(newer);
  EXPECT_THAT(newer.error().message, HasSubstr("'clock' has version 2"));
}

TEST(StateTest, ReadingPastASectionGivesZeroesAndFinishNamesIt) {
  const State state = TwoSections();
  auto reader = StateReader::Parse(state);
  ASSERT_TRUE(reader->Section("fifo", 1));
  EXPECT_EQ(reader->Get<uint64_t>(), 0u);
  EXPECT_EQ(reader->Get<uint8_t>(), 0u) << "nothing is left after an overrun";
  ASSERT_TRUE(reader->Section("clock", 2));
  EXPECT_EQ(reader->Get<uint64_t>(), 0x1122334455667788u);
  const auto finished = reader->Finish();
  ASSERT_FALSE(finished);
  EXPECT_THAT(finished.error().message, HasSubstr("'fifo'"));
}

TEST(StateTest, AnUnknownRequiredSectionIsRefusedAndAnOptionalOneSkipped) {
  const State state = TwoSections();
  auto knows_clock = StateReader::Parse(state);
  ASSERT_TRUE(knows_clock->Section("clock", 2));
  EXPECT_TRUE(knows_clock->Finish());

  auto knows_fifo = StateReader::Parse(state);
  ASSERT_TRUE(knows_fifo->Section("fifo", 1));
  const auto finished = knows_fifo->Finish();
  ASSERT_FALSE(finished);
  EXPECT_THAT(finished.error().message, HasSubstr("clock"));
}

TEST(StateTest, WhatIsNoStateIsRefusedWithASentence) {
  EXPECT_THAT(ParseError({}), HasSubstr("does not start with FARSTATE"));
  EXPECT_THAT(ParseError(Raw("FARSTATE")), HasSubstr("does not start with FARSTATE"));
  EXPECT_THAT(ParseError(Raw({"FARSTATF\x01\x00\x00\x00", 12})), HasSubstr("FARSTATE"));
  EXPECT_THAT(ParseError(Raw({"FARSTATE\x02\x00\x00\x00", 12})), HasSubstr("format version 2"));
  EXPECT_THAT(ParseError(Raw({"FARSTATE\x01\x00\x00\x01", 12})), HasSubstr("reserved"));
}

TEST(StateTest, MalformedSectionsAreRefused) {
  const auto with = [](std::string_view sections) {
    return ParseError(Raw(std::string(kHeader) + std::string(sections)));
  };
  constexpr std::string_view kOne{"\x01x\x00\x01\x00\x00\x00\x00\x00", 9};
  EXPECT_EQ(with(kOne), "parsed");
  EXPECT_THAT(with(std::string(kOne) + std::string(kOne)), HasSubstr("repeated"));
  EXPECT_THAT(with({"\x00\x00\x01\x00\x00\x00\x00\x00", 8}), HasSubstr("malformed"));
  EXPECT_THAT(with({"\x01x\x02\x01\x00\x00\x00\x00\x00", 9}), HasSubstr("malformed"));
  EXPECT_THAT(with({"\x01x\x00\x01\x00\x01\x00\x00\x00", 9}), HasSubstr("cut short"));
  EXPECT_THAT(with({"\x01x\x00\x01\x00\xff\xff\xff\xff", 9}), HasSubstr("cut short"));
  EXPECT_THAT(with({"\xff", 1}), HasSubstr("cut short"));
}

TEST(StateTest, MoreSectionsThanAnyDeviceHasAreRefused) {
  StateWriter writer;
  for (int i = 0; i < 256; ++i) writer.Section("section " + std::to_string(i), 1);
  EXPECT_EQ(ParseError(writer.Finish()), "parsed");
  StateWriter more;
  for (int i = 0; i < 257; ++i) more.Section("section " + std::to_string(i), 1);
  EXPECT_THAT(ParseError(more.Finish()), HasSubstr("one too many"));
}

TEST(StateTest, NoPrefixOfAStateParsesButThoseThatEndBetweenSections) {
  const State state = TwoSections();
  const size_t first_end = 12 + 1 + 5 + 7 + 8;
  for (size_t size = 0; size < state.size(); ++size) {
    const bool lawful = size == 12 || size == first_end;
    const State prefix(state.begin(), state.begin() + static_cast<ptrdiff_t>(size));
    EXPECT_EQ(ParseError(prefix) == "parsed", lawful) << size << " bytes";
  }
}

TEST(StateTest, ANameOfControlCharactersDoesNotReachTheLogAsItIs) {
  const std::string name = "\n\x1b[31m";
  StateWriter writer;
  writer.Section(name, 1);
  const State state = writer.Finish();
  const auto finished = StateReader::Parse(state)->Finish();
  ASSERT_FALSE(finished);
  EXPECT_THAT(finished.error().message, testing::Not(HasSubstr(name)));
}

}  // namespace
}  // namespace farside
