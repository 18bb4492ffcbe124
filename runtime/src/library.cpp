// dlopen and dlsym, with their failures as Errors.
#include "library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>
#include <utility>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime {
namespace {

std::string last_failure()
{
    const char* text = dlerror();
    return text == nullptr ? "no reason was given" : text;
}

std::string path_of(void* handle, const std::string& asked)
{
    link_map* map = nullptr;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr && map->l_name != nullptr
        && *map->l_name != '\0') {
        return map->l_name;
    }
    return asked;
}

}  // namespace

std::vector<std::string> library_names(
    const std::string& asked, const char* variable, std::initializer_list<const char*> known)
{
    if (!asked.empty()) {
        return {asked};
    }
    const char* value = std::getenv(variable);
    if (value != nullptr && *value != '\0') {
        return {value};
    }
    return {known.begin(), known.end()};
}

Library Library::open(const std::vector<std::string>& candidates, std::string what, std::string next_step)
{
    std::string reasons;
    for (const std::string& candidate : candidates) {
        if (void* handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) {
            return Library(handle, path_of(handle, candidate), std::move(what), std::move(next_step));
        }
        reasons += (reasons.empty() ? "" : "; ") + last_failure();
    }
    throw Error(Code::missing, "no library loads: " + reasons, std::move(what), std::move(next_step));
}

void Library::Close::operator()(void* handle) const noexcept
{
    dlclose(handle);
}

Library::Library(void* handle, std::string path, std::string what, std::string next_step)
    : handle_(handle), path_(std::move(path)), what_(std::move(what)), next_step_(std::move(next_step))
{
}

void* Library::symbol(const char* name) const
{
    dlerror();  // what an earlier call left behind
    void* found = dlsym(handle_.get(), name);
    if (found == nullptr) {
        throw Error(Code::missing, path_ + " has no function " + name + ": " + last_failure(), what_, next_step_);
    }
    return found;
}

}  // namespace qdbev::runtime
