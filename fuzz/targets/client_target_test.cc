// The target `client` finds nothing in the client that there is, and each of its oracles what it is
// there for: in clients and channels with a fault each.
#include "fuzz/targets/client_target.h"

#include <gtest/gtest.h>

#include <fcntl.h>

#include "fuzz/mutator/client_events.h"
#include "fuzz/targets/test_support.h"

namespace farside::fuzz {
namespace {

// Passes everything on. A fault is an override.
class Faulty : public DeviceClient {
 public:
  explicit Faulty(std::unique_ptr<DeviceClient> client) : client_(std::move(client)) {}

  bool alive() const override { return client_->alive(); }
  Result<vfio_user::DeviceInfo> GetInfo() override { return client_->GetInfo(); }
  Result<ClientRegion> GetRegionInfo(uint32_t region) override {
    return client_->GetRegionInfo(region);
  }
  Result<ClientIoFds> GetRegionIoFds(uint32_t region) override {
    return client_->GetRegionIoFds(region);
  }
  Result<vfio_user::IrqInfo> GetIrqInfo(vfio_user::IrqIndex index) override {
    return client_->GetIrqInfo(index);
  }
  Result<void> SetIrqs(vfio_user::SetIrqs request, ConstBytes bools,
                       std::span<const int> fds) override {
    return client_->SetIrqs(request, bools, fds);
  }
  size_t max_irq_fds() const override { return client_->max_irq_fds(); }
  Result<void> DmaMap(const DmaWindow& window) override { return client_->DmaMap(window); }
  Result<void> DmaUnmap(uint64_t iova, uint64_t size) override {
    return client_->DmaUnmap(iova, size);
  }
  Result<void> DmaUnmapAll() override { return client_->DmaUnmapAll(); }
  uint64_t max_transfer() const override { return client_->max_transfer(); }
  Result<void> RegionRead(const GuestAccess& access, Bytes out) override {
    return client_->RegionRead(access, out);
  }
  Result<void> RegionWrite(const GuestAccess& access, ConstBytes in) override {
    return client_->RegionWrite(access, in);
  }
  Result<void> PostWrite(const GuestAccess& access, ConstBytes in) override {
    return client_->PostWrite(access, in);
  }
  Result<void> WriteMulti(uint32_t cpu, std::span<const vfio_user::WriteMultiEntry> writes,
                          bool posted) override {
    return client_->WriteMulti(cpu, writes, posted);
  }
  Result<ReadTicket> BeginRead(const GuestAccess& access, Bytes out) override {
    return client_->BeginRead(access, out);
  }
  Result<void> FinishRead(ReadTicket ticket) override { return client_->FinishRead(ticket); }
  Result<void> Reset() override { return client_->Reset(); }
  Result<size_t> FeatureGet(vfio_user::Feature feature, ConstBytes in, Bytes out) override {
    return client_->FeatureGet(feature, in, out);
  }
  Result<void> FeatureSet(vfio_user::Feature feature, ConstBytes in) override {
    return client_->FeatureSet(feature, in);
  }
  Result<void> FeatureProbe(vfio_user::Feature feature, uint32_t operations) override {
    return client_->FeatureProbe(feature, operations);
  }
  Result<size_t> MigDataRead(Bytes out) override { return client_->MigDataRead(out); }
  Result<void> MigDataWrite(ConstBytes in) override { return client_->MigDataWrite(in); }
  Result<bool> WaitReadable(int fd, uint64_t timeout_ns) override {
    return client_->WaitReadable(fd, timeout_ns);
  }

 protected:
  std::unique_ptr<DeviceClient> client_;
};

template <typename Fault>
Result<std::unique_ptr<DeviceClient>> Make(ClientWire wire, DmaHandler* handler) {
  auto made = MakeVfioUserSubject(std::move(wire), handler);
  if (!made) return made;
  return std::make_unique<Fault>(std::move(*made), handler);
}

struct Plain : Faulty {
  Plain(std::unique_ptr<DeviceClient> client, DmaHandler* handler)
      : Faulty(std::move(client)), handler_(handler) {}
  DmaHandler* handler_;
};

struct WrongByte final : Plain {
  using Plain::Plain;
  Result<void> RegionRead(const GuestAccess& access, Bytes out) override {
    const auto read = client_->RegionRead(access, out);
    if (!out.empty()) out[0] ^= std::byte{1};
    return read;
  }
};

struct NeverFails final : Plain {
  using Plain::Plain;
  Result<void> Reset() override {
    (void)client_->Reset();
    return {};
  }
};

struct NeverOver final : Plain {
  using Plain::Plain;
  bool alive() const override { return true; }
};

struct WritesAnywhere final : Plain {
  using Plain::Plain;
  Result<void> Reset() override {
    std::array<std::byte, 4> four{};
    handler_->OnDmaWrite(0x7000'0000, four);
    return client_->Reset();
  }
};

struct WritesUnasked final : Plain {
  using Plain::Plain;
  Result<void> Reset() override {
    std::array<std::byte, 4> four{};
    handler_->OnDmaWrite(0x10'0000, four);
    return client_->Reset();
  }
};

struct LosesFds final : Plain {
  using Plain::Plain;
  Result<ClientRegion> GetRegionInfo(uint32_t region) override {
    auto info = client_->GetRegionInfo(region);
    if (info && info->fd) (void)fcntl(info->fd.get(), F_DUPFD_CLOEXEC, 0);
    return info;
  }
};

struct Hoards final : Plain {
  using Plain::Plain;
  Result<vfio_user::IrqInfo> GetIrqInfo(vfio_user::IrqIndex index) override {
    hoard_.resize(64 << 20);
    return client_->GetIrqInfo(index);
  }
  std::vector<std::byte> hoard_;
};

// Sends each second message twice, or not at all.
class BadTransport final : public Transport {
 public:
  BadTransport(std::unique_ptr<Transport> transport, bool twice)
      : transport_(std::move(transport)), twice_(twice) {}
  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override {
    return transport_->Receive(into, fds);
  }
  ssize_t Send(ConstBytes from, std::span<const int> fds) override {
    // Replies to DMA are all that is a reply here.
    const bool reply = from.size() >= 12 && LoadLe<uint32_t>(from.subspan(8)) % 16 == 1;
    if (reply && !twice_) return static_cast<ssize_t>(from.size());
    if (reply) transport_->Send(from, fds);
    return transport_->Send(from, fds);
  }
  int fd() const override { return -1; }

 private:
  std::unique_ptr<Transport> transport_;
  const bool twice_;
};

template <bool twice>
Result<std::unique_ptr<DeviceClient>> MakeOverBadTransport(ClientWire wire, DmaHandler* handler) {
  wire.transport = std::make_unique<BadTransport>(std::move(wire.transport), twice);
  return MakeVfioUserSubject(std::move(wire), handler);
}

void RunSession(ClientTarget& target, const std::vector<Event>& events) {
  for (const uint8_t flags : {uint8_t{0}, kByMessage}) {
    target.Run(Encode({.flags = flags, .events = events}));
  }
}

void RunSession(ClientTarget::MakeSubject make, const std::vector<Event>& events,
                bool across_socket = false) {
  ClientTarget target(make, across_socket);
  RunSession(target, events);
}

Event Reply(Spoiling how, uint64_t value = 0) {
  return {.kind = Kind::kReply, .what = static_cast<uint8_t>(how), .value = value};
}
const Event kReadFour{.kind = Kind::kRead, .size = 4, .at = 8};
const Event kResetIt{.kind = Kind::kReset};
const Event kTimePasses{.kind = Kind::kClock};
const Event kAskForDma{.kind = Kind::kDeviceRead, .at = 0x10'0000, .value = 64};

TEST(ClientTargetTest, FindsNothingInMadeUpSessions) {
  ClientTarget target(&MakeVfioUserSubject, false);
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    target.Run(MadeUp(ClientGrammar(), seed, 32));
  }
  EXPECT_EQ(target.tally().sessions, 200u);
  EXPECT_GT(target.tally().with_dma, 40u);
}

TEST(ClientTargetTest, FindsNothingAcrossASocket) {
  ClientTarget target(&MakeVfioUserSubject, true);
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    target.Run(MadeUp(ClientGrammar(), seed, 32));
  }
  EXPECT_GT(target.tally().with_dma, 10u);
}

// A reply that names another request which is never answered is taken for its own.
TEST(ClientTargetTest, AReplyToWhatIsNeverAnsweredIsNotFollowed) {
  Event begun = kReadFour;
  begun.what |= kBegun;
  RunSession(&MakeVfioUserSubject,
             {kReadFour, Reply(Spoiling::kNever), begun, Reply(Spoiling::kWrongId, 0xffff), begun});
}

// It stops reading, while more is posted than the socket takes.
TEST(ClientTargetTest, ADeafDeviceEndsTheClient) {
  const std::vector<std::byte> much(kMaxData);
  std::vector<Event> events = {kReadFour, {.kind = Kind::kDeviceFrame}, kReadFour};
  events.resize(120, {.kind = Kind::kWriteData, .what = kPosted, .data = much});
  events.push_back({.kind = Kind::kReconnect});
  events.push_back(kReadFour);
  RunSession(&MakeVfioUserSubject, events, true);
}

TEST(ClientTargetTest, EverySpoilingIsFollowed) {
  ClientTarget target(&MakeVfioUserSubject, false);
  for (uint8_t how = 0; how < static_cast<uint8_t>(Spoiling::kCount); ++how) {
    for (const uint64_t value : {0, 1, 16, 17, 1 << 16}) {
      Event reply = Reply(Spoiling{how}, value);
      constexpr std::array<std::byte, 8> kData{std::byte{0x11}, std::byte{0x22}};
      reply.data = kData;
      for (const Event& call :
           {kReadFour, kResetIt, Event{.kind = Kind::kWrite, .size = 4},
            Event{.kind = Kind::kRead, .what = 2}, Event{.kind = Kind::kRead, .what = 7},
            Event{.kind = Kind::kMap, .size = 3, .at = 0x4000'0000, .value = 0x1000},
            Event{.kind = Kind::kUnmap, .at = 0x10'0000, .value = 0x3'0000},
            Event{.kind = Kind::kReconnect}}) {
        RunSession(target, {kReadFour, kAskForDma, reply, call, kReadFour});
      }
    }
  }
}

TEST(ClientTargetDeathTest, OraclesFire) {
  EXPECT_DEATH(RunSession(&Make<WrongByte>, {kReadFour}),
               "ORACLE client-answer: a read gives other bytes");
  EXPECT_DEATH(RunSession(&Make<NeverFails>, {kReadFour, Reply(Spoiling::kError, 5), kResetIt}),
               "ORACLE client-answer: DEVICE_RESET succeeds, though the device refuses it");
  EXPECT_DEATH(RunSession(&Make<NeverOver>, {kReadFour, Reply(Spoiling::kWrongId, 1), kResetIt}),
               "ORACLE client-answer: DEVICE_RESET leaves the client alive");
  EXPECT_DEATH(
      RunSession(&Make<NeverFails>, {kReadFour, Reply(Spoiling::kNever), kReadFour, kResetIt}),
      "ORACLE client-answer: after its end the client succeeds");
  EXPECT_DEATH(RunSession(&Make<WritesAnywhere>, {kResetIt}), "ORACLE dma-window");
  EXPECT_DEATH(RunSession(&Make<WritesUnasked>, {kResetIt}),
               "ORACLE answered: the client writes 4 bytes");
  EXPECT_DEATH(RunSession(&MakeOverBadTransport<true>, {kAskForDma, kTimePasses}),
               "ORACLE answered: the client answers message 0x0, which waits for no reply");
  EXPECT_DEATH(RunSession(&MakeOverBadTransport<false>, {kAskForDma, kTimePasses}),
               "ORACLE answered: message 0x0 .*has no reply");
  EXPECT_DEATH(RunSession(&Make<WrongByte>, {kReadFour}, true),
               "ORACLE client-answer: a read gives other bytes");
  EXPECT_DEATH(RunSession(&Make<WritesUnasked>, {kResetIt}, true),
               "ORACLE answered: the client writes 4 bytes");
  EXPECT_DEATH(RunSession(&Make<LosesFds>, {{.kind = Kind::kRead, .what = 2}}), "ORACLE fd-growth");
  EXPECT_DEATH(RunSession(&Make<Hoards>, {{.kind = Kind::kIrqs, .what = 2}}), "ORACLE memory");
}

}  // namespace
}  // namespace farside::fuzz
