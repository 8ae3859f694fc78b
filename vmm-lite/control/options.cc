#include "vmm-lite/control/options.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>

#include "base/option_error.h"
#include "base/options.h"
#include "base/words.h"
#include "process/options.h"

namespace farside::vmm {
namespace {

namespace po = boost::program_options;
using nlohmann::json;
using Values = std::vector<std::string>;

constexpr uint64_t kMinMemory = uint64_t{16} << 20;
constexpr uint64_t kMaxMemory = uint64_t{1} << 40;
constexpr uint64_t kMemoryGrain = uint64_t{1} << 20;
constexpr uint64_t kMaxCpus = 64;
constexpr size_t kMaxAppend = 2047;  // Linux's COMMAND_LINE_SIZE on x86, without the final 0.
constexpr uint64_t kMaxTimeoutMs = 3'600'000;

po::options_description Described() {
  po::options_description all("Options (one dash or two)");
  const auto text = [](const char* name) { return po::value<std::string>()->value_name(name); };
  const auto list = [](const char* name) {
    return po::value<Values>()->composing()->value_name(name);
  };
  auto add = all.add_options();
  add("kernel", text("FILE"), "boot this bzImage or vmlinux");
  add("initrd", text("FILE"), "with this initial RAM disk");
  add("append", text("STR"), "and this command line");
  add("bios", text("FILE"), "boot this firmware image");
  add("m", text("SIZE"), "guest memory: 512M, 2G; a bare number counts MiB (128)");
  add("smp", text("N"), "virtual CPUs (1)");
  add("device", list("DRIVER[,...]"),
      "vfio-user-pci,socket=PATH[,id=ID][,bus=PORT][,x-no-posted-writes=on][,x-msg-timeout=MS]: a "
      "remote device that listens on a UNIX socket; pci-proxy-dev,id=ID,socket=FD[,protocol="
      "vfio-user|mpqemu]: one on an inherited socket; instead of socket=, process=ID[,rid=ID] "
      "names a -process that serves it; pcie-root-port,id=ID: a place for hot-plug");
  add("process", list("id=ID,exec=PROGRAM[,args=STR]"),
      "start a device process; for each device it gets an inherited socket and -object ...,fd, or "
      "the socket's number in place of %FD% in its arguments");
  add("serial", text("stdio|unix:PATH|file:PATH|none"), "where the console goes (stdio)");
  add("qmp", text("unix:PATH"), "listen for QMP");
  add("control", text("unix:PATH"), "let another vmm-lite take over there with -attach");
  add("attach", text("PATH"), "take over a running machine; only -qmp may be given besides");
  add("trace", text("FILE"),
      "the -process records all that its devices do there, for farside replay");
  add("no-reboot", "end when the guest resets");
  add("version", "print the version");
  add("help,h", "print this text");
  return all;
}

// The path of unix:PATH[,server[=on]][,wait=off], in `*listens` whether it is a server's.
Result<std::string> ParseUnixAddress(std::string_view option, std::string_view text,
                                     bool* listens) {
  if (!text.starts_with("unix:")) {
    return Fail("-{} {}: write unix:PATH", option, Quote(text));
  }
  std::string_view rest = text.substr(5);
  const std::string path(rest.substr(0, rest.find(',')));
  if (path.empty()) return Fail("-{} {}: the path is empty: name a socket", option, Quote(text));
  rest.remove_prefix(path.size());
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(word.size());
    if (word == "server" || word == "server=on") {
      *listens = true;
    } else if (word == "wait=on") {
      return Fail("-{} {}: vmm-lite does not wait for a client: give wait=off", option,
                  Quote(text));
    } else if (word != "wait=off" && word != "nowait") {
      return Fail("-{} {}: there is no {}; there are server=on and wait=off", option, Quote(text),
                  Quote(word));
    }
  }
  return path;
}

Result<SerialOptions> ParseSerial(std::string_view text) {
  using Kind = SerialOptions::Kind;
  if (text == "none") return SerialOptions{Kind::kNone, ""};
  if (text == "stdio") return SerialOptions{Kind::kStdio, ""};
  if (text.starts_with("file:") && text.size() > 5) {
    return SerialOptions{Kind::kFile, std::string(text.substr(5))};
  }
  if (!text.starts_with("unix:")) {
    return Fail("-serial {}: give stdio, none, unix:PATH or file:PATH", Quote(text));
  }
  bool listens = false;
  auto path = ParseUnixAddress("serial", text, &listens);
  if (!path) return tl::unexpected(path.error());
  return SerialOptions{listens ? Kind::kListen : Kind::kConnect, std::move(*path)};
}

Result<uint64_t> ParseMemory(const std::string& text) {
  std::optional<uint64_t> size = ParseSize(text);
  const bool bare = text.find_first_not_of("0123456789") == std::string::npos;
  if (size && bare) size = *size <= kMaxMemory >> 20 ? *size << 20 : UINT64_MAX;
  if (!size) return Fail("-m {}: no size; give one like 512M or 2G", Quote(text));
  if (*size < kMinMemory || *size > kMaxMemory || *size % kMemoryGrain != 0) {
    return Fail("-m {}: give whole MiB from {}M to {}G", Quote(text), kMinMemory >> 20,
                kMaxMemory >> 30);
  }
  return *size;
}

// "socket": a path, or QEMU's socket address of type unix.
void ReadSocketPath(OptionReader& reader, DeviceOptions* device) {
  const json* const socket = reader.Value("socket");
  if (socket == nullptr) return;
  if (socket->is_string()) {
    device->socket_path = socket->get<std::string>();
  } else if (socket->is_object() && socket->value("type", json()) == "unix" &&
             socket->value("path", json()).is_string()) {
    device->socket_path = socket->value("path", "");
  }
  if (device->socket_path.empty()) {
    reader.AddError("\"socket\" is a path or {\"type\": \"unix\", \"path\": PATH}");
  }
}

void ReadProxy(OptionReader& reader, bool is_pci_proxy, DeviceOptions* device) {
  device->posted = !reader.Bool("x-no-posted-writes", false);
  device->timeout_ms = reader.Number("x-msg-timeout", device->timeout_ms, 1, kMaxTimeoutMs);
  device->process = reader.String("process", "");
  device->rid = reader.String("rid", device->id);
  if (is_pci_proxy) {
    device->protocol = reader.Choice("protocol", kProtocols, Protocol::kVfioUser);
    const uint64_t fd = reader.Number("socket", UINT64_MAX, 0, INT32_MAX);
    device->socket_fd = fd <= INT32_MAX ? static_cast<int>(fd) : -1;
    device->expect_id = device->rid;
  } else {
    ReadSocketPath(reader, device);
  }
  const bool has_socket = device->socket_fd >= 0 || !device->socket_path.empty();
  if (has_socket == !device->process.empty()) {
    reader.AddError("give either \"socket\" or \"process\": the way to the remote device");
  } else if (!device->process.empty() && device->rid.empty()) {
    reader.AddError("give an \"id\" or \"rid\": what the device is called in its process");
  } else if (device->process.empty() && reader.Value("rid") != nullptr) {
    reader.AddError("\"rid\" names a device in a process: give \"process\" too");
  }
}

tl::unexpected<Error> WrongId(std::string_view owner, std::string_view id) {
  return Fail("{}: {} is no id: begin with a letter, go on with letters, digits, '-', '.', '_'",
              owner, Quote(id));
}

// Gives a name to what has none, and refuses ids that come twice or name nothing.
Result<void> CheckReferences(ControlOptions* line) {
  std::set<std::string> devices;
  std::set<std::string> ports;
  std::set<std::string> processes;
  for (const ProcessOptions& process : line->processes) {
    if (processes.insert(process.id).second) continue;
    return Fail("-process: two processes have the id {}: give each its own", Quote(process.id));
  }
  for (const DeviceOptions& device : line->devices) {
    if (device.root_port) ports.insert(device.id);
    if (device.id.empty() || devices.insert(device.id).second) continue;
    return Fail("-device: two devices have the id {}: give each its own", Quote(device.id));
  }
  std::set<int> sockets;
  for (DeviceOptions& device : line->devices) {
    if (device.socket_fd >= 0 && !sockets.insert(device.socket_fd).second) {
      return Fail("-device {}: socket {} is another device's: give each its own", device.id,
                  device.socket_fd);
    }
    for (size_t i = 0; device.id.empty(); ++i) {
      const std::string id = "dev" + std::to_string(i);
      if (devices.insert(id).second) device.id = id;
    }
    if (device.bus != kRootBus && !ports.contains(device.bus)) {
      return Fail("-device {}: there is no bus {}: add -device pcie-root-port,id={}", device.id,
                  Quote(device.bus), device.bus);
    }
    if (!device.process.empty() && !processes.contains(device.process)) {
      return Fail("-device {}: there is no process {}: add -process id={},exec=PROGRAM", device.id,
                  Quote(device.process), device.process);
    }
  }
  return {};
}

Result<void> CheckBoot(const ControlOptions& line) {
  if (line.kernel.empty() && line.bios.empty()) {
    return Fail("nothing to boot: give -kernel FILE or -bios FILE");
  }
  if (line.kernel.empty() && !(line.initrd.empty() && line.append.empty())) {
    return Fail("-initrd and -append are a kernel's: give -kernel FILE too");
  }
  if (line.append.size() > kMaxAppend) {
    return Fail("-append has {} bytes: a kernel takes {}; shorten it", line.append.size(),
                kMaxAppend);
  }
  if (std::ranges::any_of(line.append, [](char c) { return static_cast<signed char>(c) < 0; })) {
    return Fail("-append has bytes that are no ASCII: leave them out");
  }
  return {};
}

template <typename T>
Result<void> Assign(Result<T> from, T* to) {
  if (!from) return tl::unexpected(from.error());
  *to = std::move(*from);
  return {};
}

Result<void> ReadLists(const po::variables_map& given, ControlOptions* line) {
  const auto values = [&](const char* option) {
    return given.count(option) != 0 ? given[option].as<Values>() : Values();
  };
  for (const std::string& text : values("device")) {
    const auto options = ParseOptionValue(text, "driver");
    if (!options) return Fail("-device {}: {}", text, options.error().message);
    auto device = ParseDevice("-device", *options);
    if (!device) return tl::unexpected(device.error());
    line->devices.push_back(std::move(*device));
  }
  for (const std::string& text : values("process")) {
    const auto options = ParseOptionValue(text, "id");
    if (!options) return Fail("-process {}: {}", text, options.error().message);
    OptionReader reader("-process", *options);
    auto process = ParseProcess(reader);
    if (!process) return tl::unexpected(process.error());
    line->processes.push_back(std::move(*process));
  }
  return {};
}

Result<void> ReadAddresses(const po::variables_map& given, ControlOptions* line) {
  bool listens = true;
  for (const auto& [option, path] :
       {std::pair("qmp", &line->qmp_path), std::pair("control", &line->control_path)}) {
    if (given.count(option) == 0) continue;
    const auto& text = given[option].as<std::string>();
    if (auto ok = Assign(ParseUnixAddress(option, text, &listens), path); !ok) return ok;
  }
  return {};
}

// The taps are the device processes'.
Result<void> PassTrace(const std::string& file, ControlOptions* line) {
  if (file.empty()) return {};
  if (line->processes.size() != 1) {
    return Fail(
        "-trace {}: a trace is of one -process, and there are {}: give each of them -trace "
        "in its args",
        Quote(file), line->processes.size());
  }
  line->processes[0].args.insert(line->processes[0].args.end(), {"-trace", file});
  return {};
}

Result<void> Fill(const po::variables_map& given, ControlOptions* line) {
  const auto text = [&](const char* option, std::string fallback = "") {
    return given.count(option) != 0 ? given[option].as<std::string>() : std::move(fallback);
  };
  line->help = given.count("help") != 0;
  line->version = given.count("version") != 0;
  if (line->help || line->version) return {};
  if (auto ok = ReadAddresses(given, line); !ok) return ok;
  if (given.count("attach") != 0) {
    line->attach_path = text("attach");
    for (const auto& [option, value] : given) {
      if (option == "attach" || option == "qmp") continue;
      return Fail("-attach takes over a machine as it is: leave out -{}, only -qmp fits", option);
    }
    if (line->attach_path.empty()) return Fail("-attach: name the socket of its -control");
    return {};
  }
  line->kernel = text("kernel");
  line->initrd = text("initrd");
  line->bios = text("bios");
  line->append = text("append");
  line->reboot = given.count("no-reboot") == 0;
  if (auto ok = Assign(ParseSerial(text("serial", "stdio")), &line->serial); !ok) return ok;
  if (auto ok = Assign(ParseMemory(text("m", "128M")), &line->memory); !ok) return ok;
  const std::string cpus = text("smp", "1");
  const auto count = ParseSize(cpus);
  if (!count || *count < 1 || *count > kMaxCpus) {
    return Fail("-smp {}: give a number of CPUs from 1 to {}", Quote(cpus), kMaxCpus);
  }
  line->cpus = *count;
  if (auto ok = ReadLists(given, line); !ok) return ok;
  if (auto ok = PassTrace(text("trace"), line); !ok) return ok;
  if (auto ok = CheckReferences(line); !ok) return ok;
  return CheckBoot(*line);
}

}  // namespace

bool IsId(std::string_view text) {
  const auto letter = [](char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; };
  const auto other = [](char c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
  };
  return !text.empty() && letter(text[0]) &&
         std::ranges::all_of(text, [&](char c) { return letter(c) || other(c); });
}

std::string_view ProtocolName(Protocol protocol) {
  return protocol == Protocol::kVfioUser ? "vfio-user" : "mpqemu";
}

Result<DeviceOptions> ParseDevice(std::string_view owner, const json& options) {
  OptionReader reader(std::string(owner), options);
  const std::string driver = reader.RequiredString("driver");
  const bool is_pci_proxy = driver == "pci-proxy-dev" || driver == "x-pci-proxy-dev";
  DeviceOptions device;
  device.root_port = driver == "pcie-root-port";
  const bool needs_id = is_pci_proxy || device.root_port;
  device.id = needs_id ? reader.RequiredString("id") : reader.String("id", "");
  device.bus = reader.String("bus", kRootBus);
  if (device.bus == "pcie.0") device.bus = kRootBus;
  if (is_pci_proxy || driver == "vfio-user-pci") {
    ReadProxy(reader, is_pci_proxy, &device);
  } else if (!device.root_port && !driver.empty()) {
    return Fail(
        "{}: there is no driver {}; there are vfio-user-pci, pci-proxy-dev and "
        "pcie-root-port: any other device runs in a process of its own",
        owner, Quote(driver));
  }
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  for (const std::string* id : {&device.id, &device.bus, &device.rid, &device.process}) {
    if (!id->empty() && !IsId(*id)) return WrongId(owner, *id);
  }
  return device;
}

json DeviceJson(const DeviceOptions& device) {
  json body{{"id", device.id},
            {"bus", device.bus},
            {"protocol", ProtocolName(device.protocol)},
            {"posted", device.posted},
            {"timeout_ms", device.timeout_ms},
            {"fd", 0}};
  if (!device.expect_id.empty()) body["expect_id"] = device.expect_id;
  return body;
}

Result<ProcessOptions> ParseProcess(OptionReader& reader) {
  ProcessOptions process{
      .id = reader.RequiredString("id"), .exec = reader.RequiredString("exec"), .args = {}};
  const json* const args = reader.Value("args");
  if (auto ok = reader.Finish(); !ok) return tl::unexpected(ok.error());
  const std::string& owner = reader.owner();
  if (!IsId(process.id)) return WrongId(owner, process.id);
  if (args == nullptr) return process;
  if (args->is_string()) {
    auto words = SplitWords(args->get<std::string>());
    if (!words) return Fail("{}: args: {}", owner, words.error().message);
    process.args = std::move(*words);
    return process;
  }
  for (const json& word : *args) {
    if (!args->is_array() || !word.is_string()) {
      return Fail("{}: \"args\" is a text or a list of texts", owner);
    }
    process.args.push_back(word.get<std::string>());
  }
  return process;
}

Result<ControlOptions> ParseControlOptions(int argc, const char* const* argv) {
  constexpr int kStyle =
      (po::command_line_style::default_style | po::command_line_style::allow_long_disguise) &
      ~po::command_line_style::allow_guessing;
  po::variables_map given;
  try {
    po::store(po::command_line_parser(argc, argv)
                  .options(Described())
                  .positional(po::positional_options_description())
                  .style(kStyle)
                  .run(),
              given);
  } catch (const po::error& error) {
    return Fail("{}; -help lists what there is",
                OptionErrorText(error, std::span(argv, static_cast<size_t>(argc))));
  }
  ControlOptions line;
  if (auto filled = Fill(given, &line); !filled) return tl::unexpected(filled.error());
  return line;
}

std::string ControlHelp() {
  std::ostringstream text;
  text << "Usage: vmm-lite -kernel FILE -device ... [options]\n\n"
          "Boots a guest on KVM whose PCI devices all run in other processes.\n\n"
       << Described()
       << "\nExample:\n"
          "  vmm-lite -kernel bzImage -initrd initrd.gz -append console=ttyS0 -m 512M -smp 2 \\\n"
          "      -process id=disk,exec=disk-proc,args='-blockdev "
          "driver=file,,node-name=d,,filename=d.img -device nvme,,id=nvme0,,drive=d,,serial=S1' "
          "\\\n      -device vfio-user-pci,id=nvme0,process=disk\n\n"
          "A comma inside a value is doubled; a value that starts with '{' is JSON.\n";
  return text.str();
}

}  // namespace farside::vmm
