// Client: a hostile vfio-user client. Plays sessions against a server, ours in this process or
// anybody's behind a socket, answers the DMA that the server asks for, and watches what comes back.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/fd.h"
#include "fuzz/host/eventfd_set.h"
#include "fuzz/host/host.h"
#include "fuzz/host/memory_watch.h"
#include "fuzz/host/protocol_referee.h"
#include "fuzz/host/wire_observer.h"
#include "fuzz/session/event.h"
#include "protocol/transport.h"
#include "protocol/vfio_user_codec.h"

namespace farside::fuzz {

// Memory that is given to servers by descriptor, with a page of guard on both sides that no window
// shows. Oracle "guard": somebody wrote there.
class SharedWindow {
 public:
  static constexpr uint64_t kGuard = 4096;

  explicit SharedWindow(uint64_t size);

  int fd() const { return fd_.get(); }
  uint64_t offset() const { return kGuard; }  // In the file.
  Bytes bytes() const { return {mapping_.data() + kGuard, mapping_.size() - 2 * kGuard}; }
  void CheckGuards() const;

 private:
  UniqueFd fd_;
  Mapping mapping_;
};

// How the server gets on while this thread waits.
class Pump {
 public:
  virtual ~Pump() = default;
  // Runs the server, or waits for it. False when it will send nothing more without being asked.
  virtual bool Step() = 0;
  // The session itself holds something up that the server has to wait for.
  virtual bool holds_up() const { return false; }
  // The server runs whether this end waits or not, and a look at it costs a system call.
  virtual bool far() const { return false; }
};

// Oracles: "answered" (a request without a reply, with two, or a reply that nobody asked for; two
// requests of the server's under one id), "framing" (what is no message), "dma-window" (DMA outside
// the windows, or against their rights), "interrupt-unarmed" (an eventfd that was taken back is
// signalled), "guard". With a referee also its own, "framing" (the server goes on behind a header
// that is none) and "reset" (RESET is answered while work of before is in flight).
class Client final : public GuestMemory {
 public:
  struct Counts {
    uint64_t dma = 0;
    uint64_t interrupts = 0;
    uint64_t replies = 0;
    uint64_t round_trips = 0;  // Waits for what answers something that was sent.
  };

  // `source` gives what the session has for DMA. Both outlive the client.
  Client(Pump& pump, AnswerSource& source) : pump_(pump), source_(source) {}
  ~Client() override;

  // Who judges what the server says; may be nobody. Outlives this.
  void set_referee(ProtocolReferee& referee);
  // May be nobody. Outlives this.
  void set_observer(WireObserver* observer) { observer_ = observer; }

  // A new connection: VERSION. False if the server refuses it. `hasty`: another command comes
  // first.
  bool Connect(std::unique_ptr<Transport> transport, bool hasty = false);
  // The usual windows: what a session begins with.
  void MapMemory(bool by_message);
  // Eventfds for the vectors of MSI-X, or INTx where there are none: as a VMM does for a guest
  // whose driver is at work.
  void ArmInterrupts();
  void Disconnect();
  bool connected() const { return transport_ != nullptr; }
  // The server has ended the connection, which it may do where the client broke the protocol.
  bool closed() const { return closed_; }
  // Something was sent that no server can answer in order: replies are not counted any more. Or it
  // can not be told any more which windows and interrupts there are.
  bool broke_framing() const { return broke_framing_ || lost_track_; }

  // A reply is still to come, and nothing of this client's own is in its way.
  bool expects_reply() const { return waiting_count_ != 0 && held_dma_.empty() && !broke_framing_; }

  void Execute(const Event& event);
  // Everything that is held goes on; waits until all requests are answered.
  void Finish();
  // By the device's message or by the guest: what is outside of memory is left out.
  void WriteMemory(uint64_t iova, ConstBytes data);
  void Release(Answer answer);
  void Hold() { held_ = true; }
  // Sends and waits for the reply: its payload, or nothing if it was an error or did not come.
  std::optional<std::vector<std::byte>> Call(vfio_user::Command command, ConstBytes payload,
                                             std::span<const int> fds = {});
  // Over all connections since ForgetCounts.
  const Counts& counts() const { return counts_; }
  void ForgetCounts() { counts_ = {}; }

  // GuestMemory.
  ConstBytes Peek(uint64_t iova, uint64_t size) const override { return Memory(iova, size); }
  bool quiet() const override { return quiet_; }

 private:
  struct Window {
    uint64_t iova = 0;
    uint64_t size = 0;
    uint32_t flags = 0;
  };
  struct HeldDma {
    vfio_user::Header header;
    vfio_user::DmaAccess access;
  };
  // Where an eventfd of ours is armed.
  struct Vector {
    uint32_t index = 0;
    uint32_t number = 0;
    bool armed = false;
  };
  static constexpr size_t kVectors = 16;
  static constexpr size_t kDriverVectors = 4;  // A driver's: of its admin queue and some more.

  uint16_t Send(vfio_user::Command command, ConstBytes payload, uint32_t flags = 0,
                std::span<const int> fds = {});
  void SendBytes(ConstBytes bytes, std::span<const int> fds);
  void Access(const Event& event);
  void Map(uint64_t iova, uint64_t size, uint32_t flags, bool by_fd);
  void MapCut(uint64_t iova, uint64_t size, uint32_t flags);
  void MapFile(vfio_user::DmaMap map, int fd);
  void Unmap(uint64_t iova, uint64_t size);
  void SetIrqs(const Event& event);
  void SendFrame(const Event& event);
  // Bytes of the session's own that are in order.
  void NoteCommand(const vfio_user::Header& header, ConstBytes payload, std::span<const int> fds);
  void NoteReply(const vfio_user::Header& header);
  void LoseStep();
  void ExpectEnd();
  // The device does what it can. False if it is at work all the same.
  bool Settle();
  // Bookkeeping of a command that is about to be sent.
  void BeginCommand(const vfio_user::Header& header, ConstBytes payload, std::span<const int> fds);
  // Until nothing more comes, or `id` is answered.
  void Wait(std::optional<uint16_t> id = std::nullopt);
  bool Receive();
  void OnFrame(const vfio_user::Frame& frame);
  void OnReply(const vfio_user::Frame& frame);
  void OnDma(const vfio_user::Frame& frame);
  void AnswerDma(const HeldDma& dma, std::optional<Answer> answer);
  Bytes Memory(uint64_t iova, uint64_t size) const;
  void LookAtVectors();
  void DisarmAll();

  Pump& pump_;
  AnswerSource& source_;
  ProtocolReferee* referee_ = nullptr;
  WireObserver* observer_ = nullptr;
  std::unique_ptr<Transport> transport_;
  std::unique_ptr<vfio_user::FrameReader> reader_;
  bool by_message_ = false;
  bool closed_ = false;
  bool broke_framing_ = false;
  bool lost_track_ = false;
  bool quiet_ = false;
  bool held_ = false;
  bool sent_ = false;  // Since something came last.
  SharedWindow memory_{Host::kSize};
  SharedWindow high_memory_{Host::kHighSize};
  UniqueFd cut_file_;
  std::vector<Window> windows_;
  std::deque<HeldDma> held_dma_;
  EventfdSet<kVectors> eventfds_;
  std::array<Vector, kVectors> vectors_;  // Of each of them.
  size_t next_vector_ = 0;

  uint16_t last_id_ = 0;
  uint16_t last_sent_ = 0;      // The same, with those that the session made up.
  std::bitset<65536> waiting_;  // Requests without a reply yet.
  size_t waiting_count_ = 0;
  std::optional<uint16_t> wanted_;
  std::optional<std::vector<std::byte>> wanted_payload_;
  Counts counts_;
};

}  // namespace farside::fuzz
