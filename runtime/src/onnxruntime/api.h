// ONNX Runtime's C API out of a library loaded at run time: its objects owned, its failures thrown.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "library.h"

namespace qdbev::runtime {

// 1.18, the oldest that bundles are made and tested with. Older ones ignore settings that they do not know.
inline constexpr uint32_t kOrtApi = 18;
inline constexpr const char* kOrtNeeded = "ONNX Runtime 1.18 or newer";
inline constexpr const char* kOrtNextStep =
    "install it, or say where its libonnxruntime.so is: EngineOptions::backend_library or QDBEV_ONNXRUNTIME_LIBRARY";
static_assert(ORT_API_VERSION >= kOrtApi, "the header of ONNX Runtime 1.18 or newer is needed");

inline constexpr const char* kCpuProvider = "CPUExecutionProvider";
inline constexpr const char* kCudaProvider = "CUDAExecutionProvider";

template <class T>
struct Release {
    void (*release)(T*) = nullptr;
    void operator()(T* object) const noexcept { release(object); }
};

template <class T>
using Owned = std::unique_ptr<T, Release<T>>;

// A message on one line: ONNX Runtime's have several. `add` is given its words and the spaces between them.
template <class Add>
void on_one_line(std::string_view message, Add&& add)
{
    constexpr std::string_view kBlank = " \t\r\n";
    std::string_view separator = "";
    for (std::size_t at = message.find_first_not_of(kBlank); at != std::string_view::npos;) {
        const std::size_t end = message.find_first_of(kBlank, at);
        add(separator);
        add(message.substr(at, end == std::string_view::npos ? end : end - at));
        separator = " ";
        at = message.find_first_not_of(kBlank, end);
    }
}

class OrtLibrary {
public:
    // `asked`: EngineOptions::backend_library. Throws Error (missing).
    explicit OrtLibrary(const std::string& asked);

    const OrtApi* operator->() const noexcept { return api_; }

    // What a call says of its failure; empty where it did what it should.
    [[nodiscard]] std::string failure(OrtStatus* status) const;

    // Throws Error (failed) where a call that ought to succeed did not.
    void check(OrtStatus* status) const;

    // What one of the API's `create` functions makes, released by `release`.
    template <class T, class Create, class... Arguments>
    [[nodiscard]] Owned<T> make(void (*release)(T*), Create create, Arguments&&... arguments) const
    {
        T* object = nullptr;
        check(create(std::forward<Arguments>(arguments)..., &object));
        return Owned<T>(object, {release});
    }

    // "1.21.0, from /usr/lib/libonnxruntime.so.1.21".
    [[nodiscard]] const std::string& description() const noexcept { return description_; }

private:
    Library library_;
    std::string description_;
    const OrtApi* api_ = nullptr;
};

}  // namespace qdbev::runtime
