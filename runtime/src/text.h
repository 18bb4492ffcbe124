// A sentence put together in a fixed buffer: no allocation, no locale; what does not fit is cut, a
// number as a whole.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <system_error>

namespace qdbev::runtime {

template <std::size_t Capacity>
class Text {
public:
    Text& add(std::string_view part) noexcept
    {
        const std::size_t length = std::min(part.size(), Capacity - length_);
        if (length != 0) {  // an empty view may have no address
            std::memcpy(text_ + length_, part.data(), length);
        }
        length_ += length;
        text_[length_] = '\0';
        return *this;
    }

    Text& add(int64_t number) noexcept
    {
        return took(std::to_chars(text_ + length_, text_ + Capacity, number));
    }

    // With so many digits after the point; by default as many as tell the number from its neighbours.
    Text& add(double number, int decimals = -1) noexcept
    {
        return took(decimals < 0
                ? std::to_chars(text_ + length_, text_ + Capacity, number)
                : std::to_chars(text_ + length_, text_ + Capacity, number, std::chars_format::fixed, decimals));
    }

    const char* c_str() const noexcept { return text_; }

private:
    Text& took(std::to_chars_result result) noexcept
    {
        if (result.ec == std::errc()) {
            length_ = static_cast<std::size_t>(result.ptr - text_);
        }
        text_[length_] = '\0';
        return *this;
    }

    std::size_t length_ = 0;
    char text_[Capacity + 1] = {};
};

}  // namespace qdbev::runtime
