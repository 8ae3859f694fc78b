// TraceReader: reads a trace (trace_format.md), in memory that does not grow with it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "protocol/trace/event.h"
#include "protocol/trace/page_ring.h"
#include "protocol/trace/pcapng.h"
#include "protocol/trace/zstd_file.h"

namespace farside::trace {

class TraceReader {
 public:
  // Opens `path` and reads the first block. Errors name the file.
  static Result<std::unique_ptr<TraceReader>> Open(const std::string& path);

  const TraceInfo& info() const { return info_; }

  // The next event; nothing at the end. An Error for what cannot be a trace: the sentence says
  // where. The data of an event are whole, paged or not.
  Result<std::optional<Event>> Next();

  // The end came inside a packet or a frame: the recorder was killed, or the file cut. Known once
  // Next has given nothing.
  bool truncated() const { return truncated_; }

  // Back to the first event.
  Result<void> Rewind();

 private:
  TraceReader(std::string path, ZstdReader file) : path_(std::move(path)), file_(std::move(file)) {}

  // A whole pcapng block in block_; false at the end.
  Result<bool> ReadBlock(uint32_t* type);
  Result<void> ReadFirstBlock();
  Result<void> AddInterface();
  Result<bool> JoinPacket(pcapng::PacketFields* fields, pcapng::EventHeader* header);
  Result<Event> DecodeEvent(const pcapng::PacketFields& fields, const pcapng::EventHeader& header);
  Result<void> DecodePaged(ConstBytes body, size_t whole_size, Event* event);
  tl::unexpected<Error> Malformed(std::string_view what) const;

  std::string path_;
  ZstdReader file_;
  TraceInfo info_;
  PageRing pages_;
  std::vector<std::byte> block_;  // Its body, without type and lengths.
  std::vector<std::byte> body_;   // Of the event that is being read.
  bool more_ = false;             // Its next packet is to come.
  uint32_t interfaces_ = 0;
  uint32_t events_ = 0;
  bool truncated_ = false;
};

}  // namespace farside::trace
