// farside-fuzz connect and play: sessions against a vfio-user server in another process, of which
// nothing is seen but what comes over its socket.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/options.h"
#include "fuzz/cli/cli.h"
#include "fuzz/cli/generic_grammar.h"
#include "fuzz/host/player.h"
#include "fuzz/host/socket_pump.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/mutator/server_grammar.h"
#include "fuzz/session/text.h"
#include "protocol/vfio_user.h"

namespace farside::fuzz {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kConnectTime{5};
constexpr uint32_t kRegions = 9;

// What is being played, for the report of an abort.
std::string current;
void OnAbort(int) {
  // The process ends here: nothing else uses the memory that this may.
  (void)!write(STDERR_FILENO, current.data(), current.size());
  signal(SIGABRT, SIG_DFL);
}

void NoteCurrent(const Grammar& grammar, size_t index, const Event& event) {
  current = fmt::format("{:4} {}\n", index, FormatEvent(event, grammar.Describe(event)));
}

class Connection {
 public:
  explicit Connection(std::string path) : path_(std::move(path)) {}

  // The grammar of what listens there.
  Result<void> Prepare(bool generic) {
    auto transport = Connect(std::chrono::milliseconds(0));
    if (transport == nullptr) {
      return Fail("nothing listens on {}: start the server first", Quote(path_));
    }
    if (generic) {
      auto regions = AskRegions(std::move(transport));
      if (!regions) return tl::unexpected(regions.error());
      generic_ = MakeGenericGrammar(*std::move(regions));
    }
    grammar_ = MakeServerGrammar(generic_ ? *generic_ : NvmeGrammar());
    player_.emplace(*grammar_, pump_, [this] { return Connect(kConnectTime); });
    pump_.Watch(player_->client());
    struct sigaction action {};
    action.sa_handler = &OnAbort;
    sigaction(SIGABRT, &action, nullptr);
    return {};
  }

  Player& player() { return *player_; }
  const Grammar& grammar() const { return *grammar_; }

 private:
  std::unique_ptr<Transport> Connect(std::chrono::milliseconds patience) {
    auto transport = ConnectTo(path_, patience);
    if (transport != nullptr) pump_.set_fd(transport->fd());
    return transport;
  }

  Result<std::vector<RegionFacts>> AskRegions(std::unique_ptr<Transport> transport) {
    class NoAnswers final : public AnswerSource {
      std::optional<Answer> TakeAnswer(DmaAccess) override { return std::nullopt; }
    } none;
    Client client(pump_, none);
    pump_.Watch(client);
    if (!client.Connect(std::move(transport), true)) {
      return Fail("the server on {} refuses VERSION 0.1", Quote(path_));
    }
    std::vector<RegionFacts> regions;
    for (uint32_t index = 0; index < kRegions; ++index) {
      vfio_user::RegionInfo info{.argsz = sizeof info, .index = index};
      const auto reply = client.Call(vfio_user::Command::kDeviceGetRegionInfo, AsBytes(info));
      if (!reply || reply->size() < sizeof info) continue;
      Copy(AsWritableBytes(info), ConstBytes(*reply).first(sizeof info));
      regions.push_back({.index = index,
                         .size = info.size,
                         .readable = (info.flags & vfio_user::kRegionFlagRead) != 0,
                         .writable = (info.flags & vfio_user::kRegionFlagWrite) != 0});
    }
    client.Disconnect();
    return regions;
  }

  const std::string path_;
  SocketPump pump_;
  std::unique_ptr<Grammar> generic_;
  std::unique_ptr<Grammar> grammar_;
  std::optional<Player> player_;
};

struct Shares {
  uint64_t dma = 0;
  uint64_t interrupts = 0;
  void Add(const Client::Counts& counts) {
    dma += counts.dma != 0;
    interrupts += counts.interrupts != 0;
  }
};

}  // namespace

int PlayAgainst(const ConnectOptions& options) {
  Connection connection(options.socket);
  if (auto ready = connection.Prepare(options.generic); !ready) {
    return BadUsage(ready.error().message);
  }
  const Grammar& grammar = connection.grammar();
  Player& player = connection.player();
  player.set_observer(
      [&](size_t index, const Event& event) { NoteCurrent(grammar, index, event); });
  Shares shares;
  const auto begin = SteadyClock::now();
  for (uint64_t i = 0; i < options.sessions; ++i) {
    Store store;
    const Session session = MakeUp(grammar, Mix64(options.seed) + i, options.events, store);
    if (!options.output.empty()) {
      if (auto wrote = WriteFile(options.output, Encode(session)); !wrote) {
        return BadUsage(wrote.error().message);
      }
    }
    player.PlayAndExpectServer(session);
    shares.Add(player.client().counts());
  }
  const double seconds = std::chrono::duration<double>(SteadyClock::now() - begin).count();
  const auto share = [&](uint64_t some) {
    return 100.0 * static_cast<double>(some) /
           static_cast<double>(std::max<uint64_t>(options.sessions, 1));
  };
  fmt::print(
      "{} sessions in {:.2f} s, {:.0f} a second; with DMA {:.0f} %, with interrupts {:.0f} %\n",
      options.sessions, seconds, static_cast<double>(options.sessions) / std::max(seconds, 1e-9),
      share(shares.dma), share(shares.interrupts));
  return kOk;
}

int PlayFile(const std::string& socket, const std::string& path, bool generic) {
  const auto input = ReadFile(path);
  if (!input) return BadUsage(input.error().message);
  Connection connection(socket);
  if (auto ready = connection.Prepare(generic); !ready) return BadUsage(ready.error().message);
  connection.player().set_observer([&](size_t index, const Event& event) {
    NoteCurrent(connection.grammar(), index, event);
    fmt::print("{}", current);
    std::fflush(stdout);
  });
  Session session;
  Decode(*input, &session);
  connection.player().PlayAndExpectServer(session);
  fmt::print("{}: nothing was found\n", path);
  return kOk;
}

}  // namespace farside::fuzz
