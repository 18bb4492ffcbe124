// Frames that `qdbev-deploy bench BUNDLE --save-samples DIR` wrote, in memory.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "qdbev_runtime/contract.h"
#include "qdbev_runtime/frame.h"

namespace qdbev::apps {

struct SampleFrame {
    std::string scene;
    runtime::EgoState ego;
    const unsigned char* image = nullptr;  // of all cameras: native pictures, or the image input
    const float* lidar2img = nullptr;
};

struct Samples {
    std::vector<SampleFrame> frames;  // in the order of a drive, at least one
    bool native = false;              // they are prepared when they are run, though the network does not do it
    std::string source;               // what they are, in words

    // What a session is given; valid as long as the samples.
    runtime::Frame frame(std::size_t index) const noexcept;

    runtime::Size pictures;  // of native frames; 0 x 0: the frames are the image input
    std::unique_ptr<unsigned char[]> images;
    std::unique_ptr<unsigned char[]> projections;
};

// Throws runtime::Error (bad_input) where the folder holds no such frames, or frames for another bundle.
Samples read_samples(const std::string& folder, const runtime::Contract& contract);

}  // namespace qdbev::apps
