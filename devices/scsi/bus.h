// Bus: a SCSI bus between a host adapter and its logical units, as SAM-3 sees it. What travels over
// it is a CDB, data, a status; the phases and messages of a parallel bus are the adapter's.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/loop.h"
#include "base/task.h"
#include "devices/scsi/sense.h"

namespace farside {
class FastReader;
class FastState;
class StateReader;
class StateWriter;
}  // namespace farside

namespace farside::scsi {

inline constexpr uint32_t kMaxTargets = 16;  // Of a wide bus; the adapter is one of them.
inline constexpr uint32_t kMaxLuns = 8;
inline constexpr uint8_t kAdapterId = 7;  // What adapters have unless a driver says otherwise.
inline constexpr size_t kMaxCdb = 16;
// Commands that a unit takes at a time; one more ends with TASK SET FULL.
inline constexpr size_t kMaxTasks = 256;

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
  // Whether both name the same command: how it was queued does not count.
  bool SameTask(const Nexus& other) const {
    return target == other.target && lun == other.lun && tagged() == other.tagged() &&
           (!tagged() || tag == other.tag);
  }
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

// Told when a request wants the bus. Calls come from within Bus::Start and Load, too: the adapter
// only notes them. None comes for a request that was aborted.
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
  Request(Bus& bus, const Nexus& nexus, ConstBytes cdb);
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  const Nexus& nexus() const { return nexus_; }
  // As many bytes as its operation code asks for; none if there were fewer, and one of a group of
  // no known size: both are answered by the bus.
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
  // `size` bytes, zeroed when they are first asked for, that live as long as the request. They are
  // aligned to `alignment`, a power of two. A second call may give others.
  Bytes buffer(size_t size, size_t alignment = 16);
  // Of a command that runs again after its state was loaded: how many bytes it sent and received in
  // calls that came before its last one. It may begin after some of them, by Skip, and after those
  // that it received it must: only what the last ReceiveOut got was saved. What it sends again is
  // dropped.
  uint64_t resumed() const { return resumed_ - resumed_last_; }
  void Skip(uint64_t size);
  // What the sense data of this command will be. Returns CHECK CONDITION.
  Status CheckCondition(const Sense& sense);

 private:
  friend class Bus;
  // Of the bus's work for it.
  enum class Stage : uint8_t {
    kQueued,   // Older commands must end first.
    kRunning,  // The unit executes it.
    kHeld,     // It has failed, but the sense data of another have not been fetched.
    kEnded,    // Its status is, or was, with the adapter.
  };
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  // Accounts for the bytes of a call's `size` that had crossed before a migration.
  size_t Resume(size_t size);
  // Waits until what is on offer has crossed.
  Task<bool> Cross(Phase phase);
  void SetPhase(Phase phase);
  void Abort();
  void End(Status status);
  // Whether it goes on by itself, now or when block I/O ends, without the adapter.
  bool working() const;

  Bus& bus_;
  const Nexus nexus_;
  std::array<std::byte, kMaxCdb> cdb_{};
  size_t cdb_size_ = 0;
  Stage stage_ = Stage::kQueued;
  Phase phase_ = Phase::kWorking;
  bool aborted_ = false;
  bool waiting_ = false;  // For the adapter to move data.
  bool began_ = false;    // It was past its unit attention check, maybe before a migration.
  Status status_ = Status::kGood;
  Sense sense_;
  ConstBytes data_in_;
  Bytes data_out_;
  Bytes received_;  // By the last ReceiveOut, from its first byte; until the next call.
  uint64_t moved_ = 0;
  uint64_t moved_last_ = 0;  // Of these, in the last call of SendIn or ReceiveOut.
  // The same of the command's life before a migration, less what was accounted for since.
  uint64_t resumed_ = 0;
  uint64_t resumed_last_ = 0;
  std::vector<std::byte> resumed_out_;  // The last of those bytes.
  std::unique_ptr<std::byte, Free> buffer_;
  size_t buffer_size_ = 0;
  size_t buffer_alignment_ = 0;
  Wakeup crossed_;
};

// A disk or a CD drive. Commands of one unit run at the same time, as their attributes allow; the
// bus sees to that order. The bus also answers REQUEST SENSE, REPORT LUNS and unit attentions.
class LogicalUnit {
 public:
  virtual ~LogicalUnit() = default;

  // Runs a command to its end. Awaits nothing but request.SendIn and ReceiveOut, which end early
  // when the request is aborted, and block I/O. A command that was loaded from a saved state is run
  // from its start again: see Request::resumed.
  virtual Task<Status> Execute(Request& request) = 0;

  // A hard reset: mode parameters to their saved values, removal allowed.
  virtual void Reset() = 0;

  // Puts integers into a section of the bus's.
  virtual void Save(StateWriter& out) const = 0;
  // Leaves the unit as it was if the state is refused. Gets no more bytes than Save put.
  virtual Result<void> Load(StateReader& in) = 0;
  // The same as a copy, as Device::SaveFast and LoadFast.
  virtual void SaveFast(FastState& out) const = 0;
  virtual void LoadFast(FastReader& in) = 0;

  // Conditions that the next command of the initiator's is to be told of, oldest first. A reset
  // forgets those before it.
  void AddUnitAttention(uint16_t code);
  const std::vector<uint16_t>& unit_attentions() const { return unit_attentions_; }

 private:
  friend class Bus;
  std::vector<uint16_t> unit_attentions_;  // Each at most once.
};

// Belongs to the adapter. Destroyed when no request runs: see Drain.
class Bus {
 public:
  Bus(Loop& loop, Initiator& initiator);
  Bus(const Bus&) = delete;
  Bus& operator=(const Bus&) = delete;
  ~Bus();

  // An error where there is a unit already, or no such address (`target` below kMaxTargets, `lun`
  // below kMaxLuns).
  Result<void> Attach(uint8_t target, uint8_t lun, std::unique_ptr<LogicalUnit> unit);
  // Whether anything answers a selection of `target`.
  bool HasTarget(uint8_t target) const;
  bool HasUnit(uint8_t target, uint8_t lun) const;

  // Starts a command; the target must be there. `cdb` is what the initiator sent: as on a bus, the
  // target takes no more of it than the operation code asks for, and refuses less. A lun that is
  // not there is answered here. A command whose nexus is in use (SameTask) aborts all commands of
  // its unit and ends with CHECK CONDITION, overlapped commands (SAM-3 section 5.9.3).
  std::shared_ptr<Request> Start(const Nexus& nexus, ConstBytes cdb);

  // Task management (SAM-3 section 7). Requests are aborted at once as far as the adapter can see;
  // their block I/O ends later, and until then later commands of that unit wait, lest an old write
  // overtake a new one.
  void AbortTask(const Nexus& nexus);
  void AbortTaskSet(uint8_t target, uint8_t lun);
  void ResetLogicalUnit(uint8_t target, uint8_t lun);
  void ResetTarget(uint8_t target);
  // All targets: a SCSI bus reset or power on.
  void ResetAll();

  // Requests that were started, are not aborted, and whose status was not yet reached.
  size_t running() const;
  // The request of `nexus` that has not been retired, or null.
  std::shared_ptr<Request> Find(const Nexus& nexus) const;
  // The adapter has passed on the status: the nexus is free. Nothing for one that is gone already.
  void Retire(const Request& request);

  // Ends when no block I/O is in flight: every request waits for the bus, or is gone. None should
  // be started meanwhile.
  Task<void> Drain();

  // Units and requests, each as of now; with block I/O in flight, what it does may be done again
  // after loading. Load wants the same units attached and takes the place of all requests that
  // there are. It starts those of the state anew: those that have ended are in kStatus at once,
  // without OnPhase, the others reach their phases again. After an error the bus is to be reset.
  void Save(StateWriter& out) const;
  Result<void> Load(StateReader& in);
  // The same as a copy, as Device::SaveFast and LoadFast: only of a bus that is drained, and into
  // one without requests. A state with requests in it is no mere copy: they start anew as in Load.
  void SaveFast(FastState& out) const;
  void LoadFast(FastReader& in);

 private:
  friend class Request;

  // A unit and its task set.
  struct Unit {
    Unit(std::unique_ptr<LogicalUnit> device, Loop& loop)
        : logical_unit(std::move(device)), changed(loop) {}

    std::unique_ptr<LogicalUnit> logical_unit;
    // Of the last command that ended with CHECK CONDITION, until it is fetched or another command
    // comes: there is no autosense on a parallel bus.
    Sense sense;
    bool sense_owed = false;
    // That command while its status is not yet passed on: what is started until then cannot know.
    const Request* sense_owner = nullptr;
    Wakeup changed;  // Commands have ended, or the sense data are gone.
  };

  static uint16_t Address(uint8_t target, uint8_t lun) {
    return static_cast<uint16_t>(target << 8 | lun);
  }
  Unit* FindUnit(const Nexus& nexus);
  const Unit* FindUnit(const Nexus& nexus) const;

  // A request's life.
  Task<void> Run(std::shared_ptr<Request> request);
  bool MayStart(const Request& request) const;
  bool MayEnd(const Request& request) const;
  Task<Status> Execute(Request& request, Unit* unit);
  Task<Status> AnswerForAbsent(Request& request);
  Task<Status> RequestSense(Request& request, Unit* unit);
  Task<Status> ReportLuns(Request& request);
  void Finish(Request& request, Unit* unit, Status status);

  template <typename Predicate>
  void AbortWhere(Predicate is_meant);
  void AbortAll();
  void ResetUnits(uint16_t code, int target, int lun);
  static void ForgetSense(Unit& unit);
  bool AnyWorking() const;

  // bus_state.cc.
  struct SavedRequest;
  struct SavedTaskSet;
  static SavedRequest Describe(const Request& request);
  static ConstBytes ReceivedBy(const Request& request);
  std::shared_ptr<Request> Remake(const SavedRequest& saved);
  void Adopt(const std::vector<std::shared_ptr<Request>>& requests);
  static void SaveRequest(const Request& request, StateWriter& out);
  Result<std::shared_ptr<Request>> LoadRequest(StateReader& in);
  Result<void> LoadRequests(StateReader& in, std::vector<std::shared_ptr<Request>>& requests);
  Result<void> LoadTaskSet(Unit& unit, const std::vector<std::shared_ptr<Request>>& requests,
                           StateReader& in);

  Loop& loop_;
  Initiator& initiator_;
  std::map<uint16_t, Unit> units_;  // By Address.
  // Those that are not retired, and aborted ones that have not ended; in the order of starting.
  std::vector<std::shared_ptr<Request>> requests_;
  Wakeup rest_;  // Fewer may be working.
  TaskScope scope_;
};

}  // namespace farside::scsi
