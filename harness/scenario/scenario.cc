#include "harness/scenario/scenario.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "base/options.h"
#include "harness/scenario/args.h"
#include "harness/scenario/expect.h"
#include "harness/scenario/jsonnet.h"

namespace farside::scenario {

using nlohmann::json;

namespace {

constexpr uint64_t kMaxScenarioBytes = 64 << 20;
constexpr uint64_t kMaxTimeoutMs = 24ull * 3600 * 1000;

constexpr std::string_view kModes[] = {"fd", "message"};

constexpr std::string_view kProtocols[] = {"vfio-user", "mpqemu"};

constexpr Param kQemuFields[] = {
    {"devid", Type::kText, "the id of the device that is served", true},
    {"args", Type::kTexts, "what makes the device: -device, -blockdev and the like", true},
    {"exec", Type::kText, "the QEMU", false, "qemu-system-x86_64"},
};

constexpr Param kProcessFields[] = {
    {"id", Type::kText, "what steps and devices call it", true},
    {"exec", Type::kText,
     "a path, or a program that is looked for in --bin-dir, beside farside, and in PATH"},
    {.name = "qemu",
     .type = Type::kRecord,
     .help =
         "instead of exec and args: QEMU's own device model, as -machine x-remote serves it over "
         "mpqemu",
     .fields = kQemuFields},
    {"args", Type::kTexts, "its arguments; paths are relative to the scenario's own directory"},
    {"max_fds",
     Type::kNumber,
     "file descriptors it may have; default: as many as farside",
     false,
     {},
     1 << 20},
    {"start", Type::kBool, "start it before the first step; else process.start does", false, "on"},
};

constexpr Param kDeviceFields[] = {
    {"id", Type::kText, "what steps call it; steps that name no device mean the first", true},
    {.name = "protocol",
     .type = Type::kWord,
     .help =
         "what its server speaks; with mpqemu its process gets a connected socket, whose number "
         "takes the place of %FD% in its arguments",
     .fallback = "vfio-user",
     .words = kProtocols},
    {"socket", Type::kText,
     "the UNIX socket it is served on, relative to the scenario's own directory; not with mpqemu"},
    {"process", Type::kText, "the process that serves it; default: one that runs already"},
    {"connect", Type::kBool, "connect and map the memory before the first step; else connect does",
     false, "on"},
};

constexpr Param kMemoryFields[] = {
    {"iova", Type::kNumber, "where it begins, a multiple of 4 KiB", true},
    {"size", Type::kNumber, "bytes, a multiple of 4 KiB", true, {}, 64ull << 30},
    {"writable", Type::kBool, "devices may write it", false, "on"},
};

constexpr Param kScenarioFields[] = {
    {"$schema", Type::kText, "for editors: the path of scenario.schema.json"},
    {"name", Type::kText, "what reports call it", true},
    {"description", Type::kText, "what it shows, in a sentence", true},
    {.name = "processes",
     .type = Type::kRecords,
     .help = "processes to start",
     .fields = kProcessFields},
    {.name = "devices",
     .type = Type::kRecords,
     .help = "devices to connect to",
     .fields = kDeviceFields},
    {.name = "memory",
     .type = Type::kRecords,
     .help = "the guest's memory; default: 16 MiB at 1 MiB",
     .fields = kMemoryFields},
    {.name = "modes",
     .type = Type::kTexts,
     .help = "how devices reach the memory: fd and message, which is the default; leaving one out "
             "needs a reason. With mpqemu it is fd"},
    {"reason", Type::kText, "why one of the modes makes no sense here"},
    {"irqs_vary", Type::kText,
     "why the number of interrupts may differ between the modes; it is not compared then"},
    {"timeout_ms", Type::kNumber, "for the whole scenario in one mode, in ms", false, "60000",
     kMaxTimeoutMs},
    {"step_timeout_ms", Type::kNumber, "for steps that have no timeout_ms of their own, in ms",
     false, "10000", kMaxTimeoutMs},
    {"steps", Type::kSteps, "what happens, in order", true},
};

bool IsName(std::string_view text) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
  return !text.empty() && text.find_first_not_of(kAllowed) == std::string_view::npos;
}

Result<void> CheckId(std::string_view what, const std::string& id, std::set<std::string>* seen) {
  if (!IsName(id)) {
    return Fail("{} {} is no name: use letters, digits, '-', '_' and '.'", what, Quote(id));
  }
  if (!seen->insert(id).second) return Fail("two {}s have the id {}", what, Quote(id));
  return {};
}

// The command line of QEMU's remote for one device.
std::vector<std::string> QemuArguments(const Args& qemu) {
  std::vector<std::string> args{"-machine", "x-remote", "-nodefaults", "-display", "none"};
  const auto& own = qemu.Texts("args");
  args.insert(args.end(), own.begin(), own.end());
  args.push_back("-object");
  args.push_back(
      fmt::format("x-remote-object,id=farside,devid={},fd={}", qemu.Text("devid"), kFdPlace));
  return args;
}

Result<void> ReadProcesses(const Args& args, Scenario* out) {
  std::set<std::string> ids;
  for (const Args& process : args.Records("processes")) {
    const bool qemu = process.Has("qemu");
    ProcessSpec spec{.id = process.Text("id"),
                     .max_fds = process.Number("max_fds", 0),
                     .start = process.Flag("start"),
                     .qemu_remote = qemu};
    if (qemu == process.Has("exec") || (qemu && process.Has("args"))) {
      return Fail("process {} needs either \"exec\", with \"args\", or \"qemu\"", Quote(spec.id));
    }
    spec.program = (qemu ? process.Record("qemu") : process).Text("exec");
    spec.args = qemu ? QemuArguments(process.Record("qemu")) : process.Texts("args");
    if (auto ok = CheckId("process", spec.id, &ids); !ok) return ok;
    out->processes.push_back(std::move(spec));
  }
  return {};
}

Result<void> CheckDevice(const DeviceSpec& spec, const Scenario& scenario) {
  const auto process = std::ranges::find(scenario.processes, spec.process, &ProcessSpec::id);
  if (!spec.process.empty() && process == scenario.processes.end()) {
    return Fail("device {} is served by process {}, which is not among the processes",
                Quote(spec.id), Quote(spec.process));
  }
  if (spec.protocol == Protocol::kVfioUser) {
    if (spec.socket.empty()) return Fail("device {} needs \"socket\"", Quote(spec.id));
    return {};
  }
  if (!spec.socket.empty() || spec.process.empty()) {
    return Fail("device {} speaks mpqemu: it needs \"process\" and no \"socket\"", Quote(spec.id));
  }
  const bool takes_fd = std::ranges::any_of(process->args, [](const std::string& arg) {
    return arg.find(kFdPlace) != std::string::npos;
  });
  if (!takes_fd) {
    return Fail(
        "process {} is to speak mpqemu, but no argument of its has {}: it takes "
        "-object x-remote-object,id=r,devid=ID,fd={}",
        Quote(spec.process), kFdPlace, kFdPlace);
  }
  const bool alone = std::ranges::count(scenario.devices, spec.process, &DeviceSpec::process) == 0;
  if (!alone) return Fail("process {} speaks mpqemu for one device", Quote(spec.process));
  return {};
}

Result<void> ReadDevices(const Args& args, Scenario* out) {
  std::set<std::string> ids;
  for (const Args& device : args.Records("devices")) {
    DeviceSpec spec{.id = device.Text("id"),
                    .protocol = Protocol{static_cast<int>(device.Number("protocol"))},
                    .socket = device.Has("socket") ? device.Text("socket") : "",
                    .process = device.Has("process") ? device.Text("process") : "",
                    .connect = device.Flag("connect")};
    if (auto ok = CheckId("device", spec.id, &ids); !ok) return ok;
    if (auto ok = CheckDevice(spec, *out); !ok) return ok;
    out->devices.push_back(std::move(spec));
  }
  return {};
}

Result<void> ReadMemory(const Args& args, Scenario* out) {
  if (!args.Has("memory")) {
    out->memory = {{.iova = 1 << 20, .size = 16 << 20}};
    return {};
  }
  for (const Args& range : args.Records("memory")) {
    out->memory.push_back({.iova = range.Number("iova"),
                           .size = range.Number("size"),
                           .writable = range.Flag("writable")});
  }
  // Says what is wrong with them, if something is.
  const auto made = GuestMemory::Create(out->memory, Reach::kFd);
  return made ? Result<void>() : tl::unexpected(made.error());
}

Result<void> ReadModes(const Args& args, Scenario* out) {
  const bool mpqemu =
      std::ranges::count(out->devices, Protocol::kMpqemu, &DeviceSpec::protocol) != 0;
  if (!args.Has("modes")) {
    out->modes = {Reach::kFd};
    if (!mpqemu) out->modes.push_back(Reach::kMessage);
    return {};
  }
  for (const std::string& mode : args.Texts("modes")) {
    const auto found = std::ranges::find(kModes, mode);
    if (found == std::end(kModes)) {
      return Fail("modes: {} is none of fd, message", Quote(mode));
    }
    const Reach reach = found == kModes ? Reach::kFd : Reach::kMessage;
    if (std::ranges::count(out->modes, reach) != 0) return Fail("modes: {} comes twice", mode);
    out->modes.push_back(reach);
  }
  if (out->modes.empty()) return Fail("modes: at least one of fd, message is needed");
  if (mpqemu && std::ranges::count(out->modes, Reach::kMessage) != 0) {
    return Fail("a device speaks mpqemu, which reaches memory by fd only: leave \"modes\" out");
  }
  if (out->modes.size() == 1 && !args.Has("reason")) {
    return Fail("only mode {} is run: say why the other one makes no sense in \"reason\"",
                ReachName(out->modes.front()));
  }
  return {};
}

Result<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) {
    return Fail("{}: {}: name a .json or .jsonnet file", path, error.message());
  }
  if (size > kMaxScenarioBytes) {
    return Fail("{} has {} bytes: a scenario has {} at most", path, size, kMaxScenarioBytes);
  }
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file.good() && !file.eof()) return Fail("{} cannot be read", path);
  return text;
}

}  // namespace

std::string_view ReachName(Reach reach) { return kModes[reach == Reach::kFd ? 0 : 1]; }

std::span<const Param> ScenarioParams() { return kScenarioFields; }

std::vector<Param> AllParams(const Verb& verb) {
  std::vector<Param> out(verb.params.begin(), verb.params.end());
  // Steps that repeat have a bound of their own, and their inner steps can be refused.
  const auto common = verb.kind == Kind::kControl ? std::span<const Param>() : CommonParams();
  out.insert(out.end(), common.begin(), common.end());
  return out;
}

Result<Step> ReadStep(const json& given) {
  if (!given.is_object()) return Fail("a step is an object: {{\"verb\": {{...}}}}");
  Step step;
  for (const auto& [key, value] : given.items()) {
    if (key == "note") {
      if (!value.is_string()) return Fail("the note is no text");
      step.note = value.get_ref<const std::string&>();
      continue;
    }
    const Verb* const verb = FindVerb(key);
    if (verb == nullptr) return tl::unexpected(NoSuchVerb(key));
    if (step.verb != nullptr) {
      return Fail("two verbs in one step, {} and {}: make it two steps", step.verb->name, key);
    }
    step.verb = verb;
    step.params = &value;
  }
  if (step.verb == nullptr) return Fail("the step has no verb: {{\"bar.read\": {{...}}}}");
  return step;
}

Result<void> CheckStep(const std::string& path, const json& given, size_t depth,
                       Captures* captures) {
  const auto fail = [&](const Error& error) { return Fail("{}: {}", path, error.message); };
  const auto step = ReadStep(given);
  if (!step) return fail(step.error());
  if (depth > kMaxStepDepth) return Fail("{}: steps nest more than {} deep", path, kMaxStepDepth);
  json own;
  const auto extras = SplitExtras(*step->verb, *step->params, &own);
  if (!extras) return fail(extras.error());
  const auto params = AllParams(*step->verb);
  // A condition of repeat may name what its steps capture: they come first.
  if (own.is_object() && own.contains("steps") && own["steps"].is_array()) {
    size_t index = 0;
    for (const json& inner : (*step->params)["steps"]) {
      const std::string inner_path =
          fmt::format("{}.{}.steps[{}]", path, step->verb->name, index++);
      if (auto ok = CheckStep(inner_path, inner, depth + 1, captures); !ok) return ok;
    }
  }
  const auto args = ReadArgs(step->verb->name, params, own, *captures, Resolve::kLater);
  if (!args) return fail(args.error());
  if (const auto known = extras->CheckReferences(*captures); !known) return fail(known.error());
  for (const auto& [name, output] : extras->captures) captures->emplace(name, uint64_t{0});
  return {};
}

Result<Scenario> ParseScenario(const std::string& file, const json& document) {
  const auto fail = [&](const Error& error) { return Fail("{}: {}", file, error.message); };
  const auto args = ReadArgs("a scenario", kScenarioFields, document, {}, Resolve::kNow);
  if (!args) return fail(args.error());
  Scenario out{.file = file,
               .name = args->Text("name"),
               .description = args->Text("description"),
               .processes = {},
               .devices = {},
               .memory = {},
               .modes = {},
               .reason = args->Has("reason") ? args->Text("reason") : "",
               .irqs_vary = args->Has("irqs_vary"),
               .timeout_ms = args->Number("timeout_ms"),
               .step_timeout_ms = args->Number("step_timeout_ms"),
               .steps = args->Given("steps")};
  for (const auto read : {&ReadProcesses, &ReadDevices, &ReadMemory, &ReadModes}) {
    if (const auto ok = read(*args, &out); !ok) return fail(ok.error());
  }
  Captures captures;
  size_t index = 0;
  for (const json& step : out.steps) {
    const auto ok = CheckStep(fmt::format("steps[{}]", index++), step, 0, &captures);
    if (!ok) return fail(ok.error());
  }
  return out;
}

Result<Scenario> LoadScenario(const std::string& path) {
  auto text = ReadFile(path);
  if (!text) return tl::unexpected(text.error());
  if (path.ends_with(".jsonnet")) {
    text = EvaluateJsonnet(path);
    if (!text) return Fail("{}: {}", path, text.error().message);
  } else if (!path.ends_with(".json")) {
    return Fail("{} is no scenario: name a .json or .jsonnet file", path);
  }
  const auto document = ParseJson(*text);
  if (!document) return Fail("{}: {}", path, document.error().message);
  return ParseScenario(path, *document);
}

}  // namespace farside::scenario
