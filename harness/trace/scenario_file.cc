#include "harness/trace/scenario_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "harness/scenario/irq_words.h"
#include "harness/scenario/value.h"
#include "harness/trace/event_file.h"
#include "harness/trace/guest_writes.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::trace {
namespace {

using nlohmann::json;
using scenario::FormatHex;
using scenario::IrqWord;
using vfio_user::Command;
using vfio_user::IrqIndex;
using vfio_user::RegionAccess;

constexpr uint64_t kPage = 4096;
// Pages of the guest that are nearer than this share a range of memory.
constexpr uint64_t kGap = 1 << 20;
constexpr uint32_t kConfigRegion = 7;

std::string Hex(uint64_t number) { return fmt::format("{:#x}", number); }

bool IsInterrupt(const Event& event) {
  return event.is_message() &&
         event.header().command == static_cast<uint16_t>(vfio_user::ExtensionCommand::kInterrupt);
}

bool IsDma(const Event& event) {
  return event.is_message() &&
         (event.command() == Command::kDmaRead || event.command() == Command::kDmaWrite);
}

// Vectors by index: one past the largest that is signalled.
using Vectors = std::map<uint32_t, uint32_t>;

// What the scenario must have before its first step.
struct Needs {
  std::set<uint64_t> pages;
  Vectors vectors;
};

Result<Needs> FindNeeds(const std::string& path, uint32_t device) {
  auto source = OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  Needs needs;
  for (;;) {
    const auto event = (*source)->Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event) return needs;
    if ((*event)->device != device) continue;
    if (IsInterrupt(**event)) {
      const auto interrupt = (*event)->fields<vfio_user::Interrupt>();
      uint32_t& count = needs.vectors[interrupt.index];
      count = std::max(count, interrupt.vector + 1);
    } else if (IsDma(**event) && !(*event)->is_reply()) {
      const auto access = (*event)->fields<vfio_user::DmaAccess>();
      for (uint64_t at = access.iova / kPage; at * kPage < access.iova + access.count; ++at) {
        needs.pages.insert(at);
      }
    }
  }
}

json MemoryOf(const std::set<uint64_t>& pages) {
  json ranges = json::array();
  uint64_t begin = 0;
  uint64_t end = 0;
  const auto add = [&] {
    if (end != begin) ranges.push_back({{"iova", Hex(begin)}, {"size", Hex(end - begin)}});
  };
  for (const uint64_t page : pages) {
    if (page * kPage > end + kGap || end == 0) {
      add();
      begin = page * kPage;
    }
    end = (page + 1) * kPage;
  }
  add();
  return ranges;
}

class ScenarioFile {
 public:
  ScenarioFile(std::FILE* file, uint32_t device) : file_(file), device_(device) {}

  void Begin(const std::string& in, const TraceInfo& info, const Needs& needs);
  void Add(const char* verb, json params);
  // What came from the device since the guest's last event.
  void AddOutputs();
  void Collect(const Event& event);
  void AddGuestEvent(const Event& event);
  void AddReply(const Event& event);
  void End() {
    AddOutputs();
    fmt::print(file_, "\n ]\n}}\n");
  }

 private:
  std::FILE* const file_;
  const uint32_t device_;
  bool first_ = true;
  std::vector<std::pair<uint64_t, std::vector<std::byte>>> writes_;
  std::map<std::pair<uint32_t, uint32_t>, uint64_t> interrupts_;
  Event read_;  // Waits for its reply.
  bool reads_ = false;
};

void ScenarioFile::Begin(const std::string& in, const TraceInfo& info, const Needs& needs) {
  const std::string& id = info.devices[device_].id;
  json process = {{"id", "process"},
                  {"exec", info.program.substr(0, info.program.find(' '))},
                  {"args", info.args}};
  process["args"].push_back("-object");
  process["args"].push_back(
      fmt::format("x-vfio-user-server,id=server,type=unix,path=device.sock,device={}", id));
  const json head = {
      {"name", std::filesystem::path(in).stem().string()},
      {"description", fmt::format("Made from {}.", std::filesystem::path(in).filename().string())},
      {"processes", {process}},
      {"devices", {{{"id", id}, {"process", "process"}, {"socket", "device.sock"}}}},
      {"memory", MemoryOf(needs.pages)}};
  std::string text = head.dump(1);
  text.resize(text.rfind('\n'));
  fmt::print(file_, "{},\n \"steps\": [", text);
  for (const auto& [index, count] : needs.vectors) {
    Add("irq.arm", {{"index", IrqWord(IrqIndex{index})}, {"count", count}});
  }
}

void ScenarioFile::Add(const char* verb, json params) {
  fmt::print(file_, "{}\n  {}", std::exchange(first_, false) ? "" : ",",
             json{{verb, std::move(params)}}.dump());
}

void ScenarioFile::AddOutputs() {
  // Of bytes that were written twice only the last content is there to be seen.
  std::vector<std::pair<uint64_t, std::vector<std::byte>>> last;
  for (auto write = writes_.rbegin(); write != writes_.rend(); ++write) {
    const bool hidden = std::ranges::any_of(last, [&](const auto& other) {
      return write->first < other.first + other.second.size() &&
             other.first < write->first + write->second.size();
    });
    if (!hidden) last.push_back(std::move(*write));
  }
  for (auto write = last.rbegin(); write != last.rend(); ++write) {
    Add("memory.check",
        {{"iova", Hex(write->first)}, {"data", FormatHex(write->second)}, {"wait", true}});
  }
  for (const auto& [vector, count] : interrupts_) {
    const IrqIndex index{vector.first};
    Add("irq.expect", {{"index", IrqWord(index)}, {"vector", vector.second}, {"count", count}});
    if (index == IrqIndex::kIntx) Add("irq.unmask", {{"index", IrqWord(index)}});
  }
  writes_.clear();
  interrupts_.clear();
}

void ScenarioFile::Collect(const Event& event) {
  if (IsInterrupt(event)) {
    const auto interrupt = event.fields<vfio_user::Interrupt>();
    ++interrupts_[{interrupt.index, interrupt.vector}];
  } else if (IsDma(event) && !event.is_reply() && event.command() == Command::kDmaWrite) {
    const ConstBytes data = event.data_after<vfio_user::DmaAccess>();
    writes_.emplace_back(event.fields<vfio_user::DmaAccess>().iova,
                         std::vector<std::byte>(data.begin(), data.end()));
  }
}

// The verb and the parameters that name what is accessed.
std::pair<std::string, json> PlaceOf(const RegionAccess& access) {
  json params = {{"offset", Hex(access.offset)}};
  if (access.region == kConfigRegion) return {"config", params};
  const bool bar = access.region < 6;
  params[bar ? "bar" : "region"] = access.region;
  return {bar ? "bar" : "region", params};
}

void ScenarioFile::AddGuestEvent(const Event& event) {
  if (event.command() == Command::kDeviceReset) return Add("reset", json::object());
  if (event.command() == Command::kRegionRead) {
    read_ = event;
    reads_ = true;
    return;
  }
  auto [place, params] = PlaceOf(event.fields<RegionAccess>());
  params["data"] = FormatHex(event.data_after<RegionAccess>());
  if ((event.header().flags & vfio_user::kFlagNoReply) != 0) params["posted"] = true;
  Add((place + ".write").c_str(), std::move(params));
}

void ScenarioFile::AddReply(const Event& event) {
  if (!reads_ || event.header().message_id != read_.header().message_id) return;
  reads_ = false;
  const auto access = read_.fields<RegionAccess>();
  auto [place, params] = PlaceOf(access);
  params["size"] = access.count;
  params["expect"] = {{"data", FormatHex(event.data_after<RegionAccess>())}};
  Add((place + ".read").c_str(), std::move(params));
}

bool IsAccess(const Event& event) {
  return event.command() == Command::kRegionRead || event.command() == Command::kRegionWrite ||
         event.command() == Command::kDeviceReset;
}

Result<void> Convert(const std::string& in, uint32_t device, ScenarioFile* file) {
  auto source = OpenEvents(in);
  if (!source) return tl::unexpected(source.error());
  auto guest = GuestWrites::Open(in, device);
  if (!guest) return tl::unexpected(guest.error());
  uint64_t ordinal = 0;
  for (;;) {
    const auto event = (*source)->Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event) return {};
    if ((*event)->device != device || !(*event)->is_message()) continue;
    file->Collect(**event);
    if (!IsGuestEvent(**event)) {
      if ((*event)->is_reply() && (*event)->direction == Direction::kOut) file->AddReply(**event);
      continue;
    }
    auto writes = (*guest)->Before(ordinal++, (*event)->number);
    if (!writes) return tl::unexpected(writes.error());
    if (!IsAccess(**event) && writes->empty()) continue;
    file->AddOutputs();
    for (const auto& write : *writes) {
      file->Add("memory.write", {{"iova", Hex(write.iova)}, {"data", FormatHex(write.data)}});
    }
    if (IsAccess(**event)) file->AddGuestEvent(**event);
  }
}

}  // namespace

Result<void> WriteScenario(const std::string& in, uint32_t device, const std::string& out) {
  auto source = OpenEvents(in);
  if (!source) return tl::unexpected(source.error());
  const TraceInfo& info = (*source)->info();
  if (info.tap == TraceInfo::Tap::kWire || info.args.empty()) {
    return Fail(
        "{} was recorded on the wire: a scenario is made of a device tap's trace "
        "(disk-proc -trace), which names the process and has its DMA",
        in);
  }
  const auto needs = FindNeeds(in, device);
  if (!needs) return tl::unexpected(needs.error());
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(out.c_str(), "w"),
                                                             &std::fclose);
  if (!file) return FailWith(errno, "cannot write {}: {}", out, ErrnoText(errno));
  ScenarioFile scenario(file.get(), device);
  scenario.Begin(in, info, *needs);
  if (auto converted = Convert(in, device, &scenario); !converted) return converted;
  scenario.End();
  if (std::fflush(file.get()) != 0 || std::ferror(file.get()) != 0) {
    return FailWith(errno, "cannot write {}: {}", out, ErrnoText(errno));
  }
  return {};
}

}  // namespace farside::trace
