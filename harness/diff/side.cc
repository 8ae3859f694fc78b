#include "harness/diff/side.h"

#include <algorithm>
#include <utility>

#include "devices/core/pci_registers.h"
#include "harness/host/pci_function.h"

namespace farside::diff {

using vfio_user::IrqIndex;

Result<std::unique_ptr<Side>> Side::Create(std::string name, Target& target,
                                           std::span<const MemoryRange> ranges) {
  std::unique_ptr<Side> side(new Side(std::move(name), target));
  auto memory = GuestMemory::Create(ranges, Reach::kFd);
  if (!memory) return tl::unexpected(memory.error());
  side->memory_ = std::move(*memory);
  return side;
}

Result<void> Side::Start() {
  // Of before; they hold on to their client.
  intx_.reset();
  msix_.reset();
  connection_.reset();
  auto connection = target_.Start(memory_.get());
  if (!connection) return tl::unexpected(connection.error());
  connection_ = std::move(*connection);
  DeviceClient& client = connection_->client();
  if (auto mapped = memory_->MapTo(client); !mapped) return mapped;
  auto intx = IrqCollector::Arm(client, IrqIndex::kIntx, 1);
  if (!intx) return tl::unexpected(intx.error());
  intx_ = std::move(*intx);
  intx_signalled_ = false;
  const auto msix = client.GetIrqInfo(IrqIndex::kMsix);
  vectors_ = msix ? std::min(msix->count, kMaxVectors) : 0;
  return SetUpFunction();
}

Result<void> Side::WatchVectors(uint32_t count) {
  auto msix = IrqCollector::Arm(connection_->client(), IrqIndex::kMsix, count);
  if (!msix) return tl::unexpected(msix.error());
  msix_ = std::move(*msix);
  return {};
}

Result<void> Side::SetUpFunction() {
  auto function = PciFunction::Probe(connection_->client());
  if (!function) return tl::unexpected(function.error());
  config_size_ = std::min(function->config_size(), target_.config_size());
  for (const uint32_t offset : {pci::kCacheLineSize, pci::kLatencyTimer, pci::kInterruptLine}) {
    if (auto wrote = function->WriteConfig<uint8_t>(offset, 0); !wrote) return wrote;
  }
  if (auto wrote = function->WriteConfig<uint16_t>(pci::kCommand, 0); !wrote) return wrote;
  if (auto placed = function->PlaceBars(); !placed) return placed;
  return function->Enable();
}

std::string Side::TakeEnding() {
  intx_.reset();
  msix_.reset();
  std::string text = connection_ ? connection_->Ending() : "was not started";
  connection_.reset();
  return text;
}

Result<void> Side::Finish() {
  intx_.reset();
  msix_.reset();
  const auto connection = std::move(connection_);
  return connection ? connection->Finish() : Result<void>();
}

// A refusal is the device's answer; only its end is an Error.
Result<void> Side::Refused(Result<void> result) const {
  return result || alive() ? Result<void>() : result;
}

Result<Side::Reading> Side::BeginRead(const Event& read) {
  Reading reading;
  reading.value = std::make_unique<uint64_t>(0);
  const auto begun =
      connection_->client().BeginRead({.region = read.region, .offset = read.offset},
                                      AsWritableBytes(*reading.value).first(read.size));
  if (begun) {
    reading.ticket = *begun;
  } else if (alive()) {
    reading.refused = true;
  } else {
    return tl::unexpected(begun.error());
  }
  return reading;
}

Result<std::optional<uint64_t>> Side::FinishRead(Reading& reading) {
  if (reading.refused) return std::nullopt;
  const auto finished = connection_->client().FinishRead(reading.ticket);
  if (finished) return *reading.value;
  if (alive()) return std::nullopt;
  return tl::unexpected(finished.error());
}

Result<void> Side::Write(const Event& write) {
  return Refused(connection_->client().PostWrite({.region = write.region, .offset = write.offset},
                                                 AsBytes(write.value).first(write.size)));
}

Result<void> Side::Reset() {
  if (auto reset = Refused(connection_->client().Reset()); !reset) return reset;
  return SetUpFunction();
}

bool Side::IntxSignalled() {
  if (intx_->Take(0) != 0) intx_signalled_ = true;
  return intx_signalled_;
}

Result<void> Side::UnmaskIntx() {
  intx_signalled_ = false;
  return Refused(intx_->UnmaskIntx());
}

}  // namespace farside::diff
