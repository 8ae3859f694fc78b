#include "devices/server/device_tap.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "protocol/vfio_user_codec.h"
#include "protocol/vfio_user_extensions.h"

namespace farside {
namespace {

using trace::Direction;
using trace::Event;
using trace::EventKind;

int ErrnoOf(DmaStatus status) {
  switch (status) {
    case DmaStatus::kOk:
      return 0;
    case DmaStatus::kFault:
      return EFAULT;
    case DmaStatus::kCancelled:
      return ECANCELED;
  }
  return EIO;
}

}  // namespace

void TapFile::Record(Event event) {
  event.time_ns = elapsed_ns();
  if (status_) status_ = writer_->Write(event);
}

void TapFile::RecordInput(Event event) {
  const uint64_t steps = loop_.resumptions() - std::exchange(steps_, loop_.resumptions());
  if (steps != 0) {
    Event step{.kind = EventKind::kSteps, .device = event.device, .bytes = {}, .fds = {}};
    const ConstBytes bytes = AsBytes(steps);
    step.bytes.assign(bytes.begin(), bytes.end());
    Record(std::move(step));
  }
  Record(std::move(event));
}

Result<void> TapFile::Finish() {
  const auto finished = writer_->Finish();
  return status_ ? finished : status_;
}

// DMA as the device sees it: an event when it asks and one when it has its answer.
class DeviceTap::TappedDma final : public DmaSpace {
 public:
  TappedDma(DeviceTap& tap, DmaSpace& real) : tap_(tap), real_(real) {}

  Task<DmaStatus> Read(uint64_t iova, Bytes out) override {
    const vfio_user::DmaAccess access{.iova = iova, .count = out.size()};
    const auto command = tap_.Output(vfio_user::Command::kDmaRead, AsBytes(access), {});
    const DmaStatus status = co_await real_.Read(iova, out);
    tap_.OutputReply(command, status, AsBytes(access), out);
    co_return status;
  }

  Task<DmaStatus> Write(uint64_t iova, ConstBytes in) override {
    const vfio_user::DmaAccess access{.iova = iova, .count = in.size()};
    const auto command = tap_.Output(vfio_user::Command::kDmaWrite, AsBytes(access), in);
    const DmaStatus status = co_await real_.Write(iova, in);
    tap_.OutputReply(command, status, AsBytes(access), {});
    co_return status;
  }

  // A lease to read is recorded as the reads it stands for, with what was there when it began; one
  // to write as the writes, when they are done. Segment by segment, so that a refusal is that one's
  // which was refused: a lease to write is then a write without data.
  Task<DmaStatus> Map(std::span<const DmaSegment> segments, DmaAccess access,
                      DmaBuffer* buffer) override {
    auto lease = std::make_unique<TappedLease>(*this, access);
    std::vector<iovec> iovecs;
    for (const DmaSegment& segment : segments) {
      DmaBuffer inner;
      const DmaStatus status = co_await real_.Map(std::span(&segment, 1), access, &inner);
      if (status != DmaStatus::kOk || access == DmaAccess::kRead) {
        RecordSegment(segment, access, status, Gathered(inner));
      }
      if (status != DmaStatus::kOk) co_return status;
      iovecs.insert(iovecs.end(), inner.iovecs().begin(), inner.iovecs().end());
      lease->parts.push_back({segment, std::move(inner)});
    }
    *buffer = DmaBuffer(std::move(iovecs), std::move(lease));
    co_return DmaStatus::kOk;
  }

 private:
  struct TappedLease final : public DmaBuffer::Lease {
    struct Part {
      DmaSegment segment;
      DmaBuffer buffer;
    };

    TappedLease(TappedDma& its_dma, DmaAccess its_access) : dma(its_dma), access(its_access) {}

    Task<DmaStatus> WriteBack() override {
      for (Part& part : parts) {
        // A copy: Finish ends the buffer.
        const std::vector<std::byte> data =
            access == DmaAccess::kWrite ? Gathered(part.buffer) : std::vector<std::byte>();
        const DmaStatus status = co_await part.buffer.Finish();
        if (access == DmaAccess::kWrite) dma.RecordSegment(part.segment, access, status, data);
        if (status != DmaStatus::kOk) co_return status;
      }
      co_return DmaStatus::kOk;
    }
    bool revoked() const override { return false; }  // Finish of the inner buffers says it.

    TappedDma& dma;
    const DmaAccess access;
    std::vector<Part> parts;
  };

  static std::vector<std::byte> Gathered(const DmaBuffer& buffer) {
    std::vector<std::byte> all;
    for (const iovec& part : buffer.iovecs()) {
      const auto* bytes = static_cast<const std::byte*>(part.iov_base);
      all.insert(all.end(), bytes, bytes + part.iov_len);
    }
    return all;
  }

  // In pieces that fit into messages, up to one that is refused.
  void RecordSegment(const DmaSegment& segment, DmaAccess access, DmaStatus status,
                     ConstBytes data) {
    constexpr uint64_t kPiece = trace::kMaxTappedDma;
    const bool read = access == DmaAccess::kRead;
    for (uint64_t at = 0; at < segment.size; at += kPiece) {
      const uint64_t size = std::min(kPiece, segment.size - at);
      const vfio_user::DmaAccess piece{.iova = segment.iova + at, .count = size};
      const ConstBytes bytes = data.empty() ? data : data.subspan(at, size);
      const auto command =
          tap_.Output(read ? vfio_user::Command::kDmaRead : vfio_user::Command::kDmaWrite,
                      AsBytes(piece), read ? ConstBytes() : bytes);
      tap_.OutputReply(command, status, AsBytes(piece), read ? bytes : ConstBytes());
      if (status != DmaStatus::kOk) return;
    }
  }

  DeviceTap& tap_;
  DmaSpace& real_;
};

class DeviceTap::TappedIrq final : public IrqSink {
 public:
  TappedIrq(DeviceTap& tap, IrqSink& real) : tap_(tap), real_(real) {}

  void SetIntx(bool asserted) override {
    // The line's fall is nobody's interrupt: it follows from the accesses before.
    if (asserted) tap_.Interrupt(vfio_user::IrqIndex::kIntx, 0);
    real_.SetIntx(asserted);
  }
  void SignalMsi(uint32_t vector) override {
    tap_.Interrupt(vfio_user::IrqIndex::kMsi, vector);
    real_.SignalMsi(vector);
  }
  void SignalMsix(uint32_t vector) override {
    tap_.Interrupt(vfio_user::IrqIndex::kMsix, vector);
    real_.SignalMsix(vector);
  }
  bool owns_msix_table() const override { return real_.owns_msix_table(); }
  bool msix_pending(uint32_t vector) const override { return real_.msix_pending(vector); }
  void ClearPending() override { real_.ClearPending(); }

 private:
  DeviceTap& tap_;
  IrqSink& real_;
};

class DeviceTap::TappedDevice final : public Device {
 public:
  TappedDevice(DeviceTap& tap, std::unique_ptr<Device> real) : tap_(tap), real_(std::move(real)) {}

  const DeviceInfo& info() const override { return real_->info(); }

  void ReadRegion(Region region, uint64_t offset, Bytes out) override {
    const auto access = Access(region, offset, out.size());
    const auto command = tap_.Input(vfio_user::Command::kRegionRead, AsBytes(access), {});
    real_->ReadRegion(region, offset, out);
    tap_.InputReply(command, AsBytes(access), out);
  }

  void WriteRegion(Region region, uint64_t offset, ConstBytes in) override {
    const auto access = Access(region, offset, in.size());
    const auto command = tap_.Input(vfio_user::Command::kRegionWrite, AsBytes(access), in);
    real_->WriteRegion(region, offset, in);
    tap_.InputReply(command, AsBytes(access), {});
  }

  void Reset(ResetKind kind) override {
    if (kind == ResetKind::kFunction) tap_.Input(vfio_user::Command::kDeviceReset, {}, {});
    real_->Reset(kind);
  }

  void OnDmaChanged() override { real_->OnDmaChanged(); }
  std::optional<uint64_t> NextDeadline() const override { return real_->NextDeadline(); }
  void OnDeadline() override {
    tap_.Deadline();
    real_->OnDeadline();
  }
  Task<void> Drain() override { return real_->Drain(); }
  void Resume() override { real_->Resume(); }
  void Save(StateWriter& out) const override { real_->Save(out); }
  Result<void> Load(StateReader& in) override { return real_->Load(in); }
  void SaveFast(FastState& out) const override { real_->SaveFast(out); }
  void LoadFast(const FastState& in) override { real_->LoadFast(in); }
  std::span<const DoorbellRange> doorbells() const override { return real_->doorbells(); }

 private:
  static vfio_user::RegionAccess Access(Region region, uint64_t offset, size_t size) {
    return {.offset = offset,
            .region = static_cast<uint32_t>(region),
            .count = static_cast<uint32_t>(size)};
  }

  DeviceTap& tap_;
  std::unique_ptr<Device> real_;
};

DeviceTap::DeviceTap(TapFile& file, uint32_t index, DeviceEnv env)
    : file_(file),
      index_(index),
      env_(std::move(env)),
      dma_(std::make_unique<TappedDma>(*this, env_.dma)),
      irq_(std::make_unique<TappedIrq>(*this, env_.irq)) {}

DeviceTap::~DeviceTap() = default;

DeviceEnv DeviceTap::env() const {
  return {.id = env_.id, .loop = env_.loop, .clock = env_.clock, .dma = *dma_, .irq = *irq_};
}

std::unique_ptr<Device> DeviceTap::Wrap(std::unique_ptr<Device> device) {
  return std::make_unique<TappedDevice>(*this, std::move(device));
}

Event DeviceTap::MakeEvent(Direction direction, const vfio_user::Header& header, ConstBytes fields,
                           ConstBytes data) const {
  Event event{.direction = direction, .device = index_, .bytes = {}, .fds = {}};
  event.bytes.reserve(header.size);
  for (const ConstBytes part : {AsBytes(header), fields, data}) {
    event.bytes.insert(event.bytes.end(), part.begin(), part.end());
  }
  return event;
}

vfio_user::Header DeviceTap::Input(vfio_user::Command command, ConstBytes fields, ConstBytes data) {
  const auto header = vfio_user::CommandHeader(NextId(), command, fields.size() + data.size());
  file_.RecordInput(MakeEvent(Direction::kIn, header, fields, data));
  return header;
}

void DeviceTap::Deadline() {
  const vfio_user::ClockAdvance advance{.time_ns = file_.elapsed_ns()};
  Input(static_cast<vfio_user::Command>(vfio_user::ExtensionCommand::kClockAdvance),
        AsBytes(advance), {});
}

void DeviceTap::InputReply(const vfio_user::Header& command, ConstBytes fields, ConstBytes data) {
  const auto header = vfio_user::ReplyHeader(command, fields.size() + data.size());
  file_.Record(MakeEvent(Direction::kOut, header, fields, data));
}

vfio_user::Header DeviceTap::Output(vfio_user::Command command, ConstBytes fields,
                                    ConstBytes data) {
  const auto header = vfio_user::CommandHeader(NextId(), command, fields.size() + data.size());
  file_.Record(MakeEvent(Direction::kOut, header, fields, data));
  return header;
}

void DeviceTap::OutputReply(const vfio_user::Header& command, DmaStatus status, ConstBytes fields,
                            ConstBytes data) {
  if (status != DmaStatus::kOk) {
    return file_.Record(
        MakeEvent(Direction::kIn, vfio_user::ErrorHeader(command, ErrnoOf(status)), {}, {}));
  }
  const auto header = vfio_user::ReplyHeader(command, fields.size() + data.size());
  file_.Record(MakeEvent(Direction::kIn, header, fields, data));
}

void DeviceTap::Interrupt(vfio_user::IrqIndex index, uint32_t vector) {
  const vfio_user::Interrupt interrupt{.index = static_cast<uint32_t>(index), .vector = vector};
  const auto header = vfio_user::CommandHeader(
      NextId(), static_cast<vfio_user::Command>(vfio_user::ExtensionCommand::kInterrupt),
      sizeof interrupt, vfio_user::kFlagNoReply);
  file_.Record(MakeEvent(Direction::kOut, header, AsBytes(interrupt), {}));
}

}  // namespace farside
