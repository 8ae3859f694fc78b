// NvmeDriver: a guest's NVMe driver, as small as scenarios, benches and fuzzers can do with.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "devices/nvme/commands.h"
#include "devices/nvme/registers.h"
#include "harness/drivers/nvme_queue.h"
#include "harness/host/guest_memory.h"
#include "harness/host/irq_collector.h"
#include "harness/host/pci_function.h"
#include "protocol/device_client.h"

namespace farside {

// How the driver learns of completions. With interrupts it waits for one before it looks.
enum class NvmeCompletion { kPoll, kMsix, kIntx };

struct NvmeOptions {
  uint32_t admin_entries = 32;
  NvmeCompletion completion = NvmeCompletion::kMsix;
  uint64_t timeout_ns = 10'000'000'000;  // For CSTS and for each command.
  uint32_t cpu = 0;
};

// What Identify says, as far as the driver needs it.
struct NvmeController {
  std::string serial;
  std::string model;
  std::string firmware;
  uint64_t max_transfer = 0;  // In bytes; 0: no limit.
  uint32_t namespaces = 0;
  uint16_t optional_commands = 0;  // ONCS.
  bool write_cache = false;
};
struct NvmeNamespace {
  uint64_t blocks = 0;
  uint32_t block_size = 0;  // In bytes.
};

// One controller with namespace 1. An Error says that the device, or this use of it, is wrong; what
// a command ended with is its Status. For one thread.
class NvmeDriver {
 public:
  static constexpr uint64_t kPageSize = GuestMemory::kPageSize;

  // Probes the function, places its BARs and enables it. `memory` is mapped to the device already;
  // all three outlive the driver.
  static Result<std::unique_ptr<NvmeDriver>> Probe(DeviceClient& client, GuestMemory& memory,
                                                   NvmeOptions options);

  PciFunction& function() { return function_; }
  const NvmeController& controller() const { return controller_; }
  const NvmeNamespace& name_space() const { return namespace_; }
  // The interrupts, if there are any.
  IrqCollector* irqs() { return irqs_.get(); }

  template <std::unsigned_integral T>
  Result<T> ReadRegister(nvme::Reg row) {
    return client_.Read<T>(Register(row));
  }
  template <std::unsigned_integral T>
  Result<void> WriteRegister(nvme::Reg row, T value) {
    return client_.Write<T>(Register(row), value);
  }

  // Resets the controller, gives it admin queues, waits for CSTS.RDY, identifies it and its
  // namespace. Queues from before are gone.
  Result<void> Enable();
  // CC.EN to 0; waits until RDY is gone.
  Result<void> Disable();
  // A normal shutdown notification; waits until it is complete.
  Result<void> Shutdown();

  // Asks for as many I/O queue pairs and creates 1 to `count`, of `entries` each. With interrupts,
  // queue q has vector q modulo the number of vectors.
  Result<void> CreateQueues(uint16_t count, uint32_t entries);
  Result<void> DeleteQueue(uint16_t id);
  // Queue pair `id`; 0 is the admin one. An Error where there is none.
  Result<NvmeQueue*> queue(uint16_t id);

  // Sends `sqe` as it is, but for its cid, and waits for what it ends with.
  Result<nvme::Cqe> Execute(uint16_t queue, const nvme::Sqe& sqe);
  // The two halves of it.
  Result<uint16_t> Submit(uint16_t queue, const nvme::Sqe& sqe);
  Result<nvme::Cqe> Wait(uint16_t queue, uint16_t cid);

  // Commands on namespace 1. Sizes are whole blocks, up to the controller's largest transfer and
  // 65536 blocks.
  Result<nvme::Status> Read(uint16_t queue, uint64_t block, Bytes out);
  Result<nvme::Status> Write(uint16_t queue, uint64_t block, ConstBytes in, bool fua = false);
  Result<nvme::Status> Compare(uint16_t queue, uint64_t block, ConstBytes expected);
  Result<nvme::Status> Flush(uint16_t queue);
  Result<nvme::Status> WriteZeroes(uint16_t queue, uint64_t block, uint32_t blocks,
                                   bool deallocate = false);
  // Dataset Management, deallocate: 1 to 256 ranges.
  Result<nvme::Status> Trim(uint16_t queue, std::span<const nvme::DsmRange> ranges);
  // 4096 bytes of Identify, or any admin command that returns data.
  Result<nvme::Status> Identify(nvme::Cns cns, uint32_t nsid, Bytes out);
  Result<nvme::Status> GetLog(nvme::LogId id, Bytes out);
  Result<nvme::Cqe> SetFeature(nvme::FeatureId id, uint32_t value);
  Result<nvme::Cqe> GetFeature(nvme::FeatureId id);

  // Points `sqe` at `size` bytes from `iova`, which lie in pages one behind the other, by PRPs. The
  // list they may take lives as long as the pages returned.
  Result<GuestPages> BuildPrps(uint64_t iova, uint64_t size, nvme::Sqe* sqe);

 private:
  NvmeDriver(DeviceClient& client, GuestMemory& memory, NvmeOptions options, PciFunction function)
      : client_(client), memory_(memory), options_(options), function_(std::move(function)) {}

  GuestAccess Register(nvme::Reg row) const {
    return {
        .region = nvme::kRegisterBar, .offset = nvme::kRegisters[row].offset, .cpu = options_.cpu};
  }
  Result<void> SetUpInterrupts();
  Result<void> WaitForStatus(uint32_t mask, uint32_t wanted);
  Result<void> IdentifyAll();
  // Moves `in` to the device, or `out` from it, with `sqe`; the other one is empty.
  Result<nvme::Status> Transfer(uint16_t queue, nvme::Sqe sqe, ConstBytes in, Bytes out);
  Result<nvme::Sqe> BlockCommand(nvme::IoOpcode opcode, uint64_t block, uint64_t size) const;
  Result<nvme::Status> RunStatus(uint16_t queue, const nvme::Sqe& sqe);
  Result<bool> WaitForWork(uint16_t queue, uint64_t timeout_ns);
  Result<void> ReapSharers(uint32_t vector);
  tl::unexpected<Error> NoCompletion(uint16_t queue, uint16_t cid);
  uint32_t VectorOf(uint16_t queue) const;

  DeviceClient& client_;
  GuestMemory& memory_;
  const NvmeOptions options_;
  PciFunction function_;
  std::unique_ptr<IrqCollector> irqs_;
  std::map<uint16_t, std::unique_ptr<NvmeQueue>> queues_;
  NvmeController controller_;
  NvmeNamespace namespace_;
};

}  // namespace farside
