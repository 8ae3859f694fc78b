// Player: plays sessions against a vfio-user server that is reached by a transport, whoever it is.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fuzz/host/client.h"
#include "fuzz/host/cursor.h"
#include "fuzz/mutator/grammar.h"
#include "protocol/transport.h"

namespace farside::fuzz {

class Player final : private AnswerSource {
 public:
  // A new connection to the server, or nothing if it takes none any more.
  using Connector = std::function<std::unique_ptr<Transport>()>;
  // `grammar` knows the driver's set-up. All outlive this.
  Player(const Grammar& grammar, Pump& pump, Connector connect)
      : grammar_(grammar), pump_(pump), connect_(std::move(connect)) {}

  void set_observer(Cursor::Observer observer) { observer_ = std::move(observer); }
  // Told of each access to memory that is answered at once, before what answers it.
  void set_on_access(std::function<void()> on_access) { on_access_ = std::move(on_access); }

  // From a reset on; the client's counts are this session's. Oracle "server-gone": it takes no
  // connection when a client is gone.
  void Play(const Session& session);
  // And looks whether the server takes the next session's connection: not at that one's begin, so
  // that the input that is kept is the one that did it.
  void PlayAndExpectServer(const Session& session);

  Client& client() { return client_; }
  const Client& client() const { return client_; }

 private:
  std::optional<Answer> TakeAnswer(DmaAccess access) override;
  void ExpectServer();
  void BeginConnection();
  void Run(std::span<const Event> events, const Cursor::Observer& observer);

  const Grammar& grammar_;
  Pump& pump_;
  const Connector connect_;
  Cursor::Observer observer_;
  std::function<void()> on_access_;
  Client client_{pump_, *this};
  Cursor cursor_;
  bool by_message_ = false;
};

}  // namespace farside::fuzz
