#include "block/graph.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "block/drivers.h"
#include "block/test_support.h"

namespace farside::block {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class GraphTest : public BlockTest {
 protected:
  // Adds a node; gives the error, or "".
  std::string Add(const json& options) {
    const auto added = graph_.Add(options, *loop_);
    return added ? "" : added.error().message;
  }
  std::string Claim(std::string_view name, std::string_view user) {
    const auto claimed = graph_.Claim(name, user);
    return claimed ? "" : claimed.error().message;
  }

  Graph graph_;
};

TEST_F(GraphTest, AddsNodesByName) {
  EXPECT_EQ(Add({{"driver", "memory"}, {"node-name", "m0"}, {"size", "1M"}}), "");
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "n0"}}), "");
  EXPECT_EQ(Add({{"driver", "generated"}, {"node-name", "g0"}, {"size", 4096}, {"seed", "0x7"}}),
            "");
  EXPECT_EQ(graph_.Find("m0")->size(), 1u << 20);
  EXPECT_EQ(graph_.Find("n0")->size(), 1u << 30);
  EXPECT_EQ(graph_.Find("g0")->size(), 4096u);
  EXPECT_EQ(graph_.Find("x"), nullptr);
}

TEST_F(GraphTest, SaysWhichNodeHasNoRoom) {
  const std::string error = Add({{"driver", "memory"}, {"node-name", "m0"}, {"size", "4E"}});
  EXPECT_THAT(error, HasSubstr("node 'm0': cannot"));
  EXPECT_EQ(graph_.Find("m0"), nullptr);
}

TEST_F(GraphTest, ANodeStandsOnAnotherByName) {
  EXPECT_EQ(Add({{"driver", "memory"}, {"node-name", "m0"}, {"size", "1M"}}), "");
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "r0"}, {"file", "m0"}}), "");
  const Buffer data = Buffer::Filled(512, 0xab);
  EXPECT_EQ(Write(*graph_.Find("r0"), 0, data), IoStatus{});
  EXPECT_EQ(Content(*graph_.Find("m0"), 0, 512), data);
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "r1"}, {"file", "m0"}}),
            "node 'r1': block node 'm0' is in use by node 'r0': add another with -blockdev");
}

TEST_F(GraphTest, ANodeStandsOnAnotherInsideItsOptions) {
  const std::string path = dir_.MakeFile("disk.img", 1 << 20);
  EXPECT_EQ(Add({{"driver", "raw"},
                 {"node-name", "d0"},
                 {"read-only", "on"},
                 {"cache", {{"direct", "on"}}},
                 {"file", {{"driver", "file"}, {"filename", path}}}}),
            "");
  ASSERT_NE(graph_.Find("d0.file"), nullptr);
  EXPECT_TRUE(graph_.Find("d0.file")->read_only()) << "taken over";
  EXPECT_GT(graph_.Find("d0.file")->limits().memory_alignment, 1u) << "taken over";
  EXPECT_TRUE(graph_.Find("d0")->read_only());
}

TEST_F(GraphTest, TheInnerNodeMaySayOtherwise) {
  const std::string path = dir_.MakeFile("disk.img", 1 << 20);
  EXPECT_EQ(Add({{"driver", "raw"},
                 {"node-name", "d0"},
                 {"read-only", true},
                 {"cache", {{"direct", true}}},
                 {"file",
                  {{"driver", "file"},
                   {"node-name", "f0"},
                   {"filename", path},
                   {"read-only", false},
                   {"cache", {{"direct", false}}}}}}),
            "");
  EXPECT_FALSE(graph_.Find("f0")->read_only());
  EXPECT_EQ(graph_.Find("f0")->limits().memory_alignment, 1u);
}

TEST_F(GraphTest, DiscardIsTheOuterNodesDecision) {
  const json inner = {{"driver", "memory"}, {"size", "1M"}};
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "a"}, {"discard", "unmap"}, {"file", inner}}),
            "");
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "b"}, {"file", inner}}), "");
  EXPECT_TRUE(graph_.Find("a")->limits().discard_zeroes);
  EXPECT_FALSE(graph_.Find("b")->limits().discard_zeroes);
}

TEST_F(GraphTest, SaysWhatIsWrong) {
  const std::string names = "it must be one of file, raw, null-co, memory, generated";
  EXPECT_EQ(Add({{"node-name", "d0"}}), "node 'd0': option 'driver' is missing: " + names);
  EXPECT_EQ(Add({{"node-name", "d0"}, {"driver", "floppy"}}),
            "node 'd0': option 'driver' is \"floppy\": " + names);
  EXPECT_EQ(Add({{"driver", "null-co"}}), "-blockdev: option 'node-name' is missing: add it");
  EXPECT_THAT(Add({{"driver", "null-co"}, {"node-name", "0d"}}), HasSubstr("use a letter, then"));
  EXPECT_THAT(Add({{"driver", "null-co"}, {"node-name", ""}}), HasSubstr("use a letter, then"));
  EXPECT_THAT(Add({{"driver", "null-co"}, {"node-name", 7}}), HasSubstr("use a letter, then"));
  EXPECT_THAT(Add({{"driver", "null-co"}, {"node-name", std::string(32, 'a')}}),
              HasSubstr("31 characters at most"));
  EXPECT_THAT(Add(json::array()), HasSubstr("not a JSON object"));
  EXPECT_EQ(Add({{"driver", "memory"}, {"node-name", "d0"}}),
            "node 'd0': option 'size' is missing: add it");
  EXPECT_THAT(Add({{"driver", "memory"}, {"node-name", "d0"}, {"size", 1000}}),
              HasSubstr("node 'd0': option 'size' is 1000: it must be a multiple of 512"));
  EXPECT_THAT(Add({{"driver", "memory"}, {"node-name", "d0"}, {"size", "8E"}}),
              HasSubstr("at most 4E"));
  EXPECT_THAT(Add({{"driver", "null-co"}, {"node-name", "d0"}, {"discard", "on"}}),
              HasSubstr("option 'discard' is \"on\": it must be one of ignore, unmap"));
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "d0"}, {"sise", 1}}),
            "node 'd0': there is no option \"sise\": use one of driver, node-name, read-only, "
            "discard, size, read-zeroes");
  EXPECT_THAT(Add({{"driver", "file"}, {"node-name", "d0"}, {"filename", dir_.Path("absent")}}),
              ::testing::StartsWith("node 'd0': cannot open '"));
  EXPECT_THAT(Add({{"driver", "file"}, {"node-name", "d0"}, {"filename", "x"}, {"aio", "native"}}),
              HasSubstr("it must be one of io_uring, threads"));
}

TEST_F(GraphTest, SaysWhatIsWrongWithAFileOption) {
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "d0"}}),
            "node 'd0': option 'file' is missing: give a node-name or another node's options");
  EXPECT_THAT(Add({{"driver", "raw"}, {"node-name", "d0"}, {"filename", "x"}}),
              HasSubstr("there is no option \"filename\""));
  EXPECT_THAT(Add({{"driver", "raw"}, {"node-name", "d0"}, {"file", 7}}),
              HasSubstr("option 'file' must be a node-name or another node's options"));
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "d0"}, {"file", "x"}}),
            "node 'd0': there is no block node \"x\": add it with -blockdev first");
  EXPECT_EQ(Add({{"driver", "raw"}, {"node-name", "d0"}, {"file", {{"driver", "memory"}}}}),
            "node 'd0.file': option 'size' is missing: add it");
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "n0"}}), "");
  EXPECT_EQ(
      Add({{"driver", "raw"}, {"node-name", "d0"}, {"file", "x"}}),
      "node 'd0': there is no block node \"x\": use one of n0, or add it with -blockdev first");
  json deep = {{"driver", "null-co"}};
  for (int i = 0; i < 20; ++i) deep = {{"driver", "raw"}, {"file", deep}};
  deep["node-name"] = "d0";
  EXPECT_THAT(Add(deep), HasSubstr("nest deeper than 16"));
}

TEST_F(GraphTest, NodeNamesAreUnique) {
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "d0"}}), "");
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "d0"}}),
            "there is a block node 'd0' already: use another node-name");
  EXPECT_THAT(Add({{"driver", "raw"},
                   {"node-name", "d1"},
                   {"file", {{"driver", "null-co"}, {"node-name", "d1"}}}}),
              HasSubstr("'d1'"));
}

TEST_F(GraphTest, WhatFailsLeavesNothingBehind) {
  EXPECT_EQ(Add({{"driver", "memory"}, {"node-name", "m0"}, {"size", "1M"}}), "");
  // The inner raw node takes m0; the outer one's window is wrong.
  EXPECT_NE(Add({{"driver", "raw"},
                 {"node-name", "outer"},
                 {"size", "2M"},
                 {"file", {{"driver", "raw"}, {"node-name", "inner"}, {"file", "m0"}}}}),
            "");
  EXPECT_EQ(graph_.Find("outer"), nullptr);
  EXPECT_EQ(graph_.Find("inner"), nullptr);
  EXPECT_EQ(Claim("m0", "device 'nvme0'"), "") << "free again";
}

TEST_F(GraphTest, ANodeHasOneUser) {
  EXPECT_THAT(Claim("d0", "device 'nvme0'"), HasSubstr("there is no block node \"d0\""));
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "d0"}}), "");
  EXPECT_EQ(*graph_.Claim("d0", "device 'nvme0'"), graph_.Find("d0"));
  EXPECT_EQ(Claim("d0", "device 'nvme1'"),
            "block node 'd0' is in use by device 'nvme0': add another with -blockdev");
  EXPECT_THAT(Add({{"driver", "raw"}, {"node-name", "r0"}, {"file", "d0"}}),
              HasSubstr("in use by device 'nvme0'"));
}

TEST_F(GraphTest, NodesOnDifferentLoopsDoNotMeet) {
  const auto other = std::move(*EpollLoop::Create(clock_));
  EXPECT_EQ(Add({{"driver", "null-co"}, {"node-name", "n0"}}), "");
  const auto added = graph_.Add({{"driver", "raw"}, {"node-name", "r0"}, {"file", "n0"}}, *other);
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().message, HasSubstr("lives on another iothread"));
}

TEST_F(GraphTest, FlushesAllNodes) {
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(Add({{"driver", "raw"},
                   {"node-name", name},
                   {"file", {{"driver", "file"}, {"filename", dir_.MakeFile(name, 1 << 20)}}}}),
              "");
    EXPECT_EQ(Write(*graph_.Find(name), 0, Buffer::Filled(4096, 1)), IoStatus{});
  }
  EXPECT_EQ(Await(graph_.FlushAll()), IoStatus{});
  EXPECT_EQ(graph_.in_flight(), 0u);
}

// The table's options are what the open functions ask for.
TEST_F(GraphTest, HelpNamesEveryOptionThatIsTaken) {
  for (const Driver& driver : Drivers()) {
    std::string allowed;
    for (const auto options : {CommonOptions(), driver.options}) {
      for (const OptionHelp& option : options) {
        allowed += allowed.empty() ? "" : ", ";
        allowed += option.name;
      }
    }
    EXPECT_EQ(Add({{"driver", driver.name}, {"node-name", "d0"}, {"no-such-thing", 1}}),
              "node 'd0': there is no option \"no-such-thing\": use one of " + allowed);
    EXPECT_THAT(DriverHelp(), HasSubstr(fmt::format("{}: {}\n", driver.name, driver.help)));
    EXPECT_THAT(DriverHelp(driver.name), HasSubstr("node-name"));
  }
}

}  // namespace
}  // namespace farside::block
