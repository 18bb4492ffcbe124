"""Finding the library, and what it says of itself against the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from qdbev_deploy import contract, plugins
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
    # The library can also write int8; a graph of the contract does not ask for it.
    assert fields.pop("output_scale") == "float"
    assert fields == schema.attributes


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
