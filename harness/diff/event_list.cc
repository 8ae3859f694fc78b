#include "harness/diff/event_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "base/options.h"
#include "harness/scenario/value.h"
#include "harness/trace/event_file.h"
#include "harness/trace/guest_writes.h"
#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::diff {

using nlohmann::json;
using vfio_user::Command;

namespace {

constexpr uint64_t kPage = GuestMemory::kPageSize;
// What mpqemu can carry, and so how far pages of one guest may be merged.
constexpr size_t kMaxRanges = 7;

// ---- traces ----

std::vector<MemoryRange> RangesOf(const std::set<uint64_t>& pages) {
  for (uint64_t gap = 256;; gap *= 4) {
    std::vector<MemoryRange> out;
    for (const uint64_t page : pages) {
      const uint64_t end = out.empty() ? 0 : (out.back().iova + out.back().size) / kPage;
      if (out.empty() || page - end > gap) {
        out.push_back({.iova = page * kPage, .size = kPage});
      } else {
        out.back().size = (page + 1) * kPage - out.back().iova;
      }
    }
    if (out.size() <= kMaxRanges) return out;
  }
}

void AddPages(uint64_t iova, uint64_t size, std::set<uint64_t>* pages) {
  for (uint64_t at = iova / kPage; at * kPage < iova + size; ++at) pages->insert(at);
}

// An access as accesses of at most kMaxAccess bytes, powers of two.
void AddAccess(uint32_t region, uint64_t offset, uint64_t count, const ConstBytes* data,
               std::vector<Event>* out) {
  if (region >= 6 && region != kConfigRegion) return;
  const uint64_t most = region == kConfigRegion ? 4 : kMaxAccess;
  for (uint64_t done = 0; done < count;) {
    uint64_t size = most;
    while (size > count - done) size /= 2;
    const auto width = static_cast<uint32_t>(size);
    out->push_back(data == nullptr ? Read(region, offset + done, width)
                                   : Write(region, offset + done, width,
                                           LoadLePartial(data->subspan(done, size))));
    done += size;
  }
}

void AddGuestEvent(const trace::Event& event, std::vector<Event>* out) {
  const auto access = event.fields<vfio_user::RegionAccess>();
  const ConstBytes data = event.data_after<vfio_user::RegionAccess>();
  switch (event.command()) {
    case Command::kRegionRead:
      return AddAccess(access.region, access.offset, access.count, nullptr, out);
    case Command::kRegionWrite:
      return AddAccess(access.region, access.offset, data.size(), &data, out);
    case Command::kRegionWriteMulti: {
      const vfio_user::RegionWriteMultiRequest multi{event.data_after<vfio_user::WriteMulti>()};
      for (size_t i = 0; i < multi.count(); ++i) {
        const vfio_user::WriteMultiEntry entry = multi.entry(i);
        const ConstBytes bytes = std::as_bytes(std::span(entry.data))
                                     .first(std::min<size_t>(entry.count, sizeof entry.data));
        AddAccess(entry.region, entry.offset, bytes.size(), &bytes, out);
      }
      return;
    }
    case Command::kDeviceReset:
      out->push_back({.kind = Event::Kind::kReset, .data = {}});
      return;
    default:
      return;
  }
}

bool IsOutput(const trace::Event& event) {
  if (!event.is_message() || event.is_reply()) return false;
  return event.direction == trace::Direction::kOut;
}

Result<EventList> ReadTrace(const std::string& path, uint32_t device) {
  auto source = trace::OpenEvents(path);
  if (!source) return tl::unexpected(source.error());
  auto guest = trace::GuestWrites::Open(path, device);
  if (!guest) return tl::unexpected(guest.error());
  const auto& devices = (*source)->info().devices;
  if (device >= devices.size()) return Fail("{} has no device {}", path, device);
  EventList list;
  list.device = devices[device].model;
  std::set<uint64_t> pages;
  uint64_t ordinal = 0;
  for (;;) {
    const auto event = (*source)->Next();
    if (!event) return tl::unexpected(event.error());
    if (!*event) break;
    const trace::Event& given = **event;
    if (given.device != device || !given.is_message()) continue;
    if (IsOutput(given)) {
      // What the recorded device did by then is waited for, once.
      const bool settles = !list.events.empty() && list.events.back().kind != Event::Kind::kSettle;
      if (settles) list.events.push_back(Event{.data = {}});
      const bool dma =
          given.command() == Command::kDmaRead || given.command() == Command::kDmaWrite;
      const auto access = given.fields<vfio_user::DmaAccess>();
      if (dma) AddPages(access.iova, access.count, &pages);
      continue;
    }
    if (!trace::IsGuestEvent(given)) continue;
    auto writes = (*guest)->Before(ordinal++, given.number);
    if (!writes) return tl::unexpected(writes.error());
    for (const auto& write : *writes) {
      AddPages(write.iova, write.data.size(), &pages);
      list.events.push_back(WriteMemory(write.iova, write.data));
    }
    AddGuestEvent(given, &list.events);
  }
  list.memory = RangesOf(pages);
  return list;
}

// ---- lists ----

Result<std::vector<MemoryRange>> ReadRanges(const json& given) {
  std::vector<MemoryRange> out;
  if (!given.is_array()) return Fail("\"memory\" is a list of {{\"iova\", \"size\"}}");
  for (const json& range : given) {
    OptionReader reader("a range of memory", range);
    MemoryRange& added = out.emplace_back();
    added.iova = reader.Number("iova", 0, 0, UINT64_MAX);
    added.size = reader.RequiredSize("size");
    added.writable = reader.Bool("writable", true);
    if (auto finished = reader.Finish(); !finished) return tl::unexpected(finished.error());
  }
  return out;
}

Result<EventList> ReadSteps(const std::string& path, const json& document) {
  EventList list;
  if (document.contains("device") && document["device"].is_string()) {
    list.device = document["device"];
  }
  if (document.contains("seed")) {
    const auto seed = scenario::ReadNumber(document["seed"]);
    if (seed) list.seed = *seed;
  }
  if (document.contains("memory")) {
    auto ranges = ReadRanges(document["memory"]);
    if (!ranges) return Fail("{}: {}", path, ranges.error().message);
    list.memory = std::move(*ranges);
  }
  const json& steps = document["steps"];
  for (size_t i = 0; i < steps.size(); ++i) {
    auto event = FromJson(steps[i]);
    if (!event) return Fail("{}: steps[{}]: {}", path, i, event.error().message);
    list.events.push_back(std::move(*event));
  }
  return list;
}

}  // namespace

Result<EventList> ReadEventList(const std::string& path, uint32_t device) {
  if (path.ends_with(".json")) {
    std::ifstream file(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(file)),
                           std::istreambuf_iterator<char>());
    if (!file) return Fail("cannot read {}: does it exist?", path);
    const auto document = ParseJson(text);
    if (!document) return Fail("{}: {}", path, document.error().message);
    if (document->contains("steps") && (*document)["steps"].is_array()) {
      return ReadSteps(path, *document);
    }
    if (!document->contains("trace")) {
      return Fail("{} has neither \"steps\" nor a \"trace\": it is no list of events", path);
    }
  }
  return ReadTrace(path, device);
}

Result<void> WriteEventList(const std::string& path, const EventList& list) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  json ranges = json::array();
  for (const MemoryRange& range : list.memory) {
    ranges.push_back(
        {{"iova", fmt::format("{:#x}", range.iova)}, {"size", fmt::format("{:#x}", range.size)}});
    if (!range.writable) ranges.back()["writable"] = false;
  }
  file << "{\"device\": " << json(list.device).dump() << ",\n";
  if (list.seed) file << "\"seed\": " << json(fmt::format("{:#x}", *list.seed)).dump() << ",\n";
  file << "\"memory\": " << ranges.dump() << ",\n\"steps\": [";
  for (size_t i = 0; i < list.events.size(); ++i) {
    file << (i == 0 ? "\n" : ",\n") << ToJson(list.events[i]).dump();
  }
  file << "\n]}\n";
  file.close();
  if (file) return {};
  return FailWith(errno, "cannot write {}: does its directory exist, and is there room?", path);
}

}  // namespace farside::diff
