#include "fuzz/cli/player.h"

#include <utility>

#include "fuzz/host/oracle.h"

namespace farside::fuzz {

void Player::ExpectServer(bool by_message) {
  auto transport = connect_();
  if (transport == nullptr) Violation("server-gone", "the server takes no connection any more");
  if (!client_.Connect(std::move(transport), by_message)) {
    Violation("server-gone", "the server refuses a client when the one before is gone");
  }
}

void Player::Play(const Session& session) {
  by_message_ = session.by_message();
  ExpectServer(by_message_);
  client_.Execute({.kind = Kind::kReset});
  if (session.ready()) {
    Store store;
    std::vector<Event> prologue;
    grammar_.AddPrologue(store, &prologue);
    Run(prologue, nullptr);
  }
  Run(session.events, &observer_);
  client_.Finish();
  client_.Disconnect();
}

void Player::Run(std::span<const Event> events, const Observer* observer) {
  playing_ = events;
  next_ = 0;
  observing_ = observer;
  while (next_ < playing_.size()) {
    const Event& event = Take();
    if (event.kind == Kind::kReconnect) {
      client_.Disconnect();
      ExpectServer(by_message_);
    } else {
      client_.Execute(event);
    }
  }
  playing_ = {};
  next_ = 0;
}

const Event& Player::Take() {
  const Event& event = playing_[next_];
  if (observing_ != nullptr && *observing_) (*observing_)(next_, event);
  ++next_;
  return event;
}

std::optional<Answer> Player::TakeAnswer(DmaAccess access) {
  if (on_access_) on_access_();
  if (next_ >= playing_.size()) return std::nullopt;
  const Event& event = playing_[next_];
  const bool fault = event.kind == Kind::kFault;
  if (!fault && (event.kind != Kind::kAnswer || access != DmaAccess::kRead)) return std::nullopt;
  Take();
  return fault ? Answer{.fault = true} : Answer{.data = event.data};
}

}  // namespace farside::fuzz
