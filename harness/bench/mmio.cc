// farside bench mmio: register accesses over vfio-user.

#include <fmt/format.h>

#include <array>
#include <memory>
#include <tuple>

#include "base/clock.h"
#include "harness/bench/bench_main.h"
#include "harness/bench/figures.h"
#include "harness/bench/floor.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/served_process.h"
#include "protocol/vfio_user_client.h"

namespace farside::bench {
namespace {

using scenario::ServedProcess;
using vfio_user::VfioUserClient;

constexpr uint32_t kBar0 = 0;
constexpr uint64_t kCsts = 0x1c;   // NVMe: reading it has no side effect.
constexpr uint64_t kIntms = 0x0c;  // Writing 0 changes nothing.
constexpr size_t kDepth = 16;
constexpr size_t kBatch = 32;
constexpr uint64_t kSpinUs = 1000;

// disk-proc with a controller, on a CPU, and the client in this thread.
struct Subject {
  std::unique_ptr<ServedProcess> process;
  std::unique_ptr<VfioUserClient> client;
};

std::vector<std::string> Arguments() {
  return {"-blockdev", "driver=null-co,node-name=d0,size=64M", "-device",
          "nvme,id=nvme0,drive=d0,serial=BENCH",
          fmt::format("--socket-path={}", scenario::kSocketPlace)};
}

Result<Subject> StartSubject(const Options& options, int cpu, bool spin) {
  std::vector<std::string> args = Arguments();
  if (spin) args.push_back(fmt::format("--spin-us={}", kSpinUs));
  auto process = ServedProcess::Start("disk-proc", std::move(args), options.bin_dir);
  if (!process) return tl::unexpected(process.error());
  vfio_user::ClientOptions client_options;
  client_options.channel.spin_ns = spin ? kSpinUs * 1000 : 0;
  auto client = (*process)->Connect([&](const std::string& path) {
    return VfioUserClient::Connect(path, client_options, nullptr);
  });
  if (!client) return tl::unexpected(client.error());
  if (auto pinned = Pin((*process)->child().pid(), cpu); !pinned) {
    return tl::unexpected(pinned.error());
  }
  return Subject{std::move(*process), std::move(*client)};
}

Result<void> ReadOnce(VfioUserClient& client) {
  const auto read = client.Read<uint32_t>({.region = kBar0, .offset = kCsts});
  return read ? Result<void>() : tl::unexpected(read.error());
}

Result<void> ReadPipelined(VfioUserClient& client, size_t count) {
  std::array<uint32_t, kDepth> values{};
  std::array<DeviceClient::ReadTicket, kDepth> tickets;
  for (size_t done = 0; done < count; done += kDepth) {
    for (size_t i = 0; i < kDepth; ++i) {
      const auto ticket =
          client.BeginRead({.region = kBar0, .offset = kCsts}, AsWritableBytes(values[i]));
      if (!ticket) return tl::unexpected(ticket.error());
      tickets[i] = *ticket;
    }
    for (const auto ticket : tickets) {
      if (auto read = client.FinishRead(ticket); !read) return read;
    }
  }
  return {};
}

// A read at the end waits until all were taken.
Result<void> WritePosted(VfioUserClient& client, size_t count) {
  const uint32_t value = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto posted = client.PostWrite({.region = kBar0, .offset = kIntms}, AsBytes(value));
    if (!posted) return posted;
  }
  return ReadOnce(client);
}

Result<void> WriteBatches(VfioUserClient& client, size_t count) {
  std::array<vfio_user::WriteMultiEntry, kBatch> writes{};
  for (auto& write : writes) write = {.offset = kIntms, .region = kBar0, .count = 4, .data = {}};
  for (size_t done = 0; done < count; done += kBatch) {
    if (auto posted = client.WriteMulti(0, writes, true); !posted) return posted;
  }
  return ReadOnce(client);
}

Result<void> MeasureAccesses(const Options& options, int cpu, bool spin, std::string_view where,
                             std::vector<Figure>* figures) {
  auto subject = StartSubject(options, cpu, spin);
  if (!subject) return tl::unexpected(subject.error());
  auto floor = PingPong::Start(kVfioUserRead, cpu, spin);
  if (!floor) return tl::unexpected(floor.error());
  VfioUserClient& client = *subject->client;
  const Measure ping = [&](size_t count) {
    return MedianOf(count, [&] { return (*floor)->Call(); });
  };
  const Measure read = [&](size_t count) {
    return MedianOf(count, [&] { return ReadOnce(client); });
  };
  const auto mean = [&](Result<void> (*run)(VfioUserClient&, size_t)) -> Measure {
    return
        [&client, run](size_t count) { return MeanOf(count, [&] { return run(client, count); }); };
  };
  const bool two_cores = cpu != 0;
  struct Row {
    const char* name;
    double bound;
    Measure measure;
  };
  std::vector<Row> rows;
  rows.push_back({"BAR read", spin ? 1.20 : two_cores ? 1.15 : 1.12, read});
  if (!spin) {
    rows.push_back({"BAR read, 16 in flight", 0.25, mean(&ReadPipelined)});
    rows.push_back({"posted BAR write", 0.20, mean(&WritePosted)});
    rows.push_back({"write in WRITE_MULTI of 32", 0.05, mean(&WriteBatches)});
  }
  for (const Row& row : rows) {
    auto figure =
        Compare(options, fmt::format("{}, {}", row.name, where), row.bound, row.measure, ping);
    if (!figure) return tl::unexpected(figure.error());
    figures->push_back(std::move(*figure));
  }
  subject->client.reset();
  return subject->process->Finish();
}

// From exec to the reply to VERSION, and what the process then holds.
Result<void> MeasureStart(const Options& options, std::vector<Figure>* figures) {
  std::vector<double> times;
  std::vector<double> sizes;
  for (size_t round = 0; round < options.rounds; ++round) {
    const MonotonicClock clock;
    const uint64_t start = clock.now_ns();
    auto process = ServedProcess::Start("disk-proc", Arguments(), options.bin_dir);
    if (!process) return tl::unexpected(process.error());
    auto client = (*process)->Connect(
        [](const std::string& path) { return VfioUserClient::Connect(path, {}, nullptr); });
    if (!client) return tl::unexpected(client.error());
    times.push_back(static_cast<double>(clock.now_ns() - start) / 1e6);
    const auto bytes = (*process)->child().PrivateBytes();
    if (!bytes) return tl::unexpected(bytes.error());
    sizes.push_back(static_cast<double>(*bytes) / (1 << 20));
  }
  figures->push_back(MakeFigure("exec to VERSION's reply", "ms", 15, times));
  figures->push_back(MakeFigure("private memory, idle", "MiB", 8, sizes));
  return {};
}

}  // namespace

Result<std::vector<Figure>> MeasureMmio(const Options& options) {
  if (auto pinned = Pin(0, 0); !pinned) return tl::unexpected(pinned.error());
  std::vector<Figure> figures;
  for (const auto& [cpu, spin, where] :
       {std::tuple(0, false, "one core"), std::tuple(1, false, "two cores"),
        std::tuple(1, true, "two cores, spinning")}) {
    ShowProgress(where);
    if (auto done = MeasureAccesses(options, cpu, spin, where, &figures); !done) {
      return tl::unexpected(done.error());
    }
  }
  if (auto done = MeasureStart(options, &figures); !done) return tl::unexpected(done.error());
  ShowProgress("");
  return figures;
}

}  // namespace farside::bench
