// Boxes of outputs written by hand: which candidates, in which order, and what each number becomes.
#include <cmath>
#include <limits>
#include <vector>

#include "check.h"
#include "decode.h"

namespace {

using namespace qdbev::runtime;

constexpr int32_t kQueries = 5;
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Outputs {
    explicit Outputs(std::size_t layers = 1)
        : classes(layers * kQueries * kClasses, -20.0F), coords(layers * kQueries * kBoxCode, 0.0F)
    {
    }
    // Of the last layer.
    float& logit(std::size_t query, std::size_t label)
    {
        return classes[classes.size() - (kQueries - query) * kClasses + label];
    }
    float& code(std::size_t query, std::size_t at)
    {
        return coords[coords.size() - (kQueries - query) * kBoxCode + at];
    }

    std::vector<float> classes, coords;
};

Contract contract_of(int32_t max_boxes, int32_t layers = 1)
{
    Contract contract;
    contract.queries = kQueries;
    contract.decoder_layers = layers;
    contract.max_boxes = max_boxes;
    contract.post_center_range = {-61.2, -61.2, -10, 61.2, 61.2, 10};
    return contract;
}

bool near(double found, double wanted)
{
    return std::fabs(found - wanted) < 1e-6 * (1 + std::fabs(wanted));
}

std::vector<Box> boxes_of(const Contract& contract, const Outputs& outputs, float min_score = 0)
{
    Decoder decoder(contract, min_score);
    const std::size_t count = decoder.run(outputs.classes.data(), outputs.coords.data());
    return {decoder.boxes(), decoder.boxes() + count};
}

void a_code_becomes_a_box()
{
    for (const std::size_t layers : {1, 3}) {
        Outputs outputs(layers);
        outputs.logit(3, 7) = 2;
        const float code[] = {1.5F, -2.5F, std::log(2.0F), std::log(4.5F), 0.25F, std::log(1.5F), 0.5F, 0.5F, 3, -4};
        for (std::size_t at = 0; at < kBoxCode; ++at) {
            outputs.code(3, at) = code[at];
        }
        const auto boxes = boxes_of(contract_of(1, static_cast<int32_t>(layers)), outputs);
        CHECK(boxes.size() == 1);
        if (boxes.size() == 1) {
            const Box& box = boxes[0];
            CHECK(box.center[0] == 1.5F && box.center[1] == -2.5F && box.center[2] == 0.25F);
            CHECK(near(box.size[0], 2) && near(box.size[1], 4.5) && near(box.size[2], 1.5));
            CHECK(box.velocity[0] == 3 && box.velocity[1] == -4 && box.label == 7);
            CHECK(near(box.score, 1 / (1 + std::exp(-2.0))));
            CHECK(near(box.yaw, -0.75 * std::acos(-1.0)));  // 45 degrees clockwise from y
        }
    }
}

void better_candidates_come_first()
{
    Outputs outputs;
    outputs.logit(0, 9) = -1;
    outputs.logit(1, 0) = 3;
    outputs.logit(1, 1) = 3;  // the same query may be two things
    outputs.logit(4, 2) = 3;
    outputs.logit(2, 5) = kInf;
    outputs.logit(3, 3) = kNan;
    const auto boxes = boxes_of(contract_of(5), outputs);
    const int32_t labels[] = {5, 0, 1, 2, 9};
    CHECK(boxes.size() == 5);
    for (std::size_t i = 0; i < boxes.size(); ++i) {
        CHECK(boxes[i].label == labels[i]);
    }
    CHECK(boxes[0].score == 1);
    // All of them, and more than there are: what is no number comes last.
    for (const int32_t max_boxes : {50, 60}) {
        const auto all = boxes_of(contract_of(max_boxes), outputs);
        CHECK(all.size() == 50 && std::isnan(all.back().score) && all.back().label == 3);
        CHECK(all[5].label == 0 && all[6].label == 1 && all[48].label == 9);  // equal ones by index
    }
    CHECK(boxes_of(contract_of(50), outputs, 0.5F).size() == 4);
    CHECK(boxes_of(contract_of(50), outputs, 0.25F).size() == 5);
    CHECK(boxes_of(contract_of(2), outputs, 1.0F).size() == 1);
}

void zeros_of_both_signs_are_equal()
{
    Outputs outputs;
    for (std::size_t query = 0; query < kQueries; ++query) {
        outputs.logit(query, query) = query % 2 == 0 ? -0.0F : 0.0F;
    }
    outputs.logit(4, 9) = 1e-45F;
    const auto boxes = boxes_of(contract_of(6), outputs);
    CHECK(boxes.size() == 6 && boxes[0].label == 9);
    for (std::size_t i = 1; i < boxes.size(); ++i) {
        CHECK(boxes[i].label == static_cast<int32_t>(i - 1));
    }
}

void impossible_boxes_are_left_out()
{
    const struct {
        std::size_t at;
        float value;
        bool kept;
    } cases[] = {{0, 61.2F, false}, {0, 61.19F, true}, {1, -61.3F, false}, {4, 10, true}, {4, -10, true},
        {4, 10.001F, false}, {0, kNan, false}, {4, kInf, false}, {2, 89, false}, {2, 88, true}, {3, kInf, false},
        {5, kNan, false}, {2, -kInf, true}, {6, kNan, false}, {7, kInf, true}, {8, kInf, false}, {9, kNan, false},
        {9, -3e38F, true}};
    for (const auto& c : cases) {
        Outputs outputs;
        outputs.logit(2, 4) = 5;
        outputs.code(2, c.at) = c.value;
        const auto boxes = boxes_of(contract_of(1), outputs);
        CHECK(boxes.size() == (c.kept ? 1U : 0U));
    }
    // 61.2 as a float lies beyond 61.2; what is left out makes no room for another.
    CHECK(static_cast<double>(61.2F) > 61.2);
    Outputs outputs;
    outputs.logit(0, 0) = 9;
    outputs.code(0, 0) = kNan;
    outputs.logit(1, 1) = 8;
    const auto boxes = boxes_of(contract_of(2), outputs);
    CHECK(boxes.size() == 1 && boxes[0].label == 1);
}

void yaws_stay_within_half_a_turn()
{
    const double pi = std::acos(-1.0);
    for (int step = -16; step <= 16; ++step) {
        Outputs outputs;
        outputs.logit(0, 0) = 1;
        const double rotation = step * pi / 16;
        outputs.code(0, 6) = static_cast<float>(std::sin(rotation));
        outputs.code(0, 7) = static_cast<float>(std::cos(rotation));
        const auto boxes = boxes_of(contract_of(1), outputs);
        CHECK(boxes.size() == 1);
        const double yaw = boxes[0].yaw;
        CHECK(yaw >= -3.1415928 && yaw <= 3.1415928);
        CHECK(std::fabs(std::remainder(yaw - (-rotation - pi / 2), 2 * pi)) < 2e-6);
    }
}

void a_decoder_is_used_again()
{
    Decoder decoder(contract_of(3), 0.5F);
    Outputs many;
    many.logit(0, 0) = 3;
    many.logit(1, 1) = 2;
    const Outputs none;
    const Box* const where = decoder.boxes();
    for (int i = 0; i < 2; ++i) {
        CHECK(decoder.run(many.classes.data(), many.coords.data()) == 2);
        CHECK(decoder.boxes()[1].label == 1);
        CHECK(decoder.run(none.classes.data(), none.coords.data()) == 0);
        CHECK(decoder.boxes() == where);
    }
}

}  // namespace

int main()
{
    a_code_becomes_a_box();
    better_candidates_come_first();
    zeros_of_both_signs_are_equal();
    impossible_boxes_are_left_out();
    yaws_stay_within_half_a_turn();
    a_decoder_is_used_again();
    return check::report();
}
