#include "harness/scenario/remote_process.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

namespace farside::scenario {

void ReplacePlace(std::string_view place, const std::string& value,
                  std::vector<std::string>* args) {
  for (std::string& arg : *args) {
    const size_t at = arg.find(place);
    if (at != std::string::npos) arg.replace(at, place.size(), value);
  }
}

Result<RemoteProcess> RemoteProcess::Start(const std::string& id, const std::string& program,
                                           std::vector<std::string> args,
                                           const std::string& bin_dir) {
  const auto path = FindProgram(program, bin_dir);
  if (!path) return tl::unexpected(path.error());
  auto sockets = MakeSocketPair();
  if (!sockets) return tl::unexpected(sockets.error());
  ReplacePlace(kFdPlace, std::to_string(sockets->second.get()), &args);
  auto child = Child::Start(id, {.program = *path,
                                 .args = std::move(args),
                                 .directory = ".",
                                 .max_fds = 0,
                                 .inherit = sockets->second.get(),
                                 .own_group = true});
  if (!child) return tl::unexpected(child.error());
  return RemoteProcess{std::move(*child), std::move(sockets->first)};
}

std::string RemoteProcess::LastWords() const {
  const auto lines = child->LastLines(4);
  return lines.empty() ? "it printed nothing"
                       : fmt::format("it printed: {}", fmt::join(lines, " | "));
}

}  // namespace farside::scenario
