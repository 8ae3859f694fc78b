// PciProxy: a device of another process in a slot of this machine (D4). One class for all of them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "protocol/device_client.h"
#include "vmm-lite/kvm/vm.h"
#include "vmm-lite/machine/address_map.h"
#include "vmm-lite/machine/guest_ram.h"
#include "vmm-lite/pci/intx.h"
#include "vmm-lite/pci/pci_function.h"
#include "vmm-lite/pci/proxy_irqs.h"

namespace farside::vmm {

enum class ProxyProtocol { kVfioUser, kMpqemu };

struct ProxyConfig {
  std::string id;
  ProxyProtocol protocol = ProxyProtocol::kVfioUser;
  // Writes do not wait for the device. Devices with regions that can be mapped get none of them: a
  // mapped write could overtake one.
  bool posted = true;
  uint64_t timeout_ms = 5000;  // For each request, after which the device is dead.
  uint32_t pirq = 0;           // Of its INTA.
  // The device's name in its process, where it must have one (D4).
  std::string expect_id = {};
};

// What a proxy is wired to. All of it outlives the proxy.
struct ProxyWiring {
  Vm& vm;
  GuestRam& ram;
  AddressMap& memory;
  AddressMap& ports;
  IntxRouter& intx;
  // Called once, by any thread, when the device is gone: not from here may it be detached.
  std::function<void(const std::string& id, const Error&)> on_dead;
};

// Nothing that the device says is believed unchecked: it is the attacker. A dead one reads as ones
// and takes no writes; no vCPU waits longer than the time-out.
class PciProxy final : public PciFunction, public std::enable_shared_from_this<PciProxy> {
 public:
  // `socket` is connected to the device process. The guest's memory is given to it.
  static Result<std::shared_ptr<PciProxy>> Attach(const ProxyWiring& wiring, ProxyConfig config,
                                                  UniqueFd socket);
  ~PciProxy() override;

  // Takes the device out of the machine. Called before the last reference goes, from a thread that
  // serves no access.
  void Detach();

  const std::string& id() const { return config_.id; }
  bool dead() const { return dead_; }

  void ReadConfig(uint32_t cpu, uint32_t offset, Bytes out) override;
  void WriteConfig(uint32_t cpu, uint32_t offset, ConstBytes in) override;
  void Reset() override;

 private:
  static constexpr uint32_t kBars = 6;
  // DMA by message, as far as the guest has switched bus mastering on.
  class BusMaster;
  class BarHandler;

  // Memory of the device that the guest reaches without an exit.
  struct Mapped {
    vfio_user::MmapArea area;
    Mapping mapping;
    std::optional<uint32_t> slot;
  };
  struct Doorbell {
    Vm::IoEvent event;  // Its address counts from the BAR.
    UniqueFd fd;
    bool assigned = false;
  };
  struct Bar {
    uint64_t size = 0;  // In bytes, a power of two; 0: none.
    bool port = false;
    bool wide = false;     // 64 bits: the next BAR has the upper half.
    uint32_t flags = 0;    // The low bits of the register.
    uint64_t value = 0;    // As the guest wrote it, without the flags.
    uint64_t address = 0;  // Where it is mapped; 0: nowhere.
    std::vector<Mapped> mapped;
    std::vector<Doorbell> doorbells;
  };

  PciProxy(const ProxyWiring& wiring, ProxyConfig config);
  Result<void> Connect(UniqueFd socket);
  Result<void> Probe();
  Result<void> ProbeBar(uint32_t index, ConstBytes header);
  Result<void> ProbeMemory(const ClientRegion& region, Bar* bar) const;
  Result<void> ProbeDoorbells(uint32_t index, Bar* bar) const;
  Result<void> ProbeCapabilities(ConstBytes config);
  Result<void> ProbeMsix(uint32_t offset, ConstBytes config);
  Result<void> MapRam();
  void Watch();

  // After a write of the guest's: with config_mutex_ held.
  void OnConfigWritten(uint32_t cpu, uint32_t offset, ConstBytes in);
  void WriteBarRegister(uint32_t index, uint32_t value);
  uint32_t BarRegister(uint32_t index) const;
  void PlaceBars();
  void MapBar(uint32_t index, uint64_t address);
  void UnmapBar(uint32_t index);
  void UpdateMsi(uint32_t cpu);

  void ReadBar(uint32_t cpu, uint32_t bar, uint64_t offset, Bytes out);
  void WriteBar(uint32_t cpu, uint32_t bar, uint64_t offset, ConstBytes in);
  // Remembers that the client has ended, if it has.
  void Check(const Result<void>& result);
  void Die(const Error& error);

  const ProxyWiring wiring_;
  ProxyConfig config_;
  std::unique_ptr<BusMaster> bus_master_;
  UniqueFd hangup_;  // A duplicate of the socket: its end is seen while nobody waits for a reply.
  std::unique_ptr<DeviceClient> client_;
  std::unique_ptr<ProxyIrqs> irqs_;
  bool can_reset_ = false;
  uint32_t config_size_ = 0;
  uint32_t msi_ = 0;  // Offsets of capabilities; 0: none.
  uint32_t msix_ = 0;

  std::mutex config_mutex_;  // Of the guest's view of configuration space.
  uint16_t command_ = 0;
  std::array<Bar, kBars> bars_;

  std::atomic<bool> dead_ = false;
  UniqueFd stop_;
  std::thread watcher_;
};

}  // namespace farside::vmm
