// What a driver gives an LSI53C895A: SCRIPTS, in RAM, in memory, or fetched from the session
// itself (Technical Manual, chapters 4 and 5), and SCSI commands in them.
#include <array>
#include <optional>

#include "devices/core/pci_registers.h"
#include "devices/lsi53c895a/registers.h"
#include "devices/scsi/definitions.h"
#include "devices/testing/scripts_assembler.h"
#include "fuzz/host/disk.h"
#include "fuzz/host/host.h"
#include "fuzz/mutator/grammar.h"
#include "fuzz/mutator/scsi_commands.h"
#include "harness/diff/lsi_workload.h"

namespace farside::fuzz {
namespace {

using namespace lsi53c895a;  // NOLINT: this file writes its registers.
using diff::lsi_memory::kRamOnBus;

constexpr uint64_t kRegistersOnBus = 0xe000'0000;
constexpr std::pair<uint32_t, uint64_t> kBars[] = {
    {kIoBar, 0x1000}, {kMemoryBar, kRegistersOnBus}, {kRamBar, kRamOnBus}};
// Pages of memory: scripts, messages and CDBs, data.
constexpr uint64_t kScript = Host::kBase;
constexpr uint64_t kMessages = Host::kBase + 0x1000;
constexpr uint64_t kTables = Host::kBase + 0x2000;
constexpr uint64_t kData = Host::kBase + 0x4000;

// Of the disks, and of the CD.
constexpr uint32_t kBlockSize = 512;
constexpr uint32_t kCdBlockSize = 2048;

// Where the prologue leaves a script in SCRIPTS RAM.
constexpr uint64_t kDispatcherInRam = 0x400;
// Of it, behind selection and message: it asks for the phase.
constexpr uint64_t kDispatch = kRamOnBus + kDispatcherInRam + 2 * 8;

using Words = std::vector<uint32_t>;

constexpr uint32_t At(uint64_t iova) { return static_cast<uint32_t>(iova); }

Event WriteRegister(Reg reg, uint64_t value) {
  return WriteOf(kIoBar, OffsetOf(reg), kRegisters[reg].width, value);
}

uint32_t Address(Making& making) {
  switch (making.Below(10)) {
    case 0:
      return At(kRegistersOnBus + making.Below(256));
    case 1:
      return At(kRegistersOnBus + OffsetOf(making.Pick({kDsp, kDsa, kIstat0, kDcntl, kScntl1})));
    case 2:
      return At(kRamOnBus + making.Below(64) * 4);
    case 3:
      return At(making.Number());
    case 4:
      return At(kMessages + making.Below(32));
    default:
      return At(kData + making.Below(0x400) * 4);
  }
}

uint32_t Count(Making& making) {
  return making.Pick({0u, 1u, 1u, 2u, 4u, 6u, 8u, 10u, 16u, 36u, 255u, 256u, 512u, 4096u, 5000u,
                      0x01'0000u, 0xff'ffffu});
}

void AddInstruction(Making& making, Words* words) {
  const auto bits = static_cast<uint32_t>(making.random.Next());
  const auto add = [&](std::initializer_list<uint32_t> more) { words->insert(words->end(), more); };
  switch (making.Below(12)) {
    case 0:
      return add({bits, Address(making)});
    case 1:  // SELECT, by register or by table.
      return add({0x4000'0000 | (bits & 0x0700'0000) | (making.Pick({0u, 1u, 1u, 3u, 7u}) << 16) |
                      (bits & 0xff),
                  At(kScript)});
    case 2:  // WAIT DISCONNECT, WAIT RESELECT, SET, CLEAR.
      return add({0x4800'0000 + (bits % 4 << 27) + (making.Below(2) ? 0x40 : bits & 0x648), 0});
    case 3:  // MOVE MEMORY.
      return add({0xc000'0000 | Count(making), Address(making), Address(making)});
    case 4:  // LOAD, STORE.
      return add({0xe000'0000 | (bits & 0x11ff'0007), Address(making)});
    case 5:
    case 6:  // READ, WRITE, MODIFY.
      return add({0x4000'0000 | (5 + bits % 3) << 27 | (bits & 0x07ff'ff80), 0});
    case 7:                   // JUMP, CALL, RETURN, INT; with the conditions.
      if (making.OneIn(4)) {  // By the carry, which is set or cleared first.
        return add({making.OneIn(2) ? 0x5800'0400u : 0x6000'0400u, 0,
                    0x8020'0000 | (bits & Script::kIfTrue), At(kScript + (bits & 0x78))});
      }
      return add({0x8000'0000 | (bits & 0x3bff'ffff),
                  making.OneIn(2) ? At(kScript + (bits & 0x78)) : At(kRamOnBus + (bits & 0x78))});
    case 8:
      return add({0x9808'0000, bits});
    default:  // Block moves: direct, indirect, by table.
      return add({(bits & 0x0700'0000) | (making.OneIn(8) ? 0 : 0x0800'0000) |
                      making.Pick({0u, 0u, 0u, 0x1000'0000u, 0x2000'0000u}) | Count(making),
                  Address(making)});
  }
}

using Step = std::pair<uint32_t, uint32_t>;

constexpr uint32_t BlockMove(uint32_t phase, uint32_t count) {
  return 1u << 27 | phase << 24 | (count & 0xff'ffff);
}

// A command from its selection to its disconnect: a message, and a CDB behind it.
constexpr uint64_t kCdbAt = 64;
std::vector<Step> CommandSteps(uint32_t target, uint64_t message, size_t message_size,
                               uint32_t cdb_size, std::optional<Step> data) {
  std::vector<Step> steps = {{0x4100'0000 | target << 16, At(kScript + 0x100)},
                             {BlockMove(6, static_cast<uint32_t>(message_size)), At(message)},
                             {BlockMove(2, cdb_size), At(message + kCdbAt)}};
  if (data) steps.push_back(*data);
  steps.insert(steps.end(), {{BlockMove(3, 1), At(kMessages + 128)},
                             {BlockMove(7, 1), At(kMessages + 129)},
                             {0x7c02'7f00, 0},    // SCNTL2.SDU off: the disconnect is expected.
                             {0x6000'0040, 0},    // CLEAR ACK.
                             {0x4800'0000, 0}});  // WAIT DISCONNECT.
  return steps;
}

// TEST UNIT READY, which takes the unit attention of a reset.
constexpr uint64_t kTestUnit = Host::kBase + 0x3000;

void AddTestUnit(uint32_t target, Store& store, std::vector<Event>* out, std::vector<Step>* steps) {
  constexpr std::byte kIdentify{0x80};
  out->push_back({.kind = Kind::kMemory, .at = kTestUnit, .data = store.Add(AsBytes(kIdentify))});
  const std::vector<Step> more = CommandSteps(target, kTestUnit, 1, 6, std::nullopt);
  steps->insert(steps->end(), more.begin(), more.end());
}

constexpr Step kInt = {0x9808'0000, 7};

// A driver's script, which follows the target through whatever phases it takes. Tables are at DSA:
// selection, message, CDB, data.
Words Dispatcher() {
  uint32_t dispatch = 0;
  uint32_t places[6] = {};
  for (int pass = 0; pass < 2; ++pass) {
    Script s(At(kRamOnBus + kDispatcherInRam));
    s.SelectTable(0, dispatch).MoveTable(Script::kMessageOut, 8);
    dispatch = s.here();
    constexpr Script::Phase kPhases[] = {Script::kMessageIn, Script::kDataIn,  Script::kDataOut,
                                         Script::kStatus,    Script::kCommand, Script::kMessageOut};
    s.Jump(places[0], Script::kIfTrue | Script::When(kPhases[0]));
    for (size_t i = 1; i < std::size(kPhases); ++i) {
      s.Jump(places[i], Script::kIfTrue | Script::If(kPhases[i]));
    }
    s.Int(1);
    places[0] = s.here();
    s.Move(Script::kMessageIn, 1, At(kMessages + 129))
        .Clear(Script::kAck)
        .Jump(dispatch, Script::kIfTrue | Script::Data(2))
        .Modify(OffsetOf(kScntl2), Script::kAnd, 0x7f)
        .WaitDisconnect()
        .Int(2);
    places[1] = s.here();
    s.MoveTable(Script::kDataIn, 24).Jump(dispatch);
    places[2] = s.here();
    s.MoveTable(Script::kDataOut, 24).Jump(dispatch);
    places[3] = s.here();
    s.Move(Script::kStatus, 1, At(kMessages + 128)).Jump(dispatch);
    places[4] = s.here();
    s.MoveTable(Script::kCommand, 16).Jump(dispatch);
    places[5] = s.here();
    s.MoveTable(Script::kMessageOut, 8).Jump(dispatch);
    if (pass == 1) return Words(s.words().begin(), s.words().end());
  }
  return {};
}

// Per mille; the driver of comparisons resets the bus again and again.
constexpr uint64_t kDriverWork = 40;

class Lsi final : public DeviceGrammar {
 public:
  Lsi() : DeviceGrammar(diff::LsiModel(), kDriverWork) {}

  void AddPrologue(Store& store, std::vector<Event>* out) const override {
    AddFunctionSetUp(kBars, out);
    out->push_back(WriteRegister(kScid, 0x47));
    out->push_back(WriteRegister(kRespid0, 0x80));
    out->push_back(WriteRegister(kDien, 0x7d));
    out->push_back(WriteRegister(kSien0, 0x8f));
    out->push_back(WriteRegister(kSien1, 0x07));
    out->push_back(WriteRegister(kDsa, At(kTables)));
    for (const Reg reg : {kPmjad1, kPmjad2}) out->push_back(WriteRegister(reg, kDispatch));
    const Words dispatcher = Dispatcher();
    out->push_back({.kind = Kind::kWriteData,
                    .what = kRamBar,
                    .at = kDispatcherInRam,
                    .data = store.Add(std::as_bytes(std::span(dispatcher)))});
    std::vector<Step> steps;
    for (const uint32_t target : {0u, 1u}) AddTestUnit(target, store, out, &steps);
    steps.push_back(kInt);
    Words words;
    for (const auto& [first, second] : steps) words.insert(words.end(), {first, second});
    out->push_back({.kind = Kind::kWriteData,
                    .what = kRamBar,
                    .data = store.Add(std::as_bytes(std::span(words)))});
    out->push_back(WriteRegister(kDsp, kRamOnBus));
    AddTakingOfInterrupts(out);
  }

  void AddPiece(Making& making, std::span<const Event> before,
                std::vector<Event>* out) const override {
    // The first thing, mostly, for what comes later may leave nothing at work.
    if (before.empty() && !making.OneIn(3)) return AddTransfer(making, out);
    DeviceGrammar::AddPiece(making, before, out);
  }

  void MutateData(Making& making, const Event& event, Bytes data) const override {
    // An instruction, or several.
    if (data.size() < 8 || data.size() % 4 != 0 || !making.OneIn(3)) {
      return Grammar::MutateData(making, event, data);
    }
    Words words;
    AddInstruction(making, &words);
    const size_t at = making.Below(data.size() / 4) * 4;
    const ConstBytes bytes = std::as_bytes(std::span(words));
    const size_t size = std::min(bytes.size(), data.size() - at);
    Copy(data.subspan(at, size), bytes.first(size));
  }

 protected:
  void AddWork(Making& making, std::span<const Event>, std::vector<Event>* out) const override {
    switch (making.Below(14)) {
      case 0:
        return AddTakingOfInterrupts(out);
      case 1:
        return AddTimers(making, out);
      case 2:
      case 3:
        return AddProgram(making, out);
      case 4:
        return AddSpecial(making, out);
      case 5:
        return AddTransfer(making, out);
      case 6:
        return AddFailure(making, out);
      default:
        return AddCommand(making, out);
    }
  }

 private:
  static void AddTakingOfInterrupts(std::vector<Event>* out) {
    for (const Reg reg : {kIstat0, kSist0, kSist1, kDstat}) {
      out->push_back(ReadOf(kIoBar, OffsetOf(reg), 1));
    }
  }

  static void AddTimers(Making& making, std::vector<Event>* out) {
    out->push_back(WriteRegister(kStime0, making.Below(256)));
    out->push_back(WriteRegister(kStime1, making.Below(128)));
    out->push_back({.kind = Kind::kClock, .value = making.Number() >> making.Below(40)});
  }

  // Makes the words run from where they are put.
  enum class Place : uint64_t { kRam, kMemory, kAnswers };
  static void Start(Making& making, const Words& words, Place place, std::vector<Event>* out) {
    const ConstBytes code = making.store.Add(std::as_bytes(std::span(words)));
    if (making.OneIn(24)) out->push_back({.kind = Kind::kHold});
    switch (place) {
      case Place::kRam:
        out->push_back({.kind = Kind::kWriteData, .what = kRamBar, .at = 0, .data = code});
        out->push_back(WriteRegister(kDsp, kRamOnBus));
        break;
      case Place::kMemory:
        out->push_back({.kind = Kind::kMemory, .at = kScript, .data = code});
        out->push_back(WriteRegister(kDsp, kScript));
        break;
      case Place::kAnswers:
        // Each fetch takes its instruction from the session, and so does each read of data.
        out->push_back(WriteRegister(kDsp, kScript));
        for (size_t at = 0; at + 8 <= code.size(); at += 8) {
          out->push_back({.kind = Kind::kAnswer, .data = code.subspan(at, 8)});
        }
    }
    if (making.OneIn(6)) {
      out->push_back(WriteRegister(kIstat0, making.Pick({kIstat0Abrt, kIstat0Sigp, kIstat0Srst})));
    }
    if (making.OneIn(3)) AddTakingOfInterrupts(out);
  }

  static void AddProgram(Making& making, std::vector<Event>* out) {
    Words words;
    for (uint64_t i = 1 + making.Below(8); i != 0; --i) AddInstruction(making, &words);
    words.insert(words.end(), {0x9808'0000, 1});
    Start(making, words, static_cast<Place>(making.Below(3)), out);
  }

  // What seldom comes by chance.
  void AddSpecial(Making& making, std::vector<Event>* out) const {
    if (making.OneIn(64)) return AddTaskSet(making, out);
    switch (making.Below(10)) {
      case 0:
        return AddMasking(making, out);
      case 1:
        return AddStacking(making, out);
      case 2:
        return AddGate(making, out);
      case 3:
        return AddTimerAndReset(making, out);
      case 4:
        return AddWideMove(making, out);
      case 5:
        return AddTableIndex(making, out);
      case 6:
        return AddLoop(making, out);
      case 7:
        return AddMessages(making, out);
      case 8:
        return AddTray(making, out);
      default:
        return AddAtEndOfRam(making, out);
    }
  }

  // INT or INTFLY while its interrupt is masked, and the mask taken off afterwards.
  static void AddMasking(Making& making, std::vector<Event>* out) {
    const bool fly = making.OneIn(2);
    const Reg mask = fly ? kIstat1 : kDien;
    out->push_back(WriteRegister(mask, fly ? kIstat1Si : 0));
    Words words;
    if (fly) words.insert(words.end(), {0x9818'0000, 0});
    words.insert(words.end(), {kInt.first, kInt.second});
    Start(making, words, static_cast<Place>(making.Below(2)), out);
    out->push_back(WriteRegister(mask, fly ? 0 : 0x7d));
    if (fly && making.OneIn(2)) out->push_back(WriteRegister(kIstat0, kIstat0Intf));
    AddTakingOfInterrupts(out);
  }

  // A second interrupt before the first was read: a selection that times out, or an abort.
  static void AddStacking(Making& making, std::vector<Event>* out) {
    Words words;
    if (making.OneIn(2)) words.insert(words.end(), {0x4102'0000, At(kScript + 0x100)});
    words.insert(words.end(), {kInt.first, kInt.second});
    Start(making, words, Place::kMemory, out);
    if (making.OneIn(2)) out->push_back(WriteRegister(kIstat0, kIstat0Abrt));
    if (making.OneIn(2)) out->push_back(WriteRegister(kIstat0, 0));
    AddTakingOfInterrupts(out);
    AddTakingOfInterrupts(out);
  }

  // A script that is started before the device may reach memory.
  static void AddGate(Making& making, std::vector<Event>* out) {
    const auto command = [](uint16_t value) {
      return WriteOf(diff::kConfigRegion, pci::kCommand, 2, value);
    };
    out->push_back(command(pci::kCommandIo | pci::kCommandMemory));
    Start(making, {kInt.first, kInt.second}, static_cast<Place>(making.Below(2)), out);
    out->push_back(command(pci::kCommandIo | pci::kCommandMemory | pci::kCommandBusMaster));
    AddTakingOfInterrupts(out);
  }

  void AddTimerAndReset(Making& making, std::vector<Event>* out) const {
    out->push_back(WriteRegister(kStime1, 1 + making.Below(15)));
    if (making.OneIn(2)) {
      out->push_back(WriteRegister(kIstat0, kIstat0Srst));
      out->push_back(WriteRegister(kIstat0, 0));
    } else {
      out->push_back({.kind = Kind::kReset});
    }
    if (!making.OneIn(4)) AddPrologue(making.store, out);
  }

  // Block moves with 64-bit addresses: a message comes from the memory above 4 GB.
  static void AddWideMove(Making& making, std::vector<Event>* out) {
    constexpr std::byte kIdentify{0x80};
    const uint32_t at = static_cast<uint32_t>(making.Below(64) * 4);
    out->push_back({.kind = Kind::kMemory,
                    .at = Host::kHighBase + at,
                    .data = making.store.Add(AsBytes(kIdentify))});
    out->push_back(WriteRegister(kCcntl1, kCcntl1EnDbmv));
    Start(making,
          {0x4100'0000, At(kScript + 0x100), BlockMove(6, 1), at, Host::kHighBase >> 32, kInt.first,
           kInt.second},
          Place::kMemory, out);
    out->push_back(WriteRegister(kCcntl1, 0));
    AddBusReset(out);
  }

  // A table entry that names the register with the upper half of its address.
  static void AddTableIndex(Making& making, std::vector<Event>* out) {
    const auto index = static_cast<uint32_t>(making.Below(32));
    const std::array<uint32_t, 2> entry = {index << 24 | 1, At(kMessages)};
    out->push_back(
        {.kind = Kind::kMemory, .at = kTables + 32, .data = making.store.Add(AsBytes(entry))});
    out->push_back(WriteRegister(kCcntl1, kCcntl1EnTibmv));
    Start(making, {0x4100'0000, At(kScript + 0x100), 0x1e00'0000, 32, kInt.first, kInt.second},
          Place::kMemory, out);
    out->push_back(WriteRegister(kCcntl1, 0));
    AddBusReset(out);
  }

  // A script without an end, until it is aborted.
  static void AddLoop(Making& making, std::vector<Event>* out) {
    Start(making, {0x8008'0000, At(kScript)}, Place::kMemory, out);
    out->push_back(WriteRegister(kIstat0, kIstat0Abrt));
    out->push_back(WriteRegister(kIstat0, 0));
    AddTakingOfInterrupts(out);
  }

  static void AddAtEndOfRam(Making& making, std::vector<Event>* out) {
    const uint64_t at = kRamSize - 4 * (1 + making.Below(4));
    out->push_back({.kind = Kind::kWriteData,
                    .what = kRamBar,
                    .at = at,
                    .data = making.RandomBytes(kRamSize - at)});
    out->push_back(WriteRegister(kDsp, kRamOnBus + at));
    AddTakingOfInterrupts(out);
  }

  // More messages than a target has room for replies to.
  static void AddMessages(Making& making, std::vector<Event>* out) {
    constexpr uint64_t kMany = kMessages + 0x200;
    const std::vector<std::byte> messages = MakeManyMessages(making);
    const auto count = static_cast<uint32_t>(messages.size());
    out->push_back({.kind = Kind::kMemory, .at = kMany, .data = making.store.Add(messages)});
    Start(making,
          {0x4100'0000, At(kScript + 0x100), BlockMove(6, count), At(kMany), BlockMove(7, count),
           At(kData), kInt.first, kInt.second},
          static_cast<Place>(making.Below(2)), out);
    AddBusReset(out);
  }

  // As many commands as there are tags, and one without: the disk does none of them yet.
  static void AddTaskSet(Making& making, std::vector<Event>* out) {
    constexpr std::array<uint8_t, 3> kTagged = {0xc0, 0x20, 0};  // IDENTIFY, SIMPLE, the tag.
    constexpr uint32_t kTag = At(kMessages) + 2;
    const ScsiCommand read = MakeTransfer(making, 0x28, kBlockSize);
    Script s(At(kRamOnBus));
    const auto add_one = [&](uint32_t message_size) {
      s.Select(0, At(kScript + 0x100))
          .Move(Script::kMessageOut, message_size, At(kMessages))
          .Move(Script::kCommand, read.size, At(kMessages + kCdbAt))
          .Clear(Script::kAck)  // The target goes away at once, and not after a while.
          .Move(Script::kMessageIn, 2, At(kMessages + 128))
          .Modify(OffsetOf(kScntl2), Script::kAnd, 0x7f)
          .Clear(Script::kAck);
    };
    add_one(sizeof kTagged);
    s.Modify(OffsetOf(kScratchA), Script::kAdd, 1)
        .Store(OffsetOf(kScratchA), 1, kTag)
        .RegisterToSfbr(OffsetOf(kScratchA), Script::kOr, 0)
        .Jump(At(kRamOnBus), Script::Data(0));
    add_one(1);
    s.Int(7);
    out->push_back({.kind = Kind::kDisk, .what = static_cast<uint8_t>(DiskAction::kHold)});
    out->push_back(
        {.kind = Kind::kMemory, .at = kMessages, .data = making.store.Add(AsBytes(kTagged))});
    AddCdb(making, read, out);
    out->push_back(WriteRegister(kScratchA, 0));
    Start(making, Words(s.words().begin(), s.words().end()), Place::kRam, out);
    out->push_back({.kind = Kind::kDisk, .what = static_cast<uint8_t>(DiskAction::kResume)});
    AddTakingOfInterrupts(out);
  }

  // A CD drive whose tray opens, and a command that may need a disc.
  static void AddTray(Making& making, std::vector<Event>* out) {
    constexpr uint32_t kDrive = 1;
    ScsiCommand eject;
    eject.cdb[0] = static_cast<uint8_t>(scsi::Opcode::kStartStopUnit);
    eject.cdb[4] = 2;  // LOEJ.
    ScsiCommand read;
    read.cdb[0] =
        static_cast<uint8_t>(making.Pick({scsi::Opcode::kRead10, scsi::Opcode::kReadCapacity10}));
    read.cdb[8] = 1;
    read.size = 10;
    for (const ScsiCommand& command : {eject, read}) {
      AddPlain(making, command, kDrive, out);
      AddTakingOfInterrupts(out);
    }
  }

  // A read or write that nothing is wrong with.
  static void AddTransfer(Making& making, std::vector<Event>* out) {
    const uint32_t target = making.Pick({0u, 0u, 0u, 1u, 3u});
    const bool is_cd = target == 1;
    const auto opcode = making.OneIn(2) ? making.Pick<uint8_t>({0x28, 0xa8})
                        : is_cd         ? uint8_t{0x28}
                        : target == 3   ? making.Pick<uint8_t>({0x08, 0x88})
                                      : making.Pick<uint8_t>({0x08, 0x88, 0x0a, 0x2a, 0x8a, 0xaa});
    AddPlain(making, MakeTransfer(making, opcode, is_cd ? kCdBlockSize : kBlockSize), target, out);
  }

  // A command that may fail, and its sense data.
  static void AddFailure(Making& making, std::vector<Event>* out) {
    using scsi::Opcode;
    const uint32_t target = making.Pick({0u, 0u, 1u, 3u});
    const ScsiCommand command =
        making.OneIn(2) ? MakeScsiCommand(making)
                        : MakeScsiCommand(making, making.Pick({Opcode::kModeSelect6, Opcode::kUnmap,
                                                               Opcode::kModeSelect10}));
    AddPlain(making, command, target, out);
    AddPlain(making, MakeScsiCommand(making, Opcode::kRequestSense), target, out);
  }

  // Without a tag.
  static void AddPlain(Making& making, const ScsiCommand& command, uint32_t target,
                       std::vector<Event>* out) {
    constexpr std::byte kIdentify{0x80};
    out->push_back(
        {.kind = Kind::kMemory, .at = kMessages, .data = making.store.Add(AsBytes(kIdentify))});
    AddCdb(making, command, out);
    AddData(making, command, out);
    AddDispatched(making, command, target, 1, out);
  }

  // What a command takes from memory.
  static void AddData(Making& making, const ScsiCommand& command, std::vector<Event>* out) {
    if (!command.list.empty()) {
      out->push_back({.kind = Kind::kMemory, .at = kData, .data = making.store.Add(command.list)});
    } else if (command.out && making.OneIn(2)) {
      out->push_back({.kind = Kind::kMemory,
                      .at = kData,
                      .data = making.RandomBytes(std::min(command.data, 64u))});
    }
  }

  static void AddBusReset(std::vector<Event>* out) {
    out->push_back(WriteRegister(kScntl1, kScntl1Rst));
    out->push_back(WriteRegister(kScntl1, 0));
    AddTakingOfInterrupts(out);
  }

  static void AddCdb(Making& making, const ScsiCommand& command, std::vector<Event>* out) {
    out->push_back(
        {.kind = Kind::kMemory,
         .at = kMessages + kCdbAt,
         .data = making.store.Add(std::as_bytes(std::span(command.cdb)).first(command.size))});
  }

  // Runs the command by the prologue's script, in whatever phases it takes.
  static void AddDispatched(Making& making, const ScsiCommand& command, uint32_t target,
                            size_t message_size, std::vector<Event>* out) {
    const uint32_t data = making.OneIn(10) ? Address(making) : At(kData);
    const uint32_t count = making.OneIn(6) ? Count(making) : std::max(command.data, 4096u);
    const std::array<uint32_t, 8> tables = {target << 16,
                                            0,
                                            static_cast<uint32_t>(message_size),
                                            At(kMessages),
                                            command.size,
                                            At(kMessages + kCdbAt),
                                            count,
                                            data};
    out->push_back(
        {.kind = Kind::kMemory, .at = kTables, .data = making.store.Add(AsBytes(tables))});
    // A target that has less data goes on elsewhere.
    out->push_back(WriteRegister(kCcntl0, making.OneIn(6) ? 0 : kCcntl0Enpmj));
    out->push_back(WriteRegister(kDsp, kRamOnBus + kDispatcherInRam));
    if (making.OneIn(2)) AddTakingOfInterrupts(out);
  }

  // Selects a target and runs a command through its phases, with a step too many or left out now
  // and then.
  static void AddCommand(Making& making, std::vector<Event>* out) {
    const ScsiCommand command = MakeScsiCommand(making);
    const uint32_t target = making.Pick({0u, 0u, 0u, 0u, 0u, 0u, 1u, 1u, 1u, 2u, 3u});
    const std::vector<std::byte> message = MakeScsiMessages(making);
    out->push_back({.kind = Kind::kMemory, .at = kMessages, .data = making.store.Add(message)});
    AddCdb(making, command, out);
    AddData(making, command, out);
    if (making.OneIn(12)) {
      out->push_back({.kind = Kind::kDisk,
                      .what = static_cast<uint8_t>(making.Below(4) + 16 * making.Below(3)),
                      .value = making.Below(140)});
    }
    if (!making.OneIn(3)) return AddDispatched(making, command, target, message.size(), out);
    std::optional<Step> data;
    if (command.data != 0) {
      data.emplace(BlockMove(command.out ? 0 : 1, command.data),
                   making.OneIn(10) ? Address(making) : At(kData));
    }
    std::vector<Step> steps;
    if (making.OneIn(3)) AddTestUnit(target, making.store, out, &steps);
    const auto more = CommandSteps(target, kMessages, message.size(), command.size, data);
    steps.insert(steps.end(), more.begin(), more.end());
    steps.push_back(kInt);
    if (making.OneIn(6)) {
      steps.erase(steps.begin() + static_cast<ptrdiff_t>(making.Below(steps.size())));
    }
    Words words;
    for (const auto& [first, second] : steps) {
      words.insert(words.end(), {first, second});
      if (making.OneIn(40)) AddInstruction(making, &words);
    }
    Start(making, words, static_cast<Place>(making.Below(2)), out);
    if (making.OneIn(2)) AddTakingOfInterrupts(out);
    // What went wrong leaves the bus busy.
    if (making.OneIn(6)) AddBusReset(out);
  }
};

}  // namespace

const Grammar& LsiGrammar() {
  static const Lsi grammar;
  return grammar;
}

}  // namespace farside::fuzz
