// The target "disk_proc": a device process as it is started by a VMM, in a process of its own,
// under a hostile client across a socket. What it executes counts as coverage here. Oracles besides
// the client's: "server-gone" (it has ended, or takes no client any more).
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "base/check.h"
#include "base/log.h"
#include "devices/registry/registry.h"
#include "fuzz/host/hidden_socket.h"
#include "fuzz/host/oracle.h"
#include "fuzz/host/player.h"
#include "fuzz/host/shared_counters.h"
#include "fuzz/host/socket_pump.h"
#include "fuzz/targets/target.h"
#include "process/device_process.h"

// clang's, in the coverage build alone.
extern "C" int __llvm_profile_write_file(void) __attribute__((weak));

namespace farside::fuzz {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kConnectTime{10};
constexpr std::chrono::microseconds kStray{200};  // The process is near, and ours.

class DiskProcTarget final : public Target {
 public:
  DiskProcTarget() {
    ShareCounters();
    Start();
    if (!socket_.Hide(kConnectTime)) ExpectProcess();
    pump_.Watch(player_.client());
  }

  ~DiskProcTarget() override {
    // Where coverage is measured it ends by itself and says what it executed.
    kill(child_, __llvm_profile_write_file != nullptr ? SIGTERM : SIGKILL);
    waitpid(child_, nullptr, 0);
  }

  void Run(ConstBytes input) override {
    const auto begin = SteadyClock::now();
    Decode(input, &session_);
    player_.set_observer(
        [this](size_t index, const Event& event) { Tell(ServerGrammar(), index, event); });
    player_.PlayAndExpectServer(session_);
    const Client::Counts& counts = player_.client().counts();
    ++tally_.sessions;
    tally_.with_dma += counts.dma != 0;
    tally_.with_interrupts += counts.interrupts != 0;
    tally_.round_trips += counts.round_trips;
    tally_.seconds += std::chrono::duration<double>(SteadyClock::now() - begin).count();
  }

 private:
  void Start() {
    child_ = fork();
    CHECK(child_ >= 0);
    if (child_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    MuteLog();
    const std::string socket = "--socket-path=" + socket_.path();
    const char* const arguments[] = {
        "disk-proc",
        "-blockdev",
        "driver=memory,node-name=d0,size=65536",
        "-device",
        "nvme,id=nvme0,drive=d0,serial=fuzz,max_ioqpairs=4,msix_qsize=5",
        socket.c_str()};
    const int status =
        DeviceProcessMain("disk-proc", DiskModels(), std::size(arguments), arguments);
    if (__llvm_profile_write_file != nullptr) __llvm_profile_write_file();
    // No destructor of the parent's and no leak check here.
    _exit(status);
  }

  void ExpectProcess() const {
    if (int status; waitpid(child_, &status, WNOHANG) == child_) {
      Violation("server-gone", "the process has ended {} {}",
                WIFSIGNALED(status) ? "by signal" : "with status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    }
  }

  std::unique_ptr<Transport> Connect() {
    ExpectProcess();
    auto transport = ConnectTo(socket_.path(), kConnectTime);
    if (transport != nullptr) pump_.set_fd(transport->fd());
    return transport;
  }

  HiddenSocket socket_;
  pid_t child_ = -1;
  SocketPump pump_{kStray};
  Player player_{ServerGrammar(), pump_, [this] { return Connect(); }};
  Session session_;
};

}  // namespace

std::unique_ptr<Target> MakeDiskProcTarget() { return std::make_unique<DiskProcTarget>(); }

}  // namespace farside::fuzz
