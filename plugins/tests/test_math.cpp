// The scalar parts that every kernel rests on: FP16, rounding, bilinear corners, fixed-point weights, projection.
#include <cmath>
#include <limits>

#include <sys/mman.h>

#include "check.h"
#include "qdbev/bilinear.h"
#include "qdbev/gather.h"
#include "qdbev/project.h"

namespace {

using namespace qdbev;

void half_round_trips()
{
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const Half half{static_cast<uint16_t>(bits)};
        const float value = to_float(half);
        const bool is_nan = (bits & 0x7C00U) == 0x7C00U && (bits & 0x3FFU) != 0;
        CHECK(is_nan == (value != value));
        CHECK(is_nan || to_half(value).bits == bits);
    }
    CHECK(to_float(Half{0x3C00}) == 1.0F && to_float(Half{0x0001}) == std::ldexp(1.0F, -24));
}

void half_rounds_to_nearest_even()
{
    CHECK(to_half(2049.0F).bits == to_half(2048.0F).bits);  // a tie goes to the even neighbour
    CHECK(to_half(2051.0F).bits == to_half(2052.0F).bits);
    CHECK(to_half(2049.01F).bits == to_half(2050.0F).bits);
    CHECK(to_half(65519.0F).bits == 0x7BFF && to_half(65520.0F).bits == 0x7C00 && to_half(1e30F).bits == 0x7C00);
    CHECK(to_half(-1e30F).bits == 0xFC00 && to_half(-0.0F).bits == 0x8000);
    const float step = std::ldexp(1.0F, -24);
    CHECK(to_half(0.5F * step).bits == 0 && to_half(0.51F * step).bits == 1 && to_half(1.5F * step).bits == 2);
    CHECK((to_half(NAN).bits & 0x7FFFU) > 0x7C00U);
}

void int8_rounding()
{
    CHECK(quantise_int8(0.5F) == 0 && quantise_int8(1.5F) == 2 && quantise_int8(-2.5F) == -2);
    CHECK(quantise_int8(127.49F) == 127 && quantise_int8(1e9F) == 127 && quantise_int8(-1e9F) == -128);
    CHECK(quantise_int8(INFINITY) == 127 && quantise_int8(-INFINITY) == -128 && quantise_int8(NAN) == 0);
}

void byte_instructions()
{
    CHECK(byte_permute(0x03020100U, 0x07060504U, 0x5140U) == 0x05010400U);
    CHECK(byte_permute(0x03020100U, 0x07060504U, 0x7362U) == 0x07030602U);
    CHECK(dot2_lo((3U << 16U) | 2U, 0x0000FF80U, 10) == 10 + 2 * -128 + 3 * -1);
    CHECK(dot2_hi((3U << 16U) | 32768U, 0x7F800000U, 0) == 32768 * -128 + 3 * 127);
}

void corners_at_the_border()
{
    const float below = std::nextafter(0.0F, -1.0F);
    for (const float hostile : {NAN, INFINITY, -INFINITY, 3e38F, -3e38F, 4.0F, -1.0F, -1.0001F, 2147483648.0F}) {
        CHECK(corners_at(0, 0, hostile, 1.0F, 4, 3).inside == 0);
        CHECK(corners_at(0, 0, 1.0F, hostile, 4, 3).inside == 0);
        CHECK(corners_at(-40, 40, hostile, 1.0F, 4, 3).inside == 0);
    }
    CHECK(corners_at(0, 0, 0.0F, 0.0F, 4, 3).inside == 0xFU);
    CHECK(corners_at(0, 0, below, 0.0F, 4, 3).inside == 0xAU);  // the left column is outside
    CHECK(corners_at(0, 0, -0.5F, -0.5F, 4, 3).inside == 0x8U);
    CHECK(corners_at(0, 0, 3.0F, 2.0F, 4, 3).inside == 0x1U);
    CHECK(corners_at(0, 0, 3.999F, 1.0F, 4, 3).inside == 0x5U);
    CHECK(corners_at(0, 0, 2.25F, 1.75F, 4, 3).index == 4 + 2);
    CHECK(corners_at(0, 0, 0.0F, 0.0F, 1, 1).inside == 0x1U);
    // Every corner that claims to be inside is, over a grid that covers the plane and its surroundings.
    for (float y = -2.0F; y <= 5.0F; y += 0.125F) {
        for (float x = -2.0F; x <= 6.0F; x += 0.125F) {
            const Corners c = corners_at(1, -1, x - 1.0F, y + 1.0F, 4, 3);
            for (int i = 0; i < 4; ++i) {
                const int index = c.index + i % 2 + (i / 2) * 4;
                CHECK(!c.has(i) || (index >= 0 && index < 12));
                const int x0 = static_cast<int>(std::floor(x)) + i % 2;
                const int y0 = static_cast<int>(std::floor(y)) + i / 2;
                const bool near = x > -1.0F && y > -1.0F;  // at exactly -1 the last corner's weight is zero
                CHECK(c.has(i) == (near && x0 >= 0 && x0 < 4 && y0 >= 0 && y0 < 3));
            }
        }
    }
}

void fixed_weights_sum_to_one_and_stay_close()
{
    for (int i = 0; i <= 1000; ++i) {
        for (int j = 0; j <= 1000; ++j) {
            Corners c{0, 0xFU, static_cast<float>(i) / 1000.0F, static_cast<float>(j) / 1000.0F};
            const FixedWeights w = fixed_weights_of(c);
            const uint32_t parts[4] = {w.upper & 0xFFFFU, w.upper >> 16U, w.lower & 0xFFFFU, w.lower >> 16U};
            float exact[4];
            weights_of(c, 1.0F, exact);
            uint32_t sum = 0;
            bool close = true;
            for (int k = 0; k < 4; ++k) {
                sum += parts[k];
                close = close && std::fabs(static_cast<float>(parts[k]) / kFixedOne - exact[k]) <= 1.01F / kFixedOne;
            }
            if (sum != 32768U || !close) {
                CHECK(sum == 32768U && close);
            }
        }
    }
    CHECK(true);
}

void int8_accumulator_at_the_extremes()
{
    // All corners -128: the integer sum reaches -2^22, the end of the range that the float trick can carry.
    for (const float l : {0.0F, 0.25F, 0.333F, 0.999999F, 1.0F}) {
        for (const int8_t q : {int8_t{-128}, int8_t{127}, int8_t{0}}) {
            Vec16 corner[4];
            for (Vec16& v : corner) {
                std::memset(&v, static_cast<unsigned char>(q), sizeof v);
            }
            Accumulator<int8_t> sum;
            sum.add(corner, Corners{0, 0xFU, l, l}, 1.0F);
            for (const float s : sum.sum) {
                CHECK(s * Accumulator<int8_t>::kUnit == static_cast<float>(q));  // a constant field is exact
            }
        }
    }
}

// The last pixel of the largest plane that ops/ lets through (test_ops holds the limit): its other corners lie outside, a
// row and a token further on, and no index overflows.
void the_end_of_the_largest_plane()
{
    constexpr int32_t kWidth = 8192;
    constexpr int32_t kHeight = 16382;
    constexpr size_t kBytes = static_cast<size_t>(kWidth) * kHeight * 16;
    void* plane = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(plane != MAP_FAILED);
    if (plane == MAP_FAILED) {
        return;
    }
    auto* values = static_cast<int8_t*>(plane);
    std::memset(values + kBytes - 16, 100, 16);
    const float offset[2] = {static_cast<float>(kWidth), static_cast<float>(kHeight)};  // half a pixel past the centre
    const float logit = 0.0F;
    AttentionParams p{};
    p.heads = 1;
    p.head_dim = 16;
    p.points = 1;
    p.levels = 1;
    p.level[0] = Level{kHeight, kWidth, 0};
    p.aux_type = DType::kF32;
    Accumulator<int8_t> sum;
    gather<int8_t, AnyAux>(p, values, AuxReader<AnyAux>(p, offset, 0), AuxReader<AnyAux>(p, &logit, 0), Softmax{0.0F, 1.0F},
        OneReference{{0.0F, 0.0F}}, sum);
    CHECK(sum.sum[0] * Accumulator<int8_t>::kUnit == 25.0F);  // a quarter of it is inside
    munmap(plane, kBytes);
}

// Half a warp moves eight bytes a thread at once, through sixteen pairs of banks.
void shared_rows_meet_no_bank_twice()
{
    for (int32_t anchors = 1; anchors <= kMaxAnchors; ++anchors) {
        const int32_t row = padded_to_banks(anchors);
        CHECK(row >= anchors && row <= anchors + 1);
        uint32_t written = 0;  // by sixteen threads, each for a camera of a query
        for (int32_t i = 0; i < 16; ++i) {
            written |= 1U << static_cast<uint32_t>(i * row % 16);
        }
        CHECK(written == 0xFFFFU);
        uint32_t read = 0;  // by four threads each for four queries of six cameras
        for (int32_t query = 0; query < 4; ++query) {
            const uint32_t bank = 1U << static_cast<uint32_t>(query * 6 * row % 16);
            CHECK((read & bank) == 0);
            read |= bank;
        }
    }
}

void projection()
{
    SpatialParams p{};
    p.attention.query_width = 2;
    p.attention.query_height = 1;
    p.pc_range[0] = -2.0F;
    p.pc_range[1] = -1.0F;
    p.pc_range[3] = 2.0F;
    p.pc_range[4] = 1.0F;
    p.anchors = 1;
    p.z_anchor[0] = 4.0F;
    p.image_width = 8.0F;
    p.image_height = 4.0F;
    float identity[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    p.lidar2img = identity;
    Float2 at{};
    // Cell 1 has its centre at (1, 0); at depth 4 that is (0.25, 0) pixels: v = 0 is not strictly inside.
    CHECK(!project_pillar(p, 1, 0, 0, &at));
    CHECK(at.x == 0.25F / 8.0F && at.y == 0.0F);
    identity[7] = 1.0F;  // a metre down: v = 0.25 / 4
    CHECK(project_pillar(p, 1, 0, 0, &at));
    CHECK(at.y == 0.25F / 4.0F);
    identity[10] = -1.0F;  // behind
    CHECK(!project_pillar(p, 1, 0, 0, &at));
    CHECK(at.x == 3.0F && at.y == 3.0F);  // clamped, not 1e5
    identity[10] = NAN;
    CHECK(!project_pillar(p, 1, 0, 0, &at));
    CHECK(at.x != at.x);  // nowhere stays nowhere

    // On the optical axis the clamped depth makes u = v = 0.5 even behind the camera: only the depth itself tells.
    float axis[16] = {0, 0, 0, 4e-5F, 0, 0, 0, 2e-5F, 0, 0, 0, -1.0F, 0, 0, 0, 1};
    p.lidar2img = axis;
    CHECK(!project_pillar(p, 0, 0, 0, &at));
    CHECK(std::fabs(at.x - 0.5F) < 1e-5F && std::fabs(at.y - 0.5F) < 1e-5F);
    axis[11] = kMinDepth;  // not enough: deeper than this, strictly
    CHECK(!project_pillar(p, 0, 0, 0, &at));
    axis[11] = 1.001F * kMinDepth;
    CHECK(project_pillar(p, 0, 0, 0, &at));
}

}  // namespace

int main()
{
    half_round_trips();
    half_rounds_to_nearest_even();
    int8_rounding();
    byte_instructions();
    corners_at_the_border();
    fixed_weights_sum_to_one_and_stay_close();
    int8_accumulator_at_the_extremes();
    the_end_of_the_largest_plane();
    shared_rows_meet_no_bank_twice();
    projection();
    return check::report();
}
