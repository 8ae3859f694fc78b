// Scenario: a file that says which processes to start, what guest they get, and what the guest
// does.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "harness/host/guest_memory.h"
#include "harness/scenario/remote_process.h"
#include "harness/scenario/value.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {

// Stands for the path of a socket in the arguments of a program.
inline constexpr std::string_view kSocketPlace = "%SOCKET%";

// What a device's channel speaks.
enum class Protocol { kVfioUser, kMpqemu };

// A process that is started in the scenario's own directory and ended with SIGTERM at its end; one
// that then does not exit with status 0 is a failure.
struct ProcessSpec {
  std::string id;
  std::string program = {};  // A path, or a name: looked for in --bin-dir, beside farside, in PATH.
  std::vector<std::string> args = {};
  uint64_t max_fds = 0;  // RLIMIT_NOFILE; 0: as it is.
  bool start = true;     // At the scenario's start; else by process.start.
  // It runs in farside's directory instead of the scenario's, and kSocketPlace in `args` is its
  // device's socket.
  bool in_place = false;
  // It is QEMU's own remote: a client must wait out its first reset.
  bool qemu_remote = false;
};

// A device that can be connected to.
struct DeviceSpec {
  std::string id;
  Protocol protocol = Protocol::kVfioUser;
  // Relative to the scenario's directory, or absolute. With mpqemu none: the process is started
  // with a socket, whose number takes the place of kFdPlace in its arguments.
  std::string socket;
  std::string process;  // Who serves it; empty: somebody else, who listens already.
  bool connect = true;  // At the scenario's start, and its memory is mapped; else by connect.
};

struct Scenario {
  std::string file;
  std::string name;
  std::string description;
  std::vector<ProcessSpec> processes;
  std::vector<DeviceSpec> devices;
  std::vector<MemoryRange> memory;
  std::vector<Reach> modes;
  std::string reason;            // Why one of the modes is left out.
  bool irqs_vary = false;        // Interrupts are not compared between the modes.
  uint64_t timeout_ms = 0;       // For each mode.
  uint64_t step_timeout_ms = 0;  // For each step that has none of its own.
  nlohmann::json steps;
};

// The parameters of the document itself.
std::span<const Param> ScenarioParams();

// Loads a .json or .jsonnet file and checks all of it. Errors name the file and the place in it:
// "nvme/flush.json: steps[3]: bar.read needs 'offset': ...".
Result<Scenario> LoadScenario(const std::string& path);
// The same for a document that is there already. `file` begins the errors.
Result<Scenario> ParseScenario(const std::string& file, const nlohmann::json& document);

// Steps nest no deeper than this.
inline constexpr size_t kMaxStepDepth = 8;

// One step: {"verb": {parameters}, "note": "why"}.
struct Step {
  const Verb* verb = nullptr;
  std::string_view note;
  const nlohmann::json* params = nullptr;  // In the document.
};
Result<Step> ReadStep(const nlohmann::json& given);

// What a verb takes: its own parameters, the common ones, and expect and capture if it gives
// something back.
std::vector<Param> AllParams(const Verb& verb);

// Checks one step and all in it, and adds what it captures to `captures`. Errors begin with `path`.
Result<void> CheckStep(const std::string& path, const nlohmann::json& given, size_t depth,
                       Captures* captures);

// "fd" and "message".
std::string_view ReachName(Reach reach);

}  // namespace farside::scenario
