#include "harness/fuzz/status.h"

#include <charconv>

namespace farside::campaign {
namespace {

std::optional<uint64_t> NumberAt(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

uint64_t NumberBehind(std::string_view line, std::string_view name) {
  const size_t at = line.find(name);
  if (at == std::string_view::npos) return 0;
  return NumberAt(line.substr(at + name.size())).value_or(0);
}

}  // namespace

std::optional<Status> ParseStatus(std::string_view line) {
  if (!line.starts_with('#')) return std::nullopt;
  const auto runs = NumberAt(line.substr(1));
  if (!runs || line.find("\t") == std::string_view::npos ||
      line.find(" exec/s: ") == std::string_view::npos) {
    return std::nullopt;
  }
  return Status{.runs = *runs,
                .edges = NumberBehind(line, " cov: "),
                .features = NumberBehind(line, " ft: "),
                .corpus = NumberBehind(line, " corp: "),
                .rate = NumberBehind(line, " exec/s: ")};
}

std::optional<Status> LastStatus(std::string_view output) {
  while (!output.empty()) {
    const size_t newline = output.rfind('\n');
    const std::string_view line =
        newline == std::string_view::npos ? output : output.substr(newline + 1);
    if (const auto status = ParseStatus(line)) return status;
    output = output.substr(0, newline == std::string_view::npos ? 0 : newline);
  }
  return std::nullopt;
}

bool HasBegun(std::string_view output) { return output.find("\tINITED") != std::string_view::npos; }

std::optional<std::string> ArtifactOf(std::string_view output) {
  constexpr std::string_view kMark = "Test unit written to ";
  const size_t at = output.rfind(kMark);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = output.substr(at + kMark.size());
  return std::string(rest.substr(0, rest.find('\n')));
}

}  // namespace farside::campaign
