// ModulatedDeformSample: its table, and from tensors to parameters.
#include "checks.h"

namespace qdbev {

namespace {

struct Pair {
    int32_t y;
    int32_t x;
};

Pair pair_of(const Attributes& attributes, const char* name)
{
    const auto& values = attributes.ints(name);
    return Pair{values[0], values[1]};
}

int64_t convolved(int64_t extent, int32_t kernel, int32_t stride, int32_t padding, int32_t dilation)
{
    const int64_t room = extent + 2 * static_cast<int64_t>(padding) - static_cast<int64_t>(dilation) * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

void check_sample(const OpSpec& op, const Attributes& attributes)
{
    check_scales(op, attributes);
    for (const char* name : {"kernel", "stride", "padding", "dilation"}) {
        const auto& values = attributes.ints(name);
        const int32_t least = std::string(name) == "padding" ? 0 : 1;
        if (values.size() != 2 || values[0] < least || values[1] < least || values[0] > 255 || values[1] > 255) {
            refuse(op, std::string("field '") + name + "' must hold two numbers (y, x) from " + std::to_string(least)
                    + " to 255.");
        }
    }
}

Params bind_sample(const OpSpec& op, const Attributes& attributes, const TensorDesc* in, const void* const* data, void* out)
{
    const Pair kernel = pair_of(attributes, "kernel");
    const Pair stride = pair_of(attributes, "stride");
    const Pair padding = pair_of(attributes, "padding");
    const Pair dilation = pair_of(attributes, "dilation");
    const int64_t* x = in[0].dims;
    const int64_t taps = static_cast<int64_t>(kernel.y) * kernel.x;
    const int64_t out_height = convolved(x[2], kernel.y, stride.y, padding.y, dilation.y);
    const int64_t out_width = convolved(x[3], kernel.x, stride.x, padding.x, dilation.x);
    expect_shape(op, in, 1, {x[0], 2 * taps, out_height, out_width});
    expect_shape(op, in, 2, {x[0], taps, out_height, out_width});
    constexpr int64_t kMaxExtent = 1 << 15;
    require(op, x[0] <= 65535 && x[2] <= kMaxExtent && x[3] <= kMaxExtent && taps * ((x[1] + 31) / 32) <= 65535,
        "'x' is larger than the kernel's grid: up to 65535 images of 32768 x 32768 are possible.");

    DeformSampleParams p{};
    p.x = data[0];
    p.offset = data[1];
    p.mask = data[2];
    p.out = out;
    p.value_type = in[0].type;
    p.aux_type = in[1].type;
    p.batch = static_cast<int32_t>(x[0]);
    p.channels = static_cast<int32_t>(x[1]);
    p.height = static_cast<int32_t>(x[2]);
    p.width = static_cast<int32_t>(x[3]);
    p.out_height = static_cast<int32_t>(out_height);
    p.out_width = static_cast<int32_t>(out_width);
    p.kernel_height = kernel.y;
    p.kernel_width = kernel.x;
    p.stride[0] = stride.y;
    p.stride[1] = stride.x;
    p.padding[0] = padding.y;
    p.padding[1] = padding.x;
    p.dilation[0] = dilation.y;
    p.dilation[1] = dilation.x;
    p.value_scale = scale_or_one(attributes, "value_scale");
    p.out_scale = scale_or_one(attributes, "output_scale");
    return p;
}

constexpr FieldSpec kFields[] = {
    {"kernel", FieldKind::kInts, true},
    {"stride", FieldKind::kInts, true},
    {"padding", FieldKind::kInts, true},
    {"dilation", FieldKind::kInts, true},
    {"value_scale", FieldKind::kFloat, false},
    {"output_scale", FieldKind::kFloat, false},
};

}  // namespace

extern const OpSpec kModulatedDeformSample;

const OpSpec kModulatedDeformSample{
    "ModulatedDeformSample",
    3,
    {{"x", Role::kValue, 4}, {"offset", Role::kAux, 4}, {"mask", Role::kAux, 4}},
    4,
    {{{0, -1}, {0, 0}}, {{0, 2}, {1, 1}}, {{1, -1}, {2, 0}}, {{1, -1}, {3, 0}}},
    static_cast<int32_t>(sizeof kFields / sizeof kFields[0]),
    kFields,
    check_sample,
    bind_sample,
};

}  // namespace qdbev
