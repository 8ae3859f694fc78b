// Fault: what a sanitizer, an oracle or a CHECK said when a fuzz target ended, and what tells it
// from other faults.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace farside::campaign {

struct Fault {
  // "heap-use-after-free", "ubsan: signed integer overflow", "ORACLE reset", "CHECK", "timeout".
  std::string kind = {};
  // The innermost functions that are ours: names, or where the report has none offsets in the
  // program ("+0x1f2e"), which are comparable as long as the program is the same.
  std::vector<std::string> frames = {};
  std::string last_event = {};  // Its kind: "write". Empty: not known.
  std::string sentence = {};    // The line of the report that says most.

  friend bool operator==(const Fault& a, const Fault& b) {
    return a.kind == b.kind && a.frames == b.frames && a.last_event == b.last_event;
  }
  // Of a file: "heap-use-after-free-5e1f00d2". Equal faults have equal ones.
  std::string Identity() const;
};

// What `output`, a program's standard output and error, says of its end. Nothing if there is no
// report in it. Lines of `farside-fuzz repro` give the last event.
std::optional<Fault> ParseReport(std::string_view output);

// "farside::nvme::Sq::Fetch(unsigned int)" as "nvme::Sq::Fetch".
std::string FunctionName(std::string_view symbol);

}  // namespace farside::campaign
