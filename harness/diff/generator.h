// Generator: random traffic for a model, out of its register tables and its workload.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/random.h"
#include "harness/diff/lawful.h"
#include "harness/diff/model.h"

namespace farside::diff {

// The same model and seed give the same events everywhere. Accesses stay inside BARs and inside the
// part of configuration space that the model lays out, have 1, 2, 4 or 8 bytes (4 in configuration
// space), and never move a BAR or switch decoding or bus mastering off. Random ones write no bits
// that rows of `lawful` name.
class Generator {
 public:
  Generator(const Model& model, uint64_t seed, Lawful lawful = {});

  Event Next();

 private:
  void Refill();
  Event RegisterAccess();
  Event ConfigRead();
  Event ConfigWrite();
  uint64_t Value(const RegisterDef& row);

  const Model& model_;
  const Lawful lawful_;
  Random random_;
  std::unique_ptr<Workload> workload_;
  std::vector<Event> queue_;  // From next_ on.
  size_t next_ = 0;
  bool fresh_ = true;  // Just made, or reset: the workload sets it up.
};

}  // namespace farside::diff
