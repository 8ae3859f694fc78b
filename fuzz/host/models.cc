#include "fuzz/host/models.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/check.h"
#include "base/options.h"
#include "process/process_backends.h"

namespace farside::fuzz {

Result<block::BlockDevice*> ModelBackends::ClaimBlock(std::string_view name, std::string_view) {
  disks_.push_back(std::make_unique<Disk>(loop_, std::string(name), name.starts_with("ro")));
  return disks_.back().get();
}

Result<scsi::Bus*> ModelBackends::FindScsiBus(std::string_view) {
  CHECK(bus_ != nullptr);
  return bus_;
}

void ModelBackends::OfferScsiBus(std::string_view, scsi::Bus& bus) { bus_ = &bus; }

void ModelBackends::BeginDisks(bool deferred) {
  for (const auto& disk : disks_) disk->Begin(deferred);
}

void ModelBackends::SettleDisks() {
  for (const auto& disk : disks_) disk->Settle();
}

void ModelBackends::Act(const Event& event) {
  const auto action =
      static_cast<DiskAction>(event.what % static_cast<uint8_t>(DiskAction::kCount));
  disks_[event.what / 16 % disks_.size()]->Act(action, event.value);
}

uint64_t ModelBackends::requests() const {
  uint64_t sum = 0;
  for (const auto& disk : disks_) sum += disk->requests();
  return sum;
}

bool ModelBackends::in_flight() const {
  return std::ranges::any_of(disks_, [](const auto& disk) { return disk->in_flight() != 0; });
}

std::unique_ptr<Device> MakeModel(std::span<const std::string_view> options, DeviceEnv env,
                                  ModelBackends& backends) {
  std::unique_ptr<Device> device;
  for (const std::string_view text : options) {
    const nlohmann::json json = nlohmann::json::parse(text);
    OptionReader reader("device", json);
    const Model& model = **FindModel(DiskModels(), reader.RequiredString("driver"));
    if (device == nullptr) {
      auto made = model.create(env, reader, backends);
      CHECK(made.has_value());
      device = std::move(*made);
    } else {
      CHECK(model.attach(env.loop, reader, backends).has_value());
    }
  }
  return device;
}

}  // namespace farside::fuzz
