// The LSI53C895A as the registry knows it.
#pragma once

#include "devices/registry/registry.h"

namespace farside::lsi53c895a {

extern const Model kModel;

}  // namespace farside::lsi53c895a
