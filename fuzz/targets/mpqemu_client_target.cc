#include "fuzz/targets/mpqemu_client_target.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <thread>

#include "base/log.h"
#include "fuzz/host/host.h"
#include "fuzz/host/oracle.h"
#include "fuzz/host/process_watch.h"
#include "fuzz/mutator/client_events.h"
#include "fuzz/mutator/mpqemu_grammar.h"
#include "harness/host/pci_function.h"

namespace farside::fuzz {

using Outcome = HostileRemote::Outcome;

namespace {

constexpr uint32_t kConfig = 7;
constexpr uint32_t kWholeDevice = 8;
constexpr uint64_t kMemory = 256 << 10;
constexpr size_t kMaxBegun = 8;

template <typename T>
Error ErrorOf(const Result<T>& result) {
  return result ? Error{} : result.error();
}

}  // namespace

Result<std::unique_ptr<DeviceClient>> MakeMpqemuSubject(ClientWire wire) {
  using mpqemu::MpqemuClient;
  const bool socket{wire.socket};
  mpqemu::ClientOptions options{.pump = std::move(wire.pump)};
  if (socket) options.timeout_ns = wire.timeout_ns;
  auto client = socket ? MpqemuClient::Attach(std::move(wire.socket), std::move(options))
                       : MpqemuClient::Attach(std::move(wire.transport), std::move(options));
  if (!client) return tl::unexpected(client.error());
  return std::move(*client);
}

MpqemuClientTarget::MpqemuClientTarget(MakeSubject make, bool across_socket)
    : make_(make),
      far_end_(remote_, across_socket),
      memory_(MakeMemfd("window", kMemory).value()),
      eventfd_(MakeEventfd().value()) {
  MuteLog();
}

void MpqemuClientTarget::Run(ConstBytes input) {
  const ProcessWatch watch(tally_.sessions % ProcessWatch::kCountEvery == 0 || observed());
  Decode(input, &session_);
  impatience_.Run(far_end_.across_socket(), [this] { Play(); });
  watch.CheckMemory();
  Detach();
  watch.CheckFds();
  ++tally_.sessions;
}

void MpqemuClientTarget::Play() {
  Detach();
  remote_.Begin();
  bool attached = false;
  for (size_t i = 0; i < session_.events.size(); ++i) {
    const Event& event = session_.events[i];
    Tell(MpqemuClientGrammar(), i, event);
    if (!attached && event.kind < Kind::kReply) {
      attached = true;
      Attach();
    }
    Execute(event);
    far_end_.Hold();
  }
  FinishReads();
}

void MpqemuClientTarget::Turn() {
  if (++turns_ > kMaxTurns) Violation("bounded-work", "a call does not end in {} turns", kMaxTurns);
}

void MpqemuClientTarget::Attach() {
  Detach();
  auto wire = far_end_.Connect(session_.by_message(), impatience_.timeout_ns(), [this] { Turn(); });
  BeginCall();
  auto made = make_(std::move(wire));
  far_end_.Hold();
  const bool ended = std::ranges::any_of(
      remote_.answered(), [](const auto& answered) { return answered.outcome == Outcome::kEnd; });
  if (made && ended && !remote_.unsure()) {
    Complain("it attaches, though an answer is broken or missing");
  }
  if (!made && !ended && !remote_.altered() && !remote_.unsure() && !remote_.broken()) {
    Complain("it does not attach: {}", made.error().message);
  }
  if (!made) return remote_.Disconnect();
  client_ = std::move(*made);
  over_ = !client_->alive();
}

void MpqemuClientTarget::Detach() {
  begun_.clear();
  client_.reset();
  over_ = false;
  far_end_.Stop();
  remote_.Disconnect();
}

void MpqemuClientTarget::BeginCall() {
  turns_ = 0;
  remote_.BeginCall();
  far_end_.LetGo();
}

void MpqemuClientTarget::EndCall(std::string_view name, bool ok, bool must, bool waits) {
  far_end_.Hold();
  const bool alive = client_->alive();
  if (over_ && (alive || turns_ != 0 || (ok && must && waits))) {
    Complain("after its end the client goes on, at {}", name);
  }
  if (over_) return;
  over_ = !alive;
  bool ended = false;
  for (const auto& answered : remote_.answered()) ended |= answered.outcome == Outcome::kEnd;
  if (remote_.unsure() && !ended) return;
  if (ended && waits && (ok || alive)) {
    Complain("{} {} though its answer is broken or missing", name,
             ok ? "succeeds" : "leaves the client alive");
  }
  const bool excuse = ended || remote_.broken() || remote_.unsure();
  if (!ok && must && !excuse) Complain("{} fails without a reason", name);
  if (!alive && !excuse) Complain("{} ends the client without a reason", name);
}

void MpqemuClientTarget::Execute(const Event& event) {
  if (event.kind >= Kind::kReply) return remote_.Queue(event);
  const bool begins = event.kind == Kind::kRead && (event.what & kBegun) != 0 && event.size != 0;
  if (!begins) FinishReads();
  if (event.kind == Kind::kReconnect) return Attach();
  if (client_ == nullptr) return;
  BeginCall();
  switch (event.kind) {
    case Kind::kRead:
      return event.size == 0 ? Query(event.what & kRegionBits) : Read(event);
    case Kind::kWrite:
      return Write(event, AsBytes(event.value).first(std::min<size_t>(event.size, 8)));
    case Kind::kWriteData:
      return (event.what & kMulti) != 0 ? WriteMulti(event) : Write(event, event.data);
    case Kind::kMap: {
      const bool by_fd = (event.size & 0x10) == 0;
      const auto mapped = client_->DmaMap({.iova = event.at,
                                           .size = event.value,
                                           .flags = event.size & 3u,
                                           .fd = by_fd ? memory_.get() : -1,
                                           .offset = event.at % kMemory});
      return EndCall("DmaMap", mapped.has_value(), false, false);
    }
    case Kind::kUnmap: {
      const auto unmapped = event.value == ~uint64_t{0} ? client_->DmaUnmapAll()
                                                        : client_->DmaUnmap(event.at, event.value);
      return EndCall("DmaUnmap", unmapped.has_value(), false, false);
    }
    case Kind::kIrqs: {
      if (event.size == 0) return QueryIrq(event.what);
      const int fd = eventfd_.get();
      const vfio_user::SetIrqs set{.flags = event.size & 0x3fu,
                                   .index = event.what,
                                   .count = static_cast<uint32_t>(event.value)};
      const auto armed = client_->SetIrqs(set, {}, std::span(&fd, event.value == 1 ? 1 : 0));
      return EndCall("SetIrqs", armed.has_value(), false, false);
    }
    case Kind::kSaveLoad:
      return Migrate();
    case Kind::kReset:
      return EndCall("Reset", client_->Reset().has_value(), true);
    case Kind::kClock:
      (void)client_->WaitReadable(-1, 0);
      over_ = !client_->alive();
      return;
    default:
      return;
  }
}

void MpqemuClientTarget::Read(const Event& event) {
  const GuestAccess access{.region = event.what & kRegionBits, .offset = event.at};
  std::vector<std::byte> out(event.size);
  if ((event.what & kBegun) != 0) {
    if (begun_.size() == kMaxBegun) {
      FinishReads();
      BeginCall();  // What those took is not this one's.
    }
    begun_.push_back({.ticket = {}, .out = std::move(out)});
    const auto ticket = client_->BeginRead(access, begun_.back().out);
    // It waits for its own answer only where the protocol has no messages for a whole one; others',
    // broken or not, may come with it.
    const bool waits = access.region == kConfig && !far_end_.across_socket();
    EndCall("BeginRead", ticket.has_value(), true, waits);
    if (ticket) begun_.back().ticket = *ticket;
    if (!ticket) begun_.pop_back();
    return;
  }
  const auto read = client_->RegionRead(access, out);
  far_end_.Hold();
  // What nothing decodes reads as ones, without a message.
  const bool silent = remote_.answered().empty();
  EndCall("RegionRead", read.has_value(), true, !silent);
  if (!read || remote_.unsure()) return;
  const bool ones = std::ranges::all_of(out, [](std::byte b) { return b == std::byte{0xff}; });
  if (silent && !ones && !over_) {
    Complain("what no BAR decodes does not read as ones");
  }
  // Else some of its pieces may be nowhere.
  const bool one =
      remote_.answered().size() == 1 && out.size() <= 8 && std::has_single_bit(out.size());
  const bool whole = access.region != kConfig || access.offset + out.size() <= 0xfc;
  if (!one || !whole) return;
  std::array<std::byte, 8> sent;
  StoreLe(sent, remote_.answered()[0].value);
  if (!std::ranges::equal(ConstBytes(sent).first(out.size()), out)) {
    Complain("a read gives other bytes than were sent");
  }
}

void MpqemuClientTarget::FinishReads() {
  if (begun_.empty()) return;
  BeginCall();
  std::atomic<bool> ok = true;
  const auto finish = [&](size_t first, size_t step) {
    for (size_t i = first; i < begun_.size(); i += step) {
      if (!client_->FinishRead(begun_[begun_.size() - 1 - i].ticket)) ok = false;
    }
  };
  if (far_end_.across_socket() && begun_.size() > 1) {
    std::thread cpu([&] { finish(1, 2); });
    finish(0, 2);
    cpu.join();
  } else {
    finish(0, 1);
  }
  begun_.clear();
  EndCall("FinishRead", ok, true, false);
  over_ = !client_->alive();
}

void MpqemuClientTarget::Write(const Event& event, ConstBytes data) {
  const GuestAccess access{.region = event.what & kRegionBits, .offset = event.at};
  const bool posted = (event.what & kPosted) != 0;
  const auto wrote = posted ? client_->PostWrite(access, data) : client_->RegionWrite(access, data);
  far_end_.Hold();
  const bool silent = remote_.answered().empty();
  EndCall("RegionWrite", wrote.has_value(), true, !silent && (!posted || access.region == kConfig));
  if (posted && far_end_.across_socket()) AwaitService();
}

// What was posted is served before the next call begins: what that brings about is its own.
void MpqemuClientTarget::AwaitService() {
  const uint64_t deadline_ns = clock_.now_ns() + impatience_.timeout_ns();
  while (!remote_.served() && clock_.now_ns() < deadline_ns) {
    far_end_.LetGo();
    std::this_thread::yield();
    far_end_.Hold();
  }
}

void MpqemuClientTarget::WriteMulti(const Event& event) {
  const auto writes = WritesOf(event);
  const auto wrote = client_->WriteMulti(0, writes, (event.what & kPosted) != 0);
  EndCall("WriteMulti", wrote.has_value(), !writes.empty(), false);
  if (far_end_.across_socket()) AwaitService();
}

void MpqemuClientTarget::QueryIrq(uint32_t index) {
  const auto info = client_->GetIrqInfo(vfio_user::IrqIndex{index});
  const bool intx = index == static_cast<uint32_t>(vfio_user::IrqIndex::kIntx);
  EndCall("GetIrqInfo", info.has_value(), !over_);
  if (info && info->count > (intx ? 1 : 0)) {
    Complain("there are {} interrupts of kind {}", info->count, index);
  }
}

// The protocol has none of it, and nothing of it goes to the remote.
void MpqemuClientTarget::Migrate() {
  std::vector<std::byte> state(64);
  const vfio_user::Feature feature = vfio_user::Feature::kMigrationState;
  const Error errors[] = {
      ErrorOf(client_->FeatureGet(feature, state, state)),
      ErrorOf(client_->FeatureSet(feature, state)),
      ErrorOf(client_->FeatureProbe(feature, 0)),
      ErrorOf(client_->MigDataRead(state)),
      ErrorOf(client_->MigDataWrite(state)),
  };
  far_end_.Hold();
  for (const Error& error : errors) {
    if (error.code != ENOTSUP) Complain("a state is moved, or fails with errno {}", error.code);
  }
}

void MpqemuClientTarget::Query(uint32_t region) {
  if (region == kWholeDevice) {
    const auto info = client_->GetInfo();
    return EndCall("GetInfo", info.has_value(), !over_);
  }
  if (region != kConfig) {
    const auto doorbells = client_->GetRegionIoFds(region);
    if (doorbells && !doorbells->entries.empty()) Complain("region {} has doorbells", region);
    const auto info = client_->GetRegionInfo(region);
    return EndCall("GetRegionInfo", info.has_value(), false);
  }
  const auto function = PciFunction::Probe(*client_);
  EndCall("a probe", function.has_value(), false);
}

std::unique_ptr<Target> MakeMpqemuClientTarget() {
  return std::make_unique<MpqemuClientTarget>(&MakeMpqemuSubject, false);
}
std::unique_ptr<Target> MakeMpqemuClientSocketTarget() {
  return std::make_unique<MpqemuClientTarget>(&MakeMpqemuSubject, true);
}

}  // namespace farside::fuzz
