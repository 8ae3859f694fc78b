// The command line of vmm-lite: QEMU's names where QEMU has the option.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/options.h"

namespace farside::vmm {

enum class Protocol { kVfioUser, kMpqemu };
inline constexpr OptionWord<Protocol> kProtocols[] = {{"vfio-user", Protocol::kVfioUser},
                                                      {"mpqemu", Protocol::kMpqemu}};
std::string_view ProtocolName(Protocol protocol);

// The bus that is always there; QEMU's name for it, pcie.0, is taken for it.
inline constexpr std::string_view kRootBus = "pci.0";

struct DeviceOptions {
  bool root_port = false;  // Or else a proxy of a remote device.
  std::string id;
  std::string bus{kRootBus};
  Protocol protocol = Protocol::kVfioUser;
  bool posted = true;  // Posts writes where the device agrees.
  uint64_t timeout_ms = 5000;
  std::string expect_id;  // What the remote device must call itself; empty: anything.

  // Where the channel comes from: one of these.
  std::string socket_path;  // Connected to.
  int socket_fd = -1;       // Inherited.
  std::string process;      // The id of a process that serves it, there called `rid`.
  std::string rid;
};

struct ProcessOptions {
  std::string id;
  std::string exec;  // A path, or a name that is looked for beside vmm-lite and in PATH.
  std::vector<std::string> args;
};

struct SerialOptions {
  enum class Kind { kNone, kStdio, kFile, kConnect, kListen };
  Kind kind = Kind::kStdio;
  std::string path;
};

struct ControlOptions {
  std::string kernel, initrd, bios;  // Paths; empty: none.
  std::string append;
  uint64_t memory = 128 << 20;
  uint64_t cpus = 1;
  std::vector<DeviceOptions> devices;
  std::vector<ProcessOptions> processes;
  std::string qmp_path;      // Empty: no QMP.
  std::string control_path;  // Empty: no other control process can take over.
  std::string attach_path;   // Not empty: take over a running machine.
  SerialOptions serial;
  bool reboot = true;
  bool help = false;
  bool version = false;
};

// Reads argv. Errors are a sentence that names the option and the remedy.
Result<ControlOptions> ParseControlOptions(int argc, const char* const* argv);
std::string ControlHelp();

// What -device and QMP's device_add have in common; `owner` begins the error. An id may be missing.
Result<DeviceOptions> ParseDevice(std::string_view owner, const nlohmann::json& options);

// The arguments of the CPU process's device_add (cpu_channel.h).
nlohmann::json DeviceJson(const DeviceOptions& device);

// Whether `text` may name a device or a process: QEMU's rule.
bool IsId(std::string_view text);

// What -process and QMP's add-process have in common: "id", "exec" and "args", which is a text,
// split at blanks that no quotes enclose, or a list of texts. Finishes `reader`.
Result<ProcessOptions> ParseProcess(OptionReader& reader);

}  // namespace farside::vmm
