// ProcessBackends: the back-ends of one process, as its models ask for them.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "block/graph.h"
#include "devices/registry/registry.h"

namespace farside {

class ProcessBackends final : public Backends {
 public:
  block::Graph& graph() { return graph_; }

  Result<block::BlockDevice*> ClaimBlock(std::string_view name, std::string_view user) override {
    return graph_.Claim(name, user);
  }
  Result<scsi::Bus*> FindScsiBus(std::string_view name) override;
  void OfferScsiBus(std::string_view name, scsi::Bus& bus) override {
    scsi_buses_.emplace(name, &bus);
  }

 private:
  block::Graph graph_;
  std::map<std::string, scsi::Bus*, std::less<>> scsi_buses_;
};

// The model `driver` of `models`; an error that says how to list them.
Result<const Model*> FindModel(std::span<const Model* const> models, std::string_view driver);

}  // namespace farside
