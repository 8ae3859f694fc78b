#include "harness/drivers/lsi_script.h"

#include <map>
#include <string>
#include <utility>

#include "devices/lsi53c895a/registers.h"

namespace farside {
namespace {

using lsi53c895a::OffsetOf;

enum Phase : uint32_t {
  kDataOut = 0,
  kDataIn = 1,
  kCommand = 2,
  kStatus = 3,
  kMessageOut = 6,
  kMessageIn = 7,
};
enum Operator : uint32_t { kLoad = 0, kOr = 2, kAnd = 4, kAdd = 6, kAddc = 7 };
constexpr uint32_t kAck = 1 << 6;
constexpr uint32_t kAtn = 1 << 3;
constexpr uint32_t kIfTrue = 1 << 19;
constexpr uint32_t If(Phase phase) { return uint32_t{phase} << 24 | 1 << 17; }
constexpr uint32_t When(Phase phase) { return If(phase) | 1 << 16; }
constexpr uint32_t IfData(uint32_t data) { return kIfTrue | 1 << 18 | data; }

// Registers of the script's own: commands have completed and no interrupt has said so; the entry of
// the ring that it works on.
constexpr uint32_t kCompleted = OffsetOf(lsi53c895a::kScratchC);
constexpr uint32_t kEntry = kCompleted + 4;

constexpr uint32_t kSaveDataPointers = 2;
constexpr uint32_t kRestorePointers = 3;
constexpr uint32_t kDisconnect = 4;

class Assembler {
 public:
  explicit Assembler(const LsiPlaces& places) : places_(places) {}

  // Twice: the first time for the labels.
  LsiScript Assemble() {
    for (int pass = 0; pass < 2; ++pass) {
      words_.clear();
      Idle();
      Dispatch();
      Data();
      Messages();
      Start();
      Send();
    }
    return {.words = std::move(words_),
            .next = To("next"),
            .dispatch = To("dispatch"),
            .acknowledge = To("acknowledge"),
            .data_in = To("data_in"),
            .data_out = To("data_out"),
            .no_data = To("no_data"),
            .overrun = To("overrun")};
  }

 private:
  void Idle() {
    // One interrupt for all that has completed since the last one.
    At("quiet");
    RegisterToSfbr(kCompleted, kOr, 0);
    Jump(To("idle"), IfData(0));
    Modify(kCompleted, kLoad, 0);
    IntFly();
    At("idle");
    Raw(0x5000'0000, To("pick"));  // WAIT RESELECT; the alternative is SIGP's.
    At("reselected");
    Modify(OffsetOf(lsi53c895a::kScratchB), kAdd, 1);
    Modify(OffsetOf(lsi53c895a::kScratchB) + 1, kAddc, 0);
    Move(kMessageIn, places_.scratch);
    Clear(kAck);
    Load(OffsetOf(lsi53c895a::kDsa), places_.blocks_pointer);
    Jump(To("tagged"), kIfTrue | When(kMessageIn));
    RegisterToSfbr(OffsetOf(lsi53c895a::kSsid), kAnd, 0x0f);
    SfbrToRegister(OffsetOf(lsi53c895a::kDsa) + 1, lsi_block::kUntagged);
    Jump(To("dispatch"));
    At("tagged");
    Move(kMessageIn, places_.scratch + 1);
    Clear(kAck);
    Move(kMessageIn, places_.scratch + 2);
    SfbrToRegister(OffsetOf(lsi53c895a::kDsa) + 1, 0);
    Clear(kAck);
  }

  void Dispatch() {
    At("dispatch");
    Jump(To("message"), kIfTrue | When(kMessageIn));
    Jump(To("data"), kIfTrue | If(kDataIn));
    Jump(To("data"), kIfTrue | If(kDataOut));
    Jump(To("status"), kIfTrue | If(kStatus));
    Jump(To("command"), kIfTrue | If(kCommand));
    Int(LsiEvent::kBadPhase);
    At("status");
    MoveTable(kStatus, lsi_block::kStatusEntry);
    Jump(To("dispatch"));
  }

  void Data() {
    At("data");
    LoadRelative(OffsetOf(lsi53c895a::kTemp), 4, lsi_block::kResume);
    Raw(0x9000'0000 | kIfTrue, 0);  // RETURN
    At("data_in");
    for (uint32_t i = 0; i < lsi_block::kMaxSegments; ++i) {
      MoveTable(kDataIn, lsi_block::kSegments + 8 * i);
    }
    Jump(To("data_end"));
    At("data_out");
    for (uint32_t i = 0; i < lsi_block::kMaxSegments; ++i) {
      MoveTable(kDataOut, lsi_block::kSegments + 8 * i);
    }
    At("data_end");
    LoadRelative(OffsetOf(lsi53c895a::kScratchA), 4, lsi_block::kFinished);
    StoreRelative(OffsetOf(lsi53c895a::kScratchA), 4, lsi_block::kResume);
    Jump(To("dispatch"));
    // QEMU's chip says DATA IN while a command without data works.
    At("no_data");
    Move(kDataIn, places_.scratch + 3);
    At("overrun");
    Int(LsiEvent::kOverrun);
  }

  void Messages() {
    At("message");
    MoveTable(kMessageIn, lsi_block::kMessageInEntry);
    Jump(To("complete"), IfData(0));
    Jump(To("acknowledge"), IfData(kSaveDataPointers));
    Jump(To("disconnect"), IfData(kDisconnect));
    Jump(To("acknowledge"), IfData(kRestorePointers));
    Int(LsiEvent::kOtherMessage);
    At("acknowledge");
    Clear(kAck);
    Jump(To("dispatch"));
    At("disconnect");
    LeaveBus();
    Jump(To("next"));
    At("complete");
    LeaveBus();
    Modify(kCompleted, kLoad, 1);
    Jump(To("next"));
  }

  void Start() {
    At("pick");
    RegisterToSfbr(OffsetOf(lsi53c895a::kCtest2), kOr, 0);  // Takes SIGP back.
    At("next");
    Load(OffsetOf(lsi53c895a::kDsa), places_.ring_pointer);
    Load(kEntry, places_.ring_pointer);
    LoadRelative(OffsetOf(lsi53c895a::kScratchA), 1, lsi_ring::kDo);
    RegisterToSfbr(OffsetOf(lsi53c895a::kScratchA), kOr, 0);
    Jump(To("quiet"), IfData(lsi_ring::kNothing));
    LoadRelative(OffsetOf(lsi53c895a::kScratchA), 4, lsi_ring::kNext);
    Store(OffsetOf(lsi53c895a::kScratchA), places_.ring_pointer);
    Modify(OffsetOf(lsi53c895a::kScratchA), kLoad, lsi_ring::kNothing);
    StoreRelative(OffsetOf(lsi53c895a::kScratchA), 1, lsi_ring::kDo);
    LoadRelative(OffsetOf(lsi53c895a::kDsa), 4, lsi_ring::kBlock);
    Jump(To("send"), IfData(lsi_ring::kSend));
    Select("start_lost");
    MoveTable(kMessageOut, lsi_block::kMessageOut);
    Jump(To("dispatch"), When(kCommand));  // If it is not.
    At("command");
    MoveTable(kCommand, lsi_block::kCommand);
    Jump(To("dispatch"));
  }

  void Send() {
    At("send");
    Select("send_lost");
    Modify(OffsetOf(lsi53c895a::kScntl2), kAnd, 0x7f);
    MoveTable(kMessageOut, lsi_block::kMessageOut);
    Clear(kAck | kAtn);
    Raw(0x4800'0000, 0);  // WAIT DISCONNECT
    Modify(OffsetOf(lsi53c895a::kScratchA), kLoad, 0);
    StoreRelative(OffsetOf(lsi53c895a::kScratchA), 1, lsi_block::kMessage);
    IntFly();
    Jump(To("next"));
    Unget("start_lost", lsi_ring::kStart);
    Unget("send_lost", lsi_ring::kSend);
  }

  // A target has reselected us first: what was to be selected for waits in the ring again.
  void Unget(const std::string& label, uint8_t what) {
    At(label);
    Store(kEntry, places_.ring_pointer);
    Load(OffsetOf(lsi53c895a::kDsa), places_.ring_pointer);
    Modify(OffsetOf(lsi53c895a::kScratchA), kLoad, what);
    StoreRelative(OffsetOf(lsi53c895a::kScratchA), 1, lsi_ring::kDo);
    Jump(To("reselected"));
  }

  // Of a target that goes as it should.
  void LeaveBus() {
    Modify(OffsetOf(lsi53c895a::kScntl2), kAnd, 0x7f);
    Clear(kAck | kAtn);
    Raw(0x4800'0000, 0);
  }

  void At(const std::string& label) {
    labels_[label] = places_.script + static_cast<uint32_t>(4 * words_.size());
  }
  uint32_t To(const std::string& label) { return labels_[label]; }
  void Raw(uint32_t first, uint32_t second) { words_.insert(words_.end(), {first, second}); }
  void Move(Phase phase, uint32_t address) { Raw(1 << 27 | uint32_t{phase} << 24 | 1, address); }
  void MoveTable(Phase phase, uint32_t entry) {
    Raw(1 << 28 | 1 << 27 | uint32_t{phase} << 24, entry);
  }
  void Select(const std::string& lost) { Raw(0x4300'0000 | lsi_block::kSelect, To(lost)); }
  void Clear(uint32_t flags) { Raw(0x6000'0000 | flags, 0); }
  void Jump(uint32_t address, uint32_t condition = kIfTrue) {
    Raw(0x8000'0000 | condition, address);
  }
  void Int(LsiEvent event) { Raw(0x9800'0000 | kIfTrue, static_cast<uint32_t>(event)); }
  void IntFly() { Raw(0x9818'0000, 0); }
  void ReadWrite(uint32_t opcode, uint32_t reg, Operator op, uint32_t data) {
    Raw(opcode | uint32_t{op} << 24 | reg << 16 | data << 8, 0);
  }
  void SfbrToRegister(uint32_t reg, uint32_t data) { ReadWrite(0x6800'0000, reg, kOr, data); }
  void RegisterToSfbr(uint32_t reg, Operator op, uint32_t data) {
    ReadWrite(0x7000'0000, reg, op, data);
  }
  void Modify(uint32_t reg, Operator op, uint32_t data) { ReadWrite(0x7800'0000, reg, op, data); }
  void Load(uint32_t reg, uint32_t address) { Raw(0xe100'0000 | reg << 16 | 4, address); }
  void Store(uint32_t reg, uint32_t address) { Raw(0xe000'0000 | reg << 16 | 4, address); }
  void LoadRelative(uint32_t reg, uint32_t count, uint32_t offset) {
    Raw(0xf100'0000 | reg << 16 | count, offset);
  }
  void StoreRelative(uint32_t reg, uint32_t count, uint32_t offset) {
    Raw(0xf000'0000 | reg << 16 | count, offset);
  }

  const LsiPlaces& places_;
  std::vector<uint32_t> words_;
  std::map<std::string, uint32_t> labels_;
};

}  // namespace

LsiScript AssembleLsiScript(const LsiPlaces& places) { return Assembler(places).Assemble(); }

}  // namespace farside
