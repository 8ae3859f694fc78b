#include "harness/fuzz/findings.h"

#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/options.h"
#include "harness/fuzz/programs.h"
#include "harness/scenario/report.h"

namespace farside::campaign {
namespace {

constexpr uint64_t kTimeout = 60'000'000'000;  // Of one input, with a sanitizer and a symbolizer.

std::string Joined(const std::vector<std::string>& parts, std::string_view separator) {
  return fmt::format("{}", fmt::join(parts, separator));
}

// "ORACLE reset: nvme::Engine::Reset < ...": what, and where if that is known.
std::string WhatAndWhere(const Fault& fault) {
  if (fault.frames.empty()) return fault.kind;
  return fmt::format("{}: {}", fault.kind, Joined(fault.frames, " < "));
}

}  // namespace

// Lines "  12 {...": events, each before it happens.
uint64_t CountEvents(std::string_view output) {
  uint64_t count = 0;
  while (!output.empty()) {
    const size_t end = std::min(output.find('\n'), output.size());
    const std::string_view line = output.substr(0, end);
    const size_t digit = line.find_first_of("0123456789");
    const size_t brace = line.find(" {\"");
    if (digit <= 4 && brace != std::string_view::npos &&
        line.find_first_not_of("0123456789", digit) == brace) {
      uint64_t index = 0;
      std::from_chars(line.data() + digit, line.data() + brace, index);
      count = index + 1;
    }
    output.remove_prefix(std::min(end + 1, output.size()));
  }
  return count;
}

Result<Finding> Examine(const std::string& tool, const std::string& target,
                        const std::string& file) {
  Finding finding{.file = file, .count = 1};
  auto ran = RunProgram(tool, {"repro", target, file}, kTimeout);
  if (!ran) return tl::unexpected(ran.error());
  finding.repro = std::move(ran->output);
  finding.events = CountEvents(finding.repro);
  if (!ran->failed) return finding;
  auto fault = ParseReport(finding.repro);
  if (!fault) {
    const size_t line = finding.repro.find("farside-fuzz: ");
    if (ran->in_time && line != std::string::npos) {
      return Fail("{}", finding.repro.substr(line, finding.repro.find('\n', line) - line));
    }
    fault = Fault{.kind = ran->in_time ? ran->how : "timeout", .sentence = ran->how};
  }
  finding.fault = *std::move(fault);
  return finding;
}

bool AddFinding(Finding finding, Findings* findings) {
  const std::string identity = finding.fault.Identity();
  const auto found = findings->find(identity);
  if (found == findings->end()) {
    findings->emplace(identity, std::move(finding));
    return true;
  }
  ++found->second.count;
  return false;
}

std::string Table(const Findings& findings) {
  if (findings.empty()) return {};
  size_t width = std::string_view("identity").size();
  for (const auto& [identity, finding] : findings) width = std::max(width, identity.size());
  std::string text = fmt::format("{:<{}}  {:>5} {:>6}  {:<12} {}\n", "identity", width, "count",
                                 "events", "last event", "what, and where");
  for (const auto& [identity, finding] : findings) {
    const Fault& fault = finding.fault;
    text += fmt::format("{:<{}}  {:>5} {:>6}  {:<12} {}\n", identity, width, finding.count,
                        finding.events, fault.last_event.empty() ? "-" : fault.last_event,
                        WhatAndWhere(fault));
    if (!fault.sentence.empty()) text += fmt::format("{:<{}}  {}\n", "", width, fault.sentence);
  }
  return text;
}

nlohmann::json ToJson(const Findings& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& [identity, finding] : findings) {
    list.push_back({{"identity", identity},
                    {"kind", finding.fault.kind},
                    {"frames", finding.fault.frames},
                    {"last_event", finding.fault.last_event},
                    {"sentence", finding.fault.sentence},
                    {"events", finding.events},
                    {"count", finding.count},
                    {"file", finding.file}});
  }
  return list;
}

std::string Junit(std::string_view target, const Findings& findings) {
  const size_t cases = std::max<size_t>(findings.size(), 1);
  std::string text = fmt::format(
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"fuzz {}\" "
      "tests=\"{}\" failures=\"{}\">\n",
      scenario::EscapeXml(target), cases, findings.size());
  if (findings.empty()) {
    text +=
        fmt::format("<testcase classname=\"fuzz\" name=\"{}\"/>\n", scenario::EscapeXml(target));
  }
  for (const auto& [identity, finding] : findings) {
    text += fmt::format(
        "<testcase classname=\"fuzz.{}\" name=\"{}\"><failure message=\"{}\">{}\n{}</failure>"
        "</testcase>\n",
        scenario::EscapeXml(target), scenario::EscapeXml(identity),
        scenario::EscapeXml(finding.fault.kind), scenario::EscapeXml(finding.fault.sentence),
        scenario::EscapeXml(Joined(finding.fault.frames, "\n")));
  }
  return text + "</testsuite>\n</testsuites>\n";
}

Result<std::string> ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (file.bad() || !file.is_open()) return Fail("cannot read {}", Quote(path));
  return text;
}

Result<void> WriteText(const std::string& path, std::string_view text) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  if (!file)
    return Fail("cannot write {}: does its directory exist, and is there room?", Quote(path));
  return {};
}

}  // namespace farside::campaign
