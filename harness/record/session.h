// Session: one client of a wire tap, and the connection to the server that was made for it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/task.h"
#include "devices/server/dma_messages.h"
#include "devices/server/dma_table.h"
#include "harness/record/irq_relay.h"
#include "harness/record/recording.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside::record {

enum class DmaMode {
  kMessage,  // The server gets no memory: it asks, and the tap answers from the client's.
  kShared,   // It gets the client's fds; its DMA is not seen.
};

// Carries every message both ways and records each as its sender sent it. What would bypass the
// recording is not passed on: memory fds (in mode kMessage), interrupts' eventfds, which are
// replaced by the tap's own, and the server's fds, so that no region is mapped and no doorbell rung
// behind its back.
//
// DMA_READ and DMA_WRITE are answered from the windows that the client gave with an fd; what lies
// in others goes to the client, in pieces that it can take.
class Session final : private DmaMessages::Channel, private IrqRelay::Observer {
 public:
  // What waits to be sent to one side before the other one is read no further, in bytes.
  static constexpr size_t kMaxPendingOutput = 4 << 20;
  // The same for DMA that is not answered: more than servers have in flight.
  static constexpr uint64_t kMaxDmaBytes = 16 << 20;
  // DMA_MAPs that are not answered.
  static constexpr size_t kMaxPendingMaps = 65536;
  // Refusals that are logged.
  static constexpr uint64_t kMaxComplaints = 16;

  struct Peers {
    std::unique_ptr<Transport> client;
    std::unique_ptr<Transport> server;
  };

  // `id` begins log lines. `on_end` is called once, from anywhere; the session is destroyed later,
  // from the loop's top level.
  Session(EpollLoop& loop, Recording& recording, std::string id, DmaMode mode, Peers peers,
          std::function<void()> on_end);
  ~Session() override;

  Result<void> Start();

  // Whether the client has gone already, though nobody was told yet.
  bool ended() const { return ended_; }
  // Looks whether something has come.
  void Poll();

  // Ends it; the sentence says why.
  void End(LogLevel level, std::string_view why);

 private:
  struct Line;
  // A DMA_MAP that the server may refuse.
  struct PendingMap {
    uint16_t message_id;
    uint64_t iova;
    uint64_t size;
  };

  // DmaMessages::Channel: what goes to the client.
  vfio_user::FrameWriter& writer() override;
  void OnAppended() override { settle_.Arm(0); }
  // IrqRelay::Observer.
  void OnSignal(const IrqSignal& signal, uint64_t count) override;
  void BeforeSignal(const IrqSignal& signal) override;

  void OnReady(Line& line, uint32_t events);
  bool Receive(Line& line);
  void ReceiveAll(Line& line);
  void Flush(Line& line);
  void Settle();

  void FromClient(vfio_user::Frame& frame);
  void OnVersion(vfio_user::Frame& frame);
  void OnMap(vfio_user::Frame& frame);
  void OnUnmap(vfio_user::Frame& frame);
  void OnFeature(vfio_user::Frame& frame);
  void OnClientReply(const vfio_user::Frame& frame);
  void FromServer(vfio_user::Frame& frame);
  void OnServerReply(const vfio_user::Frame& frame);
  void OnDma(const vfio_user::Frame& frame);
  Task<void> ServeRead(vfio_user::Header command, vfio_user::DmaAccess access);
  Task<void> ServeWrite(vfio_user::Header command, vfio_user::DmaAccess access,
                        std::vector<std::byte> data);
  void AnswerDma(const vfio_user::Header& command, ConstBytes payload);
  void RefuseDma(const vfio_user::Header& command, int error);

  // Answers the client in the server's place.
  void Refuse(const vfio_user::Frame& frame, const Error& error);
  void Complain(std::string_view what);
  void WarnIfPrivate(int fd);

  EpollLoop& loop_;
  Recording& recording_;
  const std::string id_;
  const DmaMode mode_;
  const std::function<void()> on_end_;
  std::unique_ptr<Line> client_;
  std::unique_ptr<Line> server_;
  DmaTable dma_;
  DmaMessages messages_;
  IrqRelay irqs_;
  std::deque<PendingMap> pending_maps_;
  std::vector<std::pair<uint64_t, uint64_t>> looked_at_;  // Files, by device and inode.
  uint64_t dma_bytes_ = 0;                                // Not answered.
  uint64_t complaints_ = 0;
  bool negotiated_ = false;
  bool receiving_ = false;  // Settle comes by itself.
  bool ended_ = false;
  Timer settle_;
  TaskScope scope_;
};

}  // namespace farside::record
