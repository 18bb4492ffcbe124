// Engine and Session: what the public header promises, on a backend and a sequence.
#include "qdbev_runtime/engine.h"

#include <utility>

#include "backend.h"
#include "bundle.h"
#include "sequence.h"

namespace qdbev::runtime {
namespace {

Status moved_away() noexcept
{
    return {Code::usage, "a session that was moved away", "the one that it was moved to", "use that"};
}

}  // namespace

struct Engine::Impl {
    Bundle bundle;
    std::unique_ptr<Backend> backend;
};

struct Session::Impl {
    std::shared_ptr<const Engine::Impl> engine;  // before the sequence, whose buffers are its backend's
    Sequence sequence;
};

Engine Engine::open(const std::string& bundle, const EngineOptions& options)
{
    Bundle opened = Bundle::open(bundle);
    std::unique_ptr<Backend> backend =
        opened.backend == "tensorrt" ? open_tensorrt(opened, options) : open_onnxruntime(opened, options);
    return Engine(std::make_shared<const Impl>(Impl{std::move(opened), std::move(backend)}));
}

Engine::Engine(std::shared_ptr<const Impl> impl) noexcept : impl_(std::move(impl)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

const Contract& Engine::contract() const noexcept
{
    return impl_->bundle.contract;
}

const std::string& Engine::backend() const noexcept
{
    return impl_->bundle.backend;
}

const std::string& Engine::precision() const noexcept
{
    return impl_->bundle.precision;
}

Session Engine::session(const SessionOptions& options) const
{
    if (!impl_) {
        throw Error(Code::usage, "an engine that was moved away", "the one that it was moved to", "use that");
    }
    require_usable(options);
    std::unique_ptr<Stream> stream = impl_->backend->stream(options);
    return Session(std::unique_ptr<Session::Impl>(
        new Session::Impl{impl_, Sequence(impl_->bundle.contract, std::move(stream), options)}));
}

Session::Session(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&&) noexcept = default;
Session::~Session() = default;

Status Session::step(const Frame& frame, StepOutput& output) noexcept
{
    return impl_ ? impl_->sequence.step(frame, output) : moved_away();
}

void Session::reset() noexcept
{
    if (impl_) {
        impl_->sequence.reset();
    }
}

void* Session::image_buffer(Memory memory) noexcept
{
    return impl_ ? impl_->sequence.image_buffer(memory) : nullptr;
}

const float* Session::classes() const noexcept
{
    return impl_ ? impl_->sequence.stream().classes() : nullptr;
}

const float* Session::coords() const noexcept
{
    return impl_ ? impl_->sequence.stream().coords() : nullptr;
}

Status Session::read_state(void* out, std::size_t bytes) noexcept
{
    return impl_ ? impl_->sequence.read_state(out, bytes) : moved_away();
}

void* Session::cuda_stream() const noexcept
{
    return impl_ ? impl_->sequence.stream().cuda_stream() : nullptr;
}

}  // namespace qdbev::runtime
