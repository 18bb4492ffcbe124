// SHA-256 (FIPS 180-4) of bytes that come in pieces.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qdbev::runtime {

class Sha256 {
public:
    Sha256() noexcept;

    void update(const void* bytes, std::size_t size) noexcept;

    // In lower-case hexadecimal digits. Ends the sum: neither is called again.
    [[nodiscard]] std::string finish();

private:
    static constexpr std::size_t kBlock = 64;

    void take_block(const uint8_t* block) noexcept;

    std::array<uint32_t, 8> state_;
    std::array<uint8_t, kBlock> pending_{};
    std::size_t pending_size_ = 0;
    uint64_t total_ = 0;
};

[[nodiscard]] std::string sha256_of(std::string_view bytes);

}  // namespace qdbev::runtime
