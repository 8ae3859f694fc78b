#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/epoll_loop.h"
#include "devices/core/deadline.h"
#include "devices/core/drain.h"
#include "devices/registry/registry.h"
#include "harness/replay/target.h"
#include "process/command_line.h"
#include "process/process_backends.h"

namespace farside::replay {
namespace {

using vfio_user::Command;

constexpr int kIoWaitMs = 20;

// The device's memory and interrupts are the replay's outputs; everything completes at once.
class OutputEnvironment final : public DmaSpace, public IrqSink {
 public:
  void set_outputs(Outputs& outputs) { outputs_ = &outputs; }
  uint64_t output_count() const { return output_count_; }

  Task<DmaStatus> Read(uint64_t iova, Bytes out) override {
    ++output_count_;
    co_return outputs_->OnDmaRead(iova, out) == 0 ? DmaStatus::kOk : DmaStatus::kFault;
  }

  Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override {
    ++output_count_;
    co_return outputs_->OnDmaWrite(iova, in) == 0 ? DmaStatus::kOk : DmaStatus::kFault;
  }

  Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                      DmaBuffer* buffer) override {
    for (const DmaSegment& segment : segments) {
      if (access != DmaAccess::kWrite || !outputs_->RefuseLease(segment.iova, segment.size))
        continue;
      ++output_count_;
      co_return DmaStatus::kFault;
    }
    auto lease = std::make_unique<Lease>(*this, segments, access);
    if (access == DmaAccess::kRead) {
      for (Lease::Part& part : lease->parts) {
        const DmaStatus status = co_await Read(part.iova, part.bytes);
        if (status != DmaStatus::kOk) co_return status;
      }
    }
    std::vector<iovec> iovecs;
    for (Lease::Part& part : lease->parts) iovecs.push_back({part.bytes.data(), part.bytes.size()});
    *buffer = DmaBuffer(std::move(iovecs), std::move(lease));
    co_return DmaStatus::kOk;
  }

  void SetIntx(bool asserted) override {
    if (asserted) Interrupt(vfio_user::IrqIndex::kIntx, 0);
  }
  void SignalMsi(uint32_t vector) override { Interrupt(vfio_user::IrqIndex::kMsi, vector); }
  void SignalMsix(uint32_t vector) override { Interrupt(vfio_user::IrqIndex::kMsix, vector); }
  bool owns_msix_table() const override { return true; }
  bool msix_pending(uint32_t) const override { return false; }
  void ClearPending() override {}

 private:
  struct Lease final : public DmaBuffer::Lease {
    // In pieces as a recording has them.
    static constexpr uint64_t kPiece = trace::kMaxTappedDma;
    struct Part {
      uint64_t iova;
      std::vector<std::byte> bytes;
    };

    Lease(OutputEnvironment& its_environment, std::span<const DmaSegment> segments,
          DmaAccess its_access)
        : environment(its_environment), access(its_access) {
      for (const DmaSegment& segment : segments) {
        for (uint64_t at = 0; at < segment.size; at += kPiece) {
          const uint64_t size = std::min(kPiece, segment.size - at);
          parts.push_back({segment.iova + at, std::vector<std::byte>(size)});
        }
      }
    }

    Task<DmaStatus> WriteBack() override {
      for (const Part& part : parts) {
        if (access == DmaAccess::kRead) break;
        const DmaStatus status = co_await environment.Write(part.iova, part.bytes);
        if (status != DmaStatus::kOk) co_return status;
      }
      co_return DmaStatus::kOk;
    }
    bool revoked() const override { return false; }

    OutputEnvironment& environment;
    DmaAccess access;
    std::vector<Part> parts;
  };

  void Interrupt(vfio_user::IrqIndex index, uint32_t vector) {
    ++output_count_;
    outputs_->OnInterrupt(static_cast<uint32_t>(index), vector);
  }

  Outputs* outputs_ = nullptr;
  uint64_t output_count_ = 0;
};

class InProcessTarget final : public Target {
 public:
  explicit InProcessTarget(std::unique_ptr<ManualClock> clock, std::unique_ptr<EpollLoop> loop)
      : clock_(std::move(clock)), loop_(std::move(loop)) {}

  ~InProcessTarget() override {
    if (!device_) return;
    device_->Reset(ResetKind::kShutdown);
    bool drained = false;
    scope_.Spawn(Drain(*device_, &drained));
    while (!drained) loop_->RunOnce(kIoWaitMs);
    loop_->RunUntilIdle();
  }

  Result<void> Build(const trace::TraceInfo& info) {
    std::vector<const char*> argv{"replay"};
    // A wire tap notes the server's program, too.
    const size_t skip = info.tap == trace::TraceInfo::Tap::kWire && !info.args.empty() ? 1 : 0;
    for (size_t i = skip; i < info.args.size(); ++i) argv.push_back(info.args[i].c_str());
    const auto line = ParseCommandLine(static_cast<int>(argv.size()), argv.data());
    if (!line) return tl::unexpected(line.error());
    for (const auto& options : line->blockdevs) {
      if (auto added = backends_.graph().Add(options, *loop_); !added) return added;
    }
    for (const auto& options : line->devices) {
      if (auto made = MakeDevice(options); !made) return made;
    }
    if (!device_) return Fail("the trace names no device");
    return {};
  }

  Result<void> Attach(Outputs& outputs) override {
    environment_.set_outputs(outputs);
    return {};
  }

  void AdvanceClock(uint64_t time_ns) override { clock_->AdvanceTo(time_ns); }

  void OnDeadline() override {
    steps_at_delivery_ = loop_->resumptions();
    CheckDeadline(*device_, *clock_);
  }

  Result<void> Deliver(const trace::Event& command, Reply* reply) override {
    steps_at_delivery_ = loop_->resumptions();
    const auto access = command.fields<vfio_user::RegionAccess>();
    const bool fits =
        access.region < kRegionCount &&
        InRange(access.offset, access.count, device_->info().regions[access.region].size);
    if (command.command() == Command::kRegionRead) {
      reply_.payload.resize(sizeof access + access.count);
      Copy(reply_.payload, AsBytes(access));
      const Bytes data = Bytes(reply_.payload).subspan(sizeof access);
      Fill(data, 0xff);
      if (fits) device_->ReadRegion(Region{access.region}, access.offset, data);
      if (reply != nullptr) *reply = reply_;
    } else if (command.command() == Command::kRegionWrite) {
      const ConstBytes data = command.data_after<vfio_user::RegionAccess>();
      if (fits && data.size() == access.count) {
        device_->WriteRegion(Region{access.region}, access.offset, data);
      }
    } else if (command.command() == Command::kDeviceReset) {
      device_->Reset(ResetKind::kFunction);
      scope_.Spawn(DrainAndResume(*device_));
    }
    return {};
  }

  Result<bool> Wait(uint64_t) override {
    const uint64_t before = environment_.output_count();
    while (environment_.output_count() == before) {
      const uint64_t steps = loop_->resumptions();
      loop_->RunReady(1);
      if (loop_->resumptions() != steps) continue;
      if (backends_.graph().in_flight() == 0) return false;
      loop_->RunOnce(kIoWaitMs);
    }
    return true;
  }

  bool takes_time() const override { return false; }

  void Step(uint64_t count) override {
    const uint64_t end = steps_at_delivery_ + count;
    while (loop_->resumptions() < end) {
      const uint64_t steps = loop_->resumptions();
      loop_->RunReady(end - steps);
      // What is missing comes from the kernel, if there is I/O on its way.
      if (loop_->resumptions() != steps) continue;
      if (backends_.graph().in_flight() == 0) return;
      loop_->RunOnce(kIoWaitMs);
    }
  }

 private:
  Result<void> MakeDevice(const nlohmann::json& options) {
    OptionReader reader("device", options);
    const std::string driver = reader.RequiredString("driver");
    const std::string id = reader.String("id", driver);
    const auto model = FindModel(DiskModels(), driver);
    if (!model) return tl::unexpected(model.error());
    if ((*model)->attach != nullptr) return (*model)->attach(*loop_, reader, backends_);
    if (device_) {
      return Fail(
          "the trace is of several devices: in process one can be replayed; use --level "
          "memory");
    }
    auto device = (*model)->create(
        {.id = id, .loop = *loop_, .clock = *clock_, .dma = environment_, .irq = environment_},
        reader, backends_);
    if (!device) return tl::unexpected(device.error());
    device_ = std::move(*device);
    return {};
  }

  static Task<void> Drain(Device& device, bool* drained) {
    co_await device.Drain();
    *drained = true;
  }

  std::unique_ptr<ManualClock> clock_;
  std::unique_ptr<EpollLoop> loop_;
  TaskScope scope_;
  uint64_t steps_at_delivery_ = 0;
  ProcessBackends backends_;
  OutputEnvironment environment_;
  std::unique_ptr<Device> device_;
  Reply reply_;
};

}  // namespace

Result<std::unique_ptr<Target>> MakeTargetInProcess(const trace::TraceInfo& info) {
  auto clock = std::make_unique<ManualClock>();
  auto loop = EpollLoop::Create(*clock);
  if (!loop) return tl::unexpected(loop.error());
  auto target = std::make_unique<InProcessTarget>(std::move(clock), std::move(*loop));
  if (auto built = target->Build(info); !built) return tl::unexpected(built.error());
  return target;
}

}  // namespace farside::replay
