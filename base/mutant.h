// MUTANT(id): a seeded bug, to show that a test would find one like it. Only builds with
// FARSIDE_MUTANTS have them, and there each sleeps until it is switched on.
#pragma once

#include <string_view>

namespace farside {

#ifdef FARSIDE_MUTANTS
// Whether `id` is the one that SetMutant or, before it is called, the environment variable
// FARSIDE_MUTANT names.
bool IsMutant(std::string_view id);
// Empty: the environment's again. Not while another thread runs a device.
void SetMutant(std::string_view id);
#define MUTANT(id) (::farside::IsMutant(id))
#else
#define MUTANT(id) false
#endif

}  // namespace farside
