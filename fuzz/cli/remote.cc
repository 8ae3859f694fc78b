// Sessions against an mpqemu remote, QEMU's own or another one: what a guest does, and nothing that
// a proxy never sends, for that ends QEMU's remote by design. So whatever ends it is a finding.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/range.h"
#include "base/words.h"
#include "devices/lsi53c895a/registers.h"
#include "fuzz/cli/generic_grammar.h"
#include "fuzz/cli/opponent.h"
#include "fuzz/host/host.h"
#include "fuzz/host/oracle.h"
#include "harness/host/guest_memory.h"
#include "harness/scenario/remote_process.h"
#include "protocol/mpqemu_client.h"

namespace farside::fuzz {
namespace {

constexpr uint64_t kReplyNs = 10'000'000'000;
constexpr uint64_t kEndNs = 5'000'000'000;  // Of a process whose channel has ended.
constexpr uint32_t kBars = 6;
constexpr uint32_t kConfig = 7;
constexpr uint32_t kLsi = uint32_t{lsi53c895a::kDeviceId} << 16 | lsi53c895a::kVendorId;
constexpr uint32_t kNvmeClass = 0x01'0802;

constexpr MemoryRange kMemory[] = {{.iova = Host::kBase, .size = Host::kSize},
                                   {.iova = Host::kHighBase, .size = Host::kHighSize}};

class Remote final : public Opponent {
 public:
  explicit Remote(std::string line) : line_(std::move(line)) {}

  Result<void> Prepare(bool generic) override;
  const Grammar& grammar() const override { return *grammar_; }
  void set_observer(Cursor::Observer observer) override { observer_ = std::move(observer); }
  void Play(const Session& session) override;
  bool closed() const override { return !client_->alive(); }
  Reached reached() const override { return reached_; }

 private:
  Result<void> Start();
  Result<uint32_t> ReadConfig(uint64_t offset);
  Result<void> ChooseGrammar(bool generic);
  void Execute(const Event& event);
  void WriteMemory(uint64_t iova, ConstBytes data);
  void Map(bool there);
  void ExpectAlive();

  const std::string line_;
  std::unique_ptr<Grammar> generic_;
  const Grammar* grammar_ = nullptr;
  Cursor::Observer observer_;
  // What the guest has written: where memory differs from it, the device has.
  std::unique_ptr<GuestMemory> written_;
  std::unique_ptr<GuestMemory> memory_;
  std::optional<scenario::RemoteProcess> process_;
  std::unique_ptr<mpqemu::MpqemuClient> client_;
  UniqueFd interrupt_;
  std::array<uint64_t, kBars> sizes_{};
  bool mapped_ = false;
  Reached reached_;
};

Result<void> Remote::Prepare(bool generic) {
  if (auto started = Start(); !started) return started;
  return ChooseGrammar(generic);
}

Result<void> Remote::Start() {
  auto words = SplitWords(std::string_view(line_).substr(kExec.size()));
  if (!words) return tl::unexpected(words.error());
  if (words->empty() || line_.find(scenario::kFdPlace) == std::string::npos) {
    return Fail("{} is no command line with {} in it, where the number of its socket goes", line_,
                scenario::kFdPlace);
  }
  const std::string program = words->front();
  words->erase(words->begin());
  auto process = scenario::RemoteProcess::Start("remote", program, *std::move(words), "");
  if (!process) return tl::unexpected(process.error());
  process_ = *std::move(process);
  auto client = mpqemu::MpqemuClient::Attach(
      std::move(process_->socket), {.timeout_ns = kReplyNs, .settle_ns = scenario::kQemuSettleNs});
  if (!client) {
    return Fail("{} does not begin as an mpqemu remote: {}; {}", program, client.error().message,
                process_->LastWords());
  }
  client_ = *std::move(client);
  auto interrupt = MakeEventfd();
  if (!interrupt) return tl::unexpected(interrupt.error());
  interrupt_ = *std::move(interrupt);
  const int fd = interrupt_.get();
  // A device without INTx is fuzzed all the same.
  (void)client_->SetIrqs({.flags = vfio_user::kIrqDataEventfd | vfio_user::kIrqActionTrigger,
                          .index = static_cast<uint32_t>(vfio_user::IrqIndex::kIntx),
                          .count = 1},
                         {}, std::span(&fd, 1));
  for (uint32_t bar = 0; bar < kBars; ++bar) {
    const auto region = client_->GetRegionInfo(bar);
    sizes_[bar] = region ? region->info.size : 0;
  }
  auto memory = GuestMemory::Create(kMemory, Reach::kFd);
  auto written = GuestMemory::Create(kMemory, Reach::kFd);
  if (!memory || !written) return Fail("there is no memory for the guest");
  memory_ = *std::move(memory);
  written_ = *std::move(written);
  return {};
}

Result<uint32_t> Remote::ReadConfig(uint64_t offset) {
  return client_->Read<uint32_t>({.region = kConfig, .offset = offset});
}

Result<void> Remote::ChooseGrammar(bool generic) {
  const auto id = ReadConfig(0);
  const auto revision = ReadConfig(8);
  if (!id || !revision) return Fail("the device's configuration space can not be read");
  if (!generic && *id == kLsi) {
    grammar_ = &LsiGrammar();
  } else if (!generic && *revision >> 8 == kNvmeClass) {
    grammar_ = &NvmeGrammar();
  } else {
    std::vector<RegionFacts> regions = {{.index = kConfig, .size = 256}};
    for (uint32_t bar = 0; bar < kBars; ++bar) {
      if (sizes_[bar] != 0) regions.push_back({.index = bar, .size = sizes_[bar]});
    }
    generic_ = MakeGenericGrammar(std::move(regions));
    grammar_ = generic_.get();
  }
  return {};
}

void Remote::Play(const Session& session) {
  reached_ = {};
  Map(true);
  for (const MemoryRange& range : kMemory) {
    for (const auto& memory : {memory_.get(), written_.get()}) {
      CHECK(memory->Fill(range.iova, range.size, 0).has_value());
    }
  }
  DrainEventfd(interrupt_.get());
  if (session.ready()) {
    Store store;
    std::vector<Event> prologue;
    grammar_->AddPrologue(store, &prologue);
    for (const Event& event : prologue) Execute(event);
  }
  for (size_t i = 0; i < session.events.size(); ++i) {
    if (observer_) observer_(i, session.events[i]);
    Execute(session.events[i]);
  }
  reached_ = {.dma = memory_->FindDifference(*written_, 0).has_value(),
              .interrupts = DrainEventfd(interrupt_.get()) != 0};
  // What a reset does to work that is left behind is this session's, too.
  Execute({.kind = Kind::kReset});
  ExpectAlive();
}

void Remote::Execute(const Event& event) {
  if (!client_->alive()) return;
  const uint32_t region = event.what & 0xfu;
  const uint64_t size = region == kConfig ? 256 : region < kBars ? sizes_[region] : 0;
  const auto lies = [&](size_t length) { return length != 0 && InRange(event.at, length, size); };
  const GuestAccess access{.region = region, .offset = event.at};
  switch (event.kind) {
    case Kind::kRead: {
      std::array<std::byte, 256> out;
      if (lies(event.size)) (void)client_->RegionRead(access, Bytes(out).first(event.size));
      return;
    }
    case Kind::kWrite: {
      const size_t length = std::min<size_t>(event.size, sizeof event.value);
      if (lies(length)) (void)client_->RegionWrite(access, AsBytes(event.value).first(length));
      return;
    }
    case Kind::kWriteData:
      if (lies(event.data.size())) (void)client_->RegionWrite(access, event.data);
      return;
    case Kind::kMemory:
      return WriteMemory(event.at, event.data);
    case Kind::kMap:
    case Kind::kUnmap:
      return Map(event.kind == Kind::kMap);
    case Kind::kReset:
      (void)client_->Reset();
      return;
    default:
      return;
  }
}

void Remote::WriteMemory(uint64_t iova, ConstBytes data) {
  for (const MemoryRange& range : kMemory) {
    if (iova < range.iova || iova - range.iova >= range.size) continue;
    const auto size = std::min<uint64_t>(data.size(), range.size - (iova - range.iova));
    for (const auto& memory : {memory_.get(), written_.get()}) {
      CHECK(memory->Write(iova, data.first(size)).has_value());
    }
  }
}

// All of the guest's memory, or none.
void Remote::Map(bool there) {
  if (std::exchange(mapped_, there) == there) return;
  (void)(there ? memory_->MapTo(*client_) : client_->DmaUnmapAll());
}

// It answers, and runs. After another end a new process plays the next session.
void Remote::ExpectAlive() {
  const auto id = ReadConfig(0);
  if (id && process_->child->running()) return;
  const auto status = process_->child->Wait(kEndNs);
  if (status) {
    Violation("server-gone", "the remote {}; {}", status->Text(), process_->LastWords());
  }
  Violation("answered", "the remote runs, and its channel has ended: {}",
            id ? "it answers" : id.error().message);
}

}  // namespace

std::unique_ptr<Opponent> MakeRemote(std::string line) {
  return std::make_unique<Remote>(std::move(line));
}

}  // namespace farside::fuzz
