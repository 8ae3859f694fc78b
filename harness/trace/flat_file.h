// Flat files: a trace as one JSON document, {"trace": {...}, "events": [...]}, read and written an
// event at a time.
#pragma once

#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "harness/trace/event_file.h"

namespace farside::trace {

class FlatFileReader final : public EventSource {
 public:
  // An event's text may have so many bytes.
  static constexpr size_t kMaxValue = 16 << 20;

  // Reads up to the first event. Errors name the file and the line.
  static Result<std::unique_ptr<FlatFileReader>> Open(const std::string& path);

  const TraceInfo& info() const override { return info_; }
  Result<std::optional<Event>> Next() override;
  bool truncated() const override { return false; }  // A cut document is an error.

 private:
  explicit FlatFileReader(std::string path)
      : path_(std::move(path)), file_(path_, std::ios::binary) {}

  tl::unexpected<Error> Malformed(std::string_view what) const;
  int SkipBlanks();
  Result<void> Take(char wanted);
  Result<std::string> TakeValue();
  Result<std::string> TakeKey();
  Result<void> ReadHead();

  const std::string path_;
  std::ifstream file_;
  TraceInfo info_;
  uint64_t line_ = 1;
  uint32_t events_ = 0;
  bool at_end_ = false;
};

class FlatFileWriter final : public EventSink {
 public:
  static Result<std::unique_ptr<FlatFileWriter>> Create(const std::string& path,
                                                        const TraceInfo& info);

  Result<void> Write(const Event& event) override;
  Result<void> Finish() override;

 private:
  FlatFileWriter(std::string path, const TraceInfo& info)
      : path_(std::move(path)), file_(path_, std::ios::binary), info_(info) {}
  Result<void> Check() const;

  const std::string path_;
  std::ofstream file_;
  const TraceInfo info_;
  bool first_ = true;
};

}  // namespace farside::trace
