// WireScenario: a session of a server's target as what goes over its socket, byte for byte: so all
// that a fuzzer breaks below the level of verbs is in it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "fuzz/session/event.h"

namespace farside::fuzz {

// What a disk-proc is started with for the device that targets have, `id`, and its disks; its
// server is to be added.
nlohmann::json DeviceArgs(bool lsi, const std::string& id);

// `target` is server or mpqemu_server. A document for `farside run`: its steps send what the client
// sent, and expect messages where some came.
nlohmann::json WireScenario(std::string_view target, const std::string& name,
                            const Session& session);

}  // namespace farside::fuzz
