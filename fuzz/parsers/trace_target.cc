// The target "trace": a file that claims to be a trace. What does not begin as zstd does is taken
// for the pcapng inside, and put into a frame: engines can't make zstd's checksums.
//
// Oracles: "trace-rewind" (a second reading gives other events), "trace-info" (the first block is
// another one when it was written and read again).
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/fd.h"
#include "fuzz/host/oracle.h"
#include "fuzz/parsers/parsers.h"
#include "protocol/trace/pcapng.h"
#include "protocol/trace/trace_info.h"
#include "protocol/trace/trace_reader.h"
#include "protocol/trace/zstd_file.h"

namespace farside::fuzz {
namespace {

constexpr uint32_t kZstdMagic = 0xfd2f'b528;
constexpr size_t kMaxZstdBlock = 128 << 10;
// A few bytes may stand for gigabytes: no reader minds, but time is short here.
constexpr uint64_t kMaxUncompressed = 8 << 20;
constexpr uint64_t kMaxEventBytes = 32 << 20;
constexpr size_t kMaxSeed = 48 << 10;

// RFC 8878, 3.1.1: a frame of raw blocks, with a window of 128 KiB and neither size nor checksum.
std::vector<std::byte> InFrame(ConstBytes content) {
  std::vector<std::byte> out;
  const auto put = [&](uint64_t value, size_t size) {
    for (size_t i = 0; i < size; ++i) out.push_back(static_cast<std::byte>(value >> (8 * i)));
  };
  put(kZstdMagic, 4);
  put(0, 1);
  put(7 << 3, 1);
  do {
    const size_t size = std::min(content.size(), kMaxZstdBlock);
    const bool last = size == content.size();
    put(size << 3 | (last ? 1 : 0), 3);
    out.insert(out.end(), content.begin(), content.begin() + static_cast<ptrdiff_t>(size));
    content = content.subspan(size);
  } while (!content.empty());
  return out;
}

class TraceTarget final : public Target {
 public:
  TraceTarget() : file_(std::move(*MakeMemfd("fuzzed-trace", 0))) {
    path_ = fmt::format("/proc/self/fd/{}", file_.get());
  }

  void Run(ConstBytes input) override {
    ++tally_.sessions;
    const bool compressed = input.size() >= 4 && LoadLe<uint32_t>(input) == kZstdMagic;
    const std::vector<std::byte> framed = compressed ? std::vector<std::byte>() : InFrame(input);
    Put(compressed ? input : ConstBytes(framed));
    if (!IsSmall()) return;
    auto reader = trace::TraceReader::Open(path_);
    if (!reader) return;
    CheckInfo((*reader)->info());
    const auto first = ReadAll(**reader);
    if (const auto again = (*reader)->Rewind(); !again) {
      Violation("trace-rewind", "it can't be read again: {}", again.error().message);
    }
    if (ReadAll(**reader) != first) Violation("trace-rewind", "it is another one the second time");
  }

 private:
  struct Digest {
    uint64_t events = 0;
    uint64_t bytes = 0;
    std::string end;
    bool operator==(const Digest&) const = default;
  };

  void Put(ConstBytes bytes) {
    if (ftruncate(file_.get(), 0) != 0) Violation("host", "a memory file can't be cut");
    const ssize_t written = pwrite(file_.get(), bytes.data(), bytes.size(), 0);
    if (written != static_cast<ssize_t>(bytes.size())) Violation("host", "no memory for a file");
  }

  bool IsSmall() {
    auto reader = trace::ZstdReader::Open(path_);
    if (!reader) return false;
    std::vector<std::byte> block(64 << 10);
    uint64_t size = 0;
    for (;;) {
      const auto got = reader->Read(block);
      if (!got || *got == 0) return true;
      size += *got;
      if (size > kMaxUncompressed) return false;
    }
  }

  static void CheckInfo(const trace::TraceInfo& info) {
    const auto again = trace::ParseTraceInfo(trace::FormatTraceInfo(info));
    if (!again) Violation("trace-info", "it is refused: {}", again.error().message);
    if (*again != info) Violation("trace-info", "it is another one");
  }

  static Digest ReadAll(trace::TraceReader& reader) {
    Digest digest;
    while (digest.bytes < kMaxEventBytes) {
      const auto event = reader.Next();
      if (!event) {
        digest.end = event.error().message;
        break;
      }
      if (!*event) {
        digest.end = reader.truncated() ? "truncated" : "end";
        break;
      }
      ++digest.events;
      digest.bytes += (*event)->bytes.size() + sizeof(trace::Event);
      if ((*event)->is_message()) {
        (void)(*event)->is_reply();
        (void)(*event)->data_after<vfio_user::DmaAccess>();
      }
    }
    return digest;
  }

  UniqueFd file_;
  std::string path_;
};

std::vector<std::byte> ReadSome(const std::string& path, size_t limit) {
  std::vector<std::byte> out(limit);
  auto reader = trace::ZstdReader::Open(path);
  if (!reader) return {};
  const auto got = reader->Read(out);
  out.resize(got.value_or(0));
  return out;
}

}  // namespace

std::unique_ptr<Target> MakeTraceTarget() { return std::make_unique<TraceTarget>(); }

std::vector<std::string> TraceWords() {
  const auto word = [](uint32_t value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
  };
  std::vector<std::string> words{word(kZstdMagic),
                                 word(0x184d'2a5e),  // A skippable frame.
                                 word(0x8f92'eab1),  // The end of a seek table.
                                 word(trace::pcapng::kSectionHeader),
                                 word(trace::pcapng::kInterfaceDescription),
                                 word(trace::pcapng::kEnhancedPacket),
                                 word(trace::pcapng::kByteOrderMagic),
                                 word(trace::pcapng::kMaxBlockSize),
                                 word(trace::pcapng::kLiteralPage)};
  for (const char* key :
       {"farside_trace", "program", "tap", "dma", "clock", "args", "devices", "note", "id", "model",
        "device", "wire", "direct", "message", "monotonic", "virtual"}) {
    words.push_back(fmt::format("\"{}\"", key));
  }
  return words;
}

// The beginnings of the traces that are shipped; whole, where they are small.
std::vector<Seed> TraceSeeds(const std::string& source) {
  std::vector<Seed> seeds;
  for (const std::string& file : FilesBelow(source + "/scenarios", ".trace")) {
    const std::string stem = std::filesystem::path(file).stem();
    for (const size_t limit : {size_t{2} << 10, size_t{12} << 10, kMaxSeed}) {
      seeds.push_back({fmt::format("{}-{}.pcapng", stem, limit), ReadSome(file, limit)});
    }
  }
  return seeds;
}

}  // namespace farside::fuzz
