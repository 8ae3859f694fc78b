#include "harness/fuzz/coverage.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "harness/fuzz/findings.h"
#include "harness/fuzz/programs.h"
#include "harness/scenario/child.h"

namespace farside::campaign {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kTimeout = 3'600'000'000'000;
constexpr std::string_view kFolders[] = {"protocol/", "devices/"};

uint64_t Number(std::string_view text) {
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

Result<std::string> RunTool(const std::string& name, const std::vector<std::string>& args) {
  std::string program;
  for (const char* suffix : {"-16", ""}) {
    if (auto found = scenario::FindProgram(name + suffix, "")) {
      program = *std::move(found);
      break;
    }
  }
  if (program.empty()) return Fail("there is no {}-16 in PATH: install LLVM 16", name);
  auto ran = RunProgram(program, args, kTimeout);
  if (!ran) return tl::unexpected(ran.error());
  if (ran->failed) return Fail("{} {}: {}", program, ran->how, ran->output.substr(0, 400));
  return std::move(ran->output);
}

}  // namespace

void Covered::operator+=(const Covered& other) {
  lines += other.lines;
  lines_covered += other.lines_covered;
  branches += other.branches;
  branches_covered += other.branches_covered;
}

Coverage ParseLcov(std::string_view text, std::string_view root) {
  Coverage coverage;
  Covered* file = nullptr;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t colon = line.find(':');
    const std::string_view key = line.substr(0, colon);
    const std::string_view rest =
        colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
    if (key == "SF") {
      const bool inside = rest.starts_with(root) && rest.size() > root.size() + 1;
      file = inside ? &coverage[std::string(rest.substr(root.size() + 1))] : nullptr;
    }
    if (file == nullptr) continue;
    if (key == "LF") file->lines = Number(rest);
    if (key == "LH") file->lines_covered = Number(rest);
    if (key == "BRF") file->branches = Number(rest);
    if (key == "BRH") file->branches_covered = Number(rest);
    if (key == "DA" && rest.ends_with(",0")) file->uncovered.push_back(Number(rest));
  }
  return coverage;
}

Result<Coverage> MeasureCoverage(const std::string& program, const std::vector<Corpus>& corpora) {
  const auto directory = scenario::MakeDirectory();
  if (!directory) return tl::unexpected(directory.error());
  struct Remover {
    const std::string& path;
    ~Remover() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } const remover{*directory};
  std::vector<std::string> merge = {"merge", "-sparse", "-o", *directory + "/all.profdata"};
  for (size_t i = 0; i < corpora.size(); ++i) {
    // %m: a target that forks adds to the same file.
    const fs::path counts = fs::path(*directory) / std::to_string(i);
    setenv("LLVM_PROFILE_FILE", (counts / "%m.profraw").c_str(), 1);
    const auto ran =
        RunProgram(program, {"run", corpora[i].target, corpora[i].directory}, kTimeout);
    if (!ran) return tl::unexpected(ran.error());
    if (ran->failed) {
      return Fail("{} run {} {} {}; does an input in it end the target?", program,
                  corpora[i].target, corpora[i].directory, ran->how);
    }
    std::error_code error;  // Of a folder that is not there: nothing was counted.
    for (const auto& file : fs::directory_iterator(counts, error)) merge.push_back(file.path());
  }
  unsetenv("LLVM_PROFILE_FILE");
  if (auto merged = RunTool("llvm-profdata", merge); !merged) return tl::unexpected(merged.error());
  // A file: what a Child prints is kept in part only.
  const std::string lcov = *directory + "/lcov";
  const auto exported =
      RunTool("sh", {"-c", fmt::format("exec $(command -v llvm-cov-16 || echo llvm-cov) export "
                                       "-format=lcov -instr-profile='{}' '{}' > '{}'",
                                       merge[3], program, lcov)});
  if (!exported) return tl::unexpected(exported.error());
  const auto text = ReadText(lcov);
  if (!text) return tl::unexpected(text.error());
  // build/coverage/bin/farside-fuzz.
  const fs::path root = fs::path(program).parent_path() / "../../..";
  std::error_code error;
  return ParseLcov(*text, fs::canonical(root, error).string());
}

std::string Ranges(const std::vector<uint64_t>& lines) {
  std::string text;
  for (size_t i = 0; i < lines.size();) {
    size_t end = i + 1;
    while (end < lines.size() && lines[end] == lines[end - 1] + 1) ++end;
    text += text.empty() ? "" : ", ";
    text +=
        end - i == 1 ? fmt::format("{}", lines[i]) : fmt::format("{}-{}", lines[i], lines[end - 1]);
    i = end;
  }
  return text;
}

nlohmann::json ToJson(const Coverage& coverage) {
  const auto row = [](std::string_view name, const Covered& covered) {
    return nlohmann::json{{"name", name},
                          {"lines", covered.lines},
                          {"lines_covered", covered.lines_covered},
                          {"branches", covered.branches},
                          {"branches_covered", covered.branches_covered},
                          {"uncovered", Ranges(covered.uncovered)}};
  };
  nlohmann::json folders = nlohmann::json::array();
  nlohmann::json files = nlohmann::json::array();
  for (const std::string_view folder : kFolders) {
    Covered total;
    for (const auto& [name, covered] : coverage) {
      // What only tests use is not to be reached.
      const bool test = name.starts_with("devices/testing/") || name.ends_with("/test_support.h");
      if (!name.starts_with(folder) || test) continue;
      total += covered;
      files.push_back(row(name, covered));
    }
    folders.push_back(row(folder, total));
  }
  return {{"folders", folders}, {"files", files}};
}

}  // namespace farside::campaign
