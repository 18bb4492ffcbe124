// One sequence on ONNX Runtime: state and outputs in two buffers each that change places, other inputs in one of ours.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <optional>

#include "backend.h"
#include "onnxruntime/cuda_copy.h"
#include "onnxruntime/model.h"

namespace qdbev::runtime {

class OrtStream final : public Stream {
public:
    // Throws Error. The model outlives it.
    OrtStream(OrtModel& model, const SessionOptions& options);

    const Inputs& inputs() noexcept override { return inputs_; }
    Status run(const void* device_image, Times& times) noexcept override;
    void undo() noexcept override { latest_ = 1 - latest_; }
    const float* classes() const noexcept override { return static_cast<const float*>(heads_[latest_][0].data); }
    const float* coords() const noexcept override { return static_cast<const float*>(heads_[latest_][1].data); }
    Status read_state(void* out) noexcept override;

private:
    // A line of a processor's cache, and more than any vector instruction asks for.
    static constexpr std::align_val_t kAlignment{64};
    struct Free {
        void operator()(void* data) const noexcept { ::operator delete(data, kAlignment); }
    };
    struct Tensor {
        std::unique_ptr<void, Free> memory;  // nullptr on a GPU: there it is the value's own
        void* data = nullptr;
        Owned<OrtValue> value;  // ONNX Runtime's view of `data`
    };

    Tensor host_tensor(const TensorSpec& spec) const;  // of zeros
    Tensor first_state() const;
    OrtStatus* bind_inputs(std::size_t written) const noexcept;

    const OrtLibrary& ort_;
    const Contract& contract_;
    OrtSession* const session_;
    const bool timed_;
    // Of a GPU that computes; the states that lie there go before them.
    std::optional<CudaCopy> cuda_;
    Owned<OrtAllocator> cuda_allocator_;

    std::array<Tensor, 2> states_;
    std::array<Tensor, 5> given_;  // as contract.inputs; where prev_bev would be, nothing
    std::array<std::array<Tensor, 2>, 2> heads_;  // classes and coords, with the state of the same run
    Inputs inputs_;
    std::array<Owned<OrtIoBinding>, 2> bindings_;  // by the state that is written
    std::size_t latest_ = 0;  // the state that was written last
};

}  // namespace qdbev::runtime
