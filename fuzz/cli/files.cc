#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/options.h"
#include "fuzz/cli/cli.h"

namespace farside::fuzz {

int BadUsage(std::string_view sentence) {
  fmt::print(stderr, "farside-fuzz: {}\n", sentence);
  return kBadUsage;
}

Result<std::vector<std::byte>> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::vector<char> text((std::istreambuf_iterator<char>(in)), {});
  if (!in.good() && !in.eof()) return Fail("can't read {}", Quote(path));
  const ConstBytes bytes = std::as_bytes(std::span(text));
  return std::vector<std::byte>(bytes.begin(), bytes.end());
}

Result<void> WriteFile(const std::string& path, ConstBytes bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()),
            static_cast<std::streamsize>(bytes.size()));
  out.flush();
  if (!out) return Fail("can't write {}", Quote(path));
  return {};
}

Result<std::vector<std::string>> ListFiles(std::span<const std::string> paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_directory(path, error)) {
      files.push_back(path);
      continue;
    }
    std::filesystem::directory_iterator entries(path, error);
    for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
      if (entries->is_regular_file(error)) files.push_back(entries->path());
    }
    if (error) return Fail("can't list {}: {}", Quote(path), error.message());
  }
  std::ranges::sort(files);
  return files;
}

void SetSanitizerOptions(int argc, char** argv) {
  constexpr const char* kMark = "FARSIDE_FUZZ_STARTED";
  if (argc < 2 || std::getenv(kMark) != nullptr) return;
  // What the caller says counts more: the last one does.
  const auto set = [](const char* name, std::string_view options) {
    const char* const own = std::getenv(name);
    setenv(name, fmt::format("{}:{}", options, own != nullptr ? own : "").c_str(), 1);
  };
  const bool offsets = std::string_view(argv[1]) == "tmin";
  const std::string_view symbolize = offsets ? "symbolize=0" : "symbolize=1";
  set("ASAN_OPTIONS",
      fmt::format("{}:handle_abort=1:handle_sigbus=0:detect_leaks={}", symbolize, offsets ? 0 : 1));
  set("UBSAN_OPTIONS", fmt::format("{}:print_stacktrace=1", symbolize));
  setenv(kMark, "1", 1);
  execv("/proc/self/exe", argv);  // If it can't, the reports are shorter.
}

}  // namespace farside::fuzz
