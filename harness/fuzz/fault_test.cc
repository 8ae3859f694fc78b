// Reports as the programs print them, cut short.
#include "harness/fuzz/fault.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace farside::campaign {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::string_view kAsan = R"(   0 {"write":{"offset":"0x14"}}  BAR0 CC
       = 0x12
  17 {"answer":{"data":"0600"}}
=================================================================
==12==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010 at pc 0x1 bp 0x2 sp 0x3
READ of size 8 at 0x602000000010 thread T0
    #0 0x55d in __asan_memcpy (/x/bin/fuzz_nvme+0x123) (BuildId: 00)
    #1 0x55d in farside::Copy(std::span<std::byte, 18446744073709551615ul>, int) /x/base/bytes.h:12:3
    #2 0x55d in farside::nvme::(anonymous namespace)::Sq::Fetch(unsigned int) (.actor) /x/devices/nvme/sq.cc:9
    #3 0x55d in void farside::nvme::Each<farside::nvme::Sq>(int) /x/devices/nvme/sq.cc:1:2
    #4 0x55d in farside::Loop::RunReady(unsigned long) /x/base/loop.cc:1:2
freed by thread T0 here:
    #0 0x55d in operator delete(void*) (/x/bin/fuzz_nvme+0x1)
    #1 0x55d in farside::nvme::Other() /x/devices/nvme/sq.cc:2:2
SUMMARY: AddressSanitizer: heap-use-after-free /x/base/bytes.h:12:3 in farside::Copy
)";

TEST(ParseReport, TakesKindFramesAndLastEventOfAddressSanitizer) {
  const auto fault = ParseReport(kAsan);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, "heap-use-after-free");
  EXPECT_THAT(fault->frames, ElementsAre("Copy", "nvme::Sq::Fetch", "nvme::Each"));
  EXPECT_EQ(fault->last_event, "answer");
  EXPECT_TRUE(fault->Identity().starts_with("heap-use-after-free-")) << fault->Identity();
}

TEST(ParseReport, ComparesOffsetsWhereThereAreNoNames) {
  const auto fault = ParseReport(
      "==1==ERROR: AddressSanitizer: SEGV on unknown address 0x0 (pc 0x5 bp 0x1 sp 0x2 T0)\n"
      "    #0 0x7f01  (/lib/x86_64-linux-gnu/libc.so.6+0x1234) (BuildId: 1)\n"
      "    #1 0x5501  (/x/bin/farside-fuzz+0xabc0) (BuildId: 2)\n"
      "    #2 0x5502  (/x/bin/farside-fuzz+0xdef0)\n");
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, "SEGV");
  EXPECT_THAT(fault->frames, ElementsAre("+0xabc0", "+0xdef0"));
}

TEST(ParseReport, AnOracleIsMoreThanTheAbortBehindIt) {
  const auto fault = ParseReport(
      "   3 {\"reset\":{}}\n"
      "farside-fuzz: ORACLE read-only: CC reads 0x1: bits 0x1 are not a driver's to write\n"
      "==1==ERROR: AddressSanitizer: ABRT on unknown address 0x1 (pc 0x1 bp 0x2 sp 0x3 T0)\n"
      "    #0 0x1 in raise (/lib/libc.so.6+0x1)\n"
      "    #1 0x1 in farside::fuzz::Violate(std::basic_string_view<char>, int) /x/oracle.cc:1\n"
      "    #2 0x1 in void farside::fuzz::Violation<int&, int>(int) /x/oracle.h:1\n"
      "    #3 0x1 in farside::fuzz::DeviceTarget::CheckReadOnlyBits() /x/device_target.cc:9\n"
      "    #4 0x1 in farside::fuzz::DeviceTarget::Run(std::span<std::byte const>) /x/d.cc:9\n"
      "    #5 0x1 in farside::fuzz::(anonymous namespace)::Repro(int) /x/main.cc:9\n");
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, "ORACLE read-only");
  EXPECT_THAT(fault->frames,
              ElementsAre("fuzz::DeviceTarget::CheckReadOnlyBits", "fuzz::DeviceTarget::Run"));
  EXPECT_EQ(fault->last_event, "reset");
}

TEST(ParseReport, LibFuzzerAndFarsideFuzzGiveOneIdentity) {
  constexpr std::string_view kOracle = "farside-fuzz: ORACLE drain: work does not end\n";
  constexpr std::string_view kInside =
      "    #1 0x1 in farside::fuzz::Snapshots::Drain(char const*) /x/s.cc:1\n"
      "    #2 0x1 in farside::fuzz::DeviceTarget::Run(int) /x/d.cc:2\n";
  const auto a = ParseReport(fmt::format("{}==1== ERROR: libFuzzer: deadly signal\n{}{}", kOracle,
                                         kInside, "    #3 0x1 in LLVMFuzzerTestOneInput /x:1\n"));
  const auto b = ParseReport(fmt::format("{}==1==ERROR: AddressSanitizer: ABRT on x\n{}{}", kOracle,
                                         kInside, "    #3 0x1 in farside::fuzz::Main() /x:1\n"));
  ASSERT_TRUE(a && b);
  EXPECT_EQ(a->Identity(), b->Identity());
}

TEST(ParseReport, UndefinedBehaviourHasNoNumbersInItsKind) {
  const auto fault = ParseReport(
      "/x/a.cc:12:7: runtime error: index 70 out of bounds for type 'int [64]'\n"
      "    #0 0x1 in farside::lsi::Chip::Phase() /x/a.cc:12:7\n");
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, "ubsan: index N out of bounds for type 'int N");
  EXPECT_THAT(fault->frames, ElementsAre("lsi::Chip::Phase"));
}

TEST(ParseReport, ChecksAreToldApartWithoutStacks) {
  const auto fault =
      ParseReport("base/loop.cc:7: CHECK(!waiting()) failed: this is a bug in Farside\n");
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, "CHECK");
  EXPECT_THAT(fault->frames, ElementsAre("CHECK(!waiting())"));
}

TEST(ParseReport, TimeoutsOfLibFuzzer) {
  const auto fault = ParseReport(
      "#128\tpulse  cov: 1 ft: 2\n==7== ERROR: libFuzzer: timeout after 20 seconds\n"
      "    #0 0x1 in __sanitizer_print_stack_trace /x\n"
      "    #1 0x1 in farside::lsi::Chip::Step() /x/a.cc:12:7\n");
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault->kind, "timeout");
  EXPECT_THAT(fault->frames, ElementsAre("lsi::Chip::Step"));
}

TEST(ParseReport, NothingWhereNothingWasFound) {
  EXPECT_FALSE(ParseReport("   0 {\"reset\":{}}\nx: nothing was found\n"));
}

TEST(Identity, TellsKindFramesAndEventApart) {
  const Fault fault{.kind = "SEGV", .frames = {"a", "b"}, .last_event = "write", .sentence = "x"};
  Fault other = fault;
  other.sentence = "y";
  EXPECT_EQ(fault.Identity(), other.Identity());
  other.last_event = "read";
  EXPECT_NE(fault.Identity(), other.Identity());
  other = fault;
  other.frames = {"ab"};
  EXPECT_NE(fault.Identity(), other.Identity());
}

}  // namespace
}  // namespace farside::campaign
