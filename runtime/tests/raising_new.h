// An operator new, in the place of everybody's, that throws when it is told to: so what allocates can be seen to fail.
#pragma once

namespace check {

enum class Raise { nothing, bad_alloc, exception, unknown };

// What this thread's next operator new throws: std::bad_alloc, a std::range_error("beyond all bounds"), an int.
void raise_in_new(Raise raise) noexcept;

// Whether that is still to come.
bool raises_in_new() noexcept;

}  // namespace check
