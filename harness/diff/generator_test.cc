#include "harness/diff/generator.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "devices/core/pci_registers.h"
#include "devices/lsi53c895a/registers.h"
#include "devices/nvme/registers.h"
#include "harness/diff/event_list.h"
#include "harness/diff/lsi_workload.h"
#include "harness/diff/nvme_workload.h"

namespace farside::diff {
namespace {

using Kind = Event::Kind;

std::vector<Event> Generate(uint64_t seed, size_t count) {
  Generator generator(NvmeModel(), seed);
  std::vector<Event> events;
  while (events.size() < count) events.push_back(generator.Next());
  return events;
}

TEST(GeneratorTest, TheSameSeedGivesTheSameEvents) {
  EXPECT_EQ(Generate(7, 5000), Generate(7, 5000));
  EXPECT_NE(Generate(7, 100), Generate(8, 100));
}

TEST(GeneratorTest, AccessesStayInsideAndAreLawfulOverMpqemu) {
  for (const Event& event : Generate(1, 50'000)) {
    if (!event.is_access()) continue;
    EXPECT_TRUE(event.size == 1 || event.size == 2 || event.size == 4 || event.size == 8);
    if (event.region == kConfigRegion) {
      EXPECT_LE(event.size, 4u);
      EXPECT_LE(event.offset + event.size, 0x40u);
    } else {
      EXPECT_EQ(event.region, nvme::kRegisterBar);
      EXPECT_LE(event.offset + event.size, nvme::kRegisterBarSize);
    }
  }
}

TEST(GeneratorTest, BarsStayAndAreDecoded) {
  for (const Event& event : Generate(2, 50'000)) {
    if (event.kind != Kind::kWrite || event.region != kConfigRegion) continue;
    EXPECT_FALSE(event.Touches(kConfigRegion, pci::kBar0, 6 * 4));
    EXPECT_FALSE(event.Touches(kConfigRegion, pci::kRomAddress, 4));
    if (!event.Touches(kConfigRegion, pci::kCommand, 1)) continue;
    EXPECT_EQ(event.offset, pci::kCommand);
    constexpr uint64_t kDecode = pci::kCommandIo | pci::kCommandMemory | pci::kCommandBusMaster;
    EXPECT_EQ(event.value & kDecode, kDecode);
  }
}

TEST(GeneratorTest, EveryRegisterIsReadAndWritten) {
  std::set<std::pair<Kind, uint64_t>> seen;
  for (const Event& event : Generate(3, 20'000)) {
    if (event.is_access() && event.region == nvme::kRegisterBar) {
      seen.insert({event.kind, event.offset});
    }
  }
  for (const RegisterDef& row : nvme::kRegisters) {
    EXPECT_TRUE(seen.contains({Kind::kRead, row.offset})) << row.name;
    EXPECT_TRUE(seen.contains({Kind::kWrite, row.offset})) << row.name;
  }
}

// Scripts start at nothing but a script, and no timer runs.
TEST(GeneratorTest, ScriptsStartWhereTheyWerePut) {
  Generator generator(LsiModel(), 4);
  uint64_t starts = 0;
  for (int i = 0; i < 50'000; ++i) {
    const Event event = generator.Next();
    if (event.kind != Kind::kWrite || event.region > lsi53c895a::kMemoryBar) continue;
    const uint64_t at = event.offset % lsi53c895a::kRegisterSize;
    const auto touches = [&](lsi53c895a::Reg reg) {
      const uint64_t offset = lsi53c895a::OffsetOf(reg);
      return at < offset + lsi53c895a::kRegisters[reg].width && offset < at + event.size;
    };
    EXPECT_FALSE(touches(lsi53c895a::kStime0) || touches(lsi53c895a::kStime1));
    if (!touches(lsi53c895a::kDsp)) continue;
    ++starts;
    EXPECT_TRUE(event.value == lsi_memory::kScripts || event.value == lsi_memory::kRamOnBus);
  }
  EXPECT_GT(starts, 1000u);
}

TEST(GeneratorTest, EventsComeBackFromTheirFile) {
  const std::string path = testing::TempDir() + "/events.json";
  EventList list;
  list.device = "nvme";
  list.seed = UINT64_MAX;
  list.memory = {NvmeModel().memory().begin(), NvmeModel().memory().end()};
  list.events = Generate(5, 3000);
  ASSERT_TRUE(WriteEventList(path, list));
  const auto back = ReadEventList(path, 0);
  std::remove(path.c_str());
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->device, "nvme");
  EXPECT_EQ(back->seed, UINT64_MAX);
  ASSERT_EQ(back->memory.size(), 1u);
  EXPECT_EQ(back->memory[0].iova, nvme_memory::kBase);
  EXPECT_EQ(back->events, list.events);
}

TEST(EventTest, WrongEventsAreRefusedWithTheirField) {
  const auto error = [](const nlohmann::json& event) {
    const auto read = FromJson(event);
    return read ? "no error" : read.error().message;
  };
  EXPECT_NE(error({{"bar.peek", {{"offset", 0}}}}).find("there is no event"), std::string::npos);
  EXPECT_NE(error({{"bar.read", {{"size", 9}}}}).find("size"), std::string::npos);
  EXPECT_NE(error({{"bar.read", {{"of", 9}}}}).find("of"), std::string::npos);
  EXPECT_NE(error({{"memory.write", {{"iova", 0}, {"data", "0"}}}}).find("memory.write"),
            std::string::npos);
  EXPECT_NE(error({{"reset", nlohmann::json::object()}, {"settle", nlohmann::json::object()}})
                .find("one verb"),
            std::string::npos);
}

}  // namespace
}  // namespace farside::diff
