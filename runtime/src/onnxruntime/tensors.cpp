#include "onnxruntime/tensors.h"

#include <map>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime {
namespace {

using Tensors = std::map<std::string, std::string>;  // name: type and shape

std::string type_name(ONNXTensorElementDataType type)
{
    for (const DType known : {DType::float32, DType::float16, DType::uint8}) {
        if (ort_type(known) == type) {
            return name_of(known);
        }
    }
    return "element type " + std::to_string(static_cast<int>(type));
}

// Of an axis whose size is open ONNX Runtime says -1.
std::string described(const std::string& type, const std::vector<int64_t>& shape)
{
    std::string text = type + " [";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        text += (i == 0 ? "" : ", ") + (shape[i] < 0 ? "?" : std::to_string(shape[i]));
    }
    return text + "]";
}

std::string described(const OrtLibrary& ort, const OrtTypeInfo* info)
{
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    ort.check(ort->CastTypeInfoToTensorInfo(info, &tensor));
    if (tensor == nullptr) {
        return "no tensor";
    }
    ONNXTensorElementDataType type{};
    ort.check(ort->GetTensorElementType(tensor, &type));
    std::size_t axes = 0;
    ort.check(ort->GetDimensionsCount(tensor, &axes));
    std::vector<int64_t> shape(axes);
    ort.check(ort->GetDimensions(tensor, shape.data(), axes));
    return described(type_name(type), shape);
}

// The inputs of a session, or its outputs, by the API's functions for the one or the other.
template <class Count, class Name, class Type>
Tensors tensors_of(const OrtLibrary& ort, const OrtSession* session, Count count_of, Name name_at, Type type_at)
{
    OrtAllocator* allocator = nullptr;  // ONNX Runtime's own, not to be released
    ort.check(ort->GetAllocatorWithDefaultOptions(&allocator));
    const auto free_name = [&](char* name) { static_cast<void>(ort.failure(ort->AllocatorFree(allocator, name))); };
    std::size_t count = 0;
    ort.check(count_of(session, &count));
    Tensors found;
    for (std::size_t i = 0; i < count; ++i) {
        char* name = nullptr;
        ort.check(name_at(session, i, allocator, &name));
        const std::unique_ptr<char, decltype(free_name)> owned(name, free_name);
        found[name] = described(ort, ort.make(ort->ReleaseTypeInfo, type_at, session, i).get());
    }
    return found;
}

void require_same(const char* kind, const std::vector<TensorSpec>& specs, const Tensors& found,
    const std::string& next_step)
{
    Tensors wanted;
    for (const TensorSpec& spec : specs) {
        wanted[spec.name] = described(name_of(spec.dtype), spec.shape);
    }
    Tensors names = wanted;
    names.insert(found.begin(), found.end());
    std::string is, should;
    const auto entry = [](const Tensors& tensors, const std::string& name) {
        const auto at = tensors.find(name);
        return name + ": " + (at == tensors.end() ? "none" : at->second);
    };
    for (const auto& named : names) {
        const std::string here = entry(found, named.first), there = entry(wanted, named.first);
        if (here != there) {
            is += (is.empty() ? "" : "; ") + here;
            should += (should.empty() ? "" : "; ") + there;
        }
    }
    if (!is.empty()) {
        throw Error(Code::bad_input, std::string("the model's ") + kind + " " + is,
            "what the bundle's contract says: " + should, next_step);
    }
}

}  // namespace

ONNXTensorElementDataType ort_type(DType type) noexcept
{
    switch (type) {
    case DType::float16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DType::uint8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
    case DType::float32: break;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

void require_tensors(const OrtLibrary& ort, const OrtSession* session, const Contract& contract,
    const std::string& next_step)
{
    require_same("input", contract.inputs,
        tensors_of(ort, session, ort->SessionGetInputCount, ort->SessionGetInputName, ort->SessionGetInputTypeInfo),
        next_step);
    require_same("output", contract.outputs,
        tensors_of(ort, session, ort->SessionGetOutputCount, ort->SessionGetOutputName, ort->SessionGetOutputTypeInfo),
        next_step);
}

}  // namespace qdbev::runtime
