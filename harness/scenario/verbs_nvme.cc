// Verbs: a guest's NVMe driver (harness/drivers/nvme_driver.h).
#include <algorithm>
#include <array>

#include "harness/scenario/args.h"
#include "harness/scenario/disk_content.h"
#include "harness/scenario/session.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {
namespace {

using nvme::Cqe;
using nvme::Sqe;
using nvme::Status;

constexpr uint64_t kMaxBlocks = 65536;
constexpr uint64_t kMaxLog = 1 << 20;

constexpr std::string_view kCompletionWords[] = {"poll", "msix", "intx"};
static_assert(static_cast<int>(NvmeCompletion::kMsix) == 1 &&
              static_cast<int>(NvmeCompletion::kIntx) == 2);

constexpr Param kQueue = {"queue", Type::kNumber, "queue pair; 0 is the admin one",
                          false,   "1",           UINT16_MAX};
constexpr Param kStatus = {"status", Type::kStatus, "what the command must end with", false,
                           "Successful Completion"};
constexpr Param kBlock = {"block", Type::kNumber, "the first logical block", true};
constexpr Param kBlocks = {"blocks", Type::kNumber, "how many", false, "1", kMaxBlocks};
constexpr Param kSeed = {"seed", Type::kNumber,
                         "8-byte word i of the disk is Mix64(Mix64(seed) + i) of base/random.h: "
                         "neighbours fit together"};
constexpr Param kFill = {"fill", Type::kNumber, "every byte", false, {}, UINT8_MAX};
constexpr Param kGenerated = {"generated", Type::kNumber,
                              "the content of -blockdev driver=generated,seed=GENERATED"};
constexpr Param kData = {"data", Type::kBytes, "the bytes, of whole blocks"};

constexpr Param kEnable[] = {
    {.name = "completion",
     .type = Type::kWord,
     .help = "how the driver learns of completions",
     .fallback = "msix",
     .words = kCompletionWords},
    {"admin_entries", Type::kNumber, "entries of the admin queues", false, "32", 4096},
    kCpuParam,
    kDeviceParam};
constexpr Param kOnlyDevice[] = {kDeviceParam};
constexpr Param kCreateQueues[] = {
    {"count", Type::kNumber, "I/O queue pairs, from 1 on", false, "1", UINT16_MAX},
    {"entries", Type::kNumber, "of each queue, 2 and up", false, "64", 65536},
    kDeviceParam};
constexpr Param kDeleteQueue[] = {kQueue, kDeviceParam};
constexpr Param kRead[] = {kBlock, kBlocks, kSeed,   kFill,       kGenerated,
                           kData,  kQueue,  kStatus, kDeviceParam};
constexpr Param kWrite[] = {
    kBlock, kBlocks, kSeed,
    kFill,  kData,   {"fua", Type::kBool, "it must be on the medium when it completes"},
    kQueue, kStatus, kDeviceParam};
constexpr Param kCompare[] = {kBlock, kBlocks, kSeed,   kFill,       kGenerated,
                              kData,  kQueue,  kStatus, kDeviceParam};
constexpr Param kFlush[] = {kQueue, kStatus, kDeviceParam};
constexpr Param kWriteZeroes[] = {
    kBlock, kBlocks, {"deallocate", Type::kBool, "the blocks may be given back"},
    kQueue, kStatus, kDeviceParam};
constexpr Param kRangeFields[] = {{"block", Type::kNumber, "the first logical block", true},
                                  {"blocks", Type::kNumber, "how many", true, {}, UINT32_MAX}};
constexpr Param kDsm[] = {{.name = "ranges",
                           .type = Type::kRecords,
                           .help = "what to deallocate: 1 to 256",
                           .required = true,
                           .fields = kRangeFields},
                          kQueue,
                          kStatus,
                          kDeviceParam};
constexpr Param kAt = {"at", Type::kNumber, "where in it the outputs are", false, "0"};
constexpr Param kSize = {"size", Type::kNumber, "and how many bytes", false, "4", kMaxLog};
constexpr Param kIdentify[] = {
    {"cns", Type::kNumber, "0 namespace, 1 controller, 2 active namespaces, 3 descriptors", false,
     "1", UINT8_MAX},
    {"nsid", Type::kNumber, "namespace", false, "0", UINT32_MAX},
    kAt,
    kSize,
    kStatus,
    kDeviceParam};
constexpr Param kGetLog[] = {
    {"log",
     Type::kNumber,
     "1 errors, 2 SMART, 3 firmware slots, 4 changed namespaces, 5 effects",
     true,
     {},
     UINT8_MAX},
    {"length", Type::kNumber, "bytes to ask for, a multiple of 4", false, "512", kMaxLog},
    kAt,
    kSize,
    kStatus,
    kDeviceParam};
constexpr Param kFeatureId = {"id", Type::kNumber, "feature: 7 number of queues, ...", true,
                              {},   UINT8_MAX};
constexpr Param kSetFeature[] = {
    kFeatureId, {"value", Type::kNumber, "CDW11", true, {}, UINT32_MAX}, kStatus, kDeviceParam};
constexpr Param kGetFeature[] = {kFeatureId, kStatus, kDeviceParam};

constexpr Param Dword(std::string_view name) {
  return {name, Type::kNumber, "as the command has it", false, "0", UINT32_MAX};
}
constexpr Param kOpcode = {"opcode", Type::kNumber, "command", true, {}, UINT8_MAX};
constexpr Param kFlags = {"flags", Type::kNumber, "FUSE in bits 1:0, PSDT in bits 7:6",
                          false,   "0",           UINT8_MAX};
constexpr Param kNsid = {"nsid", Type::kNumber, "namespace", false, "0", UINT32_MAX};
constexpr Param kPrp1 = {"prp1", Type::kNumber, "data pointer", false, "0"};
constexpr Param kPrp2 = {"prp2", Type::kNumber, "data pointer, or a list's", false, "0"};
constexpr Param kSubmit[] = {kOpcode,        kQueue,         kNsid,          kPrp1,
                             kPrp2,          Dword("cdw10"), Dword("cdw11"), Dword("cdw12"),
                             Dword("cdw13"), Dword("cdw14"), Dword("cdw15"), kFlags,
                             kDeviceParam};
constexpr Param kExecute[] = {kOpcode,        kQueue,         kNsid,          kPrp1,
                              kPrp2,          Dword("cdw10"), Dword("cdw11"), Dword("cdw12"),
                              Dword("cdw13"), Dword("cdw14"), Dword("cdw15"), kFlags,
                              kStatus,        kDeviceParam};
constexpr Param kWait[] = {{"cid", Type::kNumber, "what nvme.submit gave", true, {}, UINT16_MAX},
                           kQueue,
                           kStatus,
                           kDeviceParam};

constexpr Output kEnableOutputs[] = {
    {"serial", "serial number", true},
    {"model", "model number", true},
    {"firmware", "firmware revision", true},
    {"blocks", "logical blocks of namespace 1"},
    {"block_size", "bytes of one"},
    {"max_transfer", "bytes of the largest transfer; 0: no limit"},
};
constexpr Output kDataOutputs[] = {
    {"value", "the first 8 bytes at most, little-endian"},
    {"data", "all bytes, as hexadecimal digits", true},
    {"text", "the same as ASCII, without blanks at its end", true},
};
constexpr Output kCqeOutputs[] = {
    {"dw0", "of the completion"},
    {"sq_head", "of the completion"},
};
constexpr Output kCidOutputs[] = {{"cid", "the command's identifier, for nvme.wait"}};

tl::unexpected<Error> WrongStatus(Status got, Status wanted) {
  return Fail("the command ended with {}, expected {}", NvmeStatusText(got),
              NvmeStatusText(wanted));
}

Result<Outputs> Judge(const Result<Status>& status, const Args& args) {
  if (!status) return tl::unexpected(status.error());
  const auto wanted = static_cast<Status>(args.Number("status"));
  if (*status != wanted) return WrongStatus(*status, wanted);
  return Outputs{};
}

Result<Outputs> Judge(const Result<Cqe>& cqe, const Args& args) {
  if (!cqe) return tl::unexpected(cqe.error());
  const auto judged = Judge(Result<Status>(nvme::StatusOf(*cqe)), args);
  if (!judged) return judged;
  return Outputs{{"dw0", uint64_t{cqe->dw0}}, {"sq_head", uint64_t{cqe->sq_head}}};
}

Result<Outputs> Enable(Session& session, const Args& args) {
  const auto found = session.FindClient(args);
  if (!found) return tl::unexpected(found.error());
  Link& link = **found;
  const auto completion = static_cast<NvmeCompletion>(args.Number("completion"));
  const uint64_t entries = args.Number("admin_entries");
  if (entries < 2) return Fail("admin queues have 2 entries at least");
  if (link.nvme && link.nvme_completion != completion) session.DropDriver(link);
  if (!link.nvme) {
    auto driver = NvmeDriver::Probe(*link.client, session.memory(),
                                    {.admin_entries = static_cast<uint32_t>(entries),
                                     .completion = completion,
                                     .timeout_ns = std::max<uint64_t>(session.time_left_ns(), 1),
                                     .cpu = args.Narrow<uint32_t>("cpu")});
    if (!driver) return tl::unexpected(driver.error());
    link.nvme = std::move(*driver);
    link.nvme_completion = completion;
  }
  if (const auto enabled = link.nvme->Enable(); !enabled) return tl::unexpected(enabled.error());
  const NvmeController& controller = link.nvme->controller();
  return Outputs{{"serial", controller.serial},
                 {"model", controller.model},
                 {"firmware", controller.firmware},
                 {"blocks", link.nvme->name_space().blocks},
                 {"block_size", uint64_t{link.nvme->name_space().block_size}},
                 {"max_transfer", controller.max_transfer}};
}

template <auto kFunction>
Result<Outputs> Simple(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  const auto done = ((*link)->nvme.get()->*kFunction)();
  if (!done) return tl::unexpected(done.error());
  return Outputs{};
}

Result<Outputs> CreateQueues(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  if (args.Number("entries") < 2) return Fail("a queue has 2 entries at least");
  const auto created =
      (*link)->nvme->CreateQueues(args.Narrow<uint16_t>("count"), args.Narrow<uint32_t>("entries"));
  if (!created) return tl::unexpected(created.error());
  return Outputs{};
}

Result<Outputs> DeleteQueue(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  const auto deleted = (*link)->nvme->DeleteQueue(args.Narrow<uint16_t>("queue"));
  if (!deleted) return tl::unexpected(deleted.error());
  return Outputs{};
}

// What seed, fill, generated or data stand for, over the blocks that are named. Empty where none is
// given.
Result<std::vector<std::byte>> ContentOf(const Args& args, const NvmeDriver& driver) {
  if (args.Has("data")) {
    return std::vector<std::byte>(args.Data("data").begin(), args.Data("data").end());
  }
  return DiskContent(args, driver.name_space().block_size, "seed, fill, generated and data");
}

Result<Outputs> Read(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  NvmeDriver& driver = *(*link)->nvme;
  const auto expected = ContentOf(args, driver);
  if (!expected) return tl::unexpected(expected.error());
  std::vector<std::byte> got(args.Number("blocks") * driver.name_space().block_size);
  auto judged = Judge(driver.Read(args.Narrow<uint16_t>("queue"), args.Number("block"), got), args);
  if (!judged || expected->empty() || args.Number("status") != 0) return judged;
  const auto equal =
      CheckDiskContent(got, *expected, args.Number("block") * driver.name_space().block_size);
  return equal ? judged : tl::unexpected(equal.error());
}

Result<Outputs> Write(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  const auto content = ContentOf(args, *(*link)->nvme);
  if (!content) return tl::unexpected(content.error());
  if (content->empty()) return Fail("say what to write: seed, fill or data");
  return Judge((*link)->nvme->Write(args.Narrow<uint16_t>("queue"), args.Number("block"), *content,
                                    args.Flag("fua")),
               args);
}

Result<Outputs> Compare(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  const auto content = ContentOf(args, *(*link)->nvme);
  if (!content) return tl::unexpected(content.error());
  if (content->empty()) return Fail("say what to compare with: seed, fill, generated or data");
  return Judge(
      (*link)->nvme->Compare(args.Narrow<uint16_t>("queue"), args.Number("block"), *content), args);
}

Result<Outputs> Flush(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  return Judge((*link)->nvme->Flush(args.Narrow<uint16_t>("queue")), args);
}

Result<Outputs> WriteZeroes(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  return Judge((*link)->nvme->WriteZeroes(args.Narrow<uint16_t>("queue"), args.Number("block"),
                                          args.Narrow<uint32_t>("blocks"), args.Flag("deallocate")),
               args);
}

Result<Outputs> Dsm(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<nvme::DsmRange> ranges;
  for (const Args& range : args.Records("ranges")) {
    ranges.push_back(
        {.blocks = range.Narrow<uint32_t>("blocks"), .first_block = range.Number("block")});
  }
  return Judge((*link)->nvme->Trim(args.Narrow<uint16_t>("queue"), ranges), args);
}

// What the command returned, as far as the step wants to see it.
Result<Outputs> Show(const Args& args, ConstBytes data, const Result<Status>& status) {
  if (const auto judged = Judge(status, args); !judged) return judged;
  if (!InRange(args.Number("at"), args.Number("size"), data.size())) {
    return Fail("bytes {}+{} lie beyond the {} that were asked for", args.Number("at"),
                args.Number("size"), data.size());
  }
  const ConstBytes shown = data.subspan(args.Number("at"), args.Number("size"));
  std::string text;
  for (const std::byte byte : shown) {
    const char c = static_cast<char>(byte);
    text.push_back(c >= ' ' && c <= '~' ? c : '.');
  }
  text.erase(text.find_last_not_of(' ') + 1);
  return Outputs{{"value", LoadLePartial(shown)}, {"data", FormatHex(shown)}, {"text", text}};
}

Result<Outputs> Identify(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<std::byte> data(nvme::kIdentifySize);
  const auto status = (*link)->nvme->Identify(nvme::Cns{args.Narrow<uint8_t>("cns")},
                                              args.Narrow<uint32_t>("nsid"), data);
  return Show(args, data, status);
}

Result<Outputs> GetLog(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  std::vector<std::byte> data(args.Number("length"));
  const auto status = (*link)->nvme->GetLog(nvme::LogId{args.Narrow<uint8_t>("log")}, data);
  return Show(args, data, status);
}

Result<Outputs> SetFeature(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  return Judge((*link)->nvme->SetFeature(nvme::FeatureId{args.Narrow<uint8_t>("id")},
                                         args.Narrow<uint32_t>("value")),
               args);
}

Result<Outputs> GetFeature(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  return Judge((*link)->nvme->GetFeature(nvme::FeatureId{args.Narrow<uint8_t>("id")}), args);
}

Sqe SqeOf(const Args& args) {
  return {.opcode = args.Narrow<uint8_t>("opcode"),
          .flags = args.Narrow<uint8_t>("flags"),
          .nsid = args.Narrow<uint32_t>("nsid"),
          .prp1 = args.Number("prp1"),
          .prp2 = args.Number("prp2"),
          .cdw10 = args.Narrow<uint32_t>("cdw10"),
          .cdw11 = args.Narrow<uint32_t>("cdw11"),
          .cdw12 = args.Narrow<uint32_t>("cdw12"),
          .cdw13 = args.Narrow<uint32_t>("cdw13"),
          .cdw14 = args.Narrow<uint32_t>("cdw14"),
          .cdw15 = args.Narrow<uint32_t>("cdw15")};
}

Result<Outputs> Execute(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  return Judge((*link)->nvme->Execute(args.Narrow<uint16_t>("queue"), SqeOf(args)), args);
}

Result<Outputs> Submit(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  const auto cid = (*link)->nvme->Submit(args.Narrow<uint16_t>("queue"), SqeOf(args));
  if (!cid) return tl::unexpected(cid.error());
  return Outputs{{"cid", uint64_t{*cid}}};
}

Result<Outputs> Wait(Session& session, const Args& args) {
  const auto link = session.FindNvme(args);
  if (!link) return tl::unexpected(link.error());
  return Judge((*link)->nvme->Wait(args.Narrow<uint16_t>("queue"), args.Narrow<uint16_t>("cid")),
               args);
}

constexpr Verb kVerbs[] = {
    {"nvme.enable", "Probes the controller, places its BARs, enables and identifies it.",
     Kind::kDriver, kEnable, kEnableOutputs, &Enable},
    {"nvme.disable",
     "Clears CC.EN and waits until CSTS.RDY is 0.",
     Kind::kDriver,
     kOnlyDevice,
     {},
     &Simple<&NvmeDriver::Disable>},
    {"nvme.shutdown",
     "Shuts the controller down normally.",
     Kind::kDriver,
     kOnlyDevice,
     {},
     &Simple<&NvmeDriver::Shutdown>},
    {"nvme.identify", "Identifies, and shows some of the 4096 bytes.", Kind::kDriver, kIdentify,
     kDataOutputs, &Identify},
    {"nvme.get_log", "Gets a log page, and shows some of it.", Kind::kDriver, kGetLog, kDataOutputs,
     &GetLog},
    {"nvme.set_feature", "Sets a feature.", Kind::kDriver, kSetFeature, kCqeOutputs, &SetFeature},
    {"nvme.get_feature", "Gets a feature.", Kind::kDriver, kGetFeature, kCqeOutputs, &GetFeature},
    {"nvme.create_queues",
     "Creates I/O queue pairs.",
     Kind::kDriver,
     kCreateQueues,
     {},
     &CreateQueues},
    {"nvme.delete_queue",
     "Deletes an I/O queue pair.",
     Kind::kDriver,
     kDeleteQueue,
     {},
     &DeleteQueue},
    {"nvme.read",
     "Reads blocks, and compares them with what is named.",
     Kind::kDriver,
     kRead,
     {},
     &Read},
    {"nvme.write", "Writes blocks.", Kind::kDriver, kWrite, {}, &Write},
    {"nvme.compare", "Has the controller compare blocks.", Kind::kDriver, kCompare, {}, &Compare},
    {"nvme.flush", "Flushes the volatile write cache.", Kind::kDriver, kFlush, {}, &Flush},
    {"nvme.write_zeroes", "Writes zeroes.", Kind::kDriver, kWriteZeroes, {}, &WriteZeroes},
    {"nvme.dsm", "Dataset Management: deallocates ranges.", Kind::kDriver, kDsm, {}, &Dsm},
    {"nvme.execute", "Submits any command and waits for its completion.", Kind::kDriver, kExecute,
     kCqeOutputs, &Execute},
    {"nvme.submit", "Submits any command and does not wait.", Kind::kDriver, kSubmit, kCidOutputs,
     &Submit},
    {"nvme.wait", "Waits for the completion of a command.", Kind::kDriver, kWait, kCqeOutputs,
     &Wait},
};

}  // namespace

std::span<const Verb> NvmeVerbs() { return kVerbs; }

}  // namespace farside::scenario
