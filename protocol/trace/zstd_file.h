// ZstdWriter and ZstdReader: a file in zstd's seekable format (frames, then a table of them).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/fd.h"

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace farside::trace {

class ZstdWriter {
 public:
  // Uncompressed; a frame ends with a Write. Wireshark 4.0 reads no file beyond its first frame, so
  // that shorter frames would be nicer to seek in and harder to look at.
  static constexpr size_t kFrameSize = 64 << 20;

  static Result<ZstdWriter> Create(const std::string& path);
  ZstdWriter(ZstdWriter&&) noexcept;
  ZstdWriter& operator=(ZstdWriter&&) = delete;
  ~ZstdWriter();

  // Appends `data`, all of it in one frame.
  Result<void> Write(ConstBytes data);
  // Everything written so far can be decompressed from the file.
  Result<void> Flush();
  // Ends the last frame and appends the table.
  Result<void> Finish();

 private:
  struct Frame {
    uint32_t compressed = 0;
    uint32_t decompressed = 0;
  };
  enum class Directive { kContinue, kFlush, kEnd };

  ZstdWriter(std::string path, UniqueFd fd);
  Result<void> Compress(ConstBytes data, Directive directive);
  Result<void> WriteOut(ConstBytes data);

  std::string path_;
  UniqueFd fd_;
  ZSTD_CCtx_s* context_;
  std::vector<std::byte> out_;
  Frame frame_;
  std::vector<Frame> frames_;
};

class ZstdReader {
 public:
  static Result<ZstdReader> Open(const std::string& path);
  ZstdReader(ZstdReader&&) noexcept;
  ZstdReader& operator=(ZstdReader&&) = delete;
  ~ZstdReader();

  // Fills `out` as far as the data go; how many bytes came. A file that ends inside a frame, or is
  // damaged from some point on, ends there: truncated() then.
  Result<size_t> Read(Bytes out);
  bool truncated() const { return truncated_; }
  Result<void> Rewind();

 private:
  ZstdReader(std::string path, UniqueFd fd);

  std::string path_;
  UniqueFd fd_;
  ZSTD_DCtx_s* context_;
  std::vector<std::byte> in_;
  size_t in_at_ = 0;
  size_t in_end_ = 0;
  bool inside_frame_ = false;
  bool at_end_ = false;
  bool truncated_ = false;
};

}  // namespace farside::trace
