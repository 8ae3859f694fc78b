#include <fmt/format.h>

#include <algorithm>

#include "fuzz/mutator/grammar.h"
#include "fuzz/mutator/mpqemu_grammar.h"

namespace farside::fuzz {
namespace {

struct Row {
  std::string_view name;
  const Grammar& (*grammar)();
};
constexpr Row kRows[] = {{"nvme", &NvmeGrammar},
                         {"lsi", &LsiGrammar},
                         {"record_nvme", &NvmeGrammar},
                         {"record_lsi", &LsiGrammar},
                         {"server", &ServerGrammar},
                         {"disk_proc", &ServerGrammar},
                         {"client", &ClientGrammar},
                         {"client_socket", &ClientGrammar},
                         {"mpqemu_server", &MpqemuServerGrammar},
                         {"mpqemu_client", &MpqemuClientGrammar},
                         {"mpqemu_client_socket", &MpqemuClientGrammar},
                         {"block", &BlockGrammar}};

}  // namespace

const Grammar* FindGrammar(std::string_view target) {
  const auto found = std::ranges::find(kRows, target, &Row::name);
  return found == std::end(kRows) ? nullptr : &found->grammar();
}

std::string GrammarNames() {
  std::string names;
  for (const Row& row : kRows) names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  return names;
}

}  // namespace farside::fuzz
