"""The shape of the repository: which way imports flow, how long files are, what packages may not do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "data": {"data"},
    "vae3d": {"vae3d"},
    "video_dit": {"video_dit", "data", "vae3d"},
    "tools": {"tools", "train", "video_dit", "data", "vae3d"},
    "train": {"train", "video_dit", "data", "vae3d"},
}
PACKAGES = ("data", "vae3d", "video_dit")
FOLDERS = (*PACKAGES, "tools", "tests")
FILES = sorted(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = [*(name for name in FILES if not name.startswith("tests/")), "train.py"]
IN_PACKAGES = [name for name in MODULES if name.split("/")[0] in PACKAGES]


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of all imported modules, wherever in the file; relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


def parse(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(), name)


def package_of(name: str) -> str:
    return ".".join(Path(name).parent.parts)


@pytest.mark.parametrize("name", MODULES)
def test_imports_flow_one_way(name: str) -> None:
    allowed = MAY_IMPORT[name.split("/")[0].removesuffix(".py")]
    ours = {module.split(".")[0] for module in imports(parse(name), package_of(name))} & {
        *MAY_IMPORT,
        "tests",
    }
    assert ours <= allowed


def test_relative_imports_are_followed() -> None:
    tree = ast.parse("from . import a\nfrom .b import c\nfrom ..d import e\nimport f.g")
    assert list(imports(tree, "data.world")) == ["data.world", "data.world.b", "data.d", "f.g"]


def test_the_world_needs_no_video_reader() -> None:
    """PyAV may be missing where the world or shards are trained on: who needs it imports it in a function."""
    for name in IN_PACKAGES:
        if name.startswith("data/video"):
            continue
        top = ast.Module([node for node in parse(name).body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        heavy = {m for m in imports(top, package_of(name)) if m in ("av", "imageio") or m.startswith("data.video")}
        heavy -= {"data.video_limits"}
        assert not heavy, f"{name} imports {heavy} at its top"


@pytest.mark.parametrize("name", [*FILES, "train.py"])
def test_files_are_short(name: str) -> None:
    lines = len((ROOT / name).read_text().splitlines())
    assert lines <= 400, f"{name} has {lines} lines: one concept a file"


@pytest.mark.parametrize("name", IN_PACKAGES)
def test_packages_do_not_print(name: str) -> None:
    calls = [node.func for node in ast.walk(parse(name)) if isinstance(node, ast.Call)]
    assert not [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]


@pytest.mark.parametrize("name", IN_PACKAGES)
def test_importing_does_nothing(name: str) -> None:
    """At the top of a module of a package stand a docstring, imports, names and definitions; and the derivatives of
    operators."""
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef, ast.If)
    for node in parse(name).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        call = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
        derivative = isinstance(call, ast.Attribute) and call.attr == "register_autograd"
        allowed = docstring or derivative or isinstance(node, kinds)
        assert allowed, f"{name}:{node.lineno} runs when imported"
        assert not isinstance(node, ast.If) or "TYPE_CHECKING" in ast.dump(node.test), f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", [name for name in IN_PACKAGES if not name.endswith("__init__.py")])
def test_each_module_has_its_test_file(name: str) -> None:
    expected = f"test_{name.removesuffix('.py').replace('/', '_')}.py"
    assert (ROOT / "tests" / expected).is_file(), f"tests/{expected} is missing"
