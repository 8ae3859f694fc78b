#include "devices/lsi53c895a/model.h"

#include "devices/lsi53c895a/chip.h"

namespace farside::lsi53c895a {
namespace {

constexpr PropertyHelp kProperties[] = {
    {"quantum", "instructions that a script executes before something else has its turn (4096)"},
};

Result<std::unique_ptr<Device>> Create(DeviceEnv env, OptionReader& options, Backends& backends) {
  const Options chip_options{
      .quantum = static_cast<uint32_t>(options.Number("quantum", kQuantum, 1, kQuantum))};
  if (const auto finished = options.Finish(); !finished) return tl::unexpected(finished.error());
  const std::string bus_name = env.id + ".0";
  auto chip = std::make_unique<Chip>(std::move(env), chip_options);
  backends.OfferScsiBus(bus_name, chip->bus());
  return chip;
}

}  // namespace

const Model kModel = {
    .name = kModelName,
    .help = "LSI53C895A SCSI host adapter; its disks are attached to bus ID.0",
    .properties = kProperties,
    .create = Create,
};

}  // namespace farside::lsi53c895a
