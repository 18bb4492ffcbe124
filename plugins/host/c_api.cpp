// The C interface: from C structs to prepare() and back, with every exception turned into a status.
#include "qdbev/c_api.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "qdbev/host.h"
#include "qdbev/version.h"

namespace {

using qdbev::Attributes;
using qdbev::DType;
using qdbev::OpSpec;
using qdbev::Params;
using qdbev::Refusal;
using qdbev::TensorDesc;

void write_error(char* error, size_t size, const char* sentence)
{
    if (error != nullptr && size != 0) {
        const size_t length = std::min(size - 1, std::strlen(sentence));
        std::memcpy(error, sentence, length);
        error[length] = '\0';
    }
}

// The one place where exceptions end.
template <typename Function>
int32_t guarded(char* error, size_t size, Function&& function) noexcept
{
    write_error(error, size, "");
    try {
        function();
        return QDBEV_OK;
    } catch (const Refusal& refusal) {
        write_error(error, size, refusal.what());
        return QDBEV_REFUSED;
    } catch (const std::exception& failure) {
        write_error(error, size, failure.what());
    } catch (...) {
        write_error(error, size, "an unknown exception.");
    }
    return QDBEV_FAILED;
}

TensorDesc describe(const qdbev_tensor& tensor)
{
    if (tensor.dtype < QDBEV_FLOAT32 || tensor.dtype > QDBEV_INT8) {
        throw Refusal("a tensor has the unknown dtype " + std::to_string(tensor.dtype) + ".");
    }
    if (tensor.rank < 1 || tensor.rank > qdbev::kMaxRank || tensor.dims == nullptr) {
        throw Refusal("a tensor has " + std::to_string(tensor.rank) + " dimensions; 1 to 8 are possible.");
    }
    TensorDesc desc;
    desc.type = static_cast<DType>(tensor.dtype);
    desc.rank = tensor.rank;
    std::copy(tensor.dims, tensor.dims + tensor.rank, desc.dims);
    const size_t element = size_of(desc.type);
    if (reinterpret_cast<uintptr_t>(tensor.data) % element != 0) {
        throw Refusal("a tensor's address is not a multiple of its element's size.");
    }
    return desc;
}

struct Call {
    const OpSpec* op;
    Params params;
};

Call prepare_call(const char* name, const qdbev_tensor* inputs, int32_t input_count, const qdbev_tensor* output,
    const qdbev_attribute* attributes, int32_t attribute_count)
{
    const OpSpec* op = qdbev::find_op(name);
    if (op == nullptr) {
        throw Refusal("there is no op '" + std::string(name == nullptr ? "" : name) + "'.");
    }
    if (input_count != op->input_count || inputs == nullptr || output == nullptr) {
        throw Refusal(std::string(op->name) + ": " + std::to_string(input_count) + " inputs; "
            + std::to_string(op->input_count) + " and an output are needed.");
    }
    if (attribute_count < 0 || (attribute_count > 0 && attributes == nullptr)) {
        throw Refusal(std::string(op->name) + ": the list of attributes is missing.");
    }
    Attributes values = op->new_attributes();
    for (int32_t i = 0; i < attribute_count; ++i) {
        const qdbev_attribute& given = attributes[i];
        const bool floats = given.kind == QDBEV_FLOAT || given.kind == QDBEV_FLOATS;
        if ((floats ? static_cast<const void*>(given.floats) : static_cast<const void*>(given.ints)) == nullptr) {
            throw Refusal(std::string(op->name) + ": an attribute has no values.");
        }
        if (floats) {
            values.set_floats(given.name, given.floats, given.count);
        } else {
            values.set_ints(given.name, given.ints, given.count);
        }
    }
    values.finish();
    op->check(*op, values);
    TensorDesc descs[qdbev::kMaxInputs];
    const void* data[qdbev::kMaxInputs];
    for (int32_t i = 0; i < input_count; ++i) {
        descs[i] = describe(inputs[i]);
        data[i] = inputs[i].data;
    }
    return Call{op, qdbev::prepare(*op, values, descs, data, describe(*output), output->data)};
}

std::string json_of_ops()
{
    static const char* const kRoles[] = {"value", "aux", "fp32"};
    std::string json = "[";
    for (int32_t i = 0; i < qdbev::kOpCount; ++i) {
        const OpSpec& op = *qdbev::kOps[i];
        json += std::string(i == 0 ? "" : ", ") + "{\"name\": \"" + op.name + "\", \"inputs\": [";
        for (int32_t j = 0; j < op.input_count; ++j) {
            json += std::string(j == 0 ? "" : ", ") + "{\"name\": \"" + op.inputs[j].name + "\", \"role\": \""
                + kRoles[static_cast<int32_t>(op.inputs[j].role)] + "\", \"rank\": " + std::to_string(op.inputs[j].rank)
                + "}";
        }
        json += "], \"fields\": [";
        for (int32_t j = 0; j < op.field_count; ++j) {
            json += std::string(j == 0 ? "" : ", ") + "{\"name\": \"" + op.fields[j].name + "\", \"kind\": \""
                + kind_name(op.fields[j].kind) + "\", \"required\": " + (op.fields[j].required ? "true" : "false") + "}";
        }
        json += "]}";
    }
    return json + "]";
}

std::string json_text(const char* text)
{
    return *text == '\0' ? "null" : "\"" + std::string(text) + "\"";
}

}  // namespace

const char* qdbev_version(void)
{
    return QDBEV_VERSION;
}

int32_t qdbev_abi(void)
{
    return QDBEV_ABI;
}

const char* qdbev_describe(void)
{
    try {
        static const std::string json = "{\"version\": \"" QDBEV_VERSION "\", \"abi\": " + std::to_string(QDBEV_ABI)
            + ", \"cuda_architectures\": " + json_text(QDBEV_BUILT_CUDA_ARCHS)
            + ", \"tensorrt\": " + json_text(QDBEV_BUILT_TENSORRT) + ", \"ops\": " + json_of_ops() + "}";
        return json.c_str();
    } catch (...) {
        return "{}";
    }
}

int32_t qdbev_host_run(const char* op, const qdbev_tensor* inputs, int32_t input_count, const qdbev_tensor* output,
    const qdbev_attribute* attributes, int32_t attribute_count, int32_t threads, char* error, size_t error_size)
{
    return guarded(error, error_size, [&] {
        const Call call = prepare_call(op, inputs, input_count, output, attributes, attribute_count);
        qdbev::run_on_host(*call.op, call.params, threads);
    });
}

int32_t qdbev_cuda_run(const char* op, const qdbev_tensor* inputs, int32_t input_count, const qdbev_tensor* output,
    const qdbev_attribute* attributes, int32_t attribute_count, void* stream, char* error, size_t error_size)
{
    return guarded(error, error_size, [&] {
        const Call call = prepare_call(op, inputs, input_count, output, attributes, attribute_count);
#ifdef QDBEV_WITH_CUDA
        const int result = qdbev::launch(*call.op, call.params, static_cast<qdbev::Stream>(stream));
        if (result != 0) {
            throw std::runtime_error(std::string(call.op->name) + ": " + qdbev::describe_launch_error(result) + ".");
        }
#else
        static_cast<void>(stream);
        throw Refusal(std::string(call.op->name) + ": this library was built without CUDA.");
#endif
    });
}
