// Bus: a SCSI bus between a host adapter and its logical units, as SAM-3 sees it. What travels over
// it is a CDB, data, a status; the phases and messages of a parallel bus are the adapter's.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/task.h"

namespace farside {
class StateReader;
class StateWriter;
}  // namespace farside

namespace farside::scsi {

inline constexpr uint32_t kMaxTargets = 16;  // Of a wide bus; the adapter is one of them.
inline constexpr uint32_t kMaxLuns = 8;
inline constexpr size_t kMaxCdb = 16;

// SAM-3 section 5.3.
enum class Status : uint8_t {
  kGood = 0x00,
  kCheckCondition = 0x02,
  kBusy = 0x08,
  kReservationConflict = 0x18,
  kTaskSetFull = 0x28,
};

// SAM-3 section 8.6. Untagged is what a command without a queue tag message is.
enum class TaskAttribute : uint8_t { kUntagged, kSimple, kHeadOfQueue, kOrdered };

// An I_T_L_Q nexus; there is one initiator.
struct Nexus {
  uint8_t target = 0;
  uint8_t lun = 0;
  uint8_t tag = 0;  // Of tagged commands.
  TaskAttribute attribute = TaskAttribute::kUntagged;

  bool tagged() const { return attribute != TaskAttribute::kUntagged; }
  friend bool operator==(const Nexus&, const Nexus&) = default;
};

// What a command wants of the bus now.
enum class Phase : uint8_t {
  kWorking,  // Nothing: the target works, and would disconnect.
  kDataIn,   // It has data for the initiator.
  kDataOut,  // It has room for data of the initiator's.
  kStatus,   // It has ended; its status is there.
};

class Bus;
class Request;

// Told when a request wants the bus. Calls come from within Bus::Start, Request::TakeIn and PutOut,
// too: the adapter only notes them. None comes for a request that was aborted.
class Initiator {
 public:
  virtual ~Initiator() = default;
  // `request`'s phase was kWorking and is something else now.
  virtual void OnPhase(Request& request) = 0;
};

// A command from its CDB to its status. Shared by the bus, which runs it, and the adapter, which
// may hold on to it as long as it likes.
class Request {
 public:
  Request(Loop& loop, Initiator& initiator, const Nexus& nexus, ConstBytes cdb);
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  const Nexus& nexus() const { return nexus_; }
  ConstBytes cdb() const { return ConstBytes(cdb_).first(cdb_size_); }

  // The adapter's side.
  Phase phase() const { return phase_; }
  bool aborted() const { return aborted_; }
  Status status() const { return status_; }
  // In kDataIn: what is left of the data now on offer; never empty, and it stays where it is until
  // it is taken, even if the request is aborted meanwhile.
  ConstBytes data_in() const { return data_in_; }
  // The first `size` bytes of data_in() have reached the initiator.
  void TakeIn(size_t size);
  // In kDataOut: where the next bytes go; never empty, and there as long as data_in() is.
  Bytes data_out() const { return data_out_; }
  // The first `size` bytes of data_out() are filled.
  void PutOut(size_t size);
  // Bytes that have crossed the bus, both ways together: what a saved pointer counts.
  uint64_t moved() const { return moved_; }

  // The target's side. Each ends when all of it has crossed the bus; false when the request was
  // aborted, and then nothing more is to be done for it. `data` outlives the request: it is memory
  // from buffer().
  Task<bool> SendIn(ConstBytes data);
  Task<bool> ReceiveOut(Bytes data);
  // At least `size` bytes that live as long as the request; a second call may move them.
  Bytes buffer(size_t size);

 private:
  friend class Bus;
  void SetPhase(Phase phase);
  void Abort();
  void Finish(Status status);

  Initiator& initiator_;
  const Nexus nexus_;
  std::array<std::byte, kMaxCdb> cdb_{};
  size_t cdb_size_ = 0;
  Phase phase_ = Phase::kWorking;
  bool aborted_ = false;
  Status status_ = Status::kGood;
  ConstBytes data_in_;
  Bytes data_out_;
  uint64_t moved_ = 0;
  std::vector<std::byte> buffer_;
  Wakeup crossed_;
};

// A disk or a CD drive. Commands of one unit run at the same time, as their attributes allow; the
// bus sees to that order.
class LogicalUnit {
 public:
  virtual ~LogicalUnit() = default;

  // Runs a command to its end. Awaits nothing but request.SendIn and ReceiveOut, which end early
  // when the request is aborted, and block I/O. A command that was loaded from a saved state is run
  // from its start again: what it sends until request.moved() is dropped by the bus, what it
  // receives until then was saved.
  virtual Task<Status> Execute(Request& request) = 0;

  // A hard reset: mode parameters to their saved values, a unit attention for the initiator.
  virtual void Reset() = 0;
  // Commands of the initiator's were aborted by another's doing or by a reset of the unit.
  virtual void AddUnitAttention(uint16_t asc_ascq) = 0;
  // The data of a data-out phase were damaged on the bus, or a tag was used twice: the sense that
  // the next REQUEST SENSE gives.
  virtual void SetSense(uint8_t key, uint16_t asc_ascq) = 0;

  virtual void Save(StateWriter& out) const = 0;
  virtual Result<void> Load(StateReader& in) = 0;
};

// Belongs to the adapter. Destroyed when no request runs: see Drain.
class Bus {
 public:
  Bus(Loop& loop, Initiator& initiator) : loop_(loop), initiator_(initiator), ended_(loop) {}
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;
  ~Bus();

  // An error where there is a unit already, or no such address (`target` below kMaxTargets, `lun`
  // below kMaxLuns).
  Result<void> Attach(uint8_t target, uint8_t lun, std::unique_ptr<LogicalUnit> unit);
  // Whether anything answers a selection of `target`.
  bool HasTarget(uint8_t target) const;

  // Starts a command. The target must be there; a lun that is not, REPORT LUNS and a CDB of another
  // size than its opcode's are answered here. A tag that is in use, or an untagged command beside
  // another of its nexus, aborts them all and ends with CHECK CONDITION, overlapped commands.
  std::shared_ptr<Request> Start(const Nexus& nexus, ConstBytes cdb);

  // Task management (SAM-3 section 7). Requests are aborted at once as far as the adapter can see;
  // their block I/O ends later.
  void AbortTask(const Nexus& nexus);
  void AbortTaskSet(uint8_t target, uint8_t lun);
  void ResetLogicalUnit(uint8_t target, uint8_t lun);
  void ResetTarget(uint8_t target);
  // All targets: a SCSI bus reset or power on.
  void ResetAll();

  // Requests that were started, are not aborted, and whose status was not yet reached.
  size_t running() const;
  // The request of `nexus` that has not been finished, or null.
  std::shared_ptr<Request> Find(const Nexus& nexus) const;
  // The adapter has passed on the status: the nexus is free.
  void Retire(const Request& request);

  // Ends when no block I/O is in flight: every request waits for the bus, or is gone. None should
  // be started meanwhile.
  Task<void> Drain();

  // Units and requests, each as of now. Load is called on a bus that was reset and drained, with
  // the same units attached.
  void Save(StateWriter& out) const;
  Result<void> Load(StateReader& in);

 private:
  Loop& loop_;
  Initiator& initiator_;
  Wakeup ended_;
};

}  // namespace farside::scsi
