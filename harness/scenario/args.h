// Args: the parameters of one step, checked against its verb's row and with references replaced.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "harness/scenario/value.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {

// Asking for what a parameter is not, or for one that may be absent and is, is a bug: CHECK.
class Args {
 public:
  bool Has(std::string_view name) const { return values_.contains(name); }
  // Of kNumber, kWord and kCode (a word's index), kErrno, kStatus.
  uint64_t Number(std::string_view name) const;
  uint64_t Number(std::string_view name, uint64_t fallback) const;
  template <typename T>
  T Narrow(std::string_view name) const {
    return static_cast<T>(Number(name));  // Param::max has been checked.
  }
  bool Flag(std::string_view name) const;  // False where absent.
  const std::string& Text(std::string_view name) const;
  ConstBytes Data(std::string_view name) const;
  // Empty where absent.
  const std::vector<uint64_t>& Numbers(std::string_view name) const;
  const std::vector<std::string>& Texts(std::string_view name) const;
  const Args& Record(std::string_view name) const;
  std::span<const Args> Records(std::string_view name) const;
  // Of kSteps and kUntil: as it was given.
  const nlohmann::json& Given(std::string_view name) const;

 private:
  friend class ArgsReader;
  using Datum =
      std::variant<uint64_t, bool, std::string, std::vector<std::byte>, std::vector<uint64_t>,
                   std::vector<std::string>, std::vector<Args>, const nlohmann::json*>;
  template <typename T>
  const T& Get(std::string_view name) const;

  std::map<std::string, Datum, std::less<>> values_;
};

// Whether references must have a value now or only a name that will have one.
enum class Resolve { kNow, kLater };

// Reads an object. `owner` begins the errors: "bar.read". With Resolve::kLater the result is only
// good for its checks. `given` outlives the result.
Result<Args> ReadArgs(std::string_view owner, std::span<const Param> params,
                      const nlohmann::json& given, const Captures& captures, Resolve resolve);

// The kinds of pieces that kBytes is made of.
std::span<const Param> PieceFields();

// As JSON that gives the same Args, with references replaced.
nlohmann::json ReplaceReferences(const nlohmann::json& given, const Captures& captures);

}  // namespace farside::scenario
