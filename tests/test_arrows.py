"""Who may import whom: the boxes of ARCHITECTURE.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN = ("segmodels", "datamodules", "experiments")
ANY = {"segmodels.parts"}
# A box, and what of the project it may import. `parts` and everything else of segmodels may be imported as written, never above.
ALLOWED = {
    "segmodels/parts": ANY,
    "segmodels/recipe.py": set(),
    "segmodels/metrics": ANY | {"segmodels.metrics"},
    "segmodels/inference.py": ANY | {"segmodels.recipe"},
    "segmodels/module.py": ANY
    | {"segmodels.recipe", "segmodels.metrics", "segmodels.inference", "segmodels"},
    "segmodels/paper.py": ANY | {"segmodels.module", "segmodels.recipe"},
    "segmodels/released.py": ANY | {"segmodels.module", "segmodels.paper"},
    "segmodels/checkpoint.py": ANY
    | {"segmodels.module", "segmodels.paper", "segmodels.recipe", "segmodels.released"},
    "segmodels/deploy.py": ANY | {"segmodels.module"},
    "segmodels/families": ANY | {"segmodels.module"},
    "segmodels/architectures": ANY
    | {"segmodels.families"}
    | {"segmodels.module", "segmodels.paper", "segmodels.recipe", "segmodels.released"},
    "segmodels/ports": ANY
    | {
        "segmodels.ports",
        "segmodels.families",
        "segmodels.module",
        "segmodels.paper",
        "segmodels.recipe",
        "segmodels.released",
        "segmodels.architectures",
    },
    "segmodels/method.py": ANY | {"segmodels.module", "segmodels.inference"},
    "segmodels/semisup": ANY
    | {"segmodels.method", "segmodels.module", "segmodels.inference", "segmodels.paper"},
    "datamodules": {"datamodules"},
}
PARTS_MAY_USE = {"torch", "numpy", "timm"}


def imports(file: Path) -> set[str]:
    """Module names that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found


def files(box: str) -> list[Path]:
    place = ROOT / box
    return [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))


@pytest.mark.parametrize("box", ALLOWED)
def test_a_box_imports_only_what_its_arrows_reach(box: str) -> None:
    for file in files(box):
        ours = {name for name in imports(file) if name.split(".")[0] in OWN}
        beyond = {
            name
            for name in ours
            if not any(
                name == each or name.startswith(each + ".") for each in ALLOWED[box] - {"segmodels"}
            )
        }
        assert not beyond - (ALLOWED[box] & {"segmodels"}), (
            f"{file.relative_to(ROOT)} imports {sorted(beyond)}"
        )


def test_parts_use_torch_numpy_and_timm_alone() -> None:
    import sys

    for file in files("segmodels/parts"):
        outside = (
            {name.split(".")[0] for name in imports(file)}
            - set(sys.stdlib_module_names)
            - {"segmodels"}
        )
        assert outside <= PARTS_MAY_USE, f"{file.name} imports {sorted(outside - PARTS_MAY_USE)}"


def test_only_one_architecture_imports_smp() -> None:
    users = [
        file.name
        for file in (ROOT / "segmodels").rglob("*.py")
        if "segmentation_models_pytorch" in imports(file)
    ]
    assert users in ([], ["smp.py"])


def test_every_interpolation_says_whether_corners_are_aligned() -> None:
    for file in (ROOT / "segmodels").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("interpolate"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert "align_corners" in given or given.get("mode") in ("'nearest'", "'area'"), (
                    f"{file.name}:{node.lineno}"
                )
