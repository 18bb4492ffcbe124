// What the double copied by value, as assertions that hold for it and for the real headers alike.
#include <type_traits>

#include <NvInferRuntime.h>  // in angle brackets: not the one beside this file, unless a folder option says so

using namespace nvinfer1;

template <typename Enum>
constexpr int number(Enum value)
{
    return static_cast<int>(value);
}

static_assert(number(DataType::kFLOAT) == 0 && number(DataType::kHALF) == 1 && number(DataType::kINT8) == 2);
static_assert(number(DataType::kINT32) == 3 && number(DataType::kBOOL) == 4);
static_assert(number(TensorFormat::kLINEAR) == 0 && number(TensorFormat::kCHW2) == 1 && number(TensorFormat::kHWC8) == 2);
static_assert(number(DimensionOperation::kSUM) == 0 && number(DimensionOperation::kPROD) == 1);
static_assert(number(PluginFieldType::kFLOAT32) == 1 && number(PluginFieldType::kFLOAT64) == 2);
static_assert(number(PluginFieldType::kINT8) == 3 && number(PluginFieldType::kINT32) == 5);
static_assert(number(PluginFieldType::kCHAR) == 6 && number(PluginFieldType::kUNKNOWN) == 8);
static_assert(number(ILogger::Severity::kERROR) == 1 && number(ILogger::Severity::kWARNING) == 2);
static_assert(Dims::MAX_DIMS == 8);
static_assert(std::is_same_v<decltype(PluginField::length), int32_t>);
static_assert(std::is_same_v<decltype(PluginField::data), const void*>);
static_assert(std::is_same_v<decltype(PluginFieldCollection::fields), const PluginField*>);
static_assert(std::is_same_v<decltype(PluginTensorDesc::dims), Dims>);
static_assert(std::is_same_v<decltype(DynamicPluginTensorDesc::desc), PluginTensorDesc>);
static_assert(std::is_same_v<decltype(&ILogger::log), void (ILogger::*)(ILogger::Severity, const AsciiChar*) noexcept>);
static_assert(std::is_same_v<decltype(&ILoggerFinder::findLogger), ILogger* (ILoggerFinder::*)()>);

// The element of Dims tells the two families apart, in the real headers and in the double.
using Extent = std::remove_extent_t<decltype(Dims::d)>;
#ifdef QDBEV_EXPECT_V3
static_assert(std::is_same_v<Extent, int64_t>);
static_assert(number(PluginCapabilityType::kCORE) == 0 && number(PluginCapabilityType::kBUILD) == 1);
static_assert(number(PluginCapabilityType::kRUNTIME) == 2 && number(TensorRTPhase::kRUNTIME) == 1);
static_assert(std::is_base_of_v<IPluginCapability, IPluginV3OneBuild>);
static_assert(std::is_base_of_v<IPluginCreatorInterface, IPluginCreatorV3One>);
#ifdef NV_TENSORRT_MAJOR
static_assert(number(PluginFieldType::kINT64) == 10, "convert.h names this number");
#endif
#else
static_assert(std::is_same_v<Extent, int32_t>);
static_assert(std::is_abstract_v<IPluginV2DynamicExt> && std::is_abstract_v<IPluginCreator>);
#endif
