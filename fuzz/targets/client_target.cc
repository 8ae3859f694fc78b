#include "fuzz/targets/client_target.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <thread>

#include "base/log.h"
#include "fuzz/host/host.h"
#include "fuzz/host/oracle.h"
#include "fuzz/host/process_watch.h"
#include "fuzz/mutator/client_events.h"
#include "harness/host/pci_function.h"
#include "protocol/vfio_user_client.h"

namespace farside::fuzz {

using vfio_user::IrqIndex;

namespace {

constexpr uint64_t kMemory = 64 << 10;  // All windows show it, over and over.
// Far away: nothing here waits for time.
constexpr uint64_t kTimeoutNs = 3'600'000'000'000;
constexpr size_t kMaxIndexes = 64;
constexpr size_t kMaxVectors = 2048;

uint64_t FoldMemory(uint64_t iova) { return iova % kMemory; }

}  // namespace

Result<std::unique_ptr<DeviceClient>> MakeVfioUserSubject(ClientWire wire, DmaHandler* handler) {
  using vfio_user::VfioUserClient;
  vfio_user::ClientOptions options;
  options.capabilities.twin_socket =
      vfio_user::Capabilities::TwinSocket{.supported = true, .fd_index = {}};
  const bool socket{wire.socket};
  options.channel = {.timeout_ns = socket ? wire.timeout_ns : kTimeoutNs,
                     .pump = std::move(wire.pump)};
  auto client =
      socket ? VfioUserClient::Attach(std::move(wire.socket), std::move(options), handler)
             : VfioUserClient::Attach(std::move(wire.transport), std::move(options), handler);
  if (!client) return tl::unexpected(client.error());
  return std::move(*client);
}

ClientTarget::ClientTarget(MakeSubject make, bool across_socket)
    : make_(make),
      far_end_(device_, across_socket),
      memory_(kMemory),
      window_fd_(MakeMemfd("window", kMemory).value()) {
  MuteLog();
  for (size_t i = 0; i < kEventfds; ++i) eventfds_.push_back(MakeEventfd().value());
}

ClientTarget::~ClientTarget() = default;

void ClientTarget::Run(ConstBytes input) {
  const ProcessWatch watch(tally_.sessions % ProcessWatch::kCountEvery == 0 || observed());
  Decode(input, &session_);
  impatience_.Run(far_end_.across_socket(), [this] { Play(); });
  watch.CheckMemory();
  Detach();
  watch.CheckFds();
  ++tally_.sessions;
  tally_.with_dma += dma_ != 0;
}

void ClientTarget::Play() {
  Detach();
  std::ranges::fill(memory_, std::byte{0xa5});
  faults_ = 0;
  dma_ = 0;
  device_.Begin();
  bool attached = false;
  for (size_t i = 0; i < session_.events.size(); ++i) {
    const Event& event = session_.events[i];
    Tell(ClientGrammar(), i, event);
    // What the device does first, it does to VERSION.
    if (!attached && event.kind < Kind::kReply) {
      attached = true;
      Attach();
    }
    Execute(event);
  }
  if (!attached) Attach();
  if (client_ == nullptr) return;
  FinishReads();
  device_.Release();
  Drain();
  if (!over_) device_.CheckAllAnswered();
}

void ClientTarget::Attach() {
  Detach();
  auto wire = far_end_.Connect(session_.by_message(), impatience_.timeout_ns(), [this] { Turn(); });
  BeginCall();
  auto made = make_(std::move(wire), this);
  far_end_.Hold();
  int errno_due = 0;
  const auto due = Due(&errno_due);
  if (!made) {
    if (due == Outcome::kAsIs) {
      Complain("it does not attach, though VERSION is in order: {}", made.error().message);
    }
    device_.Disconnect();
    return;
  }
  if (due != Outcome::kAsIs && due != Outcome::kAltered && due != Outcome::kUnsure) {
    Complain("it attaches without a right answer to VERSION");
  }
  client_ = std::move(*made);
  over_ = !client_->alive();
  device_.set_max_transfer(client_->max_transfer());
  Map({.kind = Kind::kMap, .size = 3, .at = Host::kBase, .value = Host::kSize});
}

void ClientTarget::Detach() {
  begun_.clear();
  windows_.clear();
  client_.reset();
  over_ = false;
  far_end_.Stop();
  device_.Disconnect();
}

void ClientTarget::Turn() {
  if (++turns_ > kMaxTurns) Violation("bounded-work", "a call does not end in {} turns", kMaxTurns);
}

void ClientTarget::BeginCall() {
  turns_ = 0;
  device_.BeginCall();
  far_end_.LetGo();
}

std::optional<Outcome> ClientTarget::Due(int* error) const {
  // The strongest of what its requests came to.
  constexpr Outcome kOrder[] = {Outcome::kUnsure, Outcome::kEnd, Outcome::kAltered,
                                Outcome::kRefused, Outcome::kAsIs};
  for (const Outcome outcome : kOrder) {
    for (const Answered& answered : device_.answered()) {
      if (answered.outcome != outcome) continue;
      *error = answered.error;
      return outcome;
    }
  }
  return std::nullopt;
}

std::optional<Outcome> ClientTarget::Judge(std::string_view name, bool ok, const Error& error,
                                           bool own_mind) {
  far_end_.Hold();
  const bool alive = client_->alive();
  if (over_) {
    if (!ok && !alive && turns_ == 0) return Outcome::kEnd;
    Complain("after its end the client {} at {}", ok ? "succeeds" : "goes on", name);
  }
  over_ = !alive;
  int errno_due = 0;
  const auto due = Due(&errno_due);
  // What breaks the protocol behind an answer may be seen before the call's next request.
  const bool broken = !alive && (device_.broken() || device_.unsure());
  const bool may_fail = own_mind || broken;
  const char* wrong = nullptr;
  if (!due) {
    if (ok && !own_mind) wrong = "succeeds without asking the device";
  } else if (*due == Outcome::kAsIs) {
    if (!ok && !may_fail) wrong = "fails, though its answer is in order";
  } else if (*due == Outcome::kRefused) {
    if (ok) wrong = "succeeds, though the device refuses it";
    if (!ok && !may_fail && error.code != errno_due) wrong = "fails with another errno";
  } else if (*due == Outcome::kEnd) {
    if (ok) wrong = "succeeds, though its answer is broken or missing";
    if (alive) wrong = "leaves the client alive, though its answer is broken or missing";
  }
  const bool in_order = !due || *due == Outcome::kAsIs || *due == Outcome::kRefused;
  if (in_order && !alive && !broken) {
    wrong = "ends the client, though the device kept to the protocol";
  }
  if (wrong != nullptr) {
    Complain("{} {} ({})", name, wrong, ok ? "no error" : error.message);
  }
  return due;
}

// The guest's memory.

bool ClientTarget::Allows(uint64_t iova, uint64_t count, bool writes) const {
  const uint32_t right = writes ? vfio_user::kDmaMapWrite : vfio_user::kDmaMapRead;
  uint64_t at = iova;
  uint64_t left = count;
  while (left != 0) {
    // The longest way on.
    uint64_t step = 0;
    for (const Window& window : windows_) {
      if ((window.flags & right) == 0 || at < window.iova || at - window.iova >= window.size) {
        continue;
      }
      step = std::max(step, window.size - (at - window.iova));
    }
    if (step == 0) return false;
    step = std::min(step, left);
    at += step;
    left -= step;
    if (left != 0 && at == 0) return false;  // Round the end.
  }
  return true;
}

int ClientTarget::Handle(uint64_t iova, uint64_t count, bool writes) {
  if (count == 0 || !Allows(iova, count, writes)) {
    Violation("dma-window", "the device {} {} bytes at {:#x}, where no window allows it",
              writes ? "writes" : "reads", count, iova);
  }
  if (faults_ == 0) {
    ++dma_;
    return 0;
  }
  --faults_;
  return EFAULT;
}

int ClientTarget::OnDmaRead(uint64_t iova, Bytes out) {
  const std::lock_guard lock(far_end_.mutex());
  const int error = Handle(iova, out.size(), false);
  for (size_t done = 0; done < out.size() && error == 0;) {
    const uint64_t at = FoldMemory(iova + done);
    const size_t size = std::min<size_t>(out.size() - done, kMemory - at);
    Copy(out.subspan(done, size), ConstBytes(memory_).subspan(at, size));
    done += size;
  }
  device_.OnHandled(iova, out.size(), false, error, out);
  return error;
}

int ClientTarget::OnDmaWrite(uint64_t iova, ConstBytes in) {
  const std::lock_guard lock(far_end_.mutex());
  const int error = Handle(iova, in.size(), true);
  for (size_t i = 0; i < in.size() && error == 0; ++i) memory_[FoldMemory(iova + i)] = in[i];
  device_.OnHandled(iova, in.size(), true, error, {});
  return error;
}

// Events.

void ClientTarget::Execute(const Event& event) {
  if (event.kind >= Kind::kReply) return device_.Queue(event);
  const bool begins = event.kind == Kind::kRead && (event.what & kBegun) != 0 && event.size != 0;
  if (!begins) FinishReads();
  if (event.kind == Kind::kReconnect) return Attach();
  if (client_ == nullptr) return;
  switch (event.kind) {
    case Kind::kRead:
      return event.size == 0 ? Query(event.what & kRegionBits) : Read(event);
    case Kind::kWrite: {
      const size_t size = std::min<size_t>(event.size, 8);
      return Write(event, AsBytes(event.value).first(size));
    }
    case Kind::kWriteData:
      return (event.what & kMulti) != 0 ? WriteMulti(event) : Write(event, event.data);
    case Kind::kMemory:
      for (size_t i = 0; i < event.data.size(); ++i) {
        memory_[FoldMemory(event.at + i)] = event.data[i];
      }
      return;
    case Kind::kMap:
      return Map(event);
    case Kind::kUnmap:
      return Unmap(event);
    case Kind::kIrqs:
      return event.size == 0 ? QueryIrq(event.what) : SetIrqs(event);
    case Kind::kReset: {
      BeginCall();
      EndCall("DEVICE_RESET", client_->Reset());
      return;
    }
    case Kind::kSaveLoad:
      return Migrate();
    case Kind::kClock:
      device_.Release();
      return Drain();
    case Kind::kFault:
      ++faults_;
      return;
    default:
      return;
  }
}

// All that the device sent is read, and answered.
void ClientTarget::Drain() {
  BeginCall();
  if (far_end_.across_socket()) {
    DrainSocket();
  } else {
    for (;;) {
      Turn();
      const bool more = far_end_.Step();
      if (!more && device_.quiet()) break;
      if (!client_->WaitReadable(-1, 0)) break;
    }
  }
  far_end_.Hold();
  const bool alive = client_->alive();
  if (over_ && alive) Complain("the client lives again");
  if (!over_ && !alive && !device_.broken() && !device_.unsure()) {
    Complain("the client ends, though the device kept to the protocol");
  }
  if (alive && device_.broken() && !device_.unsure()) {
    // Of a hang-up the end is read when all else is.
    (void)client_->WaitReadable(-1, 0);
    if (client_->alive()) {
      Complain("the client goes on, though the device broke the protocol");
    }
  }
  over_ = !client_->alive();
}

// The client reads while the device sends, until nothing is under way between them.
void ClientTarget::DrainSocket() {
  constexpr uint64_t kTurnNs = 100'000;
  const auto deadline = clock_.now_ns() + impatience_.timeout_ns();
  for (bool quiet = false; !quiet;) {
    // What the turn before left behind is handled with this one.
    far_end_.Hold();
    quiet = device_.quiet();
    far_end_.LetGo();
    if (!client_->WaitReadable(-1, kTurnNs)) return;
    if (clock_.now_ns() < deadline) continue;
    far_end_.Hold();
    if (device_.broken()) return;
    Complain("what is sent is not read, or not answered");
  }
}

void ClientTarget::Read(const Event& event) {
  const GuestAccess access{.region = event.what & kRegionBits, .offset = event.at};
  if ((event.what & kBegun) != 0) {
    if (begun_.size() == kMaxBegun) FinishReads();
    if (begun_.empty()) {
      BeginCall();
    } else {
      far_end_.LetGo();
    }
    Begun begun{.ticket = {}, .out = std::vector<std::byte>(event.size)};
    const auto ticket = client_->BeginRead(access, begun.out);
    far_end_.Hold();
    const bool lawful = event.size <= client_->max_transfer();
    const bool ends = far_end_.across_socket() && !client_->alive() && device_.broken();
    if (ticket.has_value() != (lawful && !over_) && !ends) {
      Complain("a read {} begin", ticket ? "does" : "does not");
    }
    if (!ticket) return;
    begun.ticket = *ticket;
    begun_.push_back(std::move(begun));
    return;
  }
  BeginCall();
  std::vector<std::byte> out(event.size);
  const auto due = EndCall("REGION_READ", client_->RegionRead(access, out));
  if (due != Outcome::kAsIs) return;
  const ConstBytes sent = ConstBytes(last().payload).subspan(sizeof(vfio_user::RegionAccess));
  if (!std::ranges::equal(sent, out)) Complain("a read gives other bytes");
}

// The last first: replies are kept for who asks for them later.
void ClientTarget::FinishReads() {
  if (begun_.empty()) return;
  std::vector<Result<void>> results(begun_.size());
  const auto finish = [&](size_t first, size_t step) {
    for (size_t i = first; i < begun_.size(); i += step) {
      const size_t from_last = begun_.size() - 1 - i;
      results[from_last] = client_->FinishRead(begun_[from_last].ticket);
    }
  };
  far_end_.LetGo();
  if (far_end_.across_socket() && begun_.size() > 1) {
    // Two CPUs, and one that waits for something else meanwhile.
    std::thread cpu([&] { finish(1, 2); });
    std::thread bystander([&] { (void)client_->WaitReadable(eventfds_[0].get(), 100'000); });
    finish(0, 2);
    cpu.join();
    bystander.join();
  } else {
    finish(0, 1);
  }
  far_end_.Hold();
  std::vector<const Answered*> answers;
  for (const Answered& answered : device_.answered()) {
    if (answered.outcome != Outcome::kPosted) answers.push_back(&answered);
  }
  bool ended = device_.broken() || device_.unsure() || answers.size() != begun_.size();
  for (const Answered* answer : answers) ended |= answer->outcome == Outcome::kEnd;
  over_ = !client_->alive();
  if (over_ && !ended) {
    Complain("reads end the client, though the device kept to the protocol");
  }
  for (size_t i = 0; i < begun_.size() && i < answers.size(); ++i) {
    const Answered& answer = *answers[i];
    if (answer.outcome == Outcome::kUnsure) continue;
    if (!results[i]) {
      if (answer.outcome == Outcome::kAsIs && !over_) {
        Complain("read {} of several fails: {}", i, results[i].error().message);
      }
      continue;
    }
    const bool right =
        answer.outcome == Outcome::kAsIs &&
        std::ranges::equal(ConstBytes(answer.payload).subspan(sizeof(vfio_user::RegionAccess)),
                           begun_[i].out);
    if (!right) Complain("read {} of several gives other bytes", i);
  }
  begun_.clear();
}

void ClientTarget::Write(const Event& event, ConstBytes data) {
  const GuestAccess access{.region = event.what & kRegionBits, .offset = event.at};
  const bool broken_before = device_.broken() || device_.unsure();
  BeginCall();
  if ((event.what & kPosted) != 0) {
    const bool lawful = !data.empty() && data.size() <= client_->max_transfer();
    const auto posted = client_->PostWrite(access, data);
    far_end_.Hold();
    // Across a socket the device does not wait for the end of the call.
    const bool broken =
        broken_before || (far_end_.across_socket() && (device_.broken() || device_.unsure()));
    if ((posted && (over_ || !lawful)) || (!posted && !over_ && lawful && !broken)) {
      Complain("a posted write {}", posted ? "succeeds" : "fails");
    }
    over_ = !client_->alive();
    return;
  }
  const auto due = EndCall("REGION_WRITE", client_->RegionWrite(access, data));
  // Of configuration space not all is writable.
  if (due != Outcome::kAsIs || access.region == HostileDevice::kConfig) return;
  // It may be a spoiled refusal.
  const ConstBytes region = device_.region(access.region % HostileDevice::kRegions);
  if (access.region >= HostileDevice::kRegions || !InRange(event.at, data.size(), region.size())) {
    return;
  }
  if (!std::ranges::equal(region.subspan(event.at, data.size()), data)) {
    Complain("a write is done, and other bytes are in the device");
  }
}

void ClientTarget::WriteMulti(const Event& event) {
  const auto writes = WritesOf(event);
  if (writes.empty()) return;
  const bool posted = (event.what & kPosted) != 0;
  BeginCall();
  const auto done = client_->WriteMulti(0, writes, posted);
  far_end_.Hold();
  if (!posted) {
    EndCall("REGION_WRITE_MULTI", done);
    return;
  }
  if (over_ && done) Complain("posted writes succeed after the client's end");
  over_ = !client_->alive();
}

void ClientTarget::Query(uint32_t region) {
  if (region == HostileDevice::kConfig) return Probe();
  if (region != HostileDevice::kRegions - 1) {
    QueryRegion(region);
    return QueryIoFds(region);
  }
  BeginCall();
  const auto info = client_->GetInfo();
  const auto due = EndCall("DEVICE_GET_INFO", info);
  if (!info) return;
  if (info->num_regions > kMaxIndexes || info->num_irqs > kMaxIndexes ||
      (due == Outcome::kAsIs && info->num_regions != HostileDevice::kRegions)) {
    Complain("the device is said to have {} regions and {} kinds of interrupts", info->num_regions,
             info->num_irqs);
  }
}

void ClientTarget::QueryRegion(uint32_t region) {
  BeginCall();
  const auto info = client_->GetRegionInfo(region);
  const auto due = EndCall("DEVICE_GET_REGION_INFO", info);
  if (!info) return;
  bool right = info->info.index == region;
  for (const vfio_user::MmapArea& area : info->areas) {
    right = right && InRange(area.offset, area.size, info->info.size);
  }
  right = right && InRange(info->info.offset, info->info.size, INT64_MAX);
  if (due == Outcome::kAsIs) {
    right = right && info->info.size == HostileDevice::kRegionSizes[region] &&
            info->areas.size() == (region == 2 ? 2 : 0) && bool{info->fd} == (region == 2);
  }
  if (!right) {
    Complain("region {} is said to have {:#x} bytes and {} areas", region, info->info.size,
             info->areas.size());
  }
}

void ClientTarget::QueryIoFds(uint32_t region) {
  BeginCall();
  const auto io_fds = client_->GetRegionIoFds(region);
  const auto due = EndCall("DEVICE_GET_REGION_IO_FDS", io_fds);
  if (!io_fds) return;
  bool right = due != Outcome::kAsIs || io_fds->entries.size() == (region == 0 ? 2 : 0);
  for (const vfio_user::IoFdEntry& entry : io_fds->entries) {
    right = right && entry.fd_index < io_fds->fds.size();
  }
  if (!right) {
    Complain("region {} is said to have {} doorbells with {} fds", region, io_fds->entries.size(),
             io_fds->fds.size());
  }
}

void ClientTarget::QueryIrq(uint32_t index) {
  BeginCall();
  const auto info = client_->GetIrqInfo(IrqIndex{index});
  const auto due = EndCall("DEVICE_GET_IRQ_INFO", info);
  if (!info) return;
  const uint32_t count =
      index == static_cast<uint32_t>(IrqIndex::kMsix) ? HostileDevice::kVectors : 1;
  if (info->index != index || info->count > kMaxVectors ||
      (due == Outcome::kAsIs && info->count != count)) {
    Complain("interrupts of kind {} are said to be {}", index, info->count);
  }
}

// What it reads may be anything: what it makes of it is not.
void ClientTarget::Probe() {
  BeginCall();
  const auto function = PciFunction::Probe(*client_);
  EndCall("a probe", function, true);
  if (!function) return;
  bool right = function->config_size() >= 0x100 && function->config_size() <= 4096 &&
               function->msix_count() <= kMaxVectors && function->msi_count() <= 32;
  for (const PciBar& bar : function->bars()) {
    const bool none = bar.kind == PciBar::Kind::kNone;
    right = right && (none ? bar.size == 0 : std::has_single_bit(bar.size));
  }
  for (const PciCapability& capability : function->capabilities()) {
    right = right && capability.offset >= 0x40 && capability.offset < function->config_size();
  }
  if (!right) Complain("a function is taken for one that can't be");
  // Where its BARs and capabilities lie is used at once.
  auto placed = *function;
  BeginCall();
  EndCall("placing BARs", placed.PlaceBars(), true);
  BeginCall();
  EndCall("enabling MSI-X", placed.SetMsix(true), true);
}

void ClientTarget::SetIrqs(const Event& event) {
  const vfio_user::SetIrqs set{.flags = event.size & 0x3fu,
                               .index = event.what,
                               .start = static_cast<uint32_t>(event.at),
                               .count = static_cast<uint32_t>(event.value)};
  const size_t some = std::min<uint64_t>(event.value, kEventfds);
  std::vector<int> fds;
  if ((set.flags & vfio_user::kIrqDataEventfd) != 0) {
    for (size_t i = 0; i < some; ++i) fds.push_back(eventfds_[i].get());
  }
  const bool bools = (set.flags & vfio_user::kIrqDataBool) != 0;
  const std::vector<std::byte> data(bools ? some : 0, std::byte{1});
  BeginCall();
  // As a VMM does it; in as many messages as it takes.
  const bool arms = set.flags == (vfio_user::kIrqDataEventfd | vfio_user::kIrqActionTrigger);
  EndCall("DEVICE_SET_IRQS", arms && !fds.empty()
                                 ? client_->ArmIrqs(vfio_user::IrqIndex{set.index}, set.start, fds)
                                 : client_->SetIrqs(set, data, fds));
}

void ClientTarget::Map(const Event& event) {
  const DmaWindow window{.iova = event.at,
                         .size = event.value,
                         .flags = event.size & 3u,
                         .fd = (event.size & 4) != 0 ? window_fd_.get() : -1};
  // What was posted may bring about DMA: that is of the windows before.
  if (far_end_.across_socket()) Drain();
  // From the reply on the device may use it.
  const bool possible = window.size != 0 && window.size - 1 <= UINT64_MAX - window.iova;
  if (possible) {
    windows_.push_back({.iova = window.iova, .size = window.size, .flags = window.flags});
  }
  BeginCall();
  const auto mapped = client_->DmaMap(window);
  EndCall("DMA_MAP", mapped);
  if (!mapped && possible) windows_.pop_back();
}

void ClientTarget::Unmap(const Event& event) {
  const bool all = event.value == ~uint64_t{0};
  if (far_end_.across_socket()) Drain();
  BeginCall();
  const auto unmapped = all ? client_->DmaUnmapAll() : client_->DmaUnmap(event.at, event.value);
  EndCall("DMA_UNMAP", unmapped);
  if (!unmapped) return;
  std::erase_if(windows_, [&](const Window& window) {
    return all ||
           (window.iova >= event.at && InRange(window.iova - event.at, window.size, event.value));
  });
}

void ClientTarget::Migrate() {
  std::vector<std::byte> state(256);
  BeginCall();
  const auto got = client_->FeatureGet(vfio_user::Feature::kMigrationState,
                                       ConstBytes(state).first(8), Bytes(state).first(8));
  EndCall("DEVICE_FEATURE", got);
  BeginCall();
  const auto read = client_->MigDataRead(state);
  EndCall("MIG_DATA_READ", read);
  if ((got && *got > 8) || (read && *read > state.size())) {
    Complain("more of a state comes than there was room for");
  }
  BeginCall();
  EndCall("MIG_DATA_WRITE", client_->MigDataWrite(state));
}

std::unique_ptr<Target> MakeClientTarget() {
  return std::make_unique<ClientTarget>(&MakeVfioUserSubject, false);
}
std::unique_ptr<Target> MakeClientSocketTarget() {
  return std::make_unique<ClientTarget>(&MakeVfioUserSubject, true);
}

}  // namespace farside::fuzz
