#include "raising_new.h"

#include <cstdlib>
#include <new>
#include <stdexcept>
#include <utility>

namespace check {
namespace {

thread_local Raise t_raise = Raise::nothing;

}  // namespace

void raise_in_new(Raise raise) noexcept
{
    t_raise = raise;
}

bool raises_in_new() noexcept
{
    return t_raise != Raise::nothing;
}

}  // namespace check

void* operator new(std::size_t size)
{
    using check::Raise;
    switch (std::exchange(check::t_raise, Raise::nothing)) {
    case Raise::bad_alloc: throw std::bad_alloc();
    case Raise::exception: throw std::range_error("beyond all bounds");
    case Raise::unknown: throw 7;
    case Raise::nothing: break;
    }
    if (void* memory = std::malloc(size == 0 ? 1 : size)) {
        return memory;
    }
    throw std::bad_alloc();
}

void operator delete(void* memory) noexcept
{
    std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept
{
    std::free(memory);
}
