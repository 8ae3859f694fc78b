// Verbs: a guest's LSI53C895A driver (harness/drivers/lsi_driver.h).
#include <algorithm>
#include <array>

#include "harness/scenario/args.h"
#include "harness/scenario/disk_content.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

constexpr uint64_t kBlockSize = 512;
constexpr uint64_t kMaxBlocks = 32767;  // Of 512 bytes, for a DBC of 24 bits.
constexpr uint64_t kMaxData = 0xff'ffff;
constexpr uint8_t kCheckCondition = 0x02;

constexpr std::string_view kCompletionWords[] = {"poll", "intx"};
static_assert(static_cast<int>(LsiCompletion::kIntx) == 1);
constexpr std::string_view kOutcomeWords[] = {"completed", "selection-timeout", "disconnected",
                                              "reset"};
static_assert(static_cast<int>(LsiOutcome::kReset) == 3);

// SAM-5 table 43, by their codes.
constexpr auto kStatusWords = [] {
  std::array<std::string_view, 0x41> words{};
  words[0x00] = "GOOD";
  words[0x02] = "CHECK CONDITION";
  words[0x04] = "CONDITION MET";
  words[0x08] = "BUSY";
  words[0x18] = "RESERVATION CONFLICT";
  words[0x28] = "TASK SET FULL";
  words[0x40] = "TASK ABORTED";
  return words;
}();

constexpr Param kTarget = {"target", Type::kNumber, "its SCSI id", false, "0", 15};
constexpr Param kLun = {"lun", Type::kNumber, "logical unit", false, "0", 7};
constexpr Param kCdb = {"cdb", Type::kBytes, "the command, up to 16 bytes", true};
constexpr Param kDataIn = {"data_in", Type::kNumber, "room for data of the target, in bytes",
                           false,     "0",           kMaxData};
constexpr Param kDataOut = {"data_out", Type::kBytes, "data for the target"};
constexpr Param kTagged = {"tagged", Type::kBool, "with a SIMPLE tag", false, "true"};
constexpr Param kDisconnect = {"disconnect", Type::kBool,
                               "the target may leave the bus while it works", false, "true"};
constexpr Param kSegments = {"segments", Type::kNumber, "table entries that the data are cut into",
                             false,      "1",           lsi_block::kMaxSegments};
constexpr Param kStatus = {.name = "status",
                           .type = Type::kCode,
                           .help = "what the command must end with",
                           .fallback = "GOOD",
                           .max = UINT8_MAX,
                           .words = kStatusWords};
constexpr Param kOutcome = {.name = "outcome",
                            .type = Type::kWord,
                            .help = "how it must end on the bus; status only counts if completed",
                            .fallback = "completed",
                            .words = kOutcomeWords};
constexpr Param kAt = {"at", Type::kNumber, "where in the data the outputs are", false, "0"};
constexpr Param kSize = {"size", Type::kNumber, "and how many bytes at most",
                         false,  "64",          kMaxData};
constexpr Param kId = {"id", Type::kNumber, "what lsi.submit gave", true, {}, UINT8_MAX};
constexpr Param kBlock = {"block", Type::kNumber, "the first logical block, of 512 bytes", true,
                          {},      UINT32_MAX};
constexpr Param kBlocks = {"blocks", Type::kNumber, "how many", false, "1", kMaxBlocks};
constexpr Param kSeed = {"seed", Type::kNumber,
                         "8-byte word i of the disk is Mix64(Mix64(seed) + i) of base/random.h: "
                         "neighbours fit together"};
constexpr Param kFill = {"fill", Type::kNumber, "every byte", false, {}, UINT8_MAX};
constexpr Param kGenerated = {"generated", Type::kNumber,
                              "the content of -blockdev driver=generated,seed=GENERATED"};

constexpr Param kEnable[] = {{.name = "completion",
                              .type = Type::kWord,
                              .help = "how the driver learns of completions",
                              .fallback = "intx",
                              .words = kCompletionWords},
                             kCpuParam,
                             kDeviceParam};
constexpr Param kSubmit[] = {kCdb,    kDataIn,     kDataOut,  kTarget,     kLun,
                             kTagged, kDisconnect, kSegments, kDeviceParam};
constexpr Param kCommand[] = {kCdb,    kDataIn,     kDataOut,    kTarget, kLun,
                              kTagged, kDisconnect, kSegments,   kStatus, kOutcome,
                              kAt,     kSize,       kDeviceParam};
constexpr Param kWait[] = {kId, kStatus, kOutcome, kAt, kSize, kDeviceParam};
constexpr Param kForget[] = {kId, kDeviceParam};
constexpr Param kRead[] = {kBlock, kBlocks, kSeed,       kFill,     kGenerated, kTarget,
                           kLun,   kTagged, kDisconnect, kSegments, kStatus,    kDeviceParam};
constexpr Param kWrite[] = {kBlock,  kBlocks,     kSeed,     kFill,   kTarget,     kLun,
                            kTagged, kDisconnect, kSegments, kStatus, kDeviceParam};
constexpr Param kMessageOut[] = {{"data", Type::kBytes, "all bytes of the MESSAGE OUT phase", true},
                                 kTarget,
                                 kOutcome,
                                 kDeviceParam};
constexpr Param kOnlyDevice[] = {kDeviceParam};
constexpr Param kRunScript[] = {
    {"words", Type::kNumbers, "its dwords", true},
    {"address",
     Type::kNumber,
     "where it is put, in SCRIPTS RAM or memory; default: SCRIPTS RAM",
     false,
     {},
     UINT32_MAX},
    {"dsa", Type::kNumber, "register DSA", false, "0", UINT32_MAX},
    {"halts", Type::kBool, "wait until an interrupt halts it", false, "true"},
    kDeviceParam};

constexpr Output kEnableOutputs[] = {
    {"registers", "address of BAR 1"},
    {"ram", "address of BAR 2, the SCRIPTS RAM"},
};
constexpr Output kResultOutputs[] = {
    {"status", "of the target; 0xff where it sent none"},
    {"residual", "bytes of room or data that did not move"},
    {"value", "the first 8 bytes at most of `data`, big-endian as SCSI has it"},
    {"data", "of the target, as hexadecimal digits", true},
    {"text", "the same as ASCII, without blanks at its end", true},
    {"sense_key", "of the REQUEST SENSE that follows CHECK CONDITION; else 0"},
    {"asc", "and its additional sense code and qualifier, 16 bits"},
};
constexpr Output kIdOutputs[] = {{"id", "the command's tag, for lsi.wait"}};
constexpr Output kHaltOutputs[] = {
    {"dsps", "of the INT that halted it"},
    {"dstat", "register"},
    {"sist0", "register"},
    {"sist1", "register"},
    {"dsp", "register"},
};

std::string StatusText(uint8_t status) {
  const bool named = status < kStatusWords.size() && !kStatusWords[status].empty();
  return fmt::format("{:#x}{}{}", status, named ? " " : "", named ? kStatusWords[status] : "");
}

Result<Outputs> Enable(Session& session, const Args& args) {
  const auto found = session.FindClient(args);
  if (!found) return tl::unexpected(found.error());
  Link& link = **found;
  const auto completion = static_cast<LsiCompletion>(args.Number("completion"));
  if (link.lsi && link.lsi_completion != completion) session.DropDriver(link);
  if (!link.lsi) {
    auto driver = LsiDriver::Probe(*link.client, session.memory(),
                                   {.completion = completion,
                                    .timeout_ns = std::max<uint64_t>(session.time_left_ns(), 1),
                                    .cpu = args.Narrow<uint32_t>("cpu")});
    if (!driver) return tl::unexpected(driver.error());
    link.lsi = std::move(*driver);
    link.lsi_completion = completion;
  }
  if (const auto enabled = link.lsi->Enable(); !enabled) return tl::unexpected(enabled.error());
  const auto& bars = link.lsi->function().bars();
  return Outputs{{"registers", bars[lsi53c895a::kMemoryBar].address},
                 {"ram", bars[lsi53c895a::kRamBar].address}};
}

LsiCommand CommandOf(const Args& args) {
  return {.target = args.Narrow<uint8_t>("target"),
          .lun = args.Narrow<uint8_t>("lun"),
          .cdb = args.Has("cdb") ? args.Data("cdb") : ConstBytes(),
          .data_in = args.Has("data_in") ? args.Narrow<uint32_t>("data_in") : 0,
          .data_out = args.Has("data_out") ? args.Data("data_out") : ConstBytes(),
          .tagged = args.Flag("tagged"),
          .disconnect = args.Flag("disconnect"),
          .segments = args.Narrow<uint32_t>("segments")};
}

Result<void> JudgeOutcome(const LsiResult& result, const Args& args) {
  const auto outcome = static_cast<size_t>(result.outcome);
  if (outcome != args.Number("outcome")) {
    return Fail("the command ended with outcome {}, expected {}", kOutcomeWords[outcome],
                kOutcomeWords[args.Number("outcome")]);
  }
  return {};
}

struct SenseCode {
  uint8_t key = 0;
  uint16_t asc = 0;
};

Result<SenseCode> FetchSense(LsiDriver& driver, uint8_t target, uint8_t lun) {
  const auto got = driver.RequestSense(target, lun);
  if (!got) return tl::unexpected(got.error());
  if (got->outcome != LsiOutcome::kCompleted || got->data.size() < 14) {
    return Fail("REQUEST SENSE ended with outcome {}",
                kOutcomeWords[static_cast<size_t>(got->outcome)]);
  }
  const auto at = [&](size_t index) { return std::to_integer<uint8_t>(got->data[index]); };
  return SenseCode{.key = static_cast<uint8_t>(at(2) & 0xf),
                   .asc = static_cast<uint16_t>(at(12) << 8 | at(13))};
}

// What a command ended with, and what it brought.
Result<Outputs> Judge(LsiDriver& driver, const Result<LsiResult>& result, const Args& args,
                      uint8_t target, uint8_t lun) {
  if (!result) return tl::unexpected(result.error());
  if (const auto good = JudgeOutcome(*result, args); !good) return tl::unexpected(good.error());
  SenseCode sense;
  if (result->outcome == LsiOutcome::kCompleted && result->status == kCheckCondition) {
    const auto fetched = FetchSense(driver, target, lun);
    if (!fetched) return tl::unexpected(fetched.error());
    sense = *fetched;
  }
  if (result->outcome == LsiOutcome::kCompleted && result->status != args.Number("status")) {
    return Fail("the command ended with {}, expected {}; sense key {:#x}, ASC {:#06x}",
                StatusText(result->status), StatusText(args.Narrow<uint8_t>("status")), sense.key,
                sense.asc);
  }
  const ConstBytes data = result->data;
  const size_t at = std::min<uint64_t>(args.Number("at"), data.size());
  const ConstBytes shown =
      data.subspan(at, std::min<uint64_t>(args.Number("size"), data.size() - at));
  std::string text;
  uint64_t value = 0;
  for (const std::byte byte : shown) {
    const char c = static_cast<char>(byte);
    text.push_back(c >= ' ' && c <= '~' ? c : '.');
  }
  for (const std::byte byte : shown.first(std::min<size_t>(shown.size(), 8))) {
    value = value << 8 | std::to_integer<uint64_t>(byte);
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return Outputs{{"status", uint64_t{result->status}},
                 {"residual", uint64_t{result->residual}},
                 {"value", value},
                 {"data", FormatHex(shown)},
                 {"text", text},
                 {"sense_key", uint64_t{sense.key}},
                 {"asc", uint64_t{sense.asc}}};
}

Result<Outputs> Command(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  LsiDriver& driver = *(*link)->lsi;
  return Judge(driver, driver.Execute(CommandOf(args)), args, args.Narrow<uint8_t>("target"),
               args.Narrow<uint8_t>("lun"));
}

Result<Outputs> Submit(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  const auto id = (*link)->lsi->Submit(CommandOf(args));
  if (!id) return tl::unexpected(id.error());
  return Outputs{{"id", uint64_t{*id}}};
}

Result<Outputs> Wait(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  LsiDriver& driver = *(*link)->lsi;
  return Judge(driver, driver.Wait(args.Narrow<uint8_t>("id")), args, 0, 0);
}

Result<Outputs> Forget(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  (*link)->lsi->Forget(args.Narrow<uint8_t>("id"));
  return Outputs{};
}

// READ(10) or WRITE(10).
std::array<std::byte, 10> BlockCdb(uint8_t opcode, const Args& args) {
  std::array<std::byte, 10> cdb{std::byte{opcode}};
  for (size_t i = 0; i < 4; ++i) {
    cdb[2 + i] = static_cast<std::byte>(args.Number("block") >> (24 - 8 * i) & 0xff);
  }
  cdb[7] = static_cast<std::byte>(args.Number("blocks") >> 8);
  cdb[8] = static_cast<std::byte>(args.Number("blocks") & 0xff);
  return cdb;
}

Result<std::vector<std::byte>> ContentOf(const Args& args) {
  return DiskContent(args, kBlockSize, "seed, fill and generated");
}

// The status of a transfer that is looked at no further.
Result<Outputs> JudgeTransfer(LsiDriver& driver, const LsiResult& result, const Args& args) {
  if (result.outcome != LsiOutcome::kCompleted) {
    return Fail("the command ended with outcome {}",
                kOutcomeWords[static_cast<size_t>(result.outcome)]);
  }
  if (result.status != args.Number("status")) {
    return Fail("the command ended with {}, expected {}", StatusText(result.status),
                StatusText(args.Narrow<uint8_t>("status")));
  }
  if (result.status == kCheckCondition) {
    const auto sense =
        FetchSense(driver, args.Narrow<uint8_t>("target"), args.Narrow<uint8_t>("lun"));
    if (!sense) return tl::unexpected(sense.error());
  } else if (result.residual != 0) {
    return Fail("{} bytes did not move", result.residual);
  }
  return Outputs{};
}

Result<Outputs> Read(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  const auto expected = ContentOf(args);
  if (!expected) return tl::unexpected(expected.error());
  const auto cdb = BlockCdb(0x28, args);
  LsiCommand command = CommandOf(args);
  command.cdb = cdb;
  command.data_in = static_cast<uint32_t>(args.Number("blocks") * kBlockSize);
  LsiDriver& driver = *(*link)->lsi;
  const auto result = driver.Execute(command);
  if (!result) return tl::unexpected(result.error());
  auto judged = JudgeTransfer(driver, *result, args);
  if (!judged || expected->empty() || result->status != 0) return judged;
  const auto same = CheckDiskContent(result->data, *expected, args.Number("block") * kBlockSize);
  return same ? judged : tl::unexpected(same.error());
}

Result<Outputs> Write(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  const auto content = ContentOf(args);
  if (!content) return tl::unexpected(content.error());
  if (content->empty()) return Fail("say what to write: seed or fill");
  const auto cdb = BlockCdb(0x2a, args);
  LsiCommand command = CommandOf(args);
  command.cdb = cdb;
  command.data_out = *content;
  LsiDriver& driver = *(*link)->lsi;
  const auto result = driver.Execute(command);
  if (!result) return tl::unexpected(result.error());
  return JudgeTransfer(driver, *result, args);
}

Result<Outputs> MessageOut(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  const auto sent = (*link)->lsi->SendMessage(args.Narrow<uint8_t>("target"), args.Data("data"));
  if (!sent) return tl::unexpected(sent.error());
  if (const auto good = JudgeOutcome(*sent, args); !good) return tl::unexpected(good.error());
  return Outputs{};
}

Result<Outputs> ResetBus(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  const auto reset = (*link)->lsi->ResetBus();
  if (!reset) return tl::unexpected(reset.error());
  return Outputs{};
}

Result<Outputs> RunScript(Session& session, const Args& args) {
  const auto link = session.FindLsi(args);
  if (!link) return tl::unexpected(link.error());
  LsiDriver& driver = *(*link)->lsi;
  std::vector<uint32_t> words;
  for (const uint64_t word : args.Numbers("words")) {
    if (word > UINT32_MAX) return Fail("{:#x} is no dword", word);
    words.push_back(static_cast<uint32_t>(word));
  }
  const auto address = static_cast<uint32_t>(args.Number("address", driver.ram_address()));
  const auto started = driver.StartScript(address, words, args.Narrow<uint32_t>("dsa"));
  if (!started) return tl::unexpected(started.error());
  if (!args.Flag("halts")) {
    return Outputs{{"dsps", uint64_t{0}},
                   {"dstat", uint64_t{0}},
                   {"sist0", uint64_t{0}},
                   {"sist1", uint64_t{0}},
                   {"dsp", uint64_t{0}}};
  }
  const auto halt = driver.WaitForHalt();
  if (!halt) return tl::unexpected(halt.error());
  return Outputs{{"dsps", uint64_t{halt->dsps}},
                 {"dstat", uint64_t{halt->dstat}},
                 {"sist0", uint64_t{halt->sist0}},
                 {"sist1", uint64_t{halt->sist1}},
                 {"dsp", uint64_t{halt->dsp}}};
}

constexpr Verb kVerbs[] = {
    {"lsi.enable", "Probes the chip, places its BARs, resets it and starts the driver's script.",
     Kind::kDriver, kEnable, kEnableOutputs, &Enable},
    {"lsi.command", "Has a target carry out a command.", Kind::kDriver, kCommand, kResultOutputs,
     &Command},
    {"lsi.submit", "Starts a command and does not wait.", Kind::kDriver, kSubmit, kIdOutputs,
     &Submit},
    {"lsi.wait", "Waits for the end of a command.", Kind::kDriver, kWait, kResultOutputs, &Wait},
    {"lsi.forget",
     "Gives up a command that will not end: it was aborted.",
     Kind::kDriver,
     kForget,
     {},
     &Forget},
    {"lsi.read",
     "READ(10), and compares the blocks with what is named.",
     Kind::kDriver,
     kRead,
     {},
     &Read},
    {"lsi.write", "WRITE(10).", Kind::kDriver, kWrite, {}, &Write},
    {"lsi.message_out",
     "Selects a target and sends messages after which it leaves the bus.",
     Kind::kDriver,
     kMessageOut,
     {},
     &MessageOut},
    {"lsi.bus_reset",
     "Asserts RST/: all commands in flight end with outcome reset.",
     Kind::kDriver,
     kOnlyDevice,
     {},
     &ResetBus},
    {"lsi.run_script",
     "Resets the chip and runs a script of the scenario's own. lsi.enable brings the driver's "
     "back.",
     Kind::kDriver, kRunScript, kHaltOutputs, &RunScript},
};

}  // namespace

std::span<const Verb> LsiVerbs() { return kVerbs; }

}  // namespace farside::scenario
