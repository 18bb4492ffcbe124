// What a step is given and what it gives: camera images, ego motion, boxes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <variant>

#include "qdbev_runtime/contract.h"
#include "qdbev_runtime/export.h"

namespace qdbev::runtime {

// Where the car was when the frame was taken: the pose is ego to global, the rest is the CAN bus' pose message.
struct EgoState {
    int64_t timestamp_us = 0;
    std::array<double, 3> translation{};          // metres, global
    std::array<double, 4> rotation{1, 0, 0, 0};   // unit quaternion w, x, y, z
    std::array<double, 3> acceleration{};         // ego frame, m/s^2
    std::array<double, 3> rotation_rate{};        // ego frame, rad/s
    std::array<double, 3> velocity{};             // ego frame, m/s
};

enum class Memory : int32_t { host = 0, device = 1 };

// Native camera frames, 8 bit, interleaved, in host memory, in the order of Contract::cameras and of the size
// Contract::preprocess.source. The runtime prepares them as the contract says.
struct CameraImages {
    std::array<const uint8_t*, kCameras> data{};
    std::size_t row_bytes = 0;  // from a row to the next; 0: rows lie without gaps
    bool bgr = false;           // as OpenCV has them; else RGB
};

// The image input as the network takes it: dense, of the type and shape of Contract::inputs[0]. Session::image_buffer
// passed back is not copied.
struct ImageTensor {
    const void* data = nullptr;
    Memory memory = Memory::host;
};

struct Frame {
    std::variant<CameraImages, ImageTensor> images;
    const float* lidar2img = nullptr;  // [6, 4, 4], to the resized image: see scale_lidar2img
    EgoState ego;
    std::string_view scene;  // any name that tells sequences apart, of at most 255 bytes
};

// In the LiDAR frame of the frame's moment: x right, y forward, z up on nuScenes.
struct Box {
    std::array<float, 3> center{};    // gravity centre, metres
    std::array<float, 3> size{};      // width, length, height, metres
    float yaw = 0;                    // from the x axis to where the length points, counter-clockwise, radians
    std::array<float, 2> velocity{};  // metres per second
    float score = 0;
    int32_t label = 0;  // index into Contract::classes
};

// Milliseconds of a step. What a backend cannot tell, or was not asked to (SessionOptions::timed), is negative.
struct Times {
    double prepare = -1;   // inputs made ready in host memory
    double upload = -1;    // to the device
    double compute = -1;   // from the first operation to the last
    double download = -1;  // from the device
    double decode = -1;    // boxes from the outputs
    double total = -1;     // from call to return
};

struct StepOutput {
    const Box* boxes = nullptr;  // sorted by falling score; the session's own, until its next step
    std::size_t count = 0;
    bool reset = false;         // whether the frame began a sequence anew,
    const char* reset_reason = "";  // and why
    Times times;
};

// Projections [6, 4, 4] to the resized image from those to native frames, as the graph takes them.
QDBEV_RUNTIME_EXPORT void scale_lidar2img(const double* native, const Preprocess& preprocess, float* scaled) noexcept;

}  // namespace qdbev::runtime
