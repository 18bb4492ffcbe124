// From camera frames to network input, as the contract defines it; equal to the Python package's to the bit.
#pragma once

#include <cstdint>
#include <vector>

#include "qdbev_runtime/contract.h"
#include "qdbev_runtime/frame.h"
#include "qdbev_runtime/status.h"

namespace qdbev::runtime {

// Resizes, orders the channels, normalises and pads. All memory is taken when it is made, for a verified contract.
class Preprocessor {
public:
    explicit Preprocessor(const Preprocess& preprocess);

    // Writes [6, 3, H', W'], pads included.
    Status run(const CameraImages& images, float* out) noexcept;

private:
    // Of each output coordinate the two input coordinates that it lies between, and the weight of the second. A weight
    // of 0 takes the first alone.
    struct Axis {
        std::vector<int32_t> low, high;
        std::vector<float> weight;
        bool whole = true;  // no weight but 0: pixels are picked, none is blended
    };
    static Axis neighbours(int32_t size_out, int32_t size_in, int32_t stride);

    void run_camera(const uint8_t* image, std::size_t row_bytes, bool swap, float* out) noexcept;

    Preprocess preprocess_;
    Axis y_, x_;               // x in floats of line_
    std::vector<float> line_;  // a row between two of the source, channels interleaved
};

// For networks that take native frames themselves: dense RGB, [6, H, W, 3].
Status copy_native(const CameraImages& images, const Preprocess& preprocess, uint8_t* out) noexcept;

}  // namespace qdbev::runtime
