#include "devices/server/shared_memory.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cctype>
#include <fstream>
#include <sstream>
#include <string>

namespace farside {

Sharing FindSharingIn(std::string_view maps, dev_t device, ino_t inode) {
  const std::string wanted = fmt::format("{:02x}:{:02x} {}", major(device), minor(device), inode);
  bool is_private = false;
  // "7f00-7f10 rw-s 00000000 00:01 1234   /memfd:ram (deleted)"
  for (size_t at = maps.find(wanted); at != maps.npos; at = maps.find(wanted, at + 1)) {
    const size_t end = at + wanted.size();
    if (end < maps.size() && std::isdigit(static_cast<unsigned char>(maps[end])) != 0) continue;
    const size_t line = maps.rfind('\n', at) + 1;  // npos + 1 is 0.
    std::istringstream fields{std::string(maps.substr(line, at - line))};
    std::string range;
    std::string permissions;
    std::string offset;
    std::string none;
    // Not in a name.
    if (!(fields >> range >> permissions >> offset) || fields >> none) continue;
    if (permissions.size() != 4) continue;
    if (permissions[3] == 's') return Sharing::kShared;
    is_private = true;
  }
  return is_private ? Sharing::kPrivate : Sharing::kShared;
}

Sharing FindSharing(pid_t pid, int fd) {
  struct stat status {};
  std::ifstream file(fmt::format("/proc/{}/maps", pid));
  std::ostringstream maps;
  if (!file || fstat(fd, &status) != 0 || !(maps << file.rdbuf())) return Sharing::kUnknown;
  return FindSharingIn(maps.str(), status.st_dev, status.st_ino);
}

}  // namespace farside
