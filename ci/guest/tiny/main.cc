// The tiny guest: it looks for what is on the PCI bus, tries it, and says in TAP on COM1 what it
// found. ci/live/README.md has its command line.
#include "ci/guest/tiny/tests.h"

namespace tiny {

namespace {

// Xen's include/public/arch-x86/hvm/start_info.h.
struct StartInfo {
  uint32_t magic, version, flags, module_count;
  uint64_t modules, command_line, rsdp;
};

const char* command_line = "";

// What follows `key` on the command line, where it begins a word; else null.
const char* FindWord(const char* key) {
  for (const char* at = command_line; *at != 0; at++) {
    if (at != command_line && at[-1] != ' ') continue;
    size_t i = 0;
    while (key[i] != 0 && at[i] == key[i]) i++;
    if (key[i] == 0) return at + i;
  }
  return nullptr;
}

// `only=bar.,msix.` on the command line: the tests whose names begin so.
bool IsWanted(const char* name) {
  const char* at = FindWord("only=");
  if (at == nullptr) return true;
  for (;;) {
    size_t i = 0;
    while (at[i] == name[i] && name[i] != 0) i++;
    if (at[i] == 0 || at[i] == ' ' || at[i] == ',') return true;
    while (*at != 0 && *at != ' ' && *at != ',') at++;
    if (*at++ != ',') return false;
  }
}

}  // namespace

extern "C" [[noreturn]] void GuestMain(const StartInfo* info) {
  if (info->command_line != 0) command_line = reinterpret_cast<const char*>(info->command_line);
  if (FindWord("exit=debug") != nullptr) SetExitPort(0x501);
  if (const char* digits = FindWord("patience="); digits != nullptr) {
    for (patience = 0; *digits >= '0' && *digits <= '9'; digits++) {
      patience = 10 * patience + static_cast<uint64_t>(*digits - '0');
    }
  }
  Print("TAP version 13");
  SetUpInterrupts();
  const bool calibrated = CalibrateTsc();
  Print("# tsc ", TscPerMillisecond(), " kHz",
        calibrated ? "" : " (assumed: the PIT does not tick)");

  const bool has_rsdp = info->magic == 0x336e'c578 && info->version >= 1;
  static Bench bench(has_rsdp ? info->rsdp : 0);
  bench.unplug = FindWord("unplug") != nullptr;

  unsigned count = 0, failures = 0;
  for (const Test& test : kTests) {
    if (!IsWanted(test.name)) continue;
    Outcome outcome;
    bench.Run(test, outcome);
    const bool failed = outcome.failures > 0;
    failures += failed;
    Print(failed ? "not ok " : "ok ", ++count, " - ", test.name,
          outcome.skipped ? " # SKIP "
          : failed        ? ": "
                          : "",
          outcome.why.data);
  }
  Print("1..", count);
  Print("# ", failures, " failed");
  Stop();
}

}  // namespace tiny
