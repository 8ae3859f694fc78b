#include "fuzz/targets/device_target.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"
#include "devices/core/deadline.h"
#include "devices/core/pci_registers.h"
#include "devices/core/state.h"
#include "devices/nvme/identify.h"
#include "devices/nvme/registers.h"
#include "fuzz/host/lsi_referee.h"
#include "fuzz/host/nvme_referee.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
namespace {

// Of the header: identity, class, header type, subsystem, capabilities pointer, interrupt pin.
constexpr std::pair<uint64_t, uint64_t> kFixedConfig[] = {{0x00, 4}, {0x08, 4}, {0x0e, 2},
                                                          {0x2c, 4}, {0x34, 4}, {0x3d, 3}};

constexpr std::string_view kNvmeMoving[] = {"CSTS"};

}  // namespace

DeviceTarget::DeviceTarget(const Grammar& grammar, const ModelFacts& facts)
    : grammar_(grammar),
      facts_(facts),
      device_(MakeModel(
          facts.options,
          {.id = "fuzzed", .loop = loop_, .clock = clock_, .dma = host_, .irq = host_}, backends_)),
      witness_(loop_) {
  MuteLog();
  host_.Attach(*device_);
  host_.set_max_accesses_per_turn(facts.max_accesses_per_turn);
  referee_ = facts.make_referee(host_, *device_, backends_);
  host_.set_referee(referee_.get());
  snapshots_.emplace(loop_, clock_, *device_);
  fresh_config_.resize(pci::kConfigSize);
  device_->ReadRegion(Region::kConfig, 0, fresh_config_);

  Session prologue;
  Store store;
  grammar_.AddPrologue(store, &prologue.events);
  host_.Begin(false, false);
  reflected_.emplace();
  backends_.BeginDisks(false);
  referee_->Begin(false);
  Play(prologue.events);
  RunTurns(loop_, Snapshots::kMaxTurns);
  snapshots_->TakeReady();
  referee_->MarkReady();
}

DeviceTarget::~DeviceTarget() {
  host_.set_referee(nullptr);
  LetEverythingGoOn();
  device_->Reset(ResetKind::kShutdown);
  loop_.RunUntilIdle();
}

void DeviceTarget::Run(ConstBytes input) {
  Decode(input, &session_);
  snapshots_->GoBack(session_.ready());
  host_.Begin(session_.by_message(), session_.own_table());
  backends_.BeginDisks(session_.by_message());
  referee_->Begin(session_.ready());
  reflect_.reset();
  reflected_.emplace();
  turns_left_ = kMaxTurns;

  Play(session_.events);
  LetEverythingGoOn();
  Settle(kMaxTurns);
  CheckReadOnlyBits();

  ++tally_.sessions;
  tally_.with_dma += host_.counts().completed != 0;
  tally_.with_interrupts += host_.counts().interrupts != 0;
  tally_.with_io += backends_.requests() != 0;
  Reset();
  if (compares()) snapshots_->ExpectFresh();
  witness_.Check();
}

void DeviceTarget::Play(std::span<const Event> events) {
  cursor_.Begin(events, Teller(grammar_));
  while (!cursor_.done()) {
    referee_->OnEvent();
    Execute(cursor_.Take());
    const bool idle = Settle(kQuantum);
    if (idle && !host_.waiting() && !backends_.in_flight()) referee_->OnIdle();
  }
}

// A device that is never idle, as one with a script that loops, goes on one turn an event when it
// has had its share of the session.
bool DeviceTarget::Settle(size_t turns) {
  turns = std::max<size_t>(1, std::min(turns, turns_left_));
  for (; turns != 0; --turns) {
    if (!loop_.RunReady(1)) return true;
    if (turns_left_ != 0) --turns_left_;
  }
  return false;
}

std::optional<Answer> DeviceTarget::TakeAnswer(DmaAccess access) {
  const Event* const next = cursor_.Peek();
  const Event* const behind = cursor_.Peek(1);
  const bool reflects = next != nullptr && next->kind == Kind::kReflect && behind != nullptr &&
                        behind->kind == Kind::kAnswer;
  if (reflects && access == DmaAccess::kRead) reflect_ = cursor_.Take();
  auto answer = cursor_.TakeAnswer(access);
  if (answer) answer->data = Reflected(answer->data);
  return answer;
}

// The pointer of a reflection takes the place of what is in `data`.
ConstBytes DeviceTarget::Reflected(ConstBytes data) {
  if (!reflect_ || data.size() < 4) return data;
  const Event reflect = *std::exchange(reflect_, std::nullopt);
  const uint64_t address = host_.BarAddress(reflect.what % kBarCount) + reflect.at;
  const size_t width = data.size() % 8 == 0 ? 8 : 4;
  const size_t at = reflect.size / 4 * 4 % (data.size() / width * width);
  const Bytes copy = reflected_->Add(data.size());
  Copy(copy, data);
  StoreLePartial(copy.subspan(at, std::min(width, copy.size() - at)), address);
  return copy;
}

void DeviceTarget::Execute(const Event& event) {
  switch (event.kind) {
    case Kind::kRead:
    case Kind::kWrite:
    case Kind::kWriteData:
      return Access(event);
    case Kind::kMemory:
      return host_.WriteMemory(event.at, Reflected(event.data));
    case Kind::kMap:
      if (host_.AddWindow(event.at, event.value, (event.size & 1) != 0, (event.size & 2) != 0)) {
        device_->OnDmaChanged();
      }
      return;
    case Kind::kUnmap:
      if (host_.RemoveWindow(event.at, event.value)) {
        host_.CancelWaits();
        device_->OnDmaChanged();
      }
      return;
    case Kind::kReset:
      return Reset();
    case Kind::kSaveLoad:
      return SaveLoad(event);
    case Kind::kClock: {
      constexpr uint64_t kLongest = uint64_t{1} << 40;
      clock_.Set(clock_.now_ns() + event.value % kLongest);
      return CheckDeadline(*device_, clock_);
    }
    case Kind::kReconnect:
      // The client's DMA ends with it.
      if (host_.waiting()) referee_->Lose();
      host_.CancelWaits();
      return;
    case Kind::kAnswer:
      // Nobody asked, unless it waits.
      return host_.Release({.data = Reflected(event.data)});
    case Kind::kFault:
      return host_.Release({.fault = true});
    case Kind::kHold:
      return host_.Hold();
    case Kind::kReflect:
      reflect_ = event;
      return;
    case Kind::kDisk:
      return backends_.Act(event);
    case Kind::kIrqs:
    case Kind::kFrame:
    case Kind::kReply:
    case Kind::kDeviceRead:
    case Kind::kDeviceWrite:
    case Kind::kDeviceFrame:
    case Kind::kHangUp:
    case Kind::kCount:
      return;
  }
}

void DeviceTarget::Access(const Event& event) {
  const auto region = Region{event.what % kRegionCount};
  const uint64_t size = device_->info().region(region).size;
  if (event.kind == Kind::kWriteData) {
    if (!InRange(event.at, event.data.size(), size) || event.data.empty()) return;
    return Write(region, event.at, event.data);
  }
  // The server lets nothing else through.
  const uint32_t width = event.size;
  if (width == 0 || width > 8 || !InRange(event.at, width, size)) return;
  if (event.kind == Kind::kWrite) {
    return Write(region, event.at, AsBytes(event.value).first(width));
  }
  // Of just the size, so that a sanitizer sees who writes past it.
  const auto out = std::make_unique<std::byte[]>(width);
  device_->ReadRegion(region, event.at, Bytes(out.get(), width));
  referee_->OnRead(region, event.at, ConstBytes(out.get(), width));
  if (observed()) {
    fmt::print("       = {:#x}\n", LoadLePartial(ConstBytes(out.get(), width)));
  }
}

void DeviceTarget::Write(Region region, uint64_t offset, ConstBytes in) {
  referee_->BeginWrite(region, offset, in);
  device_->WriteRegion(region, offset, in);
  referee_->EndWrite(region, offset, in);
}

void DeviceTarget::Reset() {
  referee_->BeginReset();
  host_.CancelWaits();
  device_->Reset(ResetKind::kFunction);
  LetEverythingGoOn();
  snapshots_->Drain("after a reset");
  referee_->EndReset();
  device_->Resume();
}

void DeviceTarget::LetEverythingGoOn() {
  host_.ReleaseAll();
  backends_.SettleDisks();
}

void DeviceTarget::SaveLoad(const Event& event) {
  LetEverythingGoOn();
  snapshots_->Drain("before its state is saved");
  const std::vector<std::byte> saved = snapshots_->Saved();
  if (event.value % 256 != 0) {
    std::vector<std::byte> damaged = saved;
    damaged[event.at % damaged.size()] ^= static_cast<std::byte>(event.value);
    // Its interrupts are nobody's.
    host_.set_referee(nullptr);
    const bool taken = Load(damaged).has_value();
    host_.set_referee(referee_.get());
    if (taken) {
      referee_->Lose();
      return device_->Resume();
    }
    // It is refused, and the device goes on where it was.
  }
  if (const auto loaded = Load(saved); !loaded) {
    Violation("save-load", "the device refuses its own state: {}", loaded.error().message);
  }
  if (snapshots_->Saved() != saved) {
    Violation("save-load", "a state is another one when it was loaded and saved again");
  }
  device_->Resume();
}

Result<void> DeviceTarget::Load(ConstBytes state) {
  device_->Reset(ResetKind::kFunction);
  snapshots_->Drain("before a state is loaded");
  auto in = StateReader::Parse(state);
  if (!in) return tl::unexpected(in.error());
  return device_->Load(*in);
}

void DeviceTarget::CheckReadOnlyBits() {
  for (const auto& [offset, size] : kFixedConfig) {
    std::array<std::byte, 4> now;
    device_->ReadRegion(Region::kConfig, offset, Bytes(now).first(size));
    const auto then = ConstBytes(fresh_config_).subspan(offset, size);
    if (!std::ranges::equal(ConstBytes(now).first(size), then)) {
      Violation("read-only", "configuration space changed at {:#x}, where nothing is writable",
                offset);
    }
  }
  for (const RegisterDef& row : facts_.registers) {
    if (std::ranges::find(facts_.moving, row.name) != facts_.moving.end()) continue;
    uint64_t now = 0;
    device_->ReadRegion(Region{facts_.bar}, row.offset, AsWritableBytes(now).first(row.width));
    const uint64_t fixed = ~(row.writable | row.set | row.clear) & WidthMask(row.width);
    // All ones: the function sleeps in D3, where nothing is claimed.
    if ((now & fixed) == (row.reset & fixed) || now == WidthMask(row.width)) continue;
    Violation("read-only", "{} reads {:#x}: bits {:#x} are not a driver's to write", row.name, now,
              (now ^ row.reset) & fixed);
  }
}

namespace {

std::unique_ptr<Referee> MakeNvmeReferee(Host& host, Device& device,
                                         const ModelBackends& backends) {
  return std::make_unique<NvmeReferee>(NvmeFacts{.io_pairs = kNvmePairs,
                                                 .event_requests = nvme::kMaxEventRequests,
                                                 .max_transfer = kNvmeMaxTransfer},
                                       host, device, backends.disk(0));
}

std::unique_ptr<Referee> MakeLsiReferee(Host& host, Device& device, const ModelBackends& backends) {
  constexpr uint32_t kDiskBlock = 512;
  constexpr uint32_t kCdBlock = 2048;
  const std::array<ScsiUnit, ScsiReferee::kTargets> units = {
      ScsiUnit{.disk = &backends.disk(0), .block_size = kDiskBlock, .wwn = kLsiDiskWwn},
      ScsiUnit{.disk = &backends.disk(1), .block_size = kCdBlock, .is_cd = true}, ScsiUnit{},
      ScsiUnit{.disk = &backends.disk(2), .block_size = kDiskBlock}};
  return std::make_unique<LsiReferee>(host, device, ScsiReferee(units));
}

}  // namespace

std::unique_ptr<Target> MakeNvmeTarget() {
  return std::make_unique<DeviceTarget>(NvmeGrammar(), ModelFacts{.options = kNvmeOptions,
                                                                  .bar = nvme::kRegisterBar,
                                                                  .registers = nvme::kRegisters,
                                                                  .moving = kNvmeMoving,
                                                                  .make_referee = MakeNvmeReferee});
}

// The chip moves most of its registers itself: only configuration space is compared.
std::unique_ptr<Target> MakeLsiTarget() {
  return std::make_unique<DeviceTarget>(LsiGrammar(),
                                        ModelFacts{.options = kLsiOptions,
                                                   .max_accesses_per_turn = 2 * kLsiQuantum,
                                                   .make_referee = MakeLsiReferee});
}

}  // namespace farside::fuzz
