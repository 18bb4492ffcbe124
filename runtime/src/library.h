// A shared library loaded while the program runs, and the functions found in it.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace qdbev::runtime {

// The names to try: `asked` alone where it is given, else what the environment variable says alone, else `known`.
std::vector<std::string> library_names(
    const std::string& asked, const char* variable, std::initializer_list<const char*> known);

class Library {
public:
    // The first of `candidates`, paths or names, that loads. `what` and `next_step` are for the Error (missing) where
    // none does, or where it lacks a function: "ONNX Runtime 1.18 or newer", "install it, or ...".
    //
    // It stays in memory until the process ends: its threads and what it registered elsewhere may outlive any handle.
    static Library open(const std::vector<std::string>& candidates, std::string what, std::string next_step);

    // The function of type F called `name`. Throws Error (missing).
    template <class F>
    [[nodiscard]] F* function(const char* name) const
    {
        return reinterpret_cast<F*>(symbol(name));
    }

    // Of the file that was loaded.
    [[nodiscard]] const std::string& path() const noexcept { return path_; }

private:
    struct Close {
        void operator()(void* handle) const noexcept;
    };

    Library(void* handle, std::string path, std::string what, std::string next_step);
    [[nodiscard]] void* symbol(const char* name) const;

    std::unique_ptr<void, Close> handle_;
    std::string path_, what_, next_step_;
};

}  // namespace qdbev::runtime
