// MSDeformAttn, TemporalSelfAttn and SpatialCrossAttn: their tables, and from tensors to parameters.
#include <algorithm>
#include <limits>

#include "checks.h"
#include "qdbev/dispatch.h"

namespace qdbev {

namespace {

constexpr int64_t kMaxPlaneBytes = std::numeric_limits<int32_t>::max();
constexpr int32_t kMaxHeadDim = 256;
constexpr int32_t kMaxSharedBytes = 48 * 1024;  // what every GPU gives a block without asking
constexpr int32_t kMaxExtent = 1 << 15;

void check_spatial_shapes(const OpSpec& op, const Attributes& attributes)
{
    const auto& shapes = attributes.ints("spatial_shapes");
    if (shapes.size() % 2 != 0 || shapes.size() > 2U * kMaxLevels) {
        refuse(op, "field 'spatial_shapes' holds " + std::to_string(shapes.size())
                + " numbers; height and width of 1 to 8 levels are needed.");
    }
    for (const int32_t extent : shapes) {
        if (extent < 1 || extent > kMaxExtent) {
            refuse(op, "field 'spatial_shapes' holds " + std::to_string(extent) + "; 1 to 32768 are possible.");
        }
    }
}

void check_bev(const OpSpec& op, const Attributes& attributes)
{
    for (const char* name : {"bev_h", "bev_w"}) {
        const int32_t extent = attributes.int_value(name);
        if (extent < 1 || extent > kMaxExtent) {
            refuse(op, std::string("field '") + name + "' is " + std::to_string(extent) + "; 1 to 32768 are possible.");
        }
    }
}

void add_level(AttentionParams& p, int32_t height, int32_t width)
{
    p.level[p.levels++] = Level{height, width, p.tokens};
    p.tokens += height * width;
}

void add_levels(const OpSpec& op, const Attributes& attributes, AttentionParams& p)
{
    const auto& shapes = attributes.ints("spatial_shapes");
    int64_t tokens = 0;
    for (size_t i = 0; i < shapes.size(); i += 2) {
        tokens += static_cast<int64_t>(shapes[i]) * shapes[i + 1];
    }
    require(op, tokens <= std::numeric_limits<int32_t>::max(), "field 'spatial_shapes' asks for over 2^31 tokens.");
    for (size_t i = 0; i < shapes.size(); i += 2) {
        add_level(p, shapes[i], shapes[i + 1]);
    }
}

// Kernels index a plane's elements with 32 bits: the corners that lie outside too, up to a row and a token past the end.
void check_plane(const OpSpec& op, const TensorDesc& value, const AttentionParams& p)
{
    int32_t widest = 0;
    for (int32_t i = 0; i < p.levels; ++i) {
        widest = std::max(widest, p.level[i].width);
    }
    // Up to 2^31 tokens of up to 65535 * 256 channels: no product overflows.
    const int64_t channels = value.dims[2] * value.dims[3];
    const bool fits = value.dims[1] * channels * static_cast<int64_t>(size_of(value.type)) <= kMaxPlaneBytes
        && (value.dims[1] + widest + 1) * channels <= kMaxPlaneBytes;
    require(op, fits, "one image of 'value' needs over 2 GiB, a row more included, which the kernels do not index.");
}

// What every attention op knows once its queries, levels and points are set.
void complete(const OpSpec& op, const Attributes& attributes, const TensorDesc* inputs, const void* const* data, void* out,
    AttentionParams& p)
{
    p.value = data[0];
    p.offsets = data[2];
    p.logits = data[3];
    p.out = out;
    const TensorDesc& value = inputs[0];
    const TensorDesc& offsets = inputs[2];
    p.value_type = value.type;
    p.aux_type = offsets.type;
    p.value_scale = scale_or_one(attributes, "value_scale");
    p.out_scale = scale_or_one(attributes, "output_scale");
    const int64_t per_vector = 16 / static_cast<int64_t>(size_of(value.type));
    if (value.dims[3] % per_vector != 0 || value.dims[3] > kMaxHeadDim) {
        refuse(op, "the head size is " + std::to_string(value.dims[3]) + "; for " + type_name(value.type)
                + " a multiple of " + std::to_string(per_vector) + " up to 256 is needed.");
    }
    require(op, value.dims[2] <= 65535, "there are more heads than the kernel's grid has room for.");
    check_plane(op, value, p);
    p.heads = static_cast<int32_t>(value.dims[2]);
    p.head_dim = static_cast<int32_t>(value.dims[3]);
    p.tiling = default_tiling(p.value_type, p.heads, p.head_dim, p.query_width, p.query_height);
}

Params bind_ms_deform(const OpSpec& op, const Attributes& attributes, const TensorDesc* in, const void* const* data, void* out)
{
    DeformAttentionParams params{};
    AttentionParams& p = params.attention;
    add_levels(op, attributes, p);
    const int64_t batch = in[0].dims[0];
    const int64_t heads = in[0].dims[2];
    const int64_t queries = in[2].dims[1];
    const int64_t points = in[2].dims[4];
    expect_shape(op, in, 0, {batch, p.tokens, heads, in[0].dims[3]});
    expect_shape(op, in, 1, {batch, queries, 2});
    expect_shape(op, in, 2, {batch, queries, heads, p.levels, points, 2});
    expect_shape(op, in, 3, {batch, queries, heads, p.levels * points});
    require(op, batch <= 65535 && queries <= (1 << 30) && points <= 1024, "batch, queries or points are too many.");
    p.batch = static_cast<int32_t>(batch);
    p.query_width = static_cast<int32_t>(queries);
    p.query_height = 1;
    p.points = static_cast<int32_t>(points);
    params.reference = static_cast<const float*>(data[1]);
    complete(op, attributes, in, data, out, p);
    return params;
}

Params bind_temporal(const OpSpec& op, const Attributes& attributes, const TensorDesc* in, const void* const* data, void* out)
{
    DeformAttentionParams params{};
    AttentionParams& p = params.attention;
    p.query_height = attributes.int_value("bev_h");
    p.query_width = attributes.int_value("bev_w");
    add_level(p, p.query_height, p.query_width);
    const int64_t heads = in[0].dims[2];
    const int64_t points = in[2].dims[3];
    expect_shape(op, in, 0, {2, p.tokens, heads, in[0].dims[3]});
    expect_shape(op, in, 1, {2, p.queries(), 2});
    expect_shape(op, in, 2, {p.queries(), heads, 2, points, 2});
    expect_shape(op, in, 3, {p.queries(), heads, 2, points});
    require(op, points <= 1024, "points are too many.");
    p.batch = 1;
    p.points = static_cast<int32_t>(points);
    params.reference = static_cast<const float*>(data[1]);
    complete(op, attributes, in, data, out, p);
    return params;
}

Params bind_spatial(const OpSpec& op, const Attributes& attributes, const TensorDesc* in, const void* const* data, void* out)
{
    SpatialParams params{};
    AttentionParams& p = params.attention;
    add_levels(op, attributes, p);
    p.query_height = attributes.int_value("bev_h");
    p.query_width = attributes.int_value("bev_w");
    const auto& anchors = attributes.floats("z_anchors");
    const auto& range = attributes.floats("pc_range");
    const int64_t cameras = in[0].dims[0];
    const int64_t heads = in[0].dims[2];
    const int64_t points = in[2].dims[3];
    expect_shape(op, in, 0, {cameras, p.tokens, heads, in[0].dims[3]});
    expect_shape(op, in, 1, {cameras, 4, 4});
    expect_shape(op, in, 2, {p.queries(), heads, p.levels, points, 2});
    expect_shape(op, in, 3, {p.queries(), heads, p.levels * points});
    if (points % static_cast<int64_t>(anchors.size()) != 0 || points > 1024) {
        refuse(op, std::to_string(points) + " points on " + std::to_string(anchors.size())
                + " pillar anchors; a multiple of the anchors, up to 1024, is needed.");
    }
    p.batch = 1;
    p.points = static_cast<int32_t>(points);
    params.cameras = static_cast<int32_t>(cameras < 65536 ? cameras : 65536);
    params.anchors = static_cast<int32_t>(anchors.size());
    params.padded_anchors = padded_to_banks(params.anchors);
    for (size_t i = 0; i < anchors.size(); ++i) {
        params.z_anchor[i] = anchors[i];
    }
    for (size_t i = 0; i < 6; ++i) {
        params.pc_range[i] = range[i];
    }
    params.image_height = static_cast<float>(attributes.int_value("image_h"));
    params.image_width = static_cast<float>(attributes.int_value("image_w"));
    params.lidar2img = static_cast<const float*>(data[1]);
    complete(op, attributes, in, data, out, p);
    if (cameras > 1024 || shared_bytes_of(params) > kMaxSharedBytes) {
        refuse(op, std::to_string(cameras) + " cameras times " + std::to_string(anchors.size())
                + " pillar anchors do not fit a block's shared memory.");
    }
    return params;
}

void check_ms_deform(const OpSpec& op, const Attributes& attributes)
{
    check_spatial_shapes(op, attributes);
    check_scales(op, attributes);
}

void check_temporal(const OpSpec& op, const Attributes& attributes)
{
    check_bev(op, attributes);
    check_scales(op, attributes);
}

void check_spatial(const OpSpec& op, const Attributes& attributes)
{
    check_spatial_shapes(op, attributes);
    check_bev(op, attributes);
    check_scales(op, attributes);
    require(op, attributes.int_value("image_h") > 0 && attributes.int_value("image_w") > 0,
        "fields 'image_h' and 'image_w' must be positive.");
    const auto& range = attributes.floats("pc_range");
    require(op, range.size() == 6, "field 'pc_range' must hold 6 numbers: low x, y, z and high x, y, z.");
    require(op, range[0] < range[3] && range[1] < range[4] && range[2] < range[5],
        "field 'pc_range' must have each low end below its high end.");
    require(op, attributes.floats("z_anchors").size() <= kMaxAnchors, "field 'z_anchors' may hold 1 to 16 heights.");
}

constexpr FieldSpec kMsDeformFields[] = {
    {"spatial_shapes", FieldKind::kInts, true},
    {"value_scale", FieldKind::kFloat, false},
    {"output_scale", FieldKind::kFloat, false},
};

constexpr FieldSpec kTemporalFields[] = {
    {"bev_h", FieldKind::kInt, true},
    {"bev_w", FieldKind::kInt, true},
    {"value_scale", FieldKind::kFloat, false},
    {"output_scale", FieldKind::kFloat, false},
};

constexpr FieldSpec kSpatialFields[] = {
    {"spatial_shapes", FieldKind::kInts, true},
    {"bev_h", FieldKind::kInt, true},
    {"bev_w", FieldKind::kInt, true},
    {"pc_range", FieldKind::kFloats, true},
    {"z_anchors", FieldKind::kFloats, true},
    {"image_h", FieldKind::kInt, true},
    {"image_w", FieldKind::kInt, true},
    {"value_scale", FieldKind::kFloat, false},
    {"output_scale", FieldKind::kFloat, false},
};

template <size_t N>
constexpr int32_t length(const FieldSpec (&)[N])
{
    return static_cast<int32_t>(N);
}

constexpr OutputDim one(int32_t input, int32_t dim)
{
    return OutputDim{{input, -1}, {dim, 0}};
}

constexpr OutputDim kAllHeads{{0, 0}, {2, 3}};  // heads * head size of `value`

}  // namespace

extern const OpSpec kMsDeformAttn;
extern const OpSpec kTemporalSelfAttn;
extern const OpSpec kSpatialCrossAttn;

const OpSpec kMsDeformAttn{
    "MSDeformAttn",
    4,
    {{"value", Role::kValue, 4}, {"reference_points", Role::kFp32, 3}, {"sampling_offsets", Role::kAux, 6},
        {"attention_logits", Role::kAux, 4}},
    3,
    {one(0, 0), one(2, 1), kAllHeads},
    length(kMsDeformFields),
    kMsDeformFields,
    check_ms_deform,
    bind_ms_deform,
};

const OpSpec kTemporalSelfAttn{
    "TemporalSelfAttn",
    4,
    {{"value", Role::kValue, 4}, {"reference_points", Role::kFp32, 3}, {"sampling_offsets", Role::kAux, 5},
        {"attention_logits", Role::kAux, 4}},
    2,
    {one(2, 0), kAllHeads},
    length(kTemporalFields),
    kTemporalFields,
    check_temporal,
    bind_temporal,
};

const OpSpec kSpatialCrossAttn{
    "SpatialCrossAttn",
    4,
    {{"value", Role::kValue, 4}, {"lidar2img", Role::kFp32, 3}, {"sampling_offsets", Role::kAux, 5},
        {"attention_logits", Role::kAux, 3}},
    2,
    {one(2, 0), kAllHeads},
    length(kSpatialFields),
    kSpatialFields,
    check_spatial,
    bind_spatial,
};

}  // namespace qdbev
