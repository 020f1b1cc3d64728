"""The rules of the house that no other tool watches, and that those which do watch see a breach.

(That `__all__` is sorted is ruff's RUF022.)
"""

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import entry_points, version
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = {
    "shearpin": ROOT / "core",
    "shearpin_integrations": ROOT / "integrations",
    "shearpin_exporters": ROOT / "exporters",
}
PUBLIC = {f"shearpin.{room}" for room in ("adapter", "alerts", "insight", "replay", "testing")} | {"shearpin"}
"""What users of the core import from; of the other two, each adapter and each exporter."""


def module_names(package: str) -> list[str]:
    return [package, *(name for name in inside(SOURCES[package], package) if not name.endswith("__main__"))]


def inside(root: Path, package: str) -> Iterator[str]:
    """Not `pkgutil.walk_packages`, which imports the packages it walks, and so every framework."""
    for info in pkgutil.iter_modules([str(root.joinpath(*package.split(".")))], f"{package}."):
        yield info.name
        if info.ispkg:
            yield from inside(root, info.name)


MODULES = [name for package in SOURCES for name in module_names(package)]


def load(name: str) -> ModuleType:
    """A module. Only when a test needs it: some frameworks take seconds, and warn of their own packages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


# --- what is exported


def is_core(name: str) -> bool:
    return name == "shearpin" or name.startswith("shearpin.")


def is_public(name: str) -> bool:
    return name in PUBLIC if is_core(name) else name.count(".") <= 1


@pytest.mark.parametrize("name", [name for name in MODULES if is_public(name)])
def test_exports_are_complete_and_importable(name):
    module = load(name)

    exported = module.__all__

    assert len(exported) == len(set(exported))
    assert [missing for missing in exported if not hasattr(module, missing)] == []
    assert sorted(defined_names(module) - set(exported)) == []


def defined_names(module: ModuleType) -> set[str]:
    """Public names that come from the module, from inside the package or, in the seam, from all the core."""
    origin = re.compile(rf"{re.escape(module.__name__.removesuffix('.adapter'))}(\.|$)")
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and origin.match(getattr(value, "__module__", None) or "")
    }


def test_examples_in_docstrings_hold():
    failed = {name: doctest.testmod(load(name)).failed for name in MODULES}

    assert {name: count for name, count in failed.items() if count} == {}


# --- what is built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    made = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(made)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return zipfile.ZipFile(next(made.glob("*.whl")))


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel):
    roots = {name.split("/")[0] for name in wheel.namelist()}

    assert roots == {*SOURCES, f"shearpin-{PROJECT['project']['version']}.dist-info"}


def test_the_wheel_holds_every_source_file(wheel):
    written = {
        path.relative_to(root).as_posix()
        for package, root in SOURCES.items()
        for path in (root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert written == {name for name in wheel.namelist() if ".dist-info/" not in name}


@pytest.mark.parametrize("package", SOURCES)
def test_the_wheel_says_that_it_is_typed(wheel, package):
    assert f"{package}/py.typed" in wheel.namelist()


def test_one_version():
    assert version("shearpin") == PROJECT["project"]["version"]


@pytest.mark.parametrize("group", ["shearpin.integrations", "shearpin.exporters"])
def test_every_entry_point_loads(group):
    found = [point for point in entry_points(group=group) if point.dist and point.dist.name == "shearpin"]

    assert {point.name: point.value for point in found} == PROJECT["project"]["entry-points"][group]
    assert all(load(point.value) for point in found)


# --- what is pinned


def requirements(*, groups: tuple[str, ...] = (), extras: tuple[str, ...] = ()) -> list[Requirement]:
    asked = list(PROJECT["project"]["dependencies"])
    asked += [item for extra in extras for item in PROJECT["project"]["optional-dependencies"][extra]]
    pending = list(groups)
    while pending:
        for item in PROJECT["dependency-groups"][pending.pop()]:
            if isinstance(item, dict):
                pending.append(item["include-group"])
            else:
                asked.append(item)
    return [Requirement(item) for item in asked]


@pytest.mark.parametrize(
    ("environment", "groups", "extras"),
    [
        ("core", ("test",), ()),
        ("dev", ("dev",), tuple(PROJECT["project"]["optional-dependencies"])),
        ("langgraph-floor", ("test", "langgraph-floor"), ("langgraph",)),
        ("langgraph-newest", ("test", "langgraph-newest"), ("langgraph",)),
    ],
)
def test_the_pins_are_those_of_the_project(environment, groups, extras):
    lines = (ROOT / "constraints" / f"{environment}.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]
    pinned = {canonicalize_name(pin.name): pin for pin in pins if not pin.marker or pin.marker.evaluate()}

    for asked in requirements(groups=groups, extras=extras):
        (pin,) = pinned[canonicalize_name(asked.name)].specifier
        assert asked.specifier.contains(pin.version, prereleases=True), f"{asked}: run `make pins`"


# --- who knows whom

LANGCHAIN = "import shearpin_integrations.langchain"
BREACHES = [
    ("downwards", "shearpin.trace", "import shearpin.runs"),
    ("downwards", "shearpin.rules", "def f():\n    import shearpin.guards"),
    ("downwards", "shearpin", ""),
    ("core", "shearpin.trace", "import langgraph.errors"),
    ("core", "shearpin.runs", "def f():\n    from openai import OpenAI"),
    ("core", "shearpin.view", "from opentelemetry import trace"),
    ("core", "shearpin.rules", LANGCHAIN),
    ("seam", "shearpin_integrations", "from shearpin.trace import Trace"),
    ("seam", "shearpin_integrations.folder", "import shearpin.runs"),
    ("seam", "shearpin_exporters", "from shearpin import errors"),
    ("integrations", "shearpin_integrations", LANGCHAIN),
    ("exporters", "shearpin_exporters", "from shearpin_exporters import files"),
    ("apart", "shearpin_exporters", LANGCHAIN),
    ("apart", "shearpin_integrations", "import shearpin_exporters.files"),
]
ALLOWED = [
    ("downwards", "shearpin.runs", "import shearpin.trace"),
    ("seam", "shearpin_integrations", "import shearpin\nfrom shearpin.adapter import Run"),
    ("seam", "shearpin_exporters", "from shearpin import Trace"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict[str, str]:
    """What import-linter says, by contract, of a copy with all of the above planted in it: planted_0, …"""
    copy = tmp_path_factory.mktemp("planted")
    for package, root in SOURCES.items():
        shutil.copytree(root / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for number, (_, package, code) in enumerate(BREACHES + ALLOWED):
        folder = copy.joinpath(*package.split("."))
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
        (folder / f"planted_{number}.py").write_text(code, encoding="utf-8")
    lint = Path(sys.executable).with_name("lint-imports")
    said = subprocess.run(
        [lint, "--no-cache", "--config", ROOT / "pyproject.toml"],
        env=os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = re.sub(r"\x1b\[[\d;]*m", "", said.stdout).partition("Broken contracts")[2]
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    starts = sorted((broken.find(f"\n{item['name']}\n-"), item["id"]) for item in contracts)
    ends = [start for start, _ in starts[1:]] + [len(broken)]
    return {name: broken[start:end] for (start, name), end in zip(starts, ends, strict=True) if start >= 0}


@pytest.mark.parametrize(("number", "contract"), [(number, item[0]) for number, item in enumerate(BREACHES)])
def test_a_planted_breach_is_seen(report, number, contract):
    assert re.search(rf"\bplanted_{number}\b", report.get(contract, ""))


@pytest.mark.parametrize(("number", "contract"), [(n, item[0]) for n, item in enumerate(ALLOWED, len(BREACHES))])
def test_what_is_allowed_is_no_breach(report, number, contract):
    imports = re.findall(rf"\bplanted_{number} -> .*", report.get(contract, ""))

    assert imports == []


def test_importing_the_whole_core_imports_no_framework():
    (contract,) = [item for item in PROJECT["tool"]["importlinter"]["contracts"] if item["id"] == "core"]
    core = ", ".join(name for name in MODULES if is_core(name))
    code = f"import sys, {core}; print(sys.modules.keys() & set({contract['forbidden_modules']}))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("slow", ["pydantic", "httpx", "genai_prices"])
def test_what_is_slow_to_import_is_imported_when_it_is_first_needed(slow):
    code = f"import sys, shearpin; shearpin.Guard(shearpin.LoopBreaker()); print({slow!r} in sys.modules)"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "False"


# --- what must not be said

MADE = {".git", ".hypothesis", ".import_linter_cache", ".ipynb_checkpoints", ".mypy_cache", ".pytest_cache"}
MADE |= {".ruff_cache", ".tools", ".tox", ".venv", "__pycache__", "dist", "shearpin-demo"}
HOST = re.compile(
    r"\b(?:py(?:pi|thonhosted)|npm(?:js)|(?:ana)?conda)\.(?:org|com|io)\b|/simple/?(?=[\s\"'#]|$)",
    re.MULTILINE,
)
FOLDER = re.compile(r"(?:^|(?<=[\s\"'`(=:,]))/(?:home|Users|root|opt|work|mnt|tmp)/\w", re.MULTILINE)


def texts() -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in MADE]
        for name in files:
            if name.startswith(".coverage"):
                continue
            path = Path(folder, name)
            with suppress(UnicodeDecodeError):
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("pattern", [HOST, FOLDER], ids=["package index", "folder of one machine"])
def test_no_file_names_a(pattern):
    assert [f"{name}: {match.group()}" for name, text in texts() for match in pattern.finditer(text)] == []
