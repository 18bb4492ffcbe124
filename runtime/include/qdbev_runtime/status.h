// How the library says that something went wrong: opening throws an Error, running a frame returns a Status. Both carry
// what was found, what was needed and what to do next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "qdbev_runtime/export.h"

namespace qdbev::runtime {

// The numbers are the exit codes of qdbev-deploy.
enum class Code : int32_t {
    done = 0,
    usage = 2,      // the caller asked for what makes no sense
    bad_input = 3,  // a bundle or a frame that cannot be used
    missing = 4,    // this machine lacks a library, a GPU, a driver
    failed = 5,     // a backend gave up while it ran
};

// The outcome of a frame, without an allocation: a sentence that does not fit is cut.
class [[nodiscard]] Status {
public:
    static constexpr std::size_t kMaxLength = 447;

    Status() noexcept = default;  // done
    QDBEV_RUNTIME_EXPORT Status(
        Code code, const char* found, const char* needed, const char* next_step) noexcept;

    bool ok() const noexcept { return code_ == Code::done; }
    Code code() const noexcept { return code_; }
    // "FOUND; needed: NEEDED. Next: NEXT", empty where all is well.
    const char* message() const noexcept { return text_; }

private:
    Code code_ = Code::done;
    char text_[kMaxLength + 1] = {};
};

class QDBEV_RUNTIME_EXPORT Error : public std::runtime_error {
public:
    Error(Code code, std::string found, std::string needed, std::string next_step);

    Code code() const noexcept { return code_; }
    const std::string& found() const noexcept { return found_; }
    const std::string& needed() const noexcept { return needed_; }
    const std::string& next_step() const noexcept { return next_step_; }

private:
    Code code_;
    std::string found_, needed_, next_step_;
};

}  // namespace qdbev::runtime
