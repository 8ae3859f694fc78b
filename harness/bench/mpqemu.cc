// farside bench mpqemu: an LSI53C895A over mpqemu, ours and QEMU's own.

#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <tuple>
#include <utility>

#include "base/clock.h"
#include "harness/bench/bench_main.h"
#include "harness/bench/figures.h"
#include "harness/bench/floor.h"
#include "harness/drivers/lsi_driver.h"
#include "harness/host/guest_memory.h"
#include "harness/scenario/remote_process.h"
#include "protocol/mpqemu_client.h"

namespace farside::bench {
namespace {

using mpqemu::MpqemuClient;
using scenario::RemoteProcess;

constexpr uint32_t kMmioBar = 1;
constexpr uint64_t kScratchA = 0x34;  // Reading it has no side effect.
constexpr uint32_t kReadBytes = 64 << 10;
constexpr uint32_t kBlockSize = 512;
constexpr uint64_t kImageBytes = 32 << 20;
constexpr size_t kReads = 256;  // In a round.
// Commands that a sequential reader keeps in flight: sym53c8xx's own default for a target.
constexpr size_t kDepth = 16;
constexpr uint64_t kExitTimeoutNs = 10'000'000'000;

// The adapter, with a disk behind it where `image` names one.
std::vector<std::string> Arguments(const std::string& image = "") {
  std::vector<std::string> args{"-machine", "x-remote", "-nodefaults", "-display", "none"};
  if (!image.empty()) {
    args.insert(args.end(),
                {"-blockdev", fmt::format("driver=file,filename={},node-name=f0", image),
                 "-blockdev", "driver=raw,file=f0,node-name=d0"});
  }
  args.insert(args.end(), {"-device", "lsi53c895a,id=lsi0"});
  if (!image.empty()) {
    args.insert(args.end(), {"-device", "scsi-hd,drive=d0,bus=lsi0.0,scsi-id=0,lun=0"});
  }
  args.insert(args.end(), {"-object", fmt::format("x-remote-object,id=robj1,devid=lsi0,fd={}",
                                                  scenario::kFdPlace)});
  return args;
}

// A process with the adapter, and the client in this thread.
struct Subject {
  RemoteProcess process;
  std::unique_ptr<MpqemuClient> client;
};

Result<Subject> StartSubject(const std::string& program, const std::string& bin_dir, int cpu,
                             const std::string& image = "") {
  auto process = RemoteProcess::Start(program, program, Arguments(image), bin_dir);
  if (!process) return tl::unexpected(process.error());
  auto client =
      MpqemuClient::Attach(std::move(process->socket), {.settle_ns = scenario::kQemuSettleNs});
  if (!client) return Fail("{}: {}; {}", program, client.error().message, process->LastWords());
  if (auto pinned = Pin(process->child->pid(), cpu); !pinned) {
    return tl::unexpected(pinned.error());
  }
  return Subject{std::move(*process), std::move(*client)};
}

Result<void> MeasureReads(const Options& options, int cpu, std::string_view where,
                          std::vector<Figure>* figures) {
  auto ours = StartSubject("disk-proc", options.bin_dir, cpu);
  if (!ours) return tl::unexpected(ours.error());
  auto peer = StartSubject(options.peer, "", cpu);
  if (!peer) return tl::unexpected(peer.error());
  auto floor = PingPong::Start(kMpqemuRead, cpu, false);
  if (!floor) return tl::unexpected(floor.error());
  const auto read = [](MpqemuClient& client) -> Measure {
    return [&client](size_t count) {
      return MedianOf(count, [&client]() -> Result<void> {
        const auto value = client.Read<uint32_t>({.region = kMmioBar, .offset = kScratchA});
        return value ? Result<void>() : tl::unexpected(value.error());
      });
    };
  };
  const Measure ping = [&](size_t count) {
    return MedianOf(count, [&] { return (*floor)->Call(); });
  };
  const std::string name = fmt::format("BAR read, {}, against ", where);
  auto against_floor = Compare(options, name + "the floor", 1.15, read(*ours->client), ping);
  if (!against_floor) return tl::unexpected(against_floor.error());
  auto against_peer =
      Compare(options, name + "QEMU's remote", 1.0, read(*ours->client), read(*peer->client));
  if (!against_peer) return tl::unexpected(against_peer.error());
  figures->push_back(std::move(*against_floor));
  figures->push_back(std::move(*against_peer));
  return {};
}

// A guest's driver and its memory on one of the two.
struct Guest {
  Subject subject;
  std::unique_ptr<GuestMemory> memory;
  std::unique_ptr<LsiDriver> driver;
  GuestPages buffers{};  // kDepth of them.
  uint32_t next = 0;     // The block that the next read begins at.
};

Result<std::unique_ptr<Guest>> StartGuest(const std::string& program, const std::string& bin_dir,
                                          int cpu, const std::string& image) {
  auto subject = StartSubject(program, bin_dir, cpu, image);
  if (!subject) return tl::unexpected(subject.error());
  const MemoryRange range{.iova = 1 << 20, .size = 16 << 20};
  auto memory = GuestMemory::Create({&range, 1}, Reach::kFd);
  if (!memory) return tl::unexpected(memory.error());
  auto guest = std::make_unique<Guest>(
      Guest{.subject = std::move(*subject), .memory = std::move(*memory), .driver = nullptr});
  auto buffers = GuestPages::Take(*guest->memory, kDepth * kReadBytes);
  if (!buffers) return tl::unexpected(buffers.error());
  guest->buffers = std::move(*buffers);
  if (auto mapped = guest->memory->MapTo(*guest->subject.client); !mapped) {
    return tl::unexpected(mapped.error());
  }
  auto driver = LsiDriver::Probe(*guest->subject.client, *guest->memory, {});
  if (!driver) return tl::unexpected(driver.error());
  guest->driver = std::move(*driver);
  if (auto enabled = guest->driver->Enable(); !enabled) return tl::unexpected(enabled.error());
  // A unit attention comes first.
  (void)guest->driver->RequestSense(0);
  return guest;
}

// The next 64 KiB times `depth`, from the start again behind the last; with one look of the chip at
// all of them, as a driver has that is given them at once.
Result<void> ReadNext(Guest& guest, size_t depth) {
  constexpr uint32_t kBlocks = kReadBytes / kBlockSize;
  std::array<uint8_t, kDepth> ids{};
  for (size_t i = 0; i < depth; ++i) {
    const auto id = guest.driver->QueueRead(0, guest.next, kBlocks, kReadBytes,
                                            guest.buffers.iova() + i * kReadBytes);
    if (!id) return tl::unexpected(id.error());
    ids[i] = *id;
    guest.next = (guest.next + kBlocks) % (kImageBytes / kBlockSize);
  }
  if (const auto kicked = guest.driver->Kick(); !kicked) return kicked;
  for (const uint8_t id : std::span(ids).first(depth)) {
    const auto read = guest.driver->Wait(id);
    if (!read) return tl::unexpected(read.error());
    if (read->status != 0 || read->residual != 0) {
      return Fail("a read of 64 KiB ended with status {:#x} and {} bytes too few", read->status,
                  read->residual);
    }
  }
  return {};
}

// The mean time of a read in the median batch.
Measure ReadsOf(Guest& guest, size_t depth) {
  return [&guest, depth](size_t) -> Result<double> {
    const auto batch = MedianOf(kReads / depth, [&] { return ReadNext(guest, depth); });
    return batch ? Result<double>(*batch / static_cast<double>(depth)) : batch;
  };
}

Result<void> MeasureDisk(const Options& options, int cpu, std::string_view where,
                         std::vector<Figure>* figures) {
  const auto directory = scenario::MakeDirectory();
  if (!directory) return tl::unexpected(directory.error());
  // One each: a process locks its image.
  const std::string images[] = {*directory + "/ours.img", *directory + "/peer.img"};
  const auto measure = [&]() -> Result<void> {
    for (const std::string& image : images) std::ofstream(image) << std::string(kImageBytes, 'f');
    auto ours = StartGuest("disk-proc", options.bin_dir, cpu, images[0]);
    if (!ours) return tl::unexpected(ours.error());
    auto peer = StartGuest(options.peer, "", cpu, images[1]);
    if (!peer) return tl::unexpected(peer.error());
    // One shows the accesses of a command, which both sides have in common; two what the models
    // cost. From 4 in flight on QEMU's takes about 0.5 ms a read, as if its script rested;
    // measured, not explained.
    for (const auto& [depth, bound] : {std::pair<size_t, double>(1, 1), {2, 1}, {kDepth, 3}}) {
      // The peer's time over ours: how much faster ours is.
      auto figure = Compare(options, "", bound, ReadsOf(**peer, depth), ReadsOf(**ours, depth));
      if (!figure) return tl::unexpected(figure.error());
      std::swap(figure->subject, figure->floor);
      figure->name = fmt::format("64 KiB by SCRIPTS, {} in flight, {}", depth, where);
      figure->at_least = true;
      figures->push_back(std::move(*figure));
    }
    return {};
  };
  auto measured = measure();
  std::error_code ignored;
  std::filesystem::remove_all(*directory, ignored);
  return measured;
}

struct Start {
  double ms = 0;   // From exec to the first reply.
  double mib = 0;  // Private memory then.
};

// Asks for the vendor id with no client around it: the first thing that a proxy hears.
Result<Start> StartOnce(const std::string& program, const std::string& bin_dir) {
  const MonotonicClock clock;
  const uint64_t begin = clock.now_ns();
  auto process = RemoteProcess::Start(program, program, Arguments(), bin_dir);
  if (!process) return tl::unexpected(process.error());
  struct {
    mpqemu::Header header = mpqemu::MakeHeader(mpqemu::Command::kPciCfgRead, 12);
    mpqemu::ConfigAccess access{.address = 0, .value = 0, .size = 2};
    uint32_t padding = 0;
  } request;
  constexpr size_t kSize = sizeof(mpqemu::Header) + sizeof(mpqemu::ConfigAccess);
  std::array<std::byte, 24> reply;
  const int socket = process->socket.get();
  if (send(socket, &request, kSize, MSG_NOSIGNAL) != static_cast<ssize_t>(kSize) ||
      recv(socket, reply.data(), reply.size(), MSG_WAITALL) != static_cast<ssize_t>(reply.size())) {
    return Fail("{} does not answer: {}", program, process->LastWords());
  }
  const double ms = static_cast<double>(clock.now_ns() - begin) / 1e6;
  const auto bytes = process->child->PrivateBytes();
  if (!bytes) return tl::unexpected(bytes.error());
  process->socket.reset();
  if (!process->child->Wait(kExitTimeoutNs)) return Fail("{} does not end by itself", program);
  return Start{ms, static_cast<double>(*bytes) / (1 << 20)};
}

Result<void> MeasureStart(const Options& options, std::vector<Figure>* figures) {
  std::vector<double> times[2];
  std::vector<double> sizes[2];
  for (size_t round = 0; round < options.rounds; ++round) {
    const std::pair<std::string, std::string> programs[] = {{"disk-proc", options.bin_dir},
                                                            {options.peer, ""}};
    for (size_t i = 0; i < 2; ++i) {
      const auto start = StartOnce(programs[i].first, programs[i].second);
      if (!start) return tl::unexpected(start.error());
      times[i].push_back(start->ms);
      sizes[i].push_back(start->mib);
    }
  }
  figures->push_back(
      MakeFigure("exec to first reply, against QEMU's remote", "ms", 0.15, times[0], times[1]));
  figures->push_back(
      MakeFigure("private memory, against QEMU's remote", "MiB", 0.15, sizes[0], sizes[1]));
  return {};
}

}  // namespace

Result<std::vector<Figure>> MeasureMpqemu(const Options& options) {
  std::vector<Figure> figures;
  ShowProgress("start");
  if (auto done = MeasureStart(options, &figures); !done) return tl::unexpected(done.error());
  if (auto pinned = Pin(0, 0); !pinned) return tl::unexpected(pinned.error());
  for (const auto& [cpu, where] : {std::pair(0, "one core"), std::pair(1, "two cores")}) {
    ShowProgress(where);
    auto done = MeasureReads(options, cpu, where, &figures);
    if (done) done = MeasureDisk(options, cpu, where, &figures);
    if (!done) return tl::unexpected(done.error());
  }
  ShowProgress("");
  return figures;
}

}  // namespace farside::bench
