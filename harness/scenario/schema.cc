#include "harness/scenario/schema.h"

#include "harness/scenario/args.h"
#include "harness/scenario/expect.h"
#include "harness/scenario/scenario.h"
#include "harness/scenario/verb.h"

namespace farside::scenario {

using Json = nlohmann::ordered_json;

namespace {

constexpr std::string_view kReference = "^\\$.";

Json Ref(std::string_view name) { return {{"$ref", fmt::format("#/definitions/{}", name)}}; }

Json Reference() { return {{"type", "string"}, {"pattern", kReference}}; }

// `schema`, or a reference to a capture.
Json OrReference(Json schema) { return {{"anyOf", Json::array({std::move(schema), Reference()})}}; }

Json ObjectOf(std::span<const Param> params);

Json Words(std::span<const std::string_view> words) {
  Json list = Json::array();
  for (const std::string_view word : words) {
    if (!word.empty()) list.push_back(word);
  }
  return {{"enum", std::move(list)}};
}

Json TypeSchema(const Param& param) {
  switch (param.type) {
    case Type::kNumber:
      return Ref("number");
    case Type::kBool:
      return Ref("bool");
    case Type::kText:
    case Type::kPattern:
      return {{"type", "string"}};
    case Type::kBytes:
      return Ref("bytes");
    case Type::kWord:
      return OrReference(Words(param.words));
    case Type::kCode:
      return {{"anyOf", Json::array({Words(param.words), Ref("number")})}};
    case Type::kErrno:
      return Ref("errno");
    case Type::kStatus:
      return Ref("status");
    case Type::kNumbers:
      return OrReference({{"type", "array"}, {"items", Ref("number")}});
    case Type::kTexts:
      return OrReference({{"type", "array"}, {"items", {{"type", "string"}}}});
    case Type::kRecord:
    case Type::kUntil:
      return ObjectOf(param.fields);
    case Type::kRecords:
      return {{"type", "array"}, {"items", ObjectOf(param.fields)}};
    case Type::kSteps:
      return {{"type", "array"}, {"items", Ref("step")}};
  }
  return {};
}

std::string Description(const Param& param) {
  if (param.fallback.empty()) return std::string(param.help);
  return fmt::format("{}; default: {}", param.help, param.fallback);
}

Json ObjectOf(std::span<const Param> params) {
  Json properties = Json::object();
  Json required = Json::array();
  for (const Param& param : params) {
    Json schema = TypeSchema(param);
    schema["description"] = Description(param);
    properties[std::string(param.name)] = std::move(schema);
    if (param.required) required.push_back(param.name);
  }
  Json out = {{"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
  if (!required.empty()) out["required"] = std::move(required);
  return out;
}

Json ExpectSchema(const Verb& verb) {
  Json properties = Json::object();
  for (const Output& output : verb.outputs) {
    Json schema = output.is_text ? Ref("text_condition") : Ref("number_condition");
    schema["description"] = output.help;
    properties[std::string(output.name)] = std::move(schema);
    if (output.name == "value") {
      properties["mask"] = Ref("number");
      properties["mask"]["description"] = "the bits of `value` that count";
    }
  }
  return {{"type", "object"},
          {"additionalProperties", false},
          {"properties", std::move(properties)},
          {"description", "what the verb must give back"}};
}

Json CaptureSchema(const Verb& verb) {
  Json properties = Json::object();
  for (const Output& output : verb.outputs) {
    properties[std::string(output.name)] = {{"type", "string"}, {"description", output.help}};
  }
  Json object = {
      {"type", "object"}, {"additionalProperties", false}, {"properties", std::move(properties)}};
  return {
      {"anyOf", Json::array({Json{{"type", "string"}}, std::move(object)})},
      {"description", fmt::format("the name under which `{}` is kept, or a name for each output",
                                  verb.outputs.front().name)}};
}

Json StepSchema(const Verb& verb) {
  Json params = ObjectOf(AllParams(verb));
  if (!verb.outputs.empty()) {
    params["properties"]["expect"] = ExpectSchema(verb);
    params["properties"]["capture"] = CaptureSchema(verb);
  }
  const std::string name(verb.name);
  return {{"type", "object"},
          {"description", verb.help},
          {"additionalProperties", false},
          {"properties",
           {{name, std::move(params)},
            {"note", {{"type", "string"}, {"description", "why; shown when the step fails"}}}}},
          {"required", Json::array({name})}};
}

// A value by itself, or an object that says more.
Json ConditionSchema(Json value, bool is_text) {
  return {{"anyOf", Json::array({std::move(value), ObjectOf(ConditionParams(is_text))})}};
}

Json Definitions() {
  // Jsonnet has doubles only: 3.0 is an integer there.
  const Json number = {{"type", "integer"}, {"minimum", 0}};
  const Json number_text = {{"type", "string"},
                            {"pattern", "^(0[xX][0-9a-fA-F]+|[0-9]+[kKmMgGtTpPeE]?)$"}};
  Json piece = ObjectOf(PieceFields());
  piece["minProperties"] = 1;
  piece["maxProperties"] = 1;
  Json steps = Json::array();
  for (const Verb* verb : AllVerbs()) steps.push_back(StepSchema(*verb));
  const Json integer = {{"type", "integer"}};
  const Json text = {{"type", "string"}};
  return {{"number", {{"anyOf", Json::array({number, number_text, Reference()})}}},
          {"bool",
           {{"anyOf", Json::array({Json{{"type", "boolean"}},
                                   Json{{"enum", Json::array({"on", "off", "true", "false"})}},
                                   Reference()})}}},
          {"bytes",
           {{"anyOf",
             Json::array({Json{{"type", "string"}, {"pattern", "^([0-9a-fA-F]{2}|\\s)*$"}},
                          Json{{"type", "array"}, {"items", std::move(piece)}}, Reference()})}}},
          {"errno", {{"anyOf", Json::array({integer, text})}, {"description", "\"EINVAL\" or 22"}}},
          {"status",
           {{"anyOf", Json::array({integer, text})},
            {"description", "a status of NVMe: \"LBA Out of Range\" or 0x4080"}}},
          {"number_condition", ConditionSchema(Ref("number"), false)},
          {"text_condition", ConditionSchema({{"type", "string"}}, true)},
          {"step", {{"anyOf", std::move(steps)}}}};
}

}  // namespace

Json ScenarioSchema() {
  Json document = ObjectOf(ScenarioParams());
  Json out = {{"$schema", "http://json-schema.org/draft-07/schema#"},
              {"title", "Farside scenario"},
              {"description", "Made by `farside run --schema`."}};
  out.update(document);
  out["definitions"] = Definitions();
  return out;
}

}  // namespace farside::scenario
