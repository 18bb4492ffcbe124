// TEST DOUBLE. Not TensorRT, and never installed: the few interfaces that the TensorRT backend of the runtime touches,
// written from the public documentation so that machines without TensorRT can compile and exercise it. See README.md
// beside this file for how it is held against the real headers.
//
// QDBEV_TRT_DOUBLE_MAJOR chooses what is offered: 8 with 32-bit dims, 10 with 64-bit dims and what was renamed there.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

#if QDBEV_TRT_DOUBLE_MAJOR >= 10
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_VERSION 100300
#else
#define NV_TENSORRT_MAJOR 8
#define NV_TENSORRT_VERSION 8600
#endif

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

struct Dims {
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
#if QDBEV_TRT_DOUBLE_MAJOR >= 10
    int64_t d[MAX_DIMS];
#else
    int32_t d[MAX_DIMS];
#endif
};

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const AsciiChar* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
public:
    virtual ~IExecutionContext() noexcept = default;
    virtual bool setTensorAddress(const char* name, void* address) noexcept = 0;
    virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    virtual int32_t getNbIOTensors() const noexcept = 0;
    virtual const char* getIOTensorName(int32_t index) const noexcept = 0;
    virtual TensorIOMode getTensorIOMode(const char* name) const noexcept = 0;
    virtual DataType getTensorDataType(const char* name) const noexcept = 0;
    virtual Dims getTensorShape(const char* name) const noexcept = 0;
    virtual IExecutionContext* createExecutionContext() noexcept = 0;
#if QDBEV_TRT_DOUBLE_MAJOR >= 10
    virtual int64_t getDeviceMemorySizeV2() const noexcept = 0;
#else
    virtual size_t getDeviceMemorySize() const noexcept = 0;
#endif
};

class IRuntime {
public:
    virtual ~IRuntime() noexcept = default;
    virtual void setEngineHostCodeAllowed(bool allowed) noexcept = 0;
    virtual void setDLACore(int32_t core) noexcept = 0;
    virtual ICudaEngine* deserializeCudaEngine(const void* blob, size_t size) noexcept = 0;
};

class IPluginCreator {
};
using IPluginCreatorInterface = IPluginCreator;

class IPluginRegistry {
public:
    using PluginLibraryHandle = void*;
    virtual PluginLibraryHandle loadLibrary(const AsciiChar* path) noexcept = 0;
#if QDBEV_TRT_DOUBLE_MAJOR >= 10
    virtual IPluginCreatorInterface* getCreator(
        const AsciiChar* name, const AsciiChar* version, const AsciiChar* name_space) noexcept = 0;
#else
    virtual IPluginCreator* getPluginCreator(
        const AsciiChar* name, const AsciiChar* version, const AsciiChar* name_space) noexcept = 0;
#endif

protected:
    virtual ~IPluginRegistry() noexcept = default;
};

}  // namespace nvinfer1

extern "C" void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept;
extern "C" nvinfer1::IPluginRegistry* getPluginRegistry() noexcept;
extern "C" int32_t getInferLibVersion() noexcept;
