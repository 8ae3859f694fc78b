// The control process of vmm-lite: reads the command line, opens what is to be opened, starts the
// device processes and the CPU process, connects them, and speaks QMP. It holds no guest memory
// and no KVM descriptor, and the machine runs on without it (DESIGN: D16).
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/epoll_loop.h"
#include "base/error.h"
#include "base/fd.h"
#include "vmm-lite/control/cpu_client.h"
#include "vmm-lite/control/options.h"
#include "vmm-lite/control/process_table.h"
#include "vmm-lite/control/qmp.h"
#include "vmm-lite/control/watcher.h"

namespace farside::vmm {

class ControlProcess final : public CpuListener, public QmpHandler {
 public:
  // How long the CPU process has to end after SIGTERM, SIGINT or QMP's quit.
  static constexpr uint64_t kQuitTimeoutNs = 5'000'000'000;
  // How long starting may take a request: hosts that emulate KVM are slow.
  static constexpr uint64_t kStartTimeoutNs = 60'000'000'000;
  // How long after its channel the CPU process ends; later, another control has taken over.
  static constexpr uint64_t kTakeOverNs = 2'000'000'000;

  explicit ControlProcess(EpollLoop& loop);
  ~ControlProcess() override;

  // Starts a machine, or takes one over. SIGTERM, SIGINT and SIGPIPE are this object's from then
  // on.
  Result<void> Begin(ControlOptions options);
  // Runs until the machine has ended or is another's; returns the exit status.
  int Run();

 private:
  struct QmpCommand;
  static const std::vector<QmpCommand>& Commands();

  // Starting. Each step but the first is taken when the one before was answered.
  Result<void> StartMachine();
  Result<void> StartCpuProcess();
  Result<void> StartProcesses();
  Result<void> ConnectDevices();
  void AddNextDevice();
  void OnStartReply(const Result<nlohmann::json>& reply, void (ControlProcess::*next)());
  Result<void> WatchSignals();

  // The socket of a device: connected, inherited, or from a process.
  Result<UniqueFd> DeviceSocket(const DeviceOptions& device);

  // Ending.
  void OnSignal();
  void Quit(QmpReply reply);
  void KillCpuProcess();
  void OnCpuEnd();
  void End(int status);

  void OnCpuEvent(const std::string& name, const nlohmann::json& data) override;
  void OnCpuClosed(const Result<void>& why) override;

  std::vector<std::string> QmpCommands() const override;
  void ExecuteQmp(const std::string& command, const nlohmann::json& arguments,
                  QmpReply reply) override;
  void Forward(const std::string& command, const nlohmann::json& arguments, QmpReply reply);
  void QmpQuit(const std::string& command, const nlohmann::json& arguments, QmpReply reply);
  void QmpDeviceAdd(const std::string& command, const nlohmann::json& arguments, QmpReply reply);
  void QmpDeviceDel(const std::string& command, const nlohmann::json& arguments, QmpReply reply);
  void QmpAddProcess(const std::string& command, const nlohmann::json& arguments, QmpReply reply);
  void QmpQueryProcesses(const std::string& command, const nlohmann::json& arguments,
                         QmpReply reply);

  EpollLoop& loop_;
  ControlOptions options_;
  CpuClient cpu_;
  StartedChild cpu_process_;  // Empty when attached.
  ProcessTable processes_;
  std::unique_ptr<QmpServer> qmp_;
  UniqueFd signal_fd_;
  Watcher<ControlProcess> signals_{*this, &ControlProcess::OnSignal};
  Watcher<ControlProcess> cpu_end_{*this, &ControlProcess::OnCpuEnd};
  // Of options_.devices from next_device_ on, while starting.
  std::vector<UniqueFd> device_sockets_;
  size_t next_device_ = 0;
  Timer kill_timer_;
  Timer take_over_timer_;
  bool started_ = false;  // The vCPUs run.
  std::optional<int> status_;
};

// The main function of vmm-lite; returns the exit status.
int ControlProcessMain(int argc, const char* const* argv);

}  // namespace farside::vmm
