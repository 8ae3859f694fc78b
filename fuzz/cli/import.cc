// farside-fuzz import: a recorded trace as an input. The guest's accesses become the session's,
// what it had in memory when the device read it the answers of DMA: what it does does not hang on
// where the guest's memory lay. A scenario comes here by the trace that its run leaves.
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "base/options.h"
#include "base/range.h"
#include "fuzz/cli/cli.h"
#include "fuzz/host/host.h"
#include "harness/trace/event_file.h"
#include "protocol/vfio_user_extensions.h"

namespace farside::fuzz {
namespace {

using vfio_user::Command;
using vfio_user::ExtensionCommand;

constexpr size_t kMaxWord = 8;       // Bytes that a `read` or a `write` has.
constexpr size_t kMaxTold = 4096;    // Windows that are told apart.
constexpr uint64_t kMaxVectors = 5;  // Of the devices that are fuzzed.
// Two of a device's windows are always there.
constexpr size_t kWindows = Host::kMaxWindows - 2;

// What a target plays, as traces name it.
struct Model {
  std::string_view target;
  std::string_view name;
  bool alone = false;  // Its windows are memory, and small; a client's may be of any size.
};
constexpr Model kModels[] = {
    {"nvme", "nvme", true}, {"lsi", "lsi53c895a", true}, {"server", "nvme"}, {"disk_proc", "nvme"}};

class Importer {
 public:
  Importer(uint32_t device, bool alone) : device_(device), alone_(alone) {}

  // False when the session is full.
  bool Add(const trace::Event& event) {
    if (event.device != device_ || !event.is_message()) return true;
    const bool in = event.direction == trace::Direction::kIn;
    if (event.header().command == static_cast<uint16_t>(ExtensionCommand::kInterrupt)) {
      const auto interrupt = event.fields<vfio_user::Interrupt>();
      uint64_t& vectors = vectors_[static_cast<uint8_t>(interrupt.index)];
      vectors = std::clamp<uint64_t>(interrupt.vector + 1, vectors, kMaxVectors);
    } else if (in && event.is_reply()) {
      AddAnswer(event);
    } else if (in) {
      AddCommand(event);
    } else if (!event.is_reply() && IsDma(event)) {
      const auto access = event.fields<vfio_user::DmaAccess>();
      asked_.insert(event.header().message_id);
      CountWindow(access);
    }
    return size_ < kMaxInput && events_.size() + vectors_.size() + kWindows < kMaxEvents;
  }

  // Windows come first: a device may keep what it found of memory. DMA is by message, where answers
  // are the session's in every target.
  Session Take() {
    Session session{.flags = kByMessage, .events = {}};
    for (const Window& window : BusiestWindows()) {
      session.events.push_back(
          {.kind = Kind::kMap, .size = 3, .at = window.iova, .value = window.size});
    }
    if (!alone_) ArmVectors(&session);  // A device alone has its vectors.
    session.events.insert(session.events.end(), events_.begin(), events_.end());
    while (Encode(session).size() > kMaxInput) session.events.pop_back();
    return session;
  }
  // Accesses to memory that the session does not have. Known behind Take.
  size_t outside() const { return outside_; }
  size_t left_out() const { return left_out_; }

 private:
  static bool IsDma(const trace::Event& event) {
    return event.command() == Command::kDmaRead || event.command() == Command::kDmaWrite;
  }

  void Push(const Event& event) {
    // A poll that finds what it found before, and a look at configuration space, change nothing.
    const bool reads = event.kind == Kind::kRead;
    if (reads && event.what == static_cast<uint8_t>(Region::kConfig)) return;
    if (reads && !events_.empty() && events_.back() == event) return;
    events_.push_back(event);
    size_ += event.data.size() + 4;
  }

  void AddCommand(const trace::Event& event) {
    switch (event.header().command) {
      case static_cast<uint16_t>(Command::kRegionRead):
      case static_cast<uint16_t>(Command::kRegionWrite):
        return AddAccess(event);
      case static_cast<uint16_t>(Command::kDeviceReset):
        return Push({.kind = Kind::kReset});
      case static_cast<uint16_t>(ExtensionCommand::kClockAdvance): {
        // Traces say when, sessions how much later.
        const uint64_t now = event.fields<vfio_user::ClockAdvance>().time_ns;
        if (now > now_) Push({.kind = Kind::kClock, .value = now - now_});
        now_ = std::max(now_, now);
        return;
      }
      default:
        ++left_out_;
    }
  }

  void AddAccess(const trace::Event& event) {
    const auto access = event.fields<vfio_user::RegionAccess>();
    const auto region = static_cast<uint8_t>(access.region);
    if (event.command() == Command::kRegionRead) {
      if (access.count > kMaxWord) {
        ++left_out_;
        return;
      }
      return Push({.kind = Kind::kRead,
                   .what = region,
                   .size = static_cast<uint8_t>(access.count),
                   .at = access.offset});
    }
    const ConstBytes data = event.data_after<vfio_user::RegionAccess>();
    if (data.size() > kMaxData) {
      ++left_out_;
      return;
    }
    if (data.empty() || data.size() > kMaxWord) {
      return Push({.kind = Kind::kWriteData,
                   .what = region,
                   .at = access.offset,
                   .data = store_.Add(data)});
    }
    Push({.kind = Kind::kWrite,
          .what = region,
          .size = static_cast<uint8_t>(data.size()),
          .at = access.offset,
          .value = LoadLePartial(data)});
  }

  void AddAnswer(const trace::Event& event) {
    if (!IsDma(event) || asked_.erase(event.header().message_id) == 0) return;
    if ((event.header().flags & vfio_user::kFlagError) != 0) return Push({.kind = Kind::kFault});
    if (event.command() == Command::kDmaWrite) return;
    ConstBytes data = event.data_after<vfio_user::DmaAccess>();
    data = data.first(std::min(data.size(), kMaxData));
    Push({.kind = Kind::kAnswer, .data = store_.Add(data)});
  }

  struct Window {
    uint64_t iova;
    uint64_t size;
    size_t accesses = 0;
  };

  void ArmVectors(Session* session) const {
    for (const auto& [index, count] : vectors_) {
      session->events.push_back({.kind = Kind::kIrqs,
                                 .what = index,
                                 .size = vfio_user::kIrqDataEventfd | vfio_user::kIrqActionTrigger,
                                 .value = count});
    }
  }

  // A session has memory of its own, and room for a few windows besides.
  void CountWindow(const vfio_user::DmaAccess& access) {
    const auto within = [&](uint64_t iova, uint64_t size) {
      return InRange(access.iova - iova, access.count, size);
    };
    if (within(Host::kBase, Host::kSize) || within(Host::kHighBase, Host::kHighSize)) return;
    const Window window = WindowOf(access.iova);
    const bool fits = !Overlap(window.iova, window.size, Host::kBase, Host::kSize) &&
                      !Overlap(window.iova, window.size, Host::kHighBase, Host::kHighSize) &&
                      (windows_.size() < kMaxTold || windows_.contains(window.iova));
    if (fits) {
      ++windows_.try_emplace(window.iova, window).first->second.accesses;
    } else {
      ++outside_;
    }
  }

  // What an access needs: of a device alone, as much as one may have; of a client, all that lies
  // before, between or behind the session's own memory.
  Window WindowOf(uint64_t iova) const {
    constexpr uint64_t kMiddle = Host::kBase + Host::kSize;
    constexpr uint64_t kBehind = Host::kHighBase + Host::kHighSize;
    if (alone_) return {iova / Host::kMaxWindowSize * Host::kMaxWindowSize, Host::kMaxWindowSize};
    if (iova < Host::kBase) return {0, Host::kBase};
    if (iova < Host::kHighBase) return {kMiddle, Host::kHighBase - kMiddle};
    return {kBehind, (uint64_t{1} << 52) - kBehind};
  }

  std::vector<Window> BusiestWindows() {
    std::vector<Window> busiest;
    for (const auto& [iova, window] : windows_) busiest.push_back(window);
    std::ranges::stable_sort(busiest, std::greater<>(), &Window::accesses);
    for (; busiest.size() > kWindows; busiest.pop_back()) outside_ += busiest.back().accesses;
    return busiest;
  }

  const uint32_t device_;
  const bool alone_;
  std::map<uint8_t, uint64_t> vectors_;  // By interrupt index, how many are signalled.
  Store store_;
  std::vector<Event> events_;
  std::map<uint64_t, Window> windows_;
  std::set<uint16_t> asked_;  // Message ids of DMA that waits for its answer.
  uint64_t now_ = 0;
  size_t size_ = 0;
  size_t outside_ = 0;
  size_t left_out_ = 0;
};

Result<uint32_t> FindDevice(const trace::TraceInfo& info, std::string_view model,
                            const std::string& path) {
  for (uint32_t i = 0; i < info.devices.size(); ++i) {
    if (info.devices[i].model == model) return i;
  }
  return Fail("{} has no device of the model {}", Quote(path), model);
}

}  // namespace

int Import(const TargetDef& def, const std::string& path, const std::string& output) {
  const auto* const model = std::ranges::find(kModels, def.name, &Model::target);
  if (model == std::end(kModels)) {
    return BadUsage(fmt::format(
        "traces hold no sessions of {}: name nvme, lsi, server or disk_proc", def.name));
  }
  auto source = trace::OpenEvents(path);
  if (!source) return BadUsage(source.error().message);
  const auto device = FindDevice((*source)->info(), model->name, path);
  if (!device) return BadUsage(device.error().message);
  Importer importer(*device, model->alone);
  uint64_t events = 0;
  bool whole = false;
  for (;;) {
    const auto event = (*source)->Next();
    if (!event) return BadUsage(event.error().message);
    whole = !*event;
    if (whole || !importer.Add(**event)) break;
    ++events;
  }
  const Session session = importer.Take();
  if (auto wrote = WriteFile(output, Encode(session)); !wrote) {
    return BadUsage(wrote.error().message);
  }
  fmt::print("{}: {} events of {}{}\n", output, session.events.size(), path,
             whole ? "" : fmt::format(" up to its event {}: a session holds no more", events));
  if (importer.outside() != 0) {
    fmt::print("  {} accesses to memory lie where a session has none: they fail in it\n",
               importer.outside());
  }
  if (importer.left_out() != 0) {
    fmt::print("  {} messages are left out that a session of {} has no events for\n",
               importer.left_out(), def.name);
  }
  return kOk;
}

}  // namespace farside::fuzz
