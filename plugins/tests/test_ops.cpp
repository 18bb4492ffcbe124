// The description of the ops: attributes and their bytes, checks, no allocation on the way to a launch, and the
// variants of a body that must agree to the last bit.
#include <cstdlib>
#include <new>

#include "check.h"
#include "op_cases.h"
#include "qdbev/version.h"

namespace {

long g_allocations = 0;

}  // namespace

void* operator new(std::size_t size)
{
    ++g_allocations;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) {
        return memory;
    }
    throw std::bad_alloc();
}

void operator delete(void* memory) noexcept
{
    std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept
{
    std::free(memory);
}

namespace {

using namespace qdbev;

std::vector<char> bytes_of(const Attributes& attributes)
{
    std::vector<char> bytes(attributes.serialised_size());
    attributes.serialise(bytes.data());
    return bytes;
}

void attributes_survive_the_plan(const OpSpec& op)
{
    const auto c = cases::make(op, DType::kI8, DType::kF16);
    const Attributes attributes = c.attributes();
    const std::vector<char> bytes = bytes_of(attributes);
    const Attributes reloaded = op.parse_attributes(bytes.data(), bytes.size());
    CHECK(bytes_of(reloaded) == bytes);
    for (int32_t i = 0; i < op.field_count; ++i) {
        const FieldSpec& field = op.fields[i];
        CHECK(field.is_float() ? reloaded.floats(field.name) == attributes.floats(field.name)
                               : reloaded.ints(field.name) == attributes.ints(field.name));
    }

    // Every truncation, every flipped byte, and a byte too many are refused.
    for (size_t size = 0; size < bytes.size(); ++size) {
        const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
        CHECK(!check::refusal([&] { op.parse_attributes(cut.data(), cut.size()); }).empty());
    }
    for (size_t i = 0; i < bytes.size(); ++i) {
        std::vector<char> flipped = bytes;
        flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
        CHECK(!check::refusal([&] { op.parse_attributes(flipped.data(), flipped.size()); }).empty());
    }
    std::vector<char> longer = bytes;
    longer.push_back(0);
    CHECK(!check::refusal([&] { op.parse_attributes(longer.data(), longer.size()); }).empty());
    CHECK(!check::refusal([&] { op.parse_attributes(nullptr, bytes.size()); }).empty());

    std::vector<char> other_abi = bytes;
    other_abi[4] = static_cast<char>(QDBEV_ABI + 1);
    CHECK(check::contains(check::refusal([&] { op.parse_attributes(other_abi.data(), other_abi.size()); }),
        "was built with ABI 2 of this plugin library and this is ABI 1"));
    for (int32_t i = 0; i < kOpCount; ++i) {
        if (kOps[i] != &op) {
            CHECK(check::contains(
                check::refusal([&] { kOps[i]->parse_attributes(bytes.data(), bytes.size()); }), "another op"));
        }
    }
}

uint32_t checksum(const char* data, size_t size)
{
    uint32_t hash = 2166136261U;
    for (size_t i = 0; i < size; ++i) {
        hash = (hash ^ static_cast<unsigned char>(data[i])) * 16777619U;
    }
    return hash;
}

// Damage that carries a right checksum, as a forger's would: parsed or refused, never read past the end.
void forged_plans(const OpSpec& op)
{
    const std::vector<char> bytes = bytes_of(cases::make(op, DType::kI8, DType::kF16).attributes());
    std::mt19937 random(11);
    int refused = 0;
    for (int round = 0; round < 3000; ++round) {
        std::vector<char> forged = bytes;
        constexpr size_t kHeader = 20;
        forged.resize(kHeader + random() % (bytes.size() - kHeader + 8));
        for (int i = 0; i < 3 && forged.size() > kHeader; ++i) {
            forged[kHeader + random() % (forged.size() - kHeader)] = static_cast<char>(random());
        }
        const auto size = static_cast<uint32_t>(forged.size());
        const uint32_t sum = checksum(forged.data() + kHeader, forged.size() - kHeader);
        std::memcpy(forged.data() + 12, &size, sizeof size);
        std::memcpy(forged.data() + 16, &sum, sizeof sum);
        refused += check::refusal([&] { op.parse_attributes(forged.data(), forged.size()); }).empty() ? 0 : 1;
    }
    CHECK(refused > 1000);
}

void preparing_allocates_nothing(const OpSpec& op)
{
    const auto c = cases::make(op, DType::kI8, DType::kF16);
    const Attributes attributes = c.attributes();
    cases::Data data(c);
    const TensorDesc output = c.output(DType::kF16);
    void* out = data.output(output);
    const long before = g_allocations;
    for (int i = 0; i < 3; ++i) {
        static_cast<void>(prepare(op, attributes, c.inputs, data.inputs, output, out));
    }
    CHECK(g_allocations == before);
}

std::vector<char> run(const cases::Case& c, DType out_type, size_t shift, int32_t threads)
{
    cases::Data data(c, shift);
    const TensorDesc output = c.output(out_type);
    auto* out = static_cast<char*>(data.output(output, shift));
    run_on_host(*c.op, prepare(*c.op, c.attributes(), c.inputs, data.inputs, output, out), threads);
    return std::vector<char>(out, out + data.output_bytes);
}

void variants_agree(const OpSpec& op)
{
    for (const DType value : {DType::kF32, DType::kF16, DType::kI8}) {
        for (const DType aux : {DType::kF32, DType::kF16}) {
            for (const DType out : {DType::kF32, DType::kF16, DType::kI8}) {
                auto c = cases::make(op, value, aux);
                if (out == DType::kI8) {
                    c.set_float("output_scale", 0.01);
                }
                const std::vector<char> fast = run(c, out, 0, 1);
                CHECK(run(c, out, 0, 3) == fast);
                CHECK(run(c, out, 1, 1) == fast);  // unaligned: element by element, any number of points
                bool poisoned = false;  // 0xFFFF... is a NaN in either float type
                for (size_t i = 0; out != DType::kI8 && i + 4 <= fast.size(); i += 4) {
                    uint32_t word;
                    std::memcpy(&word, fast.data() + i, sizeof word);
                    poisoned = poisoned || word == 0xFFFFFFFFU;
                }
                CHECK(!poisoned);
            }
        }
    }
}

void types_are_decided_by_the_scales(const OpSpec& op)
{
    const auto floating = cases::make(op, DType::kF16, DType::kF16).attributes();
    const auto quantised = cases::make(op, DType::kI8, DType::kF16).attributes();
    DType types[kMaxInputs + 1] = {DType::kI8, DType::kF16, DType::kF16, DType::kF16, DType::kF16};
    CHECK(supports_type(op, quantised, 0, types) && !supports_type(op, floating, 0, types));
    types[0] = DType::kF32;
    CHECK(!supports_type(op, quantised, 0, types) && supports_type(op, floating, 0, types));
    types[op.input_count] = DType::kI8;
    CHECK(!supports_type(op, quantised, op.input_count, types));
    for (int32_t i = 1; i < op.input_count; ++i) {
        types[i] = DType::kI8;
        CHECK(!supports_type(op, quantised, i, types));
        types[i] = op.inputs[i].role == Role::kFp32 ? DType::kF32 : DType::kF16;
        CHECK(supports_type(op, quantised, i, types));
    }
    types[op.input_count - 1] = DType::kF32;  // unlike the first of its role
    CHECK(!supports_type(op, quantised, op.input_count - 1, types));
}

void wrong_calls_are_refused(const OpSpec& op)
{
    const auto c = cases::make(op, DType::kF32, DType::kF32);
    cases::Data data(c);
    const TensorDesc output = c.output(DType::kF32);
    void* out = data.output(output);
    const Attributes attributes = c.attributes();
    CHECK(check::refusal([&] { prepare(op, attributes, c.inputs, data.inputs, output, out); }).empty());
    CHECK(check::contains(
        check::refusal([&] { prepare(op, attributes, c.inputs, data.inputs, output, nullptr); }), "no data"));
    for (int32_t i = 0; i < op.input_count; ++i) {
        // One extent larger, zero, negative or huge; one dimension fewer: each names the op.
        for (int32_t j = 0; j < c.inputs[i].rank; ++j) {
            for (const int64_t extent : {c.inputs[i].dims[j] + 1, int64_t{0}, int64_t{-1}, int64_t{1} << 40}) {
                auto wrong = c;
                wrong.inputs[i].dims[j] = extent;
                const std::string sentence
                    = check::refusal([&] { prepare(op, attributes, wrong.inputs, data.inputs, output, out); });
                CHECK(check::contains(sentence, op.name));
            }
        }
        auto wrong = c;
        --wrong.inputs[i].rank;
        CHECK(check::contains(check::refusal([&] { prepare(op, attributes, wrong.inputs, data.inputs, output, out); }),
            op.inputs[i].name));
    }
    CHECK(check::refusal([&] { check_tensors(op, attributes, c.inputs, output); }).empty());
}

// Of 16 int8 channels, 8192 wide: with 16382 rows all corners have an index of 32 bits, with 16383 those past the end not.
void the_largest_plane_is_the_one_that_kernels_index()
{
    auto c = cases::make(*find_op("MSDeformAttn"), DType::kI8, DType::kF16);
    const auto sentence_at = [&](int64_t height) {
        c.int_fields[0] = {height, 8192};
        c.inputs[0] = cases::tensor(DType::kI8, {1, height * 8192, 1, 16});
        c.inputs[1] = cases::tensor(DType::kF32, {1, 7, 2});
        c.inputs[2] = cases::tensor(DType::kF16, {1, 7, 1, 1, 4, 2});
        c.inputs[3] = cases::tensor(DType::kF16, {1, 7, 1, 4});
        return check::refusal([&] { check_tensors(*c.op, c.attributes(), c.inputs, c.output(DType::kF16)); });
    };
    CHECK(sentence_at(16382).empty());
    CHECK(check::contains(sentence_at(16383), "needs over 2 GiB"));
}

}  // namespace

int main()
{
    for (int32_t i = 0; i < kOpCount; ++i) {
        attributes_survive_the_plan(*kOps[i]);
        forged_plans(*kOps[i]);
        preparing_allocates_nothing(*kOps[i]);
        variants_agree(*kOps[i]);
        types_are_decided_by_the_scales(*kOps[i]);
        wrong_calls_are_refused(*kOps[i]);
    }
    the_largest_plane_is_the_one_that_kernels_index();
    CHECK(find_op("NoSuchOp") == nullptr && find_op(nullptr) == nullptr);
    return check::report();
}
