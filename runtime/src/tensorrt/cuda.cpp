#include "cuda.h"

#include "qdbev_runtime/status.h"

namespace qdbev::runtime::cuda {

namespace {

using CapturedGraph = Handle<cudaGraph_t, &cudaGraphDestroy>;

std::string dotted(int version)  // 12040 is 12.4
{
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

void require(cudaError_t error, const char* what)
{
    if (error == cudaSuccess) {
        return;
    }
    static_cast<void>(cudaGetLastError());
    throw Error(Code::missing, std::string("CUDA failed to ") + what + ": " + cudaGetErrorString(error),
        "a GPU that is free, sound and has the memory",
        "look at nvidia-smi (tegrastats on Jetson); end what else uses the GPU; then try again");
}

OnDevice::OnDevice() noexcept
{
    if (cudaGetDevice(&before_) != cudaSuccess) {
        before_ = 0;
    }
    error_ = cudaSetDevice(0);
    if (error_ != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
    }
}

OnDevice::~OnDevice()
{
    if (before_ != 0) {
        static_cast<void>(cudaSetDevice(before_));
    }
}

Device first_device()
{
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
        static_cast<void>(cudaGetLastError());
        throw Error(Code::missing, "there is no driver for a GPU: libcuda.so.1 does not load", "NVIDIA's driver",
            "install the driver (JetPack has it); in a container, start it with --gpus all");
    }
    int devices = 0;
    const cudaError_t counted = cudaGetDeviceCount(&devices);
    if (counted == cudaErrorInsufficientDriver) {
        static_cast<void>(cudaGetLastError());
        throw Error(Code::missing, "the driver is for CUDA " + dotted(driver),
            "a driver for CUDA " + dotted(CUDART_VERSION) + ", with which this runtime was built",
            "update the driver, or build the runtime with the CUDA toolkit of this machine");
    }
    if (counted == cudaErrorNoDevice || (counted == cudaSuccess && devices == 0)) {
        static_cast<void>(cudaGetLastError());
        throw Error(
            Code::missing, "the driver finds no GPU", "an NVIDIA GPU", "nvidia-smi; is CUDA_VISIBLE_DEVICES empty?");
    }
    require(counted, "count the GPUs");
    cudaDeviceProp properties{};
    require(cudaGetDeviceProperties(&properties, 0), "describe the GPU");
    return Device{properties.name, {properties.major, properties.minor}};
}

CudaStream make_stream()
{
    cudaStream_t made = nullptr;
    require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "make a stream");
    return CudaStream(made);
}

Event make_event(unsigned int flags)
{
    cudaEvent_t made = nullptr;
    require(cudaEventCreateWithFlags(&made, flags), "make an event");
    return Event(made);
}

cudaError_t allocate_on_device(void** memory, std::size_t bytes)
{
    return cudaMalloc(memory, bytes);
}

cudaError_t allocate_pinned(void** memory, std::size_t bytes)
{
    return cudaHostAlloc(memory, bytes, cudaHostAllocDefault);
}

Graph end_capture(cudaStream_t stream)
{
    cudaGraph_t captured = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream, &captured);
    const CapturedGraph graph(captured);
    require(ended, "capture a graph");
    cudaGraphExec_t made = nullptr;
    require(cudaGraphInstantiateWithFlags(&made, graph.get(), 0), "instantiate a graph");
    Graph ready(made);
    require(cudaGraphUpload(ready.get(), stream), "bring a graph to the device");  // else the first frame does
    return ready;
}

void abandon_capture(cudaStream_t stream) noexcept
{
    cudaGraph_t captured = nullptr;
    static_cast<void>(cudaStreamEndCapture(stream, &captured));
    const CapturedGraph discarded(captured);
    static_cast<void>(cudaGetLastError());
}

}  // namespace qdbev::runtime::cuda
