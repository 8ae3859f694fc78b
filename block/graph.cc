#include "block/graph.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/options.h"
#include "block/drivers.h"

namespace farside::block {
namespace {

using nlohmann::json;

// How deep nodes inside nodes' options may go.
constexpr size_t kMaxDepth = 16;

enum class DiscardMode { kIgnore, kUnmap };
constexpr OptionWord<DiscardMode> kDiscardWords[] = {{"ignore", DiscardMode::kIgnore},
                                                     {"unmap", DiscardMode::kUnmap}};

const Driver* FindDriver(std::string_view name) {
  for (const Driver& driver : Drivers()) {
    if (driver.name == name) return &driver;
  }
  return nullptr;
}

bool TakesOption(const Driver& driver, std::string_view option) {
  return std::any_of(driver.options.begin(), driver.options.end(),
                     [&](const OptionHelp& help) { return help.name == option; });
}

std::string StringOr(const json& options, const char* key, const std::string& fallback) {
  const auto member = options.find(key);
  return member != options.end() && member->is_string() ? member->get<std::string>() : fallback;
}

// QEMU's rule for ids.
bool IsNodeName(std::string_view name) {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  constexpr std::string_view kOthers = "0123456789-._";
  constexpr size_t kLongest = 31;
  return !name.empty() && name.size() <= kLongest && kLetters.find(name[0]) != kLetters.npos &&
         std::all_of(name.begin(), name.end(), [&](char c) {
           return kLetters.find(c) != kLetters.npos || kOthers.find(c) != kOthers.npos;
         });
}

// The options of a node that is given inside another's, with what it takes over.
json InheritOptions(const json& outer, const json& inner) {
  json options = inner;
  if (outer.contains("read-only")) options.emplace("read-only", outer["read-only"]);
  options.emplace("discard", "unmap");
  const Driver* driver = FindDriver(StringOr(inner, "driver", ""));
  const json::json_pointer direct("/cache/direct");
  if (driver != nullptr && TakesOption(*driver, "cache.direct") && outer.contains(direct)) {
    const auto cache = options.emplace("cache", json::object()).first;
    if (cache->is_object()) cache->emplace("direct", outer[direct]);
  }
  return options;
}

}  // namespace

Graph::~Graph() { Truncate(0); }

void Graph::Truncate(size_t count) {
  while (entries_.size() > count) {
    const Entry& last = entries_.back();
    CHECK(last.device->in_flight() == 0);
    if (!last.file.empty()) FindEntry(last.file)->user.clear();
    entries_.pop_back();
  }
}

Graph::Entry* Graph::FindEntry(std::string_view name) {
  for (Entry& entry : entries_) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

BlockDevice* Graph::Find(std::string_view name) const {
  for (const Entry& entry : entries_) {
    if (entry.name == name) return entry.device.get();
  }
  return nullptr;
}

std::string Graph::Names() const {
  std::string names;
  for (const Entry& entry : entries_) names += (names.empty() ? "" : ", ") + entry.name;
  return names;
}

Result<Graph::Entry*> Graph::FindFree(std::string_view name) {
  Entry* entry = FindEntry(name);
  if (entry == nullptr) {
    if (entries_.empty()) {
      return FailWith(ENOENT, "there is no block node {}: add it with -blockdev first",
                      Quote(name));
    }
    return FailWith(ENOENT,
                    "there is no block node {}: use one of {}, or add it with -blockdev first",
                    Quote(name), Names());
  }
  if (!entry->user.empty()) {
    return FailWith(EBUSY, "block node '{}' is in use by {}: add another with -blockdev", name,
                    entry->user);
  }
  return entry;
}

Result<BlockDevice*> Graph::Claim(std::string_view name, std::string_view user) {
  CHECK(!user.empty());
  const auto entry = FindFree(name);
  if (!entry) return tl::unexpected(entry.error());
  (*entry)->user = user;
  return (*entry)->device.get();
}

Result<void> Graph::Add(const json& options, EpollLoop& loop) {
  const size_t before = entries_.size();
  auto opened = Open(options, "", 0, loop);
  if (!opened) Truncate(before);
  return opened;
}

// Opens or finds the file of the node `name`.
Result<Graph::Entry*> Graph::OpenFileOf(const std::string& name, const json& options, size_t depth,
                                        EpollLoop& loop) {
  const json& file = options["file"];
  std::string file_name;
  if (file.is_string()) {
    file_name = file.get<std::string>();
  } else if (file.is_object()) {
    const std::string implied_name = name + ".file";
    file_name = StringOr(file, "node-name", implied_name);
    auto opened = Open(InheritOptions(options, file), implied_name, depth + 1, loop);
    if (!opened) return tl::unexpected(opened.error());
  } else {
    return FailWith(EINVAL,
                    "node '{}': option 'file' must be a node-name or another node's options", name);
  }
  const auto entry = FindFree(file_name);
  if (!entry) {
    return FailWith(entry.error().code, "node '{}': {}", name, entry.error().message);
  }
  if ((*entry)->loop != &loop) {
    return FailWith(EINVAL,
                    "node '{}': its file '{}' lives on another iothread: give both the same", name,
                    file_name);
  }
  return *entry;
}

Result<std::string> Graph::NameOf(const json& options, const std::string& implied_name) const {
  if (!options.is_object()) {
    return FailWith(EINVAL,
                    "-blockdev: the options are not a JSON object: write {{\"driver\": ...}}");
  }
  const auto given = options.find("node-name");
  if (given == options.end() && implied_name.empty()) {
    return FailWith(EINVAL, "-blockdev: option 'node-name' is missing: add it");
  }
  const std::string name =
      StringOr(options, "node-name", given == options.end() ? implied_name : "");
  if (given != options.end() && !IsNodeName(name)) {
    return FailWith(EINVAL,
                    "-blockdev: option 'node-name' is {}: use a letter, then letters, digits, '-', "
                    "'.' and '_', 31 characters at most",
                    Quote(name));
  }
  return name;
}

Result<void> Graph::CheckUnique(const std::string& name) const {
  if (Find(name) == nullptr) return {};
  return FailWith(EEXIST, "there is a block node '{}' already: use another node-name", name);
}

Result<void> Graph::Open(const json& options, const std::string& implied_name, size_t depth,
                         EpollLoop& loop) {
  if (depth > kMaxDepth) {
    return FailWith(EINVAL, "block nodes nest deeper than {}: add the inner ones first", kMaxDepth);
  }
  const auto name = NameOf(options, implied_name);
  if (!name) return tl::unexpected(name.error());
  if (auto unique = CheckUnique(*name); !unique) return unique;
  const Driver* driver = FindDriver(StringOr(options, "driver", ""));
  if (driver == nullptr) {
    const auto given = options.find("driver");
    return FailWith(EINVAL, "node '{}': option 'driver' is {}: it must be one of {}", *name,
                    given == options.end() ? "missing" : Quote(StringOr(options, "driver", "")),
                    DriverNames());
  }
  OptionReader reader(fmt::format("node '{}'", *name), options);
  reader.Value("driver");
  reader.Value("node-name");
  const NodeOptions node{
      .name = *name,
      .read_only = reader.Bool("read-only", false),
      .unmap = reader.Choice("discard", kDiscardWords, DiscardMode::kIgnore) == DiscardMode::kUnmap,
  };
  Entry entry;
  entry.name = *name;
  entry.loop = &loop;
  BlockDevice* file = nullptr;
  if (driver->has_file && reader.Value("file") == nullptr) {
    reader.AddError("option 'file' is missing: give a node-name or another node's options");
  } else if (driver->has_file) {
    const auto found = OpenFileOf(*name, options, depth, loop);
    if (!found) return tl::unexpected(found.error());
    // A node below may have been given this one's name.
    if (auto unique = CheckUnique(*name); !unique) return unique;
    file = (*found)->device.get();
    entry.file = (*found)->name;
  }
  auto device = driver->open(node, reader, file, loop);
  if (!device) return tl::unexpected(device.error());
  entry.device = std::move(*device);
  if (!entry.file.empty()) FindEntry(entry.file)->user = reader.owner();
  entries_.push_back(std::move(entry));
  return {};
}

uint32_t Graph::in_flight() const {
  uint32_t count = 0;
  for (const Entry& entry : entries_) count += entry.device->in_flight();
  return count;
}

Task<IoStatus> Graph::FlushAll() {
  IoStatus first_failure;
  for (const Entry& entry : entries_) {
    const IoStatus status = co_await entry.device->Flush();
    if (status.ok()) continue;
    LogError(entry.name, "flush failed: {}; what was written last may be lost",
             ErrnoText(status.error));
    if (first_failure.ok()) first_failure = status;
  }
  co_return first_failure;
}

}  // namespace farside::block
