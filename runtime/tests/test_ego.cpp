// What ego states are refused, and can_bus vectors that one can work out by hand.
#include <cmath>
#include <limits>
#include <string>

#include "check.h"
#include "ego.h"

namespace {

using namespace qdbev::runtime;

EgoState heading(double degrees)
{
    const double half = degrees * std::acos(-1.0) / 360;
    EgoState ego;
    ego.rotation = {std::cos(half), 0, 0, std::sin(half)};
    return ego;
}

bool near(float found, double wanted)
{
    return std::fabs(found - wanted) < 1e-4;
}

void states_are_refused_with_a_sentence()
{
    CHECK(qdbev::runtime::check(EgoState{}).ok() && qdbev::runtime::check(heading(200)).ok());
    EgoState ego;
    ego.timestamp_us = 1533151603547590;
    for (std::array<double, 3>* vector : {&ego.translation, &ego.acceleration, &ego.rotation_rate, &ego.velocity}) {
        for (double& number : *vector) {
            for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
                number = bad;
                const Status status = qdbev::runtime::check(ego);
                CHECK(status.code() == Code::bad_input);
                CHECK(check::contains(status.message(), "an ego state at 1533151603547590 us with a number that is"));
            }
            number = 1;
        }
    }
    CHECK(qdbev::runtime::check(ego).ok());

    ego.rotation = {0.5, 0, -0.25, 0};
    const Status status = qdbev::runtime::check(ego);
    CHECK(status.code() == Code::bad_input);
    CHECK(check::contains(status.message(), "quaternion (0.5, 0, -0.25, 0) of norm 0.5590; needed: a unit quaternion"));
    ego.rotation = {1.000999, 0, 0, 0};
    CHECK(qdbev::runtime::check(ego).ok());
    ego.rotation = {0, 1.001001, 0, 0};
    CHECK(!qdbev::runtime::check(ego).ok());
    ego.rotation = {1e308, 1e308, 0, 0};  // whose norm overflows
    CHECK(check::contains(qdbev::runtime::check(ego).message(), "of norm inf; needed: a unit quaternion"));
    ego.rotation = {std::nan(""), 0, 0, 1};
    CHECK(check::contains(qdbev::runtime::check(ego).message(), "not finite"));
}

void a_first_frame_has_not_moved()
{
    EgoState ego = heading(90);
    ego.translation = {1000, 2000, 3};
    ego.acceleration = {1, 2, 3};
    ego.rotation_rate = {4, 5, 6};
    ego.velocity = {7, 8, 9};
    float out[kCanBus];
    CHECK(can_bus_vector(ego, nullptr, out));
    CHECK(out[0] == 0 && out[1] == 0 && out[2] == 0 && out[17] == 0);
    CHECK(near(out[3], std::sqrt(0.5)) && out[4] == 0 && out[5] == 0 && near(out[6], std::sqrt(0.5)));
    for (int i = 0; i < 9; ++i) {
        CHECK(out[7 + i] == static_cast<float>(i + 1));
    }
    CHECK(near(out[16], std::acos(-1.0) / 2));
}

void motion_is_since_the_previous_frame()
{
    EgoState before = heading(0);
    EgoState ego = heading(0);
    // Single precision knows no half centimetre at this distance from the origin.
    before.translation = {1000000.005, -7, 0};
    ego.translation = {1000000.01, -9, 0.5};
    float out[kCanBus];
    CHECK(can_bus_vector(ego, &before, out));
    CHECK(near(out[0], 0.005) && out[1] == -2 && out[2] == 0.5F);
}

void what_is_beyond_single_precision_is_told()
{
    EgoState ego = heading(0);
    const EgoState before = ego;
    float out[kCanBus];
    ego.translation[2] = 1e39;
    CHECK(can_bus_vector(ego, nullptr, out) && !can_bus_vector(ego, &before, out));
    ego = before;
    ego.acceleration[1] = -1e300;
    CHECK(!can_bus_vector(ego, nullptr, out));
}

void turns_are_wrapped()
{
    const struct {
        double from, to, turn, yaw;
    } cases[] = {{350, 10, 20, 10}, {10, 350, -20, 350}, {0, 179, 179, 179}, {0, 181, -179, 181}, {270, 90, -180, 90},
        {-10, 0, 10, 0}, {90, -90, -180, 270}};
    for (const auto& c : cases) {
        const EgoState before = heading(c.from);
        float out[kCanBus];
        CHECK(can_bus_vector(heading(c.to), &before, out));
        // Half a turn may come out at either end.
        CHECK(near(out[17], c.turn) || (c.turn == -180 && near(out[17], 180)));
        CHECK(near(out[16], c.yaw * std::acos(-1.0) / 180));
        CHECK(out[16] >= 0);
    }
}

void remainders_have_the_sign_of_the_divisor()
{
    CHECK(floor_mod(7.5, 2.0) == 1.5 && floor_mod(-0.5, 2.0) == 1.5 && floor_mod(0.5F, -2.0F) == -1.5F);
    CHECK(floor_mod(-1e-20, 360.0) == 360.0);  // rounded up, as in Python
    CHECK(floor_mod(-4.0, 2.0) == 0 && !std::signbit(floor_mod(-4.0, 2.0)) && std::signbit(floor_mod(4.0, -2.0)));
}

}  // namespace

int main()
{
    states_are_refused_with_a_sentence();
    a_first_frame_has_not_moved();
    motion_is_since_the_previous_frame();
    what_is_beyond_single_precision_is_told();
    turns_are_wrapped();
    remainders_have_the_sign_of_the_divisor();
    return check::report();
}
