// TEST DOUBLE. What a test tells the library that stands for libnvinfer, and asks of it.
#pragma once

#include <string>
#include <vector>

#include <NvInferRuntime.h>

namespace nvinfer_double {

struct Tensor {
    std::string name;
    bool input;
    nvinfer1::DataType type;
    std::vector<int64_t> shape;
};

struct Control {
    int32_t version = NV_TENSORRT_VERSION;
    bool makes_runtime = true, makes_context = true, takes_plugins = true;
    std::vector<std::string> ops{"MSDeformAttn", "TemporalSelfAttn", "SpatialCrossAttn", "ModulatedDeformSample"};
    std::vector<Tensor> tensors;  // of the next plan: image, prev_bev, use_prev_bev, can_bus, lidar2img; three outputs
    int enqueues_until_failure = -1;  // -1: none fails
    bool fails_silently = false;      // an enqueue that fails does not say why
    bool waits_in_enqueue = false;    // which no capture allows
    std::string refused_address;      // the tensor that takes none

    int runtimes = 0, engines = 0, contexts = 0;  // alive
    int32_t asked_version = 0;                    // with which a runtime was last asked for
    int32_t dla_core = -1;
    bool host_code_allowed = false;
    std::vector<std::string> libraries;  // that were loaded
    nvinfer1::ILogger* logger = nullptr;  // the last one given
};

// Plans begin so; the second kind needs the host code allowed.
inline constexpr const char* kPlan = "a plan of the double";
inline constexpr const char* kCompatiblePlan = "a version-compatible plan of the double";
inline constexpr double kNetworkMs = 10;

}  // namespace nvinfer_double

extern "C" nvinfer_double::Control* nvinfer_double_control();
