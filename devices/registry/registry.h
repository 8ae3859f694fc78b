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

// What a model may ask its process for while it is made.
class Backends {
 public:
  virtual ~Backends() = default;
  // The block node `name`, for `user` alone. Outlives the device.
  virtual Result<block::BlockDevice*> ClaimBlock(std::string_view name, std::string_view user) = 0;
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
                                            Backends& backends);
};

// Models of a process class, by its name.
std::span<const Model* const> DiskModels();

}  // namespace farside
