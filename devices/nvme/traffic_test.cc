// Random traffic, checked against a shadow of disk and memory; and random abuse.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "base/random.h"
#include "devices/nvme/test_support.h"

namespace farside::nvme {
namespace {

constexpr uint64_t kPage = 4096;

// A driver with several queue pairs that never has two commands on the same blocks or memory.
class Traffic {
 public:
  static constexpr uint16_t kQueues = 3;

  Traffic(DmaMode mode, uint64_t seed, uint32_t fetch_batch)
      : random_(seed),
        machine_(mode, {.serial = "traffic", .fetch_batch = fetch_batch},
                 {.request_alignment = 512,
                  .memory_alignment = seed % 3 == 0 ? 512u : 1u,
                  .discard_granularity = 512,
                  .discard_zeroes = true}),
        shadow_(kDiskSize) {
    machine_.driver->EnableMsix();
    EXPECT_TRUE(machine_.driver->Enable(8));
    for (uint16_t id = 1; id <= kQueues; ++id) {
      const auto entries = static_cast<uint32_t>(4 + random_.Below(20));
      EXPECT_EQ(machine_.driver->CreateQueues(id, entries, id), Status::kSuccess);
    }
    for (Area& area : areas_) area.base = machine_.driver->Allocate(kAreaPages * kPage);
    for (size_t i = 0; i < shadow_.size(); ++i) shadow_[i] = static_cast<std::byte>(Mix64(i / 64));
    Copy(machine_.disk.data(), shadow_);
    machine_.irq.Forget();
  }

  Machine& machine() { return machine_; }
  Random& random() { return random_; }
  Driver& driver() { return *machine_.driver; }
  uint64_t completed() const { return completed_; }

  // Puts a random command into a random queue, if all it needs is free.
  void Submit() {
    const auto id = static_cast<uint16_t>(1 + random_.Below(kQueues));
    Driver::Queue& queue = driver().queue(id);
    if ((queue.tail + 1) % queue.sq_size == queue.sq_head) return;
    const auto area = static_cast<uint32_t>(random_.Below(kAreas));
    const auto zone = static_cast<uint32_t>(random_.Below(kZones));
    if (areas_[area].busy || zones_busy_[zone]) return;
    static constexpr IoOpcode kMix[] = {
        IoOpcode::kRead,    IoOpcode::kRead,  IoOpcode::kWrite,       IoOpcode::kWrite,
        IoOpcode::kCompare, IoOpcode::kFlush, IoOpcode::kWriteZeroes, IoOpcode::kDatasetManagement};
    Operation operation;
    operation.opcode = kMix[random_.Below(std::size(kMix))];
    operation.area = area;
    operation.zone = zone;
    const uint64_t first = random_.Below(kZoneBlocks);
    operation.offset = (zone * kZoneBlocks + first) * kBlock;
    const auto blocks = static_cast<uint32_t>(1 + random_.Below(kZoneBlocks - first));
    operation.size = uint64_t{blocks} * kBlock;
    Sqe sqe = IoCommand(operation.opcode, operation.offset / kBlock, blocks);
    if (random_.OneIn(4) && operation.opcode == IoOpcode::kWrite) sqe.cdw12 |= 1u << 30;
    Prepare(operation, sqe);
    areas_[area].busy = true;
    zones_busy_[zone] = true;
    operations_[{id, driver().Put(id, sqe)}] = operation;
  }

  // Looks at what completed on a queue.
  void Reap(uint16_t id) {
    while (const auto cqe = driver().Take(id)) {
      ++completed_;
      ASSERT_EQ(cqe->sqid, id);
      const auto found = operations_.find({id, cqe->cid});
      ASSERT_NE(found, operations_.end()) << "a completion of nothing";
      Check(found->second, StatusOf(*cqe));
      areas_[found->second.area].busy = false;
      zones_busy_[found->second.zone] = false;
      operations_.erase(found);
    }
  }

  void Finish() {
    machine_.disk.ReleaseAll();
    for (int i = 0; i < 100 && !operations_.empty(); ++i) {
      for (uint16_t id = 1; id <= kQueues; ++id) driver().Ring(id);
      EXPECT_TRUE(machine_.loop.RunUntilIdle());
      for (uint16_t id = 1; id <= kQueues; ++id) {
        Reap(id);
        driver().RingCompletion(id);
      }
    }
    EXPECT_TRUE(operations_.empty()) << operations_.size() << " commands never completed";
    EXPECT_TRUE(Equal(machine_.disk.data(), shadow_)) << "the medium differs";
    uint64_t interrupts = 0;
    for (uint16_t id = 1; id <= kQueues; ++id) interrupts += machine_.irq.msix(id);
    EXPECT_EQ(interrupts, completed_) << "one interrupt a completion";
    EXPECT_EQ(driver().Get(kCsts), kCstsRdy);
  }

 private:
  static constexpr uint32_t kZones = 64;
  static constexpr uint64_t kZoneBlocks = kDiskSize / kBlock / kZones;
  static constexpr uint32_t kAreas = 16;
  // Pages for data, then two for lists.
  static constexpr uint64_t kDataPages = kZoneBlocks * kBlock / kPage + 1;
  static constexpr uint64_t kAreaPages = kDataPages + 2;

  struct Area {
    uint64_t base = 0;
    bool busy = false;
  };
  struct Operation {
    IoOpcode opcode{};
    uint32_t area = 0;
    uint32_t zone = 0;
    uint64_t offset = 0;
    uint64_t size = 0;
    std::vector<DmaSegment> segments;
    std::vector<std::byte> image;  // Of the area, as it was submitted.
    std::vector<std::byte> data;   // To be written.
  };

  void Prepare(Operation& operation, Sqe& sqe) {
    const uint64_t base = areas_[operation.area].base;
    const Bytes memory = machine_.host.At(base, kAreaPages * kPage);
    Fill(memory, 0xcc);
    if (operation.opcode == IoOpcode::kDatasetManagement) {
      const DsmRange range{.blocks = static_cast<uint32_t>(operation.size / kBlock),
                           .first_block = operation.offset / kBlock};
      Copy(memory.first(sizeof range), AsBytes(range));
      sqe.prp1 = base;
      sqe.cdw10 = 0;
      sqe.cdw11 = 1 << 2;
    } else if (operation.opcode != IoOpcode::kFlush && operation.opcode != IoOpcode::kWriteZeroes) {
      LayOut(operation, sqe, base);
    }
    if (operation.opcode == IoOpcode::kWrite) {
      operation.data.resize(operation.size);
      for (size_t at = 0; at < operation.size; at += 8) {
        StoreLe(Bytes(operation.data).subspan(at), random_.Next());
      }
      Exchange(operation, operation.data, /*to_memory=*/true);
    } else if (operation.opcode == IoOpcode::kCompare) {
      operation.data.assign(Stored(operation).begin(), Stored(operation).end());
      Exchange(operation, operation.data, /*to_memory=*/true);
    }
    operation.image.assign(memory.begin(), memory.end());
  }

  // PRPs over the area's pages in random order, from a random offset, the list anywhere in its
  // page.
  void LayOut(Operation& operation, Sqe& sqe, uint64_t base) {
    std::vector<uint64_t> pages(kDataPages);
    for (uint64_t i = 0; i < kDataPages; ++i) pages[i] = base + i * kPage;
    for (uint64_t i = kDataPages; i > 1; --i) std::swap(pages[i - 1], pages[random_.Below(i)]);
    const uint64_t start = random_.OneIn(2) ? 0 : random_.Below(kPage / 4) * 4;
    sqe.prp1 = pages[0] + start;
    uint64_t left = operation.size;
    const auto add = [&](uint64_t iova, uint64_t size) {
      operation.segments.push_back({iova, size});
      left -= size;
    };
    add(sqe.prp1, std::min(left, kPage - start));
    if (left == 0) return;
    if (left <= kPage) {
      sqe.prp2 = pages[1];
      return add(pages[1], left);
    }
    uint64_t list = base + kDataPages * kPage + (kPage / 8 - 1 - random_.Below(4)) * 8;
    sqe.prp2 = list;
    for (size_t i = 1; left != 0; ++i) {
      if (list % kPage == kPage - 8 && left > kPage) {
        const uint64_t next = base + (kDataPages + 1) * kPage;
        machine_.host.Poke(list, next);
        list = next;
      }
      machine_.host.Poke(list, pages[i]);
      list += 8;
      add(pages[i], std::min(left, kPage));
    }
  }

  void Exchange(const Operation& operation, Bytes data, bool to_memory) {
    for (const DmaSegment& segment : operation.segments) {
      const Bytes memory = machine_.host.At(segment.iova, segment.size);
      const Bytes part = data.first(segment.size);
      Copy(to_memory ? memory : part, to_memory ? part : memory);
      data = data.subspan(segment.size);
    }
  }

  static bool Equal(ConstBytes a, ConstBytes b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
  }
  Bytes Stored(const Operation& operation) {
    return Bytes(shadow_).subspan(operation.offset, operation.size);
  }

  void Check(Operation& operation, Status status) {
    EXPECT_EQ(status, Status::kSuccess)
        << OpcodeName(false, static_cast<uint8_t>(operation.opcode));
    const uint64_t base = areas_[operation.area].base;
    switch (operation.opcode) {
      case IoOpcode::kRead: {
        // What a read should have left in the area: its data, and nothing else.
        std::vector<std::byte> data(operation.size);
        Exchange(operation, data, /*to_memory=*/false);
        EXPECT_TRUE(Equal(data, Stored(operation)));
        std::vector<std::byte> untouched(operation.size, std::byte{0xcc});
        Exchange(operation, untouched, /*to_memory=*/true);
        break;
      }
      case IoOpcode::kWrite:
        Copy(Stored(operation), operation.data);
        break;
      case IoOpcode::kWriteZeroes:
      case IoOpcode::kDatasetManagement:
        Fill(Stored(operation), 0);
        break;
      default:
        break;
    }
    EXPECT_TRUE(Equal(machine_.host.At(base, kAreaPages * kPage), operation.image))
        << "memory outside of the transfer was written";
  }

  Random random_;
  Machine machine_;
  std::vector<std::byte> shadow_;
  std::array<Area, kAreas> areas_{};
  std::array<bool, kZones> zones_busy_{};
  std::map<std::pair<uint16_t, uint16_t>, Operation> operations_;
  uint64_t completed_ = 0;
};

// Accesses that a driver may make at any time without consequences.
void TouchRegisters(Random& random, Driver& driver) {
  for (uint64_t n = random.Below(3); n != 0; --n) {
    switch (random.Below(6)) {
      case 0:
        driver.Read<uint32_t>(random.Below(0x2000) & ~uint64_t{3});
        break;
      case 1:
        driver.Set(kIntms, random.Next());
        break;
      case 2:
        driver.Set(kIntmc, random.Next());
        break;
      case 3:
        driver.Set(random.OneIn(2) ? kAsq : kAqa, random.Next());  // Fixed while enabled.
        break;
      case 4:
        driver.Write<uint32_t>(SqTailDoorbell(50), 1);  // No such queue.
        break;
      default:
        driver.Write<uint32_t>(SqTailDoorbell(1), 0xffff);  // No such entry.
        break;
    }
  }
}

class TrafficTest : public ::testing::TestWithParam<DmaMode> {};

TEST_P(TrafficTest, MatchesItsShadow) {
  uint64_t completed = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Traffic traffic(GetParam(), seed, static_cast<uint32_t>(1 + seed % kFetchRound));
    Machine& machine = traffic.machine();
    Random& random = traffic.random();
    if (seed % 2 == 0) machine.loop.Shuffle(seed);
    machine.disk.set_deferred(seed % 4 < 2);
    machine.host.set_during_wait([&] { TouchRegisters(random, traffic.driver()); });
    for (int step = 0; step < 1500; ++step) {
      const auto queue = static_cast<uint16_t>(1 + random.Below(Traffic::kQueues));
      switch (random.Below(12)) {
        case 0:
        case 1:
        case 2:
        case 3:
          traffic.Submit();
          break;
        case 4:
        case 5:
          traffic.driver().Ring(queue);
          break;
        case 6:
          traffic.Reap(queue);
          break;
        case 7:
          traffic.driver().RingCompletion(queue);
          break;
        case 8:
          if (random.OneIn(8)) machine.disk.Hold();
          if (random.OneIn(8)) machine.disk.ReleaseAll();
          if (machine.disk.waiting() != 0) {
            machine.disk.Release(random.Below(machine.disk.waiting()));
          }
          break;
        default:
          machine.loop.RunReady(1 + random.Below(30));
          break;
      }
      EXPECT_LE(machine.disk.in_flight(), kMaxIoCommands);
      if (random.OneIn(200)) {  // A migration to another process.
        const auto state = machine.Save(*machine.controller);
        machine.Replace();
        const auto loaded = machine.Load(*machine.controller, state);
        ASSERT_TRUE(loaded) << loaded.error().message;
      }
      if (testing::Test::HasFailure()) return;
    }
    machine.host.set_during_wait(nullptr);
    traffic.Finish();
    completed += traffic.completed();
    if (HasFailure()) return;
  }
  EXPECT_GT(completed, 1000u);
}

INSTANTIATE_TEST_SUITE_P(Dma, TrafficTest, ::testing::Values(DmaMode::kByFd, DmaMode::kByMessage),
                         [](const auto& param) { return ModeName(param.param); });

// The completion queues and everything else in memory, at each moment when the guest may look.
std::vector<uint64_t> Images(DmaMode mode, uint32_t fetch_batch) {
  std::vector<uint64_t> images;
  Traffic traffic(mode, 42, fetch_batch);
  Machine& machine = traffic.machine();
  machine.disk.set_deferred(true);
  machine.irq.set_on_signal([&](uint32_t vector) {
    uint64_t hash = vector;
    const auto memory = machine.host.At(kHeap, 256 << 10);
    for (size_t at = 0; at < memory.size(); at += 8) {
      hash = Mix64(hash ^ LoadLe<uint64_t>(memory.subspan(at)));
    }
    images.push_back(hash);
  });
  for (int round = 0; round < 12; ++round) {
    for (int i = 0; i < 12; ++i) traffic.Submit();
    for (uint16_t id = 1; id <= Traffic::kQueues; ++id) {
      traffic.driver().Ring(id);
      // By message the queues' fetches would overlap, and a smaller fetch takes longer.
      if (mode == DmaMode::kByMessage) machine.loop.RunUntilIdle();
    }
    machine.loop.RunUntilIdle();
    for (uint16_t id = 1; id <= Traffic::kQueues; ++id) {
      traffic.Reap(id);
      traffic.driver().RingCompletion(id);
    }
  }
  traffic.Finish();
  return images;
}

TEST_P(TrafficTest, MemoryShowsNothingOfTheFetchSize) {
  const auto expected = Images(GetParam(), kFetchRound);
  EXPECT_GT(expected.size(), 60u);
  for (const uint32_t fetch_batch : {1u, 3u, 8u}) {
    EXPECT_EQ(Images(GetParam(), fetch_batch), expected) << fetch_batch;
  }
}

// A guest that does whatever it likes. The controller stays bounded, comes to rest, and serves the
// next driver.
class AbuseTest : public ::testing::TestWithParam<DmaMode> {
 protected:
  static uint64_t Address(Random& random) {
    static constexpr uint64_t kInteresting[] = {
        0,        kHeap,         kHeap + kPage,          kRamSize - kPage, kRamSize,
        kNowhere, Driver::kBar0, Driver::kBar0 + 0x1000, Driver::kBar4,    0xffff'ffff'ffff'f000};
    const uint64_t address = kInteresting[random.Below(std::size(kInteresting))];
    return random.OneIn(4) ? address + random.Below(kPage) : address;
  }
  static Sqe RandomSqe(Random& random) {
    Sqe sqe;
    for (size_t at = 0; at < sizeof sqe; at += 8) {
      StoreLe(AsWritableBytes(sqe).subspan(at), random.OneIn(3) ? random.Next() : 0);
    }
    sqe.opcode = static_cast<uint8_t>(random.Below(13));
    if (!random.OneIn(8)) sqe.flags = 0;
    if (!random.OneIn(8)) sqe.nsid = 1;
    sqe.prp1 = Address(random);
    sqe.prp2 = Address(random);
    if (!random.OneIn(4)) sqe.cdw10 &= 0x00ff'000f;
    if (!random.OneIn(4)) sqe.cdw11 &= 0x0001'0007;
    if (!random.OneIn(4)) sqe.cdw12 &= 0xff;
    return sqe;
  }
  static void Abuse(Random& random, Machine& machine) {
    Driver& driver = *machine.driver;
    switch (random.Below(10)) {
      case 0:
        driver.Set(kCc, random.OneIn(2) ? random.Next() : 0x0046'0001u);
        break;
      case 1:
        driver.Set(kAsq, random.OneIn(2) ? kHeap : Address(random));
        driver.Set(kAcq, random.OneIn(2) ? kHeap + 0x8000 : Address(random));
        driver.Set(kAqa, random.OneIn(2) ? 0x001f'001fu : random.Next());
        break;
      case 2: {
        std::vector<std::byte> bytes(1 + random.Below(16));
        for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.Next());
        const uint64_t offset = random.Below(0x1040);
        machine.controller->WriteRegion(Region::kBar0, offset, bytes);
        machine.controller->ReadRegion(Region::kBar0, offset, bytes);
        break;
      }
      case 3: {
        const Sqe sqe = RandomSqe(random);
        Copy(machine.host.At(kHeap + random.Below(64) * sizeof(Sqe), sizeof(Sqe)), AsBytes(sqe));
        break;
      }
      case 4:
        machine.host.Poke(kHeap + random.Below(8192) * 8, Address(random));
        break;
      case 5:
        if (machine.disk.waiting() != 0) machine.disk.Release(random.Below(machine.disk.waiting()));
        if (random.OneIn(4)) machine.disk.Hold();
        break;
      case 6:
        if (!random.OneIn(30)) break;
        driver.WriteConfig<uint32_t>(random.Below(0x100) & ~uint64_t{3},
                                     static_cast<uint32_t>(random.Next()));
        break;
      case 7:
        driver.WriteConfig<uint16_t>(pci::kCommand, random.OneIn(20) ? 0 : 6);
        break;
      default:
        driver.Write<uint32_t>(kDoorbellBase + random.Below(6) * 4,
                               static_cast<uint32_t>(random.Below(40)));
        break;
    }
  }
};

TEST_P(AbuseTest, TheNextDriverIsServed) {
  uint64_t commands = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    Machine machine(GetParam());
    machine.loop.Shuffle(seed);
    for (uint64_t i = 0; i < 64; ++i) {
      const Sqe sqe = RandomSqe(random);
      Copy(machine.host.At(kHeap + i * sizeof sqe, sizeof sqe), AsBytes(sqe));
    }
    machine.host.set_during_wait([&] {
      if (random.OneIn(4)) Abuse(random, machine);
    });
    for (int step = 0; step < 1000; ++step) {
      Abuse(random, machine);
      machine.loop.RunReady(random.Below(10));
      ASSERT_LE(machine.disk.in_flight(), kMaxIoCommands + kMaxAdminCommands + 2);
    }
    machine.host.set_during_wait(nullptr);
    machine.disk.ReleaseAll();
    ASSERT_TRUE(machine.loop.RunUntilIdle()) << "it does not come to rest";
    commands += machine.disk.requests().size();

    machine.controller->Reset(ResetKind::kFunction);
    Driver driver(*machine.controller, machine.host, machine.loop, kHeap, kRamSize - kHeap);
    driver.Probe();
    ASSERT_TRUE(driver.Enable());
    ASSERT_EQ(driver.CreateQueues(1, 8, 0), Status::kSuccess);
    const uint64_t data = driver.Allocate(kPage);
    machine.host.Poke(data, seed);
    EXPECT_EQ(driver.RunStatus(1, IoCommand(IoOpcode::kWrite, 3, 1, data)), Status::kSuccess);
    EXPECT_EQ(LoadLe<uint64_t>(machine.disk.data().subspan(3 * kBlock)), seed);
  }
  EXPECT_GT(commands, 100u) << "the abuse is too dumb to get anywhere";
}

INSTANTIATE_TEST_SUITE_P(Dma, AbuseTest, ::testing::Values(DmaMode::kByFd, DmaMode::kByMessage),
                         [](const auto& param) { return ModeName(param.param); });

}  // namespace
}  // namespace farside::nvme
