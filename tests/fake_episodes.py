"""Made-up recorded groups of every shape that the viewer shows, small enough to count by hand.

`python tests/fake_episodes.py DIR` writes a run directory with them and its page, to look at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MARKUP = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
HOSTILE = MARKUP + " \x1b[31mred\x07 \u202eback"


def turn(parent: int, author: str, text: str, credit: float = 0.5, **more: Any) -> Json:
    """A turn whose tokens are the words of `text`; `credit` is each token's advantage."""
    tokens = [word if k == 0 else f" {word}" for k, word in enumerate(text.split(" "))]
    sampled = author != "env"
    record: Json = {"parent": parent, "author": author, "version": 4 if sampled else -1, "tokens": tokens}
    record |= {"ids": list(range(len(tokens))), "sampled": sampled, "finish": "stop" if sampled else None}
    if sampled:
        record["logp"] = [-0.1 * (k % 7) for k in range(len(tokens))]
        record["ratio"] = [1 + 0.01 * (k % 5) for k in range(len(tokens))]
        record["advantage"] = [credit] * len(tokens)
    return record | more


def trajectory(turns: list[int], reward: float | None, episode: int, role: str = "solver", **more: Any) -> Json:
    advantage = None if reward is None else reward - 0.5
    return {"turns": turns, "role": role, "episode": episode, "group": "", "reward": reward, "rewards": {},
            "outcome": "ok", "advantage": advantage, "info": {}} | more  # fmt: skip


def group(task: str, turns: list[Json], trajectories: list[Json], **more: Any) -> Json:
    about = {"id": task, "source": task, "prompt": f"Play {task}.", "answer": None}
    return {"step": 10, "split": "train", "task": about, "turns": turns, "trajectories": trajectories} | more


def call(turn: int, outcome: str, **arguments: Any) -> Json:
    """A call as ToolUse notes it."""
    return {"turn": turn, "name": "calculator", "arguments": arguments, "outcome": outcome, "seconds": 0.25, "text": ""}


def tools() -> Json:
    """Four plays: two calls and an answer, a call that fails, a call that times out, none at all."""
    turns = [turn(-1, "env", "What is 12 times 34 plus 5 ?")]
    plays = []
    for play, outcomes in enumerate((["ok", "ok"], ["tool error"], ["timeout"], [])):
        path = [0]
        for n, outcome in enumerate(outcomes):
            turns.append(turn(path[-1], "solver", f"I call it {n}", reward=0.5 if outcome == "ok" else -0.5))
            turns.append(turn(len(turns) - 1, "env", f"The tool says {outcome}"))
            path += [len(turns) - 2, len(turns) - 1]
        finish = "length" if play == 3 else "stop"
        turns.append(turn(path[-1], "solver", f"So it is {413 if play == 0 else play}", finish=finish))
        calls = [call(n, outcome, expression=f"12*34+{n}") for n, outcome in enumerate(outcomes)]
        info = {"turns": len(outcomes) + 1, "forks": 0, "finish": "done", "calls": calls}
        plays.append(trajectory([*path, len(turns) - 1], float(play == 0), play, info=info))
    return group("tools", turns, plays)


def game() -> Json:
    """Two roles, two plays; what the environment tells each player first is shared by the plays."""
    turns = [turn(-1, "env", "You are player one")]
    players = []
    for play in range(2):
        chains: dict[str, list[int]] = {"one": [0], "two": [2] if play else []}
        for move in range(2):
            for role, chain in chains.items():
                if move or not chain:
                    said = f"Play {play} move {move} of {role}" if move else "You are player two"
                    turns.append(turn(chain[-1] if chain else -1, "env", said))
                    chain.append(len(turns) - 1)
                turns.append(turn(chain[-1], role, f"I take {move + 1}"))
                chain.append(len(turns) - 1)
        for role, chain in chains.items():
            players.append(trajectory(chain, 1.0 if (role == "one") == (play == 0) else -1.0, play, role))
    return group("game", turns, players)


def resets() -> Json:
    """One play in three contexts; the third goes back to the first one's beginning."""
    turns = [
        turn(-1, "env", "Think in chunks"),
        turn(0, "solver", "first chunk"),
        turn(-1, "env", "Think in chunks so far first"),
        turn(2, "solver", "second chunk"),
        turn(0, "solver", "another first chunk"),
    ]
    return group("resets", turns, [trajectory([0, 1, 2, 3, 4], 1.0, 0), trajectory([0, 1], 0.0, 1)])


def tree(stems: int = 2, leaves: int = 3, plays: int = 2) -> Json:
    """In each play a prompt, `stems` first halves, and `leaves` second halves of each, compared within their stem."""
    turns = [turn(-1, "env", "Branch here")]
    ends = []
    for play in range(plays):
        for s in range(stems):
            turns.append(turn(0, "solver", f"stem {s}"))
            stem = len(turns) - 1
            for k in range(leaves):
                turns.append(turn(stem, "solver", f"leaf {s} {k}", credit=0.5 if k == 0 else -0.25))
                ends.append(trajectory([0, stem, len(turns) - 1], float(k == 0), play, group=f"stem {s}"))
    return group("tree", turns, ends)


def long(moves: int = 200) -> Json:
    """A play of very many turns, one of them of very many tokens."""
    turns = [turn(-1, "env", "A long game")]
    for k in range(moves):
        turns.append(turn(len(turns) - 1, "solver", " ".join(f"word{k}" for _ in range(3000 if k == 1 else 12))))
        turns.append(turn(len(turns) - 1, "env", f"Observed {k}"))
    return group("long", turns, [trajectory(list(range(len(turns))), 1.0, 0), trajectory([0, 1], 0.0, 1)])


def odd() -> Json:
    """Text that tries to leave its place, control and direction characters, right-to-left script, half a character."""
    texts = (
        HOSTILE,
        "\x00\x1b[2J\x9b\u2028 \ufeff",
        "مرحبا بالعالم، كيف الحال",
        "שלום עולם 123 abc",
        "👩\u200d👩\u200d👧 😀 é",
    )
    turns = [turn(-1, "env", HOSTILE)] + [turn(0, HOSTILE, text, finish=HOSTILE) for text in texts]
    turns.append(turn(1, "env", "x" * 5000))
    turns.append(
        turn(2, "solver", "", tokens=["", "\ud83d", "€"], ids=[1, 2, 3], logp=None, advantage=None, ratio=None)
    )
    calls = [{"turn": 0, "name": HOSTILE, "arguments": {HOSTILE: HOSTILE}, "outcome": HOSTILE, "seconds": "x"}, 5, None]
    info = {"calls": calls, "finish": HOSTILE, HOSTILE: [HOSTILE, {HOSTILE: 1}]}
    said = {"info": info, "group": HOSTILE, "outcome": HOSTILE, "rewards": {HOSTILE: 1.0, "b": 2.0}}
    paths = [[0, 1, 6], [0, 2, 7], [0, 3], [0, 4], [0, 5]]
    ends = [trajectory(path, float(k), 0, HOSTILE, **said) for k, path in enumerate(paths)]
    return group("odd", turns, [*ends, {"turns": [0], "episode": "two", "info": 3, "group": None}])


def old() -> Json:
    """A tree as it was written before plays and groups were."""
    shape = tree(plays=1)
    for t in shape["trajectories"]:
        for key in ("episode", "group", "info"):
            del t[key]
    return shape | {"task": {"id": "old", "source": "old", "prompt": "Play old."}}


def write_shapes(folder: Path) -> Path:
    """A run directory with one recorded step that has every shape."""
    (folder / "episodes").mkdir(parents=True, exist_ok=True)
    shapes = [tools(), game(), resets(), tree(), long(), odd(), old()]
    text = "".join(json.dumps(shape) + "\n" for shape in shapes)
    (folder / "episodes" / "step_000010.jsonl").write_text(text, encoding="utf-8")
    return folder


if __name__ == "__main__":
    from temper.page import write_report

    print(write_report(write_shapes(Path(sys.argv[1]))))
