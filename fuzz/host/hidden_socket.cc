#include "fuzz/host/hidden_socket.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "fuzz/host/oracle.h"

namespace farside::fuzz {

HiddenSocket::HiddenSocket() {
  directory_ = std::filesystem::temp_directory_path() / "farside-fuzz-XXXXXX";
  if (mkdtemp(directory_.data()) == nullptr) {
    Violation("host", "no directory can be made like {}", directory_);
  }
  path_ = directory_ + "/socket";
}

HiddenSocket::~HiddenSocket() { Remove(); }

bool HiddenSocket::Hide(std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (;;) {
    socket_.reset(open(path_.c_str(), O_PATH | O_CLOEXEC));
    if (socket_) break;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Remove();
  path_ = fmt::format("/proc/self/fd/{}", socket_.get());
  return true;
}

void HiddenSocket::Remove() {
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  directory_.clear();
}

}  // namespace farside::fuzz
