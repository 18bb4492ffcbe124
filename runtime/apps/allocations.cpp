#include "allocations.h"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define QDBEV_COUNTS 0
#elif defined(__GLIBC__)
#define QDBEV_COUNTS 1
#else
#define QDBEV_COUNTS 0
#endif

namespace qdbev::apps {

namespace {

thread_local int64_t t_calls = 0;
std::atomic<int64_t> g_calls{0};

}  // namespace

bool can_count_allocations() noexcept
{
    return QDBEV_COUNTS != 0;
}

Allocations allocations_so_far() noexcept
{
    return {t_calls, g_calls.load(std::memory_order_relaxed)};
}

[[maybe_unused]] static void count() noexcept
{
    ++t_calls;
    g_calls.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace qdbev::apps

#if QDBEV_COUNTS

// A program's own allocator functions take the place of the C library's in all that it loads; these hand on to them.
extern "C" {

void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);

void* malloc(std::size_t size) noexcept
{
    qdbev::apps::count();
    return __libc_malloc(size);
}

void* calloc(std::size_t count, std::size_t size) noexcept
{
    qdbev::apps::count();
    return __libc_calloc(count, size);
}

void* realloc(void* block, std::size_t size) noexcept
{
    qdbev::apps::count();
    return __libc_realloc(block, size);
}

void* memalign(std::size_t alignment, std::size_t size) noexcept
{
    qdbev::apps::count();
    return __libc_memalign(alignment, size);
}

void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept
{
    return memalign(alignment, size);
}

int posix_memalign(void** block, std::size_t alignment, std::size_t size) noexcept
{
    const bool power_of_two = alignment != 0 && (alignment & (alignment - 1)) == 0;
    if (!power_of_two || alignment % sizeof(void*) != 0) {
        return EINVAL;
    }
    void* made = memalign(alignment, size);
    if (made == nullptr) {
        return ENOMEM;
    }
    *block = made;
    return 0;
}

}  // extern "C"

#endif
