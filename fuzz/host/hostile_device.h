// HostileDevice: the far end of a vfio-user client. It answers as a device should, until the
// session spoils its replies, and asks for DMA, sends bytes and hangs up when the session says so.
// It knows what each of its answers must come to at the client. Over sockets what depends on how
// the stream is cut is `unsure`.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "fuzz/host/far_end.h"
#include "fuzz/host/hostile_line.h"
#include "fuzz/session/event.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside::fuzz {

// What the client's call must end with.
enum class Outcome {
  kAsIs,     // Success, with what the device said.
  kRefused,  // The device's errno; the client goes on.
  kAltered,  // The reply is well framed and says something else: success or the client's end.
  kEnd,      // An error, and the client's end.
  kUnsure,   // The stream is out of step: what the client makes of it is not followed.
  kPosted,   // Nothing: it wants no reply.
};

struct Answered {
  vfio_user::Header request;
  Outcome outcome = Outcome::kEnd;
  int error = 0;                        // The call's errno with kRefused.
  std::vector<std::byte> payload = {};  // As it was sent.
};

// Oracles: "answered" (a DMA request in order is not answered exactly once, in its turn, or not as
// it must be), "framing" (the client sends what is no message).
class HostileDevice final : public HostileEnd {
 public:
  static constexpr uint32_t kRegions = 9;
  static constexpr uint32_t kConfig = 7;
  static constexpr std::array<uint64_t, kRegions> kRegionSizes = {0x4000, 0, 0x2000, 0, 0,
                                                                  0,      0, 4096,   0};
  static constexpr uint32_t kVectors = 8;  // Of MSI-X; INTx has one.

  // The client's side of DMA by message, as its caller knows it.
  class Windows {
   public:
    virtual ~Windows() = default;
    // A DMA access that the client must hand to its DmaHandler.
    virtual bool Allows(uint64_t iova, uint64_t count, bool writes) const = 0;
  };

  explicit HostileDevice(const Windows& windows);

  // Over sockets whole messages go with a twin socket, on which the device's own go once the client
  // has it.
  std::unique_ptr<MemoryTransport> Connect(bool pieces) override;
  UniqueFd ConnectSocket(bool pieces) override;
  void Disconnect();
  // As a new session finds it.
  void Begin();

  // kReply, kDeviceRead, kDeviceWrite, kDeviceFrame or kHangUp: takes effect at the next request,
  // in order, or at Release.
  void Queue(const Event& event);
  // Serves what has come and sends a bit more. False if there was nothing to do.
  bool Step() override;
  Watch watch() const override { return {line_.watch(), twin_.watch()}; }
  // What is queued is sent without a request.
  void Release();
  // Nothing is on its way, to the client or, over sockets, from it.
  bool quiet() const { return line_.quiet() && twin_.quiet(); }

  // Since BeginCall.
  void BeginCall() { answered_.clear(); }
  const std::vector<Answered>& answered() const { return answered_; }
  // The client ends as soon as it reads all that it was sent.
  bool broken() const { return broken_; }
  bool unsure() const { return unsure_; }
  // The negotiated limit.
  void set_max_transfer(uint64_t size) { max_transfer_ = size; }

  // Told by the DmaHandler of each call.
  void OnHandled(uint64_t iova, uint64_t count, bool writes, int error, ConstBytes data);
  // All DMA requests must be answered by now, if the client lives.
  void CheckAllAnswered() const;
  ConstBytes region(uint32_t index) const { return regions_[index]; }

 private:
  struct Message {
    vfio_user::Header header;
    std::vector<std::byte> payload = {};
    size_t fds = 0;
    UniqueFd own = {};     // Another one, before those.
    bool as_made = false;  // Its payload and fds are the device's own.
  };
  // A command of ours that waits for its reply.
  struct Asked {
    vfio_user::Header header;
    vfio_user::DmaAccess access;
    bool served = false;   // Else it must be refused.
    bool handled = false;  // By the DmaHandler, with
    int error = 0;
    std::vector<std::byte> data = {};
  };

  // As a new connection finds it.
  void Reset();
  bool Receive();
  void Serve(vfio_user::Frame& frame);
  // Where what the device says unasked goes.
  HostileLine& own_line() { return twin_.connected() ? twin_ : line_; }
  void Play(const Event& event);
  void SendDma(const Event& event, bool writes);
  void SendFrame(const Event& event);
  // Notes what a whole message of ours that is a command must be answered with.
  void Expect(const vfio_user::Header& header, ConstBytes payload);
  void OnDmaReply(const vfio_user::Frame& frame);
  void CheckDmaReply(const Asked& asked, const vfio_user::Frame& frame) const;

  std::optional<Event> NextSpoiling();
  void Reply(const vfio_user::Frame& request, ConstBytes payload, size_t fds, int error,
             UniqueFd own = {});
  static void Spoil(Spoiling how, const Event& event, vfio_user::Command command, Message* message);
  void SendReply(const vfio_user::Frame& request, Message& message, Answered* answer);
  Outcome Judge(const vfio_user::Frame& request, const Message& message);
  Outcome JudgePayload(const vfio_user::Frame& request, ConstBytes payload, bool as_made) const;

  // The honest device.
  static void ResetConfig(Bytes config);
  void AnswerRequest(vfio_user::Frame& frame);
  void AnswerVersion(const vfio_user::Frame& frame);
  void AnswerRegionInfo(const vfio_user::Frame& frame, uint32_t index, uint32_t argsz);
  void AnswerIoFds(const vfio_user::Frame& frame, uint32_t index, uint32_t argsz);
  void AnswerRead(const vfio_user::Frame& frame, const vfio_user::RegionAccess& read);
  int Write(uint32_t region, uint64_t offset, ConstBytes data);
  void AnswerWriteMulti(const vfio_user::Frame& frame,
                        const vfio_user::RegionWriteMultiRequest& multi);
  void AnswerFeature(const vfio_user::Frame& frame, const vfio_user::DeviceFeatureRequest& request);

  const Windows& windows_;
  HostileLine line_{13};
  HostileLine twin_{13};
  std::unique_ptr<vfio_user::FrameReader> reader_;
  std::unique_ptr<vfio_user::FrameReader> twin_reader_;
  bool offers_twin_ = false;
  std::array<std::vector<std::byte>, kRegions> regions_;

  std::deque<Event> queue_;      // Of the session's, all but its replies.
  std::deque<Event> spoilings_;  // Its replies.
  struct Late {
    vfio_user::Frame request;  // Without payload and fds.
    Message message;
    size_t answer = 0;  // In answered_.
  };
  std::optional<Late> late_;
  // Ids of the requests that came with the one being served and have no reply yet.
  std::vector<uint16_t> outstanding_;
  std::vector<Answered> answered_;
  std::deque<Asked> asked_;
  uint16_t next_id_ = 0;
  bool broken_ = false;
  bool unsure_ = false;
  uint64_t max_transfer_ = vfio_user::kDefaultMaxDataXferSize;
};

}  // namespace farside::fuzz
