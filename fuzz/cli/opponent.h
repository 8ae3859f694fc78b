// Opponent: a server in another process, to play sessions against; nothing is seen of it but what
// comes over its socket.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "fuzz/host/cursor.h"
#include "fuzz/mutator/grammar.h"
#include "fuzz/session/event.h"

namespace farside::fuzz {

// What a session reached.
struct Reached {
  bool dma = false;
  bool interrupts = false;
};

class Opponent {
 public:
  virtual ~Opponent() = default;

  // Meets the server, and chooses the grammar of its device; `generic`: of any device with such
  // regions. The error says what to do. The others are called after this.
  virtual Result<void> Prepare(bool generic) = 0;
  virtual const Grammar& grammar() const = 0;
  // Told of each event before it happens.
  virtual void set_observer(Cursor::Observer observer) = 0;
  // Plays it, and sees whether the server is there afterwards. What is wrong aborts.
  virtual void Play(const Session& session) = 0;
  // The connection has ended: events reach nobody any more.
  virtual bool closed() const = 0;
  virtual Reached reached() const = 0;
};

// Marks a command line where a socket's path may be, too: "exec:disk-proc ... fd=%FD%".
inline constexpr std::string_view kExec = "exec:";

// remote.cc: an mpqemu remote that is started with `line`, kExec and the command line, in which
// %FD% is its socket's number.
std::unique_ptr<Opponent> MakeRemote(std::string line);

}  // namespace farside::fuzz
