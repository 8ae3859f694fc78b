// A small driver for the chip's tests, in the manner of Linux's sym53c8xx: scripts in chip RAM, and
// a control block for each command that DSA points to.
#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "devices/lsi53c895a/test_support.h"

namespace farside::lsi53c895a {

// Codes of its INT instructions.
enum DriverEvent : uint32_t {
  kCompleted = 0x600d,
  kDisconnected = 0xd15c,
  kReselected = 0x5e1,
  kNegotiated = 0x4e9,
  kWoken = 0x516,
  kOtherMessage = 0x115,
  kBadPhase = 0xbad,
};

class Driver {
 public:
  // Of a control block, which DSA points to.
  static constexpr uint32_t kSelectEntry = 0;
  static constexpr uint32_t kMessageEntry = 4;
  static constexpr uint32_t kCommandEntry = 12;
  static constexpr uint32_t kDataEntry = 20;
  static constexpr uint32_t kStatusByte = 28;
  static constexpr uint32_t kMessageBytes = 32;
  static constexpr uint32_t kCdbBytes = 48;
  static constexpr uint32_t kBlockSize = 64;
  static constexpr uint32_t kBlocks = 0x8000;
  static constexpr uint32_t kMessageIn = 0x7000;  // Where messages of targets go.

  explicit Driver(Machine& machine) : m_(machine) {
    Assemble();  // For the labels.
    code_ = Assemble();
    Load();
  }

  // Puts the scripts into chip RAM.
  void Load() { m_.Put(code_, kRam); }
  uint32_t label(const std::string& name) { return labels_.at(name); }
  static uint32_t Block(uint32_t index) { return kBlocks + index * kBlockSize; }

  // Fills in a control block. The data are one run of memory.
  void Prepare(uint32_t index, uint8_t target, const std::vector<int>& message,
               const std::vector<int>& cdb, uint32_t data = 0, uint32_t size = 0) {
    const uint32_t block = Block(index);
    const auto put = [&](uint32_t offset, uint32_t value) {
      m_.host.Poke<uint32_t>(block + offset, value);
    };
    put(kSelectEntry, uint32_t{target} << 16);
    put(kMessageEntry, static_cast<uint32_t>(message.size()));
    put(kMessageEntry + 4, block + kMessageBytes);
    put(kCommandEntry, static_cast<uint32_t>(cdb.size()));
    put(kCommandEntry + 4, block + kCdbBytes);
    put(kDataEntry, size);
    put(kDataEntry + 4, data);
    put(kStatusByte, 0xff);
    const auto bytes = [&](uint32_t offset, const std::vector<int>& from) {
      for (size_t i = 0; i < from.size(); ++i) {
        m_.host.Poke<uint8_t>(block + offset + i, static_cast<uint8_t>(from[i]));
      }
    };
    bytes(kMessageBytes, message);
    bytes(kCdbBytes, cdb);
  }

  // Runs a write of 512 bytes of 0x3c up to the data phase, in which it waits for a unit that is
  // held.
  void StartMoveThatWaits() {
    m_.unit->Hold();
    Prepare(0, 0, {0x80}, {TestUnit::kWrite, 1, 2, 0, 0, 0}, kData, 512);
    Script script(kRam + 0x1000);
    script.SelectTable(0, 0)
        .MoveTable(Script::kMessageOut, kMessageEntry)
        .MoveTable(Script::kCommand, kCommandEntry)
        .MoveTable(Script::kDataOut, kDataEntry)
        .Jump(label("dispatch"));
    m_.Write32(kDsa, Block(0));
    Fill(m_.host.At(kData, 512), 0x3c);
    m_.RunScript(script, kRam + 0x1000);
  }

  // Runs from a label to the next interrupt, and returns what the INT says.
  uint32_t Go(uint32_t index, const std::string& at = "start") {
    m_.Write32(kDsa, Block(index));
    m_.Start(label(at));
    return TakeInt();
  }
  // 0 where there was none.
  uint32_t TakeInt() {
    const uint8_t dstat = m_.Read8(kDstat);
    return (dstat & kDstatSir) != 0 ? m_.Read32(kDsps) : 0;
  }
  uint8_t StatusOf(uint32_t index) { return m_.host.Peek<uint8_t>(Block(index) + kStatusByte); }

 private:
  Script Assemble() {
    Script s(kRam);
    const auto at = [&](const std::string& name) { labels_[name] = s.here(); };
    const auto to = [&](const std::string& name) { return labels_[name]; };
    const uint32_t scntl2 = OffsetOf(kScntl2);
    const auto bye = [&] {
      s.Modify(scntl2, Script::kAnd, 0x7f).Clear(Script::kAck | Script::kAtn).WaitDisconnect();
    };
    at("start");
    s.SelectTable(kSelectEntry, to("reselect"))
        .MoveTable(Script::kMessageOut, kMessageEntry)
        .Jump(to("dispatch"), Script::When(Script::kCommand));
    at("command");
    s.MoveTable(Script::kCommand, kCommandEntry);
    at("dispatch");
    s.Jump(to("message"), Script::kIfTrue | Script::When(Script::kMessageIn))
        .Jump(to("data_in"), Script::kIfTrue | Script::If(Script::kDataIn))
        .Jump(to("data_out"), Script::kIfTrue | Script::If(Script::kDataOut))
        .Jump(to("status"), Script::kIfTrue | Script::If(Script::kStatus))
        .Jump(to("command"), Script::kIfTrue | Script::If(Script::kCommand))
        .Int(kBadPhase);
    at("data_in");
    s.MoveTable(Script::kDataIn, kDataEntry).Jump(to("dispatch"));
    at("data_out");
    s.MoveTable(Script::kDataOut, kDataEntry).Jump(to("dispatch"));
    at("status");
    s.Move(Script::kStatus, 1, Driver::kMessageIn)
        .SfbrToRegister(OffsetOf(kScratchA), Script::kOr, 0)
        .StoreRelative(OffsetOf(kScratchA), 1, kStatusByte)
        .Move(Script::kMessageIn, 1, Driver::kMessageIn)
        .Int(kOtherMessage, Script::Data(0));
    bye();
    s.IntFly().Int(kCompleted);
    at("message");
    s.Move(Script::kMessageIn, 1, Driver::kMessageIn)
        .Jump(to("acknowledge"), Script::kIfTrue | Script::Data(2))  // SAVE DATA POINTERS
        .Jump(to("bye"), Script::kIfTrue | Script::Data(4))          // DISCONNECT
        .Jump(to("extended"), Script::kIfTrue | Script::Data(1))
        .Int(kOtherMessage);
    at("acknowledge");
    s.Clear(Script::kAck).Jump(to("dispatch"));
    at("bye");
    bye();
    s.Int(kDisconnected);
    at("extended");
    s.Clear(Script::kAck)
        .Move(Script::kMessageIn, 1, Driver::kMessageIn + 1)
        .SfbrToRegister(OffsetOf(kScratchA), Script::kOr, 0)
        .Clear(Script::kAck)
        .Int(kNegotiated);
    at("reselect");
    s.WaitReselect(to("woken"))
        .Move(Script::kMessageIn, 1, Driver::kMessageIn)
        .Clear(Script::kAck)
        .Jump(to("reselected"), Script::When(Script::kMessageIn))  // Untagged.
        .Move(Script::kMessageIn, 2, Driver::kMessageIn + 1)
        .Clear(Script::kAck);
    at("reselected");
    s.Int(kReselected);
    at("woken");
    s.RegisterToSfbr(OffsetOf(kCtest2), Script::kOr, 0).Int(kWoken);
    return s;
  }

  Machine& m_;
  std::map<std::string, uint32_t> labels_;
  Script code_{kRam};
};

}  // namespace farside::lsi53c895a
