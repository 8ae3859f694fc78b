// farside-fuzz connect and play: sessions against a server in another process.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "base/options.h"
#include "fuzz/cli/cli.h"
#include "fuzz/cli/generic_grammar.h"
#include "fuzz/cli/opponent.h"
#include "fuzz/host/player.h"
#include "fuzz/host/socket_pump.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/mutator/server_grammar.h"
#include "fuzz/session/text.h"
#include "protocol/vfio_user_client.h"

namespace farside::fuzz {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kConnectTime{5};
constexpr uint64_t kMeetTimeNs = 5'000'000'000;  // Of a reply before the first session.
constexpr std::chrono::seconds kPulse{1};
constexpr std::chrono::milliseconds kRetry{100};
constexpr uint32_t kRegions = 9;

// What is being played, and how many were, for the report of an abort.
std::string current;
std::string played;
void OnAbort(int) {
  // The process ends here: nothing else uses the memory that this may.
  for (const std::string* const text : {&current, &played}) {
    (void)!write(STDERR_FILENO, text->data(), text->size());
  }
  signal(SIGABRT, SIG_DFL);
}

std::atomic<bool> interrupted = false;
void OnInterrupt(int) { interrupted = true; }

void Catch(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigaction(signal, &action, nullptr);
}

// As libFuzzer's lines: `farside fuzz run` reads both.
std::string StatusLine(uint64_t sessions, double seconds) {
  return fmt::format("#{}\tsessions exec/s: {:.0f}\n", sessions,
                     static_cast<double>(sessions) / std::max(seconds, 1e-3));
}

// Says who listens there before the first session, in sentences and not as findings: a socket of
// something else is a mistake of the caller's. Its regions.
Result<std::vector<RegionFacts>> Meet(const std::string& path) {
  auto socket = ConnectUnix(path);
  if (!socket) {
    return Fail("nothing listens on {} ({}): start the server first", Quote(path),
                ErrnoText(socket.error().code));
  }
  vfio_user::ClientOptions options;
  options.version = {.major = 0, .minor = 1};
  options.channel.timeout_ns = kMeetTimeNs;
  auto client = vfio_user::VfioUserClient::Attach(*std::move(socket), options, nullptr);
  if (!client) {
    return Fail(
        "what listens on {} does not begin as a vfio-user server: {}. Is it the right socket, and "
        "has the server no other client?",
        Quote(path), client.error().message);
  }
  std::vector<RegionFacts> regions;
  for (uint32_t index = 0; index < kRegions; ++index) {
    const auto region = (*client)->GetRegionInfo(index);
    if (!region && !(*client)->alive()) {
      return Fail("the server on {} ends when it is asked for region {}: {}", Quote(path), index,
                  region.error().message);
    }
    if (!region) continue;
    regions.push_back({.index = index,
                       .size = region->info.size,
                       .readable = (region->info.flags & vfio_user::kRegionFlagRead) != 0,
                       .writable = (region->info.flags & vfio_user::kRegionFlagWrite) != 0});
  }
  return regions;
}

class Listener final : public Opponent {
 public:
  explicit Listener(std::string path) : path_(std::move(path)) {}

  Result<void> Prepare(bool generic) override {
    auto regions = Meet(path_);
    if (!regions) return tl::unexpected(regions.error());
    if (generic) generic_ = MakeGenericGrammar(*std::move(regions));
    grammar_ = MakeServerGrammar(generic_ ? *generic_ : NvmeGrammar());
    player_.emplace(*grammar_, pump_, [this] {
      auto transport = ConnectTo(path_, kConnectTime);
      if (transport != nullptr) pump_.set_fd(transport->fd());
      return transport;
    });
    pump_.Watch(player_->client());
    return {};
  }
  const Grammar& grammar() const override { return *grammar_; }
  void set_observer(Cursor::Observer observer) override {
    player_->set_observer(std::move(observer));
  }
  void Play(const Session& session) override { player_->PlayAndExpectServer(session); }
  bool closed() const override { return player_->client().closed(); }
  Reached reached() const override {
    const Client::Counts& counts = player_->client().counts();
    return {.dma = counts.dma != 0, .interrupts = counts.interrupts != 0};
  }

 private:
  const std::string path_;
  SocketPump pump_;
  std::unique_ptr<Grammar> generic_;
  std::unique_ptr<Grammar> grammar_;
  std::optional<Player> player_;
};

std::unique_ptr<Opponent> MakeOpponent(const std::string& where) {
  if (where.starts_with(kExec)) return MakeRemote(where);
  return std::make_unique<Listener>(where);
}

void NoteCurrent(const Grammar& grammar, size_t index, const Event& event) {
  current = fmt::format("{:4} {}\n", index, FormatEvent(event, grammar.Describe(event)));
}

struct Shares {
  uint64_t dma = 0;
  uint64_t interrupts = 0;
  void Add(const Reached& reached) {
    dma += reached.dma;
    interrupts += reached.interrupts;
  }
};

}  // namespace

int PlayAgainst(const ConnectOptions& options) {
  Catch(SIGABRT, &OnAbort);
  for (const int signal : {SIGINT, SIGTERM}) Catch(signal, &OnInterrupt);
  const auto opponent = MakeOpponent(options.socket);
  if (auto ready = opponent->Prepare(options.generic); !ready) {
    return BadUsage(ready.error().message);
  }
  const Grammar& grammar = opponent->grammar();
  opponent->set_observer([&](size_t index, const Event& event) {
    // Where the server has ended the connection, that is where something happened.
    if (!opponent->closed()) NoteCurrent(grammar, index, event);
  });
  Shares shares;
  const auto begin = SteadyClock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(SteadyClock::now() - begin).count();
  };
  auto pulse = begin;
  uint64_t i = 0;
  for (; i < options.sessions && !interrupted; ++i) {
    Store store;
    const Session session = MakeUp(grammar, Mix64(options.seed) + i, options.events, store);
    if (!options.output.empty()) {
      if (auto wrote = WriteFile(options.output, Encode(session)); !wrote) {
        return BadUsage(wrote.error().message);
      }
    }
    played = StatusLine(i + 1, elapsed());
    current.clear();
    opponent->Play(session);
    shares.Add(opponent->reached());
    if (SteadyClock::now() - pulse >= kPulse) {
      pulse = SteadyClock::now();
      fmt::print(stderr, "{}", played);
    }
  }
  const double seconds = elapsed();
  fmt::print(stderr, "{}", StatusLine(i, seconds));
  const auto share = [&](uint64_t some) {
    return 100.0 * static_cast<double>(some) / static_cast<double>(std::max<uint64_t>(i, 1));
  };
  fmt::print(
      "{} sessions in {:.2f} s, {:.0f} a second; with DMA {:.0f} %, with interrupts {:.0f} %\n", i,
      seconds, static_cast<double>(i) / std::max(seconds, 1e-9), share(shares.dma),
      share(shares.interrupts));
  return kOk;
}

int PlayFile(const std::string& socket, const std::string& path, bool generic) {
  const auto input = ReadFile(path);
  if (!input) return BadUsage(input.error().message);
  const auto opponent = MakeOpponent(socket);
  if (auto ready = opponent->Prepare(generic); !ready) return BadUsage(ready.error().message);
  bool told = false;
  opponent->set_observer([&](size_t index, const Event& event) {
    if (!opponent->closed()) {
      told = false;
      NoteCurrent(opponent->grammar(), index, event);
      fmt::print("{}", current);
    } else if (!std::exchange(told, true)) {
      fmt::print("     The server has ended the connection: what follows reaches nobody.\n");
    }
    std::fflush(stdout);
  });
  Session session;
  Decode(*input, &session);
  opponent->Play(session);
  fmt::print("{}: nothing was found\n", path);
  return kOk;
}

namespace {

// What ConnectTarget plays against: a target is made without arguments.
ConnectOptions shrunk_against;

class ConnectTarget final : public Target {
 public:
  void Run(ConstBytes input) override {
    const auto opponent = MakeOpponent(shrunk_against.socket);
    // A try may have ended it, and a supervisor be about to start it again.
    const auto deadline = SteadyClock::now() + kConnectTime;
    auto ready = opponent->Prepare(shrunk_against.generic);
    while (!ready && SteadyClock::now() < deadline) {
      std::this_thread::sleep_for(kRetry);
      ready = opponent->Prepare(shrunk_against.generic);
    }
    if (!ready) _exit(BadUsage(ready.error().message));
    opponent->set_observer([&](size_t index, const Event& event) {
      if (!opponent->closed()) Tell(opponent->grammar(), index, event);
    });
    Decode(input, &session_);
    opponent->Play(session_);
  }

 private:
  Session session_;
};

}  // namespace

int ShrinkAgainst(const ConnectOptions& options, const std::string& input,
                  const std::string& output, uint64_t seconds) {
  shrunk_against = options;
  if (auto met = MakeOpponent(options.socket)->Prepare(options.generic); !met) {
    return BadUsage(met.error().message);
  }
  const TargetDef def{.name = "connect",
                      .help = "",
                      .make = [] { return std::unique_ptr<Target>(new ConnectTarget); },
                      .grammar = &ServerGrammar};
  return Shrink(def, input, output, seconds);
}

}  // namespace farside::fuzz
