// Whether a client really shares the memory it maps for us.
#pragma once

#include <sys/types.h>

#include <string_view>

namespace farside {

enum class Sharing {
  kShared,   // At least one shared mapping of the file, or none at all.
  kPrivate,  // Only private ones: what the client writes never reaches the file.
  kUnknown,  // The process cannot be looked at.
};

// Looks through the maps of process `pid` for the file behind `fd`. A client with private guest
// memory (memory-backend-memfd,share=off) passes an fd all the same, and the server then reads
// zeroes without any error.
Sharing FindSharing(pid_t pid, int fd);

// The same over the text of a /proc/PID/maps.
Sharing FindSharingIn(std::string_view maps, dev_t device, ino_t inode);

}  // namespace farside
