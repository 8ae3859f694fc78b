#include <algorithm>

#include "base/check.h"
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
    {"client_socket", "the same across a socket, with several CPUs and a clock",
     &MakeClientSocketTarget, &ClientGrammar},
    {"mpqemu_server", "the mpqemu server of an LSI53C895A, under a hostile proxy",
     &MakeMpqemuServerTarget, &MpqemuServerGrammar, true},
    {"mpqemu_client", "the mpqemu client, with a hostile remote", &MakeMpqemuClientTarget,
     &MpqemuClientGrammar},
    {"mpqemu_client_socket", "the same across a socket, with two CPUs and a clock",
     &MakeMpqemuClientSocketTarget, &MpqemuClientGrammar},
    {"block", "block nodes against a flat copy of what they hold", &MakeBlockTarget, &BlockGrammar},
    {.name = "state",
     .help = "saved states, loaded into each device model",
     .make = &MakeStateTarget,
     .facts = {&StateWords, &StateSeeds}},
    {.name = "command_line",
     .help = "the command line of a device process, an argument a line",
     .make = &MakeCommandLineTarget,
     .facts = {&CommandLineWords, &CommandLineSeeds}},
    {"disk_proc", "a whole disk-proc with an NVMe controller, across its socket",
     &MakeDiskProcTarget, &ServerGrammar},
};

// Rows stay where they are when others come: callers keep pointers to them.
constexpr size_t kMaxTargets = 64;

std::vector<TargetDef>& Rows() {
  static std::vector<TargetDef>& rows = *[] {
    auto* const made = new std::vector<TargetDef>;
    made->reserve(kMaxTargets);
    made->assign(std::begin(kTargets), std::end(kTargets));
    return made;
  }();
  return rows;
}

}  // namespace

std::span<const TargetDef> Targets() { return Rows(); }

void AddTargets(std::span<const TargetDef> rows) {
  CHECK(Rows().size() + rows.size() <= kMaxTargets);
  Rows().insert(Rows().end(), rows.begin(), rows.end());
}

const TargetDef* FindTarget(std::string_view name) {
  const auto found = std::ranges::find(Rows(), name, &TargetDef::name);
  return found == Rows().end() ? nullptr : &*found;
}

}  // namespace farside::fuzz
