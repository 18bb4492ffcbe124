// What a bundle's contract.json says: the tensors of a step, the cameras, how frames are prepared and boxes read.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "qdbev_runtime/export.h"

namespace qdbev::runtime {

inline constexpr std::size_t kCameras = 6;
inline constexpr std::size_t kClasses = 10;
inline constexpr std::size_t kBoxCode = 10;
inline constexpr std::size_t kCanBus = 18;
inline constexpr std::size_t kLidar2Img = kCameras * 16;  // floats of a frame, row major

enum class DType : int32_t { float32 = 0, float16 = 1, uint8 = 2 };

QDBEV_RUNTIME_EXPORT std::size_t size_of(DType type) noexcept;
QDBEV_RUNTIME_EXPORT const char* name_of(DType type) noexcept;

struct TensorSpec {
    std::string name;
    DType dtype = DType::float32;
    std::vector<int64_t> shape;  // {} is a tensor without axes, of one element

    QDBEV_RUNTIME_EXPORT std::size_t elements() const noexcept;
    std::size_t bytes() const noexcept { return elements() * size_of(dtype); }
};

struct Size {
    int32_t height = 0;
    int32_t width = 0;
};

// From camera frames to network input: bilinear to `resized`, (pixel - mean) / std by channel, zeros up to `padded`.
struct Preprocess {
    bool in_graph = false;  // the network takes native frames itself
    bool bgr = false;       // the order of the network's channels
    std::array<float, 3> mean{}, std{};
    Size source, resized, padded;
};

struct Contract {
    std::string variant;
    std::vector<TensorSpec> inputs;   // image, prev_bev, use_prev_bev, can_bus, lidar2img
    std::vector<TensorSpec> outputs;  // bev_embed, outputs_classes, outputs_coords
    std::array<std::string, kCameras> cameras;
    std::array<std::string, kClasses> classes;
    Preprocess preprocess;
    std::array<double, 6> post_center_range{};  // low x y z, high x y z
    int32_t queries = 0;
    int32_t decoder_layers = 1;  // of the outputs; the last one counts
    int32_t max_boxes = 0;
    double max_gap_s = 0;  // after a longer one the past is forgotten
};

}  // namespace qdbev::runtime
