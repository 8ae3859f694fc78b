#include "harness/diff/differ.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <utility>

namespace farside::diff {
namespace {

using Kind = Event::Kind;

constexpr size_t kMaxPending = 32;          // Reads in flight, on each side.
constexpr uint64_t kNapNs = 50'000;         // Between two looks, at first.
constexpr uint64_t kMaxNapNs = 2'000'000;   // And at last.
constexpr uint32_t kLongRounds = 2;         // Looks that must be alike, one behind the other.
constexpr uint64_t kInVainNs = 2'000'000;   // An Await's time behind one that was in vain.
constexpr uint64_t kUnmaskNs = 50'000'000;  // In which a line that is up signals again.
constexpr uint64_t kVolatileNs = 100'000'000;

void Nap(uint64_t ns) {
  const timespec pause{0, static_cast<long>(ns)};
  nanosleep(&pause, nullptr);
}

std::string SignalText(bool signalled) { return signalled ? "signalled" : "not signalled"; }

}  // namespace

Result<void> Differ::Start() {
  for (Side* side : {&a_, &b_}) {
    if (auto started = side->Start(); !started) {
      return Fail("side {}: {}", side->name(), started.error().message);
    }
  }
  vectors_ = std::min(a_.vectors(), b_.vectors());
  for (Side* side : {&a_, &b_}) {
    if (vectors_ == 0) break;
    if (auto watched = side->WatchVectors(vectors_); !watched) return watched;
  }
  owed_ = Work::kNone;
  return {};
}

void Differ::Diverge(uint64_t event, Difference difference) {
  if (result_.difference) return;
  difference.event = event;
  result_.difference = std::move(difference);
}

bool Differ::Reaches(const Event& event) const {
  if (!event.is_access() || event.region != kConfigRegion) return true;
  const uint32_t size = std::min(a_.config_size(), b_.config_size());
  return InRange(event.offset, event.size, size);
}

Result<bool> Differ::Step(const Event& event) {
  current_ = result_.events++;
  if (!Reaches(event)) {
    ++result_.skipped;
    return true;
  }
  if (auto done = Do(event); !done) {
    if (auto handled = HandleDeath(done.error()); !handled) return tl::unexpected(handled.error());
  }
  return !result_.difference;
}

Result<void> Differ::Do(const Event& event) {
  const bool waits =
      event.kind == Kind::kAwait || event.kind == Kind::kAwaitMemory || event.kind == Kind::kSettle;
  if (owed_ != Work::kNone && !waits) {
    // What is found now was done by the events before this one.
    --current_;
    if (auto settled = Settle(owed_ == Work::kLong ? kLongRounds : 1); !settled) return settled;
    if (result_.difference) return {};
    ++current_;
  }
  owed_ = std::max(owed_, model_.WorkOf(event));
  switch (event.kind) {
    case Kind::kRead:
      ++result_.reads;
      return DoRead(event);
    case Kind::kWrite:
      ++result_.writes;
      if (auto wrote = a_.Write(event); !wrote) return wrote;
      return b_.Write(event);
    case Kind::kMemory:
      if (auto wrote = a_.memory().Write(event.offset, event.data); !wrote) return wrote;
      return b_.memory().Write(event.offset, event.data);
    case Kind::kReset:
      if (auto flushed = Flush(); !flushed) return flushed;
      if (auto reset = a_.Reset(); !reset) return reset;
      return b_.Reset();
    case Kind::kAwait:
    case Kind::kAwaitMemory:
      return Await(event);
    case Kind::kSettle:
      return Settle(kLongRounds);
  }
  return {};
}

Result<void> Differ::DoRead(const Event& event) {
  switch (model_.KindOf(event)) {
    case ReadKind::kFixed:
      if (auto begun = Begin(event); !begun) return begun;
      return pending_.size() < kMaxPending ? Result<void>() : Flush();
    case ReadKind::kVolatile:
      return ReadVolatile(event);
    case ReadKind::kOnce:
      break;
  }
  if (auto begun = Begin(event); !begun) return begun;
  return Flush();
}

Result<void> Differ::Begin(const Event& read) {
  auto a = a_.BeginRead(read);
  if (!a) return tl::unexpected(a.error());
  auto b = b_.BeginRead(read);
  if (!b) {
    (void)a_.FinishRead(*a);
    return tl::unexpected(b.error());
  }
  pending_.push_back({current_, read, std::move(*a), std::move(*b)});
  return {};
}

// Finishes all of them, whatever becomes of the first ones: their tickets must not be left.
Result<void> Differ::Flush() {
  Result<void> out;
  for (Pending& pending : pending_) {
    const auto a = a_.FinishRead(pending.a);
    const auto b = b_.FinishRead(pending.b);
    if (!a || !b) {
      if (out) out = tl::unexpected(a ? b.error() : a.error());
      continue;
    }
    if (*a && *b) {
      comparator_.Count(pending.read);
      auto difference = comparator_.CompareRead(pending.read, **a, **b);
      if (difference) Diverge(pending.event, std::move(*difference));
    } else if (a->has_value() != b->has_value()) {
      const auto text = [](bool answered) { return answered ? "answered" : "refused"; };
      Diverge(pending.event, {.what = model_.Text(pending.read),
                              .a = text(a->has_value()),
                              .b = text(b->has_value()),
                              .detail = {}});
    }
  }
  pending_.clear();
  return out;
}

// A read by itself; what differs is given back.
Result<std::optional<Difference>> Differ::AskBoth(const Event& read) {
  auto a = a_.BeginRead(read);
  if (!a) return tl::unexpected(a.error());
  auto b = b_.BeginRead(read);
  const auto from_a = a_.FinishRead(*a);
  if (!b) return tl::unexpected(b.error());
  const auto from_b = b_.FinishRead(*b);
  if (!from_a) return tl::unexpected(from_a.error());
  if (!from_b) return tl::unexpected(from_b.error());
  return comparator_.CompareRead(read, from_a->value_or(0), from_b->value_or(0));
}

Result<void> Differ::ReadVolatile(const Event& read) {
  if (auto flushed = Flush(); !flushed) return flushed;
  comparator_.Count(read);
  const uint64_t deadline = clock_.now_ns() + kVolatileNs;
  for (bool again = false;; again = true) {
    auto difference = AskBoth(read);
    if (!difference) return tl::unexpected(difference.error());
    if (!*difference) {
      if (again) ++result_.late;
      return {};
    }
    if (clock_.now_ns() > deadline) {
      Diverge(current_, std::move(**difference));
      return {};
    }
    Nap(kNapNs);
  }
}

Result<void> Differ::ReadStatus(std::vector<uint64_t>* a, std::vector<uint64_t>* b) {
  std::vector<std::pair<Side::Reading, Side::Reading>> readings;
  Result<void> out;
  for (const Event& read : model_.status()) {
    auto from_a = a_.BeginRead(read);
    if (!from_a) out = tl::unexpected(from_a.error());
    if (!out) break;
    auto from_b = b_.BeginRead(read);
    if (!from_b) {
      (void)a_.FinishRead(*from_a);
      out = tl::unexpected(from_b.error());
      break;
    }
    readings.emplace_back(std::move(*from_a), std::move(*from_b));
  }
  for (auto& [in_a, in_b] : readings) {
    const auto from_a = a_.FinishRead(in_a);
    const auto from_b = b_.FinishRead(in_b);
    if (!from_a) out = tl::unexpected(from_a.error());
    if (!from_b) out = tl::unexpected(from_b.error());
    if (!out) continue;
    a->push_back(from_a->value_or(0));
    b->push_back(from_b->value_or(0));
  }
  return out;
}

std::optional<Difference> Differ::CompareInterrupts(const std::vector<uint64_t>& a,
                                                    const std::vector<uint64_t>& b) {
  const bool in_a = a_.IntxSignalled();
  const bool in_b = b_.IntxSignalled();
  if (in_a != in_b && !lawful_.AllowsInterrupt(a) && !lawful_.AllowsInterrupt(b)) {
    std::string status;
    for (size_t i = 0; i < a.size(); ++i) {
      const Event& read = model_.status()[i];
      status += fmt::format("{}{} {:#x} and {:#x}", i == 0 ? "" : ", ",
                            model_.PlaceName(read.region, read.offset), a[i], b[i]);
    }
    return Difference{
        .what = "INTx", .a = SignalText(in_a), .b = SignalText(in_b), .detail = status};
  }
  for (uint32_t vector = 0; vector < vectors_; ++vector) {
    const uint64_t from_a = a_.Signals(vector);
    const uint64_t from_b = b_.Signals(vector);
    if (from_a == from_b) continue;
    return Difference{.what = fmt::format("MSI-X vector {}", vector),
                      .a = fmt::format("{} signals", from_a),
                      .b = fmt::format("{} signals", from_b),
                      .detail = {}};
  }
  return std::nullopt;
}

Result<Differ::Look> Differ::LookAtBoth() {
  std::vector<uint64_t> a;
  std::vector<uint64_t> b;
  if (auto read = ReadStatus(&a, &b); !read) return tl::unexpected(read.error());
  Look look;
  look.busy = model_.Busy(a) || model_.Busy(b);
  const auto status = model_.status();
  for (size_t i = 0; i < status.size() && !look.difference; ++i) {
    look.difference = comparator_.CompareRead(status[i], a[i], b[i]);
  }
  if (!look.difference) look.difference = CompareInterrupts(a, b);
  if (look.difference) return look;
  auto memory = comparator_.CompareMemory(a_.memory(), b_.memory());
  if (!memory) return tl::unexpected(memory.error());
  look.difference = std::move(*memory);
  return look;
}

// Until both show the same `rounds` times, one look behind the other.
Result<void> Differ::Settle(uint32_t rounds) {
  owed_ = Work::kNone;
  if (auto flushed = Flush(); !flushed) return flushed;
  ++result_.settles;
  const uint64_t deadline = clock_.now_ns() + options_.settle_ns;
  uint64_t nap = kNapNs;
  for (uint32_t alike = 0; alike < rounds;) {
    auto look = LookAtBoth();
    if (!look) return tl::unexpected(look.error());
    alike = look->difference || look->busy ? 0 : alike + 1;
    if (alike == rounds) break;
    if (clock_.now_ns() > deadline) {
      if (look->difference) {
        Diverge(current_, std::move(*look->difference));
        return {};
      }
      ++result_.restless;
      break;
    }
    Nap(nap);
    if (alike == 0) nap = std::min(2 * nap, kMaxNapNs);
  }
  return UnmaskInterrupts();
}

// As a guest that served the interrupt; a line that is still up signals again.
Result<void> Differ::UnmaskInterrupts() {
  const bool signalled = a_.IntxSignalled();
  if (!signalled && !b_.IntxSignalled()) return {};
  ++result_.interrupts;
  if (auto unmasked = a_.UnmaskIntx(); !unmasked) return unmasked;
  if (auto unmasked = b_.UnmaskIntx(); !unmasked) return unmasked;
  // Where unmasking is an eventfd, the next event could overtake it: a device that has answered
  // twice since has been around its loop, and has seen it.
  // QEMU's remote goes on answering without going around it: hence the nap.
  const uint64_t deadline = clock_.now_ns() + kUnmaskNs;
  for (int i = 0; i < 2 || (a_.IntxSignalled() != b_.IntxSignalled() && clock_.now_ns() < deadline);
       ++i) {
    std::vector<uint64_t> a;
    std::vector<uint64_t> b;
    if (auto read = ReadStatus(&a, &b); !read) return read;
    if (i != 1) Nap(kNapNs / 2);
  }
  // One of the lines may be stuck: looked at before the next event hides it.
  if (a_.IntxSignalled() != b_.IntxSignalled()) owed_ = std::max(owed_, Work::kQuick);
  return {};
}

Result<bool> Differ::IsFulfilled(const Event& event, bool* by_a, bool* by_b) {
  if (event.kind == Kind::kAwaitMemory) {
    for (const auto& [side, by] : {std::pair(&a_, by_a), std::pair(&b_, by_b)}) {
      uint64_t value = 0;
      const Bytes out = AsWritableBytes(value).first(event.size);
      if (auto read = side->memory().Read(event.offset, out); !read) {
        return tl::unexpected(read.error());
      }
      *by = event.Fulfils(value);
    }
    return *by_a && *by_b;
  }
  Event read = Read(event.region, event.offset, event.size);
  auto a = a_.BeginRead(read);
  if (!a) return tl::unexpected(a.error());
  auto b = b_.BeginRead(read);
  const auto from_a = a_.FinishRead(*a);
  if (!b) return tl::unexpected(b.error());
  const auto from_b = b_.FinishRead(*b);
  if (!from_a) return tl::unexpected(from_a.error());
  if (!from_b) return tl::unexpected(from_b.error());
  *by_a = *from_a && event.Fulfils(**from_a);
  *by_b = *from_b && event.Fulfils(**from_b);
  return *by_a && *by_b;
}

Result<void> Differ::Await(const Event& event) {
  if (auto flushed = Flush(); !flushed) return flushed;
  const uint64_t start = clock_.now_ns();
  bool by_a = false;
  bool by_b = false;
  uint64_t nap = 0;
  const bool of_memory = event.kind == Kind::kAwaitMemory;
  bool& in_vain = of_memory ? memory_in_vain_ : in_vain_;
  const uint64_t patience = in_vain     ? kInVainNs
                            : of_memory ? options_.settle_ns
                                        : options_.await_ns;
  for (;;) {
    const auto fulfilled = IsFulfilled(event, &by_a, &by_b);
    if (!fulfilled) return tl::unexpected(fulfilled.error());
    if (*fulfilled) break;
    const uint64_t waited = clock_.now_ns() - start;
    if (!by_a && !by_b && waited > patience) break;
    if (by_a != by_b && waited > options_.settle_ns) {
      const auto text = [](bool by) { return by ? "came" : "did not come"; };
      Diverge(current_,
              {.what = model_.Text(event), .a = text(by_a), .b = text(by_b), .detail = {}});
      return {};
    }
    // An answer is the shortest wait that lets the devices run.
    std::vector<uint64_t> a;
    std::vector<uint64_t> b;
    if (auto read = ReadStatus(&a, &b); !read) return read;
    if (nap != 0) Nap(nap);
    if (waited > kNapNs) nap = std::min(nap == 0 ? kNapNs / 2 : 2 * nap, kMaxNapNs);
  }
  in_vain = !by_a;
  if (in_vain) ++result_.unfulfilled;
  return Settle(in_vain ? kLongRounds : 1);
}

Result<void> Differ::CopyMemory() {
  std::vector<std::byte> bytes;
  for (const MemoryRange& range : a_.memory().ranges()) {
    bytes.resize(range.size);
    if (auto read = a_.memory().Read(range.iova, bytes); !read) return read;
    if (auto wrote = b_.memory().Write(range.iova, bytes); !wrote) return wrote;
  }
  return {};
}

// Something failed. If a device is gone, and may be, both begin anew; else it is a difference.
Result<void> Differ::HandleDeath(const Error& error) {
  (void)Flush();  // What was asked for is not left; and it shows whether the other one died, too.
  const bool died_a = !a_.alive();
  const bool died_b = !b_.alive();
  if (!died_a && !died_b) return tl::unexpected(error);
  bool lawful = true;
  for (const auto& [side, died, restarts] : {std::tuple(&a_, died_a, &result_.restarts_a),
                                             std::tuple(&b_, died_b, &result_.restarts_b)}) {
    if (!died) continue;
    ++*restarts;
    const std::string how = side->TakeEnding();
    if (result_.deaths.size() < kMaxDeaths) result_.deaths.push_back({current_, side->name(), how});
    if (side->target().may_die()) continue;
    lawful = false;
    Diverge(current_, {.what = fmt::format("side {} is gone", side->name()),
                       .a = died_a ? "gone" : "answers",
                       .b = died_b ? "gone" : "answers",
                       .detail = how});
  }
  if (!lawful) return {};
  if (result_.restarts_a + result_.restarts_b > kMaxRestarts) {
    return Fail("the devices were started again {} times: last {}", kMaxRestarts, error.message);
  }
  for (Side* side : {&a_, &b_}) {
    if (!side->alive()) continue;
    if (auto finished = side->Finish(); !finished) return finished;
  }
  if (auto copied = CopyMemory(); !copied) return copied;
  return Start();
}

Result<void> Differ::Finish() {
  if (!result_.difference) {
    if (auto settled = Settle(kLongRounds); !settled) {
      if (auto handled = HandleDeath(settled.error()); !handled) return handled;
    }
  }
  // What comes of a device that was found to be different is not asked.
  for (Side* side : {&a_, &b_}) {
    if (!side->alive()) continue;
    const auto finished = side->Finish();
    if (!finished && !result_.difference) {
      return Fail("side {}: {}", side->name(), finished.error().message);
    }
  }
  return {};
}

}  // namespace farside::diff
