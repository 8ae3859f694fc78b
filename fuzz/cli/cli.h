// What the commands of farside-fuzz share; each is a function here and a line in main.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "fuzz/targets/target.h"

namespace farside::fuzz {

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;
inline constexpr int kBadUsage = 2;

// Prints "farside-fuzz: <sentence>" to standard error and gives kBadUsage.
int BadUsage(std::string_view sentence);

Result<std::vector<std::byte>> ReadFile(const std::string& path);
Result<void> WriteFile(const std::string& path, ConstBytes bytes);
// The files of `paths`, and those of the directories in it, sorted.
Result<std::vector<std::string>> ListFiles(std::span<const std::string> paths);

// Starts the program again if a sanitizer, which reads its options when a program starts, is to
// have other ones: stacks with aborts, and for tmin offsets in place of names, which take a second
// each.
void SetSanitizerOptions(int argc, char** argv);

// tmin.cc. Makes an input smaller and never another fault. Tries for up to so many seconds.
int Shrink(const TargetDef& def, const std::string& input, const std::string& output,
           uint64_t seconds);

// connect.cc. A server as fuzz/cli/opponent.h has them: by the path of a socket, or by a command
// line.
struct ConnectOptions {
  std::string socket;
  uint64_t seed = 0;
  uint64_t sessions = 0;
  uint64_t events = 0;      // Of each.
  std::string output = {};  // The session that is played; empty: nowhere.
  bool generic = false;
};
int PlayAgainst(const ConnectOptions& options);
int PlayFile(const std::string& socket, const std::string& path, bool generic);
// As Shrink, of an input that was found with it.
int ShrinkAgainst(const ConnectOptions& options, const std::string& input,
                  const std::string& output, uint64_t seconds);

// round_trip.cc. What a message to another process and back takes, over a UNIX socket: measured
// now.
double RoundTripSeconds();

// speed.cc. Of this process: what other work the machine has does not count.
double CpuSeconds();
// Prints JSON.
int MeasureSpeed(const TargetDef& def);

// census.cc. Prints JSON.
int Census(const TargetDef& def, std::span<const std::string> paths);

// scenario.cc. Writes a scenario for `farside run`.
int MakeScenario(const TargetDef& def, const std::string& input, const std::string& output);

// import.cc. Makes an input of a trace, in any of its forms (harness/trace/event_file.h).
int Import(const TargetDef& def, const std::string& path, const std::string& output);

// cpp.cc. Writes a GoogleTest.
int MakeCpp(const TargetDef& def, const std::string& input, const std::string& output);
// The session in such a test; of any other text, all of it.
std::string_view SessionText(std::string_view text);

}  // namespace farside::fuzz
