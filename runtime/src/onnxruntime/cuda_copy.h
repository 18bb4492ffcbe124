// Copies to and from a GPU's memory by its driver, which is there wherever ONNX Runtime computes on one: its C API has
// none that 1.18 knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "library.h"
#include "qdbev_runtime/status.h"

namespace qdbev::runtime {

class CudaCopy {
public:
    // Throws Error (missing) where there is no driver or no such device.
    explicit CudaCopy(int32_t device);
    CudaCopy(const CudaCopy&) = delete;
    CudaCopy& operator=(const CudaCopy&) = delete;
    ~CudaCopy();

    Status to_device(void* device, const void* host, std::size_t bytes) const noexcept;
    Status to_host(void* host, const void* device, std::size_t bytes) const noexcept;

private:
    // Of cuda.h, which need not be there to build this.
    using Result = int;
    using Address = unsigned long long;
    using Context = void*;

    template <class Copy>
    Status in_context(Copy&& copy) const noexcept;

    const Library driver_;
    const int32_t device_;
    Context context_ = nullptr;  // the one that ONNX Runtime works in
    Result (*push_)(Context) = nullptr;
    Result (*pop_)(Context*) = nullptr;
    Result (*upload_)(Address, const void*, std::size_t) = nullptr;
    Result (*download_)(void*, Address, std::size_t) = nullptr;
    Result (*release_)(int) = nullptr;
};

}  // namespace qdbev::runtime
