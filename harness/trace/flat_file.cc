#include "harness/trace/flat_file.h"

#include <cerrno>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "base/options.h"
#include "harness/trace/flat_event.h"
#include "protocol/trace/trace_info.h"

namespace farside::trace {

using nlohmann::json;

namespace {

constexpr int kEnd = std::char_traits<char>::eof();

bool IsBlank(int c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

}  // namespace

tl::unexpected<Error> FlatFileReader::Malformed(std::string_view what) const {
  return Fail("{}, line {}: {}", path_, line_, what);
}

// The next character that is none, which stays.
int FlatFileReader::SkipBlanks() {
  while (IsBlank(file_.peek())) line_ += file_.get() == '\n' ? 1 : 0;
  return file_.peek();
}

Result<void> FlatFileReader::Take(char wanted) {
  const int got = SkipBlanks();
  if (got == wanted) {
    file_.get();
    return {};
  }
  if (got == kEnd) return Malformed("the file ends too early: it was cut, or never finished");
  return Malformed(fmt::format("'{}' is due, and {} stands there", wanted,
                               Quote(std::string(1, static_cast<char>(got)))));
}

// The text of one value: up to the comma or bracket behind it.
Result<std::string> FlatFileReader::TakeValue() {
  std::string text;
  int depth = 0;
  bool in_string = false;
  SkipBlanks();
  for (;;) {
    const int c = file_.peek();
    if (c == kEnd) return Malformed("the file ends too early: it was cut, or never finished");
    const bool closes = c == '}' || c == ']';
    if (!in_string && depth == 0 && (c == ',' || c == ':' || closes)) return text;
    if (text.size() >= kMaxValue) {
      return Malformed(fmt::format("a value has more than {} bytes", kMaxValue));
    }
    file_.get();
    text.push_back(static_cast<char>(c));
    line_ += c == '\n' ? 1 : 0;
    if (in_string && c == '\\') {
      if (file_.peek() != kEnd) text.push_back(static_cast<char>(file_.get()));
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string) {
      depth += c == '{' || c == '[' ? 1 : closes ? -1 : 0;
    }
  }
}

Result<std::string> FlatFileReader::TakeKey() {
  const auto text = TakeValue();
  if (!text) return text;
  const auto key = ParseJson(*text);
  if (!key || !key->is_string()) return Malformed(fmt::format("{} is no key", Quote(*text)));
  if (const auto colon = Take(':'); !colon) return tl::unexpected(colon.error());
  return key->get<std::string>();
}

Result<std::unique_ptr<FlatFileReader>> FlatFileReader::Open(const std::string& path) {
  std::unique_ptr<FlatFileReader> reader(new FlatFileReader(path));
  if (!reader->file_) {
    return FailWith(errno, "cannot read the trace {}: {}", path, ErrnoText(errno));
  }
  if (auto read = reader->ReadHead(); !read) return tl::unexpected(read.error());
  return reader;
}

Result<void> FlatFileReader::ReadHead() {
  if (auto brace = Take('{'); !brace) return brace;
  bool has_info = false;
  for (;;) {
    const auto key = TakeKey();
    if (!key) return tl::unexpected(key.error());
    if (*key == "events") break;
    const auto value = TakeValue();
    if (!value) return tl::unexpected(value.error());
    if (*key != "trace") {
      return Malformed(
          fmt::format("there is no {} in a trace: it has \"trace\" and \"events\"", Quote(*key)));
    }
    auto info = ParseTraceInfo(*value);
    if (!info) return Malformed(info.error().message);
    info_ = std::move(*info);
    has_info = true;
    if (auto comma = Take(','); !comma) return comma;
  }
  if (!has_info) return Malformed("\"trace\" must stand before \"events\"");
  return Take('[');
}

Result<std::optional<Event>> FlatFileReader::Next() {
  if (at_end_) return std::nullopt;
  if (SkipBlanks() == ']') {
    file_.get();
    if (auto brace = Take('}'); !brace) return tl::unexpected(brace.error());
    if (SkipBlanks() != kEnd) return Malformed("something stands behind the end");
    at_end_ = true;
    return std::nullopt;
  }
  if (events_ != 0) {
    if (auto comma = Take(','); !comma) return tl::unexpected(comma.error());
  }
  SkipBlanks();
  const uint64_t line = line_;
  const auto text = TakeValue();
  if (!text) return tl::unexpected(text.error());
  const auto fail = [&](std::string_view what) {
    return Fail("{}, line {}: event {}: {}", path_, line, events_, what);
  };
  const auto flat = ParseJson(*text);
  if (!flat) return fail(flat.error().message);
  auto event = Unflatten(info_, *flat);
  if (!event) return fail(event.error().message);
  event->number = events_++;
  return std::move(*event);
}

Result<std::unique_ptr<FlatFileWriter>> FlatFileWriter::Create(const std::string& path,
                                                               const TraceInfo& info) {
  std::unique_ptr<FlatFileWriter> writer(new FlatFileWriter(path, info));
  writer->file_ << "{\"trace\": " << FormatTraceInfo(info) << ",\n\"events\": [";
  if (auto checked = writer->Check(); !checked) return tl::unexpected(checked.error());
  return writer;
}

Result<void> FlatFileWriter::Check() const {
  if (file_) return {};
  return FailWith(errno, "cannot write the trace {}: {}", path_, ErrnoText(errno));
}

Result<void> FlatFileWriter::Write(const Event& event) {
  file_ << (std::exchange(first_, false) ? "\n" : ",\n") << FormatFlat(Flatten(info_, event));
  return Check();
}

Result<void> FlatFileWriter::Finish() {
  file_ << "\n]}\n";
  file_.close();
  return Check();
}

}  // namespace farside::trace
