// Connection: a vfio-user server in another process, to play sessions against.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "fuzz/host/player.h"
#include "fuzz/host/socket_pump.h"
#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {

class Connection {
 public:
  explicit Connection(std::string path) : path_(std::move(path)) {}

  // Meets the server, and makes the grammar of it: an NVMe controller's, or one of what regions it
  // has. The error says what to do. The others are called after this.
  Result<void> Prepare(bool generic);

  Player& player() { return *player_; }
  const Grammar& grammar() const { return *grammar_; }

 private:
  const std::string path_;
  SocketPump pump_;
  std::unique_ptr<Grammar> generic_;
  std::unique_ptr<Grammar> grammar_;
  std::optional<Player> player_;
};

}  // namespace farside::fuzz
