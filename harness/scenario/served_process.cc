#include "harness/scenario/served_process.h"

#include <signal.h>

#include <filesystem>
#include <utility>

#include "harness/scenario/scenario.h"

namespace farside::scenario {
namespace {

constexpr uint64_t kExitTimeoutNs = 15'000'000'000;

}  // namespace

Result<std::unique_ptr<ServedProcess>> ServedProcess::Start(const std::string& program,
                                                            std::vector<std::string> args,
                                                            const std::string& bin_dir) {
  const auto path = FindProgram(program, bin_dir);
  if (!path) return tl::unexpected(path.error());
  std::unique_ptr<ServedProcess> process(new ServedProcess);
  auto directory = MakeDirectory();
  if (!directory) return tl::unexpected(directory.error());
  process->directory_ = std::move(*directory);
  ReplacePlace(kSocketPlace, process->socket(), &args);
  auto child = Child::Start(
      program, {.program = *path, .args = std::move(args), .directory = ".", .max_fds = 0});
  if (!child) return tl::unexpected(child.error());
  process->child_ = std::move(*child);
  return process;
}

ServedProcess::~ServedProcess() {
  child_.reset();
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

Result<void> ServedProcess::Finish() {
  child_->Signal(SIGTERM);
  const auto status = child_->Wait(kExitTimeoutNs);
  if (!status) return Fail("{} did not exit after its SIGTERM", child_->id());
  if (!status->signalled && status->code == 0) return {};
  return Fail("{} {}: {}", child_->id(), status->Text(), LastWords());
}

Error ServedProcess::NotServed(bool runs) const {
  return {fmt::format("{} {}: {}", child_->id(),
                      runs ? "does not listen" : "ended before it could be reached", LastWords()),
          0};
}

std::string ServedProcess::LastWords() const {
  const auto lines = child_->LastLines(4);
  return lines.empty() ? "it printed nothing" : fmt::format("{}", fmt::join(lines, " | "));
}

}  // namespace farside::scenario
