#include "fuzz/targets/server_target.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "devices/server/sigbus.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {

using vfio_user::Command;
using vfio_user::MigrationState;

ServerTarget::ServerTarget(const Grammar& grammar) : grammar_(grammar) {
  MuteLog();
  CHECK(InstallSigbusHandler().has_value());
  slot_.Plug(MakeModel(kNvmeOptions, slot_.env(), backends_));
  snapshots_.emplace(*loop_, clock_, slot_.device());
  server_.emplace(slot_);
  referee_.emplace(slot_.device().info(), client_);
  client_.set_referee(*referee_);
  backends_.BeginDisks(false);
  // The prologue by message, as a driver has it.
  Session prologue;
  Store store;
  grammar_.AddPrologue(store, &prologue.events);
  Connect(true);
  Play(prologue.events);
  client_.Finish();
  if (client_.counts().dma == 0) {
    Violation("acceptance", "a driver's set-up of the device reaches no memory");
  }
  client_.Disconnect();
  snapshots_->TakeReady();
}

ServerTarget::~ServerTarget() {
  client_.Disconnect();
  server_.reset();
  slot_.device().Reset(ResetKind::kShutdown);
  loop_->RunUntilIdle();
}

// The server may not refuse a client for what the one before did.
void ServerTarget::Connect(bool by_message, bool hasty) {
  auto [mine, servers] = MemoryTransport::MakePair();
  wire_ = mine.get();
  if (auto accepted = server_->Accept(std::move(servers)); !accepted) {
    wire_ = nullptr;
    Violation("answered", "a client is refused when the one before is gone: {}",
              accepted.error().message);
  }
  if (!client_.Connect(std::move(mine), hasty)) {
    Violation("answered", "a new client's VERSION is refused");
  }
  client_.MapMemory(by_message);
  if (session_.ready()) client_.ArmInterrupts();
}

bool ServerTarget::Step() {
  if (server_->connected()) server_->Pump();
  const bool more = loop_->RunReady(VfioUserServer::kTaskQuantum);
  loop_->FireTimers();
  // The client's end comes behind what it sent last.
  if (!client_.connected()) return more || server_->connected();
  return more || (!client_.closed() && wire_->pending() != 0);
}

void ServerTarget::Run(ConstBytes input) {
  Decode(input, &session_);
  RunSession();
}

void ServerTarget::Run(const Session& session) {
  session_ = session;
  RunSession();
}

void ServerTarget::RunSession() {
  snapshots_->GoBack(session_.ready());
  backends_.BeginDisks(session_.by_message());
  client_.ForgetCounts();
  Connect(session_.by_message());

  Play(session_.events);
  backends_.SettleDisks();
  client_.Finish();
  RunTurns(*loop_, Snapshots::kMaxTurns);
  loop_->RunOnce(0);

  ++tally_.sessions;
  tally_.with_dma += client_.counts().dma != 0 || backends_.requests() != 0;
  tally_.with_interrupts += client_.counts().interrupts != 0;
  tally_.with_io += backends_.requests() != 0;
  client_.Disconnect();
  if (server_->connected()) Violation("answered", "the server did not see that its client is gone");
  RunTurns(*loop_, Snapshots::kMaxTurns);
  if (compares()) snapshots_->ExpectFresh();
  witness_.Check();
}

void ServerTarget::Play(std::span<const Event> events) {
  cursor_.Begin(events, Teller(grammar_));
  while (!cursor_.done()) Execute(cursor_.Take());
}

// A server serves one client: another one is sent away, and changes nothing for the first.
void ServerTarget::ExpectOneClient() {
  if (!server_->connected()) return;
  auto [mine, servers] = MemoryTransport::MakePair();
  if (server_->Accept(std::move(servers))) {
    Violation("refusal", "a second client is accepted while the first is there");
  }
}

void ServerTarget::Reconnect() {
  ExpectOneClient();
  client_.Disconnect();
  backends_.SettleDisks();
  RunTurns(*loop_, Snapshots::kMaxTurns);
  Connect(session_.by_message(), true);
}

void ServerTarget::Execute(const Event& event) {
  // Behind a stream that is out of step nothing would be heard any more.
  const bool lost = client_.closed() || client_.broke_framing();
  if (lost && event.kind != Kind::kFrame) Reconnect();
  switch (event.kind) {
    case Kind::kSaveLoad:
      return Migrate(event);
    case Kind::kDisk:
      backends_.Act(event);
      Step();
      return;
    case Kind::kReconnect:
      return Reconnect();
    default:
      return client_.Execute(event);
  }
}

bool ServerTarget::SetMigrationState(MigrationState state) {
  struct {
    vfio_user::DeviceFeature feature;
    vfio_user::FeatureMigrationState state;
  } set{.feature = {.argsz = sizeof set,
                    .flags = vfio_user::kFeatureSet |
                             static_cast<uint32_t>(vfio_user::Feature::kMigrationState)},
        .state = {.state = static_cast<uint32_t>(state)}};
  return client_.Call(Command::kDeviceFeature, AsBytes(set)).has_value();
}

// As a VMM does it that moves a guest to the same place.
void ServerTarget::Migrate(const Event& event) {
  constexpr uint32_t kPiece = 4096;
  if (!client_.connected() || client_.closed()) return;
  backends_.SettleDisks();
  // By way of STOP: the state is taken now, whatever a session has begun before.
  if (!SetMigrationState(MigrationState::kStop)) return;
  if (!SetMigrationState(MigrationState::kStopCopy)) return;
  const vfio_user::MigData all{.argsz = ~uint32_t{0},
                               .size = vfio_user::kDefaultMaxDataXferSize + 1};
  client_.Call(Command::kMigDataRead, AsBytes(all));  // Is refused.
  std::vector<std::byte> saved;
  for (;;) {
    const vfio_user::MigData read{.argsz = sizeof read + kPiece, .size = kPiece};
    const auto piece = client_.Call(Command::kMigDataRead, AsBytes(read));
    if (!piece || piece->size() <= sizeof read) break;
    saved.insert(saved.end(), piece->begin() + sizeof read, piece->end());
    if (piece->size() < sizeof read + kPiece) break;
  }
  SetMigrationState(MigrationState::kStop);
  const bool damaged = event.value % 256 != 0;
  if (SetMigrationState(MigrationState::kResuming) && !saved.empty()) {
    if (damaged) saved[event.at % saved.size()] ^= static_cast<std::byte>(event.value);
    for (size_t at = 0; at < saved.size(); at += kPiece) {
      const ConstBytes piece =
          ConstBytes(saved).subspan(at, std::min<size_t>(kPiece, saved.size() - at));
      std::vector<std::byte> write(sizeof(vfio_user::MigData));
      const vfio_user::MigData data{.argsz = static_cast<uint32_t>(sizeof data + piece.size()),
                                    .size = static_cast<uint32_t>(piece.size())};
      Copy(write, AsBytes(data));
      write.insert(write.end(), piece.begin(), piece.end());
      client_.Call(Command::kMigDataWrite, write);
    }
    const bool loaded = SetMigrationState(MigrationState::kStop);
    if (!loaded && !damaged && client_.connected() && !client_.closed() &&
        !client_.broke_framing()) {
      Violation("save-load", "the server refuses the state that it gave");
    }
  }
  SetMigrationState(MigrationState::kRunning);
}

std::unique_ptr<Target> MakeServerTarget() {
  return std::make_unique<ServerTarget>(ServerGrammar());
}

}  // namespace farside::fuzz
