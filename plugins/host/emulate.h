// Runs a kernel's body on the CPU, block by block: every thread of a block through one phase before any enters the
// next, which is what a barrier means. Blocks write disjoint parts of the output, so threads of the machine may share
// them and the result is the same whatever their number.
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "qdbev/dispatch.h"

namespace qdbev {

struct HostRunner {
    int32_t machine_threads;

    template <typename Body>
    int run(const typename Body::Params& params, const Grid& grid) const
    {
        const int64_t blocks = static_cast<int64_t>(grid.blocks_x) * grid.blocks_y * grid.blocks_z;
        std::atomic<int64_t> next{0};
        std::exception_ptr failure;
        std::mutex failure_lock;
        const auto work = [&] {
            try {
                // Fresh for each block, and poisoned, so that a phase that reads what no earlier one wrote is seen.
                std::vector<uint64_t> shared(static_cast<size_t>(grid.shared_bytes) / sizeof(uint64_t) + 1U);
                for (int64_t block = next++; block < blocks; block = next++) {
                    std::fill(shared.begin(), shared.end(), UINT64_C(0x7FC5A5A57FC5A5A5));  // two NaNs
                    run_block<Body>(params, grid, block, shared.data());
                }
            } catch (...) {
                const std::lock_guard<std::mutex> guard(failure_lock);
                failure = std::current_exception();
            }
        };
        // More threads than processors only cost memory, and the number comes from a caller.
        const auto most = static_cast<int32_t>(std::max(std::thread::hardware_concurrency(), 1U));
        const int32_t threads = std::clamp(machine_threads, 1, most);
        const auto helpers = static_cast<size_t>(std::min<int64_t>(threads, blocks) - 1);
        std::vector<std::thread> pool;
        pool.reserve(helpers);
        for (size_t i = 0; i < helpers; ++i) {
            try {
                pool.emplace_back(work);
            } catch (const std::system_error&) {
                break;  // the machine has no more threads to give; those at work finish the job
            }
        }
        work();
        for (std::thread& thread : pool) {
            thread.join();
        }
        if (failure) {
            std::rethrow_exception(failure);
        }
        return 0;
    }

private:
    template <typename Body>
    static void run_block(const typename Body::Params& params, const Grid& grid, int64_t block, void* shared)
    {
        Place at{};
        at.block_x = static_cast<int32_t>(block % grid.blocks_x);
        at.block_y = static_cast<int32_t>(block / grid.blocks_x % grid.blocks_y);
        at.block_z = static_cast<int32_t>(block / grid.blocks_x / grid.blocks_y);
        at.threads = grid.threads;
        for (at.thread = 0; at.thread < grid.threads; ++at.thread) {
            Body::template run<0>(params, at, shared);
        }
        if constexpr (Body::kPhases == 2) {
            for (at.thread = 0; at.thread < grid.threads; ++at.thread) {
                Body::template run<1>(params, at, shared);
            }
        }
    }
};

}  // namespace qdbev
