// What a session remembers of the frame before, and when it must forget it.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "qdbev_runtime/frame.h"
#include "qdbev_runtime/status.h"
#include "text.h"

namespace qdbev::runtime {

// A frame that may be run: with the state of the last one, or without.
struct Verdict {
    bool reset = false;
    Text<40> reason;  // for the reset
};

// Not allocating: a Past holds the one frame in itself.
class Past {
public:
    static constexpr std::size_t kMaxScene = 255;

    explicit Past(double max_gap_s) noexcept : max_gap_s_(max_gap_s) {}

    // Refuses what cannot follow; `out` is written only where the frame may be run. What later frames are judged by
    // stays as it is. `ego` is one that `check` let pass.
    Status judge(const EgoState& ego, std::string_view scene, Verdict& out) noexcept;

    // The frame was run: it is the last one now. `scene` is one that was judged.
    void commit(const EgoState& ego, std::string_view scene) noexcept;

    // The next frame is a first frame.
    void forget() noexcept { known_ = false; }

    const EgoState& ego() const noexcept { return ego_; }  // of the last frame, where there is one

private:
    std::string_view last_scene() const noexcept { return {scene_.data(), scene_length_}; }

    double max_gap_s_;
    bool known_ = false;
    EgoState ego_;
    std::array<char, kMaxScene> scene_{};
    std::size_t scene_length_ = 0;
};

}  // namespace qdbev::runtime
