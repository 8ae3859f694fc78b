#include "protocol/trace/trace_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "protocol/trace/pcapng.h"
#include "protocol/trace/trace_info.h"

namespace farside::trace {
namespace {

using namespace pcapng;  // NOLINT: this file writes its blocks.

constexpr size_t kPendingSize = 64 << 10;
constexpr uint32_t kFlushEvery = 256;  // Events.

using Buffer = std::vector<std::byte>;

void PutBytes(Buffer* out, ConstBytes bytes) {
  out->insert(out->end(), bytes.begin(), bytes.end());
}

template <typename T>
void Put(Buffer* out, const T& value) {
  PutBytes(out, AsBytes(value));
}

void Pad(Buffer* out) { out->resize((out->size() + 3) & ~size_t{3}); }

void PutOption(Buffer* out, uint16_t code, ConstBytes value) {
  // A comment that is too long for its 16-bit length would be a broken block.
  const ConstBytes kept = value.first(std::min<size_t>(value.size(), UINT16_MAX));
  Put(out, code);
  Put(out, static_cast<uint16_t>(kept.size()));
  PutBytes(out, kept);
  Pad(out);
}

ConstBytes Text(std::string_view text) { return std::as_bytes(std::span(text)); }

}  // namespace

Result<std::unique_ptr<TraceWriter>> TraceWriter::Create(const std::string& path,
                                                         const TraceInfo& info) {
  if (FormatTraceInfo(info).size() > UINT16_MAX) {
    return Fail("cannot write the trace {}: the arguments of the process do not fit into 64 KiB",
                path);
  }
  auto file = ZstdWriter::Create(path);
  if (!file) return tl::unexpected(file.error());
  std::unique_ptr<TraceWriter> writer(new TraceWriter(std::move(*file)));
  writer->AppendHeader(info);
  if (auto flushed = writer->Flush(); !flushed) return tl::unexpected(flushed.error());
  return writer;
}

void TraceWriter::AppendBlock(uint32_t type, ConstBytes body) {
  const auto size = static_cast<uint32_t>(((body.size() + 3) & ~size_t{3}) + kBlockOverhead);
  Put(&pending_, type);
  Put(&pending_, size);
  PutBytes(&pending_, body);
  Pad(&pending_);
  Put(&pending_, size);
}

void TraceWriter::AppendHeader(const TraceInfo& info) {
  Buffer section;
  Put(&section, SectionFields{});
  PutOption(&section, kOptionComment, Text(FormatTraceInfo(info)));
  PutOption(&section, kOptionEnd, {});
  AppendBlock(kSectionHeader, section);
  for (const auto& device : info.devices) {
    for (const char* direction : {"in", "out"}) {
      Buffer interface;
      Put(&interface, InterfaceFields{});
      PutOption(&interface, kOptionIfName,
                Text(fmt::format("{}:vfio-user:{}", device.id, direction)));
      PutOption(&interface, kOptionIfTsresol, AsBytes(uint8_t{9}));
      PutOption(&interface, kOptionEnd, {});
      AppendBlock(kInterfaceDescription, interface);
    }
  }
}

void TraceWriter::AppendBody(const Event& event, Buffer* packet, uint8_t* flags) {
  if (event.kind == EventKind::kFds) {
    Put(packet, static_cast<uint8_t>(event.fds.size()));
    for (const FdSpec& fd : event.fds) {
      Put(packet, static_cast<uint8_t>(fd.kind));
      Put(packet, fd.size);
      Put(packet, fd.seals);
    }
    return;
  }
  const size_t data_at = event.is_message() ? DataOffset(event.header()) : 0;
  if (data_at == 0 || event.bytes.size() < data_at + PageRing::kPageSize) {
    return PutBytes(packet, event.bytes);
  }
  *flags |= kFlagPaged;
  PutBytes(packet, ConstBytes(event.bytes).first(data_at));
  for (ConstBytes rest = ConstBytes(event.bytes).subspan(data_at); !rest.empty();) {
    const ConstBytes page = rest.first(std::min(rest.size(), PageRing::kPageSize));
    rest = rest.subspan(page.size());
    const bool whole = page.size() == PageRing::kPageSize;
    const auto back = whole ? pages_.Find(page) : std::nullopt;
    Put(packet, back.value_or(kLiteralPage));
    if (back) continue;
    PutBytes(packet, page);
    if (whole) pages_.Add(page);
  }
}

void TraceWriter::AppendPacket(const Event& event, uint8_t flags, ConstBytes body, size_t whole) {
  const PacketFields fields{
      .interface = event.device * 2 + static_cast<uint32_t>(event.direction),
      .time_high = static_cast<uint32_t>(event.time_ns >> 32),
      .time_low = static_cast<uint32_t>(event.time_ns),
      .captured_size = static_cast<uint32_t>(sizeof(EventHeader) + body.size()),
      .original_size = static_cast<uint32_t>(sizeof(EventHeader) + whole)};
  packet_.clear();
  Put(&packet_, fields);
  Put(&packet_, EventHeader{.number = next_number_,
                            .kind = static_cast<uint8_t>(event.kind),
                            .flags = flags,
                            .cpu = event.cpu,
                            .time_ns = event.time_ns});
  PutBytes(&packet_, body);
  AppendBlock(kEnhancedPacket, packet_);
}

Result<void> TraceWriter::Write(const Event& event) {
  body_.clear();
  uint8_t flags = 0;
  AppendBody(event, &body_, &flags);
  const size_t whole = flags != 0 ? event.bytes.size() : body_.size();
  ConstBytes rest = body_;
  do {
    const ConstBytes part = rest.first(std::min(rest.size(), kMaxPacketBody));
    rest = rest.subspan(part.size());
    const uint8_t more = rest.empty() ? 0 : kFlagMore;
    AppendPacket(event, static_cast<uint8_t>(flags | more), part, whole);
  } while (!rest.empty());
  ++next_number_;
  if (next_number_ % kFlushEvery == 0) return Flush();
  return pending_.size() < kPendingSize ? Result<void>() : Drain();
}

Result<void> TraceWriter::Drain() {
  const auto written = file_.Write(pending_);
  pending_.clear();
  return written;
}

Result<void> TraceWriter::Flush() {
  if (auto drained = Drain(); !drained) return drained;
  return file_.Flush();
}

Result<void> TraceWriter::Finish() {
  if (auto drained = Drain(); !drained) return drained;
  return file_.Finish();
}

}  // namespace farside::trace
