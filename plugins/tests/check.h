// A test is a function; CHECK counts failures and says where; main returns them.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>

namespace check {

inline int failures = 0;
inline int checks = 0;

inline void that(bool condition, const char* text, const char* file, int line)
{
    ++checks;
    if (!condition) {
        ++failures;
        std::fprintf(stderr, "%s:%d: %s\n", file, line, text);
    }
}

// The sentence with which `function` refuses; empty if it does not.
template <typename Function>
std::string refusal(Function&& function)
{
    try {
        function();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const char* part)
{
    return text.find(part) != std::string::npos;
}

inline int report()
{
    if (checks == 0) {
        std::fprintf(stderr, "no check ran\n");
        return 1;
    }
    std::printf("%d checks, %d failures\n", checks, failures);
    return failures == 0 ? 0 : 1;
}

}  // namespace check

#define CHECK(condition) check::that((condition), #condition, __FILE__, __LINE__)
