// Grammars of the targets that speak mpqemu.
#pragma once

#include <memory>

#include "fuzz/mutator/grammar.h"

namespace farside::fuzz {

// QEMU's proxy with an LSI53C895A behind it.
const Grammar& MpqemuServerGrammar();
// A client with a hostile remote.
const Grammar& MpqemuClientGrammar();

}  // namespace farside::fuzz
