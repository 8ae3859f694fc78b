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

// Where the prologue leaves a script in SCRIPTS RAM.
constexpr uint64_t kDispatcherInRam = 0x400;
// Of it, behind selection and message: it asks for the phase.
constexpr uint64_t kDispatch = kRamOnBus + kDispatcherInRam + 2 * 8;

using Words = std::vector<uint32_t>;

uint32_t At(uint64_t iova) { return static_cast<uint32_t>(iova); }

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
    switch (making.Below(12)) {
      case 0:
        return AddTakingOfInterrupts(out);
      case 1:
        return AddTimers(making, out);
      case 2:
      case 3:
        return AddProgram(making, out);
      case 4:
        return AddSpecial(making, out);
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
    const auto count = static_cast<uint32_t>(2 + making.Below(200));
    const Bytes messages = making.store.Add(size_t{count});
    Fill(messages, 0x0a);
    messages[0] = std::byte{0x80};
    out->push_back({.kind = Kind::kMemory, .at = kMany, .data = messages});
    Start(making,
          {0x4100'0000, At(kScript + 0x100), BlockMove(6, count), At(kMany), BlockMove(7, count),
           At(kData), kInt.first, kInt.second},
          static_cast<Place>(making.Below(2)), out);
    AddBusReset(out);
  }

  // A CD drive whose tray opens, and a command that may need a disc.
  static void AddTray(Making& making, std::vector<Event>* out) {
    constexpr uint32_t kDrive = 1;
    constexpr std::byte kIdentify{0x80};
    Command eject;
    eject.cdb[0] = static_cast<uint8_t>(scsi::Opcode::kStartStopUnit);
    eject.cdb[4] = 2;  // LOEJ.
    Command read;
    read.cdb[0] =
        static_cast<uint8_t>(making.Pick({scsi::Opcode::kRead10, scsi::Opcode::kReadCapacity10}));
    read.cdb[8] = 1;
    read.size = 10;
    for (const Command& command : {eject, read}) {
      out->push_back(
          {.kind = Kind::kMemory, .at = kMessages, .data = making.store.Add(AsBytes(kIdentify))});
      AddCdb(making, command, out);
      AddDispatched(making, command, kDrive, 1, out);
      AddTakingOfInterrupts(out);
    }
  }

  static void AddBusReset(std::vector<Event>* out) {
    out->push_back(WriteRegister(kScntl1, kScntl1Rst));
    out->push_back(WriteRegister(kScntl1, 0));
    AddTakingOfInterrupts(out);
  }

  struct Command {
    std::array<uint8_t, 16> cdb{};
    uint32_t size = 6;
    bool out = false;  // Data goes to the target.
    uint32_t data = 0;
    std::vector<std::byte> list = {};  // What goes to the target, if it is a parameter list.
  };

  // A command that means something only with a parameter list, or with a certain field.
  static void Shape(Making& making, Command& command) {
    auto& cdb = command.cdb;
    const auto zero = [&] { std::fill(cdb.begin() + 1, cdb.end(), uint8_t{0}); };
    switch (scsi::Opcode{cdb[0]}) {
      case scsi::Opcode::kRequestSense:
        zero();
        cdb[1] = static_cast<uint8_t>(making.Below(2));
        cdb[4] = static_cast<uint8_t>(making.Pick({18u, 20u, 96u, 252u, 255u}));
        return;
      case scsi::Opcode::kInquiry:
        zero();
        cdb[1] = static_cast<uint8_t>(making.Below(2));
        cdb[2] = cdb[1] == 0 ? uint8_t{0} : making.Pick<uint8_t>({0x00, 0x80, 0x83, 0xb0, 0xb2});
        cdb[4] = static_cast<uint8_t>(making.Pick({36u, 96u, 255u}));
        return;
      case scsi::Opcode::kModeSense6:
      case scsi::Opcode::kModeSense10:
        // All pages, some; current, changeable and default values.
        zero();
        cdb[2] = static_cast<uint8_t>(making.Pick({0x3fu, 0x3fu, 0x01u, 0x08u, 0x0au, 0x2au}) |
                                      making.Below(4) << 6);
        cdb[scsi::Opcode{cdb[0]} == scsi::Opcode::kModeSense10 ? 8 : 4] =
            static_cast<uint8_t>(making.Pick({4u, 24u, 252u, 255u}));
        return;
      case scsi::Opcode::kReportLuns:
        zero();
        cdb[9] = static_cast<uint8_t>(making.Pick({8u, 16u, 24u, 255u}));
        return;
      case scsi::Opcode::kStartStopUnit:
        zero();
        cdb[4] = static_cast<uint8_t>(making.Below(4));  // START, LOEJ.
        return;
      case scsi::Opcode::kReadCapacity10:
        return zero();
      case scsi::Opcode::kServiceActionIn16:
        zero();
        cdb[1] = 0x10;  // READ CAPACITY(16).
        cdb[13] = 32;
        return;
      case scsi::Opcode::kUnmap:
        zero();
        cdb[8] = static_cast<uint8_t>(making.Pick({8u, 24u, 40u}));
        command.list = UnmapList(making, cdb[8]);
        break;
      case scsi::Opcode::kModeSelect6:
      case scsi::Opcode::kModeSelect10: {
        const bool ten = scsi::Opcode{cdb[0]} == scsi::Opcode::kModeSelect10;
        command.list = ModeList(making, ten);
        zero();
        cdb[1] = 0x10;  // PF.
        cdb[ten ? 8 : 4] = static_cast<uint8_t>(command.list.size());
        break;
      }
      default:
        return;
    }
    command.out = true;
    command.data = static_cast<uint32_t>(command.list.size());
  }

  // A header, a block descriptor, a page; cut now and then.
  static std::vector<std::byte> ModeList(Making& making, bool ten) {
    std::vector<std::byte> list(ten ? 8 : 4);
    const auto add = [&](std::initializer_list<uint8_t> bytes) {
      for (const uint8_t byte : bytes) list.push_back(std::byte{byte});
    };
    if (making.OneIn(2)) {
      list[ten ? 7 : 3] = std::byte{8};
      add({0, 0, 0, 0, 0, 0, making.Pick<uint8_t>({2, 2, 4, 8}), 0});  // Bytes of a block.
    }
    if (making.OneIn(2)) {
      const auto wce = static_cast<uint8_t>(making.Below(2) << 2);
      add({0x08, 18, wce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});  // Caching.
    }
    if (making.OneIn(2)) {
      const auto descriptors = static_cast<uint8_t>(making.Below(2) << 2);  // D_SENSE.
      add({0x0a, 10, descriptors, 0x10, 0, 0, 0, 0, 0, 0, 0, 0});
    }
    if (making.OneIn(3)) list.resize(1 + making.Below(list.size()));
    return list;
  }

  // Descriptors of a few blocks, and lengths that may promise more than there is.
  static std::vector<std::byte> UnmapList(Making& making, size_t size) {
    std::vector<std::byte> list(size);
    list[3] = static_cast<std::byte>(making.OneIn(3) ? 0xf0 : size - 8);
    for (size_t at = 8; at + 16 <= size; at += 16) {
      list[at + 7] = static_cast<std::byte>(making.Below(128));
      list[at + 11] = static_cast<std::byte>(1 + making.Below(4));
    }
    return list;
  }

  static Command MakeCdb(Making& making) {
    constexpr uint8_t kOpcodes[] = {0x00, 0x03, 0x04, 0x08, 0x0a, 0x12, 0x12, 0x15, 0x16, 0x17,
                                    0x1a, 0x1b, 0x1d, 0x1e, 0x23, 0x25, 0x28, 0x28, 0x2a, 0x2a,
                                    0x2b, 0x2e, 0x2f, 0x34, 0x35, 0x3b, 0x3c, 0x41, 0x42, 0x43,
                                    0x44, 0x46, 0x4a, 0x51, 0x55, 0x5a, 0x5e, 0x88, 0x8a, 0x8f,
                                    0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xad, 0xbe};
    Command command;
    // Those that say most about themselves.
    constexpr uint8_t kShaped[] = {0x03, 0x12, 0x15, 0x1a, 0x1b, 0x25,
                                   0x42, 0x55, 0x5a, 0x9e, 0xa0};
    constexpr uint8_t kReadsAndWrites[] = {0x08, 0x0a, 0x28, 0x2a, 0x88, 0x8a, 0xa8, 0xaa, 0x2e};
    command.cdb[0] = making.OneIn(2) ? kOpcodes[making.Below(std::size(kOpcodes))]
                                     : kReadsAndWrites[making.Below(std::size(kReadsAndWrites))];
    if (making.OneIn(4)) command.cdb[0] = kShaped[making.Below(std::size(kShaped))];
    if (making.OneIn(16)) command.cdb[0] = static_cast<uint8_t>(making.Below(256));
    constexpr uint32_t kSizes[] = {6, 10, 10, 10, 16, 12, 12, 6};
    command.size = kSizes[command.cdb[0] >> 5];
    for (uint32_t i = 1; i < 16; ++i) {
      command.cdb[i] =
          static_cast<uint8_t>(making.OneIn(3) ? making.random.Next() >> making.Below(64) : 0);
    }
    command.cdb[1] &= 0x1f;
    const bool reads = (command.cdb[0] & 0x1f) == 0x08;
    const bool writes = (command.cdb[0] & 0x1f) == 0x0a || command.cdb[0] == 0x2e;
    if ((reads || writes) && !making.OneIn(4)) {
      // Lawful blocks, mostly.
      const uint32_t blocks = static_cast<uint32_t>(1 + making.Below(8));
      std::fill(command.cdb.begin() + 1, command.cdb.end(), uint8_t{0});
      command.cdb[command.size == 6    ? 3
                  : command.size == 16 ? 9
                                       : 5] = static_cast<uint8_t>(making.Below(Disk::kSize / 512));
      command.cdb[command.size == 6    ? 4
                  : command.size == 16 ? 13
                  : command.size == 12 ? 9
                                       : 8] = static_cast<uint8_t>(blocks);
      command.data = blocks * 512;
    } else {
      command.data = making.Pick({0u, 4u, 8u, 18u, 24u, 36u, 96u, 255u, 512u, 4096u});
    }
    const bool selects = command.cdb[0] == 0x15 || command.cdb[0] == 0x55 ||
                         command.cdb[0] == 0x1d || command.cdb[0] == 0x3b;
    command.out = writes || selects || making.OneIn(16);
    if (!making.OneIn(4)) Shape(making, command);
    if (making.OneIn(12)) command.size = static_cast<uint32_t>(1 + making.Below(16));
    return command;
  }

  static void AddCdb(Making& making, const Command& command, std::vector<Event>* out) {
    out->push_back(
        {.kind = Kind::kMemory,
         .at = kMessages + kCdbAt,
         .data = making.store.Add(std::as_bytes(std::span(command.cdb)).first(command.size))});
  }

  // Runs the command by the prologue's script, in whatever phases it takes.
  static void AddDispatched(Making& making, const Command& command, uint32_t target,
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

  // IDENTIFY, and maybe a queue tag, an abort, negotiations.
  static std::vector<std::byte> MakeMessage(Making& making) {
    std::vector<std::byte> message;
    const auto add = [&](int byte) { message.push_back(static_cast<std::byte>(byte)); };
    add(making.Pick({0x80, 0x80, 0xc0, 0xc0, 0x81}));
    if (making.OneIn(2)) {
      add(making.Pick({0x20, 0x20, 0x21, 0x22}));
      add(static_cast<int>(making.Below(8)));
    }
    if (making.OneIn(12)) {
      add(making.Pick({0x06, 0x0c, 0x0d, 0x0e, 0x17}));
    } else if (making.OneIn(16)) {  // An extended message, of a length that may be none.
      const int size = making.Pick({2, 3, 6, 15, 20, 40, 56});
      add(0x01);
      add(size);
      add(making.Pick({0x01, 0x03, 0x04, 0x08}));
      for (int i = 1; i < size; ++i) add(making.Pick({0x08, 0x08, 0x08, 0x0a, 0x80}));
    } else if (making.OneIn(6)) {
      for (uint64_t i = 1 + making.Below(3); i != 0; --i) {
        add(making.Pick({0x06, 0x0c, 0x0d, 0x0e, 0x08, 0x01, 0x05, 0x23}));
      }
    } else if (making.OneIn(60)) {  // As many as there may be replies, and more.
      for (uint64_t i = 20 + making.Below(40); i != 0; --i) add(0x23);
    }
    return message;
  }

  // Selects a target and runs a command through its phases, with a step too many or left out now
  // and then.
  static void AddCommand(Making& making, std::vector<Event>* out) {
    const Command command = MakeCdb(making);
    const uint32_t target = making.Pick({0u, 0u, 0u, 0u, 0u, 0u, 1u, 1u, 1u, 2u, 3u});
    const std::vector<std::byte> message = MakeMessage(making);
    out->push_back({.kind = Kind::kMemory, .at = kMessages, .data = making.store.Add(message)});
    AddCdb(making, command, out);
    if (!command.list.empty()) {
      out->push_back({.kind = Kind::kMemory, .at = kData, .data = making.store.Add(command.list)});
    } else if (command.out && making.OneIn(2)) {
      out->push_back({.kind = Kind::kMemory,
                      .at = kData,
                      .data = making.RandomBytes(std::min(command.data, 64u))});
    }
    if (making.OneIn(12)) {
      out->push_back({.kind = Kind::kDisk,
                      .what = static_cast<uint8_t>(making.Below(4)),
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
