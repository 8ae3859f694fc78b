// farside-fuzz scenario: an input as a scenario. Of verbs, where they say all of it: it is played
// by message against a server in a child of this process, which tells what it does, so where an
// answer lies in memory is known. Else, and where the session is what goes over a wire, of the
// bytes themselves: wire_scenario.h.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <deque>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/epoll_loop.h"
#include "base/log.h"
#include "devices/server/slot.h"
#include "devices/server/vfio_user_server.h"
#include "fuzz/cli/cli.h"
#include "fuzz/cli/told.h"
#include "fuzz/cli/wire_scenario.h"
#include "fuzz/host/models.h"
#include "fuzz/host/player.h"
#include "fuzz/host/snapshots.h"
#include "fuzz/session/text.h"
#include "harness/scenario/value.h"
#include "protocol/vfio_user.h"

namespace farside::fuzz {
namespace {

using nlohmann::json;
using vfio_user::Command;

constexpr uint32_t kConfig = 7;
constexpr uint8_t kPosted = 0x80;

// Looks at what the server sends: DMA in its order, and errors.
class Tap final : public Transport {
 public:
  struct Seen {
    std::deque<vfio_user::DmaAccess> dma;
    uint32_t error = 0;  // Of the last reply that was one.
  };

  Tap(std::unique_ptr<Transport> inner, Seen& seen) : inner_(std::move(inner)), seen_(seen) {}

  ssize_t Receive(Bytes into, std::vector<UniqueFd>& fds) override {
    const ssize_t got = inner_->Receive(into, fds);
    if (got > 0) Look(into.first(static_cast<size_t>(got)));
    return got;
  }
  ssize_t Send(ConstBytes from, std::span<const int> fds) override {
    return inner_->Send(from, fds);
  }
  int fd() const override { return inner_->fd(); }

 private:
  void Look(ConstBytes bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    vfio_user::Header header;
    while (pending_.size() >= sizeof header) {
      Copy(AsWritableBytes(header), ConstBytes(pending_).first(sizeof header));
      if (header.size < sizeof header || pending_.size() < header.size) return;
      const ConstBytes payload =
          ConstBytes(pending_).subspan(sizeof header, header.size - sizeof header);
      const bool reply = (header.flags & vfio_user::kFlagTypeMask) == vfio_user::kFlagTypeReply;
      const bool dma = header.command == static_cast<uint16_t>(Command::kDmaRead) ||
                       header.command == static_cast<uint16_t>(Command::kDmaWrite);
      if (reply && (header.flags & vfio_user::kFlagError) != 0) seen_.error = header.error;
      vfio_user::DmaAccess access;
      if (!reply && dma && payload.size() >= sizeof access) {
        Copy(AsWritableBytes(access), payload.first(sizeof access));
        seen_.dma.push_back(access);
      }
      pending_.erase(pending_.begin(), pending_.begin() + header.size);
    }
  }

  const std::unique_ptr<Transport> inner_;
  Seen& seen_;
  std::vector<std::byte> pending_;
};

// The device and its server, in this thread.
class LocalServer final : public Pump {
 public:
  explicit LocalServer(std::span<const std::string_view> options) {
    MuteLog();
    slot_.Plug(MakeModel(options, slot_.env(), backends_));
    backends_.BeginDisks(false);
    server_.emplace(slot_);
  }
  ~LocalServer() override {
    server_.reset();
    slot_.device().Reset(ResetKind::kShutdown);
    loop_->RunUntilIdle();
  }

  std::unique_ptr<Transport> Connect(Tap::Seen& seen) {
    auto [mine, servers] = MemoryTransport::MakePair();
    wire_ = mine.get();
    if (!server_->Accept(std::move(servers))) return nullptr;
    return std::make_unique<Tap>(std::move(mine), seen);
  }
  void Watch(const Client& client) { client_ = &client; }

  bool Step() override {
    if (server_->connected()) server_->Pump();
    const bool more = loop_->RunReady(VfioUserServer::kTaskQuantum);
    loop_->FireTimers();
    // The client's end comes behind what it sent last.
    if (!client_->connected()) return more || server_->connected();
    return more || (!client_->closed() && wire_->pending() != 0);
  }

 private:
  SessionClock clock_;
  std::unique_ptr<EpollLoop> loop_ = EpollLoop::Create(clock_).value();
  FramePool::Scope frames_{loop_->frames()};
  Slot slot_{*loop_, "fuzzed"};
  ModelBackends backends_{*loop_};
  std::optional<VfioUserServer> server_;
  MemoryTransport* wire_ = nullptr;
  const Client* client_ = nullptr;
};

void PlayAndTell(const Grammar& grammar, std::span<const std::string_view> options,
                 const Session& session) {
  LocalServer server(options);
  Tap::Seen seen;
  Player player(grammar, server, [&] { return server.Connect(seen); });
  server.Watch(player.client());
  vfio_user::DmaAccess access;
  player.set_on_access([&] {
    CHECK(!seen.dma.empty());
    access = seen.dma.front();
    seen.dma.pop_front();
  });
  player.set_observer([&](size_t index, const Event& event) {
    // Above a fault's or an answer's line stands the access that gets it.
    const bool answers = event.kind == Kind::kAnswer || event.kind == Kind::kFault;
    if (answers) {
      const uint64_t size = std::min<uint64_t>(event.data.size(), access.count);
      Tell("answer", {{"index", index}, {"iova", access.iova}, {"size", size}});
      return;
    }
    if (seen.error != 0) Tell("refused", seen.error);
    seen.error = 0;
    Tell("event", index);
  });
  player.Play(session);
  if (seen.error != 0) Tell("refused", seen.error);
}

bool InMemory(uint64_t iova, uint64_t size) {
  return InRange(iova - Host::kBase, size, Host::kSize) ||
         InRange(iova - Host::kHighBase, size, Host::kHighSize);
}

// One step; nothing where no verb says it.
std::optional<json> StepOf(const Event& event) {
  const uint32_t region = event.what & 0xfu;
  const auto access = [&](const char* verb, json members) {
    std::string name = "region";
    if (region < 6) {
      name = "bar";
      members["bar"] = region;
    } else if (region == kConfig) {
      name = "config";
    } else {
      members["region"] = region;
    }
    members["offset"] = Hex(event.at);
    if ((event.what & kPosted) != 0 && event.kind != Kind::kRead) members["posted"] = true;
    return json{{fmt::format("{}.{}", name, verb), std::move(members)}};
  };
  switch (event.kind) {
    case Kind::kRead:
      if (event.size == 0) return std::nullopt;
      return access("read", {{"size", event.size}});
    case Kind::kWrite: {
      if (event.size == 0 || event.size > 8) return std::nullopt;
      const uint64_t mask = event.size == 8 ? ~uint64_t{0} : (uint64_t{1} << event.size * 8) - 1;
      return access("write", {{"size", event.size}, {"value", Hex(event.value & mask)}});
    }
    case Kind::kWriteData:
      if (event.data.empty()) return std::nullopt;
      return access("write", {{"data", scenario::FormatHex(event.data)}});
    case Kind::kMemory:
      if (event.data.empty() || !InMemory(event.at, event.data.size())) return std::nullopt;
      return json{
          {"memory.write", {{"iova", Hex(event.at)}, {"data", scenario::FormatHex(event.data)}}}};
    case Kind::kMap: {
      if (!InMemory(event.at, event.value)) return std::nullopt;
      constexpr std::array kRights = {"none", "r", "w", "rw"};
      return json{{"dma.map",
                   {{"iova", Hex(event.at)},
                    {"size", Hex(event.value)},
                    {"access", kRights[event.size & 3u]}}}};
    }
    case Kind::kUnmap:
      if (event.value == ~uint64_t{0}) return json{{"dma.unmap_all", json::object()}};
      return json{{"dma.unmap", {{"iova", Hex(event.at)}, {"size", Hex(event.value)}}}};
    case Kind::kIrqs: {
      constexpr std::array kIndexes = {"intx", "msi", "msix"};
      if (event.what >= kIndexes.size() || event.value == 0) return std::nullopt;
      const char* verb = nullptr;
      if ((event.size & vfio_user::kIrqActionMask) != 0) verb = "irq.mask";
      if ((event.size & vfio_user::kIrqActionUnmask) != 0) verb = "irq.unmask";
      if ((event.size & vfio_user::kIrqActionTrigger) != 0) {
        verb = (event.size & vfio_user::kIrqDataEventfd) != 0 ? "irq.arm" : "irq.trigger";
      }
      if (verb == nullptr || event.value > UINT32_MAX || event.at > UINT32_MAX) return std::nullopt;
      return json{
          {verb, {{"index", kIndexes[event.what]}, {"start", event.at}, {"count", event.value}}}};
    }
    case Kind::kReset:
      return json{{"reset", json::object()}};
    default:
      return std::nullopt;
  }
}

json Document(const TargetDef& def, const std::string& name, bool lsi) {
  const std::string device = lsi ? "lsi0" : "nvme0";
  json args = DeviceArgs(lsi, device);
  args.push_back("-object");
  args.push_back(
      fmt::format("x-vfio-user-server,id=server,type=unix,path=fuzzed.sock,device={}", device));
  return {{"name", fmt::format("fuzz.{}.{}", def.name, name)},
          {"processes", {{{"id", "disk"}, {"exec", "disk-proc"}, {"args", args}}}},
          {"devices", {{{"id", device}, {"process", "disk"}, {"socket", "fuzzed.sock"}}}},
          {"memory",
           {{{"iova", Hex(Host::kBase)}, {"size", Hex(Host::kSize)}},
            {{"iova", Hex(Host::kHighBase)}, {"size", Hex(Host::kHighSize)}}}},
          {"modes", {"message"}},
          {"reason", "a fuzzer's session was played by message"},
          {"irqs_vary", "nothing waits for the device"}};
}

// The steps as they happened: an answer is written to memory before what made the device ask.
class Steps {
 public:
  explicit Steps(const Session& session) : session_(session) {}

  void Add(const json& line) {
    if (line.contains("event")) {
      Flush();
      current_ = session_.events[line["event"].get<size_t>()];
    } else if (line.contains("refused")) {
      refused_ = line["refused"].get<uint32_t>();
    } else if (line.contains("answer")) {
      const json& answer = line["answer"];
      const Event& event = session_.events[answer["index"].get<size_t>()];
      if (event.kind == Kind::kFault) {
        left_out_.insert("fault");
        return;
      }
      Event write{.kind = Kind::kMemory, .at = answer["iova"].get<uint64_t>()};
      write.data = event.data.first(answer["size"].get<size_t>());
      if (auto step = StepOf(write)) steps_.push_back(*std::move(step));
    }
  }

  void Finish(json* document) {
    Flush();
    std::string text = "What a fuzzer found, event by event.";
    if (!left_out_.empty()) {
      text +=
          fmt::format(" Left out, for there is no verb for it: {}.", fmt::join(left_out_, ", "));
    }
    (*document)["description"] = text;
    (*document)["steps"] = std::move(steps_);
  }

 private:
  void Flush() {
    if (!current_) return;
    if (current_->kind == Kind::kReconnect) {
      steps_.push_back({{"disconnect", json::object()}});
      steps_.push_back({{"connect", json::object()}});
    } else if (auto step = StepOf(*current_)) {
      if (refused_ != 0) step->begin()->emplace("refused", refused_);
      steps_.push_back(*std::move(step));
    } else {
      left_out_.insert(std::string(Definition(current_->kind).name));
    }
    current_.reset();
    refused_ = 0;
  }

  const Session& session_;
  std::optional<Event> current_;
  uint32_t refused_ = 0;
  json steps_ = json::array();
  std::set<std::string> left_out_;
};

// Whether verbs say all of it.
bool HasVerbs(const Session& session) {
  return std::ranges::all_of(session.events, [](const Event& event) {
    return event.kind == Kind::kAnswer || StepOf(event).has_value();
  });
}

json VerbScenario(const TargetDef& def, const std::string& name, const Session& session) {
  const bool lsi = def.name == "lsi";
  const auto told = Listen([&] {
    PlayAndTell(def.grammar(),
                lsi ? std::span<const std::string_view>(kLsiOptions)
                    : std::span<const std::string_view>(kNvmeOptions),
                session);
  });
  Steps steps(session);
  for (const json& line : told) steps.Add(line);
  json document = Document(def, name, lsi);
  steps.Finish(&document);
  return document;
}

}  // namespace

int MakeScenario(const TargetDef& def, const std::string& input, const std::string& output) {
  const bool device = def.name == "nvme" || def.name == "lsi";
  const bool server = def.name == "server";
  if (!device && !server && def.name != "mpqemu_server") {
    return BadUsage(fmt::format(
        "there are no scenarios of {}: of nvme, lsi, server and mpqemu_server there are",
        def.name));
  }
  const auto bytes = ReadFile(input);
  if (!bytes) return BadUsage(bytes.error().message);
  Session given;
  Decode(*bytes, &given);
  // The set-up is spelled out.
  Store store;
  Session session{.flags = static_cast<uint8_t>(given.flags & ~kReady), .events = {}};
  if (given.ready()) def.grammar().AddPrologue(store, &session.events);
  session.events.insert(session.events.end(), given.events.begin(), given.events.end());

  const std::string name = std::filesystem::path(input).stem().string();
  const bool by_verbs = device || (server && HasVerbs(session));
  json document;
  if (by_verbs) {
    session.flags = kByMessage;
    document = VerbScenario(def, name, session);
  } else {
    document = WireScenario(def.name, name, session);
  }
  const std::string text = document.dump(1) + "\n";
  if (auto wrote = WriteFile(output, std::as_bytes(std::span(text))); !wrote) {
    return BadUsage(wrote.error().message);
  }
  fmt::print("{}: {} steps{}\n", output, document["steps"].size(),
             by_verbs ? "" : ", of the messages' bytes");
  return kOk;
}

}  // namespace farside::fuzz
