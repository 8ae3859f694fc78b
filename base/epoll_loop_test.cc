#include "base/epoll_loop.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>

#include <functional>
#include <thread>

#include "base/fd.h"
#include "base/task.h"

namespace farside {
namespace {

class CallOnReady : public FdWatcher {
 public:
  explicit CallOnReady(std::function<void(uint32_t)> call) : call_(std::move(call)) {}
  void OnReady(uint32_t events) override { call_(events); }

 private:
  std::function<void(uint32_t)> call_;
};

class EpollLoopTest : public ::testing::Test {
 protected:
  MonotonicClock clock_;
  std::unique_ptr<EpollLoop> loop_ = std::move(*EpollLoop::Create(clock_));
};

TEST_F(EpollLoopTest, CallsTheWatcherOfAReadyFd) {
  const UniqueFd event = std::move(*MakeEventfd());
  int calls = 0;
  CallOnReady watcher([&](uint32_t events) {
    EXPECT_EQ(events, static_cast<uint32_t>(EPOLLIN));
    EXPECT_EQ(DrainEventfd(event.get()), 2u);
    ++calls;
    loop_->Stop();
  });
  ASSERT_TRUE(loop_->Watch(event.get(), EPOLLIN, watcher));
  SignalEventfd(event.get());
  SignalEventfd(event.get());
  loop_->Run();
  EXPECT_EQ(calls, 1);
  loop_->Unwatch(event.get());
}

TEST_F(EpollLoopTest, AnEventAlreadyCollectedIsDroppedWhenItsWatchEnds) {
  const UniqueFd a = std::move(*MakeEventfd());
  const UniqueFd b = std::move(*MakeEventfd());
  int calls = 0;
  // Whichever comes first ends the other's watch.
  CallOnReady watch_a([&](uint32_t) { ++calls, loop_->Unwatch(b.get()), DrainEventfd(a.get()); });
  CallOnReady watch_b([&](uint32_t) { ++calls, loop_->Unwatch(a.get()), DrainEventfd(b.get()); });
  ASSERT_TRUE(loop_->Watch(a.get(), EPOLLIN, watch_a));
  ASSERT_TRUE(loop_->Watch(b.get(), EPOLLIN, watch_b));
  SignalEventfd(a.get());
  SignalEventfd(b.get());
  loop_->RunOnce(1000);
  EXPECT_EQ(calls, 1);
}

TEST_F(EpollLoopTest, AThreadWakesABlockedLoop) {
  bool resumed = false;
  Completion<int> completion(*loop_);
  TaskScope scope;
  scope.Spawn([](Completion<int>& wait, EpollLoop& loop, bool& done) -> Task<void> {
    co_await wait;
    done = true;
    loop.Stop();
  }(completion, *loop_, resumed));
  std::thread waker([&] { completion.SetFromThread(1); });
  loop_->Run();
  waker.join();
  EXPECT_TRUE(resumed);
}

TEST_F(EpollLoopTest, ATimerEndsAWaitWithoutAnyFd) {
  Timer timer(*loop_, [&] { loop_->Stop(); });
  const uint64_t start = clock_.now_ns();
  timer.Arm(start + 2'000'000);
  loop_->Run();
  EXPECT_GE(clock_.now_ns() - start, 2'000'000u);
}

// Arms a timer when all else has been done.
class ArmBeforeWait final : public WaitObserver {
 public:
  explicit ArmBeforeWait(EpollLoop& loop) : loop_(loop) { loop_.AddWaitObserver(*this); }
  ~ArmBeforeWait() override { loop_.RemoveWaitObserver(*this); }
  void BeforeWait() override { timer_.Arm(0); }

 private:
  EpollLoop& loop_;
  Timer timer_{loop_, [this] { loop_.Stop(); }};
};

TEST_F(EpollLoopTest, ATimerArmedBeforeTheWaitEndsIt) {
  const ArmBeforeWait armer(*loop_);
  loop_->Run();
}

}  // namespace
}  // namespace farside
