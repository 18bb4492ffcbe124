// One description of each op, from which every adapter is made: inputs, fields, types, shapes, and the step from
// tensors to checked kernel parameters. Knows neither TensorRT nor CUDA.
#pragma once

#include <string>
#include <variant>

#include "qdbev/attributes.h"
#include "qdbev/launch.h"
#include "qdbev/params.h"

namespace qdbev {

constexpr int32_t kMaxInputs = 4;
constexpr int32_t kMaxRank = 8;

// What decides an input's type.
enum class Role : int32_t {
    kValue = 0,  // int8 where value_scale > 0, else FP32 or FP16
    kAux = 1,    // FP32 or FP16, the same for all inputs of this role
    kFp32 = 2,   // reference points and projection matrices: never narrowed
};

struct InputSpec {
    const char* name;
    Role role;
    int32_t rank;
};

// An output extent is the product of one or two input extents.
struct OutputDim {
    int32_t input[2];  // input[1] < 0: one factor
    int32_t dim[2];
};

struct TensorDesc {
    DType type = DType::kF32;
    int32_t rank = 0;
    int64_t dims[kMaxRank] = {};
};

using Params = std::variant<DeformAttentionParams, SpatialParams, DeformSampleParams>;

struct OpSpec {
    const char* name;
    int32_t input_count;
    InputSpec inputs[kMaxInputs];
    int32_t output_rank;
    OutputDim output_dims[kMaxRank];
    int32_t field_count;
    const FieldSpec* fields;
    // Refuses attributes that make no sense whatever the tensors are.
    void (*check)(const OpSpec&, const Attributes&);
    // Refuses shapes that do not fit the attributes or each other; types and ranks have been checked.
    Params (*bind)(const OpSpec&, const Attributes&, const TensorDesc* inputs, const void* const* data, void* out);

    Attributes new_attributes() const { return Attributes(name, fields, field_count); }
    Attributes parse_attributes(const void* data, size_t size) const;
};

// The table of all ops.
extern const OpSpec* const kOps[];
extern const int32_t kOpCount;
const OpSpec* find_op(const char* name);  // null where there is none

// Whether tensor `position` (inputs, then the output) may have types[position], the earlier ones being decided.
bool supports_type(const OpSpec& op, const Attributes& attributes, int32_t position, const DType* types);
// The output's type where nobody asks for another.
DType default_output_type(const OpSpec& op, const Attributes& attributes, const DType* input_types);
TensorDesc output_of(const OpSpec& op, const TensorDesc* inputs, DType type);

// Checks everything and makes the kernel's parameters. Allocates nothing unless it refuses.
Params prepare(const OpSpec& op, const Attributes& attributes, const TensorDesc* inputs, const void* const* data,
    const TensorDesc& output, void* out);

// The same checks, for the time when shapes are known and memory is not.
void check_tensors(const OpSpec& op, const Attributes& attributes, const TensorDesc* inputs, const TensorDesc& output);

// What `prepare` made, on the GPU (0 or a cudaError_t).
int launch(const OpSpec& op, const Params& params, Stream stream);

std::string shape_text(const TensorDesc& tensor);
const char* type_name(DType type);

}  // namespace qdbev
