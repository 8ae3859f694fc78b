// An initiator with a bus of its own, for tests of what is on the bus: it runs a CDB to its end.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/loop.h"
#include "devices/core/fast_state.h"
#include "devices/core/state.h"
#include "devices/scsi/bus.h"

namespace farside::scsi {

class TestInitiator final : public Initiator {
 public:
  // How a command went.
  struct Outcome {
    Status status = Status::kBusy;
    std::vector<std::byte> in;
    size_t out = 0;  // Bytes that the target asked for and got.
  };

  // Moves at most `piece` bytes at a time, and lets the loop run after each; 0: all there are.
  explicit TestInitiator(Loop& loop, size_t piece = 0)
      : loop_(loop), piece_(piece), bus_(std::make_unique<Bus>(loop, *this)) {}
  ~TestInitiator() override { Clear(); }

  Bus& bus() { return *bus_; }
  size_t phases() const { return phases_; }  // Calls of OnPhase.

  // Aborts and forgets everything. Block I/O must not be held.
  void Clear() {
    bus_->ResetAll();
    EXPECT_TRUE(Drain()) << "the bus does not come to rest";
  }
  // A new bus without units, after Clear.
  void Replace() {
    Clear();
    bus_ = std::make_unique<Bus>(loop_, *this);
  }

  // Whether all block I/O ended.
  bool Drain() {
    drained_ = false;
    drains_.Spawn(AwaitDrain());
    loop_.RunUntilIdle();
    return drained_;
  }

  std::shared_ptr<Request> Start(const Nexus& nexus, ConstBytes cdb) {
    return bus_->Start(nexus, cdb);
  }

  // Moves data until the request has ended, or works and the loop has nothing to do: then its
  // status stays kBusy. The target gets `out` and then zeroes. An ended request is retired.
  Outcome Finish(Request& request, ConstBytes out = {}) {
    Outcome outcome;
    while (loop_.RunUntilIdle() && !request.aborted()) {
      if (request.phase() == Phase::kDataIn) {
        const size_t size = Piece(request.data_in().size());
        const ConstBytes data = request.data_in().first(size);
        outcome.in.insert(outcome.in.end(), data.begin(), data.end());
        request.TakeIn(size);
      } else if (request.phase() == Phase::kDataOut) {
        MoveOut(request, out.subspan(std::min(out.size(), outcome.out)), outcome);
      } else {
        break;
      }
    }
    if (request.phase() == Phase::kStatus && !request.aborted()) {
      outcome.status = request.status();
      bus_->Retire(request);
    }
    return outcome;
  }

  Outcome Run(const Nexus& nexus, ConstBytes cdb, ConstBytes out = {}) {
    const auto request = Start(nexus, cdb);
    return Finish(*request, out);
  }

  std::vector<std::byte> Save() {
    StateWriter writer;
    bus_->Save(writer);
    return writer.Finish();
  }
  Result<void> Load(ConstBytes state) {
    auto reader = StateReader::Parse(state);
    if (!reader) return tl::unexpected(reader.error());
    if (auto result = bus_->Load(*reader); !result) return result;
    return reader->Finish();
  }
  FastState SaveFast() const {
    FastState state;
    bus_->SaveFast(state);
    return state;
  }
  // After Clear.
  void LoadFast(const FastState& state) {
    FastReader reader(state);
    bus_->LoadFast(reader);
    EXPECT_TRUE(reader.done());
  }

  void OnPhase(Request& request) override {
    EXPECT_FALSE(request.aborted());
    EXPECT_NE(request.phase(), Phase::kWorking);
    ++phases_;
  }

 private:
  size_t Piece(size_t size) const { return piece_ == 0 ? size : std::min(size, piece_); }

  void MoveOut(Request& request, ConstBytes out, Outcome& outcome) {
    const size_t size = Piece(request.data_out().size());
    const Bytes to = request.data_out().first(size);
    const size_t given = std::min(size, out.size());
    Copy(to.first(given), out.first(given));
    Fill(to.subspan(given), 0);
    request.PutOut(size);
    outcome.out += size;
  }

  Task<void> AwaitDrain() {
    co_await bus_->Drain();
    drained_ = true;
  }

  Loop& loop_;
  const size_t piece_;
  std::unique_ptr<Bus> bus_;
  size_t phases_ = 0;
  TaskScope drains_;
  bool drained_ = false;
};

}  // namespace farside::scsi
