#include "base/task.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "base/loop.h"

namespace farside {
namespace {

class TaskTest : public ::testing::Test {
 protected:
  ManualClock clock_;
  Loop loop_{clock_};
  TaskScope scope_;
  std::vector<std::string> log_;
};

Task<int> AddOne(int value) { co_return value + 1; }

Task<void> SumAtOnce(int count, int64_t& sum) {
  for (int i = 0; i < count; ++i) sum += co_await AddOne(i);
}

TEST_F(TaskTest, AMillionAwaitsThatFinishAtOnceNeitherSuspendNorGrowTheStack) {
  int64_t sum = 0;
  scope_.Spawn(SumAtOnce(1'000'000, sum));
  EXPECT_EQ(sum, 500'000'500'000);
  EXPECT_EQ(scope_.active(), 0u);
}

Task<int> WaitFor(Completion<int>& completion) { co_return co_await completion; }

Task<void> Outer(Completion<int>& completion, std::vector<std::string>& log) {
  log.push_back("waits");
  const int value = co_await WaitFor(completion);
  log.push_back("got " + std::to_string(value));
}

TEST_F(TaskTest, ASuspendedTaskGoesOnFromTheLoopAndNotFromWhoCompletesIt) {
  Completion<int> completion(loop_);
  scope_.Spawn(Outer(completion, log_));
  EXPECT_EQ(log_, std::vector<std::string>{"waits"});

  completion.Set(7);
  EXPECT_EQ(log_.size(), 1u) << "Set must not resume the waiter itself";
  EXPECT_TRUE(loop_.RunUntilIdle());
  EXPECT_EQ(log_, (std::vector<std::string>{"waits", "got 7"}));
  EXPECT_EQ(scope_.active(), 0u);
}

Task<void> CountWakeups(Wakeup& wakeup, int& count, const bool& stop) {
  while (!stop) {
    co_await wakeup.Wait();
    ++count;
  }
}

TEST_F(TaskTest, NotifyAllWakesEachWaiterOnce) {
  Wakeup wakeup(loop_);
  int first = 0;
  int second = 0;
  bool stop = false;
  scope_.Spawn(CountWakeups(wakeup, first, stop));
  scope_.Spawn(CountWakeups(wakeup, second, stop));

  wakeup.NotifyAll();
  loop_.RunUntilIdle();
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);

  stop = true;
  wakeup.NotifyAll();
  loop_.RunUntilIdle();
  EXPECT_EQ(scope_.active(), 0u);
}

TEST_F(TaskTest, QuantumBoundsWhatOneRunResumes) {
  Wakeup wakeup(loop_);
  int count = 0;
  bool stop = false;
  for (int i = 0; i < 10; ++i) scope_.Spawn(CountWakeups(wakeup, count, stop));
  wakeup.NotifyAll();
  EXPECT_TRUE(loop_.RunReady(4));
  EXPECT_EQ(count, 4);
  stop = true;
  wakeup.NotifyAll();
  EXPECT_TRUE(loop_.RunUntilIdle());
  EXPECT_EQ(scope_.active(), 0u);
}

TEST_F(TaskTest, TheSameSeedShufflesTheSameWay) {
  const auto order = [](uint64_t seed) {
    ManualClock clock;
    Loop loop(clock);
    loop.Shuffle(seed);
    TaskScope scope;
    std::vector<std::string> log;
    std::vector<std::unique_ptr<Completion<int>>> completions;
    for (int i = 0; i < 20; ++i) {
      completions.push_back(std::make_unique<Completion<int>>(loop));
      scope.Spawn(Outer(*completions.back(), log));
    }
    for (int i = 0; i < 20; ++i) completions[static_cast<size_t>(i)]->Set(i);
    loop.RunUntilIdle();
    return log;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

#ifndef FARSIDE_NO_FRAME_POOL
TEST_F(TaskTest, AWarmPoolTakesNothingFromTheHeap) {
  const FramePool::Scope frames(loop_.frames());
  int64_t sum = 0;
  scope_.Spawn(SumAtOnce(100, sum));
  const uint64_t warm = loop_.frames().heap_allocations();
  EXPECT_GT(warm, 0u);
  scope_.Spawn(SumAtOnce(1000, sum));
  EXPECT_EQ(loop_.frames().heap_allocations(), warm);
}
#endif

#ifdef FARSIDE_POISON_FRAMES
TEST_F(TaskTest, AFreeFrameIsNobodys) {
  FramePool pool;
  const FramePool::Scope frames(pool);
  auto* const frame = static_cast<volatile char*>(FramePool::Allocate(100));
  frame[99] = 1;
  EXPECT_DEATH(frame[100] = 1, "use-after-poison");
  FramePool::Free(const_cast<char*>(frame));
  EXPECT_DEATH(frame[0] = 1, "use-after-poison");
  // Nor is it given to the next one.
  void* const next = FramePool::Allocate(100);
  EXPECT_NE(next, frame);
  FramePool::Free(next);
}
#endif

TEST_F(TaskTest, TimersFireInOrderOfTheirDeadlinesAndNotBeforeThem) {
  std::vector<int> fired;
  Timer late(loop_, [&] { fired.push_back(2); });
  Timer early(loop_, [&] { fired.push_back(1); });
  Timer never(loop_, [&] { fired.push_back(3); });
  late.Arm(20);
  early.Arm(10);
  never.Arm(15);
  never.Disarm();
  EXPECT_EQ(loop_.NextDeadline(), 10u);

  clock_.AdvanceTo(9);
  loop_.RunUntilIdle();
  EXPECT_TRUE(fired.empty());
  clock_.AdvanceTo(30);
  loop_.RunUntilIdle();
  EXPECT_EQ(fired, (std::vector<int>{1, 2}));
  EXPECT_EQ(loop_.NextDeadline(), std::nullopt);
}

Task<void> AwaitThread(Completion<int>& completion, int& got) { got = co_await completion; }

TEST_F(TaskTest, ACompletionSetByAnotherThreadResumesOnTheLoopsThread) {
  Completion<int> completion(loop_);
  int got = 0;
  scope_.Spawn(AwaitThread(completion, got));
  std::thread([&] { completion.SetFromThread(5); }).join();
  EXPECT_EQ(got, 0);
  loop_.RunUntilIdle();
  EXPECT_EQ(got, 5);
}

}  // namespace
}  // namespace farside
