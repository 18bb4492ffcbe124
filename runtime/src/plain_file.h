// Files of a bundle's own folder: no links, no devices, read in pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime {

struct Folder {
    std::string path;
    std::string name;  // its last part, for sentences

    // The folder of a bundle. Throws Error where there is none.
    static Folder of_bundle(const std::string& path);

    std::string file(const std::string& name) const { return path + '/' + name; }

    // "NAME.qdbev: WHAT", with the next step of most: to copy the bundle again.
    static const std::string& copy_again();
    Error refused(const std::string& what, std::string needed) const;
    Error refused(const std::string& what, std::string needed, std::string next_step) const;
};

// Letters, digits and ._+-, not beginning with one of .+-: a name that stays in its folder.
bool is_plain_name(std::string_view name) noexcept;

class PlainFile {
public:
    // Throws Error where it is not there, is a link or no file at all, or cannot be read.
    PlainFile(const Folder& folder, const std::string& name);
    ~PlainFile();
    PlainFile(const PlainFile&) = delete;
    PlainFile& operator=(const PlainFile&) = delete;

    uint64_t size() const noexcept { return size_; }

    // The next bytes; 0 at the end. Throws Error.
    std::size_t read(void* to, std::size_t size);

private:
    const Folder& folder_;
    std::string name_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
};

}  // namespace qdbev::runtime
