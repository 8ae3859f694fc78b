// The targets that speak mpqemu find nothing in what there is, and some of their oracles what they
// are there for.
#include <gtest/gtest.h>

#include "fuzz/mutator/mpqemu_grammar.h"
#include "fuzz/targets/mpqemu_client_target.h"
#include "fuzz/targets/mpqemu_server_target.h"
#include "fuzz/targets/test_support.h"

namespace farside::fuzz {
namespace {

TEST(MpqemuServerTargetTest, FindsNothingInMadeUpSessions) {
  MpqemuServerTarget target;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    target.Run(MadeUp(MpqemuServerGrammar(), seed, 24));
  }
  EXPECT_GT(target.tally().with_io, 1u);
  EXPECT_GT(target.tally().with_interrupts, 10u);
}

TEST(MpqemuClientTargetTest, FindsNothingInMadeUpSessions) {
  MpqemuClientTarget target(&MakeMpqemuSubject, false);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    target.Run(MadeUp(MpqemuClientGrammar(), seed, 32));
  }
}

TEST(MpqemuClientTargetTest, FindsNothingAcrossASocket) {
  MpqemuClientTarget target(&MakeMpqemuSubject, true);
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    target.Run(MadeUp(MpqemuClientGrammar(), seed, 32));
  }
}

// A device that keeps the first message of a remote's for itself, and one that says another.
template <bool drops>
class BadTransport final : public Transport {
 public:
  explicit BadTransport(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}
  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override {
    return transport_->Receive(into, fds);
  }
  ssize_t Send(ConstBytes from, std::span<const int> fds) override {
    if (drops && ++sent_ == 50) return static_cast<ssize_t>(from.size());
    std::vector<std::byte> bytes(from.begin(), from.end());
    if (!drops && ++sent_ == 50 && bytes.size() > 16) bytes[16] = std::byte{0xff};
    return transport_->Send(bytes, fds);
  }
  int fd() const override { return -1; }

 private:
  std::unique_ptr<Transport> transport_;
  size_t sent_ = 0;
};

template <bool drops>
Result<std::unique_ptr<DeviceClient>> MakeBad(ClientWire wire) {
  wire.transport = std::make_unique<BadTransport<drops>>(std::move(wire.transport));
  return MakeMpqemuSubject(std::move(wire));
}

TEST(MpqemuClientTargetDeathTest, OraclesFire) {
  const auto run = [](MpqemuClientTarget::MakeSubject make) {
    MpqemuClientTarget target(make, false);
    const Event read{.kind = Kind::kRead, .what = 7, .size = 4};
    target.Run(Encode({.flags = 0, .events = std::vector<Event>(40, read)}));
  };
  EXPECT_DEATH(run(&MakeBad<true>), "ORACLE client-answer");
  EXPECT_DEATH(run(&MakeBad<false>), "ORACLE framing");
}

}  // namespace
}  // namespace farside::fuzz
