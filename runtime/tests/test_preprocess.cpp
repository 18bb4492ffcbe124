// Pixels one can follow by hand through resize, normalisation and pads; refusals; copies of native frames.
#include <cmath>
#include <vector>

#include "check.h"
#include "preprocess.h"

namespace {

using namespace qdbev::runtime;

Preprocess spec_of(Size source, Size resized, Size padded)
{
    Preprocess spec;
    spec.mean = {0, 0, 0};
    spec.std = {1, 1, 1};
    spec.source = source;
    spec.resized = resized;
    spec.padded = padded;
    return spec;
}

// Six pictures whose pixel of camera n, row y, column x and channel c is n + 10 y + 20 x + 80 c.
struct Pictures {
    Pictures(Size size, std::size_t gap, bool bgr)
    {
        const auto height = static_cast<std::size_t>(size.height);
        const auto width = static_cast<std::size_t>(size.width);
        images.row_bytes = gap == 0 ? 0 : 3 * width + gap;
        images.bgr = bgr;
        for (std::size_t camera = 0; camera < kCameras; ++camera) {
            for (std::size_t y = 0; y < height; ++y) {
                for (std::size_t at = 0; at < 3 * width; ++at) {
                    const std::size_t channel = bgr ? 2 - at % 3 : at % 3;
                    pixels[camera].push_back(static_cast<uint8_t>(camera + 10 * y + 20 * (at / 3) + 80 * channel));
                }
                // The last row ends with its last pixel.
                pixels[camera].insert(pixels[camera].end(), y + 1 < height ? gap : 0, uint8_t{255});
            }
            pixels[camera].shrink_to_fit();  // what is read beyond the end is found by a sanitiser
            images.data[camera] = pixels[camera].data();
        }
    }

    std::vector<uint8_t> pixels[kCameras];
    CameraImages images;
};

std::vector<float> prepared(const Preprocess& spec, const CameraImages& images)
{
    std::vector<float> out(kCameras * 3 * static_cast<std::size_t>(spec.padded.height * spec.padded.width), -99.0F);
    Preprocessor preprocessor(spec);
    CHECK(preprocessor.run(images, out.data()).ok());
    return out;
}

void every_form_of_a_picture_is_the_same()
{
    const Preprocess spec = spec_of({3, 4}, {3, 4}, {5, 6});
    for (const bool bgr : {false, true}) {
        for (const std::size_t gap : {0, 1, 7}) {
            const Pictures pictures({3, 4}, gap, bgr);
            const auto out = prepared(spec, pictures.images);
            std::size_t at = 0;
            for (std::size_t camera = 0; camera < kCameras; ++camera) {
                for (std::size_t channel = 0; channel < 3; ++channel) {
                    for (std::size_t y = 0; y < 5; ++y) {
                        for (std::size_t x = 0; x < 6; ++x, ++at) {
                            const std::size_t value = y < 3 && x < 4 ? camera + 10 * y + 20 * x + 80 * channel : 0;
                            CHECK(out[at] == static_cast<float>(value));
                        }
                    }
                }
            }
        }
    }
}

void channels_are_ordered_before_they_are_normalised()
{
    Preprocess spec = spec_of({1, 1}, {1, 1}, {1, 1});
    spec.bgr = true;
    spec.mean = {100, 10, 1};
    spec.std = {2, 4, 8};
    const Pictures pictures({1, 1}, 0, false);
    const auto out = prepared(spec, pictures.images);
    CHECK(out[0] == 30 && out[1] == 17.5F && out[2] == -0.125F);  // of (0, 80, 160) from blue to red
    CHECK(out[15] == 32.5F && out[16] == 18.75F && out[17] == 0.5F);
}

void pixels_between_pixels_are_blended()
{
    // Twice as large: centres at -0.25 (held at the edge), 0.25, 0.75, 1.25 (held).
    const Pictures pictures({2, 2}, 0, false);
    const auto out = prepared(spec_of({2, 2}, {4, 4}, {4, 4}), pictures.images);
    const float shares[] = {0, 0.25F, 0.75F, 1};
    for (std::size_t y = 0; y < 4; ++y) {
        for (std::size_t x = 0; x < 4; ++x) {
            CHECK(out[4 * y + x] == 10 * shares[y] + 20 * shares[x]);
        }
    }
    // Half as large: the mean of four; a third: the pixel in the middle.
    const Pictures larger({6, 6}, 0, false);
    CHECK(prepared(spec_of({6, 6}, {3, 3}, {3, 3}), larger.images)[4] == 10 * 2.5F + 20 * 2.5F);
    CHECK(prepared(spec_of({6, 6}, {2, 2}, {2, 2}), larger.images)[3] == 10 * 4 + 20 * 4);
}

void what_cannot_be_a_frame_is_refused()
{
    const Preprocess spec = spec_of({2, 4}, {2, 4}, {2, 4});
    Preprocessor preprocessor(spec);
    std::vector<float> out(kCameras * 3 * 8, 5.0F);
    std::vector<uint8_t> bytes(kCameras * 3 * 8, 5);
    for (std::size_t camera = 0; camera < kCameras; ++camera) {
        Pictures pictures({2, 4}, 0, false);
        pictures.images.data[camera] = nullptr;
        const std::string sentence = "no picture of camera " + std::to_string(camera);
        CHECK(check::contains(preprocessor.run(pictures.images, out.data()).message(), sentence.c_str()));
        CHECK(check::contains(copy_native(pictures.images, spec, bytes.data()).message(), sentence.c_str()));
    }
    Pictures pictures({2, 4}, 0, false);
    pictures.images.row_bytes = 11;
    const Status status = preprocessor.run(pictures.images, out.data());
    CHECK(status.code() == Code::bad_input);
    CHECK(check::contains(status.message(), "camera rows of 11 bytes; needed: at least 12: 4 pixels of 3 bytes"));
    CHECK(copy_native(pictures.images, spec, bytes.data()).code() == Code::bad_input);
    CHECK(out == std::vector<float>(out.size(), 5.0F) && bytes == std::vector<uint8_t>(bytes.size(), 5));
    pictures.images.row_bytes = 12;
    CHECK(preprocessor.run(pictures.images, out.data()).ok());
}

void native_frames_become_dense_rgb()
{
    const Preprocess spec = spec_of({3, 4}, {1, 1}, {1, 1});
    const Pictures dense({3, 4}, 0, false);
    for (const bool bgr : {false, true}) {
        for (const std::size_t gap : {0, 5}) {
            const Pictures pictures({3, 4}, gap, bgr);
            std::vector<uint8_t> out(kCameras * 36);
            CHECK(copy_native(pictures.images, spec, out.data()).ok());
            for (std::size_t camera = 0; camera < kCameras; ++camera) {
                CHECK(std::equal(dense.pixels[camera].begin(), dense.pixels[camera].end(),
                    out.begin() + static_cast<std::ptrdiff_t>(36 * camera)));
            }
        }
    }
}

void projections_are_stretched_by_rows()
{
    std::vector<double> native(kLidar2Img);
    for (std::size_t i = 0; i < native.size(); ++i) {
        native[i] = static_cast<double>(i);
    }
    std::vector<float> scaled(kLidar2Img);
    scale_lidar2img(native.data(), spec_of({100, 400}, {25, 200}, {32, 200}), scaled.data());
    for (std::size_t i = 0; i < native.size(); ++i) {
        const std::size_t row = i / 4 % 4;
        CHECK(scaled[i] == static_cast<float>(native[i] * (row == 0 ? 0.5 : row == 1 ? 0.25 : 1)));
    }
}

}  // namespace

int main()
{
    every_form_of_a_picture_is_the_same();
    channels_are_ordered_before_they_are_normalised();
    pixels_between_pixels_are_blended();
    what_cannot_be_a_frame_is_refused();
    native_frames_become_dense_rgb();
    projections_are_stretched_by_rows();
    return check::report();
}
