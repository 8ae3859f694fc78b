// vmm-lite: boots a guest on KVM whose devices all run in other processes. The same program is the
// control process and, started by it, the CPU process.
#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "vmm-lite/control/control_process.h"
#include "vmm-lite/cpu/cpu_process.h"

int main(int argc, char** argv) {
  if (argc < 2 || std::string_view(argv[1]) != "-cpu-process") {
    return farside::vmm::ControlProcessMain(argc, argv);
  }
  int fd = -1;
  const char* const text = argc == 3 ? argv[2] : "";
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), fd);
  if (error != std::errc() || *end != '\0' || fd < 0) {
    std::fputs("vmm-lite: -cpu-process is for vmm-lite itself: start it without\n", stderr);
    return 1;
  }
  return farside::vmm::CpuProcessMain(fd);
}
