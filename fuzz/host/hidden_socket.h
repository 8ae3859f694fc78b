// HiddenSocket: where a server of ours listens that only this process connects to. It has a name
// just until somebody listens: a target ends by abort, and would leave it behind each time.
#pragma once

#include <chrono>
#include <string>

#include "base/fd.h"

namespace farside::fuzz {

class HiddenSocket {
 public:
  // Makes a directory for it. Oracle "host": there can be none.
  HiddenSocket();
  // Removes it, if it has not been hidden.
  ~HiddenSocket();
  HiddenSocket(const HiddenSocket&) = delete;
  HiddenSocket& operator=(const HiddenSocket&) = delete;

  // Where to listen; once it is hidden, where to connect to.
  const std::string& path() const { return path_; }
  // Waits so long for it to be there, and takes its name away. False if it never came.
  bool Hide(std::chrono::milliseconds patience);

 private:
  void Remove();

  std::string directory_;
  std::string path_;
  UniqueFd socket_;
};

}  // namespace farside::fuzz
