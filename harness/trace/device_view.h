// DeviceView: a device as far as a trace shows it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "harness/trace/config_view.h"
#include "harness/trace/nvme_view.h"
#include "protocol/trace/event.h"

namespace farside::trace {

// Takes the events of one device in order and says what they mean. A device whose model is not said
// is taken for what its PCI class says.
class DeviceView {
 public:
  explicit DeviceView(std::string model) : model_(std::move(model)) {}

  // What an event brought to light.
  struct Seen {
    std::vector<NvmeSubmission> submissions;
    std::vector<NvmeCompletion> completions;
  };
  Seen Learn(const Event& event);

  bool is_nvme() const;
  bool is_lsi() const;
  const NvmeView& nvme() const { return nvme_; }

  // "BAR0 CC", "config Command", "BAR4+0x10".
  std::string PlaceName(uint32_t region, uint64_t offset) const;
  // The same for counting: places of which a device has too many to list are one.
  struct Group {
    uint64_t offset = 0;  // Of its first place.
    std::string name;     // "BAR2 SCRIPTS RAM"
  };
  Group PlaceGroup(uint32_t region, uint64_t offset) const;
  // " EN=1": the fields of a register, where they are known.
  std::string FieldsText(uint32_t region, uint64_t offset, ConstBytes data) const;
  // What lies at an address of the guest's memory: " SQ1[4]"; empty where that is not known.
  std::string MemoryName(uint64_t iova, uint64_t size) const;

 private:
  void LearnWrite(uint32_t region, uint64_t offset, ConstBytes data);

  const std::string model_;
  ConfigView config_;
  NvmeView nvme_;
};

// "BAR0", "config", "region 9".
std::string RegionText(uint32_t region);
// "MSI-X", "index 7".
std::string IrqText(uint32_t index);

}  // namespace farside::trace
