#include "plugins.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <utility>

#include "json.h"
#include "library.h"
#include "qdbev_runtime/status.h"
#include "sha256.h"

namespace qdbev::runtime::trt {

namespace {

constexpr int64_t kAbi = 1;  // the one that this runtime speaks; plugins/include/qdbev/version.h has the library's
constexpr const char* kOps[] = {"MSDeformAttn", "TemporalSelfAttn", "SpatialCrossAttn", "ModulatedDeformSample"};

struct Loaded {
    std::string sha256, path;
};

struct Registries {
    std::mutex mutex;
    std::map<nvinfer1::IPluginRegistry*, Loaded> loaded;  // one registry for each TensorRT of the process
};

Registries& registries()
{
    static Registries* const made = new Registries;
    return *made;
}

void join(std::string& problems, const std::string& problem)
{
    problems += (problems.empty() ? "" : "; ") + problem;
}

std::string missing_ops(nvinfer1::IPluginRegistry& registry)
{
    std::string missing;
    for (const char* op : kOps) {
        if (!has_creator(registry, op)) {
            missing += (missing.empty() ? "" : ", ") + std::string(op);
        }
    }
    return missing;
}

}  // namespace

bool runs_on(std::string_view architecture, const std::array<int32_t, 2>& capability) noexcept
{
    int32_t number = 0;
    const char* const end = architecture.data() + architecture.size();
    const auto [after, error] = std::from_chars(architecture.data(), end, number);
    if (error != std::errc() || number < 10) {
        return false;
    }
    std::string_view suffix(after, static_cast<std::size_t>(end - after));
    const char kind = !suffix.empty() && (suffix[0] == 'a' || suffix[0] == 'f') ? suffix[0] : '\0';
    suffix.remove_prefix(kind == '\0' ? 0 : 1);
    if (!suffix.empty() && suffix != "-real" && suffix != "-virtual") {
        return false;
    }
    // Machine code runs on its own major version from its minor version on. A build without a suffix also carries PTX,
    // which the driver compiles for any later GPU. `a` is for one GPU only, `f` for those of its family.
    const std::array<int32_t, 2> built{number / 10, number % 10};
    if (kind == 'a') {
        return built == capability;
    }
    if (kind == 'f' || suffix == "-real") {
        return built[0] == capability[0] && built <= capability;
    }
    return built <= capability;
}

std::string plugin_problems(const std::string& description, const cuda::Device& device, int32_t major)
{
    const json::Value said = json::parse(
        description, "the plugin library's description of itself", "build it again: qdbev-deploy plugins build");
    const auto text_of = [&said](const char* name) {
        const json::Value* value = said.find(name);
        return value == nullptr || value->text() == nullptr ? std::string() : *value->text();
    };
    const json::Value* abi = said.find("abi");
    if (abi == nullptr || abi->integer() == nullptr || *abi->integer() != kAbi) {  // all else may be of another form
        return "its ABI is " + (abi == nullptr ? "not stated" : abi->described()) + ", and this runtime speaks "
            + std::to_string(kAbi);
    }
    std::string problems;
    const std::string architectures = text_of("cuda_architectures");
    bool runs = false;
    for (std::size_t begin = 0; begin < architectures.size();) {
        const std::size_t end = std::min(architectures.find(',', begin), architectures.size());
        runs = runs || runs_on({architectures.data() + begin, end - begin}, device.compute_capability);
        begin = end + 1;
    }
    if (architectures.empty()) {
        join(problems, "TensorRT needs the CUDA kernels");
    } else if (!runs) {
        join(problems,
            "no kernels for " + device.name + " (sm_" + std::to_string(device.compute_capability[0])
                + std::to_string(device.compute_capability[1]) + ")");
    }
    const std::string tensorrt = text_of("tensorrt");
    if (tensorrt.empty()) {
        join(problems, "TensorRT cannot load it");
    } else if (tensorrt.substr(0, tensorrt.find('.')) != std::to_string(major)) {
        join(problems, "it is for TensorRT " + tensorrt + ", and TensorRT " + std::to_string(major) + " is here");
    }
    return problems;
}

void load_plugins(nvinfer1::IPluginRegistry& registry, Log& log, const Bundle& bundle, const std::string& path,
    const cuda::Device& device)
{
    const std::string again = "build the bundle again on this machine: " + bundle.build_command;
    const std::lock_guard<std::mutex> lock(registries().mutex);
    const std::vector<char> bytes = bundle.read(path);  // held against the manifest right before it is loaded
    const std::string sha256 = sha256_of({bytes.data(), bytes.size()});
    const auto known = registries().loaded.find(&registry);
    if (known != registries().loaded.end()) {
        if (known->second.sha256 == sha256) {
            return;
        }
        throw Error(Code::bad_input,
            path + " is another plugin library than " + known->second.path + ", which this process has loaded",
            "one plugin library in a process: TensorRT knows a plugin by its name alone",
            "open the bundle in a process of its own, or build both with one library");
    }
    constexpr const char* kNeeded = "our plugins and their kernels for this TensorRT and this GPU";
    const Library library = Library::open({path}, kNeeded, again);
    const char* description = library.function<const char*()>("qdbev_describe")();
    const std::string problems = plugin_problems(description == nullptr ? "" : description, device, kMajor);
    if (!problems.empty()) {
        throw Error(Code::missing, "the plugin library " + path + ": " + problems, kNeeded, again);
    }
    static_cast<void>(log.take());
    const bool taken = registry.loadLibrary(path.c_str()) != nullptr;
    const std::string missing = missing_ops(registry);
    if (!taken || !missing.empty()) {
        throw Error(Code::missing,
            log.explained("TensorRT did not take the plugins of " + path
                + (missing.empty() ? "" : " (" + missing + " unknown)")),
            "our plugins in its registry", again);
    }
    registries().loaded.emplace(&registry, Loaded{sha256, path});
}

}  // namespace qdbev::runtime::trt
