#include "devices/nvme/model.h"

#include "devices/nvme/controller.h"

namespace farside::nvme {
namespace {

constexpr PropertyHelp kProperties[] = {
    {"drive", "the block node behind namespace 1 (required)"},
    {"serial", "serial number: 1 to 20 printable ASCII characters (required)"},
    {"max_ioqpairs", "I/O queue pairs (64)"},
    {"msix_qsize", "MSI-X vectors (65)"},
    {"mdts", "the largest transfer is 4 KiB << mdts (7)"},
    {"logical_block_size", "bytes of a logical block: 512, 1024, 2048 or 4096 (512)"},
    {"fetch_batch", "submission queue entries that one DMA fetches: 1 to 16 (16)"},
    {"ordered_completions",
     "post an I/O queue's completions in the order of submission, which makes traces alike, "
     "whatever the timing; off: as commands end (on)"},
};

Result<std::unique_ptr<Device>> Create(DeviceEnv env, OptionReader& options, Backends& backends) {
  const std::string user = options.owner();
  const std::string drive = options.RequiredString("drive");
  Options controller;
  controller.serial = options.RequiredString("serial");
  const auto number = [&](std::string_view key, uint32_t fallback) {
    return static_cast<uint32_t>(options.Number(key, fallback, 0, UINT32_MAX));
  };
  controller.max_ioqpairs = number("max_ioqpairs", controller.max_ioqpairs);
  controller.msix_qsize = number("msix_qsize", controller.msix_qsize);
  controller.mdts = number("mdts", controller.mdts);
  controller.logical_block_size = number("logical_block_size", controller.logical_block_size);
  controller.fetch_batch = number("fetch_batch", controller.fetch_batch);
  controller.ordered_completions =
      options.Bool("ordered_completions", controller.ordered_completions);
  if (const auto finished = options.Finish(); !finished) return tl::unexpected(finished.error());
  const auto node = backends.ClaimBlock(drive, user);
  if (!node) return tl::unexpected(node.error());
  controller.drive = *node;
  auto made = nvme::Controller::Create(std::move(env), controller);
  if (!made) return Fail("{}: {}", user, made.error().message);
  return std::move(*made);
}

}  // namespace

const Model kModel = {
    .name = kModelName,
    .help = "NVMe 1.4 controller with one namespace",
    .properties = kProperties,
    .create = Create,
};

}  // namespace farside::nvme
