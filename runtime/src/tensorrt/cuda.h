// CUDA's resources as values that free themselves. Making one throws Error; using one returns CUDA's own code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>

#include <cuda_runtime_api.h>

namespace qdbev::runtime::cuda {

// Throws Error (missing), "CUDA failed to `what`", unless it is cudaSuccess. CUDA's own memory of the failure is wiped:
// the next call's caller must not take it for theirs.
void require(cudaError_t error, const char* what);

// The first GPU is the calling thread's while this lives; then the one before is again.
class OnDevice {
public:
    OnDevice() noexcept;
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    cudaError_t error() const noexcept { return error_; }

private:
    int before_ = 0;
    cudaError_t error_;
};

struct Device {
    std::string name;
    std::array<int32_t, 2> compute_capability{};
};

// The first GPU. Throws Error (missing) where there is no driver, an old one, or no GPU.
Device first_device();

template <auto Free>
struct FreeWith {
    template <typename T>
    void operator()(T* resource) const noexcept
    {
        static_cast<void>(Free(resource));  // nothing can be done about a failure
    }
};

template <typename T, auto Free>
using Handle = std::unique_ptr<std::remove_pointer_t<T>, FreeWith<Free>>;

using CudaStream = Handle<cudaStream_t, &cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, &cudaEventDestroy>;
using Graph = Handle<cudaGraphExec_t, &cudaGraphExecDestroy>;  // ready to be launched

CudaStream make_stream();
Event make_event(unsigned int flags);

// Memory of the device, or page-locked memory of the host, which the device reads and writes by itself.
template <cudaError_t (*Allocate)(void**, std::size_t), auto Free>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::size_t bytes) : bytes_(bytes)
    {
        void* made = nullptr;
        // No allocator gives nothing.
        const cudaError_t error = Allocate(&made, bytes == 0 ? 1 : bytes);
        if (error != cudaSuccess) {
            require(error, ("allocate " + std::to_string(bytes) + " bytes").c_str());
        }
        memory_.reset(made);
    }

    void* get() const noexcept { return memory_.get(); }
    std::size_t bytes() const noexcept { return bytes_; }

private:
    std::unique_ptr<void, FreeWith<Free>> memory_;
    std::size_t bytes_ = 0;
};

cudaError_t allocate_on_device(void** memory, std::size_t bytes);
cudaError_t allocate_pinned(void** memory, std::size_t bytes);

using DeviceBuffer = Buffer<&allocate_on_device, &cudaFree>;
using PinnedBuffer = Buffer<&allocate_pinned, &cudaFreeHost>;

// What the stream was given since a capture began on it, as a graph. Ends the capture, also where it throws.
Graph end_capture(cudaStream_t stream);
void abandon_capture(cudaStream_t stream) noexcept;

// What `enqueue` puts into the stream, kept instead of run. Other threads may allocate meanwhile.
template <typename Enqueue>
Graph capture(cudaStream_t stream, Enqueue&& enqueue)
{
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin the capture of a graph");
    try {
        std::forward<Enqueue>(enqueue)();
    } catch (...) {
        abandon_capture(stream);
        throw;
    }
    return end_capture(stream);
}

}  // namespace qdbev::runtime::cuda
