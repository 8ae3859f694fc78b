#include "protocol/trace/trace_reader.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "protocol/trace/pcapng.h"
#include "protocol/trace/trace_info.h"

namespace farside::trace {
namespace {

using namespace pcapng;  // NOLINT: this file reads its blocks.

// Takes a T off the front of `in`; false if it is too short.
template <typename T>
bool Take(ConstBytes& in, T* out) {
  if (in.size() < sizeof(T)) return false;
  std::memcpy(out, in.data(), sizeof(T));
  in = in.subspan(sizeof(T));
  return true;
}

// The first option `code` in a block's options.
std::optional<std::string_view> FindOption(ConstBytes options, uint16_t code) {
  uint16_t found;
  uint16_t size;
  while (Take(options, &found) && Take(options, &size) && found != kOptionEnd) {
    if (options.size() < size) break;
    if (found == code) return std::string_view(reinterpret_cast<const char*>(options.data()), size);
    options = options.subspan(std::min<size_t>(options.size(), (size + 3u) & ~3u));
  }
  return std::nullopt;
}

}  // namespace

tl::unexpected<Error> TraceReader::Malformed(std::string_view what) const {
  return Fail("{} is damaged at event {}: {}", path_, events_, what);
}

Result<std::unique_ptr<TraceReader>> TraceReader::Open(const std::string& path) {
  auto file = ZstdReader::Open(path);
  if (!file) return tl::unexpected(file.error());
  std::unique_ptr<TraceReader> reader(new TraceReader(path, std::move(*file)));
  if (auto read = reader->ReadFirstBlock(); !read) return tl::unexpected(read.error());
  return reader;
}

Result<void> TraceReader::ReadFirstBlock() {
  uint32_t type;
  const auto read = ReadBlock(&type);
  if (!read) return tl::unexpected(read.error());
  ConstBytes body = block_;
  SectionFields section;
  if (!*read || type != kSectionHeader || !Take(body, &section) ||
      section.byte_order_magic != kByteOrderMagic) {
    return Fail("{} is no Farside trace: it is not pcapng compressed with zstd", path_);
  }
  const auto comment = FindOption(body, kOptionComment);
  if (!comment) return Fail("{} is no Farside trace: its section has no comment", path_);
  auto info = ParseTraceInfo(*comment);
  if (!info) return Fail("{}: {}", path_, info.error().message);
  info_ = std::move(*info);
  return {};
}

Result<bool> TraceReader::ReadBlock(uint32_t* type) {
  struct {
    uint32_t type;
    uint32_t size;
  } head;
  const auto got = file_.Read(AsWritableBytes(head));
  if (!got) return tl::unexpected(got.error());
  truncated_ = file_.truncated() || (*got != 0 && *got < sizeof head);
  if (*got < sizeof head) return false;
  if (head.size < kBlockOverhead || head.size > kMaxBlockSize || head.size % 4 != 0) {
    return Malformed(fmt::format("a block claims {} bytes", head.size));
  }
  block_.resize(head.size - sizeof head);
  const auto rest = file_.Read(block_);
  if (!rest) return tl::unexpected(rest.error());
  if (*rest < block_.size()) {
    truncated_ = true;
    return false;
  }
  const auto again = LoadLe<uint32_t>(ConstBytes(block_).last(4));
  if (again != head.size) return Malformed("a block's two lengths differ");
  block_.resize(block_.size() - sizeof again);
  *type = head.type;
  return true;
}

Result<std::optional<Event>> TraceReader::Next() {
  for (;;) {
    uint32_t type;
    const auto read = ReadBlock(&type);
    if (!read) return tl::unexpected(read.error());
    if (!*read) {
      truncated_ = truncated_ || more_;
      return std::nullopt;
    }
    if (type == kInterfaceDescription) ++interfaces_;
    if (type != kEnhancedPacket) continue;  // Other tools may add blocks.
    EventHeader header;
    PacketFields fields;
    const auto whole = JoinPacket(&fields, &header);
    if (!whole) return tl::unexpected(whole.error());
    if (!*whole) continue;
    auto event = DecodeEvent(fields, header);
    if (!event) return tl::unexpected(event.error());
    ++events_;
    return std::move(*event);
  }
}

// Adds the packet to `body_`; true when the event is whole.
Result<bool> TraceReader::JoinPacket(PacketFields* fields, EventHeader* header) {
  ConstBytes packet = block_;
  if (!Take(packet, fields) || fields->captured_size > packet.size() ||
      fields->captured_size < sizeof *header || fields->original_size < sizeof *header) {
    return Malformed("a packet is too short");
  }
  packet = packet.first(fields->captured_size);
  Take(packet, header);
  if (header->number != events_) {
    return Malformed(fmt::format("event {} stands there", header->number));
  }
  if (!std::exchange(more_, (header->flags & kFlagMore) != 0)) body_.clear();
  if (body_.size() + packet.size() > kMaxBlockSize) return Malformed("it is too long");
  body_.insert(body_.end(), packet.begin(), packet.end());
  return !more_;
}

Result<Event> TraceReader::DecodeEvent(const PacketFields& fields, const EventHeader& header) {
  ConstBytes body = body_;
  if (fields.interface >= interfaces_ || fields.interface / 2 >= info_.devices.size()) {
    return Malformed(fmt::format("there is no interface {}", fields.interface));
  }
  Event event{.number = header.number,
              .kind = EventKind{header.kind},
              .direction = Direction{static_cast<uint8_t>(fields.interface % 2)},
              .device = fields.interface / 2,
              .cpu = header.cpu,
              .time_ns = header.time_ns,
              .bytes = {},
              .fds = {}};
  switch (event.kind) {
    case EventKind::kMessage: {
      const size_t whole = fields.original_size - sizeof header;
      if ((header.flags & kFlagPaged) != 0) {
        if (auto decoded = DecodePaged(body, whole, &event); !decoded) {
          return tl::unexpected(decoded.error());
        }
      } else {
        event.bytes.assign(body.begin(), body.end());
      }
      if (event.bytes.size() < sizeof(vfio_user::Header)) {
        return Malformed("a message is shorter than its header");
      }
      return event;
    }
    case EventKind::kFds: {
      uint8_t count;
      if (!Take(body, &count) || body.size() != size_t{count} * kFdFieldsSize) break;
      for (; count != 0; --count) {
        uint8_t kind = 0;
        FdSpec& fd = event.fds.emplace_back();
        Take(body, &kind);
        Take(body, &fd.size);
        Take(body, &fd.seals);
        fd.kind = FdSpec::Kind{kind};
      }
      return event;
    }
    case EventKind::kSteps:
      if (body.size() != sizeof(uint64_t)) break;
      event.bytes.assign(body.begin(), body.end());
      return event;
    case EventKind::kAttach:
    case EventKind::kDetach:
      if (!body.empty()) break;
      return event;
  }
  return Malformed(
      fmt::format("its kind {} is unknown, or its size {} wrong for it", header.kind, body.size()));
}

Result<void> TraceReader::DecodePaged(ConstBytes body, size_t whole_size, Event* event) {
  constexpr size_t kFixed = sizeof(vfio_user::Header) + 16;
  if (body.size() < kFixed || whole_size < kFixed || whole_size > kMaxBlockSize) {
    return Malformed("paged data without a message");
  }
  event->bytes.assign(body.begin(), body.begin() + kFixed);
  event->bytes.reserve(whole_size);
  body = body.subspan(kFixed);
  while (event->bytes.size() < whole_size) {
    const size_t size = std::min(whole_size - event->bytes.size(), PageRing::kPageSize);
    uint32_t back;
    if (!Take(body, &back)) return Malformed("its pages end early");
    ConstBytes page = pages_.At(back);
    if (back == kLiteralPage) {
      if (body.size() < size) return Malformed("a page ends early");
      page = body.first(size);
      body = body.subspan(size);
    } else if (page.empty() || size != PageRing::kPageSize) {
      return Malformed(fmt::format("a reference {} leads to no page", back));
    }
    event->bytes.insert(event->bytes.end(), page.begin(), page.end());
    if (back == kLiteralPage && size == PageRing::kPageSize) pages_.Add(page);
  }
  return {};
}

Result<void> TraceReader::Rewind() {
  if (auto rewound = file_.Rewind(); !rewound) return rewound;
  pages_ = {};
  interfaces_ = 0;
  events_ = 0;
  more_ = false;
  truncated_ = false;
  return ReadFirstBlock();
}

}  // namespace farside::trace
