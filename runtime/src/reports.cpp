#include "reports.h"

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string_view>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime {
namespace {

using json::Field;
using json::Value;

[[noreturn]] void refuse(const Field& field, const std::string& what, std::string needed)
{
    throw Error(Code::bad_input, field.document().name() + what, std::move(needed), field.document().next_step());
}

void require_schema(const Field& report, const char* schema)
{
    report["schema"].require(Value(std::string(schema)));
}

bool passed(const Field& report)
{
    return json::equal(report["passed"].value(), Value(true));
}

bool may_run_so(const Field& node)
{
    const Field ran = node["ran"];
    if (ran.string() == "int8" || ran.string() == "folded") {
        return true;
    }
    const std::optional<Field> allowed = node.find("allowed");
    return allowed && !allowed->string().empty();
}

using Told = std::map<std::string_view, std::reference_wrapper<const Value>>;

// The manifest's `part` has the fields of `wanted` and no others, each of the same value.
void require_agreement(const Field& manifest, const std::string& part, const Told& wanted, const char* report)
{
    const Field said = manifest[part];
    std::set<std::string_view> names;
    for (const auto& [name, value] : wanted) {
        names.insert(name);
    }
    for (const Value::Member& member : said.members()) {
        names.insert(member.name);
    }
    for (const std::string_view name : names) {
        const Value* found = said.value().find(name);
        const auto expected = wanted.find(name);
        if (found == nullptr || expected == wanted.end() || !json::equal(*found, expected->second)) {
            refuse(manifest,
                " says of " + json::quoted(part + '.' + std::string(name)) + " what " + report + " does not",
                "one story in both");
        }
    }
}

// How often a sequence began anew.
int64_t resets_of(const Field& reasons)
{
    int64_t count = 0;
    for (std::size_t i = 0; i < reasons.length(); ++i) {
        count += reasons[i].string().empty() ? 0 : 1;
    }
    return count;
}

}  // namespace

void require_layers(const Field& layers)
{
    require_schema(layers, "qdbev-layers/1");
    const Field list = layers["layers"];
    for (std::size_t i = 0; i < list.length(); ++i) {
        const Field layer = list[i];
        for (const char* name : {"name", "kind", "precision"}) {
            static_cast<void>(layer[name].string());
        }
        for (const char* name : {"nodes", "inputs", "outputs"}) {
            static_cast<void>(layer[name].length());
        }
    }
}

void require_guard(const Field& guard, const Field& manifest, const std::string& precision, bool emulated)
{
    require_schema(guard, "qdbev-guard/1");
    const Field nodes = guard["nodes"];
    bool all_may = true;
    for (std::size_t i = 0; i < nodes.length(); ++i) {
        all_may = may_run_so(nodes[i]) && all_may;
    }
    if (!passed(guard) || !all_may) {
        refuse(guard, " says that the precision guard did not pass", "a bundle whose guard passed");
    }
    const Value asked(precision);
    const Value how(emulated);
    Told wanted = {{"precision", asked}, {"emulated", how}};
    for (const Value::Member& member : guard.members()) {
        if (member.name == "schema" || member.name == "nodes") {
            continue;
        }
        const auto [at, is_new] = wanted.emplace(member.name, member.value);
        if (!is_new && !json::equal(at->second, member.value)) {
            refuse(guard, " says of " + json::quoted(member.name) + " what the build does not", "one story in both");
        }
    }
    require_agreement(manifest, "precision", wanted, kGuard);
}

void require_parity(const Field& parity, const Field& manifest)
{
    require_schema(parity, "qdbev-engine-parity/1");
    if (!passed(parity) || parity["failures"].length() != 0) {
        refuse(parity, " says that parity did not pass", "a bundle whose parity passed");
    }
    const Field same = parity["same_state"];
    const Value resets(resets_of(parity["resets"]));
    Told wanted = {
        {"passed", parity["passed"].value()},
        {"frames_are", parity["frames_are"].value()},
        {"frames", parity["frames"].value()},
        {"resets", resets},
        {"reference", parity["reference"].value()},
        {"tolerance", parity["arithmetic"].value()},
        {"outputs_relative", same["outputs_relative"].value()},
        {"box_center_m", same["boxes"]["center_m"].value()},
        {"detections", same["detections"].value()},
        {"detections_own_state", parity["own_state"]["detections"].value()},
    };
    require_agreement(manifest, "parity", wanted, kParity);
}

void require_no_parity(const Field& manifest)
{
    const Field said = manifest["parity"];
    const Field not_proved = said["not_proved"];
    for (std::size_t i = 0; i < not_proved.length(); ++i) {
        static_cast<void>(not_proved[i].text());
    }
    if (!said["passed"].value().is_null()) {
        refuse(manifest, std::string(" speaks of a parity, and there is no ") + kParity,
            "the report, or a manifest that says what is not proved");
    }
}

}  // namespace qdbev::runtime
