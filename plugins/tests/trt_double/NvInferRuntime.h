// TEST DOUBLE. Not TensorRT, and never installed: the few interfaces that the adapters in plugins/tensorrt touch,
// written from the public documentation so that machines without TensorRT can compile and exercise the adapters. See
// README.md beside this file for how it is held against the real headers.
//
// QDBEV_TRT_DOUBLE_MAJOR chooses what is offered: below 10 IPluginV2DynamicExt with 32-bit dims, from 10 IPluginV3 with
// 64-bit dims.
#pragma once

#include <cstddef>
#include <cstdint>

typedef struct CUstream_st* cudaStream_t;

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1, kHWC8 = 2 };
enum class DimensionOperation : int32_t { kSUM = 0, kPROD = 1 };
enum class PluginFieldType : int32_t {
    kFLOAT16 = 0,
    kFLOAT32 = 1,
    kFLOAT64 = 2,
    kINT8 = 3,
    kINT16 = 4,
    kINT32 = 5,
    kCHAR = 6,
    kDIMS = 7,
    kUNKNOWN = 8,
};

struct Dims {
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
#if QDBEV_TRT_DOUBLE_MAJOR >= 10
    int64_t d[MAX_DIMS];
#else
    int32_t d[MAX_DIMS];
#endif
};

struct PluginTensorDesc {
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc {
    PluginTensorDesc desc;
    Dims min;
    Dims max;
};

class IDimensionExpr {
public:
    virtual ~IDimensionExpr() = default;
};

class DimsExprs {
public:
    int32_t nbDims;
    const IDimensionExpr* d[Dims::MAX_DIMS];
};

class IExprBuilder {
public:
    virtual ~IExprBuilder() = default;
    virtual const IDimensionExpr* operation(
        DimensionOperation op, const IDimensionExpr& first, const IDimensionExpr& second) noexcept = 0;
};

class PluginField {
public:
    const AsciiChar* name;
    const void* data;
    PluginFieldType type;
    int32_t length;

    PluginField(const AsciiChar* name_ = nullptr, const void* data_ = nullptr,
        PluginFieldType type_ = PluginFieldType::kUNKNOWN, int32_t length_ = 0) noexcept
        : name(name_), data(data_), type(type_), length(length_)
    {
    }
};

struct PluginFieldCollection {
    int32_t nbFields{};
    const PluginField* fields{};
};

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2 };
    virtual void log(Severity severity, const AsciiChar* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class ILoggerFinder {
public:
    virtual ILogger* findLogger() = 0;

protected:
    virtual ~ILoggerFinder() = default;
};

#if QDBEV_TRT_DOUBLE_MAJOR < 10

class IPluginV2 {
public:
    virtual const AsciiChar* getPluginType() const noexcept = 0;
    virtual const AsciiChar* getPluginVersion() const noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual int32_t initialize() noexcept = 0;
    virtual void terminate() noexcept = 0;
    virtual size_t getSerializationSize() const noexcept = 0;
    virtual void serialize(void* buffer) const noexcept = 0;
    virtual void destroy() noexcept = 0;
    virtual IPluginV2* clone() const noexcept = 0;
    virtual void setPluginNamespace(const AsciiChar* name) noexcept = 0;
    virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
    virtual ~IPluginV2() = default;
};

class IPluginV2Ext : public IPluginV2 {
public:
    virtual DataType getOutputDataType(int32_t index, const DataType* inputs, int32_t count) const noexcept = 0;
    IPluginV2Ext* clone() const noexcept override = 0;
};

class IPluginV2DynamicExt : public IPluginV2Ext {
public:
    IPluginV2DynamicExt* clone() const noexcept override = 0;
    virtual DimsExprs getOutputDimensions(
        int32_t index, const DimsExprs* inputs, int32_t count, IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(
        int32_t position, const PluginTensorDesc* in_out, int32_t inputs, int32_t outputs) noexcept = 0;
    virtual void configurePlugin(
        const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out, int32_t outputs) noexcept = 0;
    virtual size_t getWorkspaceSize(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
        int32_t outputs) const noexcept = 0;
    virtual int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
};

class IPluginCreator {
public:
    virtual const AsciiChar* getPluginName() const noexcept = 0;
    virtual const AsciiChar* getPluginVersion() const noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual IPluginV2* createPlugin(const AsciiChar* name, const PluginFieldCollection* fields) noexcept = 0;
    virtual IPluginV2* deserializePlugin(const AsciiChar* name, const void* data, size_t size) noexcept = 0;
    virtual void setPluginNamespace(const AsciiChar* name) noexcept = 0;
    virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
    virtual ~IPluginCreator() = default;
};

class IPluginRegistry {
public:
    virtual bool registerCreator(IPluginCreator& creator, const AsciiChar* name) noexcept = 0;

protected:
    virtual ~IPluginRegistry() = default;
};

#else

enum class TensorRTPhase : int32_t { kBUILD = 0, kRUNTIME = 1 };
enum class PluginCapabilityType : int32_t { kCORE = 0, kBUILD = 1, kRUNTIME = 2 };

class IPluginResourceContext;

class IPluginCapability {
public:
    virtual ~IPluginCapability() = default;
};

class IPluginV3 {
public:
    virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept = 0;
    virtual IPluginV3* clone() noexcept = 0;
    virtual ~IPluginV3() = default;
};

class IPluginV3OneCore : public IPluginCapability {
public:
    virtual const AsciiChar* getPluginName() const noexcept = 0;
    virtual const AsciiChar* getPluginVersion() const noexcept = 0;
    virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

class IPluginV3OneBuild : public IPluginCapability {
public:
    virtual int32_t configurePlugin(
        const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc* out, int32_t outputs) noexcept = 0;
    virtual int32_t getOutputDataTypes(
        DataType* outputs, int32_t output_count, const DataType* inputs, int32_t input_count) const noexcept = 0;
    virtual int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs* shape_inputs,
        int32_t shape_input_count, DimsExprs* outputs, int32_t output_count, IExprBuilder& builder) noexcept = 0;
    virtual bool supportsFormatCombination(
        int32_t position, const DynamicPluginTensorDesc* in_out, int32_t inputs, int32_t outputs) noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
};

class IPluginV3OneRuntime : public IPluginCapability {
public:
    virtual int32_t onShapeChange(
        const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out, int32_t outputs) noexcept = 0;
    virtual int32_t enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
        void* const* outputs, void* workspace, cudaStream_t stream) noexcept = 0;
    virtual IPluginV3* attachToContext(IPluginResourceContext* context) noexcept = 0;
    virtual const PluginFieldCollection* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorInterface {
public:
    virtual ~IPluginCreatorInterface() = default;
};

class IPluginCreatorV3One : public IPluginCreatorInterface {
public:
    virtual IPluginV3* createPlugin(
        const AsciiChar* name, const PluginFieldCollection* fields, TensorRTPhase phase) noexcept = 0;
    virtual const PluginFieldCollection* getFieldNames() noexcept = 0;
    virtual const AsciiChar* getPluginName() const noexcept = 0;
    virtual const AsciiChar* getPluginVersion() const noexcept = 0;
    virtual const AsciiChar* getPluginNamespace() const noexcept = 0;
};

class IPluginRegistry {
public:
    virtual bool registerCreator(IPluginCreatorInterface& creator, const AsciiChar* name) noexcept = 0;

protected:
    virtual ~IPluginRegistry() = default;
};

#endif

}  // namespace nvinfer1
