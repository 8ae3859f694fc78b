// An NVMe 1.4 controller with one namespace on a block device.
//
// BAR 0 holds registers and doorbells, BAR 4 the MSI-X table and PBA. A doorbell write records the
// new tail or head and wakes a task; what the driver can read back (CSTS, INTMS) is settled in the
// write, except that CSTS.RDY stays 1 after CC.EN is cleared, and 0 after it is set, until nothing
// of before is in flight: a driver that waits for RDY, as it must, never shares its memory with an
// old command.
//
// Life of a command: places for it and for its completion entry are promised (so what is in flight
// is bounded), its entry is fetched, its task runs, its outcome is decided, the entry is written in
// one DMA, the interrupt follows. A submission queue is freed only when none of its commands is in
// flight; a reset takes all queues away at once, and tells every command so (Command::cancelled).
//
// A driver's mistakes are answered as the specification says; those that it ignores are counted.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "block/block_device.h"
#include "devices/core/pci_device.h"
#include "devices/core/register_block.h"
#include "devices/nvme/command.h"
#include "devices/nvme/events.h"
#include "devices/nvme/features.h"
#include "devices/nvme/health.h"
#include "devices/nvme/namespace.h"
#include "devices/nvme/queues.h"
#include "devices/nvme/registers.h"

namespace farside::nvme {

inline constexpr std::string_view kModelName = "nvme";
inline constexpr uint32_t kMsixBar = 4;
inline constexpr uint32_t kMsiVectors = 32;

// Commands that execute at once, besides waiting Asynchronous Event Requests. Times 4 KiB << mdts
// this bounds the bounce memory of a guest whose memory is reached by messages: 32 MiB by default.
inline constexpr uint32_t kMaxIoCommands = 64;
inline constexpr uint32_t kMaxAdminCommands = 16;
// Entries that a queue's task fetches before it starts them, in order.
inline constexpr uint32_t kFetchRound = 16;
// Commands that a queue's task starts before it lets the loop do something else.
inline constexpr uint32_t kCommandsPerTurn = 4;

// Names and defaults are those of QEMU's device of the same name.
struct Options {
  std::string serial;                   // 1 to 20 printable ASCII characters.
  block::BlockDevice* drive = nullptr;  // Outlives the controller.
  uint32_t max_ioqpairs = 64;           // 1 to kMaxQueuePairs.
  uint32_t msix_qsize = 65;             // Vectors: 1 to 2048.
  uint32_t mdts = 7;                    // A transfer has up to 4 KiB << mdts: 1 to 10.
  uint32_t logical_block_size = 512;    // A power of two, 512 to 4096.
  // Entries that one DMA fetches at most: 1 to kFetchRound. Commands start when a whole round is
  // there, so what happens after that does not depend on it.
  uint32_t fetch_batch = kFetchRound;
  // Completions of an I/O queue are posted in the order of its submissions, so that what the driver
  // sees does not depend on how long disk and DMA take, and traces of the same guest are alike.
  bool ordered_completions = true;
};

class Controller final : public PciDevice {
 public:
  static Result<std::unique_ptr<Controller>> Create(DeviceEnv env, const Options& options);
  ~Controller() override = default;

  void OnDmaChanged() override;
  Task<void> Drain() override;
  void Resume() override;

  // What a driver did that the specification has no answer for, and so was ignored.
  uint64_t guest_errors() const { return guest_errors_; }

 private:
  enum class Phase : uint8_t {
    kDisabled,   // Not started: CC.EN is 0, or waits for the tasks of before.
    kRunning,    // CC.EN and CSTS.RDY are 1.
    kFatal,      // CSTS.CFS is 1 until the driver clears CC.EN.
    kResetting,  // CC.EN was cleared, tasks have not ended: CSTS.RDY is still 1.
  };

  // Counts a task of ours, which has it as a local, until it has ended.
  class Busy {
   public:
    explicit Busy(Controller& controller) : controller_(controller) { ++controller_.tasks_; }
    Busy(const Busy&) = delete;
    Busy& operator=(const Busy&) = delete;
    ~Busy() { controller_.OnTaskEnd(); }

   private:
    Controller& controller_;
  };

  struct Loaded;  // A state that was read and is not taken over yet.

  // The driver's settings are ones that the controller can start with.
  static bool ConfigurationIsValid(const RegisterBlock<kRegCount>& regs);

  Controller(DeviceEnv env, const Options& options, const PciConfig& config);

  // PciDevice.
  void ReadBar(uint32_t bar, uint64_t offset, Bytes out) override;
  void WriteBar(uint32_t bar, uint64_t offset, ConstBytes in) override;
  void OnReset(ResetKind kind) override;
  void OnBusMasterChanged() override;
  void SaveModel(StateWriter& out) const override;
  Result<void> LoadModel(StateReader& in) override;
  void SaveModelFast(FastState& out) const override;
  void LoadModelFast(FastReader& in) override;

  // controller.cc: registers, doorbells, starting and stopping.
  void OnRegisterWrite(size_t row, uint64_t old);
  void OnCcWrite(uint64_t old);
  void OnInterruptMaskWrite(size_t row, uint64_t old);
  void WriteDoorbell(uint64_t offset, ConstBytes in);
  void OnDoorbellError(Event event, uint32_t queue);
  void Settle();
  void StartController();
  void ResetController();
  void AbandonWork();
  void SetFatal();
  void SetCsts(uint64_t clear, uint64_t set);
  void CancelCommands();
  void OnTaskEnd();
  bool InterruptMasked(uint32_t vector) const;
  void UpdateIntx();

  // engine.cc: from a doorbell to an interrupt.
  bool CanFetch(const SubmissionQueue& sq) const;
  void Kick(uint32_t sqid);
  void KickAll();
  void KickStarved();
  uint32_t ReserveFetch(uint32_t sqid);
  void UnreserveFetch(uint32_t sqid, uint32_t count);
  void EndServing(SubmissionQueue& sq);
  Task<DmaStatus> Fetch(uint32_t sqid, uint32_t count, uint64_t epoch);
  Task<void> Serve(uint32_t sqid);
  void Start(uint32_t sqid, const Sqe& sqe);
  Task<void> Execute(Command& command);
  Task<void> PostEvent(Command& command);
  Task<void> ResumeCommand(Command& command);
  Task<void> AwaitTurn(Command& command);
  void Decide(Command& command, Outcome outcome);
  Task<void> Post(Command& command);
  void SignalCompletion(const CompletionQueue& cq);
  void Release(Command& command);
  void DeliverEvents();
  void RaiseEvent(Event event);
  void BeginShutdown();
  Task<void> Shutdown(uint64_t epoch);
  Task<void> SettleLater();

  // admin.cc.
  Task<Outcome> ExecuteAdmin(Command& command);
  Outcome CreateCq(const Sqe& sqe);
  Outcome CreateSq(const Sqe& sqe);
  Outcome DeleteCq(const Sqe& sqe);
  Task<Outcome> DeleteSq(Command& command);
  Task<Outcome> Identify(Command& command);
  Task<Outcome> GetLogPage(Command& command);
  Task<Outcome> SetFeatures(Command& command);
  Task<Outcome> GetFeatures(Command& command);
  Outcome Abort(const Sqe& sqe);

  // state.cc.
  void SaveQueues(StateWriter& out) const;
  void SaveCommands(StateWriter& out) const;
  Result<void> LoadRegisters(StateReader& in, Loaded& loaded) const;
  Result<void> LoadQueues(StateReader& in, Loaded& loaded) const;
  Result<void> LoadCommands(StateReader& in, Loaded& loaded) const;
  Result<void> CheckCommand(const Command& command, Loaded& loaded) const;
  void TakeOver(Loaded& loaded);
  void CheckAtRest() const;

  uint64_t cc() const { return regs_[kCc]; }
  uint64_t csts() const { return regs_[kCsts]; }
  bool enabled() const { return (cc() & kCcEn) != 0; }
  CommandPool& PoolOf(uint32_t sqid) { return sqid == 0 ? admin_commands_ : io_commands_; }
  HostMemory memory() {
    return {.dma = dma(),
            .page_size = uint64_t{1} << CcPageShift(cc()),
            .max_transfer = uint64_t{1} << (kMinPageShift + options_.mdts)};
  }
  // One past the largest vector a completion queue may name now.
  uint32_t vector_limit() const;

  const Options options_;
  Namespace namespace_;
  TaskScope scope_;
  uint64_t tasks_ = 0;
  Wakeup idle_;     // tasks_ became 0.
  Wakeup decided_;  // The outcome of an I/O command was decided, or all were cancelled.
  Wakeup changed_;  // A command or a fetch ended, or the controller was reset.

  RegisterBlock<kRegCount> regs_{kRegisters};
  Phase phase_ = Phase::kDisabled;
  // Changes whenever the queues are taken away: what a queue's task checks after each await.
  uint64_t epoch_ = 0;
  // Changes with every DMA window: an access that was cancelled because of that is tried again.
  uint64_t dma_changes_ = 0;
  bool paused_ = false;  // Between Drain and Resume.

  QueueSet queues_;
  CommandPool io_commands_{kMaxIoCommands};
  CommandPool admin_commands_{kMaxAdminCommands};
  // By submission queue: the round that is being fetched. Never smaller, so that a DMA that a reset
  // overtook still has its memory.
  std::vector<std::vector<Sqe>> rounds_;
  uint64_t commands_taken_ = 0;  // Over both pools: Command::order.
  uint32_t starved_queues_ = 0;
  uint32_t next_starved_ = 0;  // Where the search for one goes on: round robin.

  Features features_;
  EventState events_;
  Health health_;
  uint64_t guest_errors_ = 0;
};

}  // namespace farside::nvme
