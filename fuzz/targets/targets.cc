#include <algorithm>

#include "fuzz/mutator/mpqemu_grammar.h"
#include "fuzz/targets/mpqemu_client_target.h"
#include "fuzz/targets/mpqemu_server_target.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {
namespace {

constexpr TargetDef kTargets[] = {
    {"nvme", "the NVMe controller, over hostile memory", &MakeNvmeTarget, &NvmeGrammar, true},
    {"lsi", "the LSI53C895A with a disk and a CD drive, over hostile memory", &MakeLsiTarget,
     &LsiGrammar, true},
    {"server", "the vfio-user server of an NVMe controller, under a hostile client",
     &MakeServerTarget, &ServerGrammar, true},
    {"client", "the vfio-user client of a VMM, with a hostile device process", &MakeClientTarget,
     &ClientGrammar},
    {"mpqemu_server", "the mpqemu server of an LSI53C895A, under a hostile proxy",
     &MakeMpqemuServerTarget, &MpqemuServerGrammar, true},
    {"mpqemu_client", "the mpqemu client, with a hostile remote", &MakeMpqemuClientTarget,
     &MpqemuClientGrammar},
};

}  // namespace

std::span<const TargetDef> Targets() { return kTargets; }

const TargetDef* FindTarget(std::string_view name) {
  const auto found = std::ranges::find(kTargets, name, &TargetDef::name);
  return found == std::end(kTargets) ? nullptr : found;
}

}  // namespace farside::fuzz
