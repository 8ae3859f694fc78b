#include "harness/trace/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "harness/trace/flat_file.h"
#include "protocol/trace/pcapng.h"
#include "protocol/trace/trace_reader.h"
#include "protocol/trace/trace_writer.h"
#include "protocol/trace/zstd_file.h"

namespace farside::trace {
namespace {

constexpr size_t kChunk = 256 << 10;

// A file that is gone with its owner.
class TemporaryFile {
 public:
  static Result<TemporaryFile> Make() {
    std::error_code error;
    const auto directory = std::filesystem::temp_directory_path(error);
    std::string path = ((error ? "/tmp" : directory) / "farside-trace-XXXXXX").string();
    const UniqueFd fd(mkostemp(path.data(), O_CLOEXEC));
    if (!fd) {
      return FailWith(errno,
                      "cannot make a temporary file {}: {}; set TMPDIR to a directory with "
                      "room",
                      path, ErrnoText(errno));
    }
    return TemporaryFile(std::move(path));
  }
  TemporaryFile(TemporaryFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  ~TemporaryFile() {
    if (!path_.empty()) unlink(path_.c_str());
  }

  const std::string& path() const { return path_; }

  // Errors are about the file that this one stands for.
  Error Rename(Error error, const std::string& name) const {
    for (size_t at; (at = error.message.find(path_)) != std::string::npos;) {
      error.message.replace(at, path_.size(), name);
    }
    return error;
  }

 private:
  explicit TemporaryFile(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

class TraceSource final : public EventSource {
 public:
  explicit TraceSource(std::unique_ptr<TraceReader> reader) : reader_(std::move(reader)) {}
  const TraceInfo& info() const override { return reader_->info(); }
  Result<std::optional<Event>> Next() override { return reader_->Next(); }
  bool truncated() const override { return reader_->truncated(); }

 private:
  std::unique_ptr<TraceReader> reader_;
};

class TraceSink final : public EventSink {
 public:
  explicit TraceSink(std::unique_ptr<TraceWriter> writer) : writer_(std::move(writer)) {}
  Result<void> Write(const Event& event) override { return writer_->Write(event); }
  Result<void> Finish() override { return writer_->Finish(); }

 private:
  std::unique_ptr<TraceWriter> writer_;
};

// Plain pcapng is what the compressed form holds.
class PlainSource final : public EventSource {
 public:
  static Result<std::unique_ptr<EventSource>> Open(const std::string& path) {
    auto file = TemporaryFile::Make();
    if (!file) return tl::unexpected(file.error());
    if (auto done = Compress(path, file->path()); !done) {
      return tl::unexpected(file->Rename(done.error(), path));
    }
    auto reader = TraceReader::Open(file->path());
    if (!reader) return tl::unexpected(file->Rename(reader.error(), path));
    return std::unique_ptr<EventSource>(
        new PlainSource(path, std::move(*file), std::move(*reader)));
  }

  const TraceInfo& info() const override { return reader_->info(); }
  Result<std::optional<Event>> Next() override {
    auto event = reader_->Next();
    if (!event) return tl::unexpected(file_.Rename(event.error(), path_));
    return event;
  }
  bool truncated() const override { return reader_->truncated(); }

 private:
  PlainSource(std::string path, TemporaryFile file, std::unique_ptr<TraceReader> reader)
      : path_(std::move(path)), file_(std::move(file)), reader_(std::move(reader)) {}

  static Result<void> Compress(const std::string& from, const std::string& to) {
    std::ifstream in(from, std::ios::binary);
    auto out = ZstdWriter::Create(to);
    if (!out) return tl::unexpected(out.error());
    std::vector<char> chunk(kChunk);
    do {
      in.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
      const auto got = static_cast<size_t>(in.gcount());
      if (auto done = out->Write(std::as_bytes(std::span(chunk).first(got))); !done) return done;
    } while (in);
    if (in.bad()) return FailWith(errno, "cannot read the trace {}: {}", from, ErrnoText(errno));
    return out->Finish();
  }

  const std::string path_;
  const TemporaryFile file_;
  std::unique_ptr<TraceReader> reader_;
};

class PlainSink final : public EventSink {
 public:
  static Result<std::unique_ptr<EventSink>> Create(const std::string& path, const TraceInfo& info) {
    // That it cannot be written is known now.
    std::ofstream out(path, std::ios::binary);
    if (!out) return FailWith(errno, "cannot write the trace {}: {}", path, ErrnoText(errno));
    auto file = TemporaryFile::Make();
    if (!file) return tl::unexpected(file.error());
    auto writer = TraceWriter::Create(file->path(), info);
    if (!writer) return tl::unexpected(file->Rename(writer.error(), path));
    return std::unique_ptr<EventSink>(
        new PlainSink(path, std::move(out), std::move(*file), std::move(*writer)));
  }

  Result<void> Write(const Event& event) override {
    const auto written = writer_->Write(event);
    return written ? written : tl::unexpected(file_.Rename(written.error(), path_));
  }

  Result<void> Finish() override {
    auto finished = writer_->Finish();
    if (finished) finished = Decompress();
    return finished ? finished : tl::unexpected(file_.Rename(finished.error(), path_));
  }

 private:
  PlainSink(std::string path, std::ofstream out, TemporaryFile file,
            std::unique_ptr<TraceWriter> writer)
      : path_(std::move(path)),
        out_(std::move(out)),
        file_(std::move(file)),
        writer_(std::move(writer)) {}

  Result<void> Decompress() {
    auto in = ZstdReader::Open(file_.path());
    if (!in) return tl::unexpected(in.error());
    std::vector<std::byte> chunk(kChunk);
    for (;;) {
      const auto got = in->Read(chunk);
      if (!got) return tl::unexpected(got.error());
      if (*got == 0) break;
      out_.write(reinterpret_cast<const char*>(chunk.data()), static_cast<std::streamsize>(*got));
    }
    out_.close();
    if (!out_) return FailWith(errno, "cannot write the trace {}: {}", path_, ErrnoText(errno));
    return {};
  }

  const std::string path_;
  std::ofstream out_;
  const TemporaryFile file_;
  std::unique_ptr<TraceWriter> writer_;
};

bool IsPlainPcapng(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 4> magic{};
  file.read(magic.data(), magic.size());
  return file && LoadLe<uint32_t>(std::as_bytes(std::span(magic))) == pcapng::kSectionHeader;
}

}  // namespace

Result<std::unique_ptr<EventSource>> OpenEvents(const std::string& path) {
  if (path.ends_with(".json")) {
    auto reader = FlatFileReader::Open(path);
    if (!reader) return tl::unexpected(reader.error());
    return std::move(*reader);
  }
  if (IsPlainPcapng(path)) return PlainSource::Open(path);
  auto reader = TraceReader::Open(path);
  if (!reader) return tl::unexpected(reader.error());
  return std::make_unique<TraceSource>(std::move(*reader));
}

Result<std::unique_ptr<EventSink>> CreateEvents(const std::string& path, const TraceInfo& info) {
  if (path.ends_with(".json")) {
    auto writer = FlatFileWriter::Create(path, info);
    if (!writer) return tl::unexpected(writer.error());
    return std::move(*writer);
  }
  if (path.ends_with(".pcapng")) return PlainSink::Create(path, info);
  if (!path.ends_with(".trace")) {
    return Fail("{}: what is to be written is said by the name's end: .trace, .pcapng or .json",
                path);
  }
  auto writer = TraceWriter::Create(path, info);
  if (!writer) return tl::unexpected(writer.error());
  return std::make_unique<TraceSink>(std::move(*writer));
}

}  // namespace farside::trace
