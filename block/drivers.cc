#include "block/drivers.h"

#include <fmt/format.h>

#include <utility>

#include "block/file.h"
#include "block/generated.h"
#include "block/memory.h"
#include "block/null.h"
#include "block/raw.h"

namespace farside::block {
namespace {

using NodeResult = Result<std::unique_ptr<BlockDevice>>;

// A driver's own error, with the node's name in front.
tl::unexpected<Error> Named(const NodeOptions& node, const Error& error) {
  return FailWith(error.code, "node '{}': {}", node.name, error.message);
}

// The size of a disk that has no file. `fallback` of 0: there is none.
uint64_t ReadSize(OptionReader& reader, uint64_t fallback) {
  constexpr uint64_t kLargest = uint64_t{1} << 62;
  const uint64_t size = fallback == 0 ? reader.RequiredSize("size") : reader.Size("size", fallback);
  if (size == 0 || size % kSectorSize != 0 || size > kLargest) {
    reader.AddError(
        fmt::format("option 'size' is {}: it must be a multiple of {}, not 0, and at "
                    "most 4E",
                    size, kSectorSize));
  }
  return size;
}

constexpr OptionHelp kFileOptions[] = {
    {"filename", "path of a regular file or a block device"},
    {"cache.direct", "on: past the host's page cache (O_DIRECT); default off"},
    {"aio", "io_uring or threads; default: io_uring, or threads where the host refuses it"},
    {"locking",
     "on, off or auto: refuse a file that another program uses, QEMU included; "
     "default auto: on where the file system has locks"},
};

constexpr OptionWord<FileOptions::Aio> kAioWords[] = {
    {"io_uring", FileOptions::Aio::kIoUring},
    {"threads", FileOptions::Aio::kThreads},
};

constexpr OptionWord<FileOptions::Locking> kLockingWords[] = {
    {"on", FileOptions::Locking::kOn},
    {"off", FileOptions::Locking::kOff},
    {"auto", FileOptions::Locking::kAuto},
};

NodeResult OpenFile(const NodeOptions& node, OptionReader& reader, BlockDevice*, EpollLoop& loop) {
  const FileOptions options{
      .filename = reader.RequiredString("filename"),
      .direct = reader.Bool("cache.direct", false),
      .aio = reader.Choice("aio", kAioWords, FileOptions::Aio::kDefault),
      .locking = reader.Choice("locking", kLockingWords, FileOptions::Locking::kAuto),
  };
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  auto opened = FileNode::Open(node, options, loop);
  if (!opened) return Named(node, opened.error());
  return std::move(*opened);
}

constexpr OptionHelp kRawOptions[] = {
    {"file", "the node it stands on: a node-name, or another node's options"},
    {"offset", "where in the file the disk begins; default 0"},
    {"size", "its size; default: up to the file's end"},
    {"cache.direct", "default for a file given by its options"},
};

NodeResult OpenRaw(const NodeOptions& node, OptionReader& reader, BlockDevice* file,
                   EpollLoop& loop) {
  RawNode::Window window;
  window.offset = reader.Size("offset", 0);
  if (reader.Value("size") != nullptr) window.size = reader.RequiredSize("size");
  reader.Bool("cache.direct", false);  // The graph hands it down.
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  auto created = RawNode::Create(node, *file, window, loop);
  if (!created) return Named(node, created.error());
  return std::move(*created);
}

constexpr OptionHelp kNullOptions[] = {
    {"size", "its size; default 1G"},
    {"read-zeroes", "on: reads give zeroes; default off: they leave memory as it is"},
};

NodeResult OpenNull(const NodeOptions& node, OptionReader& reader, BlockDevice*, EpollLoop&) {
  const uint64_t size = ReadSize(reader, uint64_t{1} << 30);
  const bool read_zeroes = reader.Bool("read-zeroes", false);
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  return std::make_unique<NullNode>(node, size, read_zeroes);
}

constexpr OptionHelp kMemoryOptions[] = {
    {"size", "its size"},
};

NodeResult OpenMemory(const NodeOptions& node, OptionReader& reader, BlockDevice*, EpollLoop&) {
  const uint64_t size = ReadSize(reader, 0);
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  auto created = MemoryNode::Create(node, size);
  if (!created) return Named(node, created.error());
  return std::move(*created);
}

constexpr OptionHelp kGeneratedOptions[] = {
    {"size", "its size"},
    {"seed", "a number that its content follows from; default 0"},
};

NodeResult OpenGenerated(const NodeOptions& node, OptionReader& reader, BlockDevice*, EpollLoop&) {
  const uint64_t size = ReadSize(reader, 0);
  const uint64_t seed = reader.Number("seed", 0, 0, UINT64_MAX);
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  return std::make_unique<GeneratedNode>(node, size, seed);
}

constexpr OptionHelp kCommonOptions[] = {
    {"driver", "one of the drivers"},
    {"node-name", "a name to be used by devices and other nodes"},
    {"read-only", "on: writes are refused; default off"},
    {"discard", "unmap: discarded space is given back; default ignore: discarding does nothing"},
};

constexpr Driver kDrivers[] = {
    {"file", "a regular file or a block device of the host", kFileOptions, false, &OpenFile},
    {"raw", "another node, or a window of it", kRawOptions, true, &OpenRaw},
    {"null-co", "a disk that keeps nothing", kNullOptions, false, &OpenNull},
    {"memory", "a disk in memory, of zeroes at first", kMemoryOptions, false, &OpenMemory},
    {"generated", "a disk whose content follows from a seed; writes are kept in memory",
     kGeneratedOptions, false, &OpenGenerated},
};

void AppendOptions(std::string& text, std::span<const OptionHelp> options) {
  for (const OptionHelp& option : options) {
    text += fmt::format("  {:<14}{}\n", option.name, option.help);
  }
}

}  // namespace

std::span<const Driver> Drivers() { return kDrivers; }

std::span<const OptionHelp> CommonOptions() { return kCommonOptions; }

std::string DriverHelp(std::string_view name) {
  std::string text;
  for (const Driver& driver : kDrivers) {
    if (!name.empty() && name != driver.name) continue;
    text += fmt::format("{}: {}\n", driver.name, driver.help);
    if (!name.empty()) AppendOptions(text, driver.options);
  }
  if (!name.empty()) AppendOptions(text, kCommonOptions);
  return text;
}

std::string DriverNames() {
  std::string names;
  for (const Driver& driver : kDrivers) {
    names += names.empty() ? "" : ", ";
    names += driver.name;
  }
  return names;
}

}  // namespace farside::block
