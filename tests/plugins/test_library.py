"""Finding the library, and what it says of itself against the contract."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from qdbev_deploy import contract, machine, plugins
from qdbev_deploy.errors import ExitCode, QdbevError


def test_version_and_abi_are_those_of_the_header_and_the_package(library: plugins.PluginLibrary) -> None:
    source = plugins.source_folder()
    assert source is not None
    header = (source / "include" / "qdbev" / "version.h").read_text()
    assert f'#define QDBEV_VERSION "{library.info.version}"' in header
    assert f"#define QDBEV_ABI {plugins.ABI}\n" in header
    assert library.info.abi == plugins.ABI
    numbers = [line.split()[-1] for line in header.splitlines() if "QDBEV_VERSION_" in line]
    assert library.info.version == ".".join(numbers)


SCHEMAS = contract.OPS


def test_every_op_has_a_schema_and_every_schema_an_op(library: plugins.PluginLibrary) -> None:
    assert set(library.info.ops) == set(SCHEMAS)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_ops_are_those_of_the_contract(library: plugins.PluginLibrary, name: str) -> None:
    schema = SCHEMAS[name]
    described = library.info.description[name]
    assert [item["name"] for item in described["inputs"]] == list(schema.inputs)
    assert [item["rank"] for item in described["inputs"]] == [len(shape) for shape in schema.inputs.values()]
    fields = {item["name"]: item["kind"] for item in described["fields"]}
    assert fields == {**schema.attributes, **schema.engine_attributes}
    optional = {item["name"] for item in described["fields"] if not item["required"]}
    assert optional == {"value_scale", *schema.engine_attributes}


def test_environment_names_the_library(
    library: plugins.PluginLibrary, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(plugins.LIBRARY_VARIABLE, str(library.info.path))
    assert plugins.library_info().to_dict() == plugins.library_info(plugins.find_library()).to_dict()
    monkeypatch.setenv(plugins.LIBRARY_VARIABLE, str(tmp_path / "absent.so"))
    with pytest.raises(QdbevError, match="not a file") as error:
        plugins.find_library()
    assert error.value.exit_code == ExitCode.MISSING


def test_no_library_names_the_command_that_builds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugins.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(plugins, "library_candidates", lambda: [Path("/nonexistent/lib.so")])
    with pytest.raises(QdbevError) as error:
        plugins.find_library()
    assert error.value.next_step == "qdbev-deploy plugins build"
    assert error.value.exit_code == ExitCode.MISSING


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / plugins.LIBRARY_NAME
    bad.write_bytes(b"not a library")
    with pytest.raises(QdbevError, match="cannot be loaded as a plugin library"):
        plugins.library_info(bad)


GOOD = (
    f'{{"version": "0", "abi": {plugins.ABI}, "cuda_architectures": null, "tensorrt": null, '
    '"ops": [{"name": "A", "inputs": [], "fields": []}]}'
)


def library_that_says(folder: Path, description: str | None) -> Path:
    """A shared library with the C interface whose description is the given one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on this machine")
    text = "0" if description is None else json.dumps(description)
    (folder / "fake.c").write_text(
        f"const char* qdbev_describe(void) {{ return {text}; }}\n"
        "int qdbev_host_run(void) { return 0; }\nint qdbev_cuda_run(void) { return 0; }\n"
    )
    path = folder / plugins.LIBRARY_NAME
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(folder / "fake.c")], check=True)
    return path


@pytest.mark.parametrize(
    "description",
    [
        None, "", "no json", "{}", "[1]", "null", "3", GOOD.replace('"0"', "0"), GOOD.replace('"A"', "1"),
        GOOD.replace('"fields": []', '"fields": [{"name": "b"}]'), GOOD.replace('"fields": []', '"fields": 4'),
        GOOD.replace('"tensorrt": null', '"tensorrt": 10'), GOOD.replace(f'"abi": {plugins.ABI}', '"abi": "x"'),
        GOOD.replace("[{", "{").replace("}]}", "}}"),
    ],
)  # fmt: skip
def test_a_library_that_describes_itself_wrongly_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, description: str | None
) -> None:
    path = library_that_says(tmp_path, description)
    with pytest.raises(QdbevError, match="cannot be loaded as a plugin library"):
        plugins.library_info(path)
    monkeypatch.setenv(plugins.LIBRARY_VARIABLE, str(path))
    line = next(finding for finding in machine.examine(("tensorrt",)) if finding.item == "plugin library")
    assert line.status == "missing"


def test_a_relative_path_is_that_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library_that_says(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    assert plugins.library_info(plugins.LIBRARY_NAME).path == tmp_path / plugins.LIBRARY_NAME


def test_another_abi_is_refused_before_its_description_is_read(tmp_path: Path) -> None:
    with pytest.raises(QdbevError, match=r"has ABI 99"):
        plugins.library_info(library_that_says(tmp_path, '{"abi": 99}'))
