// co_await Yield{loop}: lets the loop do something else first.
#pragma once

#include <coroutine>

#include "base/loop.h"

namespace farside {

struct Yield {
  Loop& loop;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> task) { loop.Post(task); }
  void await_resume() const noexcept {}
};

}  // namespace farside
