#include "harness/fuzz/page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

namespace farside::campaign {
namespace {

using nlohmann::json;

// Per cent, of the lines and branches of protocol/ and of devices/.
constexpr double kLineBound = 90;
constexpr double kBranchBound = 80;
// Sessions of 32 events a second.
constexpr double kPlainRate = 20'000;
constexpr double kSanitizedRate = 5'000;
constexpr double kRoundTrips = 0.6;
constexpr double kLoadOfMemcpy = 3;

constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Farside: fuzzing</title><style>
body{font:15px/1.45 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c2733}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ccd5dd}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:left;vertical-align:top;
border-bottom:1px solid #e6ebef}th{font-weight:600}td.n,th.n{text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}
.bad{color:#b3261e;font-weight:600}.good{color:#1d6f42}.dim{color:#6b7885;font-size:.88em}
pre{background:#f4f6f8;padding:.7rem;overflow-x:auto;font-size:.82em;line-height:1.35}
summary{cursor:pointer}.bar{display:inline-block;width:5rem;height:.6rem;background:#f0d7d5;margin-right:.5rem}
.bar i{display:block;height:100%;background:#3f8f65}
td details p{margin:.2rem 0;max-width:24rem}
</style></head><body>
)";

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '"') {
      out += "&quot;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string Text(const json& object, const char* member) {
  const auto found = object.find(member);
  if (found == object.end()) return {};
  return Escape(found->is_string() ? found->get<std::string>() : found->dump());
}

double Number(const json& object, const char* member) {
  const auto found = object.find(member);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

double Percent(double some, double all) { return all == 0 ? 0 : 100 * some / all; }

std::string Bar(double percent) {
  return fmt::format("<span class=bar><i style=\"width:{:.0f}%\"></i></span>{:.1f} %", percent,
                     percent);
}

std::string Targets(const json& targets, const json& without) {
  std::string out =
      "<h2>Targets</h2><table><tr><th>target<th class=n>inputs<th class=n>runs a second"
      "<th class=n>with DMA<th class=n>with interrupts<th class=n>with disk commands<th></tr>\n";
  for (const json& target : targets) {
    out += fmt::format("<tr><td>{}<td class=n>{}<td class=n>{:.0f}", Text(target, "target"),
                       Text(target, "inputs"), Number(target, "rate"));
    const json& shares = target.at("shares");
    for (const char* name : {"dma", "interrupts", "io"}) {
      out += shares.contains(name)
                 ? fmt::format("<td class=n>{:.0f} % <span class=dim>({:.0f} %)</span>",
                               Number(shares, name), Number(target.at("corpus_shares"), name))
                 : std::string("<td class=n>");
    }
    out += target.value("present", false)
               ? "<td class=good>present"
               : fmt::format("<td class=bad>absent: {}", Text(target, "why"));
    out += "</tr>\n";
  }
  out +=
      "</table>\n<p class=dim>Shares of 1,000 made-up sessions of 32 events; in brackets those of "
      "the stored inputs, which are shrunk to what is theirs alone. A target whose sessions reach "
      "DMA in fewer than 50 %, interrupts "
      "or disk commands in fewer than 30 % only pokes at the surface: it counts as "
      "absent.</p>\n";
  // Of what none was given, nothing below says anything either.
  if (!without.empty()) {
    out += fmt::format("<p><span class=bad>No corpus</span> was given of {}.</p>\n",
                       fmt::join(without.get<std::vector<std::string>>(), ", "));
  }
  return out;
}

// Red outside of the bounds; nothing where nothing was measured.
std::string Measured(const json& object, const char* member, std::string_view format, double least,
                     double most = 1e300) {
  if (!object.contains(member)) return "<td class=n>";
  const double number = Number(object, member);
  return fmt::format("<td class=\"n{}\">{}", number < least || number > most ? " bad" : "",
                     fmt::format(fmt::runtime(format), number));
}

std::string Speed(const json& speed) {
  std::string out =
      "<h2>Speed</h2><table><tr><th>target<th class=n>sessions a second<th class=n>with sanitizers"
      "<th class=n>and coverage<th class=n>of its round trips<th class=n>a state's copy</tr>\n";
  std::map<std::string, std::map<std::string, json>> rows;  // By target, then by build.
  for (const json& one : speed.at("targets")) rows[Text(one, "target")][Text(one, "build")] = one;
  for (auto& [target, builds] : rows) {
    // One that waits for another process is judged by what the waits alone take.
    const bool waits = std::ranges::any_of(
        builds, [](const auto& build) { return build.second.contains("of_round_trips"); });
    out += fmt::format("<tr><td>{}", target);
    out += Measured(builds["release"], "rate", "{:.0f}", waits ? 0 : kPlainRate);
    out += Measured(builds["debug"], "rate", "{:.0f}", waits ? 0 : kSanitizedRate);
    out += Measured(builds["fuzz"], "rate", "{:.0f}", 0);
    out += Measured(builds["release"], "of_round_trips", "{:.2f}", kRoundTrips);
    out += Measured(builds["release"], "load_of_memcpy", "{:.1f} &times; memcpy", 0, kLoadOfMemcpy);
    out += "</tr>\n";
  }
  out += fmt::format(
      "</table>\n<p class=dim>Made-up sessions of 32 events, a second of CPU time, on one core, "
      "the best of five counts: {} are asked for without sanitizers and {} with ASan and UBSan "
      "(the builds release and debug; fuzz has coverage besides). Across a socket: a second of "
      "time; and what the waits for the other process alone would take at this machine's round "
      "trip, over what the sessions take ({} are asked for). Going back to the state that sessions "
      "begin in, over a copy of as many bytes (up to {}).</p>\n",
      kPlainRate, kSanitizedRate, kRoundTrips, kLoadOfMemcpy);
  for (const json& why : speed.at("why")) {
    out += fmt::format("<p>Not measured: {}.</p>\n", Escape(why.get<std::string>()));
  }
  return out;
}

// Red below what is asked of a folder as a whole.
std::string Reached(const json& row, const char* some, const char* all, double bound) {
  const double percent = Percent(Number(row, some), Number(row, all));
  return fmt::format("<td class=\"n{}\">{}<td class=n>{} of {}", percent < bound ? " bad" : "",
                     Bar(percent), Text(row, some), Text(row, all));
}

// What is not reached unfolds: beside the figures it would be a column of hundreds of lines.
std::string CoverageRows(const json& rows, double line_bound, double branch_bound) {
  std::string out;
  for (const json& row : rows) {
    const std::string lines = Text(row, "uncovered");
    const std::string name =
        lines.empty() ? Text(row, "name")
                      : fmt::format(
                            "<details><summary>{}</summary><p class=dim>not reached: {}</p>"
                            "</details>",
                            Text(row, "name"), lines);
    out += fmt::format("<tr><td>{}{}{}</tr>\n", name,
                       Reached(row, "lines_covered", "lines", line_bound),
                       Reached(row, "branches_covered", "branches", branch_bound));
  }
  return out;
}

std::string CoverageSection(const json& coverage) {
  std::string out = "<h2>Coverage</h2>\n";
  if (!coverage.is_object() || !coverage.contains("files")) {
    return out + fmt::format("<p>Not measured: {}.</p>\n", Text(coverage, "why"));
  }
  constexpr std::string_view kColumns = "<th class=n colspan=2>lines<th class=n colspan=2>branches";
  out += fmt::format(
      "<p class=dim>A folder is to have {:.0f} % of its lines and {:.0f} % of its "
      "branches reached.</p>\n<table><tr><th>folder{}</tr>\n{}</table>\n",
      kLineBound, kBranchBound, kColumns,
      CoverageRows(coverage.at("folders"), kLineBound, kBranchBound));
  std::vector<json> files = coverage.at("files");
  const auto missing = [](const json& file) {
    return Number(file, "lines") - Number(file, "lines_covered");
  };
  std::ranges::stable_sort(files,
                           [&](const json& a, const json& b) { return missing(a) > missing(b); });
  return out + fmt::format(
                   "<h3>By file, those first that miss most</h3><p class=dim>A click on a file "
                   "shows which lines.</p><table><tr><th>file{}</tr>\n{}</table>\n",
                   kColumns, CoverageRows(files, 0, 0));
}

std::string Registers(const json& target) {
  const json& rows = target.at("registers");
  if (rows.empty()) return {};
  std::string uncovered;
  std::string table;
  uint64_t reached = 0;
  for (const json& row : rows) {
    const bool writable = row.value("writable", false);
    const bool read = Number(row, "reads") != 0;
    const bool written = Number(row, "writes") != 0;
    if (read && (written || !writable)) {
      ++reached;
    } else {
      const char* const missing = read ? "never written" : written ? "never read" : "never";
      uncovered +=
          fmt::format("{}{} ({})", uncovered.empty() ? "" : ", ", Text(row, "name"), missing);
    }
    table += fmt::format("<tr><td>{}<td class=n>{}<td class=n>{}</tr>\n", Text(row, "name"),
                         Text(row, "reads"), Text(row, "writes"));
  }
  return fmt::format(
      "<h3>Registers of {}</h3><p>{} of {} are read, and written where they can be.{}</p>\n"
      "<details><summary>Accesses by register</summary><table><tr><th>register<th class=n>reads"
      "<th class=n>writes</tr>\n{}</table></details>\n",
      Text(target, "target"), reached, rows.size(),
      uncovered.empty() ? "" : fmt::format(" <span class=bad>Not</span>: {}.", uncovered), table);
}

std::string Commands(const json& target) {
  const json& rows = target.at("commands");
  if (rows.empty()) return {};
  std::string uncovered;
  std::string table;
  for (const json& row : rows) {
    const bool supported = row.value("supported", false);
    if (supported && Number(row, "count") == 0) {
      uncovered += fmt::format("{}{}", uncovered.empty() ? "" : ", ", Text(row, "name"));
    }
    table += fmt::format("<tr><td>{}<td class=n>{}<td class=dim>{}</tr>\n", Text(row, "name"),
                         Text(row, "count"), supported ? "" : "this controller does not have it");
  }
  return fmt::format(
      "<h3>Commands of {}</h3><p>{}</p>\n<details><summary>By opcode</summary><table><tr><th>"
      "command<th class=n>count<th></tr>\n{}</table></details>\n",
      Text(target, "target"),
      uncovered.empty() ? "All that the controller has are given to it."
                        : fmt::format("<span class=bad>Never given:</span> {}.", uncovered),
      table);
}

std::string FindingsSection(const json& findings) {
  std::string out = fmt::format("<h2>Findings: {}</h2>\n", findings.size());
  if (findings.empty()) out += "<p class=good>Nothing was found.</p>\n";
  for (const json& finding : findings) {
    std::string frames;
    for (const json& frame : finding.at("frames")) {
      frames +=
          fmt::format("{}{}", frames.empty() ? "" : " &lt; ", Escape(frame.get<std::string>()));
    }
    out += fmt::format(
        "<h3>{}: {}</h3><p>{} <span class=dim>({} inputs; {} events; last {})</span><br>{}</p>"
        "<details><summary>{}</summary><pre>{}</pre></details>\n",
        Text(finding, "target"), Text(finding, "identity"), Text(finding, "kind"),
        Text(finding, "count"), Text(finding, "events"), Text(finding, "last_event"),
        Text(finding, "sentence"), frames.empty() ? "Event by event" : frames,
        Text(finding, "repro"));
  }
  return out;
}

// Rows of fuzz/mutants/results.json. A null says that it was not tried.
std::string Mutants(const json& mutants) {
  if (!mutants.is_array() || mutants.empty()) return {};
  const auto yes = [](const json& mutant, const char* member) {
    const auto found = mutant.find(member);
    return found != mutant.end() && *found == true;
  };
  const auto text = [](const json& mutant, const char* member) {
    const auto found = mutant.find(member);
    return found == mutant.end() || found->is_null() ? "" : Text(mutant, member);
  };
  const auto count = [&](const char* member) {
    return std::ranges::count_if(mutants, [&](const json& one) { return yes(one, member); });
  };
  std::string out = fmt::format(
      "<h2>Seeded bugs: {} of {} found by fuzzing</h2><p>The tests kill {}.</p><details><summary>"
      "Each</summary><table><tr><th>bug<th>class<th>found by<th class=n>seconds<th>killed "
      "by</tr>\n",
      count("found"), mutants.size(), count("killed"));
  for (const json& mutant : mutants) {
    const bool found = yes(mutant, "found");
    out += fmt::format("<tr><td>{}<td>{}<td class={}>{}<td class=n>{}<td class=dim>{}</tr>\n",
                       Text(mutant, "id"), Text(mutant, "class"), found ? "good" : "bad",
                       found ? text(mutant, "found_by") : "not found", text(mutant, "fuzz_seconds"),
                       yes(mutant, "killed") ? text(mutant, "killed_by") : "not tried, or by none");
  }
  return out + "</table></details>\n";
}

}  // namespace

std::string Page(const json& report) {
  std::string out(kHead);
  out += fmt::format("<h1>Fuzzing Farside</h1><p class=dim>{}</p>\n", Text(report, "made"));
  out += Targets(report.at("targets"), report.value("without", json::array()));
  out += FindingsSection(report.at("findings"));
  out += Mutants(report.value("mutants", json::array()));
  if (report.contains("speed")) out += Speed(report.at("speed"));
  out += CoverageSection(report.at("coverage"));
  out += "<h2>Registers and commands</h2>\n";
  for (const json& target : report.at("targets")) out += Registers(target) + Commands(target);
  return out + "</body></html>\n";
}

}  // namespace farside::campaign
