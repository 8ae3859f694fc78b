// The entry points of libFuzzer, for the target that FARSIDE_FUZZ_TARGET names. AFL++'s driver
// calls the same; its mutator is fuzz/mutator/afl.cc.
#include <cstdlib>

#include "base/check.h"
#include "fuzz/mutator/mutator.h"
#include "fuzz/targets/target.h"
#ifdef FARSIDE_FUZZ_PARSERS
#include "fuzz/parsers/parsers.h"
#endif

namespace {

using farside::Bytes;
using farside::ConstBytes;

const farside::fuzz::TargetDef& Def() {
  static const farside::fuzz::TargetDef* const def = [] {
#ifdef FARSIDE_FUZZ_PARSERS
    farside::fuzz::AddParserTargets();
#endif
    return farside::fuzz::FindTarget(FARSIDE_FUZZ_TARGET);
  }();
  CHECK(def != nullptr);
  return *def;
}

farside::fuzz::Target& TheTarget() {
  static farside::fuzz::Target* const target = Def().make().release();
  return *target;
}

}  // namespace

// From the library; there is no header for them.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  TheTarget();  // What it needs to exist is not a leak of the first input's.
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  TheTarget().Run(std::as_bytes(std::span(data, size)));
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  if (Def().grammar == nullptr) return LLVMFuzzerMutate(data, size, max_size);
  return farside::fuzz::Mutate(Def().grammar(), std::as_writable_bytes(std::span(data, max_size)),
                               size, seed);
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t* a, size_t a_size, const uint8_t* b,
                                            size_t b_size, uint8_t* out, size_t max_size,
                                            unsigned seed) {
  if (Def().grammar == nullptr) return 0;
  return farside::fuzz::CrossOver(Def().grammar(), std::as_bytes(std::span(a, a_size)),
                                  std::as_bytes(std::span(b, b_size)),
                                  std::as_writable_bytes(std::span(out, max_size)), seed);
}
