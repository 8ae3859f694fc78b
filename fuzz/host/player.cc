#include "fuzz/host/player.h"

#include <utility>

#include "fuzz/host/oracle.h"

namespace farside::fuzz {

void Player::ExpectServer() {
  auto transport = connect_();
  if (transport == nullptr) Violation("server-gone", "the server takes no connection any more");
  if (!client_.Connect(std::move(transport))) {
    Violation("server-gone", "the server refuses a client when the one before is gone");
  }
}

void Player::BeginConnection() {
  ExpectServer();
  client_.MapMemory(by_message_);
}

void Player::PlayAndExpectServer(const Session& session) {
  Play(session);
  ExpectServer();
}

void Player::Play(const Session& session) {
  client_.ForgetCounts();
  by_message_ = session.by_message();
  // Of the session before there may be a connection that nothing was done with, and that the server
  // has ended meanwhile.
  if (client_.connected()) client_.MapMemory(by_message_);
  if (!client_.connected() || client_.closed()) BeginConnection();
  client_.Execute({.kind = Kind::kReset});
  if (session.ready()) {
    client_.ArmInterrupts();
    Store store;
    std::vector<Event> prologue;
    grammar_.AddPrologue(store, &prologue);
    Run(prologue, {});
  }
  Run(session.events, observer_);
  client_.Finish();
  client_.Disconnect();
}

void Player::Run(std::span<const Event> events, const Cursor::Observer& observer) {
  cursor_.Begin(events, observer);
  while (!cursor_.done()) {
    const Event& event = cursor_.Take();
    if (event.kind == Kind::kReconnect) {
      client_.Disconnect();
      BeginConnection();
    } else {
      client_.Execute(event);
    }
  }
}

std::optional<Answer> Player::TakeAnswer(DmaAccess access) {
  if (on_access_) on_access_();
  return cursor_.TakeAnswer(access);
}

}  // namespace farside::fuzz
