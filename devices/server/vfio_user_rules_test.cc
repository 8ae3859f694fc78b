// The rules that a server must keep so that QEMU and cloud-hypervisor take it, learnt from what
// those clients do. Rule 14 (SIGTERM, --socket-path, --fd) is about processes: process/ has its
// tests; what it says of sockets is here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "devices/server/test_support.h"

namespace farside {
namespace {

using testing::HasSubstr;
using testing::Not;
using vfio_user::Command;
using vfio_user::DmaAccess;
using vfio_user::RegionAccess;

// The JSON that QEMU 11.1.3 sends, byte by byte, and cloud-hypervisor's.
constexpr std::string_view kQemu =
    R"({"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, )"
    R"("max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, )"
    R"("pgsize": 4096}, "write_multiple": true}})";
constexpr std::string_view kCloudHypervisor =
    R"({"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}})";

std::string JsonOf(const Received& reply) {
  const auto* text = reinterpret_cast<const char*>(reply.payload.data());
  const size_t size = reply.payload.size();
  if (size < sizeof(vfio_user::Version) + 1 || text[size - 1] != '\0') return "not terminated";
  return text + sizeof(vfio_user::Version);
}

class RulesTest : public testing::Test {
 protected:
  FakeDevice& device() { return bench_.device(); }
  uint16_t PciStatus() { return client_->Read<uint16_t>(Region::kConfig, pci::kStatus); }

  Bench bench_;
  std::unique_ptr<RawClient> client_ = bench_.ConnectReady();
};

class VersionRulesTest : public testing::Test {
 protected:
  Received Version(std::string_view json, uint16_t minor) {
    client_.reset();
    bench_.Settle();
    client_ = bench_.Connect();
    return client_->Version(json, minor);
  }

  Bench bench_;
  std::unique_ptr<RawClient> client_;
};

TEST_F(VersionRulesTest, Rule01TheMinorVersionIsNeverAboveTheClientsAndJsonIsAlwaysThere) {
  for (const uint16_t minor : std::vector<uint16_t>{0, 1, 2, 3, 0xffff}) {
    for (const std::string_view json :
         {kQemu, kCloudHypervisor, std::string_view("{}"),
          std::string_view(R"({"capabilities":{}})"), std::string_view()}) {
      const Received reply = Version(json, minor);
      const auto version = reply.Get<vfio_user::Version>();
      EXPECT_EQ(version.major, 0);
      EXPECT_EQ(version.minor, std::min<uint16_t>(minor, 2));
      EXPECT_THAT(JsonOf(reply), HasSubstr(R"({"capabilities":{)")) << json;
    }
  }
}

TEST_F(VersionRulesTest, Rule02TheReplyToVersionIsNoLongerThanQemusVersion) {
  const Received reply = Version(kQemu, 0);
  EXPECT_EQ(sizeof(vfio_user::Header) + sizeof(vfio_user::Version) + kQemu.size() + 1, 214u);
  EXPECT_LE(reply.header.size, 214u) << JsonOf(reply);
}

TEST_F(VersionRulesTest, Rule03CapabilitiesStayInQemusBoundsAndNoneIsSentThatWasNotOffered) {
  EXPECT_EQ(JsonOf(Version(kQemu, 0)),
            R"({"capabilities":{"max_data_xfer_size":1048576,"max_dma_maps":65535,)"
            R"("max_msg_fds":16,"migration":{"max_bitmap_size":2097152,"pgsize":4096},)"
            R"("pgsizes":4096,"write_multiple":true}})");
  EXPECT_EQ(JsonOf(Version(kCloudHypervisor, 1)),
            R"({"capabilities":{"max_data_xfer_size":1048576,"max_msg_fds":16,)"
            R"("migration":{"pgsize":4096}}})");
  EXPECT_EQ(JsonOf(Version("{}", 0)), R"({"capabilities":{}})");
  EXPECT_EQ(JsonOf(Version(R"({"capabilities":{"twin_socket":{"supported":true}}})", 0)),
            R"({"capabilities":{}})")
      << "no twin socket";
}

TEST_F(VersionRulesTest, Rule04SixteenFdsInAMessageAreTakenWhateverWasAgreed) {
  Version(kCloudHypervisor, 1);
  const Eventfds events(16);
  // The fake device has 8 vectors: what is refused is the range, not the message.
  EXPECT_EQ(client_->SetIrqs(0x24, vfio_user::IrqIndex::kMsix, 0, 16, events.fds()), EINVAL);
  EXPECT_FALSE(client_->Closed());
  EXPECT_EQ(client_->SetIrqs(0x24, vfio_user::IrqIndex::kMsix, 0, 8, events.fds(0, 8)), 0);
}

TEST(RulesOverASocketTest, Rule04SeventeenFdsInAMessageEndTheChannelAndLeakNothing) {
  Bench bench(Link::kSocket);
  const auto before = CountOpenFds();
  {
    const Eventfds events(17);
    auto client = bench.ConnectReady();
    client->Send(Command::kDeviceSetIrqs,
                 Pack(vfio_user::SetIrqs{.argsz = 20, .flags = 0x24, .index = 2, .count = 17}), 0,
                 events.fds());
    EXPECT_TRUE(client->Closed());
  }
  bench.Settle();
  EXPECT_EQ(CountOpenFds(), before);
  EXPECT_NE(bench.ConnectReady(), nullptr);
}

TEST_F(RulesTest, Rule05RepliesHaveTheirFixedSizesAndErrorsAreAHeader) {
  const auto size = [&](Command command, const ByteVector& payload) {
    return client_->Call(command, payload).header.size;
  };
  EXPECT_EQ(size(Command::kDeviceGetInfo, Pack(vfio_user::DeviceInfo{.argsz = 16})), 32u);
  for (uint32_t index = 0; index < 9; ++index) {
    EXPECT_EQ(size(Command::kDeviceGetRegionInfo,
                   Pack(vfio_user::RegionInfo{.argsz = 32, .flags = 0, .index = index})),
              48u);
  }
  EXPECT_EQ(size(Command::kDeviceGetIrqInfo, Pack(vfio_user::IrqInfo{.argsz = 16})), 32u);
  EXPECT_EQ(size(Command::kDmaMap, Pack(vfio_user::DmaMap{.argsz = 32, .flags = 3, .size = 4096})),
            16u);
  EXPECT_EQ(size(Command::kDmaUnmap, Pack(vfio_user::DmaUnmap{.argsz = 24, .size = 4096})), 40u);
  EXPECT_EQ(size(Command::kDeviceSetIrqs,
                 Pack(vfio_user::SetIrqs{.argsz = 20, .flags = 0x21, .index = 2})),
            16u);
  EXPECT_EQ(size(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4)), 36u);
  EXPECT_EQ(size(Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0, uint64_t{0})),
            32u);
  EXPECT_EQ(size(Command::kDeviceReset, {}), 16u);
  const Received error = client_->Call(Command{99}, Counting(64));
  EXPECT_EQ(error.header.size, 16u);
  EXPECT_EQ(error.header.flags, 0x21u);
}

TEST_F(RulesTest, Rule06WhatAGuestGetsWrongIsNoError) {
  EXPECT_EQ(client_->Read<uint32_t>(Region::kBar0, FakeDevice::kBar0Size), 0xffff'ffffu);
  EXPECT_EQ(client_->Read<uint32_t>(Region::kRom, 0), 0xffff'ffffu);
  client_->Write(Region::kBar5, 0x100, uint32_t{1});
  client_->Write(Region::kConfig, 4094, uint32_t{1});
  EXPECT_EQ(bench_.server().counters().error_replies, 0u);
  EXPECT_EQ(bench_.server().counters().dropped_accesses, 4u);
}

TEST_F(RulesTest, Rule07ConfigurationSpaceIsReadInOneGoAndErrorInterruptsAreOne) {
  const Received reply =
      client_->Call(Command::kRegionRead, RawClient::ReadPayload(Region::kConfig, 0, 4096));
  ASSERT_EQ(reply.payload.size(), sizeof(RegionAccess) + 4096);
  EXPECT_EQ(reply.Get<uint32_t>(sizeof(RegionAccess)), 0x00fa1b36u);
  for (uint32_t at = 0; at < 256; at += 4) {
    EXPECT_EQ(reply.Get<uint32_t>(sizeof(RegionAccess) + at),
              client_->Read<uint32_t>(Region::kConfig, at))
        << at;
  }
  const vfio_user::IrqInfo ask{.argsz = 16, .flags = 0, .index = 3, .count = 0};
  EXPECT_EQ(client_->Call(Command::kDeviceGetIrqInfo, Pack(ask)).Get<vfio_user::IrqInfo>().count,
            1u);
}

TEST_F(RulesTest, Rule08UnmapsThatMatchNothingOrSeveralWindowsSucceed) {
  EXPECT_EQ(client_->Unmap(0x1000, 0x1000), 0) << "nothing was ever mapped";
  const SharedMemory memory(4 * kPage);
  ASSERT_EQ(client_->Map(0x10'0000, kPage), 0) << "without an fd";
  ASSERT_EQ(client_->Map(0x10'2000, kPage, memory.fd(), 0, vfio_user::kDmaMapRead), 0)
      << "read-only";
  ASSERT_EQ(client_->Map(0xfe00'0000, kPage, memory.fd()), 0) << "another device's BAR";
  // A vIOMMU's unmap of everything in between, then RAM where the windows were.
  EXPECT_EQ(client_->Unmap(0x10'0000, 0xff0'0000), 0);
  EXPECT_EQ(client_->Map(0x10'0000, 0xff0'0000), 0);
  EXPECT_EQ(bench_.slot().dma().window_count(), 2u);
}

TEST_F(RulesTest, Rule09AnAccessIsAnsweredBeforeTheDmaItCauses) {
  ASSERT_EQ(client_->Map(0, kPage), 0);
  device().read_starts_dma = 0;
  const auto id = client_->Send(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4));
  // The client answers no DMA until it has its register.
  EXPECT_EQ(client_->Await(id).error(), 0);
  const auto dma = client_->Receive();
  ASSERT_TRUE(dma);
  client_->Reply(*dma, Pack(dma->Get<DmaAccess>(), Counting(64)));
  bench_.Settle();
  EXPECT_EQ(device().started_by_read->status, DmaStatus::kOk);
}

TEST_F(RulesTest, Rule10IntxComesAgainAfterItsUnmaskAndShowsInTheStatusRegister) {
  const Eventfds event(1);
  ASSERT_EQ(client_->SetIrqs(0x24, vfio_user::IrqIndex::kIntx, 0, 1, event.fds()), 0);
  EXPECT_FALSE(PciStatus() & pci::kStatusInterrupt);
  device().SetIntxLevel(true);
  EXPECT_EQ(event.Take(), 1u);
  EXPECT_TRUE(PciStatus() & pci::kStatusInterrupt);
  // What QEMU does after the guest's next access to a BAR.
  client_->Read<uint32_t>(Region::kBar0, 0);
  ASSERT_EQ(client_->SetIrqs(0x11, vfio_user::IrqIndex::kIntx, 0, 1), 0);
  EXPECT_EQ(event.Take(), 1u) << "still asserted";
  device().SetIntxLevel(false);
  EXPECT_FALSE(PciStatus() & pci::kStatusInterrupt);
  ASSERT_EQ(client_->SetIrqs(0x11, vfio_user::IrqIndex::kIntx, 0, 1), 0);
  EXPECT_EQ(event.Take(), 0u);
}

// A client in a process of its own, which maps its memory with `map_flags`, passes two windows of
// it and stays.
[[noreturn]] void RunMemoryClient(const std::string& path, int map_flags) {
  const auto fd = MakeMemfd("guest", 2 * kPage);
  auto transport = SocketTransport::Create(ConnectUnix(path).value());
  const void* ram =
      mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, map_flags, fd ? fd->get() : -1, 0);
  if (!transport || ram == MAP_FAILED) _exit(1);
  const auto send = [&](const ByteVector& message, std::span<const int> fds) {
    (*transport)->Send(message, fds);
  };
  send(Message(1, Command::kVersion, vfio_user::Version{}), {});
  const int memory = fd->get();
  for (const uint64_t at : {uint64_t{0}, kPage}) {
    send(Message(
             2, Command::kDmaMap,
             vfio_user::DmaMap{.argsz = 32, .flags = 3, .offset = at, .iova = at, .size = kPage}),
         std::span(&memory, 1));
  }
  for (;;) pause();
}

// What the server logs about such a client's memory.
std::string WarningsAbout(int map_flags) {
  Bench bench(Link::kSocket);
  char directory[] = "/tmp/farside-rules-XXXXXX";
  EXPECT_NE(mkdtemp(directory), nullptr);
  const std::string path = std::string(directory) + "/dev.sock";
  auto listener = VfioUserListener::Create(bench.loop(), bench.server(), "fake0",
                                           ListenUnix(path).value(), path);
  EXPECT_TRUE(listener);
  testing::internal::CaptureStderr();
  const pid_t child = fork();
  if (child == 0) RunMemoryClient(path, map_flags);
  for (int i = 0; i < 500 && bench.slot().dma().window_count() < 2; ++i) bench.loop().RunOnce(10);
  EXPECT_EQ(bench.slot().dma().window_count(), 2u);
  kill(child, SIGKILL);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
  listener->reset();
  EXPECT_EQ(rmdir(directory), 0);
  return testing::internal::GetCapturedStderr();
}

TEST(RulesOverASocketTest, Rule11PrivateGuestMemoryIsSaidLoudlyAndOnce) {
  const std::string log = WarningsAbout(MAP_PRIVATE);
  const std::string_view warning = "GUEST MEMORY IS NOT SHARED";
  EXPECT_THAT(log, HasSubstr(warning));
  EXPECT_EQ(log.find(warning), log.rfind(warning)) << log;
}

TEST(RulesOverASocketTest, Rule11SharedGuestMemoryIsFine) {
  EXPECT_THAT(WarningsAbout(MAP_SHARED), Not(HasSubstr("SHARED")));
}

TEST_F(RulesTest, Rule12ANoReplyCommandIsNeverAnswered) {
  client_->Send(Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0, uint32_t{1}),
                vfio_user::kFlagNoReply);
  client_->Send(Command::kRegionWrite, RawClient::WritePayload(Region::kBar0, 0, Counting(0)),
                vfio_user::kFlagNoReply);
  const auto fence =
      client_->Send(Command::kRegionRead, RawClient::ReadPayload(Region::kBar0, 0, 4));
  const auto first = client_->Receive();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->header.message_id, fence) << "the only thing that is answered";
  EXPECT_EQ(first->Get<uint32_t>(sizeof(RegionAccess)), 1u);
  EXPECT_FALSE(client_->Receive());
}

TEST_F(RulesTest, Rule13NoRegionCanBeMappedSoThatWritesStayPosted) {
  for (uint32_t index = 0; index < 9; ++index) {
    const Received reply =
        client_->Call(Command::kDeviceGetRegionInfo,
                      Pack(vfio_user::RegionInfo{.argsz = 4096, .flags = 0, .index = index}));
    EXPECT_EQ(reply.Get<vfio_user::RegionInfo>().flags &
                  (vfio_user::kRegionFlagMmap | vfio_user::kRegionFlagCaps),
              0u);
    EXPECT_TRUE(reply.fds.empty());
  }
}

TEST(RulesOverASocketTest, Rule14TheSocketIsServedAgainAfterADisconnect) {
  Bench bench(Link::kSocket);
  char directory[] = "/tmp/farside-rules-XXXXXX";
  ASSERT_NE(mkdtemp(directory), nullptr);
  const std::string path = std::string(directory) + "/dev.sock";
  {
    auto listener = VfioUserListener::Create(bench.loop(), bench.server(), "fake0",
                                             ListenUnix(path).value(), path);
    ASSERT_TRUE(listener);
    for (int round = 0; round < 3; ++round) {
      auto transport = SocketTransport::Create(ConnectUnix(path).value());
      RawClient client(bench, std::move(*transport));
      client.Negotiate();
      EXPECT_EQ(client.Read<uint16_t>(Region::kConfig, 0), 0x1b36) << "round " << round;
      client.Close();
      bench.Settle();
    }
  }
  EXPECT_NE(access(path.c_str(), F_OK), 0) << "the socket file is gone with its listener";
  EXPECT_EQ(rmdir(directory), 0);
}

TEST_F(RulesTest, Rule15AnyArmedVectorIsSignalledAndThePbaAnswersForTheOthers) {
  const Eventfds events(1);
  client_->Write(Region::kConfig, FakeDevice::kMsixControl, pci::kMsixEnable);
  // QEMU never writes the table it got from us: all its entries still say masked.
  EXPECT_EQ(client_->Read<uint32_t>(Region::kBar4, 12), 1u);
  ASSERT_EQ(client_->SetIrqs(0x24, vfio_user::IrqIndex::kMsix, 3, 1, events.fds()), 0);
  device().SignalVector(3);
  device().SignalVector(4);
  EXPECT_EQ(events.Take(), 1u);
  EXPECT_EQ(client_->Read<uint64_t>(Region::kBar4, FakeDevice::kMsixPba), 0x10u);
}

TEST(RulesOverASocketTest, Rule16FdsBelongToTheLastFrameBegunInTheirReceive) {
  // QEMU's burst: a window without an fd, one with, one without; the first two arrive as one.
  Bench bench(Link::kSocket);
  const auto client = bench.ConnectReady();
  SharedMemory memory(kPage);
  const int fd = memory.fd();
  const auto map = [](uint16_t id, uint64_t iova) {
    const vfio_user::DmaMap fields{
        .argsz = 32, .flags = 3, .offset = 0, .iova = iova, .size = kPage};
    return Pack(vfio_user::CommandHeader(id, Command::kDmaMap, sizeof fields), fields);
  };
  client->SendBytes(map(101, 0));
  client->SendBytes(map(102, kPage), std::span(&fd, 1));
  client->SendBytes(map(103, 2 * kPage));
  for (const uint16_t id : std::vector<uint16_t>{101, 102, 103})
    EXPECT_EQ(client->Await(id).error(), 0);

  const auto by_fd = bench.device().StartWrite(kPage, Counting(8, 1));
  EXPECT_EQ(by_fd->status, DmaStatus::kOk);
  EXPECT_TRUE(std::ranges::equal(memory.bytes().first(8), Counting(8, 1)));
  for (const uint64_t iova : {uint64_t{0}, 2 * kPage}) {
    const auto by_message = bench.device().StartWrite(iova, Counting(8, 1));
    EXPECT_FALSE(by_message->status);
    const auto command = client->Receive();
    ASSERT_TRUE(command);
    EXPECT_EQ(command->Get<DmaAccess>().iova, iova);
    client->Reply(*command, Pack(command->Get<DmaAccess>()));
  }
  bench.Settle();
}

}  // namespace
}  // namespace farside
