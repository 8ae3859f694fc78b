#include "harness/scenario/jsonnet.h"

#include <memory>

extern "C" {
#include <libjsonnet.h>  // Has no C linkage of its own.
}

namespace farside::scenario {

Result<std::string> EvaluateJsonnet(const std::string& path) {
  const std::unique_ptr<JsonnetVm, void (*)(JsonnetVm*)> vm(jsonnet_make(), jsonnet_destroy);
  int failed = 0;
  char* const text = jsonnet_evaluate_file(vm.get(), path.c_str(), &failed);
  std::string out = text;
  jsonnet_realloc(vm.get(), text, 0);
  if (failed == 0) return out;
  while (!out.empty() && out.back() == '\n') out.pop_back();
  return Fail("Jsonnet: {}", out);
}

}  // namespace farside::scenario
