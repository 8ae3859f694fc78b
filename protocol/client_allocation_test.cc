// No heap allocation on a client's access path. Counts this thread's calls of operator new.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>

#include "protocol/fake_server.h"
#include "protocol/vfio_user_client.h"

namespace {
thread_local size_t allocations = 0;
}  // namespace

// Not inlined: g++ would take free() for the wrong partner of an operator new that it can't see
// into.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* const memory = std::malloc(size != 0 ? size : 1)) return memory;
  std::abort();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace farside::vfio_user {
namespace {

class Memory final : public DmaHandler {
 public:
  int OnDmaRead(uint64_t, Bytes out) override {
    Fill(out, 1);
    return 0;
  }
  int OnDmaWrite(uint64_t, ConstBytes) override { return 0; }
};

void AccessInEveryWay(VfioUserClient& client) {
  std::array<uint32_t, 8> values{};
  std::array<DeviceClient::ReadTicket, 8> tickets;
  const std::array<WriteMultiEntry, 3> writes{};
  ASSERT_TRUE(client.Read<uint32_t>({}));
  ASSERT_TRUE(client.Write<uint32_t>({}, 1));
  ASSERT_TRUE(client.PostWrite({}, AsBytes(values)));
  for (size_t i = 0; i < values.size(); ++i) {
    tickets[i] = client.BeginRead({}, AsWritableBytes(values[i])).value();
  }
  for (const auto ticket : tickets) ASSERT_TRUE(client.FinishRead(ticket));
  std::array<WriteMultiEntry, 3> batch = writes;
  for (WriteMultiEntry& write : batch) write.count = 4;
  ASSERT_TRUE(client.WriteMulti(0, batch, true));
  ASSERT_TRUE(client.WriteMulti(0, batch, false));
}

TEST(ClientAllocationTest, AllocatesNothingToAccessRegions) {
  Memory memory;
  FakeServer server([](FakeServer& self, Frame& frame) {
    if (frame.is_reply() || frame.command() != Command::kRegionRead) return false;
    self.Ask(1, Command::kDmaRead, DmaAccess{0, 64});
    self.Ask(2, Command::kDmaWrite, DmaAccess{0, 8}, uint64_t{0});
    return false;
  });
  const auto client = VfioUserClient::Attach(server.TakeSocket(), {}, &memory).value();
  ASSERT_TRUE(client->DmaMap({.iova = 0, .size = 4096}));
  AccessInEveryWay(*client);  // Buffers grow to what they need.
  const size_t before = allocations;
  ASSERT_GT(before, 0u) << "the counter does not count";
  for (int i = 0; i < 50; ++i) AccessInEveryWay(*client);
  EXPECT_EQ(allocations - before, 0u);
  EXPECT_GT(client->dma_counts().reads, 50u);
}

}  // namespace
}  // namespace farside::vfio_user
