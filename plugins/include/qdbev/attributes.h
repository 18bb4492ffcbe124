// The attributes of an op: what fields it has, their values, and the bytes a TensorRT plan keeps of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace qdbev {

// Something that was asked for and cannot be done. The message is one or two sentences for the user's log.
class Refusal : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// Kinds and names are those of the ONNX node's attributes.
enum class FieldKind : int32_t { kInt = 0, kInts = 1, kFloat = 2, kFloats = 3 };

struct FieldSpec {
    const char* name;
    FieldKind kind;
    bool required;  // an optional field is 0 where it is not given

    bool is_list() const { return kind == FieldKind::kInts || kind == FieldKind::kFloats; }
    bool is_float() const { return kind == FieldKind::kFloat || kind == FieldKind::kFloats; }
};

const char* kind_name(FieldKind kind);

// Values of an op's fields, in the order of its field table.
class Attributes {
public:
    Attributes(const char* op_name, const FieldSpec* specs, int32_t count);

    // Each refuses an unknown name, a second value, the wrong kind, and a list where one number is meant.
    void set_ints(const char* name, const int64_t* values, int32_t count);
    void set_floats(const char* name, const double* values, int32_t count);
    // To be called after the last set: refuses if a required field has no value.
    void finish();

    const std::vector<int32_t>& ints(const char* name) const;
    const std::vector<float>& floats(const char* name) const;
    int32_t int_value(const char* name) const;
    float float_value(const char* name) const;

    // A plan stores `serialise()`; `parse` refuses anything but the whole of it, from this ABI and for this op.
    size_t serialised_size() const;
    void serialise(void* buffer) const;
    static Attributes parse(const char* op_name, const FieldSpec* specs, int32_t count, const void* data, size_t size);

private:
    struct Value {
        bool set = false;
        std::vector<int32_t> ints;
        std::vector<float> floats;
    };
    Value& slot(const char* name, bool floats, int32_t count);
    const Value& get(const char* name, bool floats) const;
    [[noreturn]] void refuse(const std::string& sentence) const;

    const char* op_name_;
    const FieldSpec* specs_;
    int32_t count_;
    std::vector<Value> values_;
};

}  // namespace qdbev
