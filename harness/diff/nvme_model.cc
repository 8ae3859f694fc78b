// The NVMe controller, as far as a comparison must know it.
#include <array>

#include "devices/nvme/registers.h"
#include "harness/diff/config_registers.h"
#include "harness/diff/model.h"
#include "harness/diff/nvme_workload.h"
#include "harness/trace/nvme_view.h"

namespace farside::diff {
namespace {

using namespace nvme_memory;  // NOLINT: this file is about them.

constexpr uint32_t kBar = nvme::kRegisterBar;
constexpr uint64_t kCcAt = nvme::kRegisters[nvme::kCc].offset;
constexpr uint64_t kCstsAt = nvme::kRegisters[nvme::kCsts].offset;
constexpr uint64_t kMasksAt = nvme::kRegisters[nvme::kIntms].offset;  // INTMS, INTMC.

// Registers and a page of doorbells, of which no controller has more without being asked. What lies
// behind them is each maker's own: QEMU 7.2 has nothing there, and its remote ends at an access.
constexpr uint64_t kReachedSize = nvme::kDoorbellBase + kPage;

// The header: how capabilities are laid out is each maker's own business.
constexpr RegisterSpace kSpaces[] = {
    {.region = kConfigRegion, .size = kConfigHeaderSize, .max_access = 4, .rows = kConfigHeader},
    {.region = kBar, .size = kReachedSize, .rows = nvme::kRegisters},
};

constexpr MemoryRange kMemory[] = {{.iova = kBase, .size = kSize}};

// NVM Express 1.4, figures 247 and 245.
constexpr MemoryField kFields[] = {
    {"Identify Controller VID", kIdentifyController + 0, 2},
    {"Identify Controller SSVID", kIdentifyController + 2, 2},
    {"Identify Controller SN", kIdentifyController + 4, 20},
    {"Identify Controller MN", kIdentifyController + 24, 40},
    {"Identify Controller FR", kIdentifyController + 64, 8},
    {"Identify Controller RAB", kIdentifyController + 72, 1},
    {"Identify Controller IEEE", kIdentifyController + 73, 3},
    {"Identify Controller CMIC", kIdentifyController + 76, 1},
    {"Identify Controller MDTS", kIdentifyController + 77, 1},
    {"Identify Controller CNTLID", kIdentifyController + 78, 2},
    {"Identify Controller VER", kIdentifyController + 80, 4},
    {"Identify Controller RTD3R", kIdentifyController + 84, 4},
    {"Identify Controller RTD3E", kIdentifyController + 88, 4},
    {"Identify Controller OAES", kIdentifyController + 92, 4},
    {"Identify Controller CTRATT", kIdentifyController + 96, 4},
    {"Identify Controller CNTRLTYPE", kIdentifyController + 111, 1},
    {"Identify Controller OACS", kIdentifyController + 256, 2},
    {"Identify Controller ACL", kIdentifyController + 258, 1},
    {"Identify Controller AERL", kIdentifyController + 259, 1},
    {"Identify Controller FRMW", kIdentifyController + 260, 1},
    {"Identify Controller LPA", kIdentifyController + 261, 1},
    {"Identify Controller ELPE", kIdentifyController + 262, 1},
    {"Identify Controller WCTEMP", kIdentifyController + 266, 2},
    {"Identify Controller CCTEMP", kIdentifyController + 268, 2},
    {"Identify Controller SQES", kIdentifyController + 512, 1},
    {"Identify Controller CQES", kIdentifyController + 513, 1},
    {"Identify Controller NN", kIdentifyController + 516, 4},
    {"Identify Controller ONCS", kIdentifyController + 520, 2},
    {"Identify Controller VWC", kIdentifyController + 525, 1},
    {"Identify Controller AWUN", kIdentifyController + 526, 2},
    {"Identify Controller AWUPF", kIdentifyController + 528, 2},
    {"Identify Controller OCFS", kIdentifyController + 534, 2},
    {"Identify Controller SGLS", kIdentifyController + 536, 4},
    {"Identify Controller SUBNQN", kIdentifyController + 768, 256},
    {"Identify Controller PSD0", kIdentifyController + 2048, 32},
    {"Identify Controller", kIdentifyController, kPage},
    {"Identify Namespace NSFEAT", kIdentifyNamespace + 24, 1},
    {"Identify Namespace NLBAF", kIdentifyNamespace + 25, 1},
    {"Identify Namespace FLBAS", kIdentifyNamespace + 26, 1},
    {"Identify Namespace MC", kIdentifyNamespace + 27, 1},
    {"Identify Namespace DPC", kIdentifyNamespace + 28, 1},
    {"Identify Namespace DLFEAT", kIdentifyNamespace + 33, 1},
    {"Identify Namespace NVMCAP", kIdentifyNamespace + 48, 16},
    {"Identify Namespace NPWG", kIdentifyNamespace + 64, 2},
    {"Identify Namespace NPWA", kIdentifyNamespace + 66, 2},
    {"Identify Namespace NPDG", kIdentifyNamespace + 68, 2},
    {"Identify Namespace NPDA", kIdentifyNamespace + 70, 2},
    {"Identify Namespace NOWS", kIdentifyNamespace + 72, 2},
    {"Identify Namespace NGUID", kIdentifyNamespace + 104, 16},
    {"Identify Namespace EUI64", kIdentifyNamespace + 120, 8},
    {"Identify Namespace LBAF0", kIdentifyNamespace + 128, 4},
    {"Identify Namespace LBAF1..15", kIdentifyNamespace + 132, 60},
    {"Identify Namespace", kIdentifyNamespace, kPage},
    {"Identify list", kLists, kPage},
    {"Namespace descriptors", kDescriptors, 64},
    {"Log page", kLog, kPage},
    {"Submission queue 0", SqBase(0), kPage},
    {"Completion queue 0", CqBase(0), kPage},
    {"Submission queue 1", SqBase(1), kPage},
    {"Completion queue 1", CqBase(1), kPage},
    {"Submission queue 2", SqBase(2), kPage},
    {"Completion queue 2", CqBase(2), kPage},
    {"Data of reads", kReadBuffer, kBufferSize},
};

constexpr std::string_view kOddWrites = "Odd writes";
constexpr std::string_view kStrayDoorbells = "Stray doorbells";
constexpr std::string_view kOperations[] = {kOddWrites,        kStrayDoorbells, kFewQueues,
                                            kSetOtherFeatures, kMakersLogs,     kDataSetsBeyond,
                                            kAbortsOfNoQueue};

class Nvme final : public Model {
 public:
  std::string_view name() const override { return "nvme"; }
  std::span<const RegisterSpace> spaces() const override { return kSpaces; }
  std::span<const MemoryRange> memory() const override { return kMemory; }
  std::span<const MemoryField> fields() const override { return kFields; }

  Work WorkOf(const Event& event) const override {
    if (event.kind == Event::Kind::kReset) return Work::kLong;
    if (event.kind != Event::Kind::kWrite) return Work::kNone;
    if (event.Touches(kConfigRegion, pci::kCommand, 2)) return Work::kQuick;
    if (event.region != kBar) return Work::kNone;
    if (event.Touches(kBar, kCcAt, 4)) return Work::kLong;
    if (event.Touches(kBar, kMasksAt, 8)) return Work::kQuick;
    if (event.offset + event.size <= nvme::kDoorbellBase) return Work::kNone;
    return nvme::DoorbellAt(std::max(event.offset, nvme::kDoorbellBase)).completion ? Work::kQuick
                                                                                    : Work::kLong;
  }

  ReadKind KindOf(const Event& read) const override {
    const bool moves =
        read.Touches(kBar, kCstsAt, 4) || read.Touches(kConfigRegion, pci::kStatus, 2);
    return moves ? ReadKind::kVolatile : ReadKind::kFixed;
  }

  std::span<const Event> status() const override { return status_; }
  bool Busy(std::span<const uint64_t> status) const override {
    const bool enabled = (status[0] & nvme::kCcEn) != 0;
    const bool ready = (status[1] & nvme::kCstsRdy) != 0;
    const bool failed = (status[1] & nvme::kCstsCfs) != 0;
    return (status[1] & nvme::kCstsShst) == nvme::kCstsShstOccurring ||
           (enabled != ready && !failed);
  }

  // The MSI-X table is not in BAR 0, and there is nothing else that would move the device.
  bool Allows(const Event&) const override { return true; }

  std::span<const std::string_view> operations() const override { return kOperations; }
  bool IsOf(std::string_view operation, const Event& event) const override {
    if (event.kind != Event::Kind::kWrite || event.region != kBar) return false;
    if (operation == kStrayDoorbells) {
      // Of queues that the workload may have made.
      return event.Touches(kBar, nvme::kDoorbellBase, NvmeWorkload::kDoorbellsSize);
    }
    if (operation != kOddWrites) return false;
    const RegisterDef* row = Find(kBar, event.offset);
    const bool whole = row != nullptr && row->offset == event.offset && row->width == event.size;
    return !whole && (event.size != 4 || event.offset % 4 != 0);
  }

  std::string FieldsText(const Event& event, uint64_t value) const override {
    if (event.region != kBar) return {};
    return trace::NvmeView::FieldsText(event.offset, event.size, value);
  }
  std::string PlaceName(uint32_t region, uint64_t offset) const override {
    const std::string doorbell =
        region == kBar && offset >= nvme::kDoorbellBase ? nvme::RegisterName(offset) : "";
    return doorbell.empty() ? Model::PlaceName(region, offset) : "BAR0 " + doorbell;
  }
  std::string MemoryText(const Event& event) const override {
    trace::NvmeSubmission command;
    if (event.data.size() != sizeof command.sqe) return {};
    for (uint32_t queue = 0; queue < NvmeWorkload::kQueues; ++queue) {
      if (!InRange(event.offset - SqBase(queue), event.data.size(), kPage)) continue;
      command.queue = queue;
      command.index = static_cast<uint32_t>((event.offset - SqBase(queue)) / sizeof command.sqe);
      Copy(AsWritableBytes(command.sqe), event.data);
      return " " + trace::NvmeView::Text(command);
    }
    return {};
  }
  std::unique_ptr<Workload> MakeWorkload(uint64_t seed, const Lawful& lawful) const override {
    return std::make_unique<NvmeWorkload>(seed, lawful);
  }

 private:
  const std::array<Event, 2> status_{Read(kBar, kCcAt, 4), Read(kBar, kCstsAt, 4)};
};

}  // namespace

const Model& NvmeModel() {
  static const Nvme model;
  return model;
}

}  // namespace farside::diff
