// What a QMP client can ask the control process for.
#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include "base/options.h"
#include "vmm-lite/control/control_process.h"

namespace farside::vmm {

using nlohmann::json;

struct ControlProcess::QmpCommand {
  const char* name;
  void (ControlProcess::*run)(const std::string&, const json&, QmpReply);
  bool has_arguments = false;
};

const std::vector<ControlProcess::QmpCommand>& ControlProcess::Commands() {
  static const std::vector<QmpCommand> commands{
      {"query-status", &ControlProcess::Forward},
      {"query-pci", &ControlProcess::Forward},
      {"stop", &ControlProcess::Forward},
      {"cont", &ControlProcess::Forward},
      {"system_reset", &ControlProcess::Forward},
      {"system_powerdown", &ControlProcess::Forward},
      {"quit", &ControlProcess::QmpQuit},
      {"device_add", &ControlProcess::QmpDeviceAdd, true},
      {"device_del", &ControlProcess::QmpDeviceDel, true},
      {"add-process", &ControlProcess::QmpAddProcess, true},
      {"query-processes", &ControlProcess::QmpQueryProcesses},
  };
  return commands;
}

std::vector<std::string> ControlProcess::QmpCommands() const {
  std::vector<std::string> names;
  for (const QmpCommand& command : Commands()) names.emplace_back(command.name);
  return names;
}

void ControlProcess::ExecuteQmp(const std::string& command, const json& arguments, QmpReply reply) {
  const auto found = std::ranges::find(Commands(), command, &QmpCommand::name);
  if (found == Commands().end()) return reply(FailWith(ENOSYS, "there is no {}", Quote(command)));
  if (!found->has_arguments) {
    const auto none = OptionReader(command, arguments).Finish();
    if (!none) return reply(tl::unexpected(none.error()));
  }
  (this->*found->run)(command, arguments, std::move(reply));
}

// Of the CPU process's commands, those without arguments.
void ControlProcess::Forward(const std::string& command, const json&, QmpReply reply) {
  cpu_.Request(command, json::object(), {}, std::move(reply));
}

void ControlProcess::QmpQuit(const std::string&, const json&, QmpReply reply) {
  Quit(std::move(reply));
}

void ControlProcess::QmpDeviceAdd(const std::string& command, const json& arguments,
                                  QmpReply reply) {
  auto device = ParseDevice(command, arguments);
  if (!device) return reply(tl::unexpected(device.error()));
  if (device->id.empty()) return reply(Fail("{}: give an \"id\": device_del needs it", command));
  if (device->root_port) {
    return reply(Fail("{}: root ports are there from the start: give -device pcie-root-port,id={}",
                      command, device->id));
  }
  if (device->socket_fd >= 0) {
    return reply(
        Fail("{}: \"socket\" names an inherited descriptor, which only the command line "
             "can: use \"process\"",
             command));
  }
  const auto socket = DeviceSocket(*device);
  if (!socket) return reply(tl::unexpected(socket.error()));
  const int fd = socket->get();
  cpu_.Request(command, DeviceJson(*device), std::span(&fd, 1), std::move(reply));
}

void ControlProcess::QmpDeviceDel(const std::string& command, const json& arguments,
                                  QmpReply reply) {
  OptionReader reader(command, arguments);
  const std::string id = reader.RequiredString("id");
  if (const auto ok = reader.Finish(); !ok) return reply(tl::unexpected(ok.error()));
  cpu_.Request(command, {{"id", id}}, {}, std::move(reply));
}

void ControlProcess::QmpAddProcess(const std::string& command, const json& arguments,
                                   QmpReply reply) {
  OptionReader reader(command, arguments);
  const Protocol protocol = reader.Choice("protocol", kProtocols, Protocol::kVfioUser);
  const json* const devices = reader.Value("devices");
  auto process = ParseProcess(reader);
  if (!process) return reply(tl::unexpected(process.error()));
  std::vector<ChannelWish> wishes;
  for (const json& rid : devices != nullptr ? *devices : json::array()) {
    if (!devices->is_array() || !rid.is_string() || !IsId(rid.get<std::string>())) {
      return reply(Fail("{}: \"devices\" is a list of the ids of devices", command));
    }
    wishes.push_back({rid.get<std::string>(), protocol});
  }
  const auto pid = processes_.Add(std::move(*process), std::move(wishes));
  if (!pid) return reply(tl::unexpected(pid.error()));
  reply(json{{"pid", *pid}});
}

void ControlProcess::QmpQueryProcesses(const std::string&, const json&, QmpReply reply) {
  reply(processes_.Query());
}

}  // namespace farside::vmm
