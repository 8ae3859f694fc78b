#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "harness/replay/target.h"
#include "harness/scenario/remote_process.h"
#include "protocol/mpqemu_client.h"
#include "protocol/vfio_user_codec.h"

namespace farside::replay {
namespace {

using mpqemu::MpqemuClient;
using vfio_user::Command;
using vfio_user::RegionAccess;

constexpr uint32_t kConfigRegion = 7;

// As a PC has it: below the hole for BARs, and from 4 GiB on.
constexpr DmaWindow kWindows[] = {
    {.iova = 0, .size = uint64_t{3} << 30, .offset = 0},
    {.iova = uint64_t{4} << 30, .size = uint64_t{5} << 30, .offset = uint64_t{3} << 30}};
constexpr uint64_t kMemorySize = kWindows[1].offset + kWindows[1].size;

// Whether the thread of /proc/PID/task/TID sleeps: its state stands behind its name (proc(5)).
bool Sleeps(const std::filesystem::path& thread) {
  std::ifstream file(thread / "stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t name_end = text.rfind(')');
  return name_end == std::string::npos || text.substr(name_end, 4).find('S') != std::string::npos;
}

class MpqemuTarget final : public Target {
 public:
  MpqemuTarget(std::unique_ptr<MpqemuClient> client, pid_t process)
      : client_(std::move(client)), threads_(fmt::format("/proc/{}/task", process)) {}
  ~MpqemuTarget() override {
    client_.reset();
    if (memory_ != nullptr) munmap(memory_, kMemorySize);
  }

  Result<void> Attach(Outputs& outputs) override {
    outputs_ = &outputs;
    const auto file = MakeMemfd("replay", kMemorySize);
    if (!file) return tl::unexpected(file.error());
    void* const mapped =
        mmap(nullptr, kMemorySize, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
    if (mapped == MAP_FAILED) return Fail("cannot map the guest's memory: {}", ErrnoText(errno));
    memory_ = static_cast<std::byte*>(mapped);
    for (DmaWindow window : kWindows) {
      window.fd = file->get();
      if (auto mapped_too = client_->DmaMap(window); !mapped_too) return mapped_too;
    }
    auto interrupt = MakeEventfd();
    if (!interrupt) return tl::unexpected(interrupt.error());
    interrupt_ = std::move(*interrupt);
    const int fds[] = {interrupt_.get()};
    const auto info = client_->GetIrqInfo(vfio_user::IrqIndex::kIntx);
    if (!info) return tl::unexpected(info.error());
    return info->count == 0 ? Result<void>() : client_->ArmIrqs(vfio_user::IrqIndex::kIntx, 0, fds);
  }

  void AdvanceClock(uint64_t) override {}

  Result<void> Deliver(const trace::Event& command, Reply* reply) override {
    if (command.command() == Command::kDeviceReset) {
      if (reply != nullptr) *reply = {};
      return client_->Reset();
    }
    if (command.command() == Command::kRegionRead) return Read(command, reply);
    if (command.command() == Command::kRegionWrite) {
      const auto access = command.fields<RegionAccess>();
      const ConstBytes data = command.data_after<RegionAccess>();
      const GuestAccess at{.region = access.region, .offset = access.offset};
      return access.region == kConfigRegion ? client_->RegionWrite(at, data)
                                            : client_->PostWrite(at, data);
    }
    if (reply != nullptr) *reply = {.error = ENOTSUP, .payload = {}};
    return {};
  }

  Result<bool> Wait(uint64_t timeout_ns) override {
    const auto ready = client_->WaitReadable(interrupt_.get(), timeout_ns);
    if (!ready) return tl::unexpected(ready.error());
    if (!*ready) return false;
    for (uint64_t n = DrainEventfd(interrupt_.get()); n != 0; --n) {
      outputs_->OnInterrupt(static_cast<uint32_t>(vfio_user::IrqIndex::kIntx), 0);
    }
    return true;
  }

  bool takes_time() const override { return true; }
  bool seems_idle() const override {
    std::error_code gone;
    return std::ranges::all_of(std::filesystem::directory_iterator(threads_, gone),
                               [](const auto& thread) { return Sleeps(thread.path()); });
  }
  void Step(uint64_t) override {}

  bool shares_memory() const override { return true; }
  void WriteMemory(uint64_t iova, ConstBytes data) override {
    if (std::byte* const at = Find(iova, data.size())) Copy(Bytes(at, data.size()), data);
  }
  void ReadMemory(uint64_t iova, Bytes out) const override {
    const std::byte* const at = Find(iova, out.size());
    if (at == nullptr) return Fill(out, 0);
    Copy(out, ConstBytes(at, out.size()));
  }

 private:
  std::byte* Find(uint64_t iova, uint64_t size) const {
    for (const DmaWindow& window : kWindows) {
      if (iova < window.iova || !InRange(iova - window.iova, size, window.size)) continue;
      return memory_ + window.offset + (iova - window.iova);
    }
    return nullptr;
  }

  // A conventional function ends at 256 bytes; vfio-user shows zeros behind them.
  Result<void> Read(const trace::Event& command, Reply* reply) {
    const auto access = command.fields<RegionAccess>();
    std::vector<std::byte> payload(sizeof access + access.count);
    Copy(payload, AsBytes(access));
    Bytes data = Bytes(payload).subspan(sizeof access);
    if (access.region == kConfigRegion) {
      const uint64_t end = std::max<uint64_t>(access.offset, mpqemu::kConfigSize);
      data = data.first(std::min<uint64_t>(data.size(), end - access.offset));
    }
    const auto read = client_->RegionRead({.region = access.region, .offset = access.offset}, data);
    if (!read) return read;
    if (reply != nullptr) *reply = {.error = 0, .payload = std::move(payload)};
    return {};
  }

  std::unique_ptr<MpqemuClient> client_;
  const std::filesystem::path threads_;
  Outputs* outputs_ = nullptr;
  UniqueFd interrupt_;
  std::byte* memory_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<Target>> MakeMpqemuTarget(UniqueFd socket, pid_t process) {
  mpqemu::ClientOptions options;
  options.settle_ns = scenario::kQemuSettleNs;
  options.place_bars = false;  // The recorded guest does.
  auto client = MpqemuClient::Attach(std::move(socket), options);
  if (!client) return tl::unexpected(client.error());
  return std::make_unique<MpqemuTarget>(std::move(*client), process);
}

}  // namespace farside::replay
