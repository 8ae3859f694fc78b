#include "fuzz/host/witness.h"

#include "base/check.h"
#include "fuzz/host/oracle.h"

namespace farside::fuzz {
namespace {

constexpr uint64_t kMemory = 0x10'0000;
constexpr uint64_t kMemorySize = 0x4'0000;
constexpr uint16_t kQueue = 1;
constexpr uint32_t kBlockSize = 512;

}  // namespace

Witness::Witness(Loop& loop)
    : loop_(loop),
      host_(loop, DmaMode::kByFd),
      backends_(loop),
      device_(MakeModel(
          kNvmeOptions,
          {.id = "witness", .loop = loop, .clock = loop.clock(), .dma = host_, .irq = irqs_},
          backends_)),
      driver_(*device_, host_, loop, kMemory, kMemorySize) {
  host_.AddMemory(kMemory, kMemorySize);
  driver_.Probe();
  CHECK(driver_.Enable());
  CHECK(driver_.CreateQueues(kQueue, 16, 0) == nvme::Status::kSuccess);
  buffer_ = driver_.Allocate(4096);
}

Witness::~Witness() {
  device_->Reset(ResetKind::kShutdown);
  loop_.RunUntilIdle();
}

void Witness::Check() {
  ++round_;
  const uint64_t block = round_ % (Disk::kSize / kBlockSize);
  const uint64_t stamp = Mix64(round_);
  host_.Poke<uint64_t>(buffer_, stamp);
  const auto run = [&](nvme::IoOpcode opcode) {
    return driver_.RunStatus(kQueue, nvme::IoCommand(opcode, block, 1, buffer_));
  };
  const nvme::Status wrote = run(nvme::IoOpcode::kWrite);
  host_.Poke<uint64_t>(buffer_, 0);
  const nvme::Status read = run(nvme::IoOpcode::kRead);
  if (wrote != nvme::Status::kSuccess || read != nvme::Status::kSuccess) {
    Violation("witness",
              "a device beside the attacked one answers a write with {:#x}, a read {:#x}",
              static_cast<uint16_t>(wrote), static_cast<uint16_t>(read));
  }
  if (host_.Peek<uint64_t>(buffer_) != stamp) {
    Violation("witness", "a device beside the attacked one reads other bytes than were written");
  }
  host_.ForgetAccesses();
  irqs_.Forget();
}

}  // namespace farside::fuzz
