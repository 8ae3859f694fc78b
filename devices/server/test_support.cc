#include "devices/server/test_support.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define FARSIDE_TEST_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FARSIDE_TEST_ASAN
#endif
#endif
#ifdef FARSIDE_TEST_ASAN
extern "C" size_t __sanitizer_get_current_allocated_bytes();  // g++ ships no header for it.
#else
#include <malloc.h>
#endif

namespace farside {

using vfio_user::Command;

namespace {

PciConfig MakeConfig() {
  std::array<BarSpec, kBarCount> bars{};
  bars[0] = {.kind = BarKind::kMemory32, .size = FakeDevice::kBar0Size};
  bars[2] = {.kind = BarKind::kMemory32, .size = 0x100};
  bars[4] = {.kind = BarKind::kMemory32, .size = 0x1000};
  PciConfig config({.vendor = 0x1b36, .device = 0x00fa, .class_code = 0xff0000}, bars,
                   /*has_intx=*/true);
  config.AddPowerManagement();
  config.AddPcieEndpoint();
  config.AddMsi(FakeDevice::kMsiVectors);
  config.AddMsix({.count = FakeDevice::kMsixVectors,
                  .table_bar = 4,
                  .table_offset = 0,
                  .pba_bar = 4,
                  .pba_offset = FakeDevice::kMsixPba});
  return config;
}

}  // namespace

FakeDevice::FakeDevice(DeviceEnv env, std::vector<DoorbellRange> doorbells)
    : PciDevice("fake", std::move(env), MakeConfig(), kMsiVectors),
      doorbells_(std::move(doorbells)),
      changed_(loop()) {}

void FakeDevice::ReadBar(uint32_t bar, uint64_t offset, Bytes out) {
  if (read_starts_dma) started_by_read = StartRead(*std::exchange(read_starts_dma, {}), 64);
  Fill(out, 0);
  if (bar == 0) Copy(out, ConstBytes(bar0).subspan(offset, out.size()));
}

void FakeDevice::WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) {
  bar_writes.push_back({bar, offset, {in.begin(), in.end()}});
  if (bar == 0) Copy(Bytes(bar0).subspan(offset, in.size()), in);
  if (bar == 0 && offset == kTimer && in.size() == 8) {
    deadline = clock().now_ns() + LoadLe<uint64_t>(in);
  }
}

void FakeDevice::OnDeadline() {
  deadline.reset();
  SetIntxLevel(true);
}

void FakeDevice::OnReset(ResetKind) {
  ++resets;
  std::ranges::fill(bar0, std::byte{0});
}

void FakeDevice::SaveModel(StateWriter& out) const {
  out.Section("fake", 1);
  out.PutBytes(bar0);
}

Result<void> FakeDevice::LoadModel(StateReader& in) {
  if (const auto version = in.Section("fake", 1); !version) return tl::unexpected(version.error());
  std::vector<std::byte> loaded(kBar0Size);
  in.GetBytes(loaded);
  if (in.remaining() != 0 || refuses_load) return Fail("the fake device's section is not its own");
  if (const auto finished = in.Finish(); !finished) return finished;
  bar0 = std::move(loaded);
  return {};
}

void FakeDevice::SaveModelFast(FastState& out) const {
  CHECK(paused && in_flight_ == 0);
  out.PutArray(bar0);
}

void FakeDevice::LoadModelFast(FastReader& in) {
  CHECK(paused && in_flight_ == 0);
  in.GetArray(std::span(bar0));
}

std::shared_ptr<FakeDevice::Dma> FakeDevice::StartRead(uint64_t iova, size_t size) {
  auto access = std::make_shared<Dma>();
  access->data.resize(size);
  scope_.Spawn(RunRead(access, iova));
  return access;
}

std::shared_ptr<FakeDevice::Dma> FakeDevice::StartWrite(uint64_t iova,
                                                        std::vector<std::byte> data) {
  auto access = std::make_shared<Dma>();
  access->data = std::move(data);
  scope_.Spawn(RunWrite(access, iova));
  return access;
}

std::shared_ptr<FakeDevice::Io> FakeDevice::StartIo(std::vector<DmaSegment> segments,
                                                    DmaAccess access) {
  auto io = std::make_shared<Io>();
  scope_.Spawn(RunIo(io, std::move(segments), access));
  return io;
}

void FakeDevice::EndIo(Io& io) {
  io.ended = true;
  changed_.NotifyAll();
}

void FakeDevice::EndAllIo() {
  ending_ = true;
  changed_.NotifyAll();
}

Task<void> FakeDevice::RunRead(std::shared_ptr<Dma> access, uint64_t iova) {
  ++in_flight_;
  access->status = co_await dma().Read(iova, access->data);
  End();
}

Task<void> FakeDevice::RunWrite(std::shared_ptr<Dma> access, uint64_t iova) {
  ++in_flight_;
  access->status = co_await dma().Write(iova, access->data);
  End();
}

Task<void> FakeDevice::RunIo(std::shared_ptr<Io> io, std::vector<DmaSegment> segments,
                             DmaAccess access) {
  ++in_flight_;
  DmaBuffer buffer;
  io->mapped = co_await dma().Map(segments, access, &buffer);
  if (io->mapped == DmaStatus::kOk) {
    io->iovecs.assign(buffer.iovecs().begin(), buffer.iovecs().end());
    while (!io->ended && !ending_) co_await changed_.Wait();
    io->status = co_await buffer.Finish();
  }
  End();
}

void FakeDevice::End() {
  --in_flight_;
  changed_.NotifyAll();
}

Task<void> FakeDevice::Drain() {
  paused = true;
  while (in_flight_ != 0) co_await changed_.Wait();
}

int Received::error() const {
  if ((header.flags & vfio_user::kFlagError) == 0) return 0;
  EXPECT_EQ(header.size, sizeof(vfio_user::Header)) << "an error reply is a header only";
  EXPECT_EQ(header.flags, 0x21u);
  EXPECT_NE(header.error, 0u);
  return static_cast<int>(header.error);
}

void RawClient::SendBytes(ConstBytes bytes, std::span<const int> fds) {
  for (int tries = 0; !bytes.empty();) {
    const ssize_t sent = transport_->Send(bytes, fds);
    if (sent == -EAGAIN && ++tries < 1000) {
      bench_.Settle();
      continue;
    }
    // A server that has closed the channel does not hear the rest.
    if (sent < 0) return;
    bytes = bytes.subspan(static_cast<size_t>(sent));
    fds = {};
  }
}

uint16_t RawClient::Send(Command command, const ByteVector& payload, uint32_t flags,
                         std::span<const int> fds) {
  SendBytes(Pack(vfio_user::CommandHeader(++last_id_, command, payload.size(), flags), payload),
            fds);
  return last_id_;
}

void RawClient::Reply(const Received& command, const ByteVector& payload) {
  SendBytes(Pack(vfio_user::ReplyHeader(command.header, payload.size()), payload));
}

void RawClient::ReplyError(const Received& command, int error) {
  SendBytes(Pack(vfio_user::ErrorHeader(command.header, error)));
}

bool RawClient::Fetch() {
  bench_.Settle();
  if (ended_ || !transport_) return false;
  const auto status = reader_.Fill(*transport_);
  if (!status || *status == vfio_user::FrameReader::Status::kEnd) ended_ = true;
  if (!status || *status != vfio_user::FrameReader::Status::kData) return false;
  for (;;) {
    auto frame = reader_.Next();
    EXPECT_TRUE(frame) << "the server's stream is out of step";
    if (!frame || !*frame) return true;
    const ConstBytes payload = (*frame)->payload;
    queue_.push_back(
        {(*frame)->header, {payload.begin(), payload.end()}, std::move((*frame)->fds)});
  }
}

std::optional<Received> RawClient::Receive() {
  while (queue_.empty() && Fetch()) {
  }
  if (queue_.empty()) return std::nullopt;
  Received next = std::move(queue_.front());
  queue_.pop_front();
  return next;
}

Received RawClient::Await(uint16_t id) {
  for (size_t seen = 0;;) {
    for (; seen < queue_.size(); ++seen) {
      if (!queue_[seen].is_reply() || queue_[seen].header.message_id != id) continue;
      Received reply = std::move(queue_[seen]);
      queue_.erase(queue_.begin() + static_cast<ptrdiff_t>(seen));
      return reply;
    }
    if (Fetch()) continue;
    ADD_FAILURE() << "command " << id << " is not answered";
    return {};
  }
}

Received RawClient::Call(Command command, const ByteVector& payload, std::span<const int> fds) {
  Received reply = Await(Send(command, payload, 0, fds));
  EXPECT_EQ(reply.header.command, static_cast<uint16_t>(command)) << "replies repeat the command";
  return reply;
}

int RawClient::ErrorOf(Command command, const ByteVector& payload, std::span<const int> fds) {
  return Call(command, payload, fds).error();
}

bool RawClient::Closed() {
  while (Fetch()) {
  }
  return ended_;
}

Received RawClient::Version(std::string_view json, uint16_t minor) {
  ByteVector text = Pack(json);
  if (!json.empty()) text.push_back(std::byte{0});
  return Call(Command::kVersion, Pack(vfio_user::Version{.major = 0, .minor = minor}, text));
}

void RawClient::Negotiate() {
  EXPECT_EQ(Version(R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}})").error(),
            0);
}

int RawClient::Map(uint64_t iova, uint64_t size, int fd, uint64_t offset, uint32_t flags) {
  const vfio_user::DmaMap map{
      .argsz = sizeof map, .flags = flags, .offset = offset, .iova = iova, .size = size};
  return ErrorOf(Command::kDmaMap, Pack(map), std::span(&fd, fd >= 0 ? 1 : 0));
}

int RawClient::Unmap(uint64_t iova, uint64_t size) {
  const vfio_user::DmaUnmap unmap{.argsz = sizeof unmap, .iova = iova, .size = size};
  const Received reply = Call(Command::kDmaUnmap, Pack(unmap));
  const int error = reply.error();
  EXPECT_EQ(reply.payload, error == 0 ? Pack(unmap) : ByteVector()) << "it repeats the range";
  return error;
}

int RawClient::SetIrqs(uint32_t flags, vfio_user::IrqIndex index, uint32_t start, uint32_t count,
                       std::span<const int> fds) {
  const vfio_user::SetIrqs irqs{.argsz = sizeof irqs,
                                .flags = flags,
                                .index = static_cast<uint32_t>(index),
                                .start = start,
                                .count = count};
  return ErrorOf(Command::kDeviceSetIrqs, Pack(irqs), fds);
}

ByteVector RawClient::ReadPayload(Region region, uint64_t offset, uint32_t count) {
  return Pack(vfio_user::RegionAccess{
      .offset = offset, .region = static_cast<uint32_t>(region), .count = count});
}

Bench::Bench(Link link, std::vector<DoorbellRange> doorbells)
    : link_(link),
      loop_(EpollLoop::Create(clock_).value()),
      slot_(std::make_unique<Slot>(*loop_, "fake0")) {
  auto device = std::make_unique<FakeDevice>(slot_->env(), std::move(doorbells));
  device_ = device.get();
  slot_->Plug(std::move(device));
  server_ = std::make_unique<VfioUserServer>(*slot_);
}

Bench::~Bench() {
  server_->Disconnect();
  device_->EndAllIo();
  Settle();
  server_.reset();
}

std::unique_ptr<RawClient> Bench::Connect() {
  std::unique_ptr<Transport> ours;
  std::unique_ptr<Transport> theirs;
  if (link_ == Link::kMemory) {
    std::tie(ours, theirs) = MemoryTransport::MakePair();
  } else {
    auto sockets = MakeSocketPair().value();
    ours = SocketTransport::Create(std::move(sockets.first)).value();
    theirs = SocketTransport::Create(std::move(sockets.second)).value();
  }
  if (!server_->Accept(std::move(theirs))) return nullptr;
  return std::make_unique<RawClient>(*this, std::move(ours));
}

std::unique_ptr<RawClient> Bench::ConnectReady() {
  auto client = Connect();
  if (client == nullptr) return nullptr;
  client->Negotiate();
  client->Write(Region::kConfig, pci::kCommand,
                static_cast<uint16_t>(pci::kCommandBusMaster | pci::kCommandMemory));
  return client;
}

void Bench::Settle() {
  // A socket's message is at the other end when send returns, so nothing is to be waited for: three
  // rounds without anything done mean that there is nothing to do.
  const auto work = [&] {
    const VfioUserServer::Counters& counters = server_->counters();
    return counters.commands + counters.stray_replies + loop_->resumptions();
  };
  uint64_t done = work();
  for (int idle = 0; idle < 3; ++idle) {
    if (link_ == Link::kMemory) server_->Pump();
    loop_->RunOnce(0);
    if (std::exchange(done, work()) != done) idle = 0;
  }
}

void Bench::Advance(uint64_t ns) {
  clock_.AdvanceTo(clock_.now_ns() + ns);
  Settle();
}

#ifdef FARSIDE_TEST_ASAN
size_t AllocatedBytes() { return __sanitizer_get_current_allocated_bytes(); }
#else
size_t AllocatedBytes() { return mallinfo2().uordblks; }
#endif

Eventfds::Eventfds(size_t count) {
  for (size_t i = 0; i < count; ++i) {
    owned_.push_back(MakeEventfd().value());
    numbers_.push_back(owned_.back().get());
  }
}

}  // namespace farside
