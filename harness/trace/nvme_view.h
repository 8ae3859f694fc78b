// NvmeView: an NVMe controller as far as a trace shows it: its registers, where its queues lie, and
// what is in them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "devices/nvme/commands.h"
#include "devices/nvme/registers.h"

namespace farside::trace {

// An entry of a submission queue that the controller fetched.
struct NvmeSubmission {
  uint32_t queue = 0;
  uint32_t index = 0;
  nvme::Sqe sqe;
  bool admin() const { return queue == 0; }
};

// An entry of a completion queue that it wrote.
struct NvmeCompletion {
  uint32_t queue = 0;
  uint32_t index = 0;
  nvme::Cqe cqe;
  std::optional<nvme::Sqe> sqe;  // Of the command, if its fetch was seen.
  bool admin() const { return cqe.sqid == 0; }
};

// Follows CC, AQA, ASQ and ACQ, and the commands that make and delete queues. Of everything that a
// trace can have any number of it keeps so many and no more.
class NvmeView {
 public:
  static constexpr size_t kMaxQueues = 2048;
  static constexpr size_t kMaxCommands = 65536;

  // A write to BAR 0.
  void WriteRegister(uint64_t offset, ConstBytes data);
  void Reset();

  // DMA of the controller's.
  std::vector<NvmeSubmission> ReadMemory(uint64_t iova, ConstBytes data);
  std::vector<NvmeCompletion> WriteMemory(uint64_t iova, ConstBytes data);

  // "SQ1[4]" or "CQ0[2..5]"; empty where no queue lies.
  std::string QueueAt(uint64_t iova, uint64_t size) const;

  // Bytes that a read or write command moves; 0 for others.
  uint64_t TransferSize(const NvmeSubmission& command) const;

  // "Read cid 0x1 nsid 1 slba 0x800 nlb 8".
  static std::string Text(const NvmeSubmission& command);
  // "cid 0x1 Successful Completion".
  static std::string Text(const NvmeCompletion& completion);
  // " EN=1 MPS=0"; empty for registers without fields.
  static std::string FieldsText(uint64_t offset, size_t size, uint64_t value);

 private:
  struct Queue {
    uint64_t base = 0;
    uint32_t entries = 0;
    uint32_t entry_shift = 0;
    bool Holds(uint64_t iova) const {
      return iova >= base && iova - base < uint64_t{entries} << entry_shift;
    }
  };
  using Queues = std::map<uint32_t, Queue>;

  static Queues::const_iterator Find(const Queues& queues, uint64_t iova);
  static void Add(Queues& queues, uint32_t id, const Queue& queue);
  void OnAdminCommand(const nvme::Sqe& sqe);
  void OnAdminCompletion(const nvme::Sqe& sqe, const nvme::Cqe& cqe);

  RegisterBlock<nvme::kRegCount> registers_{nvme::kRegisters};
  Queues submission_;
  Queues completion_;
  std::map<std::pair<uint16_t, uint16_t>, nvme::Sqe> commands_;  // By queue and cid.
  std::optional<uint64_t> identify_at_;  // Where the data of an Identify Namespace go.
  uint64_t block_size_ = 512;
};

}  // namespace farside::trace
