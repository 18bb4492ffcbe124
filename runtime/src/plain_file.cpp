#include "plain_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace qdbev::runtime {
namespace {

bool is_letter_or_digit(char letter) noexcept
{
    return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || (letter >= '0' && letter <= '9');
}

std::string reason_of(int number)
{
    return std::generic_category().message(number);
}

}  // namespace

const std::string& Folder::copy_again()
{
    static const std::string next_step = "copy the bundle again from where it was built, or build it again";
    return next_step;
}

Folder Folder::of_bundle(const std::string& path)
{
    struct stat found {};
    const bool exists = path.find('\0') == std::string::npos && stat(path.c_str(), &found) == 0;
    if (!exists || !S_ISDIR(found.st_mode)) {
        throw Error(Code::bad_input, exists ? path + " is a file" : "there is no folder '" + path + "'",
            "a bundle, a folder NAME.qdbev",
            "check the path, or make one: qdbev-deploy build --onnx student.onnx --int8");
    }
    std::string name = path;
    while (name.size() > 1 && name.back() == '/') {
        name.pop_back();
    }
    const std::size_t slash = name.rfind('/');
    if (slash != std::string::npos && slash + 1 < name.size()) {
        name.erase(0, slash + 1);
    }
    return {path, std::move(name)};
}

Error Folder::refused(const std::string& what, std::string needed) const
{
    return refused(what, std::move(needed), copy_again());
}

Error Folder::refused(const std::string& what, std::string needed, std::string next_step) const
{
    return {Code::bad_input, name + ": " + what, std::move(needed), std::move(next_step)};
}

bool is_plain_name(std::string_view name) noexcept
{
    static constexpr std::string_view kOthers = "_.+-";
    return !name.empty() && (is_letter_or_digit(name[0]) || name[0] == '_')
        && std::all_of(name.begin(), name.end(), [](char letter) {
               return is_letter_or_digit(letter) || kOthers.find(letter) != std::string_view::npos;
           });
}

PlainFile::PlainFile(const Folder& folder, const std::string& name) : folder_(folder), name_(name)
{
    // O_NONBLOCK: a pipe of that name must not make us wait.
    descriptor_ = open(folder.file(name).c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (descriptor_ < 0) {
        const int reason = errno;
        if (reason == ELOOP) {
            throw folder.refused(name + " is a link", "a file in the bundle's own folder");
        }
        if (reason == ENOENT) {
            throw folder.refused(name + " is not there", "a bundle with every file that it lists");
        }
        throw folder.refused(name + " cannot be read: " + reason_of(reason), "a file that may be read",
            "look at who may read it, or copy the bundle again");
    }
    struct stat found {};
    if (fstat(descriptor_, &found) != 0 || !S_ISREG(found.st_mode)) {
        close(descriptor_);
        throw folder.refused(name + " is no file", "a file in the bundle's own folder");
    }
    size_ = static_cast<uint64_t>(found.st_size);
}

PlainFile::~PlainFile()
{
    close(descriptor_);
}

std::size_t PlainFile::read(void* to, std::size_t size)
{
    while (true) {
        const ssize_t count = ::read(descriptor_, to, size);
        if (count >= 0) {
            return static_cast<std::size_t>(count);
        }
        if (errno != EINTR) {
            throw folder_.refused(name_ + " cannot be read to its end: " + reason_of(errno), "a file that is whole");
        }
    }
}

}  // namespace qdbev::runtime
