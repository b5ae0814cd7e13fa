"""The images' dependencies: all that the project asks for, of versions and contents that are known."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PINNED = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+)(?: ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M
)

FILES = pytest.mark.parametrize(
    ("file", "extras"), [("node/requirements.txt", ()), ("operator/requirements.txt", ("operator",))]
)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@FILES
def test_every_line_names_a_version_and_its_contents_and_nothing_else(
    file: str, extras: tuple[str, ...]
) -> None:
    text = (ROOT / file).read_text()
    assert PINNED.sub("", text).strip() == ""
    assert len(PINNED.findall(text)) > 10


@FILES
def test_what_the_project_asks_for_is_there_in_a_version_that_will_do(
    file: str, extras: tuple[str, ...]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    pinned = {normalized(name): version for name, version, _ in PINNED.findall((ROOT / file).read_text())}
    for requirement in map(Requirement, asked):
        assert requirement.specifier.contains(pinned[normalized(requirement.name)]), requirement
