#include "onnxruntime/stream.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <string_view>

#include "onnxruntime/tensors.h"
#include "text.h"

namespace qdbev::runtime {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kPrevBev = 1;  // among the inputs
constexpr int kDevice = 0;           // the GPU that ONNX Runtime takes unless told otherwise

// What must not be read on a first frame is not a number.
void fill_with_nan(void* data, const TensorSpec& spec)
{
    if (spec.dtype == DType::float16) {
        constexpr uint16_t kNan = 0x7e00;
        std::fill_n(static_cast<uint16_t*>(data), spec.elements(), kNan);
    } else {
        std::fill_n(static_cast<float*>(data), spec.elements(), std::numeric_limits<float>::quiet_NaN());
    }
}

}  // namespace

OrtStream::OrtStream(OrtModel& model, const SessionOptions& options)
    : ort_(model.ort()), contract_(model.contract()), session_(model.session(options.wait)), timed_(options.timed)
{
    if (options.cuda_graph) {
        throw Error(Code::usage, "a CUDA graph with the backend onnxruntime",
            "the backend tensorrt: the BEV ops here gather by computed indices, which no graph captures",
            "leave SessionOptions::cuda_graph off");
    }
    if (model.on_cuda()) {
        cuda_.emplace(kDevice);
        const auto memory = ort_.make(ort_->ReleaseMemoryInfo, ort_->CreateMemoryInfo, "Cuda", OrtArenaAllocator,
            kDevice, OrtMemTypeDefault);
        cuda_allocator_ = ort_.make(ort_->ReleaseAllocator, ort_->CreateAllocator, session_, memory.get());
    }
    for (std::size_t i = 0; i < given_.size(); ++i) {
        if (i != kPrevBev) {
            given_[i] = host_tensor(contract_.inputs[i]);
        }
    }
    inputs_ = {given_[0].data, static_cast<float*>(given_[2].data), static_cast<float*>(given_[3].data),
        static_cast<float*>(given_[4].data)};
    for (auto& heads : heads_) {
        for (std::size_t i = 0; i < heads.size(); ++i) {
            heads[i] = host_tensor(contract_.outputs[1 + i]);
        }
    }
    for (Tensor& state : states_) {
        state = first_state();
    }
    for (std::size_t written = 0; written < bindings_.size(); ++written) {
        bindings_[written] = ort_.make(ort_->ReleaseIoBinding, ort_->CreateIoBinding, session_);
        const auto bind_output = [&](std::size_t output, const Tensor& tensor) {
            const char* name = contract_.outputs[output].name.c_str();
            ort_.check(ort_->BindOutput(bindings_[written].get(), name, tensor.value.get()));
        };
        bind_output(0, states_[written]);
        bind_output(1, heads_[written][0]);
        bind_output(2, heads_[written][1]);
        ort_.check(bind_inputs(written));
    }
}

OrtStream::Tensor OrtStream::host_tensor(const TensorSpec& spec) const
{
    Tensor tensor;
    tensor.memory.reset(::operator new(spec.bytes(), kAlignment));
    tensor.data = tensor.memory.get();
    std::memset(tensor.data, 0, spec.bytes());
    const auto memory =
        ort_.make(ort_->ReleaseMemoryInfo, ort_->CreateCpuMemoryInfo, OrtDeviceAllocator, OrtMemTypeDefault);
    tensor.value = ort_.make(ort_->ReleaseValue, ort_->CreateTensorWithDataAsOrtValue, memory.get(), tensor.data,
        spec.bytes(), spec.shape.data(), spec.shape.size(), ort_type(spec.dtype));
    return tensor;
}

// Where ONNX Runtime computes, so that nothing of it is copied between frames.
OrtStream::Tensor OrtStream::first_state() const
{
    const TensorSpec& spec = contract_.outputs[0];
    Tensor host = host_tensor(spec);
    fill_with_nan(host.data, spec);
    if (!cuda_) {
        return host;
    }
    Tensor state;
    state.value = ort_.make(ort_->ReleaseValue, ort_->CreateTensorAsOrtValue, cuda_allocator_.get(),
        spec.shape.data(), spec.shape.size(), ort_type(spec.dtype));
    ort_.check(ort_->GetTensorMutableData(state.value.get(), &state.data));
    if (const Status status = cuda_->to_device(state.data, host.data, spec.bytes()); !status.ok()) {
        throw Error(status.code(), status.message(), "a state in the GPU's memory", "run nvidia-smi");
    }
    return state;
}

// The state that is read is the one that is not written.
OrtStatus* OrtStream::bind_inputs(std::size_t written) const noexcept
{
    OrtIoBinding* binding = bindings_[written].get();
    for (std::size_t i = 0; i < given_.size(); ++i) {
        const Tensor& tensor = i == kPrevBev ? states_[1 - written] : given_[i];
        if (OrtStatus* failure = ort_->BindInput(binding, contract_.inputs[i].name.c_str(), tensor.value.get())) {
            return failure;
        }
    }
    return cuda_ ? ort_->SynchronizeBoundInputs(binding) : nullptr;
}

Status OrtStream::run(const void* /*device_image*/, Times& times) noexcept
{
    const std::size_t written = 1 - latest_;
    const Clock::time_point started = Clock::now();
    // On the CPU what was bound once is read where it lies. For a GPU binding is what copies it there.
    OrtStatus* failure = cuda_ ? bind_inputs(written) : nullptr;
    if (failure == nullptr) {
        failure = ort_->RunWithBinding(session_, nullptr, bindings_[written].get());
    }
    if (failure != nullptr) {
        const Owned<OrtStatus> owned(failure, {ort_->ReleaseStatus});
        Text<280> found;
        found.add("ONNX Runtime broke off: ");
        on_one_line(ort_->GetErrorMessage(failure), [&](std::string_view part) { found.add(part); });
        return {Code::failed, found.c_str(), "a run to its end",
            "look at the frame's inputs; if it fails again, build the bundle again"};
    }
    if (timed_) {
        // Copies to and from a GPU happen inside, where ONNX Runtime does not tell them apart.
        times.compute = std::chrono::duration<double, std::milli>(Clock::now() - started).count();
    }
    latest_ = written;
    return {};
}

Status OrtStream::read_state(void* out) noexcept
{
    const std::size_t bytes = contract_.outputs[0].bytes();
    if (cuda_) {
        return cuda_->to_host(out, states_[latest_].data, bytes);
    }
    std::memcpy(out, states_[latest_].data, bytes);
    return {};
}

}  // namespace qdbev::runtime
