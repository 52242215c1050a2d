"""Tasks from files, data sets and Reasoning Gym; every mistake in data is one line that says where."""

from __future__ import annotations

import json

import pytest

from temper.errors import UserError
from temper.tasks.data import load_tasks
from temper.tasks.reasoning_gym import score
from temper.tasks.task import Task

ROWS = [
    {"question": "Ann has 2 pens and buys 3.", "answer": "2+3=<<2+3=5>>5\n#### 5"},
    {"question": "Bob eats 1 of 4 figs.", "answer": "4-1=<<4-1=3>>3\n#### 3", "level": 1},
]


def lines(path, rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def check_the_rows(tasks, name):
    assert [t.prompt for t in tasks] == [row["question"] for row in ROWS]
    assert [t.answer for t in tasks] == [row["answer"] for row in ROWS]
    assert [t.id for t in tasks] == [f"{name}/1", f"{name}/2"]
    assert tasks[1].info["level"] == 1


def test_jsonl(tmp_path):
    tasks = load_tasks(lines(tmp_path / "sums.jsonl", [ROWS[0], "", ROWS[1]]))
    assert [t.id for t in tasks] == ["sums/1", "sums/3"]  # line numbers
    assert tasks[0].source == "sums" and tasks[0].info == {} and tasks[1].info == {"level": 1}


def test_jsonl_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode())
    assert load_tasks(path)[0].prompt == ROWS[0]["question"]


def test_a_json_list(tmp_path):
    path = tmp_path / "sums.json"
    path.write_text(json.dumps(ROWS, indent=1))
    check_the_rows(load_tasks(path), "sums")


def test_json_that_is_really_one_object_a_line(tmp_path):
    check_the_rows(load_tasks(lines(tmp_path / "sums.json", ROWS)), "sums")


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS, arrow.schema(
        [("question", arrow.string()), ("answer", arrow.string()), ("level", arrow.int64())]
    )), tmp_path / "sums.parquet")  # fmt: skip
    check_the_rows(load_tasks(tmp_path / "sums.parquet"), "sums")


def test_a_verl_parquet_with_nested_columns(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "2+3?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "5"},
        "extra_info": {"split": "train", "index": 0},
    }
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "train.parquet")
    (task,) = load_tasks(tmp_path / "train.parquet")
    assert task.prompt == row["prompt"] and task.answer == "5" and task.source == "openai/gsm8k"
    assert {k: task.info[k] for k in ("ability", "reward_model", "extra_info")} == {
        k: row[k] for k in ("ability", "reward_model", "extra_info")
    }


def test_a_folder_saved_by_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "level": row.get("level")} for row in ROWS]
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": whole, "test": whole.select([0])}).save_to_disk(str(tmp_path / "two"))
    check_the_rows(load_tasks(tmp_path / "one"), "one/train")
    check_the_rows(load_tasks(tmp_path / "two"), "two/train")
    assert len(load_tasks(str(tmp_path / "two"), split="test")) == 1
    with pytest.raises(UserError, match="has no split 'dev'; there are: train, test"):
        load_tasks(tmp_path / "two", split="dev")
    check_the_rows(load_tasks(datasets.Dataset.from_list(rows)), "rows")


def test_a_hub_data_set_is_asked_for_by_name(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*arguments, **more):
        asked.append((arguments, more))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check_the_rows(load_tasks("openai/gsm8k:main", split="test"), "gsm8k/test")
    load_tasks("openai/gsm8k", config="socratic")
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"}), (("openai/gsm8k", "socratic"), {"split": "train"})]


def test_a_hub_data_set_that_cannot_be_loaded_is_one_line(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_arguments, **_more):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as error:
        load_tasks("nobody/nothing")
    assert str(error.value) == "'nobody/nothing' is neither a file here nor a data set that could be loaded: no route"


def test_a_folder_with_a_file_a_split(tmp_path):
    folder = tmp_path / "gsm"
    folder.mkdir()
    lines(folder / "train.jsonl", ROWS)
    lines(folder / "test.jsonl", ROWS[:1])
    check_the_rows(load_tasks(folder), "gsm/train")
    assert [t.id for t in load_tasks(str(folder), split="test")] == ["gsm/test/1"]
    with pytest.raises(UserError, match="has no split 'dev'; there are: test, train"):
        load_tasks(folder, split="dev")


def test_a_folder_with_a_split_in_shards(tmp_path):
    lines(tmp_path / "train-00000.jsonl", ROWS[:1])
    lines(tmp_path / "train-00001.jsonl", ROWS[1:])
    check_the_rows(load_tasks(tmp_path), f"{tmp_path.name}/train")


def test_rows_and_tasks_in_memory():
    task = Task("mine", "2+2?")
    tasks = load_tasks([{"prompt": "a"}, task])
    assert tasks[0].prompt == "a" and tasks[1] is task


def test_limit(tmp_path):
    assert len(load_tasks(lines(tmp_path / "sums.jsonl", ROWS), limit=1)) == 1
    assert len(load_tasks(lines(tmp_path / "more.jsonl", [ROWS[0], "not json"]), limit=1)) == 1  # the rest is not read
    with pytest.raises(UserError, match="limit must be at least 1, got 0"):
        load_tasks(tmp_path / "sums.jsonl", limit=0)


def test_named_columns_and_a_system_message(tmp_path):
    rows = [{"input": "2+2?", "out": {"value": 4}, "note": "easy"}]
    (task,) = load_tasks(
        lines(tmp_path / "a.jsonl", rows), prompt_key="input", answer_key="out.value", system="Be brief."
    )
    assert task.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    assert task.answer == "4" and task.info == {"out": {"value": 4}, "note": "easy", "answer": 4}


MISTAKES = [
    (['{"prompt": "a"}', '{"prompt": "b"'], "line 2: not JSON \\(Expecting ',' delimiter"),
    (['{"prompt": "a"}', "[1, 2]"], "line 2: a row must be an object with named fields, got list"),
    (['{"prompt": "a"}', "", '{"promt": "b"}'], "line 3: no prompt: a row needs prompt, .*\\(it has: promt\\)"),
    (['{"prompt": ""}'], "line 1: prompt is empty"),
    (['{"prompt": 7}'], "line 1: prompt must be text or a list of messages, got int"),
    (['{"prompt": []}'], "line 1: prompt is empty"),
    (['{"prompt": [{"role": "user"}]}'], 'line 1: prompt must hold messages with "role" and "content"'),
    (['{"prompt": "a", "chosen": "b"}'], "line 1: rejected is missing"),
    (['{"prompt": "a", "completions": ["b"], "labels": []}'], "line 1: 1 completions but 0 labels"),
    (['{"prompt": "a", "completion": {"x": 1}}'], "line 1: completion must be text or a list of messages, got dict"),
    (['{"chosen": "yes", "rejected": "no"}'], "line 1: the common beginning of chosen and rejected is empty"),
    (["", ""], " holds no tasks"),
]


@pytest.mark.parametrize(("rows", "message"), MISTAKES)
def test_a_malformed_row_is_named_with_file_and_line(tmp_path, rows, message):
    path = lines(tmp_path / "bad.jsonl", rows)
    with pytest.raises(UserError, match=f"bad.jsonl.*{message}") as error:
        load_tasks(path)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl, line 2: not UTF-8 text"):
        load_tasks(path)


def test_unknown_columns_name_what_exists(tmp_path):
    path = lines(tmp_path / "sums.jsonl", ROWS)
    with pytest.raises(UserError, match=r"line 1: unknown column 'qestion'; did you mean question\?"):
        load_tasks(path, prompt_key="qestion")
    with pytest.raises(UserError, match="line 1: unknown column 'zzz'; there are: answer, question"):
        load_tasks(path, answer_key="zzz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sum.jsonl", r"no file .*sum\.jsonl; did you mean sums\.jsonl"),
        ("sums.txt", r"sums\.txt is none of the files that hold tasks: \.jsonl"),
        ("empty", "empty holds no tasks"),
        ("bad.json", r"bad\.json, line 2: not JSON"),
        ("number.json", r"number\.json must hold a list of rows, got int"),
        ("bad.parquet", r"bad\.parquet is not a Parquet file"),
    ],
)
def test_files_that_are_not_there_or_hold_nothing(tmp_path, name, message):
    lines(tmp_path / "sums.jsonl", ROWS)
    (tmp_path / "sums.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('[{"prompt": "a"},\n{"prompt"}]')
    (tmp_path / "number.json").write_text("3")
    (tmp_path / "bad.parquet").write_text("3")
    with pytest.raises(UserError, match=message) as error:
        load_tasks(tmp_path / name)
    assert "\n" not in str(error.value)


# Reasoning Gym -------------------------------------------------------------------------------------------------------


def test_reasoning_gym_by_name_with_options():
    tasks = load_tasks("rg:chain_sum?min_terms=3&max_terms=3&min_digits=1&max_digits=1&size=20&seed=4")
    assert len(tasks) == 20
    assert all(t.prompt.count("+") + t.prompt.count(" - ") == 2 for t in tasks)
    assert score(tasks[0].answer, tasks[0].info["rg"]) == 1.0


def test_several_gyms_take_turns_and_stay_lazy():
    tasks = load_tasks("rg:chain_sum?size=1000000,rg:gcd?level=1&size=2,rg:gcd?level=0&size=2", limit=6)
    assert [t.source for t in tasks] == ["chain_sum", "gcd", "gcd", "chain_sum", "gcd", "gcd"]
    assert [t.id for t in tasks[1:3]] == [tasks[1].id, tasks[2].id] and len({t.id for t in tasks}) == 6


def test_splits_of_a_gym_share_no_task():
    train, test = (load_tasks("rg:chain_sum?size=50", split=s) for s in ("train", "test"))
    assert not {t.prompt for t in train} & {t.prompt for t in test}
    assert not {t.id for t in train} & {t.id for t in test}
    assert [t.prompt for t in train] == [t.prompt for t in load_tasks("rg:chain_sum?size=50")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("rg:chain_sm", "unknown data set 'chain_sm'.*did you mean chain_sum"),
        ("rg:chain_sum?terms=3", "unknown option 'terms'"),
        ("rg:chain_sum?size", "an option is written name=value, got 'size'"),
        ("rg:chain_sum?size=many", "size must be a whole number, got 'many'"),
        ("rg:chain_sum?size=0", "size must be a whole number, got 0"),
        ("rg:chain_sum?level=99", "has levels 0 to"),
        ("chain_sum", "Reasoning Gym's data set of that name is written rg:chain_sum"),
    ],
)
def test_mistakes_in_a_gyms_name_are_one_line(source, message):
    with pytest.raises(UserError, match=message) as error:
        load_tasks(source)
    assert "\n" not in str(error.value)


def test_options_without_effect_are_refused():
    with pytest.raises(UserError, match="no use for Reasoning Gym"):
        load_tasks("rg:chain_sum", prompt_key="question")


def test_gsm8k(gsm8k):
    tasks = load_tasks(gsm8k, split="test", limit=3)
    assert [t.id for t in tasks] == ["gsm8k/test/1", "gsm8k/test/2", "gsm8k/test/3"]
    assert tasks[0].answer.endswith("#### 18") and tasks[0].source == "gsm8k"
