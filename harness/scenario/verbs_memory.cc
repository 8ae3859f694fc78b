// Verbs: guest memory, and the windows that devices have to it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "harness/scenario/args.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

constexpr uint64_t kMaxSize = 1ull << 30;
constexpr uint64_t kPollNs = 200'000;

constexpr Param kIova = {"iova", Type::kNumber, "the address that devices use", true};
constexpr Param kSize = {"size", Type::kNumber, "bytes", true};
constexpr Param kContentSize = {"size", Type::kNumber, "bytes of `fill` or `seed`", false,
                                {},     kMaxSize};
constexpr Param kFill = {"fill", Type::kNumber, "every byte", false, {}, UINT8_MAX};
constexpr Param kSeed = {"seed", Type::kNumber,
                         "8-byte word i is Mix64(Mix64(seed) + i) of base/random.h"};
constexpr Param kData = {"data", Type::kBytes, "the bytes"};

constexpr std::string_view kAccessWords[] = {"none", "r", "w", "rw"};

constexpr Param kMap[] = {
    kIova,
    kSize,
    {.name = "access",
     .type = Type::kWord,
     .help = "what the device may do",
     .fallback = "rw",
     .words = kAccessWords},
    {"fd", Type::kText,
     "map this fd of fd.make; default: the guest's memory at `iova`, by fd or "
     "by message as the scenario is run"},
    {"offset", Type::kNumber, "bytes from the start of `fd`", false, "0"},
    kDeviceParam};
constexpr Param kUnmap[] = {kIova, kSize, kDeviceParam};
constexpr Param kOnlyDevice[] = {kDeviceParam};
constexpr Param kWrite[] = {kIova, kData, kFill, kSeed, kContentSize};
constexpr Param kRead[] = {kIova, {"size", Type::kNumber, "bytes", false, "4", kMaxSize}};
constexpr Param kCheck[] = {
    kIova,        kData,
    kFill,        kSeed,
    kContentSize, {"wait", Type::kBool, "until it is so, at most until the step's timeout"},
    kDeviceParam};
constexpr Param kDigest[] = {kIova, {"size", Type::kNumber, "bytes", true, {}, kMaxSize}};
constexpr Param kAlloc[] = {{"size", Type::kNumber, "bytes", true, {}, kMaxSize}};
constexpr Param kReserve[] = {kIova, kSize};

constexpr std::string_view kFdKinds[] = {"memfd", "eventfd", "pipe", "closed", "memory"};
constexpr std::string_view kSeals[] = {"shrink", "grow", "write", "seal"};
constexpr Param kFdMake[] = {
    {"name", Type::kText, "what steps call it", true},
    {.name = "kind",
     .type = Type::kWord,
     .help = "memfd, eventfd, pipe (its reading end), closed (of a pipe whose other end is) or "
             "memory: the file of the guest's memory at `iova`, where the scenario is run by fd",
     .required = true,
     .words = kFdKinds},
    {"size", Type::kNumber, "bytes of a memfd", false, "0", kMaxSize},
    {"seals", Type::kTexts, "of a memfd: shrink, grow, write, seal"},
    {"iova", Type::kNumber, "of kind memory: where a range of it begins, and the file with it"}};
constexpr Param kFdTruncate[] = {
    {"name", Type::kText, "of fd.make", true},
    {"size", Type::kNumber, "bytes it has afterwards", true, {}, kMaxSize}};
constexpr Param kFdClose[] = {{"name", Type::kText, "of fd.make", true}};

constexpr Output kReadOutputs[] = {
    {"value", "the first 8 bytes at most, little-endian"},
    {"data", "all bytes, as hexadecimal digits", true},
};
constexpr Output kDigestOutputs[] = {{"digest", "a number that differs with the content"}};
constexpr Output kAllocOutputs[] = {{"iova", "where the pages begin"}};

Result<Outputs> Map(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const uint64_t iova = args.Number("iova");
  const uint64_t size = args.Number("size");
  DmaWindow window{.iova = iova, .size = size, .offset = args.Number("offset")};
  if (args.Has("fd")) {
    const auto fd = session.FindFd(args.Text("fd"));
    if (!fd) return tl::unexpected(fd.error());
    window.fd = *fd;
  } else if (const auto guest = session.memory().Window(iova, size)) {
    window = *guest;
  } else {
    // No memory there: DMA by message finds that out.
    window.offset = 0;
  }
  window.flags = args.Narrow<uint32_t>("access");  // kAccessWords has kDmaMapRead and Write's bits.
  const auto mapped = (*link)->client->DmaMap(window);
  if (!mapped) return tl::unexpected(mapped.error());
  return Outputs{};
}
static_assert(vfio_user::kDmaMapRead == 1 && vfio_user::kDmaMapWrite == 2);

Result<Outputs> Unmap(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto unmapped = (*link)->client->DmaUnmap(args.Number("iova"), args.Number("size"));
  if (!unmapped) return tl::unexpected(unmapped.error());
  return Outputs{};
}

Result<Outputs> UnmapAll(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto unmapped = (*link)->client->DmaUnmapAll();
  if (!unmapped) return tl::unexpected(unmapped.error());
  return Outputs{};
}

// The bytes that data, or fill or seed with size, stand for.
Result<std::vector<std::byte>> ContentOf(const Args& args) {
  const int given = int{args.Has("data")} + int{args.Has("fill")} + int{args.Has("seed")};
  if (given != 1) return Fail("give one of data, fill and seed");
  if (args.Has("data") == args.Has("size")) {
    return Fail("{}", args.Has("data") ? "size goes with fill or seed; data has its own"
                                       : "fill and seed need a size");
  }
  if (args.Has("data")) {
    const ConstBytes data = args.Data("data");
    return std::vector<std::byte>(data.begin(), data.end());
  }
  const bool fill = args.Has("fill");
  const uint64_t size = args.Number("size");
  std::vector<std::byte> out((size + 7) / 8 * 8);
  Content{.kind = fill ? Content::Kind::kFill : Content::Kind::kSeed,
          .number = args.Number(fill ? "fill" : "seed")}
      .Produce(0, out);
  out.resize(size);
  return out;
}

Result<Outputs> Write(Session& session, const Args& args) {
  const auto content = ContentOf(args);
  if (!content) return tl::unexpected(content.error());
  const auto written = session.memory().Write(args.Number("iova"), *content);
  if (!written) return tl::unexpected(written.error());
  return Outputs{};
}

Result<Outputs> Read(Session& session, const Args& args) {
  std::vector<std::byte> data(args.Number("size"));
  const auto read = session.memory().Read(args.Number("iova"), data);
  if (!read) return tl::unexpected(read.error());
  return Outputs{{"value", LoadLePartial(data)}, {"data", FormatHex(data)}};
}

// Where the content is to come, the device may need its DMA answered.
Result<void> Pause(Session& session, const Args& args) {
  const auto link = session.FindClient(args);
  if (!link) return tl::unexpected(link.error());
  const auto waited = (*link)->client->WaitReadable(-1, kPollNs);
  return waited ? Result<void>() : tl::unexpected(waited.error());
}

Result<Outputs> Check(Session& session, const Args& args) {
  constexpr uint64_t kShown = 16;
  const auto expected = ContentOf(args);
  if (!expected) return tl::unexpected(expected.error());
  const uint64_t iova = args.Number("iova");
  for (;;) {
    const auto differs = session.memory().Compare(iova, *expected);
    if (!differs) return tl::unexpected(differs.error());
    if (!*differs) return Outputs{};
    if (args.Flag("wait") && session.time_left_ns() != 0) {
      if (const auto paused = Pause(session, args); !paused) return tl::unexpected(paused.error());
      continue;
    }
    const uint64_t at = **differs;
    std::vector<std::byte> got(std::min<uint64_t>(kShown, expected->size() - at));
    if (const auto read = session.memory().Read(iova + at, got); !read) {
      return tl::unexpected(read.error());
    }
    return Fail("memory at {:#x} is {}, expected {}", iova + at, FormatHex(got),
                FormatHex(ConstBytes(*expected).subspan(at, got.size())));
  }
}

Result<Outputs> Digest(Session& session, const Args& args) {
  const auto digest = session.memory().Digest(args.Number("iova"), args.Number("size"));
  if (!digest) return tl::unexpected(digest.error());
  return Outputs{{"digest", *digest}};
}

Result<Outputs> Alloc(Session& session, const Args& args) {
  const auto iova = session.memory().Allocate(args.Number("size"));
  if (!iova) return tl::unexpected(iova.error());
  return Outputs{{"iova", *iova}};
}

Result<Outputs> Reserve(Session& session, const Args& args) {
  session.memory().Reserve(args.Number("iova"), args.Number("size"));
  return Outputs{};
}

Result<UniqueFd> MakeSealedMemfd(const Args& args) {
  auto fd = MakeMemfd("scenario", args.Number("size"));
  if (!fd) return fd;
  constexpr int kFlags[] = {F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_SEAL};
  int seals = 0;
  for (const std::string& seal : args.Texts("seals")) {
    const auto found = std::ranges::find(kSeals, seal);
    if (found == std::end(kSeals))
      return Fail("there is no seal {}: shrink, grow, write, seal", seal);
    seals |= kFlags[found - kSeals];
  }
  if (seals != 0 && fcntl(fd->get(), F_ADD_SEALS, seals) != 0) {
    return FailWith(errno, "cannot seal the memfd: {}", ErrnoText(errno));
  }
  return fd;
}

Result<UniqueFd> OpenMemory(Session& session, const Args& args) {
  if (!args.Has("iova")) return Fail("say which memory it is: iova, where a range of it begins");
  const auto window = session.memory().Window(args.Number("iova"), 1);
  if (!window) return tl::unexpected(window.error());
  if (window->fd < 0) {
    return Fail("the scenario is run by message, without files: leave that out of its \"modes\"");
  }
  if (window->offset != 0) {
    return Fail("memory at {:#x} lies {} bytes behind the start of its range", window->iova,
                window->offset);
  }
  UniqueFd fd(fcntl(window->fd, F_DUPFD_CLOEXEC, 0));
  if (!fd) return FailWith(errno, "cannot open the guest's memory: {}", ErrnoText(errno));
  return fd;
}

Result<Outputs> MakeFd(Session& session, const Args& args) {
  const std::string& name = args.Text("name");
  const std::string_view kind = kFdKinds[args.Number("kind")];
  if (kind == "memory") {
    auto fd = OpenMemory(session, args);
    if (!fd) return tl::unexpected(fd.error());
    session.AddFd(name, std::move(*fd));
    return Outputs{};
  }
  if (kind == "memfd" || kind == "eventfd") {
    auto fd = kind == "memfd" ? MakeSealedMemfd(args) : MakeEventfd();
    if (!fd) return tl::unexpected(fd.error());
    session.AddFd(name, std::move(*fd));
    return Outputs{};
  }
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0)
    return FailWith(errno, "cannot make a pipe: {}", ErrnoText(errno));
  session.AddFd(name, UniqueFd(fds[0]));
  UniqueFd writer(fds[1]);
  if (kind == "pipe") session.AddFd(name + ".writer", std::move(writer));
  return Outputs{};
}

Result<Outputs> TruncateFd(Session& session, const Args& args) {
  const auto fd = session.FindFd(args.Text("name"));
  if (!fd) return tl::unexpected(fd.error());
  if (ftruncate(*fd, static_cast<off_t>(args.Number("size"))) != 0) {
    return FailWith(errno, "cannot change the size of fd {}: {}", args.Text("name"),
                    ErrnoText(errno));
  }
  return Outputs{};
}

Result<Outputs> CloseFd(Session& session, const Args& args) {
  if (session.RemoveFd(args.Text("name"))) return Outputs{};
  return Fail("there is no fd {}", args.Text("name"));
}

constexpr Verb kVerbs[] = {
    {"dma.map", "Gives the device a window to memory.", Kind::kRaw, kMap, {}, &Map},
    {"dma.unmap", "Takes the windows of a range back.", Kind::kRaw, kUnmap, {}, &Unmap},
    {"dma.unmap_all", "Takes all windows back.", Kind::kRaw, kOnlyDevice, {}, &UnmapAll},
    {"memory.write",
     "Writes guest memory, as the guest's CPUs do.",
     Kind::kRaw,
     kWrite,
     {},
     &Write},
    {"memory.read", "Reads guest memory.", Kind::kRaw, kRead, kReadOutputs, &Read},
    {"memory.check", "Compares guest memory.", Kind::kRaw, kCheck, {}, &Check},
    {"memory.digest", "Makes a number of the content of guest memory.", Kind::kRaw, kDigest,
     kDigestOutputs, &Digest},
    {"memory.alloc", "Takes zeroed pages, which drivers then leave alone.", Kind::kRaw, kAlloc,
     kAllocOutputs, &Alloc},
    {"memory.reserve",
     "Keeps drivers away from addresses that the scenario names itself.",
     Kind::kRaw,
     kReserve,
     {},
     &Reserve},
    {"fd.make",
     "Makes a file descriptor for dma.map and frame.send.",
     Kind::kRaw,
     kFdMake,
     {},
     &MakeFd},
    {"fd.truncate", "Changes the size of a memfd.", Kind::kRaw, kFdTruncate, {}, &TruncateFd},
    {"fd.close", "Forgets a file descriptor.", Kind::kRaw, kFdClose, {}, &CloseFd},
};

}  // namespace

std::span<const Verb> MemoryVerbs() { return kVerbs; }

}  // namespace farside::scenario
