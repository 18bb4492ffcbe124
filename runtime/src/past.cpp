#include "past.h"

#include <algorithm>
#include <cmath>

namespace qdbev::runtime {

namespace {

// Seconds from `then` to `now`, whatever two timestamps they are: their difference may be beyond 64 bits with a sign.
double seconds_between(int64_t then, int64_t now) noexcept
{
    const bool forward = now >= then;
    const uint64_t distance = forward ? static_cast<uint64_t>(now) - static_cast<uint64_t>(then)
                                      : static_cast<uint64_t>(then) - static_cast<uint64_t>(now);
    const double seconds = static_cast<double>(distance) / 1e6;
    return forward ? seconds : -seconds;
}

}  // namespace

Status Past::judge(const EgoState& ego, std::string_view scene, Verdict& out) noexcept
{
    if (scene.size() > kMaxScene) {
        Text<96> found;
        found.add("a scene's name of ").add(static_cast<int64_t>(scene.size())).add(" bytes");
        return {Code::bad_input, found.c_str(), "at most 255 bytes", "pass a shorter name, a token say"};
    }
    Verdict verdict;
    if (!known_) {
        verdict.reset = true;
        verdict.reason.add("first frame");
    } else if (scene != last_scene()) {
        verdict.reset = true;
        verdict.reason.add("new scene");
    } else {
        const double gap_s = seconds_between(ego_.timestamp_us, ego.timestamp_us);
        if (gap_s <= 0) {
            Text<kMaxScene + 96> found;
            found.add("a frame ").add(std::fabs(gap_s), 3);
            found.add(" s before or at the time of the last one in scene '").add(scene).add("'");
            return {Code::bad_input, found.c_str(), "frames in the order of time",
                "sort the frames, or reset the session where a stream starts again"};
        }
        if (gap_s > max_gap_s_) {
            verdict.reset = true;
            verdict.reason.add("gap of ").add(gap_s, 2).add(" s");
        }
    }
    out = verdict;
    return {};
}

void Past::commit(const EgoState& ego, std::string_view scene) noexcept
{
    known_ = true;
    ego_ = ego;
    scene_length_ = std::min(scene.size(), kMaxScene);
    std::copy_n(scene.data(), scene_length_, scene_.data());
}

}  // namespace qdbev::runtime
