"""The bundled checkers, on answers as models write them."""

from __future__ import annotations

import pytest

from temper.rewards.checkers import exact_match, final_part, math_verify, number_match, think_format

GSM8K = "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72 clips.\n#### 72"


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("Paris", "paris", 1.0),
        (" Paris. ", "Paris", 1.0),
        ("<think>Rome?</think> Paris", "Paris", 1.0),
        ("It is <answer>Paris</answer>, I think", "Paris", 1.0),
        ("so \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", 1.0),
        ("４２", "42", 1.0),
        ("Paris", ["Rome", "Paris"], 1.0),
        ("Paris or Rome", "Paris", 0.0),
        ("72", GSM8K, 1.0),
        ("5", 5, 1.0),
        ("", "Paris", 0.0),
        ("Paris", None, None),
    ],
)
def test_exact_match(completion, answer, value):
    assert exact_match(completion, answer) == value


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("The answer is 72.", GSM8K, 1.0),
        ("16 - 3 = 13, so $1,200.50", "1200.5", 1.0),
        ("3/4", "0.75", 1.0),
        ("-3", "3", 0.0),
        ("72 clips, then 7", GSM8K, 0.0),
        ("<answer>7</answer> and 8", "7", 1.0),
        ("none", "7", 0.0),
        ("1/0", "7", 0.0),
        ("7", "a city", None),
        ("7", None, None),
    ],
)
def test_number_match(completion, answer, value):
    assert number_match(completion, answer) == value


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("The answer is 72.", GSM8K, 1.0),
        ("so $\\boxed{\\frac{1}{2}}$", "0.5", 1.0),
        ("x = 5", "\\frac{10}{2}", 1.0),
        ("<think>It is 71.</think> It is 72.", GSM8K, 1.0),
        ("<think>It is 72.</think> It is 71.", GSM8K, 0.0),
        ("<answer>(x+1)^2</answer>", "$x^2+2x+1$", 1.0),
        ("no idea", "72", 0.0),
        ("72", None, None),
    ],
)
def test_math_verify(completion, answer, value):
    pytest.importorskip("math_verify")
    assert math_verify(completion, answer) == value


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>2+2</think> 4", 1.0),
        ("4", 0.0),
        ("<think>2+2</think>", 0.0),
        ("<think>2+2 4", 0.0),
        ("<think>a<think>b</think></think> 4", 0.0),
        ("4 <think>2+2</think> 4", 0.0),
    ],
)
def test_think_format(completion, value):
    assert think_format(completion) == value


@pytest.mark.parametrize(
    ("completion", "part"),
    [
        ("<think>a</think><answer>b</answer>", "b"),
        ("\\boxed{a{b}c} end", "a{b}c"),
        ("\\boxed{a{b", "\\boxed{a{b"),
        ("a </think> b </think> c", "c"),
    ],
)
def test_the_final_part(completion, part):
    assert final_part(completion) == part
