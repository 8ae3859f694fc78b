#include "protocol/trace/zstd_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <utility>

#include "base/check.h"

namespace farside::trace {
namespace {

// Zstandard's seekable format: contrib/seekable_format/zstd_seekable_compression_format.md.
constexpr uint32_t kSkippableMagic = 0x184d2a5e;
constexpr uint32_t kSeekTableMagic = 0x8f92eab1;
constexpr int kLevel = 3;
// A reader's history is 8 MiB at most, whatever a frame's header asks for: as much as `zstd -19`
// needs. The library's own limit is 128 MiB, and a header of six bytes gets it all.
constexpr int kMaxWindowLog = 23;

template <typename T>
void Put(std::vector<std::byte>* out, T value) {
  const ConstBytes bytes = AsBytes(value);
  out->insert(out->end(), bytes.begin(), bytes.end());
}

}  // namespace

Result<ZstdWriter> ZstdWriter::Create(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) return FailWith(errno, "cannot write the trace {}: {}", path, ErrnoText(errno));
  return ZstdWriter(path, std::move(fd));
}

ZstdWriter::ZstdWriter(std::string path, UniqueFd fd)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      context_(ZSTD_createCCtx()),
      out_(ZSTD_CStreamOutSize()) {
  CHECK(context_ != nullptr);
  ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, kLevel);
  ZSTD_CCtx_setParameter(context_, ZSTD_c_checksumFlag, 1);
}

ZstdWriter::ZstdWriter(ZstdWriter&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      context_(std::exchange(other.context_, nullptr)),
      out_(std::move(other.out_)),
      frame_(other.frame_),
      frames_(std::move(other.frames_)) {}

ZstdWriter::~ZstdWriter() { ZSTD_freeCCtx(context_); }

Result<void> ZstdWriter::WriteOut(ConstBytes data) {
  while (!data.empty()) {
    const ssize_t written = write(fd_.get(), data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      return FailWith(errno, "cannot write the trace {}: {}", path_, ErrnoText(errno));
    data = data.subspan(static_cast<size_t>(written));
  }
  return {};
}

Result<void> ZstdWriter::Compress(ConstBytes data, Directive directive) {
  static constexpr ZSTD_EndDirective kDirectives[] = {ZSTD_e_continue, ZSTD_e_flush, ZSTD_e_end};
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  size_t left;
  do {
    ZSTD_outBuffer out{out_.data(), out_.size(), 0};
    left = ZSTD_compressStream2(context_, &out, &in, kDirectives[static_cast<size_t>(directive)]);
    CHECK(ZSTD_isError(left) == 0);
    frame_.compressed += static_cast<uint32_t>(out.pos);
    if (auto written = WriteOut(ConstBytes(out_).first(out.pos)); !written) return written;
  } while (in.pos < in.size || (directive != Directive::kContinue && left != 0));
  frame_.decompressed += static_cast<uint32_t>(data.size());
  if (directive == Directive::kEnd) frames_.push_back(std::exchange(frame_, {}));
  return {};
}

Result<void> ZstdWriter::Write(ConstBytes data) {
  const bool full = frame_.decompressed + data.size() >= kFrameSize;
  return Compress(data, full ? Directive::kEnd : Directive::kContinue);
}

Result<void> ZstdWriter::Flush() {
  if (frame_.decompressed == 0) return {};
  return Compress({}, Directive::kFlush);
}

Result<void> ZstdWriter::Finish() {
  if (frame_.decompressed != 0) {
    if (auto ended = Compress({}, Directive::kEnd); !ended) return ended;
  }
  if (frames_.size() <= 1) return {};  // Nothing to seek; and Wireshark 4.0 stumbles over it.
  std::vector<std::byte> table;
  Put(&table, kSkippableMagic);
  Put(&table, static_cast<uint32_t>(frames_.size() * 8 + 9));
  for (const Frame& frame : frames_) {
    Put(&table, frame.compressed);
    Put(&table, frame.decompressed);
  }
  Put(&table, static_cast<uint32_t>(frames_.size()));
  Put(&table, uint8_t{0});  // No checksums: the frames have their own.
  Put(&table, kSeekTableMagic);
  return WriteOut(table);
}

Result<ZstdReader> ZstdReader::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return FailWith(errno, "cannot read the trace {}: {}", path, ErrnoText(errno));
  return ZstdReader(path, std::move(fd));
}

ZstdReader::ZstdReader(std::string path, UniqueFd fd)
    : path_(std::move(path)),
      fd_(std::move(fd)),
      context_(ZSTD_createDCtx()),
      in_(ZSTD_DStreamInSize()) {
  CHECK(context_ != nullptr);
  const size_t set = ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, kMaxWindowLog);
  CHECK(ZSTD_isError(set) == 0);
}

ZstdReader::ZstdReader(ZstdReader&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::move(other.fd_)),
      context_(std::exchange(other.context_, nullptr)),
      in_(std::move(other.in_)) {}

ZstdReader::~ZstdReader() { ZSTD_freeDCtx(context_); }

Result<size_t> ZstdReader::Read(Bytes out) {
  ZSTD_outBuffer to{out.data(), out.size(), 0};
  bool file_ended = false;
  while (to.pos < to.size && !at_end_) {
    if (in_at_ == in_end_) {
      const ssize_t got = read(fd_.get(), in_.data(), in_.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FailWith(errno, "cannot read the trace {}: {}", path_, ErrnoText(errno));
      in_at_ = 0;
      in_end_ = static_cast<size_t>(got);
      file_ended = got == 0;
    }
    ZSTD_inBuffer from{in_.data(), in_end_, in_at_};
    const size_t before = to.pos;
    const size_t left = ZSTD_decompressStream(context_, &to, &from);
    in_at_ = from.pos;
    if (file_ended && to.pos == before) {  // It holds nothing back either.
      at_end_ = true;
      truncated_ = inside_frame_;
      break;
    }
    if (ZSTD_isError(left) != 0) {
      at_end_ = true;
      truncated_ = true;
    }
    inside_frame_ = left != 0;
  }
  return to.pos;
}

Result<void> ZstdReader::Rewind() {
  if (lseek(fd_.get(), 0, SEEK_SET) != 0) {
    return FailWith(errno, "cannot read the trace {} again: {}", path_, ErrnoText(errno));
  }
  ZSTD_DCtx_reset(context_, ZSTD_reset_session_only);
  in_at_ = in_end_ = 0;
  inside_frame_ = at_end_ = truncated_ = false;
  return {};
}

}  // namespace farside::trace
