"""Think2SQL: what counts as the same result, its rewards worked by hand, hostile queries, the length term."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path

import pytest

from temper.carrier import Batch
from temper.columns import ADVANTAGE, TOKEN, TRAJECTORY
from temper.episode import Completion, Episode, Recorder
from temper.errors import UserError
from temper.methods.environments.think2sql import LengthTerm, think2sql
from temper.parts.shaping import SHAPED
from temper.policy import Policy
from temper.recipes.think2sql import says
from temper.recipes.think2sql import think2sql as recipe
from temper.rewards import sql
from temper.rewards.sql import SqlReward, formatted, sql_of
from temper.rewards.tables import Database, is_ordered, overlap, same
from temper.tasks.task import Task
from temper.tasks.text_to_sql import about_tables, rows_as_tasks

DB = "CREATE TABLE t (a INT, b TEXT); INSERT INTO t VALUES (1, 'x'), (2, 'y'), (2, 'y'), (3, NULL), (4, 'x');"
ALL = "SELECT a, b FROM t"


def score(
    query: str, reference: str = ALL, kind: str = "ex", text: str = "<think>so</think><answer>{}</answer>"
) -> float:
    return SqlReward(kind, slack=1.0)(text.format(query), reference, DB)


# the same result ------------------------------------------------------------------------------------------------------


def test_row_order_counts_only_where_the_reference_asks_for_one() -> None:
    assert score("SELECT a, b FROM t ORDER BY a DESC") == 1.0
    assert score("SELECT a, b FROM t ORDER BY a DESC", f"{ALL} ORDER BY a") == 0.0
    assert score("SELECT a, b FROM t ORDER BY a", f"{ALL} ORDER BY a") == 1.0
    assert score("SELECT a, b FROM t ORDER BY a DESC", "SELECT a, b FROM (SELECT * FROM t ORDER BY a)") == 1.0


def test_names_of_columns_do_not_count_and_their_places_do() -> None:
    assert score("SELECT a AS other, b AS names FROM t AS s") == 1.0
    assert score("SELECT b, a FROM t") == 0.0


def test_duplicates_count_but_not_for_bird() -> None:
    assert score("SELECT DISTINCT a, b FROM t") == 0.0
    assert score("SELECT DISTINCT a, b FROM t", kind="bird") == 1.0
    assert score("SELECT a, b FROM t UNION ALL SELECT a, b FROM t", kind="bird") == 1.0
    assert score("SELECT a, b FROM t ORDER BY a DESC", f"{ALL} ORDER BY a", kind="bird") == 1.0


def test_numbers_are_equal_by_value_and_null_is_not_zero_or_empty() -> None:
    assert score("SELECT 1.0", "SELECT 1") == score("SELECT 0.1 + 0.2", "SELECT 0.3") == 1.0
    assert (
        score("SELECT 1", "SELECT '1'") == score("SELECT 0", "SELECT NULL") == score("SELECT ''", "SELECT NULL") == 0.0
    )
    assert score("SELECT a FROM t WHERE a > 9", "SELECT a FROM t WHERE a > 8") == 1.0  # nothing equals nothing


def test_same_by_hand() -> None:
    assert same(((1,), (2,), (2,)), ((2,), (1,), (2,)))
    assert not same(((1,), (2,)), ((1,), (2,), (2,))) and same(((1,), (2,)), ((1,), (2,), (2,)), duplicates=False)
    assert not same(((1,), (2,)), ((2,), (1,)), ordered=True)


@pytest.mark.parametrize(
    "query, ordered",
    [
        ("SELECT a FROM t ORDER  BY a", True),
        ("select a from t order\nby a limit 2", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT row_number() OVER (PARTITION BY b ORDER BY (a)) FROM t", False),
        ("SELECT ' ORDER BY ' FROM t -- ORDER BY a", False),
        ('SELECT "order by" FROM t /* ORDER BY a */', False),
        ("SELECT a FROM t WHERE a IN (SELECT a FROM t ORDER BY a) ORDER BY (a)", True),
        ("SELECT it_order FROM bypass", False),
    ],
)
def test_is_ordered(query: str, ordered: bool) -> None:
    assert is_ordered(query) is ordered


def test_overlap_by_hand() -> None:
    # found cells {1, x, 2, z}, wanted {1, x, 2, y, 3}: precision 3/4, recall 3/5, cardinality 2/3
    found, wanted = ((1, "x"), (2, "z")), ((1, "x"), (2, "y"), (3, "x"))
    assert overlap(found, wanted) == pytest.approx((3 / 4 + 3 / 5 + 2 / 3) / 3)
    assert overlap((), ()) == 1.0 and overlap((), wanted) == overlap(found, ()) == 0.0


# rewards --------------------------------------------------------------------------------------------------------------

NEAR = "SELECT a, b FROM t WHERE a < 3"  # cells 1 x 2 y of 1 x 2 y 3 NULL 4: 1, 4/7, 3/5
WAY = (1 + 4 / 7 + 3 / 5) / 3
BARE = "<answer>{}</answer>"


def test_small_update_by_hand() -> None:
    assert score("SELEC", kind="small_update") == 0.0
    assert score(ALL, kind="small_update") == 1.0
    assert score("SELECT 99", kind="small_update") == pytest.approx(0.1)  # cardinality 1/5 alone: 1/15
    assert score(NEAR, kind="small_update") == pytest.approx(WAY)
    assert score(NEAR, kind="small_update_formatted", text=BARE) == 0.0
    assert score(ALL, kind="small_update_formatted", text=BARE) == 1.0
    assert [score(q, kind="small_update_buckets") for q in ("SELEC", "SELECT 99", NEAR, ALL)] == [0.0, 0.1, 0.8, 1.0]
    assert score("SELECT a, b FROM t UNION SELECT a, b FROM t", kind="small_update_buckets") == 0.9  # 1, 1, 4/5
    assert score("SELECT a FROM t WHERE a = 1", kind="small_update_buckets") == 0.5  # 1, 1/7, 1/5


def test_sql_r1_by_hand() -> None:
    assert score(ALL, kind="sql_r1", text=BARE) == -1.0
    assert score("SELEC", kind="sql_r1") == -1.0
    assert score("SELECT 1", kind="sql_r1") == 0.0
    characters = len("so") + len(ALL)
    assert score(ALL, kind="sql_r1") == pytest.approx(6 + 0.5 * characters / 2048 + 1)
    fenced = "<think>" + "x" * 3000 + "</think><answer>```sql\n{}\n```</answer>"
    assert score(ALL, kind="sql_r1", text=fenced) == pytest.approx(6.5 + len(ALL) / (len(ALL) + len("```sql\n\n```")))
    assert score(ALL, kind="sql_r1", text="<answer>{}</answer><think>so</think>") == -1.0  # wrong order


def test_arctic_by_hand() -> None:
    assert [score(q, kind="arctic") for q in ("SELEC", "SELECT 1", ALL)] == [0.0, 0.1, 1.0]
    assert [score(q, kind="arctic", text=BARE) for q in ("SELECT 1", ALL)] == [0.0, 1.0]


def test_the_format_and_where_the_query_stands() -> None:
    assert formatted("<think>\nso\n</think>\n<answer>SELECT 1</answer> ") == 1.0
    for wrong in (
        "<answer>1</answer>",
        "So <think>a</think><answer>1</answer>",
        "<think>a</think><answer>1</answer> ok",
    ):
        assert formatted(wrong) == 0.0
    assert formatted("<reasoning>a</reasoning><answer>1</answer>", "reasoning") == 1.0
    assert sql_of("<think>SELECT 0</think><answer>no</answer><answer>\n```SQL\nSELECT 1\n```</answer>") == "SELECT 1"
    assert sql_of("<think>SELECT 0</think> SELECT 2") == "SELECT 2"


def test_a_reference_that_fails_is_no_score() -> None:
    with pytest.raises(ValueError, match="reference query fails"):
        score("SELECT 1", "SELECT nothing FROM t")
    with pytest.raises(UserError, match="SQL reward"):
        SqlReward("exact")


# hostile queries ------------------------------------------------------------------------------------------------------

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT {} FROM n"


def test_no_query_writes_attaches_or_hangs(tmp_path: Path) -> None:
    file = tmp_path / "shop.sqlite"
    with sqlite3.connect(file) as made:
        made.executescript(DB)
    before = file.read_bytes()
    judge = SqlReward(slack=0.3)
    hostile = [
        "DROP TABLE t", "DELETE FROM t", "INSERT INTO t VALUES (9, 'z')", "CREATE TABLE u (a)",
        "PRAGMA writable_schema = 1",
        f"ATTACH DATABASE '{tmp_path / 'new.sqlite'}' AS n", f"VACUUM INTO '{tmp_path / 'out.sqlite'}'",
        "SELECT load_extension('x')", "SELECT 1; DROP TABLE t", "SELECT replace('delete', 'e', 'a') FROM nowhere",
    ]  # fmt: skip
    for query in hostile:
        assert judge(f"<answer>{query}</answer>", ALL, str(file)) == 0.0
    assert (
        judge("<answer>SELECT a, b FROM t WHERE b IS NOT 'DROP TABLE t'</answer>", ALL, str(file)) == 1.0
    )  # no blacklist
    began = time.monotonic()
    for query in (ENDLESS.format("max(i)"), ENDLESS.format("i")):
        assert judge(f"<answer>{query}</answer>", ALL, str(file)) == 0.0
    assert time.monotonic() - began < 3 and file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["shop.sqlite"]


def test_the_limit_follows_the_reference() -> None:
    assert SqlReward().limit(5.0) == 1.2 * 5 + 10 and SqlReward().limit(1000.0) == 500.0
    began = time.monotonic()
    slow = SqlReward(slack=0.2)
    assert slow(f"<answer>{ENDLESS.format('max(i)')}</answer>", ALL, DB, sql_execution_time=0.1) == 0.0
    assert 0.25 < time.monotonic() - began < 2


def test_results_are_remembered_and_time_outs_are_not() -> None:
    base = Database(DB)
    first = base.table(ALL, 1.0)
    base._open = None  # type: ignore[method-assign, assignment]
    assert base.table(ALL, 1.0) is first
    again = Database(DB)
    assert again.table(ENDLESS.format("max(i)"), 0.05).why == "timeout"
    assert ENDLESS.format("max(i)") not in again._kept
    assert again.table(ENDLESS.format("i"), 5.0).why == "too large"


# the length term and the advantage ------------------------------------------------------------------------------------


def group(rewards: list[float | None], lengths: list[int], request: str = "r") -> list[Episode]:
    out = []
    for reward, n in zip(rewards, lengths):
        record = Recorder(Task("t", "?"))
        prompt = record.add((1, 2), text="a long prompt that does not count")
        answer = record.sampled(Completion((3,), (-1.0,), text="x" * n), prompt)
        record.judge([prompt, answer], reward=reward)
        out.append(Episode(record.task, tuple(record.turns), tuple(record.trajectories), request))
    return out


def shaped(rewards: list[float | None], lengths: list[int], **options: float) -> list[float]:
    b = Batch.of(group(rewards, lengths))
    return asyncio.run(LengthTerm(**options)(b))[SHAPED].tolist()


def test_length_term_by_hand() -> None:
    # right: 100 and 300, mean 200, std 141.42; z = 0.7071 for the longer; the small one with 0.4 too; a 0 pays nothing
    found = shaped([1.0, 1.0, 0.4, 0.0], [100, 300, 900, 900])
    assert found == pytest.approx([1.0, 1 - 0.1 * 0.70711, max(0, 0.4 - 0.1 * 700 / 141.42), 0.0], abs=1e-5)
    # equal lengths but for one: std 2.89 of 101.67 is below the floor 20.33
    assert shaped([1.0] * 3, [100, 100, 105]) == pytest.approx([1, 1, 1 - 0.1 * (105 - 101.6667) / 20.3333], abs=1e-5)
    assert shaped([1.0, 1.0], [1, 10_000], strength=5.0)[1] == pytest.approx(0.1)  # at most 0.9
    assert shaped([1.0, 0.3], [10, 9000]) == pytest.approx([1.0, 0.3])  # one right answer is no baseline
    assert shaped([0.2, 0.3], [10, 9000]) == pytest.approx([0.2, 0.3])
    b = asyncio.run(LengthTerm()(Batch.of(group([1.0, None, 1.0], [10, 20, 10]))))[SHAPED]
    assert b.isnan().tolist() == [False, True, False]


def test_the_advantage_is_scaled_by_the_batch() -> None:
    m = think2sql(Policy())
    b = Batch.of([*group([1.0, 0.0], [5, 5], "1"), *group([1.0, 1.0], [5, 5], "2")])
    stage = m.on_batch[0]
    a = asyncio.run(stage(b))[ADVANTAGE]
    std = 0.5 + 1e-4  # of 1, 0, 1, 1
    assert a.tolist() == pytest.approx([0.5 / std, -0.5 / std, 0.0, 0.0]) and b.size(TOKEN) == b.size(TRAJECTORY)


# tasks ----------------------------------------------------------------------------------------------------------------


def test_bundled_questions_have_references_that_run_and_demonstrations_that_mostly_pass() -> None:
    tasks = about_tables()
    judge = SqlReward(slack=1.0)
    assert all(judge(f"<answer>{t.answer}</answer>", str(t.answer), t.info["db"]) == 1.0 for t in tasks)
    passed = [judge(says(t, ""), str(t.answer), t.info["db"]) for t in tasks]
    assert 0.6 < sum(passed) / len(passed) < 0.95
    assert len({t.id for t in tasks}) == len(tasks) and {t.source for t in tasks} == {"count", "most", "list", "order"}


def test_rows_of_bird_are_tasks(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    with sqlite3.connect(tmp_path / "shop" / "shop.sqlite") as made:
        made.executescript(DB)
    row = {"question": "How many?", "evidence": "t holds all", "SQL": "SELECT count(*) FROM t", "db_id": "shop"}
    spider = {"question": "How many?", "query": "SELECT count(*) FROM t", "db_id": "shop"}
    lines = [row] * 9 + [{**row, "db": str(tmp_path / "shop" / "shop.sqlite")}, spider]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (run,) = recipe(questions=str(tmp_path / "rows.jsonl"), databases=tmp_path, eval_tasks=2)
    task = run.curriculum.tasks[0]  # type: ignore[attr-defined]
    assert "CREATE TABLE t (a INT, b TEXT)" in task.prompt and "t holds all" in task.prompt
    for t in (task, run.probes[0].tasks[-1]):
        assert SqlReward()("<answer>SELECT 5</answer>", str(t.answer), t.info["db"]) == 1.0
    with pytest.raises(UserError, match="the database of task"):
        rows_as_tasks([Task("x", "?", info={**row, "db_id": "other"})], tmp_path)
    with pytest.raises(UserError, match="needs a reference"):
        rows_as_tasks([Task("x", "?")], tmp_path)


def test_scores_are_those_that_the_recipe_names() -> None:
    for name in sql.SCORES:
        assert recipe(cold_start=0, score=name)[-1].on_group[0]  # type: ignore[arg-type]
