"""`temper list`, `temper show` and `temper doctor`: what they say, and that it is true."""

import json
from pathlib import Path

import pytest

from temper import install
from tests.cli.calls import ROOT, Temper


@pytest.mark.parametrize("what", ["recipes", "methods", "parts", "tasks"])
def test_a_list_names_what_exists(temper: Temper, what: str) -> None:
    rows = json.loads(temper("list", what, "--json").out)
    assert rows and all((ROOT / r["file"]).is_file() and r["title"] for r in rows)
    table = temper("list", what).out
    assert all(r["name"] in table for r in rows)


def test_a_methods_entry(temper: Temper) -> None:
    (grpo,) = [m for m in json.loads(temper("list", "methods", "--json").out) if m["slug"] == "grpo"]
    assert grpo == {
        "name": "grpo", "slug": "grpo", "title": "GRPO", "paper": "arXiv 2402.03300", "family": "objectives",
        "hooks": ["advantage", "loss"], "recipe": "grpo", "file": "temper/methods/objectives/grpo.py",
    }  # fmt: skip


def test_everything_at_once(temper: Temper) -> None:
    found = json.loads(temper("list", "--json").out)
    assert set(found) == {"recipes", "methods", "parts", "tasks"}
    assert {"quickstart", "grpo", "base"} <= {r["name"] for r in found["recipes"]}


def test_show_a_recipe(temper: Temper) -> None:
    told = json.loads(temper("show", "recipe:grpo", "--json").out)
    (clip,) = [o for o in told["options"] if o["name"] == "clip"]
    assert clip == {"name": "clip", "type": "FLOAT", "help": clip["help"], "of": "grpo", "default": 0.2}
    assert told["command"] == "temper run grpo"


def test_show_a_method_a_part_a_data_set_and_a_file(temper: Temper) -> None:
    Path("mine.py").write_text('def mine(x: int = 3):\n    """Mine."""\n')
    method = temper("show", "method:dapo").out
    assert (
        "parts: Advantage, Clip" in method
        and "arXiv 2503.14476" in method
        and "clip_high" in method
        and "objectives/dapo.py" in method
    )
    part = json.loads(temper("show", "Advantage", "--json").out)
    assert part["writes"] == ["ADVANTAGE"] and part["kind"] == "advantages"
    assert "default: 1000" in (t := temper("show", "rg:gcd").out) or "max_value: 1000" in t
    assert "held out" in temper("show", "task:quickstart").out
    assert json.loads(temper("show", "mine.py", "--json").out)["options"][0]["default"] == 3


def test_two_things_of_one_name_are_both_shown(temper: Temper) -> None:
    both = json.loads(temper("show", "grpo", "--json").out)
    assert [d["kind"] for d in both] == ["recipe", "method"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("show Advantge", "did you mean Advantage"),
        ("show method:grpoo", "did you mean grpo"),
        ("show", "temper show needs NAME"),
        ("list methds", "one of recipes, methods, parts, tasks"),
        ("list methods more", "unexpected argument 'more'"),
        ("setup something", "one of reasoning-gym"),
        ("report nowhere", "there is no directory nowhere"),
        ("report .", "is no run directory"),
        ("export . there", "neither a run, nor a checkpoint, nor a model directory"),
    ],
)
def test_a_mistake_is_one_line(temper: Temper, line: str, why: str) -> None:
    assert why in temper(*line.split()).error


def test_doctor_says_what_is_usable(temper: Temper) -> None:
    found = json.loads(temper("doctor", "--json").out)
    assert found["usable"] and found["packages"]["torch"] and found["devices"]
    gym = found["reasoning_gym"]
    assert gym["data_sets"] == 106
    text = temper("doctor").out
    assert f"{106 - len(gym['missing'])} of 106 data sets" in text
    for name, why in gym["missing"].items():
        assert name in text and why in text
    for about in found["optional"].values():
        assert about["version"] or about["remedy"] in text
    assert found["sandbox"] and all(what in text and how in text for what, how in found["sandbox"].items())


def test_what_is_installed_on_first_use_is_what_is_locked() -> None:
    lines = [x for f in ("lock", "reasoning-gym") for x in (ROOT / f"requirements/{f}.txt").read_text().splitlines()]
    locked = {x.strip() for x in lines if "==" in x}
    assert {p for p in install.REASONING_GYM + install.SOURCES if "==" in p} <= locked


def test_a_missing_reasoning_gym_is_one_line_with_the_command(temper: Temper, monkeypatch: pytest.MonkeyPatch) -> None:
    from temper.tasks import reasoning_gym

    monkeypatch.setattr(install, "has", lambda module: False)
    reasoning_gym._load.cache_clear()
    said = temper("run", "quickstart", "--dry-run").error
    reasoning_gym._load.cache_clear()
    assert "-m pip install --no-deps reasoning-gym==0.1.25" in said


def test_a_failing_pip_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from subprocess import CompletedProcess

    monkeypatch.setattr(install, "_pip", lambda packages: CompletedProcess([], 1, "", "first\nERROR: no network\n"))
    with pytest.raises(install.Missing, match=r"could not install reasoning-gym \(ERROR: no network\): .*pip install"):
        install.install_reasoning_gym()


def test_export_copies_a_model_and_refuses_what_is_there(temper: Temper, toy_model: str) -> None:
    assert temper("export", toy_model, "there").status == 0
    assert (Path("there") / "config.json").exists()
    assert "exists already" in temper("export", toy_model, "there").error
    assert "not an adapter" in temper("export", toy_model, "elsewhere", "--merge").error
