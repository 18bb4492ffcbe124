#include "file.h"

#include <fstream>

#include "qdbev_runtime/status.h"

namespace qdbev::runtime::trt {

std::vector<char> read_file(const std::string& path)
{
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
    if (size >= 0) {
        std::vector<char> bytes(static_cast<std::size_t>(size));
        file.seekg(0);
        file.read(bytes.data(), size);
        if (file) {
            return bytes;
        }
    }
    throw Error(Code::bad_input, path + " cannot be read", "every file that the bundle lists",
        "copy the bundle again from where it was built, or build it again");
}

}  // namespace qdbev::runtime::trt
