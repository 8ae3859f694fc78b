// The mpqemu client against a remote that is told what to answer, and against QEMU's own bytes.
#include "protocol/mpqemu_client.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <mutex>
#include <sstream>
#include <thread>

#include "protocol/test_support.h"

namespace farside::mpqemu {
namespace {

using vfio_user::IrqIndex;

constexpr uint32_t kConfig = 7;

struct GoldenMessage {
  bool request = false;
  size_t fds = 0;
  std::string command;
  ByteVector bytes;
};

std::vector<GoldenMessage> ReadGolden() {
  std::vector<GoldenMessage> out;
  std::ifstream file(FARSIDE_GOLDEN_DIR "/mpqemu-qemu-lsi.txt");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    GoldenMessage message;
    std::string direction;
    std::string hex;
    std::istringstream(line) >> direction >> message.fds >> message.command >> hex;
    message.request = direction == "P>R";
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
      uint8_t byte = 0;
      std::from_chars(hex.data() + i, hex.data() + i + 2, byte, 16);
      message.bytes.push_back(std::byte{byte});
    }
    out.push_back(std::move(message));
  }
  return out;
}

// A remote in a thread: an LSI53C895A as far as its configuration space goes, whose BARs are plain
// memory. It keeps what it was sent.
class FakeRemote {
 public:
  explicit FakeRemote(UniqueFd socket)
      : transport_(SocketTransport::Create(std::move(socket)).value()), thread_([this] { Run(); }) {
    transport_->set_receive_waits(true);
    StoreLe<uint32_t>(config_, 0x00121000);
    StoreLe<uint32_t>(Bytes(config_).subspan(0x10), 1);
    config_[0x3d] = std::byte{1};
  }
  ~FakeRemote() {
    shutdown(transport_->fd(), SHUT_RDWR);
    thread_.join();
  }

  std::vector<ByteVector> Sent() {
    const std::lock_guard lock(mutex_);
    return sent_;
  }
  size_t fds_of_last() {
    const std::lock_guard lock(mutex_);
    return fds_;
  }
  void set_silent() { silent_ = true; }

 private:
  void Run() {
    FrameReader reader(kMaxFrame);
    for (;;) {
      const auto filled = reader.Fill(*transport_);
      if (!filled || *filled == FillStatus::kEnd) return;
      while (auto frame = reader.Next().value()) Handle(*frame);
    }
  }

  void Handle(Frame& frame) {
    {
      const std::lock_guard lock(mutex_);
      sent_.push_back(Pack(frame.header, ByteVector(frame.payload.begin(), frame.payload.end())));
      fds_ = frame.fds.size();
    }
    if (silent_) return;
    const Request request = DecodeRequest(frame).value();
    if (const auto* read = std::get_if<ConfigReadRequest>(&request)) {
      Reply(LoadLePartial(ConstBytes(config_).subspan(read->address, size_t(read->size))));
    } else if (const auto* write = std::get_if<ConfigWriteRequest>(&request)) {
      Write(*write);
      Reply(0);
    } else if (const auto* bar = std::get_if<BarReadRequest>(&request)) {
      Reply(bar->address & 0xff);
    } else if (std::holds_alternative<BarWriteRequest>(request)) {
      Reply(0);
    } else if (std::holds_alternative<ResetRequest>(request)) {
      const Header header = MakeHeader(Command::kRet, 0);
      transport_->Send(AsBytes(header), {});
    }
  }
  void Write(const ConfigAccess& access) {
    uint32_t value = access.value;
    if (access.address == 0x10) value = (value & 0xffffff00) | 1;
    if (access.address == 0x14) value &= 0xfffffc00;
    if (access.address == 0x18) value &= 0xffffe000;
    if (access.address > 0x18 && access.address < 0x28) value = 0;
    Copy(Bytes(config_).subspan(access.address, size_t(access.size)),
         AsBytes(value).first(size_t(access.size)));
  }
  void Reply(uint64_t value) {
    const ByteVector reply = Pack(MakeHeader(Command::kRet, sizeof value), value);
    transport_->Send(reply, {});
  }

  std::unique_ptr<SocketTransport> transport_;
  std::vector<std::byte> config_ = std::vector<std::byte>(kConfigSize);
  std::mutex mutex_;
  std::vector<ByteVector> sent_;
  size_t fds_ = 0;
  std::atomic<bool> silent_ = false;
  std::thread thread_;
};

class MpqemuClientTest : public testing::Test {
 protected:
  void Attach(ClientOptions options = {.io_base = 0xc000, .memory_base = 0xfebf0000}) {
    auto sockets = MakeSocketPair().value();
    remote_ = std::make_unique<FakeRemote>(std::move(sockets.second));
    auto client = MpqemuClient::Attach(std::move(sockets.first), options);
    ASSERT_TRUE(client) << client.error().message;
    client_ = std::move(*client);
  }
  // What was sent since the last call; asking waits for all of it.
  std::vector<ByteVector> Take() {
    const auto all = remote_->Sent();
    const std::vector<ByteVector> fresh(all.begin() + static_cast<ptrdiff_t>(taken_), all.end());
    taken_ = all.size();
    return fresh;
  }
  void Barrier() { ASSERT_TRUE(client_->Read<uint16_t>({.region = kConfig, .offset = 0})); }

  std::unique_ptr<FakeRemote> remote_;
  std::unique_ptr<MpqemuClient> client_;
  size_t taken_ = 0;
};

TEST(MpqemuGoldenTest, EveryMessageDecodesAndEncodesToItsBytes) {
  const auto golden = ReadGolden();
  ASSERT_GT(golden.size(), 100u);
  for (const GoldenMessage& message : golden) {
    Frame frame;
    Copy(AsWritableBytes(frame.header), ConstBytes(message.bytes).first(sizeof(Header)));
    frame.payload = ConstBytes(message.bytes).subspan(sizeof(Header));
    frame.fds = MakeFds(message.fds);
    EXPECT_EQ(CommandName(frame.command()), message.command);
    EXPECT_TRUE(CheckHeader(frame.header));
    EXPECT_EQ(FrameSize(frame.header), message.bytes.size());
    if (!message.request) continue;
    const auto request = DecodeRequest(frame);
    ASSERT_TRUE(request) << request.error().message;
    const ByteVector again = std::visit(
        [&](const auto& typed) {
          const Header header = MakeHeader(frame.command(), frame.payload.size());
          if constexpr (std::is_empty_v<std::decay_t<decltype(typed)>>) {
            return Pack(header);
          } else {
            return Pack(header, typed);
          }
        },
        *request);
    EXPECT_EQ(again, message.bytes) << message.command;
  }
}

// What the client sends for the golden session's own actions is what QEMU's client sent.
TEST_F(MpqemuClientTest, ReproducesTheGoldenBytes) {
  const auto golden = ReadGolden();
  const auto is_golden = [&](const ByteVector& bytes) {
    return std::ranges::any_of(golden, [&](const GoldenMessage& message) {
      return message.request && message.bytes == bytes;
    });
  };
  Attach();
  Take();
  const UniqueFd memory = MakeMemfd("guest", 16 << 20).value();
  ASSERT_TRUE(client_->DmaMap({.iova = 0, .size = 0xc0000, .fd = memory.get(), .offset = 0}));
  ASSERT_TRUE(client_->DmaMap(
      {.iova = 0x100000, .size = 0xf00000, .fd = memory.get(), .offset = 0x100000}));
  Barrier();
  EXPECT_TRUE(is_golden(Take()[1])) << "SYNC_SYSMEM";
  const UniqueFd irq = MakeEventfd().value();
  const int irq_fd = irq.get();
  ASSERT_TRUE(client_->ArmIrqs(IrqIndex::kIntx, 0, {&irq_fd, 1}));
  ASSERT_TRUE(client_->Read<uint16_t>({.region = kConfig, .offset = 0}));
  ASSERT_TRUE(client_->Read<uint16_t>({.region = kConfig, .offset = 2}));
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0x10}, 0xffffffff));
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0x10}, 0xc000));
  ASSERT_TRUE(client_->Write<uint16_t>({.region = kConfig, .offset = 4}, 7));
  ASSERT_TRUE(client_->Read<uint8_t>({.region = 1, .offset = 0}));
  ASSERT_TRUE(client_->Write<uint32_t>({.region = 1, .offset = 0x34}, 0xdeadbeef));
  ASSERT_TRUE(client_->Read<uint32_t>({.region = 1, .offset = 0x34}));
  ASSERT_TRUE(client_->Read<uint32_t>({.region = 0, .offset = 0x34}));
  ASSERT_TRUE(client_->Read<uint16_t>({.region = 1, .offset = 0x34}));
  ASSERT_TRUE(client_->Write<uint64_t>({.region = 2, .offset = 0}, 0x1122334455667788));
  ASSERT_TRUE(client_->Read<uint64_t>({.region = 2, .offset = 0}));
  size_t found = 0;
  std::vector<Command> commands;
  for (const ByteVector& bytes : Take()) {
    // Learning where BARs lie after a write to configuration space is the client's own.
    if (is_golden(bytes)) ++found;
    commands.push_back(Command{LoadLe<int32_t>(bytes)});
  }
  EXPECT_GE(found, 13u);
  for (const Command command : {Command::kSetIrqfd, Command::kPciCfgWrite, Command::kBarWrite}) {
    EXPECT_EQ(std::ranges::count(commands, command) != 0, true);
  }
}

TEST_F(MpqemuClientTest, BarsAreSizedPlacedAndDecoded) {
  Attach();
  const uint64_t sizes[] = {256, 1024, 8192, 0, 0, 0, 0, 256, 0};
  for (uint32_t region = 0; region < 9; ++region) {
    EXPECT_EQ(client_->GetRegionInfo(region)->info.size, sizes[region]) << region;
  }
  EXPECT_EQ(client_->GetIrqInfo(IrqIndex::kIntx)->count, 1u);
  EXPECT_EQ(client_->GetIrqInfo(IrqIndex::kMsix)->count, 0u);
  EXPECT_EQ(client_->Read<uint8_t>({.region = 1, .offset = 0x34}).value(), 0x34);
}

// What ends QEMU's remote is answered here.
TEST_F(MpqemuClientTest, DangerousAccessesNeverLeave) {
  Attach();
  Take();
  EXPECT_EQ(client_->Read<uint32_t>({.region = 1, .offset = 1022}).value(), 0xffffffff);
  EXPECT_EQ(client_->Read<uint32_t>({.region = 4, .offset = 0}).value(), 0xffffffff);
  EXPECT_EQ(client_->Read<uint64_t>({.region = 1, .offset = ~uint64_t{0}}).value(), ~uint64_t{0});
  ASSERT_TRUE(client_->Write<uint32_t>({.region = 1, .offset = 1024}, 1));
  ASSERT_TRUE(client_->PostWrite({.region = 6, .offset = 0}, Counting(4)));
  EXPECT_TRUE(Take().empty());
  // With decoding off.
  ASSERT_TRUE(client_->Write<uint16_t>({.region = kConfig, .offset = 4}, 0));
  Take();
  EXPECT_EQ(client_->Read<uint8_t>({.region = 1, .offset = 0}).value(), 0xff);
  EXPECT_TRUE(Take().empty());
  // With BARs where QEMU maps none.
  ASSERT_TRUE(client_->Write<uint16_t>({.region = kConfig, .offset = 4}, 3));
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0x10}, 0x0200'0000));
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0x18}, 0xffff'e000));
  Take();
  EXPECT_EQ(client_->Read<uint8_t>({.region = 0, .offset = 0}).value(), 0xff);
  EXPECT_EQ(client_->Read<uint8_t>({.region = 2, .offset = 0}).value(), 0xff);
  EXPECT_TRUE(Take().empty());
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0x10}, 0xff00));
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0x18}, 0xffff'c000));
  Take();
  EXPECT_EQ(client_->Read<uint8_t>({.region = 0, .offset = 3}).value(), 0x03);
  EXPECT_EQ(client_->Read<uint8_t>({.region = 2, .offset = 0x12}).value(), 0x12);
  EXPECT_EQ(Take().size(), 2u);
  // The last bytes of configuration space go as a dword.
  ASSERT_TRUE(client_->Write<uint32_t>({.region = kConfig, .offset = 0xfc}, 0x44332211));
  EXPECT_EQ(client_->Read<uint8_t>({.region = kConfig, .offset = 0xff}).value(), 0x44);
  EXPECT_EQ(client_->Read<uint16_t>({.region = kConfig, .offset = 0xfd}).value(), 0x3322);
  ASSERT_TRUE(client_->Write<uint8_t>({.region = kConfig, .offset = 0xfe}, 0x99));
  EXPECT_EQ(client_->Read<uint32_t>({.region = kConfig, .offset = 0xfc}).value(), 0x44992211u);
  EXPECT_EQ(client_->Read<uint32_t>({.region = kConfig, .offset = 0x100}).value(), 0xffffffff);
  for (const ByteVector& bytes : Take()) {
    const auto access = LoadLe<uint32_t>(ConstBytes(bytes).subspan(sizeof(Header)));
    EXPECT_LE(access + 4, kConfigSize);
  }
}

TEST_F(MpqemuClientTest, WindowsThatContinueEachOtherAreOneRegionAndSevenIsTheLimit) {
  Attach();
  const UniqueFd memory = MakeMemfd("guest", 16 << 20).value();
  const auto map = [&](uint64_t iova, uint64_t offset) {
    return client_->DmaMap({.iova = iova, .size = 0x1000, .fd = memory.get(), .offset = offset});
  };
  for (uint64_t i = 0; i < 8; ++i) ASSERT_TRUE(map(i * 0x1000, i * 0x1000));
  Barrier();
  EXPECT_EQ(LoadLe<uint64_t>(ConstBytes(remote_->Sent().end()[-2]).subspan(16 + 64)), 0x8000u);
  for (uint64_t i = 0; i < 6; ++i) ASSERT_TRUE(map(0x100000 + i * 0x2000, 0x20000));
  const auto eighth = map(0x200000, 0x30000);
  ASSERT_FALSE(eighth);
  EXPECT_EQ(eighth.error().code, ENOSPC);
  EXPECT_EQ(client_->DmaMap({.iova = 0x300000, .size = 0x1000, .fd = -1}).error().code, ENOTSUP);
  EXPECT_EQ(map(0x800, 0).error().code, EEXIST);
  EXPECT_EQ(client_->DmaUnmap(0x800, 0x1000).error().code, EINVAL);
  // Nothing is a region, too: there is no message without one.
  ASSERT_TRUE(client_->DmaUnmapAll());
  ASSERT_TRUE(client_->alive());
  Barrier();
}

TEST_F(MpqemuClientTest, ReadsAreInFlightTogetherAndEndInAnyOrder) {
  Attach();
  std::vector<std::array<std::byte, 4>> values(200);
  std::vector<DeviceClient::ReadTicket> tickets;
  for (uint32_t i = 0; i < values.size(); ++i) {
    tickets.push_back(client_->BeginRead({.region = 1, .offset = i}, values[i]).value());
  }
  for (size_t i = values.size(); i-- > 0;) ASSERT_TRUE(client_->FinishRead(tickets[i]));
  for (uint32_t i = 0; i < values.size(); ++i) EXPECT_EQ(LoadLe<uint32_t>(values[i]), i);
}

TEST_F(MpqemuClientTest, ThreadsShareTheWire) {
  Attach();
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 300; ++i) {
        const uint64_t offset = (thread * 64 + i % 60) & 0xff;
        const auto read = client_->Read<uint8_t>({.region = 1, .offset = offset});
        if (!read || *read != offset) ++wrong;
        if (!client_->PostWrite({.region = 1, .offset = offset}, Counting(1))) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(MpqemuClientTest, ARemoteThatFallsSilentOrGoesEndsTheClient) {
  Attach({.timeout_ns = 100'000'000});
  remote_->set_silent();
  const auto silent = client_->Read<uint8_t>({.region = 1, .offset = 0});
  ASSERT_FALSE(silent);
  EXPECT_EQ(silent.error().code, ETIMEDOUT);
  EXPECT_FALSE(client_->alive());
  Attach();
  remote_.reset();
  EXPECT_FALSE(client_->Read<uint8_t>({.region = 1, .offset = 0}));
  EXPECT_FALSE(client_->alive());
  const UniqueFd never = MakeEventfd().value();
  EXPECT_FALSE(client_->WaitReadable(never.get(), 1'000'000'000));
}

TEST_F(MpqemuClientTest, WhatTheProtocolLacksIsRefusedByName) {
  Attach();
  const UniqueFd irq = MakeEventfd().value();
  const int fd = irq.get();
  EXPECT_EQ(client_->ArmIrqs(IrqIndex::kMsix, 0, {&fd, 1}).error().code, ENOTSUP);
  EXPECT_EQ(client_->MaskIrq(IrqIndex::kIntx, 0).error().code, ENOTSUP);
  EXPECT_EQ(client_->MigDataRead({}).error().code, ENOTSUP);
  EXPECT_TRUE(client_->UnmaskIrq(IrqIndex::kIntx, 0));
  EXPECT_TRUE(client_->Reset());
  EXPECT_EQ(client_->Read<uint8_t>({.region = 1, .offset = 3}).value(), 3);
}

}  // namespace
}  // namespace farside::mpqemu
