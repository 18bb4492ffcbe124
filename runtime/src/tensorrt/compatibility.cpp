#include "compatibility.h"

#include <charconv>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime::trt {

namespace {

constexpr std::array<int32_t, 2> kAmpere{8, 0};  // from here on a plan built with --hardware-compatible runs

std::string dotted(const std::array<int32_t, 2>& capability)
{
    return std::to_string(capability[0]) + "." + std::to_string(capability[1]);
}

[[noreturn]] void refuse(const Bundle& bundle, std::string found, std::string needed)
{
    throw Error(Code::missing, std::move(found), std::move(needed), "build it again here: " + bundle.build_command);
}

}  // namespace

Version version_of(const std::string& text) noexcept
{
    Version version{};
    const char* at = text.data();
    const char* const end = at + text.size();
    for (int32_t& part : version) {
        const auto [after, error] = std::from_chars(at, end, part);
        if (error != std::errc() || after == end || *after != '.') {
            break;
        }
        at = after + 1;
    }
    return version;
}

Version version_of(int32_t packed) noexcept
{
    const int32_t unit = packed < 10000 ? 1000 : 10000;  // of the major number; it grew with TensorRT 10
    return {packed / unit, packed % unit / 100, packed % 100};
}

std::string text_of(const Version& version)
{
    return std::to_string(version[0]) + "." + std::to_string(version[1]) + "." + std::to_string(version[2]);
}

void require_processor(const Bundle& bundle, const std::string& here)
{
    if (bundle.gpu && !bundle.machine.empty() && bundle.machine != here) {
        refuse(bundle, "the engine was built on " + bundle.machine + ", and this is " + here,
            "a machine with " + bundle.machine);
    }
}

void require_gpu(const Bundle& bundle, const std::string& name, const std::array<int32_t, 2>& compute_capability)
{
    if (!bundle.gpu || bundle.gpu->compute_capability == compute_capability
        || (bundle.hardware_compatible && compute_capability >= kAmpere)) {
        return;
    }
    const std::string built = bundle.gpu->name.empty() ? "a GPU" : bundle.gpu->name;
    refuse(bundle,
        "the engine was built for " + built + " (compute capability " + dotted(bundle.gpu->compute_capability)
            + "), and here is " + name + " (" + dotted(compute_capability) + ")",
        "a GPU of the same compute capability: a plan is machine code of one");
}

void require_major(const Bundle& bundle, int32_t major)
{
    const int32_t built = version_of(bundle.tensorrt_version)[0];
    if (!bundle.tensorrt_version.empty() && built != major) {
        throw Error(Code::missing,
            "the engine was built with TensorRT " + bundle.tensorrt_version + ", and this runtime for TensorRT "
                + std::to_string(major),
            "both of one major version",
            "build the runtime with the headers of TensorRT " + std::to_string(built)
                + " (-DTENSORRT_ROOT=DIR), or build the engine again with TensorRT " + std::to_string(major) + ": "
                + bundle.build_command);
    }
}

void require_release(const std::string& path, const Version& here, int32_t major)
{
    // 8.6 alone of the 8s; of 10 the first two minor versions lack what the plugins need.
    const bool known = (here[0] == 8 && here[1] == 6) || (here[0] == 10 && here[1] >= 3) || here[0] == 11;
    if (!known || here[0] != major) {
        const std::string needed = major == 8 ? "8.6" : major == 10 ? "10.3 or a later 10" : std::to_string(major);
        throw Error(Code::missing, path + " is TensorRT " + text_of(here),
            "TensorRT " + needed + ", for which this runtime was built",
            "install that, or build the runtime with the headers of the TensorRT that is here (-DTENSORRT_ROOT=DIR)");
    }
}

void require_version(const Bundle& bundle, const Version& here)
{
    if (bundle.tensorrt_version.empty()) {
        return;
    }
    const Version wrote = version_of(bundle.tensorrt_version);
    if (here == wrote || (bundle.version_compatible && here[0] == wrote[0] && here >= wrote)) {
        return;
    }
    const std::string written_by = "TensorRT " + text_of(wrote);
    refuse(bundle,
        "the engine was built with TensorRT " + bundle.tensorrt_version + ", and TensorRT " + text_of(here)
            + " is here",
        bundle.version_compatible
            ? written_by + " or a later " + std::to_string(wrote[0]) + ": so far goes --version-compatible"
            : written_by + ": a plan is read by the version that wrote it");
}

}  // namespace qdbev::runtime::trt
