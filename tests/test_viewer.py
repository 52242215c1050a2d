"""The viewer of episodes in the report page: what transcripts say of a play, and what a reader can do with it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from temper import transcripts
from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN
from temper.episode import Completion, Recorder
from temper.models import tiny
from temper.page import read_run, write_report
from temper.tasks.task import Task
from tests import fake_episodes
from tests.browser import Browser, find_chromium

# ------------------------------------------------------------------------------------------------ transcripts


def play(n: int) -> Any:
    """Two seats: one says a token after a prompt, is rewarded for it, and the other answers in a context of its own."""
    record = Recorder(Task("t", "hi", "1", source="s"))
    first = record.add((1, 2))
    said = record.sampled(Completion((3,), (-0.5,)), first, author="one")
    record.score(said, 0.25 * n)
    other = record.sampled(Completion((5,), (-0.5,)), record.add((4, n)), author="two")
    record.judge((first, said), role="one", reward=float(n), info={"calls": [{"turn": 0, "name": "f"}], "x": math.nan})
    record.judge((other - 1, other), role="two", reward=1.0, group="late")
    return record.episode()


def line(*episodes: Any) -> dict[str, Any]:
    b = Batch.of(episodes)
    b = b.put(ADVANTAGE, torch.arange(b.size(TOKEN)).float())
    (text,) = transcripts.lines(b, 3, SimpleNamespace(decode=lambda ids: "".join(map(str, ids))))
    row: dict[str, Any] = json.loads(text)
    return row


def test_transcripts_say_which_play_group_and_turn_reward() -> None:
    row = line(play(0), play(1), play(2))
    said = [(t["role"], t["episode"], t["group"], t["reward"]) for t in row["trajectories"]]
    assert said == [(r, n, g, x) for n in range(3) for r, g, x in (("one", "", float(n)), ("two", "late", 1.0))]
    rewards = {"one": [0.0, 0.25, 0.5], "two": [None] * 3, "env": [None] * 4}
    for author, expected in rewards.items():
        assert [t["reward"] for t in row["turns"] if t["author"] == author] == expected
    assert row["trajectories"][0]["info"] == {"calls": [{"turn": 0, "name": "f"}], "x": None}
    assert [t["advantage"] for t in row["trajectories"]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_what_an_environment_noted_is_bounded() -> None:
    endless: dict[str, Any] = {"text": "y" * 10_000, "many": [{"k": "z" * 500}] * 10_000, "late": 1, "odd": {1: {2}}}
    kept = transcripts.plain(endless)
    assert len(json.dumps(kept)) < 2 * transcripts.NOTES
    assert kept["text"].endswith("(8,000 more characters)") and kept["many"][-1] == "cut" and kept["cut"] is True
    assert transcripts.plain({1: (True, None, {3})}) == {"1": [True, None, "{3}"]}
    assert transcripts.plain(None) is None


def test_nothing_that_an_environment_noted_ends_a_run() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    deep: Any = []
    for _ in range(5000):
        deep = {"a": [deep]}
    kept = transcripts.plain({"deep": deep, "long": 10**9999, 10**9999: 1, "odd": Odd()})
    assert json.dumps(kept).count("[") < transcripts.LEVELS and '"cut"' in json.dumps(kept["deep"])
    assert kept["long"] == "an integer of 33216 bits" == next(k for k in kept if k.startswith("an"))
    assert kept["odd"] == "Odd (RuntimeError)"


@pytest.mark.parametrize("text", ["plain words", "é 😀 مرحبا", "👩\u200d👩\u200d👧"])
def test_the_pieces_of_a_turn_are_its_text(text: str) -> None:
    tokenizer = tiny.tiny_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = transcripts.pieces(tokenizer, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == text


def test_half_a_character_is_shown_as_such() -> None:
    tokenizer = tiny.tiny_tokenizer()
    ids = tokenizer.encode("a😀", add_special_tokens=False)[:-1]
    assert transcripts.pieces(tokenizer, ids) == ["a"] + ["\ufffd"] * (len(ids) - 1)


# ---------------------------------------------------------------------------------------------------- reading


@pytest.fixture(scope="module")
def shapes() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield fake_episodes.write_shapes(Path(folder))


def test_the_page_carries_plays_and_bounded_notes(tmp_path: Path) -> None:
    group = fake_episodes.tools()
    group["trajectories"][0]["info"]["calls"][0]["text"] = "t" * 5000
    (tmp_path / "episodes").mkdir()
    (tmp_path / "episodes" / "step_000010.jsonl").write_text(json.dumps(group) + "\n")
    (shown,) = read_run(tmp_path)["episodes"][0]["groups"]
    assert [t["episode"] for t in shown["trajectories"]] == [0, 1, 2, 3]
    assert [t.get("reward") for t in shown["turns"][:4]] == [None, 0.5, None, 0.5]
    (first, _), *_ = [t["info"]["calls"] for t in shown["trajectories"]]
    assert first["outcome"] == "ok" and len(first["text"]) < 700


# ---------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = find_chromium()
    if binary is None:
        pytest.skip("no Chromium on this machine: the page is not opened in a browser")
    with Browser(binary) as page:
        yield page


@pytest.fixture(scope="module")
def report(shapes: Path) -> Path:
    return write_report(shapes)


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Browser]:
    browser.open(report)
    yield browser
    assert browser.errors == []


def open_group(page: Browser, name: str) -> None:
    found = f"[...document.querySelectorAll('.group')].find((g) => g.textContent.startsWith({json.dumps(name)}))"
    page.js(f"{found}.click()")
    page.settle()


def texts(page: Browser, selector: str) -> list[str]:
    return page.js(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")


def turns(page: Browser) -> list[int]:
    return page.js("[...document.querySelectorAll('.turn')].map((t) => Number(t.ariaLabel.slice(5)))")


def pick(page: Browser, label: str, value: str) -> None:
    page.js(f"""((list) => {{ list.value = {json.dumps(value)}; list.dispatchEvent(new Event('change')); }})
        (document.querySelector('.detail select[aria-label={label}]'))""")
    page.settle()


def attempts(page: Browser) -> list[int]:
    return [int(text) for text in texts(page, ".attempts td.col-order")]


def press(page: Browser, label: str) -> None:
    page.js(f"[...document.querySelectorAll('button')].find((b) => b.textContent === {json.dumps(label)}).click()")
    page.settle()


def test_a_tool_chat_reads_as_a_conversation(page: Browser) -> None:
    open_group(page, "tools")
    assert turns(page) == [0, 1, 2, 3, 4, 5]
    assert texts(page, ".turn .kind") == ["prompt", "tool result", "tool result"]
    assert texts(page, ".call") == [
        "calculatorexpression: 12*34+0✓ ok0.25 s",
        "calculatorexpression: 12*34+1✓ ok0.25 s",
    ]
    assert texts(page, ".turn .badge")[0] == "turn reward +0.5"
    assert page.js("document.querySelectorAll('.lanes .block.tool').length") == 2
    press(page, "next")
    assert "✕ tool error" in "".join(texts(page, ".turn.tool header"))
    assert page.js("document.querySelectorAll('.lanes .block.bad').length") == 1
    press(page, "next")
    assert "◷ timeout" in "".join(texts(page, ".turn.tool header"))


def test_attempts_are_filtered_and_sorted_by_what_they_did(page: Browser) -> None:
    open_group(page, "tools")
    for label, value, expected in [
        ("Tools", "tool call: timeout", [3]), ("Tools", "no tool call", [4]), ("Tools", "", [1, 2, 3, 4]),
        ("Ending", "truncated", [4]), ("Ending", "", [1, 2, 3, 4]), ("Turns", "2 turns", [2, 3]),
        ("Turns", "3 to 4 turns", [1]), ("Turns", "", [1, 2, 3, 4]), ("Reward", "reward above 0", [1]),
        ("Reward", "", [1, 2, 3, 4]),
    ]:  # fmt: skip
        pick(page, label, value)
        assert attempts(page) == expected, (label, value)
    page.click("th.col-turns button")
    assert attempts(page) == [1, 2, 3, 4]
    page.click("th.col-turns button")
    assert attempts(page) == [4, 2, 3, 1]
    page.click("th.col-order button")
    open_group(page, "game")
    pick(page, "Role", "two")
    assert attempts(page) == [2, 4]


def test_a_game_is_shown_whole_and_by_role(page: Browser) -> None:
    open_group(page, "game")
    assert turns(page) == list(range(8)), "in the order of time"
    assert texts(page, ".turn .author")[:4] == ["env → one", "one", "env → two", "two"]
    rows = page.js("[...document.querySelectorAll('.lanes .block')].map((b) => b.style.gridRow[0])")
    assert rows == ["1", "1", "2", "2"] * 2
    assert page.js("document.querySelectorAll('.divider').length") == 0, "a role's beginning is no reset"
    assert texts(page, ".attemptline .role") == ["one", "two"]
    page.click(".attempthead .choice button[value='2']")
    assert turns(page) == [2, 3, 6, 7]
    assert texts(page, ".attempts tr[aria-selected=true] .col-role") == ["two"]
    page.js("document.querySelectorAll('.attempts tbody tr')[2].click()")
    assert turns(page) == [0, 8, 10, 11]
    press(page, "whole play")
    assert turns(page) == [0, 8, 2, 9, 10, 11, 12, 13], "a beginning that plays share comes when this play needs it"


def test_fresh_contexts_are_marked_and_their_content_shown(page: Browser) -> None:
    open_group(page, "resets")
    assert turns(page) == [0, 1, 2, 3, 4]
    marks = texts(page, ".divider")
    assert len(marks) == 2 and marks[0].startswith("fresh context: nothing above")
    assert marks[1] == "continues from turn 0; the context is turn 0"
    outside = "[...document.querySelectorAll('.turn.outside')].map((t) => Number(t.ariaLabel.slice(5)))"
    page.js("document.querySelectorAll('.saw')[1].click()")
    assert page.js(outside) == [0, 1, 4]
    page.js("document.querySelectorAll('.saw')[2].click()")
    assert page.js(outside) == [1, 2, 3]
    page.js("document.querySelectorAll('.saw')[2].click()")
    assert page.js(outside) == []


def test_a_leaf_opens_its_path(page: Browser) -> None:
    open_group(page, "tree")
    assert page.js("document.querySelectorAll('.node').length") == 9, "one play: prompt, two stems, six leaves"
    assert texts(page, ".node.on title") == [
        "turn 0, env, 2 tokens, V 0.33", "turn 1, solver, 2 tokens, V 0.33, A +0.5",
        "turn 2, solver, 3 tokens, V 1, A +0.5, attempt 1, reward 1",
    ]  # fmt: skip
    leaf = "[...document.querySelectorAll('.node')].find((n) => n.ariaLabel.includes('attempt 6,'))"
    page.js(f"{leaf}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    page.settle()
    assert turns(page) == [0, 5, 8] and texts(page, ".attempthead h3") == ["Attempt 6"]
    assert page.js("document.querySelectorAll('.edge.on').length") == 2
    assert texts(page, ".attemptline b")[-1] == "stem 1"
    press(page, "whole play")
    assert turns(page) == list(range(9)) and len(texts(page, ".divider")) == 5
    assert texts(page, ".attemptline .role")[-1] == "solver #6"
    page.js(f"{leaf}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert turns(page) == [0, 5, 8], "in the whole play too"
    press(page, "all 2 plays")
    assert page.js("document.querySelectorAll('.node').length") == 17, "the prompt is shared by the plays"


def test_a_tree_by_keyboard(page: Browser) -> None:
    open_group(page, "tree")
    page.js("document.querySelector('.node[tabindex=\"0\"]').focus({preventScroll: true})")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown"):
        page.key(key)
    assert "attempt 4," in page.js("document.activeElement.ariaLabel")
    page.key("Enter")
    assert turns(page) == [0, 5, 6]
    page.key("ArrowLeft")
    assert page.js("document.activeElement.ariaLabel").startswith("turn 5,")
    page.key("Enter")
    assert page.js("document.querySelector('.turn.at').ariaLabel") == "turn 5"


@pytest.mark.parametrize(("stems", "leaves"), [(1, 2), (8, 8)])
def test_trees_of_any_size(browser: Browser, tmp_path: Path, stems: int, leaves: int) -> None:
    (tmp_path / "episodes").mkdir()
    group = fake_episodes.tree(stems, leaves, plays=1)
    (tmp_path / "episodes" / "step_000010.jsonl").write_text(json.dumps(group) + "\n")
    browser.open(write_report(tmp_path), width=390)
    assert browser.js("document.querySelectorAll('.node').length") == 1 + stems * (1 + leaves)
    overlap = """(() => { const boxes = [...document.querySelectorAll('.pill')].map((p) => p.getBoundingClientRect());
        return boxes.some((a, i) => boxes.some((b, j) => j > i && a.left < b.right && b.left < a.right
            && a.top < b.bottom && b.top < a.bottom)); })()"""
    assert not browser.js(overlap)
    last = stems * leaves
    browser.js(f"document.querySelectorAll('.attempts tbody tr')[{last - 1}].click()")
    browser.settle()
    inside = """(() => { const box = document.querySelector('.tree').getBoundingClientRect();
        const leaf = document.querySelector('.node[aria-selected=true] .pill').getBoundingClientRect();
        return leaf.top >= box.top && leaf.bottom <= box.bottom; })()"""
    assert browser.js(inside), "the chosen leaf is scrolled into view"
    assert browser.errors == [] and browser.js("document.documentElement.scrollWidth") == 390


def test_transcripts_from_before_plays_still_open(page: Browser) -> None:
    open_group(page, "old")
    assert page.js("document.querySelectorAll('.node').length") == 9
    assert turns(page) == [0, 1, 2] and attempts(page) == [1, 2, 3, 4, 5, 6]


def test_long_turns_fold_and_long_plays_are_drawn_as_they_come(page: Browser) -> None:
    open_group(page, "long")
    made = "document.querySelectorAll('.tok').length"
    assert len(turns(page)) == 401 and page.js(made) < 4500
    long = "document.querySelectorAll('.turn')[3]"
    shown = page.js(f"{long}.querySelectorAll('.tok').length")
    assert "2,580 tokens folded" in page.js(f"{long}.textContent")
    press(page, "show all")
    assert shown == 420 and page.js(f"{long}.querySelectorAll('.tok').length") == 3000
    press(page, "fold")
    assert page.js(f"{long}.querySelectorAll('.tok').length") == 420
    last = "document.querySelectorAll('.turn')[399]"
    assert page.js(f"{last}.querySelectorAll('.tok').length") == 0 and "word199" in page.js(f"{last}.textContent")
    page.js("document.querySelector('.lanes').focus({preventScroll: true})")
    for key in ("End", "ArrowLeft", "Enter"):
        page.key(key)
    page.until(f"{last}.querySelectorAll('.tok').length === 12")
    assert page.js(f"Math.round({last}.getBoundingClientRect().top)") < 900, "the lane led there"


def test_a_token_in_the_fold_is_unfolded_to_be_inspected(page: Browser) -> None:
    open_group(page, "long")
    page.js("document.querySelector('.tokens').focus({preventScroll: true})")
    for _ in range(33):
        page.key("ArrowDown")
    page.key("ArrowRight")
    panel = page.js("document.querySelector('.inspector').textContent")
    for part in ("turn3, token 317 of 3000", "log-prob−0.1", "ratio1.01", "advantage0.5", "token id316"):
        assert part in panel
    assert page.js("document.querySelectorAll('.turn')[3].querySelectorAll('.tok').length") == 3000
    page.key("End")
    assert "turn400, token 2 of 2" in page.js("document.querySelector('.inspector').textContent")


UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("width", [390, 1280])
def test_odd_and_hostile_text_is_only_text(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width=width)
    open_group(browser, "odd")
    for label in [*(f"{k}" for k in range(1, 6)), "play"]:
        browser.js(f"document.querySelector('.attempthead .choice button[value=\"{label}\"]').click()")
        browser.settle()
        browser.js("document.querySelectorAll('.attempt details').forEach((d) => { d.open = true; })")
        assert browser.js("document.documentElement.scrollWidth") == width
        assert not UNSEEN.search(browser.js("document.querySelector('#rollouts').innerText"))
        assert fake_episodes.MARKUP in browser.js("document.querySelector('.tokens').textContent")
    assert "\\x1b[31mred\\x07" in browser.js("document.querySelector('.tokens').textContent")
    assert "owned" not in browser.js("document.title")
    assert browser.js("document.querySelectorAll('img, main script').length") == 0 and browser.errors == []


def test_right_to_left_script_runs_right_to_left(page: Browser) -> None:
    open_group(page, "odd")
    page.click(".attempthead .choice button[value='3']")
    turn = "document.querySelectorAll('.turn')[1]"
    tokens = page.js(f"[...{turn}.querySelectorAll('.tok')].map((t) => t.getBoundingClientRect().right)")
    assert len(tokens) == 4 and tokens == sorted(tokens, reverse=True)
    edge = page.js(f"{turn}.querySelector('.text').getBoundingClientRect().right")
    assert edge - 30 < tokens[0] < edge, "and begins at the right"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_shape_fits_a_phone(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report, width=390, dark=dark)
    for n in range(7):
        browser.js(f"document.querySelectorAll('.group')[{n}].click()")
        browser.settle()
        assert browser.js("document.documentElement.scrollWidth") == 390, n
    ground, ink = browser.js("((s) => [s.backgroundColor, s.color])(getComputedStyle(document.body))")
    assert (brightness(ground) > brightness(ink)) != dark
    assert browser.errors == []


def brightness(colour: str) -> int:
    return sum(int(v) for v in re.findall(r"\d+", colour)[:3])
