// One sequence on the device: the state stays in two buffers that change places every frame.
#pragma once

#include <array>
#include <mutex>
#include <string>

#include "api.h"
#include "backend.h"
#include "cuda.h"
#include "log.h"

namespace qdbev::runtime::trt {

class TensorRTStream final : public Stream {
public:
    // The context is this stream's, what else is given outlives it. `mutex` is held wherever a context is made or ends.
    TensorRTStream(std::unique_ptr<nvinfer1::IExecutionContext> context, const Contract& contract,
        const std::string& build_command, Log& log, std::mutex& mutex, const SessionOptions& options);
    ~TensorRTStream() override;

    // Everything that frames need: memory, events, what TensorRT sets up on a first enqueue, graphs. Throws Error.
    void prepare();

    const Inputs& inputs() noexcept override { return inputs_; }
    void* device_image() noexcept override { return fed_[kImage].device.get(); }
    void* cuda_stream() const noexcept override { return stream_.get(); }
    Status run(const void* device_image, Times& times) noexcept override;
    void undo() noexcept override { last_ = 1 - last_; }
    const float* classes() const noexcept override { return result(kClassLogits); }
    const float* coords() const noexcept override { return result(kBoxCodes); }
    Status read_state(void* out) noexcept override;

private:
    enum Input : std::size_t { kImage, kUsePrevBev, kCanBusVector, kProjections, kInputCount };
    enum Output : std::size_t { kClassLogits, kBoxCodes, kOutputCount };
    enum Mark : std::size_t { kBegin, kUploaded, kComputed, kDone, kMarkCount };

    // An input beside the state.
    struct Fed {
        cuda::PinnedBuffer pinned;
        cuda::DeviceBuffer device;
    };
    // An output beside the state. Of the host's two copies a frame writes the older: one that fails leaves the last.
    struct Result {
        cuda::DeviceBuffer device;
        std::array<cuda::PinnedBuffer, 2> pinned;
    };
    // What failed, and whether CUDA or TensorRT said so.
    struct Failure {
        const char* what = nullptr;
        cudaError_t error = cudaSuccess;
        bool of_tensorrt = false;
    };

    const float* result(Output output) const noexcept
    {
        return static_cast<const float*>(results_[output].pinned[last_].get());
    }
    void allocate();
    void bind(const std::string& name, void* address);
    bool enqueue(std::size_t into) noexcept;
    void enqueue_or_throw(std::size_t into);
    void clear_device();
    void synchronize();

    bool frame(const void* device_image, std::size_t into, Failure& failure) noexcept;
    cudaError_t upload(const void* device_image) noexcept;
    cudaError_t download(std::size_t into) noexcept;
    cudaError_t mark(Mark mark) noexcept;
    cudaError_t wait() noexcept;
    cudaError_t read_marks(Times& times) noexcept;
    Status failed(const Failure& failure) noexcept;

    const Contract& contract_;
    const std::string& build_command_;
    Log& log_;
    std::mutex& mutex_;
    const SessionOptions options_;

    cuda::CudaStream stream_;
    std::array<Fed, kInputCount> fed_;
    std::array<Result, kOutputCount> results_;
    std::array<cuda::DeviceBuffer, 2> states_;
    std::array<cuda::Event, kMarkCount> marks_;  // all but the last only where the stream is timed
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::array<cuda::Graph, 2> graphs_;  // by the state that they write
    Inputs inputs_;
    std::size_t last_ = 1;  // of states and results the one that was written last
};

}  // namespace qdbev::runtime::trt
