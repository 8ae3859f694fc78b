// Machine: a PC with everything in it, and the threads of its CPUs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vmm-lite/boot/boot.h"
#include "vmm-lite/kvm/vcpu.h"
#include "vmm-lite/kvm/vm.h"
#include "vmm-lite/machine/address_map.h"
#include "vmm-lite/machine/fw_cfg.h"
#include "vmm-lite/machine/guest_ram.h"
#include "vmm-lite/machine/legacy.h"
#include "vmm-lite/machine/uart.h"
#include "vmm-lite/pci/bridges.h"
#include "vmm-lite/pci/intx.h"
#include "vmm-lite/pci/pci_bus.h"
#include "vmm-lite/pci/pci_proxy.h"

namespace farside::vmm {

struct MachineConfig {
  uint64_t memory = 0;  // In bytes.
  uint32_t cpus = 1;    // 1 to 64.
  std::string command_line;
  int kernel = -1;  // Files, which outlive the machine. Either a kernel or firmware.
  int initrd = -1;
  int bios = -1;
  int serial_output = -1;
};

// What the machine says to its owner. Called by vCPU threads and the proxies' watchers, which then
// go on at once: the owner answers later, from its own thread.
class MachineEvents {
 public:
  virtual ~MachineEvents() = default;
  virtual void OnReset() = 0;               // The guest asks for one.
  virtual void OnShutdown() = 0;            // It has switched itself off.
  virtual void OnFailure(Error error) = 0;  // A CPU can't go on.
  virtual void OnDead(const std::string& id, const Error& error) = 0;
  // A device was let go by the guest, or was pulled out; it is still to be detached.
  virtual void OnUnplugged(std::shared_ptr<PciProxy> device) = 0;
};

// All functions are for the owner's thread.
class Machine {
 public:
  static constexpr uint32_t kMaxCpus = 64;

  // `events` outlives the machine.
  static Result<std::unique_ptr<Machine>> Create(const MachineConfig& config,
                                                 MachineEvents& events);
  ~Machine();

  Uart& uart() { return *uart_; }

  Result<void> AddRootPort(const std::string& id);
  // On `bus`: "pci.0", or a root port's id. `socket` is connected to the device's process. A
  // device can come to a root port at any time, to pci.0 only before the first Start.
  Result<void> AddDevice(const std::string& bus, ProxyConfig config, UniqueFd socket);
  // The guest is asked to let go; OnUnplugged comes when it has. Errors say why it can't be asked.
  Result<void> AskToRemove(const std::string& id);
  // A dead device leaves its slot, if it can.
  void PullOut(const std::string& id);
  // Of a device that OnUnplugged told about: detaches it.
  void Forget(PciProxy& device);
  struct DeviceState {
    std::string id;
    std::string bus;
    bool dead = false;
  };
  std::vector<DeviceState> devices() const;

  // Loads the kernel or firmware before the first time, and after a reset.
  Result<void> Start();
  void Stop();
  bool running() const { return !threads_.empty(); }
  // As the reset button does; then it is stopped.
  Result<void> Reset();
  void PressPowerButton() { power_->PressPowerButton(); }

 private:
  struct Placed {
    std::shared_ptr<PciProxy> device;
    RootPort* port = nullptr;  // Null: pci.0.
  };

  Machine(MachineConfig config, MachineEvents& events)
      : config_(std::move(config)), events_(events) {}
  Result<void> Build();
  void BuildPorts();
  Result<void> MapBios();
  Result<void> LoadBios();
  Result<void> Load();
  void RunCpu(Vcpu& cpu);
  RootPort* FindPort(const std::string& id) const;

  const MachineConfig config_;
  MachineEvents& events_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<Vm> vm_;  // Goes before the memory that it shows.
  AddressMap memory_;
  AddressMap ports_;
  std::unique_ptr<IntxRouter> intx_;
  PciHost pci_;
  std::shared_ptr<Uart> uart_;
  std::shared_ptr<PowerManagement> power_;
  Mapping bios_;
  std::shared_ptr<FwCfg> fw_cfg_;  // Where there is a bios_.
  std::vector<std::shared_ptr<RootPort>> root_ports_;
  std::vector<Placed> devices_;
  std::vector<std::unique_ptr<Vcpu>> cpus_;
  std::vector<std::thread> threads_;
  bool loaded_ = false;
};

}  // namespace farside::vmm
