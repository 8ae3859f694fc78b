// What a driver gives an NVMe controller. Commands are not put into memory: a doorbell is rung, and
// the fetch that follows is answered with the command (NVM Express 1.4, sections 4.2, 5 and 6).
#include <array>

#include "devices/core/pci_registers.h"
#include "devices/nvme/commands.h"
#include "devices/nvme/registers.h"
#include "fuzz/host/disk.h"
#include "fuzz/host/host.h"
#include "fuzz/host/models.h"
#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {
namespace {

using nvme::AdminOpcode;
using nvme::IoOpcode;
using nvme::Sqe;

constexpr uint32_t kBar = nvme::kRegisterBar;
constexpr uint32_t kEntries = 16;  // Of each queue of the prologue.
constexpr uint32_t kIoQueues = 2;  // That the prologue makes.
constexpr uint32_t kBlockSize = 512;
constexpr uint64_t kPage = 4096;
constexpr uint64_t kBlocks = Disk::kSize / kBlockSize;
// Queue memory: a page each, from the start of memory on.
constexpr uint64_t SqBase(uint32_t queue) { return Host::kBase + queue * 2 * kPage; }
constexpr uint64_t CqBase(uint32_t queue) { return SqBase(queue) + kPage; }
// Where our controller has its capabilities (fuzz/targets/targets_test.cc holds this to it).
constexpr uint32_t kMsiCap = 0x84;
constexpr uint32_t kMsixCap = 0x9c;
constexpr std::pair<uint32_t, uint64_t> kBars[] = {{0, 0xe000'0000}, {1, 0}, {4, 0xe010'0000}};

Event WriteRegister(nvme::Reg row, uint64_t value) {
  return WriteOf(kBar, nvme::kRegisters[row].offset, nvme::kRegisters[row].width, value);
}

template <typename T>
ConstBytes Keep(Store& store, const T& object) {
  return store.Add(AsBytes(object));
}

// The tail that follows the last one that was rung.
uint32_t NextTail(uint32_t queue, std::span<const Event> before, std::span<const Event> more) {
  uint32_t tail = queue == 0 ? 2 * kIoQueues : 0;
  for (const auto events : {before, more}) {
    for (const Event& event : events) {
      const bool rings = event.kind == Kind::kWrite && event.what == kBar &&
                         event.at == nvme::SqTailDoorbell(queue);
      if (rings) tail = static_cast<uint32_t>(event.value);
    }
  }
  return (tail + 1) % kEntries;
}

constexpr uint64_t kDriverWork = 150;  // Per mille.

class Nvme final : public DeviceGrammar {
 public:
  Nvme() : DeviceGrammar(diff::NvmeModel(), kDriverWork) {}

  void AddPrologue(Store& store, std::vector<Event>* out) const override {
    AddFunctionSetUp(kBars, out);
    for (uint32_t vector = 0; vector <= kIoQueues; ++vector) {
      out->push_back(WriteOf(4, vector * pci::kMsixEntrySize + pci::kMsixEntryControl, 4, 0));
    }
    out->push_back(WriteOf(7, kMsixCap + pci::kMsixControl, 2, pci::kMsixEnable));
    out->push_back(WriteRegister(nvme::kAqa, (kEntries - 1) << 16 | (kEntries - 1)));
    out->push_back(WriteRegister(nvme::kAsq, SqBase(0)));
    out->push_back(WriteRegister(nvme::kAcq, CqBase(0)));
    out->push_back(
        WriteRegister(nvme::kCc, nvme::kCcEn | nvme::kSqeShift << 16 | nvme::kCqeShift << 20));
    uint32_t tail = 0;
    for (uint16_t queue = 1; queue <= kIoQueues; ++queue) {
      const Sqe create_cq{.opcode = static_cast<uint8_t>(AdminOpcode::kCreateCq),
                          .prp1 = CqBase(queue),
                          .cdw10 = (kEntries - 1) << 16 | queue,
                          .cdw11 = uint32_t{queue} << 16 | 3};
      const Sqe create_sq{.opcode = static_cast<uint8_t>(AdminOpcode::kCreateSq),
                          .prp1 = SqBase(queue),
                          .cdw10 = (kEntries - 1) << 16 | queue,
                          .cdw11 = uint32_t{queue} << 16 | 1};
      for (const Sqe& sqe : {create_cq, create_sq}) {
        out->push_back(WriteOf(kBar, nvme::SqTailDoorbell(0), 4, ++tail));
        out->push_back({.kind = Kind::kAnswer, .data = Keep(store, sqe)});
      }
    }
    out->push_back(WriteOf(kBar, nvme::CqHeadDoorbell(0), 4, tail));
  }

  void MutateData(Making& making, const Event& event, Bytes data) const override {
    if (data.size() != sizeof(Sqe) || making.OneIn(3)) {
      return Grammar::MutateData(making, event, data);
    }
    Sqe sqe;
    Copy(AsWritableBytes(sqe), data);
    switch (making.Below(8)) {
      case 0:
        sqe.opcode = static_cast<uint8_t>(making.Below(making.OneIn(4) ? 256 : 16));
        break;
      case 1:
        sqe.nsid = making.Pick({0u, 1u, 2u, nvme::kAllNamespaces});
        break;
      case 2:
        sqe.prp1 = SomeMemory(making, kPage);
        break;
      case 3:
        sqe.prp2 = SomeMemory(making, kPage);
        break;
      case 4:
        sqe.cdw10 = static_cast<uint32_t>(making.Number());
        break;
      case 5:
        sqe.cdw11 = static_cast<uint32_t>(making.Number());
        break;
      case 6:
        sqe.cdw12 = static_cast<uint32_t>(making.Number());
        break;
      default:
        sqe.cdw13 = static_cast<uint32_t>(making.Number());
    }
    Copy(data, AsBytes(sqe));
  }

 protected:
  void AddWork(Making& making, std::span<const Event> before,
               std::vector<Event>* out) const override {
    if (making.OneIn(16)) return AddVectorSetUp(making, out);
    if (making.OneIn(40)) return AddRestart(making, out);
    if (making.OneIn(24)) return AddMaskedCommand(making, before, out);
    if (making.OneIn(40)) return AddFlood(making, before, out);
    if (making.OneIn(60)) return AddEndsOfMemory(making, before, out);
    if (making.OneIn(40)) return AddLargeTransfer(making, before, out);
    const auto queue = static_cast<uint32_t>(making.OneIn(3) ? 0 : 1 + making.Below(kIoQueues));
    if (making.OneIn(6)) {
      out->push_back(WriteOf(kBar, nvme::CqHeadDoorbell(queue), 4, making.Below(kEntries + 1)));
    }
    // Through windows by a file nobody asks for it: then it must lie in memory.
    if (making.OneIn(5)) return AddCommandInMemory(making, queue, before, out);
    const bool many = making.OneIn(6);
    uint32_t tail = NextTail(queue, before, *out);
    if (many) tail = static_cast<uint32_t>((tail + making.Below(8)) % kEntries);
    if (making.OneIn(40)) tail = static_cast<uint32_t>(making.Number());
    out->push_back(WriteOf(kBar, nvme::SqTailDoorbell(queue), 4, tail));
    // Several commands come in one fetch.
    std::vector<Sqe> commands;
    for (uint64_t i = many ? 1 + making.Below(4) : 1; i != 0; --i) {
      commands.push_back(queue == 0 ? AdminCommand(making) : IoCommand(making));
      commands.back().cid = static_cast<uint16_t>(making.Below(64));
    }
    AddBackend(making, out);
    out->push_back(
        {.kind = Kind::kAnswer, .data = making.store.Add(std::as_bytes(std::span(commands)))});
    AddData(making, queue, commands.front(), out);
  }

 private:
  // Of blocks that there are, in two pages: what waits for the disk.
  static void MakeLawful(Making& making, Sqe& sqe) {
    sqe.flags = 0;
    sqe.nsid = nvme::kNamespaceId;
    sqe.prp1 &= ~(kPage - 1);
    sqe.prp2 &= ~(kPage - 1);
    sqe.cdw10 = static_cast<uint32_t>(making.Below(kBlocks - 16));
    sqe.cdw11 = 0;
    sqe.cdw12 = static_cast<uint32_t>(making.Below(16));
  }

  static void AddCommandInMemory(Making& making, uint32_t queue, std::span<const Event> before,
                                 std::vector<Event>* out) {
    Sqe sqe = queue == 0 ? AdminCommand(making) : IoCommand(making);
    sqe.cid = static_cast<uint16_t>(making.Below(64));
    if (queue != 0 && !making.OneIn(3)) MakeLawful(making, sqe);
    AddSubmission(making, queue, sqe, before, out);
  }

  static void AddSubmission(Making& making, uint32_t queue, const Sqe& sqe,
                            std::span<const Event> before, std::vector<Event>* out) {
    const uint32_t tail = NextTail(queue, before, *out);
    const uint32_t slot = (tail + kEntries - 1) % kEntries;
    out->push_back({.kind = Kind::kMemory,
                    .at = SqBase(queue) + slot * sizeof sqe,
                    .data = Keep(making.store, sqe)});
    out->push_back(WriteOf(kBar, nvme::SqTailDoorbell(queue), 4, tail));
  }

  static Sqe LawfulIo(Making& making) {
    Sqe sqe = IoCommand(making);
    MakeLawful(making, sqe);
    sqe.cid = static_cast<uint16_t>(making.Below(64));
    return sqe;
  }

  // Vectors are masked, a command completes, and they are unmasked.
  static void AddMaskedCommand(Making& making, std::span<const Event> before,
                               std::vector<Event>* out) {
    const auto queue = static_cast<uint32_t>(1 + making.Below(kIoQueues));
    const uint64_t dice = making.Below(3);
    const auto set = [&](bool masked) {
      if (dice == 0) {
        out->push_back(WriteOf(7, kMsixCap + pci::kMsixControl, 2,
                               pci::kMsixEnable | (masked ? pci::kMsixFunctionMask : 0u)));
      } else if (dice == 1) {
        out->push_back(WriteOf(4, queue * pci::kMsixEntrySize + pci::kMsixEntryControl, 4, masked));
      } else {
        out->push_back(WriteRegister(masked ? nvme::kIntms : nvme::kIntmc, 1u << queue));
      }
    };
    set(true);
    AddSubmission(making, queue, LawfulIo(making), before, out);
    set(false);
  }

  // One command many times.
  static void AddFlood(Making& making, std::span<const Event> before, std::vector<Event>* out) {
    const auto queue = static_cast<uint32_t>(making.Below(1 + kIoQueues));
    Sqe sqe = queue == 0 ? AdminCommand(making) : LawfulIo(making);
    if (queue == 0 && making.OneIn(2)) {
      sqe = {.opcode = static_cast<uint8_t>(AdminOpcode::kAsyncEventRequest)};
    }
    for (uint64_t i = 4 + making.Below(4); i != 0; --i, ++sqe.cid) {
      AddSubmission(making, queue, sqe, before, out);
    }
  }

  // As much as a command may move, and a little less and more, by a list.
  static void AddLargeTransfer(Making& making, std::span<const Event> before,
                               std::vector<Event>* out) {
    constexpr uint64_t kMost = kNvmeMaxTransfer / kBlockSize;
    Sqe sqe = LawfulIo(making);
    sqe.prp1 = SomePage(making);
    sqe.prp2 = SomePage(making);
    sqe.cdw10 = static_cast<uint32_t>(making.Below(kBlocks - 2 * kMost));
    sqe.cdw12 =
        static_cast<uint32_t>(making.OneIn(2) ? kMost - 2 + making.Below(3) : making.Below(kMost));
    std::array<uint64_t, kNvmeMaxTransfer / kPage> list;
    for (uint64_t& entry : list) entry = SomePage(making);
    out->push_back({.kind = Kind::kMemory, .at = sqe.prp2, .data = Keep(making.store, list)});
    AddSubmission(making, 1, sqe, before, out);
  }

  static uint64_t SomePage(Making& making) {
    return Host::kBase + making.Below(Host::kSize / kPage) * kPage;
  }

  // Data in the last page there is, and in the first.
  static void AddEndsOfMemory(Making& making, std::span<const Event> before,
                              std::vector<Event>* out) {
    for (const uint64_t at : {uint64_t{0} - kPage, uint64_t{0}}) {
      out->push_back({.kind = Kind::kMap, .size = 3, .at = at, .value = kPage});
    }
    Sqe sqe = LawfulIo(making);
    sqe.prp1 = uint64_t{0} - kPage;
    sqe.prp2 = 0;
    sqe.cdw12 = static_cast<uint32_t>(8 + making.Below(8));
    AddSubmission(making, 1, sqe, before, out);
  }

  // Vectors are masked and unmasked, MSI-X, MSI and INTx take turns.
  static void AddVectorSetUp(Making& making, std::vector<Event>* out) {
    const uint64_t dice = making.Below(8);
    if (dice == 0) {
      out->push_back(WriteOf(7, kMsixCap + pci::kMsixControl, 2,
                             making.Pick({0u, 0x8000u, 0xc000u, 0x8000u})));
      return;
    }
    if (dice == 1) {
      out->push_back(WriteOf(7, kMsixCap + pci::kMsixControl, 2, 0));
      out->push_back(WriteOf(7, kMsiCap + pci::kMsiControl, 2, making.Below(8) << 4 | 1));
      out->push_back(WriteOf(7, kMsiCap + pci::kMsiMask, 4, making.Below(4)));
      return;
    }
    if (dice < 5) {
      out->push_back(WriteOf(4, making.Below(4) * pci::kMsixEntrySize + pci::kMsixEntryControl, 4,
                             making.Below(2)));
      return;
    }
    out->push_back(WriteRegister(making.OneIn(2) ? nvme::kIntms : nvme::kIntmc, making.Number()));
  }

  static void AddRestart(Making& making, std::vector<Event>* out) {
    if (making.OneIn(2)) {
      out->push_back(
          WriteRegister(nvme::kCc, (nvme::kCcEn | nvme::kSqeShift << 16 | nvme::kCqeShift << 20) |
                                       making.Pick({nvme::kCcShnNormal, nvme::kCcShnAbrupt, 0u})));
      if (making.OneIn(2)) return;
    }
    out->push_back(WriteRegister(nvme::kCc, 0));
    out->push_back(WriteRegister(
        nvme::kAqa, making.OneIn(3) ? making.Number() : (kEntries - 1) << 16 | (kEntries - 1)));
    if (making.OneIn(4)) out->push_back(WriteRegister(nvme::kAsq, SomeMemory(making, kPage)));
    if (making.OneIn(4)) out->push_back(WriteRegister(nvme::kAcq, SomeMemory(making, kPage)));
    uint64_t cc = nvme::kCcEn | nvme::kSqeShift << 16 | nvme::kCqeShift << 20;
    if (making.OneIn(4)) cc |= making.Below(16) << 7;
    if (making.OneIn(6)) cc ^= uint64_t{1} << making.Below(24);
    out->push_back(WriteRegister(nvme::kCc, cc));
  }

  // What happens to the disk, or to the memory, while the command runs.
  static void AddBackend(Making& making, std::vector<Event>* out) {
    if (making.OneIn(10)) {
      out->push_back({.kind = Kind::kDisk,
                      .what = static_cast<uint8_t>(making.Below(4)),
                      .value = making.Below(140)});
    }
    if (making.OneIn(16)) {
      out->push_back({.kind = Kind::kReflect,
                      .what = static_cast<uint8_t>(making.Pick({0, 0, 4})),
                      .size = static_cast<uint8_t>(making.Pick({24, 24, 32, 0})),
                      .at = making.Below(0x1040) & ~3ull});
    }
  }

  // PRP lists, ranges, a feature's structure: what the command's next reads get.
  static void AddData(Making& making, uint32_t queue, const Sqe& sqe, std::vector<Event>* out) {
    if (making.OneIn(3)) return;
    const bool ranges =
        queue != 0 && sqe.opcode == static_cast<uint8_t>(IoOpcode::kDatasetManagement);
    if (ranges) {
      std::array<nvme::DsmRange, 4> list;
      for (nvme::DsmRange& range : list) {
        range = {
            .attributes = 0,
            .blocks = static_cast<uint32_t>(making.OneIn(4) ? making.Number() : making.Below(32)),
            .first_block = making.OneIn(4) ? making.Number() : making.Below(kBlocks)};
      }
      out->push_back({.kind = Kind::kAnswer, .data = Keep(making.store, list)});
      return;
    }
    std::array<uint64_t, 16> list;
    const bool lawful = making.OneIn(2);
    for (uint64_t& entry : list) {
      entry = lawful ? SomePage(making) : SomeMemory(making, kPage);
      if (lawful || !making.OneIn(8)) entry &= ~(kPage - 1);
    }
    out->push_back({.kind = Kind::kAnswer, .data = Keep(making.store, list)});
  }

  static uint32_t Nsid(Making& making) {
    return making.OneIn(12) ? making.Pick({0u, 2u, nvme::kAllNamespaces}) : nvme::kNamespaceId;
  }

  static void PointAt(Making& making, Sqe& sqe) {
    sqe.prp1 = SomeMemory(making, kPage);
    sqe.prp2 = SomeMemory(making, kPage);
    if (!making.OneIn(6)) sqe.prp2 &= ~(kPage - 1);
    if (making.OneIn(30)) sqe.flags = static_cast<uint8_t>(making.Number());
  }

  static Sqe IoCommand(Making& making) {
    Sqe sqe;
    sqe.opcode = static_cast<uint8_t>(
        making.OneIn(20) ? making.Below(256)
                         : static_cast<uint64_t>(making.Pick(
                               {IoOpcode::kRead, IoOpcode::kRead, IoOpcode::kWrite,
                                IoOpcode::kWrite, IoOpcode::kCompare, IoOpcode::kFlush,
                                IoOpcode::kWriteZeroes, IoOpcode::kDatasetManagement})));
    sqe.nsid = Nsid(making);
    PointAt(making, sqe);
    const uint64_t block = making.OneIn(10) ? making.Number() : making.Below(kBlocks + 1);
    sqe.cdw10 = static_cast<uint32_t>(block);
    sqe.cdw11 = static_cast<uint32_t>(block >> 32);
    sqe.cdw12 = static_cast<uint32_t>(making.OneIn(8)   ? making.Number()
                                      : making.OneIn(8) ? making.Pick({126u, 127u, 128u})
                                                        : making.Below(40));
    if (making.OneIn(6)) sqe.cdw12 |= 1u << 30;  // FUA.
    if (sqe.opcode == static_cast<uint8_t>(IoOpcode::kDatasetManagement)) {
      sqe.cdw10 = static_cast<uint32_t>(making.Below(6));
      sqe.cdw11 = static_cast<uint32_t>(making.Pick({4, 4, 4, 0, 7}));
    }
    return sqe;
  }

  static Sqe AdminCommand(Making& making) {
    Sqe sqe;
    sqe.opcode = static_cast<uint8_t>(making.OneIn(20) ? making.Below(256) : making.Below(13));
    sqe.nsid = Nsid(making);
    PointAt(making, sqe);
    const auto number = [&](uint64_t usual) {
      return static_cast<uint32_t>(making.OneIn(8) ? making.Number() : making.Below(usual));
    };
    switch (static_cast<AdminOpcode>(sqe.opcode)) {
      case AdminOpcode::kCreateSq:
      case AdminOpcode::kCreateCq: {
        const uint32_t id = number(6);
        sqe.cdw10 = number(40) << 16 | (id & 0xffff);
        sqe.cdw11 = number(6) << 16 | (making.OneIn(8) ? number(4) : 3);
        if (!making.OneIn(6)) sqe.prp1 &= ~(kPage - 1);
        break;
      }
      case AdminOpcode::kDeleteSq:
      case AdminOpcode::kDeleteCq:
        sqe.cdw10 = number(4);
        break;
      case AdminOpcode::kGetLogPage:
        sqe.cdw10 = number(7) | number(600) << 16;
        sqe.cdw11 = making.OneIn(4) ? number(4) : 0;
        sqe.cdw12 = making.OneIn(2) ? number(1200) & ~3u : 0;
        sqe.cdw13 = making.OneIn(10) ? number(4) : 0;
        sqe.nsid = making.Pick({nvme::kAllNamespaces, nvme::kAllNamespaces, sqe.nsid});
        break;
      case AdminOpcode::kIdentify:
        sqe.cdw10 = number(6);
        break;
      case AdminOpcode::kAbort:
        sqe.cdw10 = number(3) | number(64) << 16;
        break;
      case AdminOpcode::kSetFeatures:
      case AdminOpcode::kGetFeatures:
        sqe.cdw10 =
            number(0x10) | (making.OneIn(4) ? static_cast<uint32_t>(making.Below(5)) << 8 : 0);
        sqe.cdw11 = making.OneIn(2) ? number(8) : number(~0ull >> 32);
        if (making.OneIn(10)) sqe.cdw10 |= 1u << 31;
        break;
      default:
        break;
    }
    return sqe;
  }
};

}  // namespace

const Grammar& NvmeGrammar() {
  static const Nvme grammar;
  return grammar;
}

}  // namespace farside::fuzz
