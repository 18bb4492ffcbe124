// Bundle::open: a small bundle holds, and each way of damaging it is refused with its sentence.
#include "bundle.h"

#include <sys/stat.h>

#include <cstdio>
#include <functional>
#include <utility>

#include "check.h"
#include "qdbev_runtime/status.h"
#include "small_bundle.h"

using namespace qdbev::runtime;
using small_bundle::Documents;
using small_bundle::replace;
namespace fs = std::filesystem;

namespace {

class Bench {
public:
    const fs::path& folder() const { return folder_; }

    Bundle opened(const std::function<void(Documents&)>& change = [](Documents&) {})
    {
        Documents documents;
        change(documents);
        small_bundle::write(folder_, documents);
        return Bundle::open(folder_.string());
    }

    std::string refusal(const std::function<void(Documents&)>& change)
    {
        return check::refusal([&] { opened(change); });
    }

    // Changes the folder of a bundle that held.
    std::string refusal_after(const std::function<void()>& change)
    {
        small_bundle::write(folder_);
        change();
        return check::refusal([&] { Bundle::open(folder_.string()); });
    }

    // Of `document` with one text for another.
    bool refuses(const char* document, const std::string& from, const std::string& to, const char* sentence)
    {
        const std::string found = refusal([&](Documents& documents) {
            replace(
                document == std::string("manifest.json") ? documents.manifest : documents.files.at(document), from, to);
        });
        const bool as_wanted = check::contains(found, sentence);
        if (!as_wanted) {
            std::fprintf(stderr, "%s: %s -> %s: '%s'\n", document, from.c_str(), to.c_str(), found.c_str());
        }
        return as_wanted;
    }

private:
    small_bundle::TemporaryFolder temporary_;
    fs::path folder_ = temporary_.path() / "small.qdbev";
};

bool is(const TensorSpec& tensor, const char* name, DType dtype, const std::vector<int64_t>& shape)
{
    return tensor.name == name && tensor.dtype == dtype && tensor.shape == shape;
}

void test_what_is_read(Bench& bench)
{
    const Bundle bundle = bench.opened();
    CHECK(bundle.path == bench.folder().string());
    CHECK(bundle.backend == "onnxruntime");
    CHECK(bundle.precision == "int8, emulated in floating point");
    CHECK(bundle.engine_file == (bench.folder() / "model.onnx").string());
    CHECK(bundle.extra_files.empty());
    CHECK(
        bundle.build_command == "qdbev-deploy build --onnx student.onnx --int8 --backend onnxruntime -o student.qdbev");
    CHECK(bundle.machine == "x86_64");
    CHECK(!bundle.gpu);
    CHECK(bundle.tensorrt_version.empty());
    CHECK(!bundle.version_compatible && !bundle.hardware_compatible && !bundle.fused);
    CHECK(bundle.threads == 0);
    CHECK(bundle.provider == "CPUExecutionProvider");

    const Contract& contract = bundle.contract;
    CHECK(contract.variant == "micro");
    CHECK(contract.inputs.size() == 5);
    CHECK(is(contract.inputs[0], "image", DType::float32, {1, 6, 3, 192, 320}));
    CHECK(is(contract.inputs[1], "prev_bev", DType::float32, {2500, 1, 128}));
    CHECK(is(contract.inputs[2], "use_prev_bev", DType::float32, {1}));
    CHECK(is(contract.inputs[3], "can_bus", DType::float32, {18}));
    CHECK(is(contract.inputs[4], "lidar2img", DType::float32, {1, 6, 4, 4}));
    CHECK(contract.outputs.size() == 3);
    CHECK(is(contract.outputs[0], "bev_embed", DType::float32, {2500, 1, 128}));
    CHECK(is(contract.outputs[1], "outputs_classes", DType::float32, {1, 1, 300, 10}));
    CHECK(is(contract.outputs[2], "outputs_coords", DType::float32, {1, 1, 300, 10}));
    CHECK(contract.inputs[0].elements() == 1105920 && contract.inputs[0].bytes() == 4423680);
    CHECK(contract.cameras[2] == "CAM_FRONT_LEFT" && contract.cameras[5] == "CAM_BACK_RIGHT");
    CHECK(contract.classes[0] == "car" && contract.classes[9] == "traffic_cone");
    CHECK(!contract.preprocess.in_graph && !contract.preprocess.bgr);
    CHECK(contract.preprocess.mean[0] == 123.675F && contract.preprocess.std[2] == 57.375F);
    CHECK(contract.preprocess.source.height == 900 && contract.preprocess.source.width == 1600);
    CHECK(contract.preprocess.resized.height == 180 && contract.preprocess.resized.width == 320);
    CHECK(contract.preprocess.padded.height == 192 && contract.preprocess.padded.width == 320);
    CHECK(contract.post_center_range[0] == -61.2 && contract.post_center_range[5] == 10.0);
    CHECK(contract.queries == 300 && contract.decoder_layers == 1 && contract.max_boxes == 200);
    CHECK(contract.max_gap_s == 2.0);
}

void test_contract_helpers()
{
    CHECK(size_of(DType::float32) == 4 && size_of(DType::float16) == 2 && size_of(DType::uint8) == 1);
    CHECK(std::string(name_of(DType::float16)) == "float16" && std::string(name_of(DType::uint8)) == "uint8");
    TensorSpec tensor;
    CHECK(tensor.elements() == 1 && tensor.bytes() == 4);
    tensor.shape = {2, 0};
    CHECK(tensor.elements() == 0);
    tensor.shape = {2, -1};
    CHECK(tensor.elements() == 0);
}

// The other ways in which a bundle may be built.
void test_other_contracts(Bench& bench)
{
    const Bundle half = bench.opened([](Documents& documents) {
        std::string& contract = documents.files["contract.json"];
        replace(contract, R"("io": "fp32")", R"("io": "fp16")");
        replace(contract, R"("prev_bev", "dtype": "float32")", R"("prev_bev", "dtype": "float16")");
        replace(contract, R"("bev_embed", "dtype": "float32")", R"("bev_embed", "dtype": "float16")");
    });
    CHECK(half.contract.inputs[1].dtype == DType::float16 && half.contract.outputs[0].dtype == DType::float16);
    CHECK(half.contract.outputs[0].bytes() == 640000);

    const Bundle mlperf = bench.opened([](Documents& documents) {
        std::string& contract = documents.files["contract.json"];
        replace(contract, R"("io": "fp32")", R"("io": "mlperf")");
        replace(contract, R"("shape": [1],)", R"("shape": [],)");
        replace(contract, R"("outputs_classes", "dtype": "float32", "shape": [1,)",
            R"("outputs_classes", "dtype": "float32", "shape": [3,)");
        replace(contract, R"("outputs_coords", "dtype": "float32", "shape": [1,)",
            R"("outputs_coords", "dtype": "float32", "shape": [3,)");
    });
    CHECK(mlperf.contract.decoder_layers == 3);
    CHECK(mlperf.contract.inputs[2].shape.empty() && mlperf.contract.inputs[2].elements() == 1);

    const Bundle native = bench.opened([](Documents& documents) {
        std::string& contract = documents.files["contract.json"];
        replace(contract, R"("image": "float32")", R"("image": "uint8")");
        replace(contract, R"("in_graph": false)", R"("in_graph": true)");
        replace(contract, R"("image", "dtype": "float32", "shape": [1, 6, 3, 192, 320])",
            R"("image", "dtype": "uint8", "shape": [1, 6, 900, 1600, 3])");
        replace(contract, "normalised, padded camera frames, in", "native camera frames, RGB, in");
    });
    CHECK(native.contract.preprocess.in_graph && native.contract.inputs[0].dtype == DType::uint8);
    CHECK(native.contract.inputs[0].bytes() == std::size_t{6} * 900 * 1600 * 3);
}

void test_other_manifests(Bench& bench)
{
    const Bundle plan = bench.opened([](Documents& documents) {
        std::string& manifest = documents.manifest;
        replace(manifest, R"("backend": "onnxruntime")", R"("backend": "tensorrt")");
        replace(manifest, R"("engine_file": "model.onnx", "extra_files": [])",
            R"("engine_file": "engine.plan", "extra_files": ["libqdbev_plugins.so"])");
        replace(manifest, R"({"onnxruntime": "1.31.1"})", R"({"tensorrt": "10.3.0"})");
        replace(manifest, R"("gpu": null)", R"("gpu": {"name": "Orin", "compute_capability": [8, 7]})");
        replace(manifest, R"("version_compatible": false)", R"("version_compatible": true)");
        replace(manifest, R"("hardware_compatible": false)", R"("hardware_compatible": true)");
        replace(manifest, R"({"provider": "CPUExecutionProvider"})", "{}");
        replace(manifest, R"("emulated": true)", R"("emulated": false)");
        documents.files.erase("model.onnx");
        documents.files["engine.plan"] = std::string(3'000'001, 'p');
        documents.files["libqdbev_plugins.so"] = "";
    });
    CHECK(plan.backend == "tensorrt" && plan.precision == "int8" && plan.provider.empty());
    CHECK(plan.extra_files == std::vector<std::string>{(bench.folder() / "libqdbev_plugins.so").string()});
    CHECK(plan.gpu && plan.gpu->name == "Orin" && plan.gpu->compute_capability[0] == 8
        && plan.gpu->compute_capability[1] == 7);
    CHECK(plan.tensorrt_version == "10.3.0" && plan.version_compatible && plan.hardware_compatible);

    const Bundle fused = bench.opened([](Documents& documents) {
        replace(documents.manifest, R"("fused": false)", R"("dla_core": 1, "fused": true)");
        replace(documents.manifest, R"("threads": null)", R"("threads": 4)");
        replace(documents.manifest, R"("emulated": true)", R"("emulated": false)");
    });
    CHECK(fused.fused && fused.dla_core == 1 && fused.threads == 4 && fused.precision == "int8");

    const Bundle baseline = bench.opened([](Documents& documents) {
        std::string& manifest = documents.manifest;
        replace(manifest, R"({"precision": "int8", "threads")", R"({"precision": "fp32", "threads")");
        replace(manifest, R"({"precision": "int8", "emulated": true)", R"({"precision": "fp32", "emulated": false)");
    });
    CHECK(baseline.precision == "fp32");

    const Bundle unproved = bench.opened([](Documents& documents) {
        std::string& manifest = documents.manifest;
        const std::size_t from = manifest.find("\"parity\": {");
        manifest.replace(from, manifest.find("\"provenance\"") - from,
            R"("parity": {"passed": null, "not_proved": ["what the outputs are"]}, )");
        documents.files.erase("parity.json");
    });
    CHECK(unproved.contract.variant == "micro");

    const Bundle quoted = bench.opened([](Documents& documents) {
        replace(documents.manifest, "--onnx student.onnx --int8", R"(--onnx '/a b/it'\"'\"'s.onnx' --allow '' 'x:$y')");
    });
    CHECK(check::contains(quoted.build_command, R"('/a b/it'"'"'s.onnx' --allow '' 'x:$y')"));
}

void test_folders(Bench& bench)
{
    CHECK(check::contains(
        check::refusal([] { Bundle::open("/nowhere/x.qdbev"); }), "there is no folder '/nowhere/x.qdbev'"));
    CHECK(check::contains(check::refusal([] { Bundle::open(""); }), "there is no folder ''"));
    small_bundle::write(bench.folder());
    const std::string file = (bench.folder() / "model.onnx").string();
    CHECK(check::contains(check::refusal([&] { Bundle::open(file); }), "model.onnx is a file; needed: a bundle"));
    CHECK(check::refusal([&] { Bundle::open(bench.folder().string() + "//"); }).empty());
    const std::string whole = bench.refusal_after([&] { fs::remove(bench.folder() / "manifest.json"); });
    CHECK(whole
        == "small.qdbev: manifest.json is not there; needed: a bundle with every file that it lists. Next: copy the "
           "bundle again from where it was built, or build it again");
    try {
        Bundle::open("/nowhere/x.qdbev");
    } catch (const Error& error) {
        CHECK(error.code() == Code::bad_input);
    }
}

void test_files(Bench& bench)
{
    for (const char* name : {"contract.json", "layers.json", "guard.json", "parity.json", "model.onnx"}) {
        const fs::path path = bench.folder() / name;
        const auto says = [&](const std::string& sentence, const std::string& part) {
            return check::contains(sentence, (std::string(name) + part).c_str());
        };
        CHECK(says(bench.refusal_after([&] { fs::remove(path); }), " is not there"));
        CHECK(says(bench.refusal_after([&] { fs::resize_file(path, fs::file_size(path) - 1); }), " has "));
        CHECK(says(bench.refusal_after([&] {
            std::fstream changed(path, std::ios::in | std::ios::out | std::ios::binary);
            changed.seekp(3);
            changed.put('#');
        }),
            " was changed: its sha256 is another"));
        CHECK(says(bench.refusal_after([&] {
            fs::rename(path, bench.folder() / "elsewhere");
            fs::create_symlink("elsewhere", path);
        }),
            " is a link"));
        CHECK(says(bench.refusal_after([&] {
            fs::remove(path);
            fs::create_directory(path);
        }),
            " is no file"));
        CHECK(says(bench.refusal_after([&] {
            fs::remove(path);
            CHECK(mkfifo(path.c_str(), 0600) == 0);
        }),
            " is no file"));
    }
    CHECK(check::contains(bench.refusal_after([&] {
        fs::rename(bench.folder() / "manifest.json", bench.folder() / "elsewhere");
        fs::create_symlink("elsewhere", bench.folder() / "manifest.json");
    }),
        "manifest.json is a link"));
    CHECK(check::contains(bench.refusal_after([&] {
        fs::resize_file(bench.folder() / "manifest.json", (std::uintmax_t{256} << 20) + 1);
    }),
        "manifest.json has 268435457 bytes; needed: at most 268435456"));
    for (const char* name :
        {"../x", "a/b", "/etc/passwd", ".hidden", "", "-x", "a b", "a\\u0000", "a\\nb", "manifest.json"}) {
        CHECK(
            bench.refuses("manifest.json", "FILES", R"({")" + std::string(name) + R"(": {"bytes": 1, "sha256": "x"}})",
                name == std::string("manifest.json") ? "lists the file 'manifest.json'"
                                                     : "names of files in the bundle's own"));
    }
    CHECK(bench.refuses("manifest.json", "FILES", R"({"a": {"bytes": 1}})", "no field 'files.a.sha256'"));
    CHECK(bench.refuses("manifest.json", "FILES", R"({"a": {"bytes": -1, "sha256": ""}})", "'files.a.bytes' is -1"));
    CHECK(bench.refuses(
        "manifest.json", "FILES", R"({"a": {"bytes": 1.0, "sha256": ""}})", "'files.a.bytes' is 1.0; needed: a whole"));
    CHECK(bench.refuses("manifest.json", "FILES", R"({"a": 3})", "'files.a' is 3"));
    CHECK(bench.refuses("manifest.json", "FILES", "[]", "'files' is an empty list; needed: an object"));
    for (const char* name : {"contract.json", "layers.json", "guard.json", "model.onnx"}) {
        CHECK(check::contains(bench.refusal([&](Documents& documents) { documents.files.erase(name); }),
            ("manifest.json does not list '" + std::string(name) + "' among its files").c_str()));
    }
    CHECK(bench.refuses("manifest.json", R"("model.onnx")", R"("other.onnx")", "does not list 'other.onnx'"));
    CHECK(
        bench.refuses("manifest.json", R"("model.onnx")", R"("guard.json")", "says that the engine loads guard.json"));
    CHECK(bench.refuses(
        "manifest.json", R"("extra_files": [])", R"("extra_files": ["/lib/x.so"])", "not list '/lib/x.so'"));
    CHECK(bench.refuses(
        "manifest.json", R"("extra_files": [])", R"("extra_files": ["layers.json"])", "engine loads layers.json"));
}

void test_manifests(Bench& bench)
{
    const auto refuses = [&](const char* from, const char* to, const char* sentence) {
        return bench.refuses("manifest.json", from, to, sentence);
    };
    CHECK(refuses("qdbev-bundle/1", "qdbev-bundle/2",
        "is of schema 'qdbev-bundle/2'; needed: schema 'qdbev-bundle/1', which this runtime reads. Next: use the "
        "runtime "
        "library of the release that built it"));
    CHECK(refuses("\"qdbev-bundle/1\"", "1", "is of schema 1; needed"));
    CHECK(refuses("\"qdbev-bundle/1\"", "\"other\"", "Next: copy the bundle again"));
    CHECK(refuses("\"schema\"", "\"scheme\"", "has no field 'schema'"));
    for (const char* name : {"tool", "created", "backend", "engine_file", "extra_files", "files", "versions", "gpu",
             "build", "precision", "parity", "provenance", "options", "opens_with"}) {
        const std::string from = '"' + std::string(name) + (std::string(name) == "precision" ? "\": {" : "\": ");
        const std::string sentence = std::string("has no field '")
            + (std::string(name) == "options" || std::string(name) == "opens_with" ? "build." : "") + name + '\'';
        CHECK(bench.refuses("manifest.json", from, "\"x" + from.substr(1), sentence.c_str()));
    }
    CHECK(refuses(R"("tool": "qdbev-deploy 0.1.0")", R"("tool": 3)", "'tool' is 3"));
    CHECK(refuses(R"("provenance": {)", R"("provenance": [], "x": {)", "'provenance' is an empty list"));
    CHECK(refuses(R"("backend": "onnxruntime")", R"("backend": "openvino")", "an engine for the backend 'openvino'"));
    CHECK(refuses(R"("engine_file": "model.onnx")", R"("engine_file": null)", "'engine_file' is null"));
    CHECK(refuses(R"("extra_files": [])", R"("extra_files": [1])", "'extra_files[0]' is 1"));
    CHECK(refuses(R"("machine": "x86_64")", R"("machine": "\u001b[2J")", "'machine' is '\\x1b[2J'"));
    CHECK(refuses(R"("1.31.1")", "131", "'versions.onnxruntime' is 131"));
    CHECK(refuses(R"("gpu": null)", R"("gpu": "H200")", "'gpu' is 'H200'"));
    CHECK(refuses(R"("gpu": null)", R"("gpu": {"name": "Orin"})", "no field 'gpu.compute_capability'"));
    CHECK(refuses(R"("gpu": null)", R"("gpu": {"compute_capability": [8]})", "needed: a list of 2"));
    CHECK(
        refuses(R"("gpu": null)", R"("gpu": {"compute_capability": [8, 100]})", "'gpu.compute_capability[1]' is 100"));
    CHECK(refuses(
        R"({"precision": "int8", "threads")", R"({"precision": "int4", "threads")", "is 'int4'; needed: one of"));
    CHECK(refuses(
        R"("threads": null)", R"("threads": 0)", "'build.options.threads' is 0; needed: a whole number from 1"));
    CHECK(refuses(R"("threads": null)", R"("threads": 1025)", "'build.options.threads' is 1025"));
    CHECK(refuses(R"("threads": null)", R"("threads": true)", "'build.options.threads' is true"));
    CHECK(refuses(R"("fused": false)", R"("dla_core": -1, "fused": false)", "'build.options.dla_core' is -1"));
    CHECK(refuses(R"("fused": false)", R"("fused": 0)", "'build.options.fused' is 0; needed: true or false"));
    CHECK(refuses(R"("version_compatible": false)", R"("version_compatible": null)", "version_compatible' is null"));
    CHECK(refuses(R"("hardware_compatible": false)", R"("hardware_compatible": "")", "hardware_compatible' is ''"));
    CHECK(refuses(R"({"provider": "CPUExecutionProvider"})", R"({"provider": 1})", "'build.opens_with.provider' is 1"));
    CHECK(refuses(
        R"({"provider": )", R"({"fused": true, "provider": )", "'build.opens_with.fused' is true; needed: nothing"));
    CHECK(refuses(R"("notes": ["runs on CPUExecutionProvider"])", R"("notes": [{}])", "'build.notes[0]' is an object"));
    for (const char* command :
        {"rm -rf /", "qdbev-deploy", "qdbev-deploy builder", "qdbev-deploy run", " qdbev-deploy build",
            "qdbev-deploy build ", "qdbev-deploy  build", "qdbev-deploy build  x", "qdbev-deploy build; rm",
            "qdbev-deploy build $(x)", "qdbev-deploy build `x`", "qdbev-deploy build 'a", "qdbev-deploy build 'a'",
            "qdbev-deploy build 'a b'c", "qdbev-deploy build c'a b'", "qdbev-deploy build \\\"a b\\\"",
            "qdbev-deploy build 'a b'; rm", "qdbev-deploy build a\\nrm", "qdbev-deploy build 'a\\nb'",
            "qdbev-deploy build 'a\\rb'", "qdbev-deploy build 'a b'\\\"'\\\"", "qdbev-deploy build a\\tb",
            "qdbev-deploy build > x", "qdbev-deploy build \xC3\xA9", "qdbev-deploy build ''''"}) {
        CHECK(refuses("qdbev-deploy build --onnx student.onnx --int8 --backend onnxruntime -o student.qdbev", command,
            "'build.command' is '"));
    }
    for (const char* text : {"", "[]", "3", "null", "{", "{\"schema\": NaN}", "\xFF"}) {
        const std::string sentence = bench.refusal_after(
            [&] { small_bundle::write_file(bench.folder() / "manifest.json", text); });
        CHECK(check::contains(sentence, "small.qdbev: manifest.json is ") || check::contains(sentence, "has no field"));
    }
}

void test_contracts(Bench& bench)
{
    const auto refuses = [&](const char* from, const char* to, const char* sentence) {
        return bench.refuses("contract.json", from, to, sentence);
    };
    CHECK(refuses(R"("contract_version": 1)", R"("contract_version": 2)",
        "small.qdbev: contract.json is of version 2; needed: version 1. Next: use the runtime library of the release"));
    CHECK(refuses(R"("contract_version": 1)", R"("contract_version": true)", "is of version true"));
    CHECK(refuses(R"("contract_version": 1)", R"("version": 1)", "no field 'contract_version'"));
    CHECK(refuses(R"("io": "fp32")", R"("io": "fp64")", "'io' is 'fp64'; needed: one of fp32, fp16, mlperf"));
    CHECK(refuses(R"("image": "float32")", R"("image": "yuv")", "'image' is 'yuv'; needed: one of float32, uint8"));
    CHECK(refuses(R"("io": "fp32")", R"("io": "fp16")", "'inputs[1].dtype' is 'float32'; needed: 'float16'"));
    CHECK(refuses(R"("io": "fp32")", R"("io": "mlperf")", "'inputs[2].shape' is a list of 1; needed: an empty list"));
    CHECK(refuses(R"("image": "float32")", R"("image": "uint8")", "'preprocess.in_graph' is false; needed: true"));
    CHECK(refuses(R"("variant": "micro")", R"("variant": "tiny")", "'variant' is 'tiny'; needed: 'micro'"));
    CHECK(refuses(R"("bev_hw": [50, 50])", R"("bev_hw": [50, 51])", "'inputs[1].shape[0]' is 2500; needed: 2550"));
    CHECK(refuses(R"("bev_hw": [50, 50])", R"("bev_hw": [0, 50])", "'spec.bev_hw[0]' is 0"));
    CHECK(refuses(R"("bev_hw": [50, 50])", R"("bev_hw": [5000, 5000])", "at most a million cells"));
    CHECK(refuses(R"("bev_hw": [50, 50])", R"("bev_hw": [50])", "'spec.bev_hw' is a list of 1"));
    CHECK(refuses(R"("embed_dim": 128)", R"("embed_dim": 127)", "'spec.embed_dim' is 127; needed: an even number"));
    CHECK(refuses(R"("embed_dim": 128)", R"("embed_dim": 8194)", "'spec.embed_dim' is 8194"));
    CHECK(refuses(R"("embed_dim": 128)", R"("embed_dim": 128.0)", "'spec.embed_dim' is 128.0; needed: a whole number"));
    CHECK(refuses(R"("embed_dim": 128)", R"("embed_dim": 64)", "'inputs[1].shape[2]' is 128; needed: 64"));
    CHECK(refuses(R"("decoder_layers": 3)", R"("decoder_layers": 65)", "'spec.decoder_layers' is 65"));
    CHECK(refuses(R"("queries": 300)", R"("queries": 0)", "'spec.queries' is 0"));
    CHECK(refuses(R"("queries": 300)", R"("queries": 100001)", "'spec.queries' is 100001"));
    CHECK(refuses(R"("queries": 300)", R"("queries": 299)", "'outputs[1].shape[2]' is 300; needed: 299"));
    CHECK(refuses(R"("name": "prev_bev")", R"("name": "prev")", "'inputs[1].name' is 'prev'; needed: 'prev_bev'"));
    CHECK(refuses(R"("shape": [18])", R"("shape": [19])", "'inputs[3].shape[0]' is 19; needed: 18"));
    CHECK(refuses(R"("shape": [1, 6, 4, 4])", R"("shape": [6, 4, 4])", "'inputs[4].shape' is a list of 3"));
    CHECK(refuses(R"("box codes, centres in metres")", R"("box codes, centres in 0..1")", "'outputs[2].meaning' is"));
    CHECK(refuses(
        R"("meaning": "class logits")", R"("layout": "", "meaning": "class logits")", "its 4 fields and no others"));
    CHECK(refuses(R"("CAM_FRONT_RIGHT", "CAM_FRONT_LEFT")", R"("CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")",
        "'cameras[1]' is 'CAM_FRONT_LEFT'; needed: 'CAM_FRONT_RIGHT'"));
    CHECK(refuses(R"("traffic_cone"])", R"("cone"])", "'classes[9]' is 'cone'"));
    CHECK(
        refuses(R"("traffic_cone"])", R"("traffic_cone", "dog"])", "'classes' is a list of 11; needed: a list of 10"));
    CHECK(refuses(R"("sin", "cos", "vx")", R"("cos", "sin", "vx")", "'box_code[6]' is 'cos'; needed: 'sin'"));
    CHECK(refuses(R"("yaw_delta_deg": 17)", R"("yaw_delta_rad": 17)", "no field 'can_bus.yaw_delta_deg'"));
    CHECK(refuses(R"("yaw_rad": 16)", R"("yaw_rad": 16, "x": 0)", "'can_bus.x' is 0; needed: no such field"));
    CHECK(refuses(R"("velocity": [13, 16])", R"("velocity": [12, 16])", "'can_bus.velocity[0]' is 12; needed: 13"));
    CHECK(refuses(R"("max_gap_s": 2.0)", R"("max_gap_s": 0.0)", "'state.max_gap_s' is 0.0; needed: a positive number"));
    CHECK(refuses(R"("flag": "use_prev_bev")", R"("flag": "use")", "'state.flag' is 'use'; needed: 'use_prev_bev'"));
    CHECK(refuses(
        R"("max_gap_s": 2.0)", R"("max_gap_s": 2.0, "delay": 1)", "'state' is an object; needed: its 4 fields"));
    CHECK(refuses(
        "sigmoid of the", "softmax of the", "'decode.score' is 'softmax of the class logit'; needed: 'sigmoid"));
    CHECK(refuses("-r - pi/2", "r", "'decode.yaw' is"));
    CHECK(refuses("exp of log_w", "log of log_w", "'decode.size' is"));
    CHECK(refuses("ties by rising index", "ties at random", "'decode.candidates' is"));
    CHECK(refuses(R"("score": )", R"("nms": 0.5, "score": )", "'decode' is an object; needed: its 6 fields"));
    CHECK(refuses(
        R"("rotate_center": null, "max_boxes": 200)", R"("max_boxes": 100)", "'decode.max_boxes' is 200; needed: 100"));

    // What the specification and its copy say alike.
    const auto both = [&](const std::string& from, const std::string& to) {
        return bench.refusal([&](Documents& documents) {
            std::string& contract = documents.files["contract.json"];
            const std::size_t first = contract.find(from);
            contract.replace(first, from.size(), to);
            replace(contract, from, to);
        });
    };
    CHECK(check::contains(both("\"max_boxes\": 200", "\"max_boxes\": 3001"), "'decode.max_boxes' is 3001"));
    CHECK(check::contains(both("\"max_boxes\": 200", "\"max_boxes\": 0"), "'decode.max_boxes' is 0"));
    CHECK(check::contains(both("-61.2, -61.2, -10.0, 61.2", "61.2, -61.2, -10.0, 61.2"),
        "'decode.post_center_range[0]' is 61.2; needed: less than the upper end of its range, 61.2"));
    CHECK(check::contains(both("-61.2, -61.2, -10.0", "-61.2, -61.2"), "'decode.post_center_range' is a list of 5"));
    CHECK(check::contains(both("[58.395,", "[0.0,"), "'preprocess.std[0]' is 0.0; needed: a positive number"));
    CHECK(check::contains(both("[58.395,", "[1e-60,"), "'preprocess.std[0]' is 1e-60"));
    CHECK(check::contains(both("[123.675,", "[1e39,"), "'preprocess.mean[0]' is 1e+39; needed: a number of single"));
    CHECK(check::contains(both("[123.675,", "["), "'preprocess.mean' is a list of 2"));
    CHECK(check::contains(both("\"rgb\"", "\"yuv\""), "'preprocess.channel_order' is 'yuv'"));
    CHECK(check::contains(both("\"source_hw\": [900,", "\"source_hw\": [0,"), "'preprocess.source_hw[0]' is 0"));
    CHECK(check::contains(both("\"source_hw\": [900,", "\"source_hw\": [901,"), "'preprocess.scale_xy[1]' is 0.2"));
    CHECK(
        check::contains(both("\"padded_hw\": [192,", "\"padded_hw\": [20001,"), "'preprocess.padded_hw[0]' is 20001"));
    CHECK(check::contains(both("\"padded_hw\": [192,", "\"padded_hw\": [179,"), "'preprocess.resized_hw[0]' is 180"));
    CHECK(check::contains(
        both("\"padded_hw\": [192,", "\"padded_hw\": [224,"), "'inputs[0].shape[3]' is 192; needed: 224"));
    CHECK(refuses(R"("in_graph": false, "channel_order": "rgb")", R"("in_graph": false, "channel_order": "bgr")",
        "'preprocess.channel_order' is 'bgr'; needed: 'rgb'"));
    CHECK(refuses(R"("scale_xy": )", R"("crop": 1, "scale_xy": )", "'preprocess' is an object; needed: its 8 fields"));
    CHECK(refuses(R"({"channel_order")", R"({"crop": 1, "channel_order")",
        "'spec.preprocess' is an object; needed: its 6 fields"));
    for (const char* text : {"", "[]", "{", "{}", "null"}) {
        CHECK(check::contains(bench.refusal([&](Documents& documents) { documents.files["contract.json"] = text; }),
            "small.qdbev: contract.json "));
    }
}

void test_reports(Bench& bench)
{
    CHECK(bench.refuses("layers.json", "qdbev-layers/1", "qdbev-layers/2", "'schema' is 'qdbev-layers/2'; needed"));
    CHECK(bench.refuses("layers.json", R"("kind": "Conv")", R"("kind": 1)", "'layers[0].kind' is 1"));
    CHECK(bench.refuses("layers.json", R"("outputs": [])", R"("outputs": 1)", "'layers[0].outputs' is 1"));
    CHECK(bench.refuses("layers.json", R"("precision")", R"("precise")", "no field 'layers[0].precision'"));

    CHECK(bench.refuses("guard.json", "qdbev-guard/1", "qdbev-layers/1", "'schema' is 'qdbev-layers/1'; needed"));
    CHECK(bench.refuses(
        "guard.json", R"("passed": true)", R"("passed": false)", "says that the precision guard did not pass"));
    CHECK(bench.refuses(
        "guard.json", R"("passed": true)", R"("passed": 1)", "says that the precision guard did not pass"));
    CHECK(bench.refuses(
        "guard.json", R"("ran": "folded")", R"("ran": "float16")", "that the precision guard did not pass"));
    CHECK(bench.refuses("guard.json", R"("layers": ["conv"],
 "allowed": "onnxruntime-emulates-int8")",
        R"("allowed": "")", "that the precision guard did not pass"));
    CHECK(bench.refuses("guard.json", R"("ran": "folded")", R"("was": "folded")", "no field 'nodes[1].ran'"));
    CHECK(bench.refuses("guard.json", R"("nodes": [)", R"("nodes": null, "x": [)", "'nodes' is null"));
    CHECK(bench.refuses("guard.json", R"("ran_int8": 0)", R"("ran_int8": 1)",
        "manifest.json says of 'precision.ran_int8' what guard.json does not; needed: one story in both"));
    CHECK(bench.refuses("guard.json", R"("asked_int8": 2)", R"("asked_int8": 2, "more": 0)", "'precision.more'"));
    CHECK(bench.refuses("guard.json", R"("asked_int8": 2)", R"("asked_int8": 2, "precision": "fp8")",
        "guard.json says of 'precision' what the build does not"));
    CHECK(bench.refuses("guard.json", R"("asked_int8": 2)", R"("asked_int8": 2, "emulated": false)",
        "guard.json says of 'emulated' what the build does not"));
    CHECK(bench.refuses("manifest.json", R"("asked_int8": 2)", R"("asked_int8": 2, "more": 0)", "'precision.more'"));
    CHECK(bench.refuses("manifest.json", R"("emulated": true)", R"("emulated": false)", "'precision.emulated'"));
    CHECK(bench.refuses("manifest.json", R"({"precision": "int8", "emulated")", R"({"precision": "fp32", "emulated")",
        "'precision.precision'"));
    CHECK(bench.refuses("manifest.json", R"("folded": 1,)", R"("folded": true,)", "'precision.folded'"));

    CHECK(bench.refuses("parity.json", "qdbev-engine-parity/1", "other", "'schema' is 'other'; needed"));
    CHECK(bench.refuses(
        "parity.json", R"("passed": true)", R"("passed": false)", "parity.json says that parity did not pass"));
    CHECK(bench.refuses("parity.json", R"("failures": [])", R"("failures": ["a"])", "says that parity did not pass"));
    CHECK(bench.refuses("parity.json", R"("failures": [])", R"("failure": [])", "no field 'failures'"));
    CHECK(bench.refuses("parity.json", R"("same_state")", R"("other_state")", "no field 'same_state'"));
    CHECK(bench.refuses(
        "parity.json", R"("boxes": {"center_m": 0.25})", R"("boxes": [])", "'same_state.boxes' is an empty"));
    struct Change {
        const char *from, *to, *field;
    };
    for (const Change& change : {Change{R"("two scenes)", R"("three scenes)", "'parity.frames_are'"},
             {R"("arithmetic": "fp32")", R"("arithmetic": "fp16")", "'parity.tolerance'"},
             {R"("reference": ")", R"("reference": "x)", "'parity.reference'"},
             {R"("frames": 4)", R"("frames": 5)", "'parity.frames'"}, {R"("new scene")", R"("")", "'parity.resets'"},
             {"1e-07", "2e-07", "'parity.outputs_relative'"},
             {R"("center_m": 0.25)", R"("center_m": 0.26)", "'parity.box_center_m'"},
             {R"("detections": 1.0)", R"("detections": 0.9)", "'parity.detections'"},
             {R"("detections": 0.5)", R"("detections": 0.6)", "'parity.detections_own_state'"}}) {
        CHECK(bench.refuses("parity.json", change.from, change.to, change.field));
    }
    CHECK(bench.refuses("manifest.json", R"("resets": 2)", R"("resets": 2, "more": 1)", "'parity.more'"));

    const auto without_report = [&](const char* parity) {
        return bench.refusal([&](Documents& documents) {
            const std::size_t from = documents.manifest.find("\"parity\": {");
            documents.manifest.replace(
                from, documents.manifest.find("\"provenance\"") - from, "\"parity\": " + std::string(parity) + ", ");
            documents.files.erase("parity.json");
        });
    };
    CHECK(check::contains(
        without_report(R"({"passed": true, "not_proved": []})"), "speaks of a parity, and there is no parity"));
    CHECK(check::contains(without_report(R"({"passed": null})"), "no field 'parity.not_proved'"));
    CHECK(check::contains(without_report(R"({"not_proved": []})"), "no field 'parity.passed'"));
    CHECK(check::contains(without_report(R"({"passed": null, "not_proved": [1]})"), "'parity.not_proved[0]' is 1"));
    CHECK(check::contains(without_report(R"({"passed": null, "not_proved": "x"})"), "'parity.not_proved' is 'x'"));
}

// A file that changes after the bundle was opened is not what is loaded.
void test_bytes_that_are_loaded(Bench& bench)
{
    const Bundle bundle = bench.opened();
    const std::vector<char> bytes = bundle.read(bundle.engine_file);
    CHECK(bytes.size() == fs::file_size(bundle.engine_file));
    std::string text(bytes.begin(), bytes.end());
    text[text.size() / 2] = static_cast<char>(text[text.size() / 2] ^ 1);
    small_bundle::write_file(bundle.engine_file, text);
    CHECK(check::contains(check::refusal([&] { bundle.read(bundle.engine_file); }), "model.onnx was changed"));
    fs::remove(bundle.engine_file);
    CHECK(check::contains(check::refusal([&] { bundle.read(bundle.engine_file); }), "model.onnx is not there"));
}

}  // namespace

int main()
{
    Bench bench;
    test_what_is_read(bench);
    test_contract_helpers();
    test_other_contracts(bench);
    test_other_manifests(bench);
    test_folders(bench);
    test_files(bench);
    test_bytes_that_are_loaded(bench);
    test_manifests(bench);
    test_contracts(bench);
    test_reports(bench);
    return check::report();
}
