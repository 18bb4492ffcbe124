#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "text.h"

namespace qdbev::runtime {

namespace {

constexpr std::size_t kChannels = 3;

std::size_t size_t_of(int32_t count) noexcept
{
    return static_cast<std::size_t>(count);
}

std::size_t dense_row(const Preprocess& preprocess) noexcept
{
    return size_t_of(preprocess.source.width) * kChannels;
}

// `row_bytes` becomes the distance between rows.
Status check(const CameraImages& images, const Preprocess& preprocess, std::size_t& row_bytes) noexcept
{
    for (std::size_t camera = 0; camera < kCameras; ++camera) {
        if (images.data[camera] == nullptr) {
            Text<96> found;
            found.add("no picture of camera ").add(static_cast<int64_t>(camera)).add(" (counted from 0)");
            return {Code::bad_input, found.c_str(), "six camera frames, in the order of the contract's cameras",
                "set all of CameraImages::data, or drop the frame"};
        }
    }
    row_bytes = images.row_bytes == 0 ? dense_row(preprocess) : images.row_bytes;
    if (row_bytes < dense_row(preprocess)) {
        Text<96> found;
        Text<96> needed;
        found.add("camera rows of ").add(static_cast<int64_t>(row_bytes)).add(" bytes");
        needed.add("at least ").add(static_cast<int64_t>(dense_row(preprocess))).add(": ");
        needed.add(int64_t{preprocess.source.width}).add(" pixels of 3 bytes");
        return {Code::bad_input, found.c_str(), needed.c_str(),
            "pass frames of the contract's source size, or 0 where rows lie without gaps"};
    }
    return {};
}

// The order of operations in these loops is the Python package's; single precision has no other way to the same bits.

void widen(const uint8_t* __restrict row, float* __restrict out, std::size_t count) noexcept
{
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(row[i]);
    }
}

void blend(const uint8_t* __restrict above, const uint8_t* __restrict below, float weight, float* __restrict out,
    std::size_t count) noexcept
{
    for (std::size_t i = 0; i < count; ++i) {
        const float first = static_cast<float>(above[i]);
        out[i] = first + (static_cast<float>(below[i]) - first) * weight;
    }
}

void pick(const float* __restrict line, const int32_t* __restrict at, float mean, float std, float* __restrict out,
    std::size_t count) noexcept
{
    for (std::size_t i = 0; i < count; ++i) {
        out[i] = (line[at[i]] - mean) / std;
    }
}

void resample(const float* __restrict line, const int32_t* __restrict left, const int32_t* __restrict right,
    const float* __restrict weight, float mean, float std, float* __restrict out, std::size_t count) noexcept
{
    for (std::size_t i = 0; i < count; ++i) {
        const float first = line[left[i]];
        out[i] = (first + (line[right[i]] - first) * weight[i] - mean) / std;
    }
}

void copy_swapped(const uint8_t* __restrict row, uint8_t* __restrict out, std::size_t pixels) noexcept
{
    for (std::size_t i = 0; i < pixels; ++i) {
        out[3 * i] = row[3 * i + 2];
        out[3 * i + 1] = row[3 * i + 1];
        out[3 * i + 2] = row[3 * i];
    }
}

}  // namespace

Preprocessor::Axis Preprocessor::neighbours(int32_t size_out, int32_t size_in, int32_t stride)
{
    Axis axis;
    const double scale = static_cast<double>(size_in) / size_out;
    for (int32_t i = 0; i < size_out; ++i) {
        const double centre = std::clamp((i + 0.5) * scale - 0.5, 0.0, size_in - 1.0);
        const auto low = static_cast<int32_t>(centre);
        axis.low.push_back(low * stride);
        axis.high.push_back(std::min(low + 1, size_in - 1) * stride);
        axis.weight.push_back(static_cast<float>(centre - low));
        axis.whole = axis.whole && axis.weight.back() == 0;
    }
    return axis;
}

Preprocessor::Preprocessor(const Preprocess& preprocess)
    : preprocess_(preprocess),
      y_(neighbours(preprocess.resized.height, preprocess.source.height, 1)),
      x_(neighbours(preprocess.resized.width, preprocess.source.width, kChannels)),
      line_(dense_row(preprocess))
{
}

Status Preprocessor::run(const CameraImages& images, float* out) noexcept
{
    std::size_t row_bytes = 0;
    if (Status status = check(images, preprocess_, row_bytes); !status.ok()) {
        return status;
    }
    const std::size_t plane = size_t_of(preprocess_.padded.height) * size_t_of(preprocess_.padded.width);
    for (std::size_t camera = 0; camera < kCameras; ++camera) {
        run_camera(images.data[camera], row_bytes, images.bgr != preprocess_.bgr, out + camera * kChannels * plane);
    }
    return {};
}

void Preprocessor::run_camera(const uint8_t* image, std::size_t row_bytes, bool swap, float* out) noexcept
{
    const std::size_t height = size_t_of(preprocess_.resized.height);
    const std::size_t width = size_t_of(preprocess_.resized.width);
    const std::size_t padded_height = size_t_of(preprocess_.padded.height);
    const std::size_t padded_width = size_t_of(preprocess_.padded.width);
    for (std::size_t y = 0; y < height; ++y) {
        const uint8_t* const above = image + size_t_of(y_.low[y]) * row_bytes;
        if (y_.weight[y] == 0) {
            widen(above, line_.data(), line_.size());
        } else {
            blend(above, image + size_t_of(y_.high[y]) * row_bytes, y_.weight[y], line_.data(), line_.size());
        }
        for (std::size_t channel = 0; channel < kChannels; ++channel) {
            const float* const line = line_.data() + (swap ? kChannels - 1 - channel : channel);
            const float mean = preprocess_.mean[channel];
            const float std = preprocess_.std[channel];
            float* const row = out + (channel * padded_height + y) * padded_width;
            if (x_.whole) {
                pick(line, x_.low.data(), mean, std, row, width);
            } else {
                resample(line, x_.low.data(), x_.high.data(), x_.weight.data(), mean, std, row, width);
            }
            std::fill(row + width, row + padded_width, 0.0F);
        }
    }
    for (std::size_t channel = 0; channel < kChannels; ++channel) {
        float* const plane = out + channel * padded_height * padded_width;
        std::fill(plane + height * padded_width, plane + padded_height * padded_width, 0.0F);
    }
}

Status copy_native(const CameraImages& images, const Preprocess& preprocess, uint8_t* out) noexcept
{
    std::size_t row_bytes = 0;
    if (Status status = check(images, preprocess, row_bytes); !status.ok()) {
        return status;
    }
    const std::size_t dense = dense_row(preprocess);
    const std::size_t height = size_t_of(preprocess.source.height);
    for (const uint8_t* image : images.data) {
        if (!images.bgr && row_bytes == dense) {
            std::memcpy(out, image, height * dense);
            out += height * dense;
            continue;
        }
        for (std::size_t y = 0; y < height; ++y, image += row_bytes, out += dense) {
            if (images.bgr) {
                copy_swapped(image, out, dense / kChannels);
            } else {
                std::memcpy(out, image, dense);
            }
        }
    }
    return {};
}

void scale_lidar2img(const double* native, const Preprocess& preprocess, float* scaled) noexcept
{
    const double scale[4] = {static_cast<double>(preprocess.resized.width) / preprocess.source.width,
        static_cast<double>(preprocess.resized.height) / preprocess.source.height, 1.0, 1.0};
    for (std::size_t camera = 0; camera < kCameras; ++camera, native += 16, scaled += 16) {
        for (std::size_t row = 0; row < 4; ++row) {
            for (std::size_t column = 0; column < 4; ++column) {
                // The whole sum of the matrix product: what is not finite spreads as it does there.
                double sum = 0;
                for (std::size_t k = 0; k < 4; ++k) {
                    sum += (k == row ? scale[k] : 0.0) * native[4 * k + column];
                }
                scaled[4 * row + column] = static_cast<float>(sum);
            }
        }
    }
}

}  // namespace qdbev::runtime
