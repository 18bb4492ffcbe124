#include "sequence.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "ego.h"

namespace qdbev::runtime {

namespace {

using Clock = std::chrono::steady_clock;

double ms_between(Clock::time_point from, Clock::time_point to) noexcept
{
    return std::chrono::duration<double, std::milli>(to - from).count();
}

bool all_finite(const float* values, std::size_t count) noexcept
{
    return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

bool any_nan(const float* values, std::size_t count) noexcept
{
    return std::any_of(values, values + count, [](float value) { return std::isnan(value); });
}

}  // namespace

void require_usable(const SessionOptions& options)
{
    if (options.wait != Wait::block && options.wait != Wait::spin) {
        throw Error(Code::usage, "an unknown way to wait", "Wait::block or Wait::spin", "leave it at Wait::block");
    }
    if (!(options.max_gap_s >= 0)) {
        throw Error(Code::usage, "max_gap_s " + std::to_string(options.max_gap_s), "a positive number of seconds",
            "leave it at 0 for the contract's own");
    }
    if (!(options.min_score >= 0 && options.min_score <= 1)) {
        throw Error(Code::usage, "min_score " + std::to_string(options.min_score), "0 to 1",
            "leave it at 0 for all boxes");
    }
}

Sequence::Sequence(const Contract& contract, std::unique_ptr<Stream> stream, const SessionOptions& options)
    : contract_(contract),
      stream_(std::move(stream)),
      past_(options.max_gap_s > 0 ? options.max_gap_s : contract.max_gap_s),
      decoder_(contract, options.min_score)
{
    if (!contract.preprocess.in_graph) {
        preprocessor_.emplace(contract.preprocess);
    }
}

Status Sequence::step(const Frame& frame, StepOutput& output) noexcept
{
    const Clock::time_point started = Clock::now();
    if (Status status = check(frame.ego); !status.ok()) {
        return status;
    }
    Verdict verdict;
    if (Status status = past_.judge(frame.ego, frame.scene, verdict); !status.ok()) {
        return status;
    }
    const void* device_image = nullptr;
    if (Status status = stage(frame, verdict, device_image); !status.ok()) {
        return status;
    }

    Times times;
    const Clock::time_point prepared = Clock::now();
    times.prepare = ms_between(started, prepared);
    if (Status status = stream_->run(device_image, times); !status.ok()) {
        return status;
    }
    const Clock::time_point ran = Clock::now();
    if (Status status = refuse_nan(); !status.ok()) {
        return status;
    }
    const std::size_t count = decoder_.run(stream_->classes(), stream_->coords());
    past_.commit(frame.ego, frame.scene);
    reset_reason_ = verdict.reason;
    has_state_ = true;
    const Clock::time_point ended = Clock::now();
    times.decode = ms_between(ran, ended);
    times.total = ms_between(started, ended);
    output = StepOutput{decoder_.boxes(), count, verdict.reset, reset_reason_.c_str(), times};
    return {};
}

// A number that is none spreads from the state over all boxes, and from frame to frame. The frame that shows it counts
// for nothing; where the next one shows it too it is in the state, which is forgotten.
Status Sequence::refuse_nan() noexcept
{
    const std::size_t last_layer = static_cast<std::size_t>(contract_.decoder_layers - 1);
    const std::size_t queries = static_cast<std::size_t>(contract_.queries);
    const std::size_t logits = queries * kClasses, codes = queries * kBoxCode;
    if (!any_nan(stream_->classes() + last_layer * logits, logits)
        && !any_nan(stream_->coords() + last_layer * codes, codes)) {
        was_nan_ = false;
        return {};
    }
    stream_->undo();
    if (was_nan_) {
        past_.forget();
    }
    was_nan_ = true;
    return {Code::failed, "outputs that are no numbers", "images and projections that the network can compute with",
        "drop the frame, and look at its images; the frame after a second such one begins anew"};
}

// The frame into the stream's inputs, or `device_image` where its images lie on the device already.
Status Sequence::stage(const Frame& frame, const Verdict& verdict, const void*& device_image) noexcept
{
    const Stream::Inputs& inputs = stream_->inputs();
    *inputs.use_prev_bev = verdict.reset ? 0.0F : 1.0F;
    if (!can_bus_vector(frame.ego, verdict.reset ? nullptr : &past_.ego(), inputs.can_bus)) {
        return {Code::bad_input, "ego motion beyond single precision", "metres and seconds of a car",
            "drop the frame, or repair its source"};
    }
    if (frame.lidar2img == nullptr || !all_finite(frame.lidar2img, kLidar2Img)) {
        return {Code::bad_input,
            frame.lidar2img == nullptr ? "a frame without lidar2img" : "a lidar2img with a number that is not finite",
            "six projections to the resized image, [6, 4, 4]", "scale the calibration with scale_lidar2img"};
    }
    std::memcpy(inputs.lidar2img, frame.lidar2img, kLidar2Img * sizeof(float));
    if (const auto* cameras = std::get_if<CameraImages>(&frame.images)) {
        return preprocessor_ ? preprocessor_->run(*cameras, static_cast<float*>(inputs.image))
                             : copy_native(*cameras, contract_.preprocess, static_cast<uint8_t*>(inputs.image));
    }
    const auto* tensor = std::get_if<ImageTensor>(&frame.images);
    if (tensor == nullptr || tensor->data == nullptr) {
        return {Code::bad_input, "a frame without images", "six camera frames, or the image input",
            "set Frame::images to CameraImages or to an ImageTensor"};
    }
    if (tensor->memory != Memory::host && tensor->memory != Memory::device) {
        return {Code::usage, "an image in unknown memory", "Memory::host or Memory::device", "set ImageTensor::memory"};
    }
    if (tensor->memory == Memory::device) {
        if (stream_->device_image() == nullptr) {
            return {Code::usage, "an image in device memory", "one in host memory: this backend computes there",
                "pass Memory::host"};
        }
        device_image = tensor->data;
    } else if (tensor->data != inputs.image) {
        std::memcpy(inputs.image, tensor->data, contract_.inputs[0].bytes());
    }
    return {};
}

Status Sequence::read_state(void* out, std::size_t bytes) noexcept
{
    if (out == nullptr || bytes != contract_.outputs[0].bytes()) {
        return {Code::usage, "a place for the state of another size, or none",
            "one of contract().outputs[0].bytes() bytes", "allocate as the contract says"};
    }
    if (!has_state_) {
        return {Code::usage, "no state yet", "a step that succeeded", "run a frame first"};
    }
    return stream_->read_state(out);
}

void* Sequence::image_buffer(Memory memory) noexcept
{
    switch (memory) {
    case Memory::host: return stream_->inputs().image;
    case Memory::device: return stream_->device_image();
    }
    return nullptr;
}

}  // namespace qdbev::runtime
