// The registry: which device models there are. A model is added by one line in its class's list
// (devices/registry/disk_models.cc); command lines, conformance tests and fuzzers find it here.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/options.h"
#include "block/block_device.h"
#include "devices/core/device.h"

namespace farside {

namespace scsi {
class Bus;
}  // namespace scsi

// What a model may ask its process for while it is made.
class Backends {
 public:
  virtual ~Backends() = default;
  // The block node `name`, for `user` alone. Outlives the device.
  virtual Result<block::BlockDevice*> ClaimBlock(std::string_view name, std::string_view user) = 0;
  // A SCSI bus that a host adapter made before, as QEMU names them: "lsi0.0" is the first bus of
  // device lsi0. With an empty name the only one there is. Outlives the process's devices on it.
  virtual Result<scsi::Bus*> FindScsiBus(std::string_view name) = 0;
  // The bus of the adapter that is being made.
  virtual void OfferScsiBus(std::string_view name, scsi::Bus& bus) = 0;
};

struct PropertyHelp {
  std::string_view name;
  std::string_view help;
};

struct Model {
  std::string_view name;  // As in -device NAME.
  std::string_view help;
  std::span<const PropertyHelp> properties;
  // Reads the model's own properties, calls options.Finish() and makes the device.
  Result<std::unique_ptr<Device>> (*create)(DeviceEnv env, OptionReader& options,
                                            Backends& backends) = nullptr;
  // The same for what is no PCI function but a part of one, a disk on its bus: attaches it there.
  // A model has one or the other.
  Result<void> (*attach)(Loop& loop, OptionReader& options, Backends& backends) = nullptr;
};

// Models of a process class, by its name.
std::span<const Model* const> DiskModels();

}  // namespace farside
