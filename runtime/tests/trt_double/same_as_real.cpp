// What the doubles copied by value, as assertions that hold for them and for the real headers alike.
#include <type_traits>

#include <NvInferRuntime.h>  // in angle brackets: not the one beside this file, unless a folder option says so
#include <cuda_runtime_api.h>

using namespace nvinfer1;

template <typename Enum>
constexpr int number(Enum value)
{
    return static_cast<int>(value);
}

static_assert(number(DataType::kFLOAT) == 0 && number(DataType::kHALF) == 1 && number(DataType::kINT8) == 2);
static_assert(number(DataType::kINT32) == 3 && number(DataType::kBOOL) == 4 && number(DataType::kUINT8) == 5);
static_assert(number(TensorIOMode::kNONE) == 0 && number(TensorIOMode::kINPUT) == 1);
static_assert(number(TensorIOMode::kOUTPUT) == 2);
static_assert(number(ILogger::Severity::kINTERNAL_ERROR) == 0 && number(ILogger::Severity::kERROR) == 1);
static_assert(number(ILogger::Severity::kWARNING) == 2 && number(ILogger::Severity::kINFO) == 3);
static_assert(number(ILogger::Severity::kVERBOSE) == 4);
static_assert(Dims::MAX_DIMS == 8);
static_assert(std::is_same_v<std::remove_extent_t<decltype(Dims::d)>,
    std::conditional_t<(NV_TENSORRT_MAJOR >= 10), int64_t, int32_t>>);
static_assert(NV_TENSORRT_VERSION >= (NV_TENSORRT_MAJOR >= 10 ? 10000 : 1000) * NV_TENSORRT_MAJOR);
static_assert(std::has_virtual_destructor_v<IRuntime> && std::has_virtual_destructor_v<ICudaEngine>);
static_assert(std::has_virtual_destructor_v<IExecutionContext>);
static_assert(std::is_same_v<decltype(&createInferRuntime_INTERNAL), void* (*)(void*, int32_t) noexcept>);
static_assert(std::is_same_v<decltype(&getPluginRegistry), IPluginRegistry* (*)() noexcept>);
static_assert(std::is_same_v<decltype(&getInferLibVersion), int32_t (*)() noexcept>);
static_assert(std::is_same_v<decltype(&ILogger::log), void (ILogger::*)(ILogger::Severity, const AsciiChar*) noexcept>);

static_assert(cudaSuccess == 0 && cudaErrorInvalidValue == 1 && cudaErrorMemoryAllocation == 2);
static_assert(cudaErrorInsufficientDriver == 35 && cudaErrorNoDevice == 100 && cudaErrorInvalidDevice == 101);
static_assert(cudaErrorInvalidResourceHandle == 400 && cudaErrorNotReady == 600 && cudaErrorIllegalAddress == 700);
static_assert(cudaErrorStreamCaptureUnsupported == 900 && cudaErrorStreamCaptureInvalidated == 901);
static_assert(cudaMemcpyHostToDevice == 1 && cudaMemcpyDeviceToHost == 2 && cudaMemcpyDeviceToDevice == 3);
static_assert(cudaStreamCaptureModeGlobal == 0 && cudaStreamCaptureModeThreadLocal == 1);
static_assert(cudaStreamNonBlocking == 1 && cudaEventDefault == 0 && cudaEventBlockingSync == 1);
static_assert(cudaEventDisableTiming == 2 && cudaHostAllocDefault == 0);
static_assert(std::is_same_v<decltype(&cudaMemcpyAsync),
    cudaError_t (*)(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t)>);
static_assert(std::is_same_v<decltype(&cudaGraphInstantiateWithFlags),
    cudaError_t (*)(cudaGraphExec_t*, cudaGraph_t, unsigned long long)>);
static_assert(std::is_same_v<decltype(&cudaEventElapsedTime), cudaError_t (*)(float*, cudaEvent_t, cudaEvent_t)>);
static_assert(std::is_same_v<decltype(&cudaStreamBeginCapture), cudaError_t (*)(cudaStream_t, cudaStreamCaptureMode)>);
