// Our plugins in TensorRT's registry: loaded once, and never two different libraries in one process.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "api.h"
#include "bundle.h"
#include "cuda.h"
#include "log.h"

namespace qdbev::runtime::trt {

inline constexpr std::string_view kPluginLibrary = "libqdbev_plugins.so";  // its name in a bundle

// Whether kernels built for `architecture` (87, 90a, 87-real; as CMake writes them) run on a GPU of `capability`.
bool runs_on(std::string_view architecture, const std::array<int32_t, 2>& capability) noexcept;

// Why the library that describes itself so cannot serve TensorRT `major` on this GPU; empty where it can.
std::string plugin_problems(const std::string& description, const cuda::Device& device, int32_t major);

// Registers the plugins of the bundle's library at `path`. The same library twice, wherever it lies, is registered
// once. Throws Error, which sends whoever lacks something to the command that builds the bundle.
void load_plugins(nvinfer1::IPluginRegistry& registry, Log& log, const Bundle& bundle, const std::string& path,
    const cuda::Device& device);

}  // namespace qdbev::runtime::trt
