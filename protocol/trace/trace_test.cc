#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "base/random.h"
#include "protocol/trace/pcapng.h"
#include "protocol/trace/trace_info.h"
#include "protocol/trace/trace_reader.h"
#include "protocol/trace/trace_writer.h"
#include "protocol/trace/zstd_file.h"
#include "protocol/vfio_user_codec.h"

namespace farside::trace {
namespace {

using vfio_user::Command;

TraceInfo SomeInfo() {
  return {.program = "disk-proc 0.1.0",
          .tap = TraceInfo::Tap::kWire,
          .dma = TraceInfo::Dma::kMessage,
          .clock = TraceInfo::ClockKind::kVirtual,
          .args = {"-device", "nvme,id=nvme0"},
          .devices = {{"nvme0", "nvme"}, {"nvme1", "nvme"}}};
}

Event Message(Command command, size_t data_size, uint8_t fill) {
  Event event;
  const vfio_user::DmaAccess access{.iova = 0x1000, .count = data_size};
  const auto header = vfio_user::CommandHeader(7, command, sizeof access + data_size);
  event.bytes.resize(header.size, std::byte{fill});
  std::memcpy(event.bytes.data(), &header, sizeof header);
  std::memcpy(event.bytes.data() + sizeof header, &access, sizeof access);
  event.direction = Direction::kOut;
  event.device = 1;
  event.cpu = 3;
  event.time_ns = 0x1'2345'6789;
  return event;
}

class TraceTest : public ::testing::Test {
 protected:
  ~TraceTest() override { unlink(path_.c_str()); }

  // Writes `events`, numbering them, and gives them as they should be read.
  std::vector<Event> WriteAll(std::vector<Event> events, bool finish = true) {
    auto writer = TraceWriter::Create(path_, SomeInfo());
    EXPECT_TRUE(writer) << writer.error().message;
    for (size_t i = 0; i < events.size(); ++i) {
      events[i].number = static_cast<uint32_t>(i);
      EXPECT_TRUE((*writer)->Write(events[i]));
    }
    if (finish) {
      EXPECT_TRUE((*writer)->Finish());
    }
    return events;
  }

  // Reads until the end or the first error.
  std::vector<Event> ReadAll(std::string* error, bool* truncated) {
    std::vector<Event> events;
    auto reader = TraceReader::Open(path_);
    if (!reader) {
      *error = reader.error().message;
      return events;
    }
    for (;;) {
      auto event = (*reader)->Next();
      if (!event) *error = event.error().message;
      if (!event || !*event) break;
      events.push_back(std::move(**event));
    }
    *truncated = (*reader)->truncated();
    return events;
  }

  // The blocks of the file, of which there are few.
  std::vector<std::byte> Content() {
    std::vector<std::byte> content(4096);
    content.resize(ZstdReader::Open(path_).value().Read(content).value());
    return content;
  }

  // The file anew: one frame that is `content` as it is. `window` is its header's
  // Window_Descriptor.
  void WriteFrame(ConstBytes content, uint8_t window = (23 - 10) << 3) {
    const uint32_t block = static_cast<uint32_t>(content.size()) << 3 | 1;  // Raw, and the last.
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    const uint8_t head[] = {0x28,
                            0xb5,
                            0x2f,
                            0xfd,
                            0,  // No size, no checksum.
                            window,
                            static_cast<uint8_t>(block),
                            static_cast<uint8_t>(block >> 8),
                            static_cast<uint8_t>(block >> 16)};
    file.write(reinterpret_cast<const char*>(head), sizeof head);
    file.write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
  }

  std::string path_ = "/tmp/farside-trace-" + std::to_string(getpid()) + ".trace";
};

TEST_F(TraceTest, GivesBackWhatWasWritten) {
  Event fds;
  fds.kind = EventKind::kFds;
  fds.fds = {{FdSpec::Kind::kMemory, 1 << 20, 5}, {FdSpec::Kind::kEventfd, 0, 0}};
  Event steps;
  steps.kind = EventKind::kSteps;
  steps.bytes.resize(8, std::byte{9});
  Event attach;
  attach.kind = EventKind::kAttach;
  const auto written =
      WriteAll({attach, Message(Command::kDmaRead, 0, 0), fds, steps,
                Message(Command::kDmaWrite, 4096, 1), Message(Command::kDmaWrite, 10'000, 1),
                Message(Command::kDmaWrite, 4096, 1), Message(Command::kRegionWrite, 4, 1)});
  std::string error;
  bool truncated = true;
  EXPECT_EQ(ReadAll(&error, &truncated), written);
  EXPECT_EQ(error, "");
  EXPECT_FALSE(truncated);
  const auto reader = TraceReader::Open(path_);
  ASSERT_TRUE(reader);
  EXPECT_EQ((*reader)->info(), SomeInfo());
}

TEST_F(TraceTest, RepeatedPagesAreWrittenOnceEvenBeyondTheRing) {
  Random random(1);
  std::vector<Event> events;
  // More distinct incompressible pages than the ring holds, then the newest of them again.
  for (int i = 0; i < 2500; ++i) {
    Event event = Message(Command::kDmaWrite, 4096, 0);
    for (size_t at = 32; at < event.bytes.size(); at += 8) {
      StoreLe(Bytes(event.bytes).subspan(at), random.Next());
    }
    events.push_back(event);
  }
  const std::vector<Event> newest(events.end() - 2000, events.end());
  events.insert(events.end(), newest.begin(), newest.end());
  const auto written = WriteAll(events);
  std::string error;
  bool truncated = true;
  EXPECT_EQ(ReadAll(&error, &truncated), written);
  struct stat status {};
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_LT(status.st_size, 2500 * 4096 * 1.05) << "2000 pages are there twice";
}

TEST_F(TraceTest, ABigMessageIsContinuedInPacketsThatWiresharkTakes) {
  Event big = Message(Command::kDmaRead, 700'000, 0);
  Random random(3);
  for (size_t i = 32; i < big.bytes.size(); ++i) big.bytes[i] = std::byte(random.Below(256));
  const auto written = WriteAll({big, Message(Command::kDmaRead, 16, 1)});
  std::string error;
  bool truncated = true;
  EXPECT_EQ(ReadAll(&error, &truncated), written);
  EXPECT_EQ(error, "");
  EXPECT_FALSE(truncated);

  auto file = ZstdReader::Open(path_).value();
  std::vector<std::byte> all(2 << 20);
  all.resize(file.Read(all).value());
  size_t packets = 0;
  for (size_t at = 0; at < all.size();) {
    const auto type = LoadLe<uint32_t>(Bytes(all).subspan(at));
    const auto size = LoadLe<uint32_t>(Bytes(all).subspan(at + 4));
    packets += type == pcapng::kEnhancedPacket;
    EXPECT_LT(size, 262144u);
    at += size;
  }
  EXPECT_EQ(packets, 5u);
}

TEST_F(TraceTest, ATraceCutAnywhereIsReadUpToTheCut) {
  const auto written = WriteAll(std::vector<Event>(600, Message(Command::kDmaWrite, 100, 2)));
  std::ifstream file(path_, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(file)), {});
  size_t most = 0;
  for (size_t cut = 0; cut < whole.size(); cut += 61) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << whole.substr(0, cut);
    std::string error;
    bool truncated = false;
    const auto read = ReadAll(&error, &truncated);
    ASSERT_LE(read.size(), written.size());
    EXPECT_TRUE(std::equal(read.begin(), read.end(), written.begin())) << "cut at " << cut;
    if (read.size() < written.size()) {
      EXPECT_TRUE(truncated || !error.empty()) << cut;
    }
    most = std::max(most, read.size());
  }
  EXPECT_GE(most, 512u) << "what was flushed is readable";
}

TEST_F(TraceTest, ARecorderThatWasKilledLosesOnlyItsLastEvents) {
  WriteAll(std::vector<Event>(600, Message(Command::kDmaWrite, 100, 2)), /*finish=*/false);
  std::string error;
  bool truncated = false;
  EXPECT_EQ(ReadAll(&error, &truncated).size(), 512u);
  EXPECT_TRUE(truncated);
  EXPECT_EQ(error, "");
}

TEST_F(TraceTest, AFlippedByteIsNeverAcceptedInSilence) {
  const auto written = WriteAll(std::vector<Event>(40, Message(Command::kDmaWrite, 5000, 2)));
  std::ifstream file(path_, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(file)), {});
  const size_t table = 8 + 8 + 9;  // Redundant: nothing is read by it.
  for (size_t at = 0; at + table < whole.size(); at += 7) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x40);
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << damaged;
    std::string error;
    bool truncated = false;
    const auto read = ReadAll(&error, &truncated);
    EXPECT_TRUE(!error.empty() || truncated || read == written) << "byte " << at;
  }
}

TEST_F(TraceTest, NamesAFileThatIsNoTrace) {
  std::ofstream(path_) << "hello, this is not a trace at all";
  const auto reader = TraceReader::Open(path_);
  ASSERT_FALSE(reader);
  EXPECT_NE(reader.error().message.find(path_), std::string::npos) << reader.error().message;
  EXPECT_NE(TraceReader::Open("/nonexistent").error().message.find("/nonexistent"),
            std::string::npos);
}

TEST(TraceInfoTest, RefusesWhatIsNoTraceInfo) {
  EXPECT_TRUE(ParseTraceInfo(FormatTraceInfo(SomeInfo())));
  for (const char* text : {"[1]", "7", R"({"farside_trace":999})"}) {
    EXPECT_FALSE(ParseTraceInfo(text)) << text;
  }
  for (const char* text : {"", "{", "{]"}) {
    const auto info = ParseTraceInfo(text);
    ASSERT_FALSE(info) << text;
    EXPECT_NE(info.error().message.find("is no JSON"), std::string::npos) << info.error().message;
  }
}

TEST_F(TraceTest, RewindReadsTheSameAgain) {
  const auto written = WriteAll(std::vector<Event>(10, Message(Command::kDmaWrite, 9000, 2)));
  auto reader = TraceReader::Open(path_);
  ASSERT_TRUE(reader);
  for (int round = 0; round < 2; ++round) {
    for (const Event& wanted : written) {
      const auto event = (*reader)->Next();
      ASSERT_TRUE(event && *event);
      EXPECT_EQ(**event, wanted);
    }
    ASSERT_TRUE((*reader)->Rewind());
  }
}

// A frame's header may ask for 128 MiB and more before there is any content.
TEST_F(TraceTest, TakesNoMemoryByANumberInTheFile) {
  WriteAll({Message(Command::kDmaWrite, 8, 1)});
  const auto content = Content();
  std::string error;
  bool truncated = false;
  WriteFrame(content, (23 - 10) << 3);  // 8 MiB: what `zstd -19` asks for.
  EXPECT_EQ(ReadAll(&error, &truncated).size(), 1u) << error;
  WriteFrame(content, (27 - 10) << 3);
  EXPECT_EQ(ReadAll(&error, &truncated).size(), 0u);
  EXPECT_NE(error.find("is no Farside trace"), std::string::npos) << error;
}

// A block has its length at both ends, so that a file can be read backwards.
TEST_F(TraceTest, ABlockWhoseTwoLengthsDifferIsMalformed) {
  WriteAll({Message(Command::kDmaWrite, 8, 1)});
  auto content = Content();
  const Bytes last = Bytes(content).last(sizeof(uint32_t));
  StoreLe(last, LoadLe<uint32_t>(last) + 4);
  WriteFrame(content);
  std::string error;
  bool truncated = false;
  EXPECT_EQ(ReadAll(&error, &truncated).size(), 0u);
  EXPECT_NE(error.find("a block's two lengths differ"), std::string::npos) << error;
}

}  // namespace
}  // namespace farside::trace
