// NvmeWorkload: what a guest's NVMe driver does, made up from a seed.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "devices/nvme/commands.h"
#include "harness/diff/lawful.h"
#include "harness/diff/model.h"

namespace farside::diff {

// Where the workload's memory lies. A page each, unless it says otherwise.
namespace nvme_memory {
inline constexpr uint64_t kBase = 0x10'0000;
inline constexpr uint64_t kPage = 4096;
// Queue pair q: its submission queue, and behind it its completion queue.
constexpr uint64_t SqBase(uint32_t queue) { return kBase + queue * 2 * kPage; }
constexpr uint64_t CqBase(uint32_t queue) { return SqBase(queue) + kPage; }
inline constexpr uint64_t kIdentifyController = kBase + 0x6000;
inline constexpr uint64_t kIdentifyNamespace = kBase + 0x7000;
inline constexpr uint64_t kLists = kBase + 0x8000;  // What else Identify gives.
inline constexpr uint64_t kLog = kBase + 0x9000;
inline constexpr uint64_t kPrpList = kBase + 0xa000;
inline constexpr uint64_t kRanges = kBase + 0xb000;
inline constexpr uint64_t kDescriptors = kBase + 0xc000;   // Of the namespace.
inline constexpr uint64_t kReadBuffer = kBase + 0x10000;   // kBufferSize.
inline constexpr uint64_t kWriteBuffer = kBase + 0x20000;  // kBufferSize.
inline constexpr uint64_t kBufferSize = 0x10000;
inline constexpr uint64_t kSize = 0x30000;
}  // namespace nvme_memory

// Operations that rows may keep out.
inline constexpr std::string_view kFewQueues = "Few queues";
inline constexpr std::string_view kSetOtherFeatures = "Set other features";
inline constexpr std::string_view kMakersLogs = "Error and effects logs";
inline constexpr std::string_view kDataSetsBeyond = "Data sets beyond the end";
inline constexpr std::string_view kAbortsOfNoQueue = "Aborts of no queue";

// Enables the controller, makes I/O queues, sends a command at a time, and awaits its completion
// entry, as long as nothing came in between that makes completions doubtful.
class NvmeWorkload final : public Workload {
 public:
  static constexpr uint32_t kQueues = 3;  // The admin pair and two more.

  static constexpr uint64_t kDoorbellsSize = kQueues * 2 * 4;  // In bytes, of those.

  NvmeWorkload(uint64_t seed, const Lawful& lawful)
      : random_(seed),
        ask_for_all_(lawful.Avoids(kFewQueues)),
        set_few_(lawful.Avoids(kSetOtherFeatures)),
        read_all_logs_(!lawful.Avoids(kMakersLogs)),
        name_data_sets_beyond_(!lawful.Avoids(kDataSetsBeyond)),
        abort_of_no_queue_(!lawful.Avoids(kAbortsOfNoQueue)) {}

  void Next(std::vector<Event>* out) override;
  void Prepare(const Event& event, std::vector<Event>* out) override;
  void OnOther(const Event& event) override;

 private:
  // A queue pair; both have `size` entries.
  struct Pair {
    uint32_t size = 0;  // 0: not there.
    uint32_t tail = 0;
    uint32_t cq_tail = 0;
    uint32_t cq_head = 0;
    bool phase = true;
  };

  void Enable(std::vector<Event>* out);
  void AskForQueues(std::vector<Event>* out);
  void CreatePair(uint32_t queue, std::vector<Event>* out);
  void DeletePair(uint32_t queue, std::vector<Event>* out);
  void Submit(uint32_t queue, nvme::Sqe sqe, std::vector<Event>* out);
  void Consume(uint32_t queue, std::vector<Event>* out);
  void ConsumeAll(std::vector<Event>* out);
  void Admin(std::vector<Event>* out);
  void IdentifySomething(std::vector<Event>* out);
  void Features(std::vector<Event>* out);
  void Io(uint32_t queue, std::vector<Event>* out);
  void PointAt(uint64_t iova, uint64_t size, nvme::Sqe* sqe, std::vector<Event>* out);
  uint32_t WrongNamespace();
  void Scribble(std::vector<Event>* out);
  std::vector<std::byte> RandomBytes(size_t size);

  Random random_;
  const bool ask_for_all_;  // Of the queues.
  const bool set_few_;      // Features, that all controllers let be set.
  const bool read_all_logs_;
  const bool name_data_sets_beyond_;
  const bool abort_of_no_queue_;
  bool running_ = false;  // As far as can be told.
  std::array<Pair, kQueues> pairs_{};
  uint16_t cid_ = 0;
};

}  // namespace farside::diff
