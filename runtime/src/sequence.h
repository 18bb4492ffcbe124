// A sequence of frames on a stream: what is remembered between them, inputs made ready, outputs decoded.
#pragma once

#include <memory>
#include <optional>

#include "backend.h"
#include "decode.h"
#include "past.h"
#include "preprocess.h"

namespace qdbev::runtime {

// Throws Error (usage) where an option is out of its range.
void require_usable(const SessionOptions& options);

class Sequence {
public:
    // Of options that are usable.
    Sequence(const Contract& contract, std::unique_ptr<Stream> stream, const SessionOptions& options);

    Status step(const Frame& frame, StepOutput& output) noexcept;
    void reset() noexcept { past_.forget(); }
    Status read_state(void* out, std::size_t bytes) noexcept;
    void* image_buffer(Memory memory) noexcept;
    Stream& stream() noexcept { return *stream_; }

private:
    Status stage(const Frame& frame, const Verdict& verdict, const void*& device_image) noexcept;
    Status refuse_nan() noexcept;

    const Contract& contract_;
    std::unique_ptr<Stream> stream_;
    Past past_;
    std::optional<Preprocessor> preprocessor_;  // where the network does not take native frames
    Decoder decoder_;
    Text<40> reset_reason_;  // of the last step
    bool has_state_ = false;
    bool was_nan_ = false;  // the last run gave what is no number
};

}  // namespace qdbev::runtime
