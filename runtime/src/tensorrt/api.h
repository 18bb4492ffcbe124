// TensorRT as it is spoken to here: functions found by name in its library, and one name for what its releases call
// differently. Nothing of TensorRT is linked.
#pragma once

#include <cstdint>

#include <NvInferRuntime.h>

namespace qdbev::runtime::trt {

inline constexpr int32_t kMajor = NV_TENSORRT_MAJOR;  // of the headers, and so of the libraries that can be loaded
static_assert(kMajor == 8 || kMajor == 10 || kMajor == 11, "TensorRT's headers: 8.6, 10.3 or a later 10, or 11");

using CreateRuntime = decltype(::createInferRuntime_INTERNAL);
using GetRegistry = decltype(::getPluginRegistry);
using GetVersion = decltype(::getInferLibVersion);

inline bool has_creator(nvinfer1::IPluginRegistry& registry, const char* name)
{
#if NV_TENSORRT_MAJOR >= 10
    return registry.getCreator(name, "1", "") != nullptr;
#else
    return registry.getPluginCreator(name, "1", "") != nullptr;
#endif
}

// Bytes of device memory that a context takes.
inline int64_t context_bytes(const nvinfer1::ICudaEngine& engine)
{
#if NV_TENSORRT_MAJOR >= 10
    return engine.getDeviceMemorySizeV2();
#else
    return static_cast<int64_t>(engine.getDeviceMemorySize());
#endif
}

}  // namespace qdbev::runtime::trt
