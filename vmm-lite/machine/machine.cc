#include "vmm-lite/machine/machine.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/check.h"
#include "vmm-lite/acpi/acpi.h"
#include "vmm-lite/machine/layout.h"

namespace farside::vmm {
namespace {

constexpr uint64_t kPortConfigSize = 8;

// Edge and level select of the PICs: storage for the guest; KVM takes its own from pins.
class StoredBytes final : public IoHandler {
 public:
  void Read(uint32_t, uint64_t offset, Bytes out) override {
    for (size_t i = 0; i < out.size(); ++i) out[i] = std::byte{bytes_[offset + i].load()};
  }
  void Write(uint32_t, uint64_t offset, ConstBytes in) override {
    for (size_t i = 0; i < in.size(); ++i) bytes_[offset + i] = static_cast<uint8_t>(in[i]);
  }

 private:
  std::array<std::atomic<uint8_t>, 2> bytes_{};
};

}  // namespace

Result<std::unique_ptr<Machine>> Machine::Create(const MachineConfig& config,
                                                 MachineEvents& events) {
  std::unique_ptr<Machine> machine(new Machine(config, events));
  if (auto built = machine->Build(); !built) return tl::unexpected(built.error());
  return machine;
}

Machine::~Machine() {
  Stop();
  for (const Placed& placed : devices_) placed.device->Detach();
}

Result<void> Machine::Build() {
  if (config_.cpus == 0 || config_.cpus > kMaxCpus) {
    return Fail("-smp {}: a machine has 1 to {} CPUs", config_.cpus, kMaxCpus);
  }
  auto ram = GuestRam::Create(config_.memory);
  if (!ram) return tl::unexpected(ram.error());
  ram_ = std::move(*ram);
  auto vm = Vm::Create();
  if (!vm) return tl::unexpected(vm.error());
  vm_ = std::move(*vm);
  for (const GuestRam::Block& block : ram_->blocks()) {
    const auto added = vm_->AddMemory(block.gpa, block.size, block.host, /*read_only=*/false);
    if (!added) return tl::unexpected(added.error());
  }
  if (config_.bios >= 0) {
    if (auto mapped = MapBios(); !mapped) return mapped;
  }
  for (uint32_t i = 0; i < config_.cpus; ++i) {
    auto cpu = Vcpu::Create(*vm_, i, config_.cpus);
    if (!cpu) return tl::unexpected(cpu.error());
    cpus_.push_back(std::move(*cpu));
  }
  Vcpu::InstallWake();
  BuildPorts();
  return {};
}

void Machine::BuildPorts() {
  const auto reset = [this] { events_.OnReset(); };
  intx_ = std::make_unique<IntxRouter>(*vm_);
  pci_.bus().Set(kHostBridgeSlot, std::make_shared<HostBridge>());
  pci_.bus().Set(kIsaBridgeSlot, std::make_shared<IsaBridge>(*intx_));
  uart_ = std::make_shared<Uart>(config_.serial_output,
                                 [this](bool level) { vm_->SetPin(kCom1Irq, level); });
  power_ = std::make_shared<PowerManagement>([this](bool level) { vm_->SetPin(kSciIrq, level); },
                                             [this] { events_.OnShutdown(); });
  const uint64_t low = ram_->low_end() - (config_.bios >= 0 ? kFirmwareTablesSize : 0);
  const uint64_t high = ram_->size() - ram_->low_end();
  bool added = ports_.Add(kCom1Port, Uart::kPorts, uart_);
  added &= ports_.Add(kI8042CommandPort, ResetController::kPorts,
                      std::make_shared<ResetController>(reset));
  added &=
      ports_.Add(kCmosIndexPort, Cmos::kPorts, std::make_shared<Cmos>(low, high, config_.cpus));
  added &= ports_.Add(kElcrPort, 2, std::make_shared<StoredBytes>());
  added &= ports_.Add(kPmBase, kPmSize, power_);
  added &= ports_.Add(kPciConfigAddressPort, kPortConfigSize, pci_.MakePorts(reset));
  added &= memory_.Add(kEcamBase, kEcamSize, pci_.MakeEcam());
  if (config_.bios >= 0) {
    fw_cfg_ = std::make_shared<FwCfg>(config_.cpus);
    added &= ports_.Add(kFwCfgPort, FwCfg::kPorts, fw_cfg_);
  }
  CHECK(added);
}

// At the end of 4 GiB, read-only.
Result<void> Machine::MapBios() {
  constexpr uint64_t kPage = 4096;
  constexpr uint64_t kMaxBios = 8 << 20;
  struct stat status {};
  if (fstat(config_.bios, &status) != 0) return FailWith(errno, "-bios: {}", ErrnoText(errno));
  const auto size = static_cast<uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || size < kPage || size > kMaxBios || size % kPage != 0) {
    return Fail("-bios: firmware is a file of 4 KiB to 8 MiB, in pages of 4 KiB; this is none");
  }
  auto file = MakeMemfd("bios", size);
  if (!file) return tl::unexpected(file.error());
  auto mapping = Mapping::Map(file->get(), 0, size, PROT_READ | PROT_WRITE);
  if (!mapping) return tl::unexpected(mapping.error());
  bios_ = std::move(*mapping);
  if (pread(config_.bios, bios_.data(), size, 0) != static_cast<ssize_t>(size)) {
    return Fail("-bios: the file can't be read");
  }
  const auto added = vm_->AddMemory(kBiosEnd - size, size, bios_.data(), /*read_only=*/true);
  if (!added) return tl::unexpected(added.error());
  return {};
}

// The last 128 KiB lie below 1 MiB too: there it runs.
Result<void> Machine::LoadBios() {
  const uint64_t shadow = std::min<uint64_t>(bios_.size(), 128 << 10);
  const ConstBytes end(bios_.data() + bios_.size() - shadow, shadow);
  if (auto written = ram_->Write(kLegacyEnd - shadow, end); !written) return written;
  if (auto described = fw_cfg_->Describe(*ram_, config_.cpus); !described) return described;
  return cpus_[0]->Enter({});
}

Result<void> Machine::AddRootPort(const std::string& id) {
  if (FindPort(id) != nullptr) return Fail("two devices have the id '{}'", id);
  const auto slot = pci_.bus().FindFree();
  if (!slot) return Fail("root port '{}': all slots of pci.0 are taken", id);
  auto port = std::make_shared<RootPort>(
      *vm_, id, static_cast<uint8_t>(*slot), [this](std::shared_ptr<PciFunction> function) {
        events_.OnUnplugged(std::static_pointer_cast<PciProxy>(std::move(function)));
      });
  pci_.bus().Set(*slot, port);
  root_ports_.push_back(std::move(port));
  return {};
}

RootPort* Machine::FindPort(const std::string& id) const {
  const auto found =
      std::ranges::find(root_ports_, id, [](const auto& port) { return port->id(); });
  return found == root_ports_.end() ? nullptr : found->get();
}

Result<void> Machine::AddDevice(const std::string& bus, ProxyConfig config, UniqueFd socket) {
  const bool known = std::ranges::any_of(
      devices_, [&](const Placed& placed) { return placed.device->id() == config.id; });
  if (known || FindPort(config.id) != nullptr) {
    return Fail("two devices have the id '{}'", config.id);
  }
  RootPort* const port = bus == "pci.0" ? nullptr : FindPort(bus);
  if (port == nullptr && bus != "pci.0") {
    return Fail("device '{}': there is no bus '{}'; there are pci.0 and the root ports' ids",
                config.id, bus);
  }
  if (port != nullptr && !port->empty()) return Fail("bus '{}' has a device already", bus);
  if (port == nullptr && loaded_) {
    return Fail(
        "device '{}': nothing can be plugged into pci.0 while the guest runs: start with "
        "-device pcie-root-port,id=rp0 and name bus=rp0",
        config.id);
  }
  uint32_t slot = 0;
  if (port == nullptr) {
    const auto free = pci_.bus().FindFree();
    if (!free) return Fail("device '{}': all slots of pci.0 are taken", config.id);
    slot = *free;
  } else {
    for (uint32_t i = 0; i < PciBus::kSlots; ++i) {
      if (pci_.bus().Get(i).get() == port) slot = i;
    }
  }
  config.pirq = PirqOf(slot, 0);  // Behind a root port, slot 0's pins are those of the port.
  const ProxyWiring wiring{
      .vm = *vm_,
      .ram = *ram_,
      .memory = memory_,
      .ports = ports_,
      .intx = *intx_,
      .on_dead = [this](const std::string& id, const Error& error) { events_.OnDead(id, error); }};
  auto device = PciProxy::Attach(wiring, std::move(config), std::move(socket));
  if (!device) return tl::unexpected(device.error());
  devices_.push_back({*device, port});
  if (port == nullptr) {
    pci_.bus().Set(slot, std::move(*device));
  } else {
    port->Plug(std::move(*device));
  }
  return {};
}

Result<void> Machine::AskToRemove(const std::string& id) {
  for (const Placed& placed : devices_) {
    if (placed.device->id() != id) continue;
    if (placed.port == nullptr) {
      return Fail("device '{}' is on pci.0, from which nothing can be unplugged", id);
    }
    placed.port->AskToRemove();
    return {};
  }
  return Fail("there is no device '{}'", id);
}

void Machine::PullOut(const std::string& id) {
  for (const Placed& placed : devices_) {
    if (placed.device->id() == id && placed.port != nullptr) return placed.port->PullOut();
  }
}

void Machine::Forget(PciProxy& device) {
  device.Detach();
  std::erase_if(devices_, [&](const Placed& placed) { return placed.device.get() == &device; });
}

std::vector<Machine::DeviceState> Machine::devices() const {
  std::vector<DeviceState> out;
  for (const Placed& placed : devices_) {
    out.push_back({placed.device->id(), placed.port == nullptr ? "pci.0" : placed.port->id(),
                   placed.device->dead()});
  }
  return out;
}

Result<void> Machine::Load() {
  if (config_.bios >= 0) return LoadBios();
  const auto rsdp = WriteAcpi(*ram_, {.cpus = config_.cpus});
  if (!rsdp) return tl::unexpected(rsdp.error());
  const auto entry = LoadKernel(*ram_, {.kernel = config_.kernel,
                                        .initrd = config_.initrd,
                                        .command_line = config_.command_line,
                                        .rsdp = *rsdp});
  if (!entry) return tl::unexpected(entry.error());
  return cpus_[0]->Enter(*entry);
}

Result<void> Machine::Start() {
  if (!loaded_) {
    if (auto loaded = Load(); !loaded) return loaded;
    loaded_ = true;
  }
  if (running()) return {};
  for (const auto& cpu : cpus_) cpu->Unkick();
  for (const auto& cpu : cpus_) threads_.emplace_back([this, &cpu] { RunCpu(*cpu); });
  return {};
}

void Machine::RunCpu(Vcpu& cpu) {
  auto stopped = cpu.Run(memory_, ports_);
  if (!stopped) return events_.OnFailure(std::move(stopped.error()));
  if (!*stopped) events_.OnReset();  // A triple fault resets a PC.
}

void Machine::Stop() {
  for (const auto& cpu : cpus_) cpu->Kick();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

Result<void> Machine::Reset() {
  Stop();
  pci_.bus().Reset();
  uart_->Reset();
  power_->Reset();
  for (const auto& cpu : cpus_) {
    if (auto reset = cpu->Reset(); !reset) return reset;
  }
  ram_->Discard();
  loaded_ = false;
  return {};
}

}  // namespace farside::vmm
