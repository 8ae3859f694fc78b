// What a hostile or broken device process can do to the VMM: its device dies, and nothing else. A
// program of its own, because it needs KVM: ctest runs it where ci/kvm-lab finds one.
#include <dirent.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <chrono>
#include <condition_variable>

#include "protocol/fake_server.h"
#include "vmm-lite/kvm/vcpu.h"
#include "vmm-lite/machine/layout.h"
#include "vmm-lite/pci/pci_proxy.h"

namespace farside::vmm {
namespace {

using testing::HasSubstr;
using vfio_user::Command;
using vfio_user::FakeServer;
using vfio_user::Frame;

constexpr uint64_t kBarAddress = 0xe000'0000;
constexpr uint32_t kCapabilities = 0x40;
constexpr uint32_t kMsixAt = 0x40;
constexpr uint32_t kVectors = 4;

size_t OpenFds() {
  size_t count = 0;
  DIR* const directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

// A device with one 32-bit BAR of 16 KiB and four MSI-X vectors, whose table is at 0x2000.
void MakeDevice(FakeServer& server) {
  auto& config = server.region(7);
  const auto put = [&config](uint32_t at, auto value) {
    StoreLe<decltype(value)>(Bytes(config).subspan(at), value);
  };
  put(pci::kVendorId, uint32_t{0x0001'1234});
  put(pci::kStatus, pci::kStatusCapabilities);
  put(pci::kCapabilities, uint8_t{kCapabilities});
  put(pci::kInterruptPin, uint8_t{1});
  put(kMsixAt, uint16_t{pci::kCapMsix});
  put(kMsixAt + pci::kMsixControl, uint16_t{kVectors - 1});
  put(kMsixAt + pci::kMsixTable, uint32_t{0x2000});
  put(kMsixAt + pci::kMsixPba, uint32_t{0x3000});
}

// A guest's memory and interrupts, and one device of a process that does what `hook` says.
class PciProxyTest : public testing::Test {
 protected:
  PciProxyTest()
      : vm_(Vm::Create().value()),
        ram_(GuestRam::Create(GuestRam::kMinSize).value()),
        intx_(*vm_) {}
  ~PciProxyTest() override {
    if (proxy_) proxy_->Detach();
    proxy_.reset();
    server_.reset();
  }

  Result<void> Attach(FakeServer::Hook hook = {}, uint64_t timeout_ms = 500) {
    // Only BAR 0: regions 1 to 6 have no bytes.
    server_ = std::make_unique<FakeServer>([hook](FakeServer& self, Frame& frame) {
      if (hook && hook(self, frame)) return true;
      if (frame.is_reply() || frame.command() != Command::kDeviceGetRegionInfo) return false;
      const auto request = vfio_user::DecodeRequest(frame);
      const auto* region = std::get_if<vfio_user::DeviceGetRegionInfoRequest>(&*request);
      if (region->index == 0 || region->index > 6) return false;
      self.Reply(frame, vfio_user::RegionInfo{32, 0, region->index, 0, 0, 0});
      return true;
    });
    MakeDevice(*server_);
    const ProxyWiring wiring{.vm = *vm_,
                             .ram = *ram_,
                             .memory = memory_,
                             .ports = ports_,
                             .intx = intx_,
                             .on_dead = [this](const std::string&, const Error& error) {
                               const std::lock_guard lock(mutex_);
                               epitaph_ = error.message;
                               died_.notify_all();
                             }};
    auto proxy =
        PciProxy::Attach(wiring, {.id = "d0", .timeout_ms = timeout_ms}, server_->TakeSocket());
    if (!proxy) return tl::unexpected(proxy.error());
    proxy_ = std::move(*proxy);
    return {};
  }

  std::string Refusal(FakeServer::Hook hook) {
    const auto attached = Attach(std::move(hook));
    return attached ? "attached" : attached.error().message;
  }

  // The device at kBarAddress, decoding.
  void Place() {
    WriteConfig<uint32_t>(pci::kBar0, kBarAddress);
    WriteConfig<uint16_t>(pci::kCommand, pci::kCommandMemory | pci::kCommandBusMaster);
  }
  template <typename T>
  void WriteConfig(uint32_t offset, T value) {
    proxy_->WriteConfig(0, offset, AsBytes(value));
  }
  template <typename T>
  T ReadConfig(uint32_t offset) {
    T value{};
    proxy_->ReadConfig(0, offset, AsWritableBytes(value));
    return value;
  }
  uint32_t Read(uint64_t offset) {
    uint32_t value = 0;
    memory_.Read(0, kBarAddress + offset, AsWritableBytes(value));
    return value;
  }
  void Write(uint64_t offset, uint32_t value) {
    memory_.Write(0, kBarAddress + offset, AsBytes(value));
  }
  std::string WaitForDeath() {
    std::unique_lock lock(mutex_);
    died_.wait_for(lock, std::chrono::seconds(20), [this] { return !epitaph_.empty(); });
    return epitaph_;
  }

  std::unique_ptr<Vm> vm_;
  std::unique_ptr<GuestRam> ram_;
  AddressMap memory_;
  AddressMap ports_;
  IntxRouter intx_;
  std::unique_ptr<FakeServer> server_;
  std::shared_ptr<PciProxy> proxy_;

  std::mutex mutex_;
  std::condition_variable died_;
  std::string epitaph_;
};

FakeServer::Hook On(Command command, std::function<void(FakeServer&, Frame&)> act) {
  return [command, act = std::move(act)](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != command) return false;
    act(self, frame);
    return true;
  };
}

// Bar 0 has this region info.
FakeServer::Hook Bar0(vfio_user::RegionInfo info) {
  return [info](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kDeviceGetRegionInfo) return false;
    const auto request = vfio_user::DecodeRequest(frame);
    if (std::get_if<vfio_user::DeviceGetRegionInfoRequest>(&*request)->index != 0) return false;
    self.Reply(frame, info);
    return true;
  };
}

TEST_F(PciProxyTest, ReadsAndWritesReachTheDeviceWhereItsBarIs) {
  ASSERT_TRUE(Attach());
  EXPECT_EQ(Read(0), UINT32_MAX) << "nothing decodes yet";
  WriteConfig<uint32_t>(pci::kBar0, UINT32_MAX);
  EXPECT_EQ(ReadConfig<uint32_t>(pci::kBar0), ~uint32_t{FakeServer::kRegionSize - 1});
  Place();
  Write(0x10, 0x1234'5678);
  EXPECT_EQ(Read(0x10), 0x1234'5678u);
  WriteConfig<uint32_t>(pci::kBar0, kBarAddress + 0x10'0000);
  EXPECT_EQ(Read(0x10), UINT32_MAX) << "it has moved";
  WriteConfig<uint32_t>(pci::kBar0, kBarAddress);
  EXPECT_EQ(Read(0x10), 0x1234'5678u);
}

TEST_F(PciProxyTest, AMaskedVectorIsPendingUntilItIsUnmasked) {
  ASSERT_TRUE(Attach());
  Place();
  server_->eventfds.clear();  // INTx's.
  WriteConfig<uint16_t>(kMsixAt + pci::kMsixControl, pci::kMsixEnable);
  Write(0x2000, 0xfee0'0000);
  Write(0x2000 + 8, 0x40);
  EXPECT_EQ(Read(0x2000 + pci::kMsixEntryControl), 1u) << "masked at first";
  EXPECT_TRUE(server_->eventfds.empty()) << "not armed before it is unmasked";
  Write(0x2000 + pci::kMsixEntryControl, 0);
  ASSERT_EQ(server_->eventfds.size(), 1u);
  Write(0x2000 + pci::kMsixEntryControl, 1);
  EXPECT_EQ(Read(0x3000) & 1, 0u);
  SignalEventfd(server_->eventfds[0].get());
  EXPECT_EQ(Read(0x3000) & 1, 1u);
  Write(0x2000 + pci::kMsixEntryControl, 0);
  for (int i = 0; i < 1000 && (Read(0x3000) & 1) != 0; ++i) usleep(1000);
  EXPECT_EQ(Read(0x3000) & 1, 0u) << "KVM took it";
}

TEST_F(PciProxyTest, WrongRegionsAreRefusedWithASentence) {
  EXPECT_THAT(Refusal(Bar0({32, 3, 0, 0, 1ull << 50, 0})), HasSubstr("too large"));
  EXPECT_THAT(Refusal(Bar0({32, 3, 0, 0, UINT64_MAX, 0})), HasSubstr("region 0"));
  EXPECT_THAT(Refusal(Bar0({32, 3, 0, 0, 0x1000, 0})), HasSubstr("outside of its BARs"))
      << "the MSI-X table is at 0x2000";
}

TEST_F(PciProxyTest, WrongDevicesAreRefusedWithASentence) {
  EXPECT_THAT(Refusal(On(Command::kDeviceGetInfo,
                         [](FakeServer& self, Frame& frame) {
                           self.Reply(frame, vfio_user::DeviceInfo{16, 0, 9, 5});
                         })),
              HasSubstr("not a PCI device"));
  EXPECT_THAT(Refusal(On(Command::kDeviceGetIrqInfo,
                         [](FakeServer& self, Frame& frame) {
                           self.Reply(frame, vfio_user::IrqInfo{16, 1, 2, 1});
                         })),
              HasSubstr("vectors"));
  EXPECT_THAT(Refusal(On(Command::kDmaMap,
                         [](FakeServer& self, Frame& frame) { self.Refuse(frame, ENOMEM); })),
              HasSubstr("d0"));
}

TEST_F(PciProxyTest, ACircleOfCapabilitiesEnds) {
  EXPECT_THAT(Refusal([](FakeServer& self, Frame&) {
                self.region(7)[kCapabilities + 1] = std::byte{kCapabilities};
                return false;
              }),
              HasSubstr("circle"));
}

TEST_F(PciProxyTest, DeathAtEachMessageIsASentence) {
  for (int message = 0; message < 24; ++message) {
    int seen = 0;
    const auto attached = Attach([&seen, message](FakeServer& self, Frame& frame) {
      if (frame.is_reply() || seen++ != message) return false;
      self.Close();
      return true;
    });
    if (!attached) {
      EXPECT_THAT(attached.error().message, HasSubstr("device d0: "));
      server_.reset();
      continue;
    }
    Place();
    (void)Read(0);
    proxy_->Detach();
    proxy_.reset();
    server_.reset();
  }
}

TEST_F(PciProxyTest, NoAnswerKillsTheDeviceAndNotTheGuest) {
  ASSERT_TRUE(Attach(
      [placed = false](FakeServer&, Frame& frame) mutable {
        if (frame.is_reply()) return false;
        placed |= frame.command() == Command::kRegionWrite;
        return placed && frame.command() == Command::kRegionRead;
      },
      /*timeout_ms=*/200));
  Place();
  EXPECT_EQ(Read(0), UINT32_MAX);
  EXPECT_TRUE(proxy_->dead());
  EXPECT_NE(WaitForDeath(), "");
  EXPECT_EQ(ReadConfig<uint32_t>(0), UINT32_MAX) << "a device that is gone";
  Write(0, 1);
  EXPECT_EQ(Read(0), UINT32_MAX);
}

TEST_F(PciProxyTest, AnEndedProcessIsSeenWithoutAnAccess) {
  ASSERT_TRUE(Attach());
  server_->Close();
  EXPECT_NE(WaitForDeath(), "");
  EXPECT_TRUE(proxy_->dead());
}

TEST_F(PciProxyTest, WrongLateAndDoubleRepliesKillTheDevice) {
  const auto attacks = {
      +[](FakeServer& self, Frame& frame) { self.Reply(frame); },
      +[](FakeServer& self, Frame& frame) {
        self.Reply(frame, vfio_user::RegionAccess{0x999, 0, 4}, uint32_t{1});
      },
      +[](FakeServer& self, Frame& frame) {
        frame.header.message_id ^= 0x5555;
        self.Reply(frame, vfio_user::RegionAccess{0, 0, 4}, uint32_t{1});
      },
      +[](FakeServer& self, Frame&) { self.SendBytes(std::vector<std::byte>(4096)); },
  };
  for (const auto& attack : attacks) {
    ASSERT_TRUE(Attach([attack](FakeServer& self, Frame& frame) {
      if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
      const auto request = vfio_user::DecodeRequest(frame);
      if (std::get_if<vfio_user::RegionReadRequest>(&*request)->region != 0) return false;
      attack(self, frame);
      return true;
    }));
    Place();
    EXPECT_EQ(Read(0), UINT32_MAX);
    EXPECT_NE(WaitForDeath(), "");
    epitaph_.clear();
    proxy_->Detach();
    proxy_.reset();
    server_.reset();
  }
}

TEST_F(PciProxyTest, DmaByMessageStaysInsideOfMemoryAndBehindBusMastering) {
  ASSERT_TRUE(Attach());
  const uint32_t mark = 0xfeed;
  ASSERT_TRUE(ram_->Write(0x1000, AsBytes(mark)));
  const auto ask = [&](uint64_t iova, uint64_t size) {
    server_->Ask(7, Command::kDmaRead, vfio_user::DmaAccess{iova, size});
    const size_t before = server_->dma_headers.size();
    for (int i = 0; i < 5000 && server_->dma_headers.size() == before; ++i) usleep(1000);
    return server_->dma_headers.empty() ? vfio_user::Header{} : server_->dma_headers.back();
  };
  EXPECT_NE(ask(0x1000, 4).error, 0u) << "no bus mastering";
  Place();
  EXPECT_EQ(ask(0x1000, 4).error, 0u);
  EXPECT_NE(ask(ram_->size() - 2, 4).error, 0u) << "over the end";
  EXPECT_NE(ask(kBarAddress, 4).error, 0u);
  EXPECT_EQ(Read(0), 0u) << "and it lives";
}

TEST_F(PciProxyTest, FdsThatNobodyAskedForAreClosed) {
  ASSERT_TRUE(Attach([](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    const auto request = vfio_user::DecodeRequest(frame);
    const auto* read = std::get_if<vfio_user::RegionReadRequest>(&*request);
    if (read->region != 0) return false;
    const std::vector<int> bomb(16, 0);
    const auto bytes = Pack(vfio_user::ReplyHeader(frame.header, 20),
                            vfio_user::RegionAccess{read->offset, 0, 4}, uint32_t{1});
    self.SendBytes(bytes, bomb);
    return true;
  }));
  Place();
  const size_t before = OpenFds();
  EXPECT_EQ(Read(0), UINT32_MAX);
  WaitForDeath();
  EXPECT_LE(OpenFds(), before);
}

TEST_F(PciProxyTest, MemoryThatCanShrinkIsNotMapped) {
  auto file = MakeMemfd("device", 0x4000).value();
  const int fd = file.get();
  const auto hook = [fd](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kDeviceGetRegionInfo) return false;
    const auto request = vfio_user::DecodeRequest(frame);
    const auto* region = std::get_if<vfio_user::DeviceGetRegionInfoRequest>(&*request);
    if (region->index != 0) return false;
    if (region->argsz < 64) {  // Says how much it has to say.
      self.Reply(frame, vfio_user::RegionInfo{64, 7, 0, 0, 0x4000, 0});
      return true;
    }
    const std::array<int, 1> fds = {fd};
    self.SendBytes(Pack(vfio_user::ReplyHeader(frame.header, 64),
                        vfio_user::RegionInfo{64, 0xf, 0, 32, 0x4000, 0},
                        vfio_user::SparseMmap{{1, 1, 0}, 1, 0}, vfio_user::MmapArea{0, 0x1000}),
                   fds);
    return true;
  };
  const auto attached = Attach(hook);
  ASSERT_TRUE(attached) << attached.error().message;
  Place();
  Write(0x10, 7);
  EXPECT_EQ(Read(0x10), 7u);
  EXPECT_EQ(server_->region(0)[0x10], std::byte{7}) << "by message";
}

// A doorbell of 4 bytes at 0x10 of BAR 0 that takes any value, and one at 0x20 that takes only 7.
FakeServer::Hook Doorbells(int any, int seven) {
  return On(Command::kDeviceGetRegionIoFds, [any, seven](FakeServer& self, Frame& frame) {
    const auto request = vfio_user::DecodeRequest(frame);
    const auto* asked = std::get_if<vfio_user::DeviceGetRegionIoFdsRequest>(&*request);
    if (asked->index != 0) return self.Reply(frame, vfio_user::RegionIoFds{16, 0, asked->index, 0});
    constexpr uint32_t kSize = 16 + 2 * 40;
    if (asked->argsz < kSize) return self.Reply(frame, vfio_user::RegionIoFds{kSize, 0, 0, 0});
    const std::array<int, 2> fds = {any, seven};
    self.SendBytes(
        Pack(vfio_user::ReplyHeader(frame.header, kSize), vfio_user::RegionIoFds{kSize, 0, 0, 2},
             vfio_user::IoFdEntry{0x10, 4, 0, 0, 0, 0, 0},
             vfio_user::IoFdEntry{0x20, 4, 1, 0, /*flags=*/1, 0, /*datamatch=*/7}),
        fds);
  });
}

// The end of a guest's program.
class KickPort final : public IoHandler {
 public:
  explicit KickPort(Vcpu& cpu) : cpu_(cpu) {}
  void Read(uint32_t, uint64_t, Bytes) override {}
  void Write(uint32_t, uint64_t, ConstBytes) override { cpu_.Kick(); }

 private:
  Vcpu& cpu_;
};

TEST_F(PciProxyTest, ADoorbellIsCountedByItsEventfdAndSendsNothing) {
  constexpr uint64_t kProgram = 0x1'0000;
  constexpr uint64_t kMoved = kBarAddress + 0x10'0000;
  const UniqueFd any = MakeEventfd().value();
  const UniqueFd seven = MakeEventfd().value();
  ASSERT_TRUE(Attach(Doorbells(any.get(), seven.get())));
  Place();
  for (const GuestRam::Block& block : ram_->blocks()) {
    ASSERT_TRUE(vm_->AddMemory(block.gpa, block.size, block.host, /*read_only=*/false));
  }
  const auto cpu = Vcpu::Create(*vm_, 0, 1).value();
  Vcpu::InstallWake();
  ASSERT_TRUE(ports_.Add(0x80, 1, std::make_shared<KickPort>(*cpu)));
  // The guest writes `value` to `address` that often.
  const auto ring = [&](uint64_t address, uint32_t value, uint32_t times) {
    const auto program = Pack(uint8_t{0xb8}, value,                           // mov eax, value
                              uint8_t{0xb9}, times,                           // mov ecx, times
                              uint8_t{0xa3}, static_cast<uint32_t>(address),  // mov [address], eax
                              uint16_t{0xf9e2},                               // loop -7
                              uint16_t{0x80e6});                              // out 0x80, al
    ASSERT_TRUE(ram_->Write(kProgram, program));
    cpu->Unkick();
    ASSERT_TRUE(cpu->Enter({.mode = CpuEntry::Mode::kProtected32, .rip = kProgram}));
    ASSERT_TRUE(cpu->Run(memory_, ports_).value());
  };
  const auto sent = [&](uint64_t offset) { return server_->region(0)[offset]; };

  ring(kBarAddress + 0x10, 9, 5);
  EXPECT_EQ(DrainEventfd(any.get()), 5u);
  ring(kBarAddress + 0x20, 7, 3);
  EXPECT_EQ(DrainEventfd(seven.get()), 3u);
  EXPECT_EQ(Read(0), 0u) << "whatever was posted is there now";
  EXPECT_EQ(sent(0x10), std::byte{0}) << "no message";
  EXPECT_EQ(sent(0x20), std::byte{0}) << "no message";

  ring(kBarAddress + 0x20, 8, 2);
  EXPECT_EQ(DrainEventfd(seven.get()), 0u) << "it takes only 7";
  EXPECT_EQ(Read(0x20), 8u) << "so that was a message";

  WriteConfig<uint32_t>(pci::kBar0, kMoved);
  ring(kBarAddress + 0x10, 9, 4);
  EXPECT_EQ(DrainEventfd(any.get()), 0u) << "the BAR is elsewhere";
  ring(kMoved + 0x10, 9, 2);
  EXPECT_EQ(DrainEventfd(any.get()), 2u);
  proxy_->Detach();
  ring(kMoved + 0x10, 9, 1);
  EXPECT_EQ(DrainEventfd(any.get()), 0u);
}

TEST_F(PciProxyTest, AttachingAndDetachingLeavesNothingBehind) {
  size_t before = 0;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(Attach());
    Place();
    WriteConfig<uint16_t>(kMsixAt + pci::kMsixControl, pci::kMsixEnable);
    for (uint32_t v = 0; v < kVectors; ++v) Write(0x2000 + 16 * v + pci::kMsixEntryControl, 0);
    proxy_->Detach();
    proxy_.reset();
    server_.reset();
    if (i == 0) before = OpenFds();
  }
  EXPECT_EQ(OpenFds(), before);
}

}  // namespace
}  // namespace farside::vmm
