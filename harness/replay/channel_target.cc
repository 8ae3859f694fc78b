#include <poll.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "harness/replay/target.h"
#include "protocol/capabilities.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::replay {
namespace {

using namespace vfio_user;  // NOLINT: this file speaks the protocol.

constexpr uint64_t kReplyTimeoutNs = 10'000'000'000;
constexpr uint64_t kWindowSize = uint64_t{1} << 42;
constexpr size_t kFlushAt = 64 << 10;

class ChannelTarget final : public Target {
 public:
  explicit ChannelTarget(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}

  Result<void> Attach(Outputs& outputs) override {
    outputs_ = &outputs;
    if (auto negotiated = Negotiate(); !negotiated) return negotiated;
    const DmaMap map{.argsz = sizeof map, .flags = kDmaMapRead | kDmaMapWrite, .size = kWindowSize};
    auto mapped = Call(Command::kDmaMap, AsBytes(map), {});
    if (!mapped) return tl::unexpected(mapped.error());
    if (mapped->error != 0) {
      return Fail("the server refuses memory that it reaches by messages only: {}",
                  ErrnoText(mapped->error));
    }
    for (const IrqIndex index : {IrqIndex::kIntx, IrqIndex::kMsi, IrqIndex::kMsix}) {
      if (auto armed = Arm(index); !armed) return armed;
    }
    return {};
  }

  void AdvanceClock(uint64_t time_ns) override {
    if (!extensions_.clock) return;
    const ClockAdvance advance{.time_ns = time_ns};
    Append(static_cast<Command>(ExtensionCommand::kClockAdvance), AsBytes(advance), kFlagNoReply);
  }

  Result<void> Deliver(const trace::Event& command, Reply* reply) override {
    if (reply == nullptr && command.command() == Command::kRegionWrite) {
      Append(command.command(), command.payload(), kFlagNoReply);
      return writer_.pending() < kFlushAt ? Result<void>() : Flush();
    }
    auto got = Call(command.command(), command.payload(), {});
    if (!got) return tl::unexpected(got.error());
    if (reply != nullptr) *reply = std::move(*got);
    return {};
  }

  Result<bool> Wait(uint64_t timeout_ns) override {
    if (auto flushed = Flush(); !flushed) return tl::unexpected(flushed.error());
    return Receive(timeout_ns);
  }

  void Step(uint64_t) override {}
  bool takes_time() const override { return true; }

 private:
  struct Vector {
    IrqIndex index;
    uint32_t vector;
    UniqueFd eventfd;
  };

  uint16_t Append(Command command, ConstBytes payload, uint32_t flags) {
    const uint16_t id = next_id_++;
    Copy(writer_.Append(CommandHeader(id, command, payload.size(), flags)), payload);
    return id;
  }

  // Sends a command and handles what comes until its reply does.
  Result<Reply> Call(Command command, ConstBytes payload, std::vector<UniqueFd> fds) {
    const uint16_t id = next_id_++;
    writer_.Append(CommandHeader(id, command, payload.size()), payload, std::move(fds));
    awaited_ = id;
    reply_.reset();
    const uint64_t deadline = clock_.now_ns() + kReplyTimeoutNs;
    while (!reply_) {
      if (auto flushed = Flush(); !flushed) return tl::unexpected(flushed.error());
      const uint64_t now = clock_.now_ns();
      if (now >= deadline) {
        return Fail("the server does not answer {} within {} s", CommandName(command),
                    kReplyTimeoutNs / 1'000'000'000);
      }
      if (auto received = Receive(deadline - now); !received) {
        return tl::unexpected(received.error());
      }
    }
    return std::move(*reply_);
  }

  Result<void> Negotiate() {
    const Capabilities offer{
        .max_msg_fds = kMaxMessageFds,
        .max_data_xfer_size = kDefaultMaxDataXferSize,
        .max_dma_maps = {},
        .pgsizes = {},
        .write_multiple = {},
        .migration = {},
        .twin_socket = {},
        .farside = Capabilities::Farside{.interrupt = true, .clock = true, .device = {}}};
    const std::string json = FormatCapabilities(offer);
    std::vector<std::byte> payload(sizeof(Version) + json.size() + 1);
    Copy(payload, AsBytes(Version{.major = 0, .minor = 0}));
    Copy(Bytes(payload).subspan(sizeof(Version)),
         std::as_bytes(std::span(json.c_str(), json.size() + 1)));
    auto reply = Call(Command::kVersion, payload, {});
    if (!reply) return tl::unexpected(reply.error());
    if (reply->error != 0) return Fail("the server refuses VERSION: {}", ErrnoText(reply->error));
    const auto text = ConstBytes(reply->payload);
    if (text.size() < sizeof(Version) + 2) return {};  // No JSON: no extension.
    const auto theirs =
        ParseCapabilities({reinterpret_cast<const char*>(text.data()) + sizeof(Version),
                           text.size() - sizeof(Version) - 1});
    if (!theirs) return tl::unexpected(theirs.error());
    extensions_ = theirs->farside.value_or(Capabilities::Farside{});
    return {};
  }

  Result<void> Arm(IrqIndex index) {
    const IrqInfo ask{.argsz = sizeof ask, .index = static_cast<uint32_t>(index)};
    auto info = Call(Command::kDeviceGetIrqInfo, AsBytes(ask), {});
    if (!info) return tl::unexpected(info.error());
    if (info->error != 0 || info->payload.size() < sizeof(IrqInfo)) return {};
    IrqInfo answer;
    std::memcpy(&answer, info->payload.data(), sizeof answer);
    const uint32_t step = extensions_.interrupt ? answer.count : uint32_t{kMaxMessageFds};
    for (uint32_t start = 0; start < answer.count; start += step) {
      const uint32_t count = std::min(step, answer.count - start);
      if (auto armed = ArmSome(index, start, count); !armed) return armed;
    }
    return {};
  }

  Result<void> ArmSome(IrqIndex index, uint32_t start, uint32_t count) {
    const bool inband = extensions_.interrupt;
    std::vector<UniqueFd> fds;
    for (uint32_t i = 0; i < count && !inband; ++i) {
      auto eventfd = MakeEventfd();
      if (!eventfd) return tl::unexpected(eventfd.error());
      fds.emplace_back(dup(eventfd->get()));
      vectors_.push_back({index, start + i, std::move(*eventfd)});
    }
    const SetIrqs request{.argsz = sizeof request,
                          .flags = (inband ? kIrqDataInband : kIrqDataEventfd) | kIrqActionTrigger,
                          .index = static_cast<uint32_t>(index),
                          .start = start,
                          .count = count};
    auto armed = Call(Command::kDeviceSetIrqs, AsBytes(request), std::move(fds));
    if (!armed) return tl::unexpected(armed.error());
    if (armed->error != 0)
      return Fail("the server refuses interrupts: {}", ErrnoText(armed->error));
    return {};
  }

  Result<void> Flush() {
    for (;;) {
      const auto flushed = writer_.Flush(*transport_);
      if (!flushed) return tl::unexpected(flushed.error());
      if (*flushed) return {};
      // The server is behind: it may wait for us to read first.
      pollfd wait{transport_->fd(), POLLIN | POLLOUT, 0};
      if (poll(&wait, 1, static_cast<int>(kReplyTimeoutNs / 1'000'000)) == 0) {
        return Fail("the server takes no messages for {} s", kReplyTimeoutNs / 1'000'000'000);
      }
      if ((wait.revents & POLLIN) != 0) {
        if (auto received = ReceiveFrames(); !received) return tl::unexpected(received.error());
      }
    }
  }

  // Waits until something comes and handles it all. False if nothing came in time.
  Result<bool> Receive(uint64_t timeout_ns) {
    polled_.clear();
    polled_.push_back({transport_->fd(), POLLIN, 0});
    for (const Vector& vector : vectors_) polled_.push_back({vector.eventfd.get(), POLLIN, 0});
    const timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000),
                           static_cast<long>(timeout_ns % 1'000'000'000)};
    const int ready = ppoll(polled_.data(), polled_.size(), &timeout, nullptr);
    if (ready < 0 && errno != EINTR) return Fail("cannot wait: {}", ErrnoText(errno));
    if (ready <= 0) return false;
    // Messages first: an interrupt by eventfd follows the DMA it announces.
    if (polled_.front().revents != 0) {
      if (auto received = ReceiveFrames(); !received) return tl::unexpected(received.error());
    }
    for (size_t i = 0; i < vectors_.size(); ++i) {
      if (polled_[i + 1].revents == 0) continue;
      for (uint64_t n = DrainEventfd(vectors_[i].eventfd.get()); n != 0; --n) {
        outputs_->OnInterrupt(static_cast<uint32_t>(vectors_[i].index), vectors_[i].vector);
      }
    }
    return true;
  }

  Result<void> ReceiveFrames() {
    const auto filled = reader_.Fill(*transport_);
    if (!filled) return tl::unexpected(filled.error());
    if (*filled == FrameReader::Status::kEnd) return Fail("the server closed the channel");
    for (;;) {
      auto frame = reader_.Next();
      if (!frame) return tl::unexpected(frame.error());
      if (!*frame) break;
      if (auto handled = Handle(**frame); !handled) return handled;
    }
    return {};
  }

  Result<void> Handle(const Frame& frame) {
    if (frame.is_reply()) {
      if (frame.header.message_id != awaited_) return {};
      reply_ = Reply{.error = 0, .payload = {frame.payload.begin(), frame.payload.end()}};
      if ((frame.header.flags & kFlagError) != 0) {
        reply_->error = frame.header.error == 0 ? EIO : static_cast<int>(frame.header.error);
      }
      return {};
    }
    if (frame.header.command == static_cast<uint16_t>(ExtensionCommand::kInterrupt)) {
      if (frame.payload.size() != sizeof(Interrupt)) return Fail("a malformed INTERRUPT came");
      Interrupt interrupt;
      std::memcpy(&interrupt, frame.payload.data(), sizeof interrupt);
      outputs_->OnInterrupt(interrupt.index, interrupt.vector);
      return {};
    }
    const auto request = DecodeRequest(frame);
    if (!request) return tl::unexpected(request.error());
    if (const auto* read = std::get_if<DmaReadRequest>(&*request)) return AnswerRead(frame, *read);
    if (const auto* write = std::get_if<DmaWriteRequest>(&*request)) {
      const int error = outputs_->OnDmaWrite(write->iova, write->data);
      if (error != 0) {
        writer_.Append(ErrorHeader(frame.header, error));
      } else {
        const DmaAccess done{.iova = write->iova, .count = write->count};
        Copy(writer_.Append(ReplyHeader(frame.header, sizeof done)), AsBytes(done));
      }
      return {};
    }
    return Fail("the server sent {}, a command of the client's", CommandName(frame.command()));
  }

  Result<void> AnswerRead(const Frame& frame, const DmaReadRequest& read) {
    if (read.count > kDefaultMaxDataXferSize) {
      return Fail("the server asks for {} bytes in one DMA_READ", read.count);
    }
    read_.resize(read.count);
    const int error = outputs_->OnDmaRead(read.iova, read_);
    if (error != 0) {
      writer_.Append(ErrorHeader(frame.header, error));
      return {};
    }
    const DmaAccess done{.iova = read.iova, .count = read.count};
    const Bytes reply = writer_.Append(ReplyHeader(frame.header, sizeof done + read.count));
    Copy(reply, AsBytes(done));
    Copy(reply.subspan(sizeof done), read_);
    return {};
  }

  std::unique_ptr<Transport> transport_;
  MonotonicClock clock_;
  Outputs* outputs_ = nullptr;
  FrameReader reader_{MaxMessageSize(kDefaultMaxDataXferSize)};
  FrameWriter writer_;
  Capabilities::Farside extensions_;
  std::vector<Vector> vectors_;
  std::vector<pollfd> polled_;
  std::vector<std::byte> read_;
  uint16_t next_id_ = 0;
  uint16_t awaited_ = 0;
  std::optional<Reply> reply_;
};

}  // namespace

Result<std::unique_ptr<Target>> ConnectTarget(const std::string& path) {
  auto socket = ConnectUnix(path);
  if (!socket) return tl::unexpected(socket.error());
  auto transport = SocketTransport::Create(std::move(*socket));
  if (!transport) return tl::unexpected(transport.error());
  return std::make_unique<ChannelTarget>(std::move(*transport));
}

}  // namespace farside::replay
