#include "fuzz/targets/mpqemu_client_target.h"

#include <algorithm>
#include <bit>

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
constexpr uint64_t kMemory = 256 << 10;
constexpr size_t kMaxBegun = 8;

}  // namespace

Result<std::unique_ptr<DeviceClient>> MakeMpqemuSubject(std::unique_ptr<Transport> transport,
                                                        std::function<bool(int)> pump) {
  mpqemu::ClientOptions options{.pump = std::move(pump)};
  auto client = mpqemu::MpqemuClient::Attach(std::move(transport), std::move(options));
  if (!client) return tl::unexpected(client.error());
  return std::move(*client);
}

MpqemuClientTarget::MpqemuClientTarget(MakeSubject make)
    : make_(make), memory_(MakeMemfd("window", kMemory).value()), eventfd_(MakeEventfd().value()) {
  MuteLog();
}

void MpqemuClientTarget::Run(ConstBytes input) {
  const ProcessWatch watch(tally_.sessions % ProcessWatch::kCountEvery == 0 || observed());
  Decode(input, &session_);
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
  }
  FinishReads();
  watch.CheckMemory();
  Detach();
  watch.CheckFds();
  ++tally_.sessions;
}

bool MpqemuClientTarget::Pump() {
  if (++turns_ > kMaxTurns) Violation("bounded-work", "a call does not end in {} turns", kMaxTurns);
  return remote_.Step();
}

void MpqemuClientTarget::Attach() {
  Detach();
  BeginCall();
  auto made = make_(remote_.Connect(session_.by_message()), [this](int) { return Pump(); });
  const bool ended = std::ranges::any_of(
      remote_.answered(), [](const auto& answered) { return answered.outcome == Outcome::kEnd; });
  if (made && ended && !remote_.unsure()) {
    Violation("client-answer", "it attaches, though an answer is broken or missing");
  }
  if (!made && !ended && !remote_.altered() && !remote_.unsure() && !remote_.broken()) {
    Violation("client-answer", "it does not attach: {}", made.error().message);
  }
  if (!made) return remote_.Disconnect();
  client_ = std::move(*made);
  over_ = !client_->alive();
}

void MpqemuClientTarget::Detach() {
  begun_.clear();
  client_.reset();
  over_ = false;
  remote_.Disconnect();
}

void MpqemuClientTarget::BeginCall() {
  turns_ = 0;
  remote_.BeginCall();
}

void MpqemuClientTarget::EndCall(std::string_view name, bool ok, bool must, bool waits) {
  const bool alive = client_->alive();
  if (over_ && (alive || turns_ != 0 || (ok && must && waits))) {
    Violation("client-answer", "after its end the client goes on, at {}", name);
  }
  if (over_) return;
  over_ = !alive;
  bool ended = false;
  for (const auto& answered : remote_.answered()) ended |= answered.outcome == Outcome::kEnd;
  if (remote_.unsure() && !ended) return;
  if (ended && waits && (ok || alive)) {
    Violation("client-answer", "{} {} though its answer is broken or missing", name,
              ok ? "succeeds" : "leaves the client alive");
  }
  const bool excuse = ended || remote_.broken() || remote_.unsure();
  if (!ok && must && !excuse) Violation("client-answer", "{} fails without a reason", name);
  if (!alive && !excuse) Violation("client-answer", "{} ends the client without a reason", name);
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
      return Write(event, event.data);
    case Kind::kMap: {
      const bool by_fd = (event.size & 0x10) == 0;
      const auto mapped = client_->DmaMap({.iova = event.at,
                                           .size = event.value,
                                           .flags = event.size & 3u,
                                           .fd = by_fd ? memory_.get() : -1,
                                           .offset = event.at % kMemory});
      return EndCall("DmaMap", mapped.has_value(), false);
    }
    case Kind::kUnmap: {
      const auto unmapped = event.value == ~uint64_t{0} ? client_->DmaUnmapAll()
                                                        : client_->DmaUnmap(event.at, event.value);
      return EndCall("DmaUnmap", unmapped.has_value(), false);
    }
    case Kind::kIrqs: {
      const int fd = eventfd_.get();
      const vfio_user::SetIrqs set{.flags = event.size & 0x3fu,
                                   .index = event.what,
                                   .count = static_cast<uint32_t>(event.value)};
      const auto armed = client_->SetIrqs(set, {}, std::span(&fd, event.value == 1 ? 1 : 0));
      return EndCall("SetIrqs", armed.has_value(), false);
    }
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
    EndCall("BeginRead", ticket.has_value(), true);
    if (ticket) begun_.back().ticket = *ticket;
    if (!ticket) begun_.pop_back();
    return;
  }
  const auto read = client_->RegionRead(access, out);
  // What nothing decodes reads as ones, without a message.
  const bool silent = remote_.answered().empty();
  EndCall("RegionRead", read.has_value(), true, !silent);
  if (!read || remote_.unsure()) return;
  const bool ones = std::ranges::all_of(out, [](std::byte b) { return b == std::byte{0xff}; });
  if (silent && !ones && !over_) {
    Violation("client-answer", "what no BAR decodes does not read as ones");
  }
  // Else some of its pieces may be nowhere.
  const bool one =
      remote_.answered().size() == 1 && out.size() <= 8 && std::has_single_bit(out.size());
  const bool whole = access.region != kConfig || access.offset + out.size() <= 0xfc;
  if (!one || !whole) return;
  std::array<std::byte, 8> sent;
  StoreLe(sent, remote_.answered()[0].value);
  if (!std::ranges::equal(ConstBytes(sent).first(out.size()), out)) {
    Violation("client-answer", "a read gives other bytes than were sent");
  }
}

void MpqemuClientTarget::FinishReads() {
  if (begun_.empty()) return;
  BeginCall();
  bool ok = true;
  for (size_t i = begun_.size(); i-- != 0;) ok &= client_->FinishRead(begun_[i].ticket).has_value();
  begun_.clear();
  EndCall("FinishRead", ok, true, false);
  over_ = !client_->alive();
}

void MpqemuClientTarget::Write(const Event& event, ConstBytes data) {
  const GuestAccess access{.region = event.what & kRegionBits, .offset = event.at};
  const bool posted = (event.what & kPosted) != 0;
  const auto wrote = posted ? client_->PostWrite(access, data) : client_->RegionWrite(access, data);
  const bool silent = remote_.answered().empty();
  EndCall("RegionWrite", wrote.has_value(), true, !silent && (!posted || access.region == kConfig));
}

void MpqemuClientTarget::Query(uint32_t region) {
  if (region != kConfig) {
    const auto info = client_->GetRegionInfo(region);
    return EndCall("GetRegionInfo", info.has_value(), false);
  }
  const auto function = PciFunction::Probe(*client_);
  EndCall("a probe", function.has_value(), false);
}

std::unique_ptr<Target> MakeMpqemuClientTarget() {
  return std::make_unique<MpqemuClientTarget>(&MakeMpqemuSubject);
}

}  // namespace farside::fuzz
