// The C interface and the C++ one as one test asks both: engines and sessions opened, frames run, outcomes to compare.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "qdbev_runtime/c_api.h"
#include "qdbev_runtime/engine.h"

namespace both {

namespace rt = qdbev::runtime;

struct Close {
    void operator()(qdbev_rt_engine* engine) const noexcept { qdbev_rt_close(engine); }
    void operator()(qdbev_rt_session* session) const noexcept { qdbev_rt_end_session(session); }
};
using CEngine = std::unique_ptr<qdbev_rt_engine, Close>;
using CSession = std::unique_ptr<qdbev_rt_session, Close>;

// What came of a call, whichever interface it went through.
struct Outcome {
    int32_t code = 0;
    std::string sentence{};  // with which it was refused
    bool reset = false;
    std::string reason{};
    std::string boxes{}, state{};  // their bytes
    rt::Times times{};             // not compared

    bool operator==(const Outcome& other) const
    {
        return code == other.code && sentence == other.sentence && reset == other.reset && reason == other.reason
            && boxes == other.boxes && state == other.state;
    }
};
using Outcomes = std::vector<Outcome>;

class Sentence {  // as a caller in C has room for it
public:
    char* data() noexcept { return text_; }
    static constexpr std::size_t size() noexcept { return sizeof text_; }
    std::string text() const { return text_; }

private:
    char text_[2048] = "nothing was written";
};

// The outcome of a call in C++, which throws or returns a Status.
template <typename Function>
Outcome outcome(Function&& function)
{
    try {
        const rt::Status status = function();
        return {static_cast<int32_t>(status.code()), status.message()};
    } catch (const rt::Error& error) {
        return {static_cast<int32_t>(error.code()), error.what()};
    }
}

// And in C: `function` is given where the sentence goes.
template <typename Function>
Outcome c_outcome(Function&& function)
{
    Sentence sentence;
    const int32_t code = function(sentence.data(), Sentence::size());
    return {code, sentence.text()};
}

inline qdbev_rt_engine_options as_c(const rt::EngineOptions& options)
{
    qdbev_rt_engine_options given;
    qdbev_rt_init_engine_options(&given, sizeof given);
    given.backend_library = options.backend_library.empty() ? nullptr : options.backend_library.c_str();
    given.threads = options.threads;
    return given;
}

inline qdbev_rt_session_options as_c(const rt::SessionOptions& options)
{
    qdbev_rt_session_options given;
    qdbev_rt_init_session_options(&given, sizeof given);
    given.cuda_graph = options.cuda_graph ? 1 : 0;
    given.wait = static_cast<int32_t>(options.wait);
    given.timed = options.timed ? 1 : 0;
    given.min_score = options.min_score;
    given.max_gap_s = options.max_gap_s;
    return given;
}

template <std::size_t Size>
void copy(const std::array<double, Size>& from, double (&to)[Size])
{
    static_assert(sizeof from == sizeof to);
    std::memcpy(to, from.data(), sizeof to);
}

// `scene` holds the name for as long as the frame is used.
inline qdbev_rt_frame as_c(const rt::Frame& frame, std::string& scene)
{
    scene = std::string(frame.scene);
    qdbev_rt_frame given;
    qdbev_rt_init_frame(&given, sizeof given);
    if (const auto* tensor = std::get_if<rt::ImageTensor>(&frame.images)) {
        given.image = tensor->data;
        given.image_memory = static_cast<int32_t>(tensor->memory);
    } else {
        const auto& cameras = std::get<rt::CameraImages>(frame.images);
        for (std::size_t camera = 0; camera < rt::kCameras; ++camera) {
            given.cameras[camera] = cameras.data[camera];
        }
        given.row_bytes = cameras.row_bytes;
        given.bgr = cameras.bgr ? 1 : 0;
    }
    given.lidar2img = frame.lidar2img;
    given.scene = scene.c_str();
    given.timestamp_us = frame.ego.timestamp_us;
    copy(frame.ego.translation, given.translation);
    copy(frame.ego.rotation, given.rotation);
    copy(frame.ego.acceleration, given.acceleration);
    copy(frame.ego.rotation_rate, given.rotation_rate);
    copy(frame.ego.velocity, given.velocity);
    return given;
}

inline CEngine open_in_c(const std::string& bundle, const rt::EngineOptions& options, Outcome& outcome)
{
    const qdbev_rt_engine_options given = as_c(options);
    qdbev_rt_engine* engine = nullptr;
    outcome = c_outcome(
        [&](char* error, std::size_t size) { return qdbev_rt_open(bundle.c_str(), &given, &engine, error, size); });
    return CEngine(engine);
}

inline CSession session_in_c(const qdbev_rt_engine* engine, const rt::SessionOptions& options, Outcome& outcome)
{
    const qdbev_rt_session_options given = as_c(options);
    qdbev_rt_session* session = nullptr;
    outcome = c_outcome(
        [&](char* error, std::size_t size) { return qdbev_rt_new_session(engine, &given, &session, error, size); });
    return CSession(session);
}

inline Outcome step(rt::Session& session, const rt::Frame& frame, std::size_t state_bytes)
{
    rt::StepOutput output;
    Outcome found = outcome([&] { return session.step(frame, output); });
    if (found.code == 0) {
        found.reset = output.reset;
        found.reason = output.reset_reason;
        found.boxes.assign(reinterpret_cast<const char*>(output.boxes), output.count * sizeof(rt::Box));
        found.state.assign(state_bytes, '\x5a');
        found.times = output.times;
        if (!session.read_state(found.state.data(), state_bytes).ok()) {
            found.sentence = "no state";
        }
    }
    return found;
}

inline Outcome step(qdbev_rt_session* session, const rt::Frame& frame, std::size_t state_bytes)
{
    std::string scene;
    const qdbev_rt_frame given = as_c(frame, scene);
    qdbev_rt_output output;
    qdbev_rt_init_output(&output, sizeof output);
    Outcome found = c_outcome(
        [&](char* error, std::size_t size) { return qdbev_rt_step(session, &given, &output, error, size); });
    if (found.code == QDBEV_RT_DONE) {
        found.reset = output.reset == 1;
        found.reason = output.reset_reason;
        for (std::size_t i = 0; i < output.count; ++i) {
            const char* box = reinterpret_cast<const char*>(output.boxes) + i * output.box_bytes;
            found.boxes.append(box, sizeof(qdbev_rt_box));
        }
        found.state.assign(state_bytes, '\xa5');
        found.times = {output.prepare_ms, output.upload_ms, output.compute_ms, output.download_ms, output.decode_ms,
            output.total_ms};
        if (qdbev_rt_read_state(session, found.state.data(), state_bytes, nullptr, 0) != QDBEV_RT_DONE) {
            found.sentence = "no state in C";
        }
    }
    return found;
}

}  // namespace both
