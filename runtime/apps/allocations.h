// Counts calls of the allocator, of this thread and of the whole process, in everything that the program has loaded.
#pragma once

#include <cstdint>

namespace qdbev::apps {

struct Allocations {
    int64_t thread = 0;   // by the thread that asks
    int64_t process = 0;  // by all of them
};

// Whether this program can count: with glibc, and without a sanitizer, whose allocator is its own.
bool can_count_allocations() noexcept;

Allocations allocations_so_far() noexcept;

}  // namespace qdbev::apps
