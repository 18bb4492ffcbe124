#include "ego.h"

#include <algorithm>

#include "text.h"

namespace qdbev::runtime {

namespace {

// What Python's math.pi and math.degrees compute with.
constexpr double kPi = 3.141592653589793;
constexpr double kDegreesPerRadian = 180.0 / kPi;

template <std::size_t N>
bool all_finite(const std::array<double, N>& numbers) noexcept
{
    return std::all_of(numbers.begin(), numbers.end(), [](double number) { return std::isfinite(number); });
}

// Heading in the global frame, radians in [0, 2 pi): the range the CAN bus input was trained with.
double yaw_of(const EgoState& ego) noexcept
{
    const auto [w, x, y, z] = ego.rotation;
    return floor_mod(std::atan2(2 * (x * y + w * z), w * w + x * x - y * y - z * z), 2 * kPi);
}

// The same angle in [-180, 180).
double wrapped_degrees(double angle) noexcept
{
    return floor_mod(angle + 180.0, 360.0) - 180.0;
}

}  // namespace

Status check(const EgoState& ego) noexcept
{
    if (!all_finite(ego.translation) || !all_finite(ego.rotation) || !all_finite(ego.acceleration)
        || !all_finite(ego.rotation_rate) || !all_finite(ego.velocity)) {
        Text<96> found;
        found.add("an ego state at ").add(ego.timestamp_us).add(" us with a number that is not finite");
        return {Code::bad_input, found.c_str(), "finite pose and motion", "drop the frame, or repair its source"};
    }
    const auto [w, x, y, z] = ego.rotation;
    const double norm = std::sqrt(w * w + x * x + y * y + z * z);
    if (std::fabs(norm - 1.0) > 1e-3) {
        Text<192> found;
        found.add("an ego rotation quaternion (").add(w).add(", ").add(x).add(", ").add(y).add(", ").add(z);
        // A norm of any size must not fill the sentence.
        found.add(") of norm ").add(norm, norm < 1e6 ? 4 : -1);
        return {Code::bad_input, found.c_str(), "a unit quaternion, w first",
            "normalise it, and check that its order is w, x, y, z"};
    }
    return {};
}

bool can_bus_vector(const EgoState& current, const EgoState* previous, float out[kCanBus]) noexcept
{
    const EgoState& before = previous == nullptr ? current : *previous;
    float* to = out;
    const auto narrow = [](double value) { return static_cast<float>(value); };
    // In double precision: global coordinates reach thousands of metres.
    for (std::size_t axis = 0; axis < 3; ++axis) {
        *to++ = narrow(current.translation[axis] - before.translation[axis]);
    }
    to = std::transform(current.rotation.begin(), current.rotation.end(), to, narrow);
    to = std::transform(current.acceleration.begin(), current.acceleration.end(), to, narrow);
    to = std::transform(current.rotation_rate.begin(), current.rotation_rate.end(), to, narrow);
    to = std::transform(current.velocity.begin(), current.velocity.end(), to, narrow);
    const double yaw = yaw_of(current);
    *to++ = narrow(yaw);
    *to = narrow(wrapped_degrees((yaw - yaw_of(before)) * kDegreesPerRadian));
    return std::all_of(out, out + kCanBus, [](float value) { return std::isfinite(value); });
}

}  // namespace qdbev::runtime
