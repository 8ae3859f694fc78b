#include "fuzz/targets/mpqemu_server_target.h"

#include <algorithm>

#include "base/log.h"
#include "devices/core/pci_registers.h"
#include "fuzz/host/oracle.h"
#include "fuzz/mutator/mpqemu_grammar.h"

namespace farside::fuzz {
namespace {

// Of the loop, when a session ends: a script may be endless.
constexpr size_t kTurns = 64;
constexpr size_t kTurnsOfStep = 8;

}  // namespace

MpqemuServerTarget::MpqemuServerTarget() {
  MuteLog();
  const DeviceEnv env = slot_.env();
  slot_.Plug(
      MakeModel(kLsiStateOptions,
                {.id = env.id, .loop = env.loop, .clock = env.clock, .dma = dma_, .irq = env.irq},
                backends_));
  snapshots_.emplace(*loop_, clock_, slot_.device());
  server_.emplace(slot_);
  backends_.BeginDisks(false);
  // The prologue by message, as a driver has it.
  Session prologue;
  Store store;
  MpqemuServerGrammar().AddPrologue(store, &prologue.events);
  Connect();
  Play(prologue.events);
  proxy_.Finish();
  Disconnect();
  snapshots_->TakeReady();
}

MpqemuServerTarget::~MpqemuServerTarget() {
  Disconnect();
  server_.reset();
  slot_.device().Reset(ResetKind::kShutdown);
  loop_->RunUntilIdle();
}

void MpqemuServerTarget::Connect() {
  auto [mine, servers] = MemoryTransport::MakePair();
  wire_ = mine.get();
  if (!server_->Accept(std::move(servers))) {
    Violation("answered", "the server refuses a proxy when the one before is gone");
  }
  proxy_.Connect(std::move(mine));
}

void MpqemuServerTarget::Disconnect() {
  proxy_.Disconnect();
  wire_ = nullptr;
  Step();
  if (server_->connected()) Violation("answered", "the server does not see that its proxy is gone");
  backends_.SettleDisks();
  RunTurns(*loop_, kTurns);
}

bool MpqemuServerTarget::Step() {
  if (server_->connected()) server_->Pump();
  const bool more = loop_->RunReady(kTurnsOfStep);
  loop_->FireTimers();
  return more ||
         (wire_ != nullptr && proxy_.connected() && !proxy_.closed() && wire_->pending() != 0);
}

// The process's loop waits meanwhile, for the device's deadline among others.
void MpqemuServerTarget::LetTimePass(uint64_t ns) {
  loop_->RunOnce(0);
  clock_.Set(clock_.now_ns() + ns);
  loop_->RunOnce(0);
  const auto deadline = slot_.device().NextDeadline();
  if (!deadline || *deadline > clock_.now_ns()) return;
  Violation("deadline", "the device waits for a time that was {} ns ago",
            clock_.now_ns() - *deadline);
}

uint32_t MpqemuServerTarget::ReadConfig(uint64_t offset) const {
  uint32_t value = 0;
  const_cast<Slot&>(slot_).device().ReadRegion(Region::kConfig, offset, AsWritableBytes(value));
  return value;
}

// As the device has it: an access goes where the guest put the BAR, or nowhere.
BarPlaces::Place MpqemuServerTarget::BarPlace(uint32_t bar) const {
  const uint32_t value = ReadConfig(pci::kBar0 + 4 * bar);
  const bool io = (value & pci::kBarIo) != 0;
  return {.address = value & ~(io ? pci::kBarIoFlags : pci::kBarMemoryFlags), .memory = !io};
}

bool MpqemuServerTarget::Decodes(uint64_t address, uint64_t size, bool memory) const {
  const uint32_t enable = memory ? pci::kCommandMemory : pci::kCommandIo;
  if ((ReadConfig(pci::kCommand) & enable) == 0) return false;
  const DeviceInfo& info = const_cast<Slot&>(slot_).device().info();
  for (uint32_t bar = 0; bar < kBarCount; ++bar) {
    const Place place = BarPlace(bar);
    const uint64_t length = info.regions[bar].size;
    if (length != 0 && place.address != 0 && place.memory == memory && address >= place.address &&
        InRange(address - place.address, size, length)) {
      return true;
    }
  }
  return false;
}

void MpqemuServerTarget::Run(ConstBytes input) {
  Decode(input, &session_);
  RunSession();
}

void MpqemuServerTarget::Run(const Session& session) {
  session_ = session;
  RunSession();
}

void MpqemuServerTarget::RunSession() {
  snapshots_->GoBack(session_.ready());
  backends_.BeginDisks(session_.by_message());
  const uint64_t dma_before = dma_.done();
  Connect();
  Play(session_.events);
  backends_.SettleDisks();
  RunTurns(*loop_, kTurns);
  proxy_.Finish();
  loop_->RunOnce(0);

  ++tally_.sessions;
  tally_.with_dma += dma_.done() != dma_before;
  tally_.with_io += backends_.requests() != 0;
  tally_.with_interrupts += proxy_.interrupts() != 0;
  Disconnect();
  if (compares()) {
    snapshots_->ExpectFresh();
  } else {
    snapshots_->GoBack(false);  // The witness is alone then.
  }
  witness_.Check();
}

void MpqemuServerTarget::Play(std::span<const Event> events) {
  for (size_t i = 0; i < events.size(); ++i) {
    Tell(MpqemuServerGrammar(), i, events[i]);
    Execute(events[i]);
  }
}

void MpqemuServerTarget::Execute(const Event& event) {
  switch (event.kind) {
    case Kind::kDisk:
      backends_.Act(event);
      Step();
      return;
    case Kind::kClock:
      LetTimePass(event.value % 1'000'000'000);
      Step();
      return;
    case Kind::kReconnect:
      Disconnect();
      return Connect();
    case Kind::kReset:
    case Kind::kFrame:
      // A reset is answered when the disk is done, and the session waits for it.
      backends_.SettleDisks();
      return proxy_.Execute(event);
    default:
      return proxy_.Execute(event);
  }
}

std::unique_ptr<Target> MakeMpqemuServerTarget() { return std::make_unique<MpqemuServerTarget>(); }

}  // namespace farside::fuzz
