// A vfio-user server for tests of clients: a thread at the other end of a socket pair, with eight
// regions of plain bytes. It behaves, unless a test takes a message out of its hands.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "protocol/test_support.h"
#include "protocol/vfio_user_codec.h"

namespace farside::vfio_user {

class FakeServer {
 public:
  static constexpr uint32_t kRegionSize = 0x4000;

  // Sees every frame first, on the server's thread; true when it has dealt with it.
  using Hook = std::function<bool(FakeServer&, Frame&)>;

  FakeServer() : FakeServer(Hook()) {}
  explicit FakeServer(Hook hook) : hook_(std::move(hook)) {
    auto sockets = MakeSocketPair().value();
    client_ = std::move(sockets.second);
    line_ = SocketTransport::Create(std::move(sockets.first)).value();
    line_->set_receive_waits(true);
    regions_.assign(8, ByteVector(kRegionSize));
    thread_ = std::thread([this] { Run(); });
  }
  // The client is destroyed before, or it waits for ever.
  ~FakeServer() { Join(); }
  // Waits for the end of the thread, after the client's.
  void Join() {
    client_.reset();
    if (thread_.joinable()) thread_.join();
  }

  // The client's end, to be taken once.
  UniqueFd TakeSocket() { return std::move(client_); }

  // For hooks, and for after Join.
  ByteVector& region(size_t index) { return regions_[index]; }
  std::string json = R"({"capabilities":{"max_msg_fds":16,"write_multiple":true}})";
  std::vector<uint16_t> commands;    // What came, in order.
  std::vector<Header> dma_headers;   // Replies to DMA.
  std::vector<ByteVector> dma_data;  // Their payloads.
  std::map<uint32_t, UniqueFd> eventfds;

  void SendBytes(ConstBytes bytes, std::span<const int> fds = {}) { SendOn(*line_, bytes, fds); }
  template <typename... T>
  void Reply(const Frame& to, const T&... payload) {
    const ByteVector bytes = Pack(payload...);
    SendBytes(Pack(ReplyHeader(to.header, bytes.size()), bytes));
  }
  void Refuse(const Frame& to, int error) { SendBytes(Pack(ErrorHeader(to.header, error))); }
  template <typename... T>
  void Ask(uint16_t id, Command command, const T&... payload) {
    SendBytes(Message(id, command, payload...));
  }
  void Close() { shutdown(line_->fd(), SHUT_RDWR); }
  // Waits for room as long as a client may keep it waiting. False if there was none.
  bool TrySend(ConstBytes bytes) {
    pollfd room{.fd = line_->fd(), .events = POLLOUT, .revents = 0};
    if (poll(&room, 1, 1000) != 1 || (room.revents & POLLHUP) != 0) return false;
    return line_->Send(bytes, {}) == static_cast<ssize_t>(bytes.size());
  }
  static void SendOn(SocketTransport& line, ConstBytes bytes, std::span<const int> fds) {
    while (!bytes.empty()) {
      const ssize_t sent = line.Send(bytes, fds);
      if (sent == -EAGAIN) {
        pollfd wait{.fd = line.fd(), .events = POLLOUT, .revents = 0};
        poll(&wait, 1, 10'000);
        continue;
      }
      if (sent < 0) return;  // The client is gone.
      bytes = bytes.subspan(static_cast<size_t>(sent));
      fds = {};
    }
  }

  void Answer(Frame& frame) {
    const auto request = DecodeRequest(frame);
    if (!request) return Refuse(frame, request.error().code);
    if (const auto* map = std::get_if<DmaMapRequest>(&*request); map != nullptr) {
      Reply(frame);
    } else if (const auto* unmap = std::get_if<DmaUnmapRequest>(&*request)) {
      Reply(frame, static_cast<const DmaUnmap&>(*unmap));
    } else if (std::holds_alternative<VersionRequest>(*request)) {
      Reply(frame, Version{}, json, '\0');
    } else if (std::holds_alternative<DeviceGetInfoRequest>(*request)) {
      Reply(frame, DeviceInfo{16, kDeviceFlagReset | kDeviceFlagPci, 9, 5});
    } else if (const auto* region = std::get_if<DeviceGetRegionInfoRequest>(&*request)) {
      Reply(frame,
            RegionInfo{32, kRegionFlagRead | kRegionFlagWrite, region->index, 0, kRegionSize, 0});
    } else if (const auto* io_fds = std::get_if<DeviceGetRegionIoFdsRequest>(&*request)) {
      Reply(frame, RegionIoFds{16, 0, io_fds->index, 0});
    } else if (const auto* irq = std::get_if<DeviceGetIrqInfoRequest>(&*request)) {
      Reply(frame, IrqInfo{16, kIrqFlagEventfd, irq->index, 4});
    } else if (const auto* irqs = std::get_if<DeviceSetIrqsRequest>(&*request)) {
      Arm(*irqs, frame.fds);
      Reply(frame);
    } else if (std::holds_alternative<DeviceResetRequest>(*request)) {
      Reply(frame);
    } else {
      AnswerAccess(frame, *request);
    }
  }

 private:
  void Run() {
    FrameReader reader(MaxMessageSize(kDefaultMaxDataXferSize));
    for (;;) {
      const auto status = reader.Fill(*line_);
      if (!status || *status == FrameReader::Status::kEnd) return;
      for (;;) {
        auto frame = reader.Next();
        CHECK(frame.has_value());
        if (!*frame) break;
        Take(**frame);
      }
    }
  }

  void Take(Frame& frame) {
    if (frame.is_reply()) {
      dma_headers.push_back(frame.header);
      dma_data.emplace_back(frame.payload.begin(), frame.payload.end());
    } else {
      commands.push_back(frame.header.command);
    }
    if (hook_ && hook_(*this, frame)) return;
    if (!frame.is_reply()) Answer(frame);
  }

  void Arm(const DeviceSetIrqsRequest& irqs, std::vector<UniqueFd>& fds) {
    for (uint32_t i = 0; i < irqs.count; ++i) {
      eventfds.erase(irqs.start + i);
      if (i < fds.size()) eventfds[irqs.start + i] = std::move(fds[i]);
    }
  }

  void Write(uint32_t region, uint64_t offset, ConstBytes data) {
    CHECK(region < regions_.size() && InRange(offset, data.size(), kRegionSize));
    Copy(Bytes(regions_[region]).subspan(offset, data.size()), data);
  }

  void AnswerAccess(const Frame& frame, const Request& request) {
    if (const auto* read = std::get_if<RegionReadRequest>(&request)) {
      if (read->region >= regions_.size() || !InRange(read->offset, read->count, kRegionSize)) {
        return Refuse(frame, EINVAL);
      }
      const auto data = ConstBytes(regions_[read->region]).subspan(read->offset, read->count);
      Reply(frame, static_cast<const RegionAccess&>(*read), ByteVector(data.begin(), data.end()));
    } else if (const auto* write = std::get_if<RegionWriteRequest>(&request)) {
      Write(write->region, write->offset, write->data);
      if (!frame.no_reply()) Reply(frame, static_cast<const RegionAccess&>(*write));
    } else if (const auto* multi = std::get_if<RegionWriteMultiRequest>(&request)) {
      for (size_t i = 0; i < multi->count(); ++i) {
        const WriteMultiEntry entry = multi->entry(i);
        Write(entry.region, entry.offset, std::as_bytes(std::span(entry.data)).first(entry.count));
      }
      if (!frame.no_reply()) Reply(frame, WriteMulti{multi->count()});
    } else if (const auto* feature = std::get_if<DeviceFeatureRequest>(&request)) {
      // Repeats what it was sent, with its bytes counted up by one.
      ByteVector data(feature->data.begin(), feature->data.end());
      for (std::byte& byte : data) byte = std::byte(uint8_t(byte) + 1);
      Reply(frame, static_cast<const DeviceFeature&>(*feature), data);
    } else if (const auto* mig = std::get_if<MigDataReadRequest>(&request)) {
      const uint32_t size = std::min(mig->size, 100u);
      Reply(frame, MigData{8 + size, size}, Counting(size));
    } else {
      Reply(frame);  // MIG_DATA_WRITE.
    }
  }

  Hook hook_;
  UniqueFd client_;
  std::unique_ptr<SocketTransport> line_;
  std::vector<ByteVector> regions_;
  std::thread thread_;
};

}  // namespace farside::vfio_user
