#include "harness/scenario/args.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/options.h"
#include "harness/scenario/pattern.h"

namespace farside::scenario {

using nlohmann::json;

namespace {

// More than any message holds.
constexpr uint64_t kMaxZeroes = 16 << 20;

constexpr Param kPieceFields[] = {
    {"u8", Type::kNumber, "one byte", false, {}, UINT8_MAX},
    {"u16", Type::kNumber, "2 bytes, little-endian", false, {}, UINT16_MAX},
    {"u32", Type::kNumber, "4 bytes, little-endian", false, {}, UINT32_MAX},
    {"u64", Type::kNumber, "8 bytes, little-endian"},
    {"hex", Type::kText, "bytes as hexadecimal digits"},
    {"text", Type::kText, "the bytes of a text, without a terminating zero"},
    {"zeroes", Type::kNumber, "so many zeroes", false, {}, kMaxZeroes},
};

std::string Joined(std::span<const Param> params) {
  std::string out;
  for (const Param& param : params) {
    out += out.empty() ? "" : ", ";
    out += param.name;
  }
  return out;
}

}  // namespace

std::span<const Param> PieceFields() { return kPieceFields; }

uint64_t Args::Number(std::string_view name) const { return Get<uint64_t>(name); }

uint64_t Args::Number(std::string_view name, uint64_t fallback) const {
  return Has(name) ? Number(name) : fallback;
}

bool Args::Flag(std::string_view name) const { return Has(name) && Get<bool>(name); }

const std::string& Args::Text(std::string_view name) const { return Get<std::string>(name); }

ConstBytes Args::Data(std::string_view name) const { return Get<std::vector<std::byte>>(name); }

const std::vector<uint64_t>& Args::Numbers(std::string_view name) const {
  static const std::vector<uint64_t> kNone;
  return Has(name) ? Get<std::vector<uint64_t>>(name) : kNone;
}

const std::vector<std::string>& Args::Texts(std::string_view name) const {
  static const std::vector<std::string> kNone;
  return Has(name) ? Get<std::vector<std::string>>(name) : kNone;
}

const Args& Args::Record(std::string_view name) const {
  return Get<std::vector<Args>>(name).front();
}

std::span<const Args> Args::Records(std::string_view name) const {
  if (!Has(name)) return {};
  return Get<std::vector<Args>>(name);
}

const json& Args::Given(std::string_view name) const { return *Get<const json*>(name); }

template <typename T>
const T& Args::Get(std::string_view name) const {
  const auto found = values_.find(name);
  CHECK(found != values_.end());
  const T* const value = std::get_if<T>(&found->second);
  CHECK(value != nullptr);
  return *value;
}

// Reads one object; errors say which parameter of it.
class ArgsReader {
 public:
  ArgsReader(const Captures& captures, Resolve resolve) : captures_(captures), resolve_(resolve) {}

  Result<Args> Read(std::string_view owner, std::span<const Param> params, const json& given) {
    if (!given.is_object()) {
      return Fail("{}: its parameters are no object: write {{\"name\": value}}", owner);
    }
    for (const auto& [key, value] : given.items()) {
      const bool known = std::ranges::any_of(
          params, [&key = key](const Param& param) { return param.name == key; });
      if (!known) return Fail("{} has no {}: it has {}", owner, Quote(key), Joined(params));
    }
    Args args;
    for (const Param& param : params) {
      const auto found = given.find(param.name);
      if (found == given.end() && param.required) {
        return Fail("{} needs '{}': {}", owner, param.name, param.help);
      }
      if (found == given.end() && param.fallback.empty()) continue;
      const auto read = found != given.end() ? ReadValue(param, *found)
                                             : ReadValue(param, json(std::string(param.fallback)));
      if (!read) return Fail("{}: {}: {}", owner, param.name, read.error().message);
      if (*read) args.values_.emplace(param.name, std::move(**read));
    }
    return args;
  }

 private:
  using Datum = Args::Datum;
  // No value: a reference, which is resolved later.
  using Read1 = Result<std::optional<Datum>>;

  Read1 ReadValue(const Param& param, const json& given) {
    if (!given.is_string() || !IsReference(given.get_ref<const std::string&>())) {
      return ReadLiteral(param, given);
    }
    const std::string& text = given.get_ref<const std::string&>();
    const auto found = captures_.find(std::string_view(text).substr(1));
    if (found == captures_.end()) {
      return Fail("nothing was captured as {}: name it in an earlier step's \"capture\"",
                  Quote(text));
    }
    if (resolve_ == Resolve::kLater) return std::nullopt;
    return ReadLiteral(param, ValueJson(found->second));
  }

  Read1 ReadLiteral(const Param& param, const json& given) {
    switch (param.type) {
      case Type::kNumber:
        return ReadBounded(param, given);
      case Type::kBool:
        return ReadBool(given);
      case Type::kText:
      case Type::kPattern:
        return ReadText(param, given);
      case Type::kBytes:
        return ReadBytes(given);
      case Type::kWord:
      case Type::kCode:
        return ReadWord(param, given);
      case Type::kErrno:
      case Type::kStatus:
        return ReadCode(param, given);
      case Type::kNumbers:
      case Type::kTexts:
        return ReadList(param, given);
      case Type::kRecord:
        return ReadRecords(param, json::array({given}));
      case Type::kRecords:
        return ReadRecords(param, given);
      case Type::kSteps:
        if (!given.is_array()) return Fail("it is no list of steps: write [{{\"verb\": {{}}}}]");
        return Datum(&given);
      case Type::kUntil:
        return ReadUntil(param, given);
    }
    CHECK(false);
  }

  // What it names may have no value before the first round.
  Read1 ReadUntil(const Param& param, const json& given) {
    if (resolve_ == Resolve::kLater) {
      const auto read = Read(param.name, param.fields, given);
      if (!read) return tl::unexpected(read.error());
    }
    return Datum(&given);
  }

  static Result<uint64_t> ReadUpTo(uint64_t max, const json& given) {
    const auto number = ReadNumber(given);
    if (!number) return number;
    if (*number > max) return Fail("{:#x} is too large: {:#x} is the most", *number, max);
    return *number;
  }

  Read1 ReadBounded(const Param& param, const json& given) {
    const auto number = ReadUpTo(param.max, given);
    if (!number) return tl::unexpected(number.error());
    return Datum(*number);
  }

  static Read1 ReadBool(const json& given) {
    if (given.is_boolean()) return Datum(given.get<bool>());
    if (given.is_string()) {
      const std::string& text = given.get_ref<const std::string&>();
      if (text == "on" || text == "true") return Datum(true);
      if (text == "off" || text == "false") return Datum(false);
    }
    return Fail("{} is neither true nor false", Quote(given.dump()));
  }

  static Read1 ReadText(const Param& param, const json& given) {
    if (!given.is_string()) return Fail("{} is no text: put it in quotes", Quote(given.dump()));
    const std::string& text = given.get_ref<const std::string&>();
    if (param.type == Type::kPattern && !Pattern::Compile(text)) {
      return Fail(
          "{} is no regular expression (POSIX's extended kind, of {} characters and with "
          "repetitions of {} in all at most)",
          Quote(text), Pattern::kMaxSize, Pattern::kMaxRepetition);
    }
    return Datum(text);
  }

  Read1 ReadBytes(const json& given) {
    if (given.is_string()) {
      auto bytes = ParseHex(given.get_ref<const std::string&>());
      if (!bytes) return tl::unexpected(bytes.error());
      return Datum(std::move(*bytes));
    }
    if (!given.is_array()) {
      return Fail("{} is neither hexadecimal digits nor a list of pieces such as {{\"u32\": 1}}",
                  Quote(given.dump()));
    }
    std::vector<std::byte> out;
    bool complete = true;
    for (const json& piece : given) {
      const auto added = AppendPiece(piece, &out, &complete);
      if (!added) return tl::unexpected(added.error());
    }
    if (!complete) return std::nullopt;
    return Datum(std::move(out));
  }

  Result<void> AppendPiece(const json& given, std::vector<std::byte>* out, bool* complete) {
    const auto piece = Read("a piece", kPieceFields, given);
    if (!piece) return tl::unexpected(piece.error());
    if (given.size() != 1) return Fail("a piece has one of {}", Joined(kPieceFields));
    const std::string& kind = given.begin().key();
    if (!piece->Has(kind)) {
      *complete = false;
      return {};
    }
    if (kind == "text") {
      const auto text = std::as_bytes(std::span(piece->Text(kind)));
      out->insert(out->end(), text.begin(), text.end());
    } else if (kind == "hex") {
      const auto bytes = ParseHex(piece->Text(kind));
      if (!bytes) return tl::unexpected(bytes.error());
      out->insert(out->end(), bytes->begin(), bytes->end());
    } else if (kind == "zeroes") {
      out->resize(out->size() + piece->Number(kind));
    } else {
      const size_t size = kind == "u8" ? 1 : kind == "u16" ? 2 : kind == "u32" ? 4 : 8;
      out->resize(out->size() + size);
      StoreLePartial(Bytes(*out).last(size), piece->Number(kind));
    }
    return {};
  }

  static Read1 ReadWord(const Param& param, const json& given) {
    if (given.is_string() && !given.get_ref<const std::string&>().empty()) {
      const auto found = std::ranges::find(param.words, given.get_ref<const std::string&>());
      if (found != param.words.end()) {
        return Datum(static_cast<uint64_t>(found - param.words.begin()));
      }
    }
    if (param.type == Type::kCode) {
      const auto number = ReadUpTo(param.max, given);
      if (number) return Datum(*number);
    }
    std::string words;
    for (const std::string_view word : param.words) {
      words += words.empty() || word.empty() ? "" : ", ";
      words += word;
    }
    return Fail("{} is none of {}{}", Quote(given.dump()), words,
                param.type == Type::kCode ? ", and no number that fits" : "");
  }

  static Read1 ReadCode(const Param& param, const json& given) {
    const bool is_errno = param.type == Type::kErrno;
    const std::string text = given.is_string() ? given.get<std::string>() : given.dump();
    const auto code = is_errno ? ParseErrno(text) : ParseNvmeStatus(text);
    if (code) return Datum(*code);
    return Fail("{} is {}", Quote(text),
                is_errno ? "no errno: write EINVAL or 22"
                         : "no status of NVMe: write \"LBA Out of Range\" or 0x4080");
  }

  Read1 ReadList(const Param& param, const json& given) {
    if (!given.is_array()) return Fail("{} is no list", Quote(given.dump()));
    std::vector<uint64_t> numbers;
    std::vector<std::string> texts;
    const Param item{.name = param.name,
                     .type = param.type == Type::kNumbers ? Type::kNumber : Type::kText,
                     .help = {},
                     .max = param.max};
    bool complete = true;
    for (const json& element : given) {
      auto read = ReadValue(item, element);
      if (!read) return read;
      complete = complete && *read;
      if (!*read) continue;
      if (param.type == Type::kNumbers) numbers.push_back(std::get<uint64_t>(**read));
      if (param.type == Type::kTexts) texts.push_back(std::get<std::string>(**read));
    }
    if (!complete) return std::nullopt;
    return param.type == Type::kNumbers ? Datum(std::move(numbers)) : Datum(std::move(texts));
  }

  Read1 ReadRecords(const Param& param, const json& given) {
    if (!given.is_array()) return Fail("{} is no list", Quote(given.dump()));
    std::vector<Args> records;
    for (const json& element : given) {
      auto record = Read(param.name, param.fields, element);
      if (!record) return tl::unexpected(record.error());
      records.push_back(std::move(*record));
    }
    return Datum(std::move(records));
  }

  const Captures& captures_;
  const Resolve resolve_;
};

Result<Args> ReadArgs(std::string_view owner, std::span<const Param> params, const json& given,
                      const Captures& captures, Resolve resolve) {
  return ArgsReader(captures, resolve).Read(owner, params, given);
}

json ReplaceReferences(const json& given, const Captures& captures) {
  if (given.is_string()) {
    const std::string& text = given.get_ref<const std::string&>();
    if (!IsReference(text)) return given;
    const auto found = captures.find(std::string_view(text).substr(1));
    return found == captures.end() ? given : ValueJson(found->second);
  }
  if (!given.is_structured()) return given;
  json out = given;
  for (json& element : out) element = ReplaceReferences(element, captures);
  return out;
}

}  // namespace farside::scenario
