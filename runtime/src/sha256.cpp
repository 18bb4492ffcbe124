#include "sha256.h"

#include <algorithm>
#include <cstring>

namespace qdbev::runtime {
namespace {

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint32_t rotated(uint32_t word, uint32_t bits) noexcept
{
    return (word >> bits) | (word << (32U - bits));
}

}  // namespace

Sha256::Sha256() noexcept
    : state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}
{
}

void Sha256::update(const void* bytes, std::size_t size) noexcept
{
    const auto* from = static_cast<const uint8_t*>(bytes);
    total_ += size;
    while (size > 0) {
        if (pending_size_ == 0 && size >= kBlock) {
            take_block(from);
            from += kBlock;
            size -= kBlock;
            continue;
        }
        const std::size_t taken = std::min(size, kBlock - pending_size_);
        std::memcpy(pending_.data() + pending_size_, from, taken);
        pending_size_ += taken;
        from += taken;
        size -= taken;
        if (pending_size_ == kBlock) {
            take_block(pending_.data());
            pending_size_ = 0;
        }
    }
}

std::string Sha256::finish()
{
    const uint64_t bits = total_ * 8;
    static constexpr uint8_t kOne = 0x80;
    static constexpr std::array<uint8_t, kBlock> kZeros{};
    update(&kOne, 1);
    const std::size_t until_length = kBlock - sizeof(bits);
    update(kZeros.data(), (until_length + kBlock - pending_size_) % kBlock);
    std::array<uint8_t, sizeof(bits)> length{};
    for (std::size_t i = 0; i < length.size(); ++i) {
        length[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    }
    update(length.data(), length.size());

    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    text.reserve(state_.size() * 8);
    for (const uint32_t word : state_) {
        for (int shift = 28; shift >= 0; shift -= 4) {
            text += kDigits[(word >> shift) & 15U];
        }
    }
    return text;
}

void Sha256::take_block(const uint8_t* block) noexcept
{
    std::array<uint32_t, 64> words;
    for (std::size_t i = 0; i < 16; ++i) {
        words[i] = (uint32_t{block[4 * i]} << 24) | (uint32_t{block[4 * i + 1]} << 16)
            | (uint32_t{block[4 * i + 2]} << 8) | uint32_t{block[4 * i + 3]};
    }
    for (std::size_t i = 16; i < words.size(); ++i) {
        const uint32_t near = words[i - 15];
        const uint32_t last = words[i - 2];
        words[i] = words[i - 16] + (rotated(near, 7) ^ rotated(near, 18) ^ (near >> 3)) + words[i - 7]
            + (rotated(last, 17) ^ rotated(last, 19) ^ (last >> 10));
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const uint32_t first = h + (rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)) + ((e & f) ^ (~e & g)) + kRound[i]
            + words[i];
        const uint32_t second = (rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    const std::array<uint32_t, 8> added = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < state_.size(); ++i) {
        state_[i] += added[i];
    }
}

std::string sha256_of(std::string_view bytes)
{
    Sha256 sum;
    sum.update(bytes.data(), bytes.size());
    return sum.finish();
}

}  // namespace qdbev::runtime
