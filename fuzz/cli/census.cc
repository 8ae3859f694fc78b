// farside-fuzz census: what the inputs of a corpus have in them and reach, for reports.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "devices/nvme/commands.h"
#include "devices/nvme/registers.h"
#include "fuzz/cli/cli.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/session/text.h"
#include "harness/diff/model.h"

namespace farside::fuzz {
namespace {

using nlohmann::json;

// Whose registers a target's accesses are to; nullptr where it has none.
const diff::Model* ModelOf(std::string_view target) {
  if (target == "nvme" || target == "server") return &diff::NvmeModel();
  if (target == "lsi") return &diff::LsiModel();
  return nullptr;
}

class Registers {
 public:
  explicit Registers(const diff::Model& model) : model_(model) {
    for (const diff::RegisterSpace& space : model.spaces()) {
      for (const RegisterDef& row : space.rows) counts_[{space.region, row.offset}] = {};
    }
  }

  void Add(const Event& event) {
    const bool reads = event.kind == Kind::kRead;
    if (!reads && event.kind != Kind::kWrite && event.kind != Kind::kWriteData) return;
    const size_t size = event.kind == Kind::kWriteData ? event.data.size() : event.size;
    for (const diff::RegisterSpace& space : model_.spaces()) {
      // The server's grammar has its posted bit in the region.
      if (space.region != (event.what & 0xfu)) continue;
      const uint64_t at = space.repeats == 0 ? event.at : event.at % space.repeats;
      for (const RegisterDef& row : space.rows) {
        if (row.offset >= at + size || at >= uint64_t{row.offset} + row.width) continue;
        Counts& counts = counts_[{space.region, row.offset}];
        ++(reads ? counts.reads : counts.writes);
      }
    }
  }

  json Json() const {
    json rows = json::array();
    for (const auto& [place, counts] : counts_) {
      const RegisterDef* row = model_.Find(place.first, place.second);
      rows.push_back({{"name", model_.PlaceName(place.first, place.second)},
                      {"reads", counts.reads},
                      {"writes", counts.writes},
                      {"writable", (row->writable | row->set | row->clear) != 0}});
    }
    return rows;
  }

 private:
  struct Counts {
    uint64_t reads = 0;
    uint64_t writes = 0;
  };
  const diff::Model& model_;
  std::map<std::pair<uint32_t, uint64_t>, Counts> counts_;
};

// Submission queue entries: what a doorbell's fetch is answered with, and what lies in memory
// before one.
class NvmeCommands {
 public:
  void Begin() {
    admin_ = true;
    in_memory_.clear();
  }

  void Add(const Event& event) {
    const bool entries =
        event.data.size() >= sizeof(nvme::Sqe) && event.data.size() % sizeof(nvme::Sqe) == 0;
    const bool rings = event.kind == Kind::kWrite && event.what == nvme::kRegisterBar &&
                       event.at >= nvme::SqTailDoorbell(0);
    if (rings) {
      admin_ = event.at < nvme::SqTailDoorbell(1);
      answered_ = false;
      for (const uint8_t opcode : in_memory_) ++counts_[{admin_, opcode}];
      in_memory_.clear();
    } else if (event.kind == Kind::kAnswer && entries && !answered_) {
      // Further answers are data of the command.
      answered_ = true;
      for (size_t at = 0; at < event.data.size(); at += sizeof(nvme::Sqe)) {
        ++counts_[{admin_, std::to_integer<uint8_t>(event.data[at])}];
      }
    } else if (event.kind == Kind::kMemory && event.data.size() == sizeof(nvme::Sqe)) {
      in_memory_.push_back(std::to_integer<uint8_t>(event.data[0]));
    }
  }

  json Json() const {
    json list = json::array();
    const auto add = [&](bool admin, std::span<const nvme::OpcodeDef> rows) {
      for (const nvme::OpcodeDef& row : rows) {
        const auto found = counts_.find({admin, row.opcode});
        list.push_back({{"name", fmt::format("{} {}", admin ? "admin" : "I/O", row.name)},
                        {"count", found == counts_.end() ? 0 : found->second},
                        {"supported", row.effects != 0}});
      }
    };
    add(true, nvme::kAdminOpcodes);
    add(false, nvme::kIoOpcodes);
    return list;
  }

 private:
  bool admin_ = true;
  bool answered_ = true;
  std::vector<uint8_t> in_memory_;
  std::map<std::pair<bool, uint8_t>, uint64_t> counts_;
};

}  // namespace

// What sessions reach that begin with nothing: stored ones are few, and shrunk to what is theirs
// alone.
static json MadeUp(const TargetDef& def, Target& target) {
  constexpr uint64_t kSessions = 1000;
  constexpr size_t kEvents = 32;
  const Tally before = target.tally();
  for (uint64_t seed = 0; seed < kSessions; ++seed) {
    Store store;
    target.Run(Encode(MakeUp(def.grammar(), seed, kEvents, store)));
  }
  const Tally& after = target.tally();
  return {{"sessions", kSessions},
          {"with_dma", after.with_dma - before.with_dma},
          {"with_interrupts", after.with_interrupts - before.with_interrupts},
          {"with_io", after.with_io - before.with_io}};
}

int Census(const TargetDef& def, std::span<const std::string> paths) {
  const auto files = ListFiles(paths);
  if (!files) return BadUsage(files.error().message);
  const auto target = def.make();
  const diff::Model* const model = ModelOf(def.name);
  std::optional<Registers> registers;
  if (model != nullptr) registers.emplace(*model);
  NvmeCommands commands;
  std::map<std::string_view, uint64_t> kinds;
  uint64_t bytes = 0;
  uint64_t events = 0;
  double seconds = 0;
  for (const std::string& file : *files) {
    const auto input = ReadFile(file);
    if (!input) return BadUsage(input.error().message);
    bytes += input->size();
    if (def.grammar != nullptr) {
      Session session;
      Decode(*input, &session);
      events += session.events.size();
      commands.Begin();
      for (const Event& event : session.events) {
        ++kinds[Definition(event.kind).name];
        if (registers) registers->Add(event);
        commands.Add(event);
      }
    }
    const auto begin = std::chrono::steady_clock::now();
    target->Run(*input);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  const Tally tally = target->tally();
  json census = {{"target", def.name},
                 {"inputs", files->size()},
                 {"bytes", bytes},
                 {"events", events},
                 {"kinds", json::object()},
                 {"seconds", seconds},
                 {"has_io", def.has_io},
                 {"sessions", tally.sessions},
                 {"with_dma", tally.with_dma},
                 {"with_interrupts", tally.with_interrupts},
                 {"with_io", tally.with_io},
                 {"registers", registers ? registers->Json() : json::array()},
                 {"commands", model == &diff::NvmeModel() ? commands.Json() : json::array()}};
  if (def.has_io) census["made_up"] = MadeUp(def, *target);
  for (const auto& [kind, count] : kinds) census["kinds"][std::string(kind)] = count;
  fmt::print("{}\n", census.dump(1));
  return kOk;
}

}  // namespace farside::fuzz
