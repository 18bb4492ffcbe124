// Status and Error: one sentence from what was found, what was needed and what to do next.
#include "qdbev_runtime/status.h"

#include <cstring>
#include <utility>

namespace qdbev::runtime {
namespace {

// Appends to a buffer of fixed size. What does not fit is cut between characters, and "..." says so.
class Cut {
public:
    Cut(char* buffer, std::size_t capacity) noexcept : buffer_(buffer), capacity_(capacity) {}

    void add(const char* text) noexcept
    {
        if (text == nullptr || full_) {
            return;
        }
        const std::size_t size = std::strlen(text);
        const std::size_t taken = size < capacity_ - length_ ? size : capacity_ - length_;
        std::memcpy(buffer_ + length_, text, taken);
        length_ += taken;
        if (taken < size) {
            full_ = true;
            end_with_dots();
        }
        buffer_[length_] = '\0';
    }

private:
    void end_with_dots() noexcept
    {
        static constexpr char kDots[] = "...";
        constexpr std::size_t kCount = sizeof(kDots) - 1;
        length_ = capacity_ - kCount;
        while (length_ > 0 && (static_cast<unsigned char>(buffer_[length_]) & 0xC0U) == 0x80U) {
            --length_;  // inside a character of several bytes
        }
        std::memcpy(buffer_ + length_, kDots, kCount);
        length_ += kCount;
    }

    char* buffer_;
    std::size_t capacity_;  // without the terminating zero
    std::size_t length_ = 0;
    bool full_ = false;
};

bool given(const char* text) noexcept
{
    return text != nullptr && *text != '\0';
}

}  // namespace

Status::Status(Code code, const char* found, const char* needed, const char* next_step) noexcept : code_(code)
{
    if (code == Code::done) {
        return;
    }
    Cut sentence(text_, kMaxLength);
    sentence.add(given(found) ? found : "an error without a word");
    if (given(needed)) {
        sentence.add("; needed: ");
        sentence.add(needed);
    }
    if (given(next_step)) {
        sentence.add(". Next: ");
        sentence.add(next_step);
    }
}

Error::Error(Code code, std::string found, std::string needed, std::string next_step)
    : std::runtime_error(found + "; needed: " + needed + ". Next: " + next_step),
      code_(code),
      found_(std::move(found)),
      needed_(std::move(needed)),
      next_step_(std::move(next_step))
{
}

}  // namespace qdbev::runtime
