#include "process/process_backends.h"

#include <algorithm>

#include "base/options.h"

namespace farside {

Result<scsi::Bus*> ProcessBackends::FindScsiBus(std::string_view name) {
  if (scsi_buses_.empty()) {
    return Fail("there is no SCSI bus: give the -device of a SCSI host adapter first");
  }
  if (name.empty() && scsi_buses_.size() == 1) return scsi_buses_.begin()->second;
  const auto found = scsi_buses_.find(name);
  if (found != scsi_buses_.end()) return found->second;
  std::string names;
  for (const auto& [known, bus] : scsi_buses_) names += (names.empty() ? "" : ", ") + known;
  if (name.empty()) return Fail("say which SCSI bus it is on, bus=...: there are {}", names);
  return Fail("there is no SCSI bus {}; there are {}", Quote(name), names);
}

Result<const Model*> FindModel(std::span<const Model* const> models, std::string_view driver) {
  const auto model = std::ranges::find(models, driver, &Model::name);
  if (model != models.end()) return *model;
  return Fail("-device: there is no model {}; -device help lists them", Quote(driver));
}

}  // namespace farside
