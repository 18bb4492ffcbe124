"""What others build on: the installed package, found by CMake; a program of theirs that catches our errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest

import qdbev_deploy
from tests.runtime.programs import ROOT, VARIABLE, program

CMAKE = """
cmake_minimum_required(VERSION 3.20)
project(theirs LANGUAGES CXX)
find_package(qdbev_runtime {version} REQUIRED)
add_executable(theirs theirs.cpp)
target_link_libraries(theirs PRIVATE qdbev::runtime)
"""

THEIRS = """
#include <iostream>
#include <qdbev_runtime/c_api.h>
#include <qdbev_runtime/engine.h>

int main()
{
    try {
        auto engine = qdbev::runtime::Engine::open("nowhere.qdbev");
    } catch (const qdbev::runtime::Error& error) {
        char sentence[200];
        qdbev_rt_engine* engine = nullptr;
        const int code = qdbev_rt_open("nowhere.qdbev", nullptr, &engine, sentence, sizeof sentence);
        std::cout << qdbev_rt_version() << "|" << static_cast<int>(error.code()) << "|" << code << "|" << error.what();
        return 0;
    }
    return 1;
}
"""


def test_a_program_of_others_finds_builds_and_catches(tmp_path: Path) -> None:
    program("qdbev-stream")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake on the PATH")
    installed, source, build = tmp_path / "installed", tmp_path / "theirs", tmp_path / "build"
    subprocess.run([cmake, "--install", os.environ[VARIABLE], "--prefix", installed], check=True, capture_output=True)
    source.mkdir()
    (source / "CMakeLists.txt").write_text(CMAKE.format(version=qdbev_deploy.__version__), encoding="utf-8")
    (source / "theirs.cpp").write_text(textwrap.dedent(THEIRS), encoding="utf-8")
    subprocess.run([cmake, "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={installed}"], check=True,
                   capture_output=True)  # fmt: skip
    subprocess.run([cmake, "--build", build], check=True, capture_output=True)
    said = subprocess.run([build / "theirs"], check=True, capture_output=True, text=True).stdout.split("|")
    assert said[:3] == [qdbev_deploy.__version__, "3", "3"]
    assert "nowhere.qdbev" in said[3]


def test_only_what_the_headers_declare_leaves_the_library() -> None:
    library = program("qdbev-stream").parent / "libqdbev_runtime.so"
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm on the PATH")
    listed = subprocess.run([nm, "-DC", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    names = [line.split(maxsplit=2)[2] for line in listed.splitlines()]
    ours = [name for name in names if not re.match(r"(std::|__gnu|void std::|typeinfo|vtable|_init|_fini)", name)]
    strangers = [name for name in ours if not re.match(r"(qdbev_rt_|qdbev::runtime::)", name)]
    assert strangers == []
    public = ("Engine", "Session", "Error", "Status", "TensorSpec", "size_of", "name_of", "scale_lidar2img")
    inside = [name for name in ours if name.startswith("qdbev::runtime::")
              and not name.removeprefix("qdbev::runtime::").startswith(public)]  # fmt: skip
    assert inside == []


def test_the_headers_need_nothing_but_the_standard(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on the PATH")
    folder = ROOT / "runtime" / "include"
    for header in sorted((folder / "qdbev_runtime").glob("*.h")):
        source = tmp_path / f"{header.stem}.cpp"
        source.write_text(f"#include <qdbev_runtime/{header.name}>\n", encoding="utf-8")
        strict = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{folder}"]
        subprocess.run([compiler, *strict, source], check=True)


def test_the_library_has_the_packages_version() -> None:
    text = (ROOT / "runtime" / "include" / "qdbev_runtime" / "version.h").read_text(encoding="utf-8")
    assert f'QDBEV_RUNTIME_VERSION "{qdbev_deploy.__version__}"' in text
