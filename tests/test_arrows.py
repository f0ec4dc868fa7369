"""Tests of the import rules between packages: the tables of ARCHITECTURE.md."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command_line.invocation import COMMANDS
from tests.support.paths import ROOT

OWN = ("segmodels", "datamodules", "experiments")

# A file or folder of segmodels, and what of segmodels it may import beside itself and `parts`.
NETWORKS = {"module", "paper", "recipe"}
SEGMODELS = {
    "parts": {"nearest_names"},
    "recipe": set(),
    "nearest_names": set(),
    "network_identity": set(),
    "metrics": set(),
    "inference_modes": {"recipe"},
    "folding": set(),
    "averaged_weights": set(),
    "module": {
        "recipe",
        "network_identity",
        "metrics",
        "inference_modes",
        "folding",
        "averaged_weights",
    },
    "paper": {"module", "recipe", "nearest_names", "network_identity"},
    "released_checkpoints": {"module", "paper"},
    "own_checkpoints": {"module", "paper", "recipe", "released_checkpoints", "network_identity"},
    "deploy": {"module", "folding"},
    "onnx_form": {"module", "deploy", "folding"},
    "prediction": {"module", "inference_modes", "onnx_form"},
    "families": {"module", "paper", "recipe"},
    "architectures": NETWORKS | {"families"},
    "ports": NETWORKS | {"families", "architectures"},
    "semisup_method": {"module", "inference_modes", "network_identity"},
    "semisup": {"semisup_method", "module", "inference_modes", "paper"},
}
PARTS_MAY_USE = {"torch", "numpy", "timm"}

# Packages of datamodules, lowest first: each may import those before it. Data sets are files of their own and last.
DATAMODULES = (
    "errors",
    "labels",
    "file_trees",
    "progress",
    "thread_pools",
    "reading",
    "packs",
    "sampling",
    "corruptions",
    "images",
    "module",
    "built_in",
    "scenes",
)

# Packages of experiments, and which others they may import beside what they read of segmodels and datamodules.
EXPERIMENTS = {
    "command_line": set(),
    "records": {"command_line"},
    "drawing": {"command_line"},
    "reports": {"command_line", "records"},
    "prediction": {"command_line", "records", "drawing", "reports"},
    "benchmarks": {"command_line", "records", "reports"},
    "data_check": {"command_line", "records", "drawing", "reports"},
    "evaluation": {"command_line", "records", "drawing", "reports", "benchmarks"},
    "training": {"command_line", "records", "drawing", "reports", "evaluation"},
    "sweep": {"command_line", "records", "reports", "training"},
    "results": set(),
}
WITHOUT_TORCH = ("command_line", "records")


def imports(file: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    file = ROOT / f"{package}.py"
    return [file] if file.is_file() else sorted((ROOT / package).rglob("*.py"))


def second_names(file: Path, package: str) -> set[str]:
    """ "crops" of "datamodules.crops.Crop", for all that a file imports from a package."""
    parts = [name.split(".") for name in imports(file)]
    return {each[1] for each in parts if each[0] == package and len(each) > 1}


def known(package: str) -> set[str]:
    """The files and folders right below a package."""
    return {
        file.stem for file in (ROOT / package).iterdir() if file.suffix == ".py" or file.is_dir()
    }


@pytest.mark.parametrize("part", SEGMODELS)
def test_a_part_of_segmodels_imports_only_what_it_may(part: str) -> None:
    allowed = SEGMODELS[part] | {part, "parts"}
    for file in files(f"segmodels/{part}"):
        beyond = (second_names(file, "segmodels") & known("segmodels")) - allowed
        assert not beyond, f"{file.relative_to(ROOT)} imports {sorted(beyond)}"


def test_every_part_of_segmodels_has_a_rule() -> None:
    assert known("segmodels") - {"__init__", "__pycache__"} == set(SEGMODELS)


@pytest.mark.parametrize("package", ["segmodels", "datamodules"])
def test_networks_and_data_import_neither_each_other_nor_experiments(package: str) -> None:
    others = set(OWN) - {package}
    for file in files(package):
        found = {name.split(".")[0] for name in imports(file)} & others
        assert not found, f"{file.relative_to(ROOT)} imports {sorted(found)}"


def test_a_package_of_datamodules_imports_only_those_before_it() -> None:
    for place, part in enumerate(DATAMODULES):
        allowed = set(DATAMODULES[: place + 1])
        for file in files(f"datamodules/{part}"):
            beyond = (second_names(file, "datamodules") & known("datamodules")) - allowed
            assert not beyond, f"{file.relative_to(ROOT)} imports {sorted(beyond)}"


def test_no_data_set_imports_another() -> None:
    sets = known("datamodules") - set(DATAMODULES) - {"__init__", "__pycache__", "lists"}
    for name in sets:
        assert not second_names(ROOT / f"datamodules/{name}.py", "datamodules") & sets


@pytest.mark.parametrize("part", EXPERIMENTS)
def test_a_package_of_experiments_imports_only_what_it_may(part: str) -> None:
    allowed = EXPERIMENTS[part] | {part}
    for file in files(f"experiments/{part}"):
        beyond = (second_names(file, "experiments") & known("experiments")) - allowed
        assert not beyond, f"{file.relative_to(ROOT)} imports {sorted(beyond)}"


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_files_do_not_import_each_other_in_a_circle() -> None:
    """Imports inside functions count too, and those that are for types alone."""
    own = {module_name(file): file for package in OWN for file in files(package)}
    arrows = {}
    for name, file in own.items():
        found = {each if each in own else each.rpartition(".")[0] for each in imports(file)}
        arrows[name] = (found & own.keys()) - {name}
    graphlib.TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize("package", OWN)
def test_the_page_on_architecture_names_every_package(package: str) -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    folders = [each.name for each in (ROOT / package).iterdir() if (each / "__init__.py").is_file()]
    assert folders and [name for name in folders if f"`{name}/`" not in page] == []


def commands() -> set[str]:
    """The files of experiments but for those by which Python and `segmodels` find them."""
    files = (ROOT / "experiments").glob("*.py")
    return {file.stem for file in files} - {"__init__", "__main__", "experiments"}


def test_every_command_is_found_by_its_name() -> None:
    assert set(COMMANDS) == commands()


def test_every_package_of_experiments_has_a_rule() -> None:
    folders = {each.name for each in (ROOT / "experiments").iterdir() if each.is_dir()}
    assert folders - {"__pycache__"} == set(EXPERIMENTS)


def test_a_command_is_imported_by_nobody() -> None:
    for file in files("experiments"):
        found = second_names(file, "experiments") & commands()
        assert not found, f"{file.relative_to(ROOT)} imports {sorted(found)}"


def test_no_file_imports_the_tests() -> None:
    for file in [file for package in OWN for file in files(package)]:
        assert not any(name.split(".")[0] == "tests" for name in imports(file)), file


def test_no_test_imports_another() -> None:
    """What two of them need stands in tests/support."""
    for file in (ROOT / "tests").rglob("*.py"):
        borrowed = {name for name in imports(file) if ".test_" in f".{name}"}
        if file.name == "test_tools.py":
            borrowed -= {f"tests.tools.{name}" for name in known("tests/tools")}
        assert not borrowed, f"{file.relative_to(ROOT)} imports {sorted(borrowed)}"


def test_experiments_bears_no_name_of_the_standard_library() -> None:
    assert not known("experiments") & set(sys.stdlib_module_names)


def test_a_command_hides_no_foreign_package(tmp_path: Path) -> None:
    """The folder of a script comes first on the import path, where `evaluate` is a command of ours."""
    script = "import runpy, sys; sys.argv = [sys.argv[1], '--help']\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit: pass\nimport evaluate"
    (tmp_path / "evaluate.py").write_text("print('the foreign package')")
    environment = {"PYTHONPATH": f"{ROOT / 'experiments'}:{ROOT}:{tmp_path}", "PATH": ""}
    said = subprocess.run(
        [sys.executable, "-c", script, ROOT / "experiments/run.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.endswith("the foreign package\n")


def test_packages_that_answer_at_once_import_no_torch() -> None:
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for part in WITHOUT_TORCH
        for file in files(f"experiments/{part}")
    ]
    script = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_parts_use_torch_numpy_and_timm_alone() -> None:
    for file in files("segmodels/parts"):
        outside = {name.split(".")[0] for name in imports(file)}
        outside -= set(sys.stdlib_module_names) | {"segmodels"}
        assert outside <= PARTS_MAY_USE, f"{file.name} imports {sorted(outside - PARTS_MAY_USE)}"


def test_only_one_architecture_imports_smp() -> None:
    users = [
        file.name
        for file in (ROOT / "segmodels").rglob("*.py")
        if any(name.split(".")[0] == "segmentation_models_pytorch" for name in imports(file))
    ]
    assert users in ([], ["smp.py"])


def test_every_interpolation_says_whether_corners_are_aligned() -> None:
    without_corners = ("'nearest'", "'nearest-exact'", "'area'")
    for file in (ROOT / "segmodels").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("interpolate"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert "align_corners" in given or given.get("mode") in without_corners, (
                    f"{file.name}:{node.lineno}"
                )
