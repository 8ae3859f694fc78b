// TraceWriter: writes a trace (trace_format.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "protocol/trace/event.h"
#include "protocol/trace/page_ring.h"
#include "protocol/trace/zstd_file.h"

namespace farside::trace {

class TraceWriter {
 public:
  // Makes the file, or empties it.
  static Result<std::unique_ptr<TraceWriter>> Create(const std::string& path,
                                                     const TraceInfo& info);

  // Appends an event and numbers it; event.number is not looked at. Errors of the file come out at
  // Finish, or here.
  Result<void> Write(const Event& event);

  // What has been written can be read after a crash.
  Result<void> Flush();

  // Ends the file with its index. Without it the file is readable, but not seekable.
  Result<void> Finish();

  uint32_t events() const { return next_number_; }

 private:
  explicit TraceWriter(ZstdWriter file) : file_(std::move(file)) {}

  void AppendBlock(uint32_t type, ConstBytes body);
  void AppendHeader(const TraceInfo& info);
  // A part of an event of which `whole` bytes were to be recorded.
  void AppendPacket(const Event& event, uint8_t flags, ConstBytes body, size_t whole);
  void AppendBody(const Event& event, std::vector<std::byte>* packet, uint8_t* flags);
  Result<void> Drain();

  ZstdWriter file_;
  PageRing pages_;
  std::vector<std::byte> pending_;  // Blocks not yet handed to the file.
  std::vector<std::byte> body_;     // These two are kept for their memory.
  std::vector<std::byte> packet_;
  uint32_t next_number_ = 0;
};

}  // namespace farside::trace
