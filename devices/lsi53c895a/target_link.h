// TargetLink: the parallel bus as its targets drive it: who is connected, in which phase, and the
// messages of SPI-3 (clause 16 of SCSI-2). One initiator, up to 15 targets.
//
// Nothing in it waits: the chip moves bytes when it has them and asks for the phase anew. A target
// holds the bus while its command works, unless IDENTIFY has allowed it to disconnect.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "devices/core/fast_state.h"
#include "devices/core/state.h"
#include "devices/scsi/bus.h"

namespace farside::lsi53c895a {

// MSG, C/D and I/O, as in SCRIPTS.
enum class BusPhase : uint8_t {
  kDataOut = 0,
  kDataIn = 1,
  kCommand = 2,
  kStatus = 3,
  kMessageOut = 6,
  kMessageIn = 7,
};

class TargetLink {
 public:
  explicit TargetLink(scsi::Bus& bus) : bus_(bus) {}

  bool connected() const { return state_.connected; }
  uint8_t target() const { return state_.nexus.target; }
  // The command of the nexus, once it was sent and until its status was.
  const std::shared_ptr<scsi::Request>& request() const { return request_; }

  // The bus was reset: everything is gone. The bus's commands are the caller's.
  void Reset();
  // The chip vanishes from the bus: the command it is connected to is aborted.
  void Drop();

  // Arbitration and selection: false where no target answers. Without ATN the target goes to
  // COMMAND, but takes a message instead if that is the first thing it is sent (see Accepts).
  bool Select(uint8_t target, bool atn);
  // Whether a disconnected target has something for the initiator, and the reselection by it.
  bool HasReselection() const;
  void Reselect();

  void SetAtn(bool atn) { state_.atn = atn; }
  bool atn() const { return state_.atn; }
  // After a message byte the chip keeps ACK until told otherwise; only then the target goes on.
  void ReleaseAck() { state_.ack_held = false; }
  bool ack_held() const { return state_.ack_held; }

  // Whether Poll would get a phase, or find the bus free.
  bool WantsBus() const;
  // The phase that the target requests now, if any. May end the connection.
  std::optional<BusPhase> Poll();
  // Whether a Poll would find the target working, so that it goes away for now.
  bool WouldDisconnect() const;
  // Whether the target puts up with `phase` although it requests another.
  bool Accepts(BusPhase phase) const;

  // Transfers. `last`: the move has no more bytes (the chip drops ATN then).
  void PutMessageOut(ConstBytes bytes, bool last);
  void PutCommand(ConstBytes bytes, bool last);
  // The one byte of a STATUS phase, and the message that follows it.
  uint8_t status() const { return static_cast<uint8_t>(request_->status()); }
  void TakeStatus();
  ConstBytes message_in() const {
    return ConstBytes(state_.message_in).first(state_.message_in_size);
  }
  void TakeMessageIn(size_t size);

  void Save(StateWriter& out) const;
  // In two steps, as the bus's requests come between.
  struct Loaded;
  static Result<std::shared_ptr<Loaded>> Load(StateReader& in);
  Result<void> TakeOver(const Loaded& loaded);
  // The same as a copy, as Device::SaveFast and LoadFast; the bus's requests are loaded before.
  void SaveFast(FastState& out) const;
  void LoadFast(FastReader& in);

 private:
  // What the target does when the initiator has all of its message.
  enum class After : uint8_t { kNothing, kFree, kDisconnect };

  struct State {
    bool connected = false;
    bool atn = false;
    bool ack_held = false;
    bool fresh = false;       // Selected without ATN, and nothing has crossed yet.
    bool identified = false;  // An IDENTIFY message, or a reselection, has named the lun.
    bool may_disconnect = false;
    bool freeing = false;  // The target goes to BUS FREE when the message out has ended.
    After after = After::kNothing;
    scsi::Nexus nexus;
    std::array<std::byte, 16> cdb{};
    uint8_t cdb_size = 0;
    // A message out that is not complete: bytes that came, of which the first are kept.
    std::array<std::byte, 16> message_out{};
    uint16_t message_out_size = 0;
    // Replies that do not fit are dropped: no initiator negotiates that often at a time.
    std::array<std::byte, 64> message_in{};
    uint8_t message_in_size = 0;
  };

  static bool WellFormed(const State& state);
  static void SaveNexus(const scsi::Nexus& nexus, StateWriter& out);
  static Result<scsi::Nexus> LoadNexus(StateReader& in);

  size_t MessageOutLength() const;
  void OnMessageOut(ConstBytes message);
  void OnExtendedMessage(ConstBytes message);
  void OnTaskManagement(uint8_t code);
  void QueueMessageIn(std::initializer_list<uint8_t> bytes);
  void GoFree();
  void GoDisconnected();
  void Forget();

  scsi::Bus& bus_;
  State state_;
  std::shared_ptr<scsi::Request> request_;
  // In the order of disconnecting; aborted ones are dropped when the list is looked at.
  std::vector<std::shared_ptr<scsi::Request>> disconnected_;
};

struct TargetLink::Loaded {
  State state;
  bool has_request = false;
  std::vector<scsi::Nexus> disconnected;
};

}  // namespace farside::lsi53c895a
