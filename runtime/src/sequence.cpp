#include "sequence.h"

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
    for (std::size_t i = 0; i < count; ++i) {
        if (!std::isfinite(values[i])) {
            return false;
        }
    }
    return true;
}

const Contract& with_usable_options(const Contract& contract, const SessionOptions& options)
{
    if (!(options.max_gap_s >= 0)) {
        throw Error(Code::usage, "max_gap_s " + std::to_string(options.max_gap_s), "a positive number of seconds",
            "leave it at 0 for the contract's own");
    }
    if (std::isnan(options.min_score)) {
        throw Error(Code::usage, "a min_score that is not a number", "0 to 1", "leave it at 0 for all boxes");
    }
    return contract;
}

}  // namespace

Sequence::Sequence(const Contract& contract, std::unique_ptr<Stream> stream, const SessionOptions& options)
    : contract_(with_usable_options(contract, options)),
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
    if (Status status = stage(frame, device_image); !status.ok()) {
        return status;
    }
    const Stream::Inputs& inputs = stream_->inputs();
    can_bus_vector(frame.ego, verdict.reset ? nullptr : &past_.ego(), inputs.can_bus);
    *inputs.use_prev_bev = verdict.reset ? 0.0F : 1.0F;

    Times times;
    const Clock::time_point prepared = Clock::now();
    times.prepare = ms_between(started, prepared);
    if (Status status = stream_->run(device_image, times); !status.ok()) {
        return status;
    }
    const Clock::time_point ran = Clock::now();
    const std::size_t count = decoder_.run(stream_->classes(), stream_->coords());
    past_.commit(frame.ego, frame.scene);
    has_state_ = true;
    const Clock::time_point ended = Clock::now();
    times.decode = ms_between(ran, ended);
    times.total = ms_between(started, ended);
    output = StepOutput{decoder_.boxes(), count, verdict.reset, verdict.reason, times};
    return {};
}

// The frame's images and projections into the stream's inputs, or `device_image` where they lie on the device already.
Status Sequence::stage(const Frame& frame, const void*& device_image) noexcept
{
    const Stream::Inputs& inputs = stream_->inputs();
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
    return memory == Memory::device ? stream_->device_image() : stream_->inputs().image;
}

}  // namespace qdbev::runtime
