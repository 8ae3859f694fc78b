// The grammar of a vfio-user client, around that of the device behind the server.
#pragma once

#include <memory>

#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {

// `device` outlives it.
std::unique_ptr<Grammar> MakeServerGrammar(const Grammar& device);

}  // namespace farside::fuzz
