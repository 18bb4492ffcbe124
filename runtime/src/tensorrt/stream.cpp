#include "stream.h"

#include <cstring>
#include <utility>

#include "text.h"

namespace qdbev::runtime::trt {

namespace {

constexpr std::size_t kState = 1;                                 // prev_bev, of the contract's inputs
constexpr std::array<std::size_t, 4> kInputsBesideState{0, 2, 3, 4};  // by TensorRTStream::Input
constexpr std::array<std::size_t, 2> kOutputsBesideState{1, 2};       // by TensorRTStream::Output

}  // namespace

TensorRTStream::TensorRTStream(std::unique_ptr<nvinfer1::IExecutionContext> context, const Contract& contract,
    const std::string& build_command, Log& log, std::mutex& mutex, const SessionOptions& options)
    : contract_(contract),
      build_command_(build_command),
      log_(log),
      mutex_(mutex),
      options_(options),
      context_(std::move(context))
{
}

TensorRTStream::~TensorRTStream()
{
    const cuda::OnDevice here;
    // What the program queued itself may still be under way.
    if (stream_ && cudaStreamSynchronize(stream_.get()) != cudaSuccess) {
        static_cast<void>(cudaGetLastError());  // nobody is left to be told
    }
    graphs_ = {};
    const std::lock_guard<std::mutex> lock(mutex_);
    context_.reset();
    // CUDA's own resources know their device.
}

void TensorRTStream::prepare()
{
    const cuda::OnDevice here;
    cuda::require(here.error(), "choose the first GPU");
    allocate();
    clear_device();
    for (std::size_t into = 0; into < 2; ++into) {
        // What a first enqueue sets up belongs neither into a frame nor into a capture.
        enqueue_or_throw(into);
        synchronize();
        if (options_.cuda_graph) {
            graphs_[into] = cuda::capture(stream_.get(), [this, into] { enqueue_or_throw(into); });
        }
    }
    clear_device();  // the states above all: a first frame must not find what zeros led to
    synchronize();
    static_cast<void>(log_.take());
}

void TensorRTStream::allocate()
{
    stream_ = cuda::make_stream();
    for (std::size_t i = 0; i < kInputCount; ++i) {
        const TensorSpec& spec = contract_.inputs[kInputsBesideState[i]];
        fed_[i] = Fed{cuda::PinnedBuffer(spec.bytes()), cuda::DeviceBuffer(spec.bytes())};
        std::memset(fed_[i].pinned.get(), 0, spec.bytes());
        bind(spec.name, fed_[i].device.get());
    }
    for (std::size_t i = 0; i < kOutputCount; ++i) {
        const TensorSpec& spec = contract_.outputs[kOutputsBesideState[i]];
        Result& result = results_[i];
        result.device = cuda::DeviceBuffer(spec.bytes());
        for (cuda::PinnedBuffer& pinned : result.pinned) {
            pinned = cuda::PinnedBuffer(spec.bytes());
            std::memset(pinned.get(), 0, spec.bytes());
        }
        bind(spec.name, result.device.get());
    }
    for (cuda::DeviceBuffer& state : states_) {
        state = cuda::DeviceBuffer(contract_.inputs[kState].bytes());
    }
    const unsigned int sleeping = options_.wait == Wait::block ? cudaEventBlockingSync : cudaEventDefault;
    for (std::size_t i = options_.timed ? kBegin : kDone; i < kMarkCount; ++i) {
        marks_[i] = cuda::make_event(sleeping | (options_.timed ? cudaEventDefault : cudaEventDisableTiming));
    }
    inputs_ = Inputs{fed_[kImage].pinned.get(), static_cast<float*>(fed_[kUsePrevBev].pinned.get()),
        static_cast<float*>(fed_[kCanBusVector].pinned.get()), static_cast<float*>(fed_[kProjections].pinned.get())};
}

void TensorRTStream::bind(const std::string& name, void* address)
{
    if (!context_->setTensorAddress(name.c_str(), address)) {
        throw Error(Code::bad_input, log_.explained("TensorRT has no place for the tensor '" + name + "'"),
            "a plan of this bundle", "build it again here: " + build_command_);
    }
}

void TensorRTStream::clear_device()
{
    const auto clear = [this](const cuda::DeviceBuffer& buffer) {
        cuda::require(cudaMemsetAsync(buffer.get(), 0, buffer.bytes(), stream_.get()), "clear its memory");
    };
    for (const Fed& fed : fed_) {
        clear(fed.device);
    }
    for (const cuda::DeviceBuffer& state : states_) {
        clear(state);
    }
}

void TensorRTStream::synchronize()
{
    cuda::require(cudaStreamSynchronize(stream_.get()), "run the network");
}

// Runs the network: the last state from one buffer, the next one into the other.
bool TensorRTStream::enqueue(std::size_t into) noexcept
{
    return context_->setTensorAddress(contract_.inputs[kState].name.c_str(), states_[1 - into].get())
        && context_->setTensorAddress(contract_.outputs[0].name.c_str(), states_[into].get())
        && context_->enqueueV3(stream_.get());
}

void TensorRTStream::enqueue_or_throw(std::size_t into)
{
    static_cast<void>(log_.take());
    if (!enqueue(into)) {
        static_cast<void>(cudaGetLastError());  // of a call of TensorRT's
        throw Error(Code::failed, log_.explained("TensorRT did not run the network"), "an enqueue without an error",
            "qdbev-deploy doctor --for tensorrt");
    }
}

Status TensorRTStream::run(const void* device_image, Times& times) noexcept
{
    const cuda::OnDevice here;
    const std::size_t into = 1 - last_;
    Failure failure{"choose the first GPU", here.error()};
    if (here.error() != cudaSuccess || !frame(device_image, into, failure)) {
        return failed(failure);
    }
    if (options_.timed) {
        if (const cudaError_t error = read_marks(times); error != cudaSuccess) {
            return failed({"read the times of a frame", error});
        }
    }
    last_ = into;
    return {};
}

// Everything of a frame that the device does; what fails is the last thing done.
bool TensorRTStream::frame(const void* device_image, std::size_t into, Failure& failure) noexcept
{
    const auto did = [&failure](const char* what, cudaError_t error) noexcept {
        failure = {what, error};
        return error == cudaSuccess;
    };
    const auto ran = [this, into, &failure]() noexcept {
        failure = {"run the network", cudaSuccess, true};
        return enqueue(into);
    };
    return did("mark the beginning of a frame", mark(kBegin))
        && did("copy a frame to the device", upload(device_image))
        && did("mark the upload of a frame", mark(kUploaded))
        && (graphs_[into] ? did("launch the graph of a frame", cudaGraphLaunch(graphs_[into].get(), stream_.get()))
                          : ran())
        && did("mark the end of the network", mark(kComputed))
        && did("copy the results from the device", download(into))
        && did("mark the end of a frame", mark(kDone))
        && did("finish a frame", wait());
}

cudaError_t TensorRTStream::upload(const void* device_image) noexcept
{
    for (std::size_t i = 0; i < kInputCount; ++i) {
        const Fed& fed = fed_[i];
        const bool on_device = i == kImage && device_image != nullptr;
        if (on_device && device_image == fed.device.get()) {
            continue;
        }
        const cudaError_t error = cudaMemcpyAsync(fed.device.get(), on_device ? device_image : fed.pinned.get(),
            fed.device.bytes(), on_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice, stream_.get());
        if (error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

cudaError_t TensorRTStream::download(std::size_t into) noexcept
{
    for (const Result& result : results_) {
        const cudaError_t error = cudaMemcpyAsync(result.pinned[into].get(), result.device.get(), result.device.bytes(),
            cudaMemcpyDeviceToHost, stream_.get());
        if (error != cudaSuccess) {
            return error;
        }
    }
    return cudaSuccess;
}

cudaError_t TensorRTStream::mark(Mark mark) noexcept
{
    return marks_[mark] ? cudaEventRecord(marks_[mark].get(), stream_.get()) : cudaSuccess;
}

cudaError_t TensorRTStream::wait() noexcept
{
    if (options_.wait == Wait::block) {
        return cudaEventSynchronize(marks_[kDone].get());
    }
    cudaError_t error = cudaEventQuery(marks_[kDone].get());
    if (error == cudaErrorNotReady) {
        do {
            error = cudaEventQuery(marks_[kDone].get());
        } while (error == cudaErrorNotReady);
        static_cast<void>(cudaGetLastError());  // CUDA remembers "not ready" as if it were an error
    }
    return error;
}

cudaError_t TensorRTStream::read_marks(Times& times) noexcept
{
    const std::array<double*, kDone> stages{&times.upload, &times.compute, &times.download};
    for (std::size_t i = 0; i < stages.size(); ++i) {
        float ms = 0;
        if (const cudaError_t error = cudaEventElapsedTime(&ms, marks_[i].get(), marks_[i + 1].get());
            error != cudaSuccess) {
            return error;
        }
        *stages[i] = static_cast<double>(ms);
    }
    return cudaSuccess;
}

// The frame's failure as a Status, once nothing of it is under way any more: its caller may write the inputs anew.
Status TensorRTStream::failed(const Failure& failure) noexcept
{
    static_cast<void>(cudaStreamSynchronize(stream_.get()));
    static_cast<void>(cudaGetLastError());
    const Text<Log::kKept> said = log_.take();
    Text<Status::kMaxLength> found;
    if (failure.of_tensorrt) {
        found.add("TensorRT failed to ").add(failure.what).add(*said.c_str() == '\0' ? "" : ": ").add(said.c_str());
        return {Code::failed, found.c_str(), "an enqueue without an error", "qdbev-deploy doctor --for tensorrt"};
    }
    found.add("CUDA failed to ").add(failure.what).add(": ").add(cudaGetErrorString(failure.error));
    return {Code::failed, found.c_str(), "a GPU that is free and sound",
        "look at nvidia-smi (tegrastats on Jetson), then open the bundle again"};
}

Status TensorRTStream::read_state(void* out) noexcept
{
    const cuda::OnDevice here;
    const cuda::DeviceBuffer& state = states_[last_];
    cudaError_t error = here.error();
    if (error == cudaSuccess) {
        error = cudaMemcpyAsync(out, state.get(), state.bytes(), cudaMemcpyDeviceToHost, stream_.get());
    }
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(stream_.get());
    }
    return error == cudaSuccess ? Status() : failed({"copy the state from the device", error});
}

}  // namespace qdbev::runtime::trt
