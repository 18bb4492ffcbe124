// What a backend offers: a verified bundle's engine loaded, and streams of frames on it.
#pragma once

#include <memory>
#include <string>

#include "bundle.h"
#include "qdbev_runtime/engine.h"

namespace qdbev::runtime {

// One sequence's buffers. The state lies in two that change places; `run` reads the one and writes the other.
class Stream {
public:
    virtual ~Stream() = default;
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;

    // Where the next run takes its inputs from, in host memory; fixed for the stream's life.
    struct Inputs {
        void* image = nullptr;  // of contract.inputs[0].bytes()
        float* use_prev_bev = nullptr;
        float* can_bus = nullptr;
        float* lidar2img = nullptr;
    };
    virtual const Inputs& inputs() noexcept = 0;

    // The image input in device memory, nullptr where there is none.
    virtual void* device_image() noexcept { return nullptr; }
    virtual void* cuda_stream() const noexcept { return nullptr; }

    // Runs a frame on what the inputs hold. `image`: host: Inputs::image; device memory at `device_image` is taken
    // instead where that is not nullptr (it may be device_image() itself, and is then not copied). The state that was
    // written last is read; where the run fails, state and outputs stay the last ones. Fills upload, compute and
    // download.
    virtual Status run(const void* device_image, Times& times) noexcept = 0;

    // The last run is as if it had failed. Once after a run that did not.
    virtual void undo() noexcept = 0;

    // Of the last run, all layers, in host memory.
    virtual const float* classes() const noexcept = 0;
    virtual const float* coords() const noexcept = 0;

    // Copies the state that was written last; of contract.outputs[0].bytes().
    virtual Status read_state(void* out) noexcept = 0;

protected:
    Stream() = default;
};

class Backend {
public:
    virtual ~Backend() = default;
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    // Throws Error. The backend outlives its streams. May be called from several threads.
    virtual std::unique_ptr<Stream> stream(const SessionOptions& options) = 0;

protected:
    Backend() = default;
};

// Loads the engine of a bundle. Throws Error: with Code::missing where the library was built without the backend, where
// the backend's own library is not found, or where the engine is for another machine.
std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const EngineOptions& options);
std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const EngineOptions& options);

}  // namespace qdbev::runtime
