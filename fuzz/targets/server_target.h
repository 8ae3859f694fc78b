// ServerTarget: a device process's server under a hostile client: messages, descriptors, and a
// device behind them, in one thread.
#pragma once

#include <memory>
#include <optional>

#include "base/epoll_loop.h"
#include "devices/server/slot.h"
#include "devices/server/vfio_user_server.h"
#include "fuzz/host/client.h"
#include "fuzz/host/cursor.h"
#include "fuzz/host/models.h"
#include "fuzz/host/protocol_referee.h"
#include "fuzz/host/snapshots.h"
#include "fuzz/host/witness.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {

class ServerTarget final : public Target, private AnswerSource, private Pump {
 public:
  explicit ServerTarget(const Grammar& grammar);
  ~ServerTarget() override;

  void Run(ConstBytes input) override;
  // Runs a session that may be longer than an input.
  void Run(const Session& session);
  Client& client() { return client_; }

 private:
  void RunSession();
  std::optional<Answer> TakeAnswer(DmaAccess access) override { return cursor_.TakeAnswer(access); }
  bool Step() override;
  bool holds_up() const override { return backends_.in_flight(); }

  void Play(std::span<const Event> events);
  void Execute(const Event& event);
  void Reconnect();
  void Migrate(const Event& event);
  bool SetMigrationState(vfio_user::MigrationState state);
  void Connect(bool by_message, bool hasty = false);
  void ExpectOneClient();

  const Grammar& grammar_;
  SessionClock clock_;
  std::unique_ptr<EpollLoop> loop_ = EpollLoop::Create(clock_).value();
  FramePool::Scope frames_{loop_->frames()};
  Slot slot_{*loop_, "fuzzed"};
  ModelBackends backends_{*loop_};
  std::optional<Snapshots> snapshots_;
  Witness witness_{*loop_};
  std::optional<VfioUserServer> server_;
  MemoryTransport* wire_ = nullptr;  // The client's end, as long as it is connected.
  Client client_{*this, *this};
  std::optional<ProtocolReferee> referee_;

  Session session_;
  Cursor cursor_;
};

}  // namespace farside::fuzz
