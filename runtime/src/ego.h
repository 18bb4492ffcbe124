// Ego motion: what makes a state usable, and the can_bus input made of two of them.
#pragma once

#include <cmath>

#include "qdbev_runtime/contract.h"
#include "qdbev_runtime/frame.h"
#include "qdbev_runtime/status.h"

namespace qdbev::runtime {

// Python's %: the result has the sign of the divisor.
template <typename Float>
Float floor_mod(Float value, Float divisor) noexcept
{
    const Float rest = std::fmod(value, divisor);
    if (rest == 0) {
        return std::copysign(Float{0}, divisor);
    }
    return (rest < 0) != (divisor < 0) ? rest + divisor : rest;
}

// Finite numbers and a unit quaternion, or a sentence.
Status check(const EgoState& ego) noexcept;

// Motion since `previous`, or none at all on a first frame (nullptr): [0:3] translation since the previous frame, in
// global axes, [3:7] quaternion, [7:10] acceleration, [10:13] rotation rate, [13:16] velocity, [16] yaw in radians,
// [17] yaw since the previous frame in degrees, wrapped. False where a number is beyond single precision: the network
// would carry what it makes of that from frame to frame.
[[nodiscard]] bool can_bus_vector(const EgoState& current, const EgoState* previous, float out[kCanBus]) noexcept;

}  // namespace qdbev::runtime
