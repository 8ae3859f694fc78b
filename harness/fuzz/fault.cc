#include "harness/fuzz/fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <utility>

namespace farside::campaign {
namespace {

constexpr std::string_view kOurs = "farside::";

// Without arguments, template arguments and what it gives back.
std::string QualifiedName(std::string_view symbol) {
  std::string name;
  int depth = 0;  // Of template arguments.
  constexpr std::string_view kAnonymous = "(anonymous namespace)::";
  while (!symbol.empty()) {
    if (symbol.starts_with(kAnonymous)) {
      symbol.remove_prefix(kAnonymous.size());
      continue;
    }
    const char c = symbol.front();
    if (c == '<') {
      ++depth;
    } else if (c == '>') {
      --depth;
    } else if (depth == 0) {
      const bool call = c == '(' && !name.ends_with("operator");
      if (call) break;
      // Behind a name without arguments stands where it is, before a template's its type.
      if (c == ' ' && (symbol.starts_with(" /") || symbol.starts_with(" ("))) break;
      c == ' ' ? name.clear() : name.push_back(c);
    }
    symbol.remove_prefix(1);
  }
  return name;
}

}  // namespace

std::string FunctionName(std::string_view symbol) {
  const std::string name = QualifiedName(symbol);
  return name.starts_with(kOurs) ? name.substr(kOurs.size()) : name;
}

namespace {

constexpr size_t kFrames = 3;
// Without names the frames of the oracle itself can't be left out.
constexpr size_t kBareFrames = 5;

std::string_view After(std::string_view line, std::string_view mark) {
  const size_t at = line.find(mark);
  return at == std::string_view::npos ? std::string_view() : line.substr(at + mark.size());
}

bool Has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

std::string_view FirstWord(std::string_view text) {
  return text.substr(0, text.find_first_of(" :("));
}

// The message of UBSan without what changes from input to input.
std::string UbsanKind(std::string_view message) {
  message = message.substr(0, message.find(':'));
  std::string kind = "ubsan:";
  while (!message.empty()) {
    const size_t end = std::min(message.find(' '), message.size());
    const std::string_view word = message.substr(0, end);
    const bool number = word.find_first_of("0123456789") != std::string_view::npos;
    kind += ' ';
    kind += number ? "N" : word;
    message.remove_prefix(std::min(end + 1, message.size()));
  }
  return kind;
}

// What a line says of the fault. A weak one holds only if no other line says more: a signal follows
// each abort.
struct Said {
  std::string kind;
  bool weak = false;
};

std::optional<Said> SaidBy(std::string_view line) {
  if (const auto rest = After(line, "farside-fuzz: ORACLE "); !rest.empty()) {
    return Said{fmt::format("ORACLE {}", FirstWord(rest))};
  }
  if (Has(line, ": CHECK(") && Has(line, "this is a bug in Farside")) return Said{"CHECK"};
  if (const auto rest = After(line, "runtime error: "); !rest.empty()) return Said{UbsanKind(rest)};
  if (auto rest = After(line, "ERROR: AddressSanitizer: "); !rest.empty()) {
    if (rest.starts_with("attempting ")) rest.remove_prefix(std::string_view("attempting ").size());
    const std::string_view word = FirstWord(rest);
    return Said{std::string(word), word == "ABRT"};
  }
  if (Has(line, "ERROR: LeakSanitizer: detected memory leaks")) return Said{"leak"};
  if (const auto rest = After(line, "WARNING: ThreadSanitizer: "); !rest.empty()) {
    return Said{std::string(rest.substr(0, rest.find(" (")))};
  }
  if (Has(line, "libFuzzer: timeout") || Has(line, "ALARM: working on the last Unit")) {
    return Said{"timeout"};
  }
  if (Has(line, "libFuzzer: out-of-memory")) return Said{"out-of-memory"};
  if (Has(line, "terminate called after throwing")) return Said{"exception"};
  if (Has(line, "libFuzzer: deadly signal")) return Said{"signal", true};
  return std::nullopt;
}

// "    #3 0x55d0 in farside::f(int) /a/b.cc:12:3", "    #3 0x55d0  (/bin/farside-fuzz+0x1f2e)".
struct Frame {
  uint64_t number = 0;
  std::string_view symbol;  // With where it is.
  std::string_view module;  // "/bin/farside-fuzz+0x1f2e", where there is no symbol.
};

std::optional<Frame> FrameOf(std::string_view line) {
  const size_t begin = line.find_first_not_of(' ');
  if (begin == std::string_view::npos || line[begin] != '#') return std::nullopt;
  line.remove_prefix(begin + 1);
  Frame frame;
  size_t digits = 0;
  while (digits < line.size() && digits < 4 && line[digits] >= '0' && line[digits] <= '9') {
    frame.number = frame.number * 10 + static_cast<uint64_t>(line[digits++] - '0');
  }
  // Not the status lines of libFuzzer: "#123 NEW cov: ...".
  if (digits == 0 || !line.substr(digits).starts_with(" 0x")) return std::nullopt;
  if (const auto symbol = After(line, " in "); !symbol.empty()) {
    frame.symbol = symbol;
  } else if (const auto module = After(line, " ("); !module.empty()) {
    frame.module = module.substr(0, module.find(')'));
  }
  return frame;
}

// Cut short where the driver begins, which is another one in libFuzzer than in farside-fuzz.
bool IsDriver(std::string_view name) {
  return name.ends_with("Target::Run") || name == "LLVMFuzzerTestOneInput";
}

// Who reports, not what is wrong.
bool IsReporter(std::string_view name) {
  // Nor who resumes whom.
  return name.starts_with("Task::") || name == "fuzz::Violate" || name == "fuzz::Violation" ||
         name == "CheckFailed";
}

void AddFrame(const Frame& frame, bool* over, std::vector<std::string>* frames) {
  if (*over) return;
  if (!frame.symbol.empty()) {
    const bool ours = QualifiedName(frame.symbol).starts_with(kOurs);
    const std::string name = FunctionName(frame.symbol);
    if (IsDriver(name)) *over = true;
    if (ours && !IsReporter(name) && frames->size() < kFrames) frames->push_back(name);
    return;
  }
  const size_t plus = frame.module.rfind('+');
  if (plus == std::string_view::npos || Has(frame.module, ".so")) return;
  if (frames->size() < kBareFrames) frames->emplace_back(frame.module.substr(plus));
}

// {"write": ...} of "  12 {"write": ...}", as `farside-fuzz repro` prints it.
std::string_view EventOf(std::string_view line) {
  const size_t begin = line.find_first_not_of(' ');
  if (begin == std::string_view::npos || begin > 4) return {};
  const size_t brace = line.find_first_not_of("0123456789", begin);
  if (brace == begin || brace == std::string_view::npos) return {};
  if (!line.substr(brace).starts_with(" {\"")) return {};
  const std::string_view rest = line.substr(brace + 3);
  return rest.substr(0, rest.find('"'));
}

std::string Condition(std::string_view line) {
  const size_t begin = line.find("CHECK(");
  return std::string(line.substr(begin, line.find(" failed: this") - begin));
}

}  // namespace

std::optional<Fault> ParseReport(std::string_view output) {
  Fault fault;
  bool weak = true;
  bool in_stack = false;
  bool stack_over = false;
  std::string condition;
  while (!output.empty()) {
    const size_t end = std::min(output.find('\n'), output.size());
    const std::string_view line = output.substr(0, end);
    output.remove_prefix(std::min(end + 1, output.size()));
    if (const auto frame = FrameOf(line)) {
      if (frame->number == 0 && in_stack) stack_over = true;
      if (!fault.kind.empty()) in_stack = true;
      if (in_stack) AddFrame(*frame, &stack_over, &fault.frames);
      continue;
    }
    // The first stack is the fault's; others say who allocated what.
    if (in_stack) stack_over = true;
    if (const auto event = EventOf(line);
        !event.empty() && (fault.kind.empty() || fault.last_event.empty())) {
      fault.last_event = event;
      continue;
    }
    auto said = SaidBy(line);
    if (!said || (!fault.kind.empty() && (!weak || said->weak))) continue;
    weak = said->weak;
    fault.kind = std::move(said->kind);
    fault.sentence = line;
    if (fault.kind == "CHECK") condition = Condition(line);
  }
  if (fault.kind.empty()) return std::nullopt;
  // Without a stack, where no sanitizer is built in, the condition tells CHECKs apart.
  if (fault.frames.empty() && !condition.empty()) fault.frames.push_back(std::move(condition));
  return fault;
}

std::string Fault::Identity() const {
  uint64_t hash = 0xcbf2'9ce4'8422'2325;  // FNV-1a: the same in each build.
  const auto add = [&](std::string_view text) {
    for (const char c : text) {
      hash = (hash ^ static_cast<uint8_t>(c)) * 0x100'0000'01b3;
    }
    hash = (hash ^ 0x1f) * 0x100'0000'01b3;
  };
  add(kind);
  for (const std::string& frame : frames) add(frame);
  add(last_event);
  std::string name;
  for (const char c : kind) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (plain) {
      name += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    } else if (!name.empty() && !name.ends_with('-')) {
      name += '-';
    }
    if (name.size() >= 40) break;
  }
  return fmt::format("{}-{:08x}", name, static_cast<uint32_t>(hash ^ hash >> 32));
}

}  // namespace farside::campaign
