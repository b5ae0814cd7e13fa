"""The chart's own files agree with the rest of the project, whether or not helm is here to render them."""

import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "charts" / "kvcluster"
SOURCES = sorted((ROOT / "crds").glob("*.yaml"))


def test_the_chart_carries_every_crd_and_no_other():
    copies = sorted(path.name for path in (CHART / "files" / "crds").glob("*.yaml"))
    assert copies == [path.name for path in SOURCES]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_crd_of_the_chart_is_the_source_unchanged(source):
    copy = CHART / "files" / "crds" / source.name
    assert copy.read_text() == source.read_text(), f"run: cp {source} {copy}"


def test_chart_and_project_have_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {project["version"]}


def test_every_value_has_a_place_in_the_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    assert set(values) | {"global"} == set(schema["properties"])
