// What the tests of the tiny guest are given and what they say.
#pragma once

#include <span>

#include "ci/guest/tiny/nvme.h"

namespace tiny {

// The first things that went wrong, or the reason why the test cannot run.
struct Outcome {
  unsigned failures = 0;
  bool skipped = false;
  Text why;

  void Skip(const char* reason) { skipped = true, why.Add(reason); }

  template <typename... Parts>
  bool Expect(bool ok, Parts... parts) {
    if (!ok && ++failures <= 3) why.Add(failures > 1 ? "; " : ""), (why.Add(parts), ...);
    return ok;
  }

  bool ExpectEqual(uint64_t got, uint64_t want, const char* what, uint64_t where = ~uint64_t{0}) {
    if (where == ~uint64_t{0})
      return Expect(got == want, what, ": ", Hex{got}, ", not ", Hex{want});
    return Expect(got == want, what, " ", Hex{where}, ": ", Hex{got}, ", not ", Hex{want});
  }
};

// What a test finds: kQueues is a first disk with queues and no interrupt of any kind.
enum Start { kNothing, kDisk, kQueues, kTwoDisks };

struct Bench;
struct Test {
  const char* name;
  Start start;
  void (*run)(Bench& bench, Nvme& disk, Outcome& outcome);
};

// What is there to be tested.
struct Bench {
  uint64_t ecam;        // 0: none
  uint32_t nobody = 0;  // what a read gives that nobody claims: all ones on hardware, 0 in QEMU
  bool unplug = false;  // somebody outside will unplug the first disk
  Nvme disks[4];
  size_t disk_count = 0;
  Function* lsi = nullptr;
  Function* isa_bridge = nullptr;  // with PIIX3's PIRQ registers

  explicit Bench(uint64_t rsdp);
  void Run(const Test& test, Outcome& outcome);
};

extern const std::span<const Test> kTests;

}  // namespace tiny
