#include "protocol/capabilities.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/vfio_user_codec.h"

namespace farside::vfio_user {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kQemu =
    R"({"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, )"
    R"("max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, )"
    R"("pgsize": 4096}, "write_multiple": true}})";
constexpr std::string_view kCloudHypervisor =
    R"({"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,)"
    R"("migration":{"pgsize":4096}}})";

// All that a server of ours can do.
Capabilities Everything() {
  Capabilities all;
  all.max_msg_fds = 16;
  all.max_data_xfer_size = kDefaultMaxDataXferSize;
  all.max_dma_maps = kDefaultMaxDmaMaps;
  all.pgsizes = 4096;
  all.write_multiple = true;
  all.migration = {.pgsize = 4096, .max_bitmap_size = 1 << 28};
  all.twin_socket = {.supported = true, .fd_index = 0};
  return all;
}

TEST(CapabilitiesTest, ReadsQemus) {
  const auto caps = ParseCapabilities(kQemu).value();
  EXPECT_EQ(caps.pgsizes, 4096u);
  EXPECT_EQ(caps.max_msg_fds, 16u);
  EXPECT_EQ(caps.max_dma_maps, 65535u);
  EXPECT_EQ(caps.max_data_xfer_size, 1048576u);
  ASSERT_TRUE(caps.migration);
  EXPECT_EQ(caps.migration->pgsize, 4096u);
  EXPECT_EQ(caps.migration->max_bitmap_size, 268435456u);
  EXPECT_EQ(caps.write_multiple, true);
  EXPECT_FALSE(caps.twin_socket);
}

TEST(CapabilitiesTest, ReadsCloudHypervisors) {
  const auto caps = ParseCapabilities(kCloudHypervisor).value();
  EXPECT_EQ(caps.max_msg_fds, 1u);
  EXPECT_EQ(caps.max_data_xfer_size, 1048576u);
  ASSERT_TRUE(caps.migration);
  EXPECT_FALSE(caps.migration->max_bitmap_size);
  EXPECT_FALSE(caps.write_multiple);
}

TEST(CapabilitiesTest, TakesSpdksSilenceForNone) {
  const auto caps = ParseCapabilities("").value();
  EXPECT_FALSE(caps.max_msg_fds);
  EXPECT_FALSE(caps.max_data_xfer_size);
  EXPECT_FALSE(caps.migration);
}

TEST(CapabilitiesTest, ReadsLibvfioUsers) {
  const auto caps =
      ParseCapabilities(R"({ "capabilities": { "max_msg_fds": 8, "max_data_xfer_size": 1048576, )"
                        R"("twin_socket": { "supported": true, "fd_index": 0 } } })")
          .value();
  EXPECT_EQ(caps.max_msg_fds, 8u);
  ASSERT_TRUE(caps.twin_socket);
  EXPECT_TRUE(caps.twin_socket->supported);
  EXPECT_EQ(caps.twin_socket->fd_index, 0u);
}

TEST(CapabilitiesTest, SkipsWhatItDoesNotKnow) {
  EXPECT_TRUE(ParseCapabilities("{}"));
  EXPECT_TRUE(ParseCapabilities(R"({"capabilities":{}})"));
  const auto caps =
      ParseCapabilities(R"({"x":[1],"capabilities":{"future":{"a":[[1]]},"pgsizes":8192}})");
  ASSERT_TRUE(caps) << caps.error().message;
  EXPECT_EQ(caps->pgsizes, 8192u);
}

TEST(CapabilitiesTest, RefusesBrokenJson) {
  const std::string deep = std::string(500'000, '[');
  const std::string deep_object = [] {
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += R"({"a":)";
    return text;
  }();
  const std::string deep_and_closed =
      R"({"capabilities":)" + std::string(1000, '[') + std::string(1000, ']') + "}";
  for (const std::string_view text :
       {std::string_view(deep), std::string_view(deep_object), std::string_view(deep_and_closed),
        std::string_view("{"), std::string_view("null"), std::string_view("[]"),
        std::string_view("17"), std::string_view(R"({"capabilities":{})"),
        std::string_view(R"({"capabilities":{}}x)"), std::string_view("\"\xff\xfe\""),
        std::string_view("{\"\xff\":1}"), std::string_view(" ")}) {
    const auto caps = ParseCapabilities(text);
    ASSERT_FALSE(caps) << text.substr(0, 40);
    EXPECT_EQ(caps.error().code, EINVAL);
  }
}

TEST(CapabilitiesTest, RefusesWrongTypesAndNamesTheKey) {
  const struct {
    std::string_view key;
    std::string_view value;
  } cases[] = {
      {"max_msg_fds", "-1"},
      {"max_msg_fds", "1.5"},
      {"max_msg_fds", "\"1\""},
      {"max_msg_fds", "18446744073709551616"},
      {"max_data_xfer_size", "0"},
      {"max_data_xfer_size", "1e300"},
      {"max_data_xfer_size", "1e999"},
      {"max_data_xfer_size", "null"},
      {"max_dma_maps", "true"},
      {"pgsizes", "[]"},
      {"write_multiple", "1"},
      {"migration", "4096"},
      {"migration", R"({"pgsize":"4096"})"},
      {"migration", R"({"max_bitmap_size":-5})"},
      {"twin_socket", "true"},
      {"twin_socket", R"({"supported":1})"},
      {"twin_socket", R"({"supported":true,"fd_index":4294967296})"},
      {"farside", "true"},
      {"farside", R"({"clock":1})"},
      {"farside", R"({"device":7})"},
  };
  for (const auto& [key, value] : cases) {
    const auto caps =
        ParseCapabilities(fmt::format(R"({{"capabilities":{{"{}":{}}}}})", key, value));
    ASSERT_FALSE(caps) << key << " " << value;
    // A number beyond every type is no JSON to the parser: the sentence can't name its key.
    if (value == "1e999") continue;
    EXPECT_THAT(caps.error().message, HasSubstr(key)) << value;
  }
  EXPECT_FALSE(ParseCapabilities(R"({"capabilities":[]})"));
}

TEST(CapabilitiesTest, FormatsWhatItReads) {
  const std::string text = FormatCapabilities(Everything());
  EXPECT_THAT(text, Not(HasSubstr(" ")));
  const auto again = ParseCapabilities(text).value();
  EXPECT_EQ(FormatCapabilities(again), text);
  EXPECT_EQ(again.twin_socket->fd_index, 0u);
  EXPECT_EQ(FormatCapabilities({}), R"({"capabilities":{}})");
}

TEST(CapabilitiesTest, RepliesNoLongerThanQemusRequest) {
  const auto reply = FormatCapabilities(Negotiate(Everything(), ParseCapabilities(kQemu).value()));
  EXPECT_LE(reply.size(), kQemu.size());
}

TEST(CapabilitiesTest, RepliesNothingThatWasNotOffered) {
  const auto to_nobody = Negotiate(Everything(), {});
  EXPECT_EQ(FormatCapabilities(to_nobody), R"({"capabilities":{}})");

  const auto to_cloud_hypervisor =
      Negotiate(Everything(), ParseCapabilities(kCloudHypervisor).value());
  EXPECT_EQ(FormatCapabilities(to_cloud_hypervisor),
            R"({"capabilities":{"max_data_xfer_size":1048576,"max_msg_fds":16,)"
            R"("migration":{"pgsize":4096}}})");
}

TEST(CapabilitiesTest, TellsTheDevicesIdToWhoAsksForOne) {
  Capabilities server;
  server.farside.emplace().device = "nvme0";
  const auto asks = ParseCapabilities(R"({"capabilities":{"farside":{"device":"disk"}}})").value();
  EXPECT_EQ(asks.farside->device, "disk");
  EXPECT_EQ(Negotiate(server, asks).farside->device, "nvme0");
  const auto other = ParseCapabilities(R"({"capabilities":{"farside":{"clock":true}}})").value();
  EXPECT_FALSE(Negotiate(server, other).farside->device);
}

TEST(CapabilitiesTest, NegotiatesTheSmallerOfBoth) {
  Capabilities client = Everything();
  client.max_data_xfer_size = 4096;
  client.max_dma_maps = 1'000'000;
  client.migration->max_bitmap_size = 1 << 20;
  client.write_multiple = false;
  client.twin_socket->supported = false;
  const auto both = Negotiate(Everything(), client);
  EXPECT_EQ(both.max_data_xfer_size, 4096u);
  EXPECT_EQ(both.max_dma_maps, kDefaultMaxDmaMaps);
  EXPECT_EQ(both.migration->max_bitmap_size, 1u << 20);
  EXPECT_FALSE(both.write_multiple);
  EXPECT_FALSE(both.twin_socket);
}

}  // namespace
}  // namespace farside::vfio_user
