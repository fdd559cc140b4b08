"""The shape of the house: which package may import which, what an import pulls in, what a docstring says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import delineate
import delineate.losses as L

ROOT = Path(delineate.__file__).parent
LAYERS = [
    {"ops"},
    {"target"},
    {"losses", "metrics", "data"},
    {"semi", "advice", "evaluation"},
    {"training", "report", "nnunet"},
    {"arguments", "failures", "terminal"},
    {"inspection"},
    {"cli", "__main__"},
]
"""Imports go down only; parts of one layer do not import each other."""
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
MODULES = sorted(ROOT.rglob("*.py"))
TRAINING_ONLY = ("torchvision", "lightning", "monai", "segmentation_models_pytorch", "matplotlib", "PIL", "nibabel")
SECTIONS = ("Args", "Shape", "Range", "Absent", ">>>", "Use for", "Not for", "Notes", "Reference")


def part_of(path):
    """The part of the package a module belongs to: its first folder, or its own name."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path):
    """Full names of all that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.parents[node.level - 1].relative_to(ROOT.parent).parts if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{name.name}" for name in node.names)


def parts_imported(path):
    names = (name.split(".") for name in imported(path))
    return {name[1] for name in names if name[0] == "delineate" and len(name) > 1 and name[1] != "__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    part = part_of(path)
    if part == "__init__":
        assert not parts_imported(path)
        return
    assert part in LEVEL, f"give {part} its place in LAYERS"
    for other in parts_imported(path) - {part}:
        assert LEVEL[other] < LEVEL[part] or (part, other) == ("__main__", "cli"), f"{part} must not import {other}"


def test_the_check_of_imports_finds_them(tmp_path):
    module = tmp_path / "module.py"
    module.write_text("import delineate.cli\ndef f():\n    from delineate import training\n    from torch import nn\n")
    assert parts_imported(module) == {"cli", "training"}
    assert set(imported(module)) == {"delineate.cli", "delineate.training", "torch.nn"}
    assert "delineate.losses.loss.Loss" in imported(ROOT / "losses" / "region.py")


def test_report_does_not_import_torch():
    for path in (p for p in MODULES if part_of(p) == "report"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "lightning", "torchvision"}, path


def modules_after(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize("package", ["losses", "metrics"])
def test_losses_and_metrics_need_nothing_of_training(package):
    found = modules_after(f"import delineate.{package}")
    assert "torch" in found
    assert not found & set(TRAINING_ONLY)


def test_no_module_without_a_subject():
    assert not {"utils", "util", "common", "base", "helpers", "misc"} & {path.stem for path in MODULES}


PUBLIC = [getattr(L, name) for name in L.__all__ if name.endswith("Loss") and name != "Loss"]


@pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)
def test_docstring_of_a_loss_is_complete(cls):
    text = cls.__doc__ or ""
    lines = text.splitlines()
    assert lines[0].strip().endswith("."), "the first line says what is penalised"
    found = [section for section in SECTIONS if any(line.strip().startswith(section) for line in lines)]
    assert found == list(SECTIONS)
