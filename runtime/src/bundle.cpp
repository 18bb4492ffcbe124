// Bundle::open: the manifest, every file that it lists, the contract and the reports, before anything is loaded.
#include "bundle.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "contract_document.h"
#include "json.h"
#include "plain_file.h"
#include "qdbev_runtime/status.h"
#include "qdbev_runtime/version.h"
#include "reports.h"
#include "sha256.h"

namespace qdbev::runtime {
namespace {

using json::Field;
using json::Value;

constexpr const char* kSchemaFamily = "qdbev-bundle/";
constexpr int64_t kMaxThreads = 1024;
constexpr int64_t kMaxDlaCore = 15;  // no board has more than a few
constexpr std::size_t kPiece = std::size_t{1} << 20;

bool starts_with(std::string_view text, std::string_view start) noexcept
{
    return text.substr(0, start.size()) == start;
}

bool ends_with(std::string_view text, std::string_view end) noexcept
{
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

void require_readable(const Folder& folder, const std::string& name, uint64_t size)
{
    if (size > json::kMaxBytes) {
        throw folder.refused(
            name + " has " + std::to_string(size) + " bytes", "at most " + std::to_string(json::kMaxBytes));
    }
}

json::Document document(const Folder& folder, const char* name, const std::string& text)
{
    return {folder.name + ": " + name, Folder::copy_again(), text};
}

std::string text_of_manifest(const Folder& folder)
{
    PlainFile file(folder, kManifest);
    require_readable(folder, kManifest, file.size());
    std::string text(static_cast<std::size_t>(file.size()), '\0');
    std::size_t length = 0;
    while (length < text.size()) {
        const std::size_t count = file.read(text.data() + length, text.size() - length);
        if (count == 0) {
            break;
        }
        length += count;
    }
    text.resize(length);
    return text;
}

// What shlex.join makes of words, the way the build quotes the command that makes a bundle again. It is printed for
// people to paste, so that nothing else may stand in it.
bool is_build_command(const std::string& command)
{
    static constexpr std::string_view kSafe =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    static constexpr std::string_view kQuoteInQuotes = R"('"'"')";
    static constexpr std::string_view kStart = "qdbev-deploy build";
    if (!starts_with(command, kStart) || (command.size() > kStart.size() && command[kStart.size()] != ' ')
        || !json::is_printable(command) || command.find('\n') != std::string::npos) {
        return false;
    }
    for (std::string_view rest = command; true; rest.remove_prefix(1)) {
        if (rest.empty()) {
            return false;  // a space and nothing after it
        }
        if (rest[0] == '\'') {
            rest.remove_prefix(1);
            bool needs_quotes = rest.substr(0, 1) == "'";  // as nothing at all does
            while (!rest.empty() && (rest[0] != '\'' || starts_with(rest, kQuoteInQuotes))) {
                needs_quotes = needs_quotes || kSafe.find(rest[0]) == std::string_view::npos;
                rest.remove_prefix(rest[0] == '\'' ? kQuoteInQuotes.size() : 1);
            }
            if (rest.empty() || !needs_quotes) {
                return false;
            }
            rest.remove_prefix(1);
        } else {
            const std::size_t length = std::min(rest.find_first_not_of(kSafe), rest.size());
            if (length == 0) {
                return false;
            }
            rest.remove_prefix(length);
        }
        if (rest.empty()) {
            return true;
        }
        if (rest[0] != ' ') {
            return false;
        }
    }
}

std::string text_or(const Field& object, const char* name, const char* otherwise)
{
    const std::optional<Field> found = object.find(name);
    return found ? found->text() : otherwise;
}

bool flag_or_false(const Field& object, const char* name)
{
    const std::optional<Field> found = object.find(name);
    return found && found->flag();
}

std::vector<std::string> texts(const Field& list)
{
    std::vector<std::string> found;
    for (std::size_t i = 0; i < list.length(); ++i) {
        found.push_back(list[i].text());
    }
    return found;
}

void require_schema(const Folder& folder, const Field& manifest)
{
    const Field schema = manifest["schema"];
    if (schema.value().text() != nullptr && schema.string() == QDBEV_RUNTIME_BUNDLE_SCHEMA) {
        return;
    }
    const bool another = schema.value().text() != nullptr && starts_with(schema.string(), kSchemaFamily);
    throw folder.refused(std::string(kManifest) + " is of schema " + schema.value().described(),
        "schema '" QDBEV_RUNTIME_BUNDLE_SCHEMA "', which this runtime reads",
        another ? "use the runtime library of the release that built it, or build it again" : Folder::copy_again());
}

// What is asked of a build, as far as it decides how the engine is opened and judged; empty: not stated.
std::string read_options(const Field& options, Bundle& bundle)
{
    std::string precision;
    if (const std::optional<Field> asked = options.find("precision")) {
        precision = asked->text();
        if (precision != "int8" && precision != "fp16" && precision != "fp32") {
            asked->refuse("one of int8, fp16, fp32");
        }
    }
    if (const std::optional<Field> threads = options.find("threads"); threads && !threads->value().is_null()) {
        bundle.threads = static_cast<int32_t>(threads->integer(1, kMaxThreads));
    }
    if (const std::optional<Field> core = options.find("dla_core"); core && !core->value().is_null()) {
        bundle.dla_core = static_cast<int32_t>(core->integer(0, kMaxDlaCore));
    }
    bundle.fused = flag_or_false(options, "fused");
    bundle.version_compatible = flag_or_false(options, "version_compatible");
    bundle.hardware_compatible = flag_or_false(options, "hardware_compatible");
    return precision;
}

std::optional<Gpu> gpu_of(const Field& gpu)
{
    if (gpu.value().is_null()) {
        return std::nullopt;
    }
    Gpu read;
    read.name = text_or(gpu, "name", "a GPU");
    const Field capability = gpu["compute_capability"];
    capability.require_length(read.compute_capability.size());
    for (std::size_t i = 0; i < read.compute_capability.size(); ++i) {
        read.compute_capability[i] = static_cast<int32_t>(capability[i].integer(0, 99));
    }
    return read;
}

// The fields of the manifest into the bundle's; returns the precision that was asked for.
std::string read_manifest(const Folder& folder, const Field& manifest, Bundle& bundle)
{
    require_schema(folder, manifest);
    for (const char* name : {"tool", "created"}) {
        static_cast<void>(manifest[name].string());
    }
    for (const char* name : {"precision", "parity", "provenance"}) {
        static_cast<void>(manifest[name].members());
    }
    bundle.backend = manifest["backend"].text();
    if (bundle.backend != "tensorrt" && bundle.backend != "onnxruntime") {
        throw folder.refused(
            "an engine for the backend " + json::quoted(bundle.backend), "one of tensorrt, onnxruntime");
    }
    const Field build = manifest["build"];
    const std::string precision = read_options(build["options"], bundle);
    const Field opens_with = build["opens_with"];
    for (const Value::Member& member : opens_with.members()) {
        if (build["options"].value().find(member.name) != nullptr) {
            opens_with[member.name].refuse("nothing that build.options says already");
        }
    }
    bundle.provider = text_or(opens_with, "provider", bundle.backend == "onnxruntime" ? "CPUExecutionProvider" : "");
    bundle.build_command = text_or(build, "command", "qdbev-deploy build");
    if (!is_build_command(bundle.build_command)) {
        build["command"].refuse("a command qdbev-deploy build, quoted as the build does");
    }
    if (const std::optional<Field> notes = build.find("notes")) {
        static_cast<void>(texts(*notes));
    }
    bundle.machine = text_or(manifest, "machine", "");
    const Field versions = manifest["versions"];
    for (const Value::Member& version : versions.members()) {
        static_cast<void>(versions[version.name].text());
    }
    bundle.tensorrt_version = text_or(versions, "tensorrt", "");
    bundle.gpu = gpu_of(manifest["gpu"]);
    return precision;
}

Error was_changed(const Folder& folder, const std::string& name, const std::string& sha256)
{
    return folder.refused(name + " was changed: its sha256 is another", "sha256 " + json::quoted(sha256));
}

// Reads a listed file to its end. Returns its text if it is kept, else nothing.
std::string verified(
    const Folder& folder, const std::string& name, const Field& entry, bool keep, std::vector<char>& piece)
{
    const int64_t bytes = entry["bytes"].integer(0, std::numeric_limits<int64_t>::max());
    const std::string& sha256 = entry["sha256"].text();
    PlainFile file(folder, name);
    const auto refuse_size = [&](uint64_t found) {
        throw folder.refused(
            name + " has " + std::to_string(found) + " bytes", "the " + std::to_string(bytes) + " that were built");
    };
    if (file.size() != static_cast<uint64_t>(bytes)) {
        refuse_size(file.size());
    }
    if (keep) {
        require_readable(folder, name, file.size());
    }
    Sha256 sum;
    std::string text;
    uint64_t length = 0;
    while (const std::size_t count = file.read(piece.data(), piece.size())) {
        length += count;
        if (length > static_cast<uint64_t>(bytes)) {
            refuse_size(length);
        }
        sum.update(piece.data(), count);
        if (keep) {
            text.append(piece.data(), count);
        }
    }
    if (sum.finish() != sha256) {
        throw was_changed(folder, name, sha256);
    }
    return text;
}

// Every file that the manifest lists is a plain file of the folder, and as it was. Returns the texts of our documents,
// so that what is read is what was verified.
std::map<std::string, std::string> verified_files(const Folder& folder, const Field& manifest)
{
    static constexpr std::array kDocuments = {kContract, kLayers, kGuard, kParity};
    const Field files = manifest["files"];
    std::vector<char> piece(kPiece);
    std::map<std::string, std::string> documents;
    for (const Value::Member& listed : files.members()) {
        const std::string& name = listed.name;
        if (!is_plain_name(name) || name == kManifest) {
            throw folder.refused(std::string(kManifest) + " lists the file " + json::quoted(name),
                "names of files in the bundle's own folder");
        }
        const bool keep = std::any_of(
            kDocuments.begin(), kDocuments.end(), [&](const char* ours) { return name == ours; });
        std::string text = verified(folder, name, files[name], keep, piece);
        if (keep) {
            documents.emplace(name, std::move(text));
        }
    }
    return documents;
}

void require_listed(const Folder& folder, const Field& files, const std::string& name)
{
    if (files.value().find(name) == nullptr) {
        throw folder.refused(std::string(kManifest) + " does not list " + json::quoted(name) + " among its files",
            "every file that is loaded");
    }
}

// The path of a file that the backend loads.
std::string loadable(const Folder& folder, const Field& files, const std::string& name)
{
    require_listed(folder, files, name);
    if (ends_with(name, ".json")) {
        throw folder.refused(
            std::string(kManifest) + " says that the engine loads " + name, "an engine, which is no JSON");
    }
    return folder.file(name);
}

}  // namespace

Bundle Bundle::open(const std::string& path)
{
    const Folder folder = Folder::of_bundle(path);
    const json::Document manifest = document(folder, kManifest, text_of_manifest(folder));
    const Field root = manifest.root();
    Bundle bundle;
    bundle.path = path;
    const std::string precision = read_manifest(folder, root, bundle);
    const std::string& engine_file = root["engine_file"].text();
    const std::vector<std::string> extra_files = texts(root["extra_files"]);

    const std::map<std::string, std::string> documents = verified_files(folder, root);
    const Field files = root["files"];
    for (const Value::Member& listed : files.members()) {
        bundle.sha256.emplace(folder.file(listed.name), files[listed.name]["sha256"].text());
    }
    for (const char* name : {kContract, kLayers, kGuard}) {
        require_listed(folder, files, name);
    }
    bundle.engine_file = loadable(folder, files, engine_file);
    for (const std::string& name : extra_files) {
        bundle.extra_files.push_back(loadable(folder, files, name));
    }

    bundle.contract = contract_of(document(folder, kContract, documents.at(kContract)).root());
    require_layers(document(folder, kLayers, documents.at(kLayers)).root());
    // ONNX Runtime computes int8 in float32 where Q/DQ are left as they stand.
    const bool emulated = bundle.backend == "onnxruntime" && precision == "int8" && !bundle.fused;
    require_guard(document(folder, kGuard, documents.at(kGuard)).root(), root, precision, emulated);
    if (const auto parity = documents.find(kParity); parity != documents.end()) {
        require_parity(document(folder, kParity, parity->second).root(), root);
    } else {
        require_no_parity(root);
    }
    bundle.precision = (precision.empty() ? "precision not stated" : precision)
        + (emulated ? ", emulated in floating point" : "");
    return bundle;
}

std::vector<char> Bundle::read(const std::string& path_of_file) const
{
    const std::size_t slash = path_of_file.rfind('/');
    const Folder folder = Folder::of_bundle(path_of_file.substr(0, slash));
    const std::string name = path_of_file.substr(slash + 1);
    PlainFile file(folder, name);
    std::vector<char> bytes(static_cast<std::size_t>(file.size()));
    std::size_t length = 0;
    while (length < bytes.size()) {
        const std::size_t count = file.read(bytes.data() + length, bytes.size() - length);
        if (count == 0) {
            break;
        }
        length += count;
    }
    const auto known = sha256.find(path_of_file);
    if (length != bytes.size()
        || (known != sha256.end() && sha256_of({bytes.data(), bytes.size()}) != known->second)) {
        throw was_changed(folder, name, known == sha256.end() ? "of the file as it was" : known->second);
    }
    return bytes;
}

}  // namespace qdbev::runtime
