#include "onnxruntime/cuda_copy.h"

#include "text.h"

namespace qdbev::runtime {

CudaCopy::CudaCopy(int32_t device)
    : driver_(Library::open({"libcuda.so.1"}, "NVIDIA's driver", "install it, or build the bundle for the CPU")),
      device_(device),
      push_(driver_.function<Result(Context)>("cuCtxPushCurrent_v2")),
      pop_(driver_.function<Result(Context*)>("cuCtxPopCurrent_v2")),
      upload_(driver_.function<Result(Address, const void*, std::size_t)>("cuMemcpyHtoD_v2")),
      download_(driver_.function<Result(void*, Address, std::size_t)>("cuMemcpyDtoH_v2")),
      release_(driver_.function<Result(int)>("cuDevicePrimaryCtxRelease_v2"))
{
    Result result = driver_.function<Result(unsigned)>("cuInit")(0);
    if (result == 0) {
        result = driver_.function<Result(Context*, int)>("cuDevicePrimaryCtxRetain")(&context_, device_);
    }
    if (result != 0) {
        throw Error(Code::missing, "CUDA error " + std::to_string(result) + " of GPU " + std::to_string(device_),
            "a GPU that is ready to compute", "run nvidia-smi, or build the bundle for the CPU");
    }
}

CudaCopy::~CudaCopy()
{
    release_(device_);
}

Status CudaCopy::to_device(void* device, const void* host, std::size_t bytes) const noexcept
{
    return in_context([&] { return upload_(reinterpret_cast<Address>(device), host, bytes); });
}

Status CudaCopy::to_host(void* host, const void* device, std::size_t bytes) const noexcept
{
    return in_context([&] { return download_(host, reinterpret_cast<Address>(device), bytes); });
}

template <class Copy>
Status CudaCopy::in_context(Copy&& copy) const noexcept
{
    Result result = push_(context_);
    if (result == 0) {
        result = copy();
        Context popped = nullptr;
        pop_(&popped);
    }
    if (result == 0) {
        return {};
    }
    Text<64> found;
    found.add("CUDA error ").add(int64_t{result}).add(" while the state was copied");
    return {Code::failed, found.c_str(), "a GPU that works", "run nvidia-smi, then open the engine again"};
}

}  // namespace qdbev::runtime
