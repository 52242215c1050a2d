"""The check of Think2SQL: execution as a reward, on made-up tables."""

from __future__ import annotations

import sys

from studies.check import Check, Measure, main
from studies.cold import arm, began
from temper.recipes.think2sql import think2sql

SMALL = {"steps": 12, "eval_tasks": 40, "eval_attempts": 4}
ARMS = {
    "EX": arm(think2sql, "think2sql", **SMALL),
    "cold start": began("think2sql", "EX"),
}

CHECK = Check(
    slug="think2sql",
    title="Think2SQL",
    claim="A 7B model trained by RL on execution rewards is on par with models of 100B and more on BIRD; tuning on "
    "reasoning helps small models (arXiv 2504.15077).",
    paper="7B on a par with 100B and more on BIRD. Not comparable: small questions about small tables here.",
    setting="temper-tiny answers questions about four made-up tables with a thought and a query. RL begins at a "
    "cold start: 60 steps of imitation, a third of whose queries slip. EX: 12 steps of RL (8 questions × 16 answers, "
    "0.85 · EX + 0.15 · format, sequence ratios, the batch's standard deviation). pass@1: held-out questions whose "
    "query brings the reference's rows, in the right format.",
    arms=ARMS,
    measures=[Measure("after/pass@1", "EX", "cold start", "pass@1 on held-out questions")],
    exact="`tests/methods/test_think2sql.py`: EX does not depend on the order of rows unless the reference has one, "
    "nor on names of columns; it depends on duplicates, BIRD's does not. Hostile queries neither write, attach nor "
    "hang; time limits follow the reference's own time; every reward variant and the length term by hand.",
    note="This shows that the rewards, the executor and the settings train a model that can begin with the task. The "
    "headline is about BIRD and 7B models: nothing here speaks for or against it.",
)

if __name__ == "__main__":
    sys.exit(main(CHECK))
