// Session: one run of a scenario, or a shell: processes, guest memory, connections, captures.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"
#include "harness/drivers/lsi_driver.h"
#include "harness/drivers/nvme_driver.h"
#include "harness/host/guest_memory.h"
#include "harness/scenario/args.h"
#include "harness/scenario/child.h"
#include "harness/scenario/event_log.h"
#include "harness/scenario/raw_channel.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/tapped_client.h"
#include "harness/scenario/value.h"
#include "protocol/vfio_user_client.h"

namespace farside::scenario {

// Ends what sessions wait for when the user wants farside to stop. Any thread may call.
class Interruption {
 public:
  // Kills the processes of all sessions, so that waits for them end.
  void Trigger();
  bool triggered() const { return triggered_; }

 private:
  friend class Session;
  void Add(int pidfd);
  void Remove(int pidfd);

  std::atomic<bool> triggered_ = false;
  std::mutex mutex_;
  std::set<int> pidfds_;
};

struct SessionOptions {
  Reach reach = Reach::kFd;
  std::string bin_dir;  // Where programs are looked for first; empty: nowhere.
  bool flat = false;    // Keep every event: EventLog.
  Interruption* interruption = nullptr;
};

// A vector of a device: how often it was signalled, whoever listened.
struct VectorCount {
  UniqueFd eventfd;       // Made by irq.arm; a driver has its own.
  uint64_t total = 0;     // Of the eventfd above, and of drivers that are gone.
  uint64_t expected = 0;  // What irq.expect has accounted for.
};
using VectorId = std::pair<vfio_user::IrqIndex, uint32_t>;

// A device of the scenario and the connection to it, if there is one.
struct Link {
  DeviceSpec spec;
  std::string path;  // Of its socket.
  UniqueFd socket;   // With mpqemu: our end, from the process's start until it is connected.
  std::unique_ptr<DeviceClient> wire;
  std::unique_ptr<TappedClient> client;  // What drivers and verbs talk to: notes, then `wire`.
  std::unique_ptr<NvmeDriver> nvme;
  NvmeCompletion nvme_completion{};
  std::unique_ptr<LsiDriver> lsi;
  LsiCompletion lsi_completion{};
  // Of the driver that is there, if it has any.
  IrqCollector* irqs() const { return nvme ? nvme->irqs() : lsi ? lsi->irqs() : nullptr; }
  std::unique_ptr<RawChannel> raw;    // Instead of `wire`.
  std::vector<std::byte> held_bytes;  // Of frame.send with "hold".
  std::map<VectorId, VectorCount> vectors;
};

// A process of the scenario.
struct ProcessSlot {
  ProcessSpec spec;
  std::unique_ptr<Child> child;
  bool may_end = false;  // It was told to, or was waited for.
  uint64_t baseline_fds = 0;
  uint64_t baseline_bytes = 0;
};

// For one thread.
class Session {
 public:
  // Makes a directory for it, the memory, and what the scenario starts and connects by itself.
  static Result<std::unique_ptr<Session>> Start(const Scenario& scenario, SessionOptions options);
  // Ends everything; nothing is left over.
  ~Session();

  // Disconnects, ends the processes with SIGTERM, and says if one did not end well.
  Result<void> Finish();

  const Scenario& scenario() const { return scenario_; }
  GuestMemory& memory() { return *memory_; }
  TappedMemory& tapped_memory() { return *tapped_memory_; }
  EventLog& log() { return log_; }
  Captures& captures() { return captures_; }
  std::vector<ProcessSlot>& processes() { return processes_; }
  const std::vector<std::unique_ptr<Link>>& links() const { return links_; }
  Reach reach() const { return options_.reach; }

  // The device that a step means, and what it needs of it; an Error says how to get it.
  Result<Link*> FindLink(const Args& args);
  Result<Link*> FindClient(const Args& args);  // link->client is there.
  Result<Link*> FindRaw(const Args& args);     // link->raw is there.
  Result<Link*> FindNvme(const Args& args);    // link->nvme is there.
  Result<Link*> FindLsi(const Args& args);     // link->lsi is there.
  Result<ProcessSlot*> FindProcess(const Args& args, bool running = true);
  Result<int> FindFd(const std::string& name);
  void AddFd(const std::string& name, UniqueFd fd) { fds_[name] = std::move(fd); }
  bool RemoveFd(const std::string& name) { return fds_.erase(name) != 0; }

  Result<void> StartProcess(ProcessSlot& slot);
  struct ConnectOptions {
    bool raw = false;
    bool negotiate = true;
    bool map = true;
    vfio_user::ClientOptions client = {};
  };
  Result<void> Connect(Link& link, ConnectOptions options);
  void Disconnect(Link& link);
  // The driver's state does not hold any more: its device was reset or is gone.
  void DropDriver(Link& link);

  // Signals of a vector so far.
  uint64_t CountIrqs(Link& link, VectorId vector);
  // Those of every vector that was ever signalled.
  std::map<VectorId, uint64_t> CountAllIrqs(Link& link);

  // When the step that runs must be over. Verbs wait no longer than this.
  void BeginStep(uint64_t timeout_ms);
  uint64_t time_left_ns() const;
  bool interrupted() const {
    return options_.interruption != nullptr && options_.interruption->triggered();
  }
  // The scenario's own time is over.
  bool expired() const { return clock_.now_ns() >= deadline_ns_; }

 private:
  Session(Scenario scenario, SessionOptions options);
  Result<void> SetUp();
  Result<UniqueFd> ConnectSocket(const Link& link);
  static Result<UniqueFd> TakeSocket(Link& link);
  Result<std::unique_ptr<DeviceClient>> OpenWire(Link& link, ConnectOptions options);
  Result<std::unique_ptr<DeviceClient>> OpenMpqemu(Link& link);
  void Forget(ProcessSlot& slot);

  const Scenario scenario_;
  const SessionOptions options_;
  const MonotonicClock clock_;
  uint64_t deadline_ns_ = 0;
  uint64_t step_deadline_ns_ = 0;
  std::string directory_;
  EventLog log_;
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<TappedMemory> tapped_memory_;
  std::vector<ProcessSlot> processes_;
  std::vector<std::unique_ptr<Link>> links_;
  std::map<std::string, UniqueFd, std::less<>> fds_;
  Captures captures_;
};

}  // namespace farside::scenario
