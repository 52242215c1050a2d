"""Runs in the process of a `temper.tools.child.Child`, under any Python from 3.10, without Temper: answers JSON lines.

    python -I lines.py FILE MEMORY CPU      FILE defines answer(message) -> anything that JSON can hold

Memory and CPU time are bounded, no file grows beyond 16 MiB, and the process ends when its parent does.
"""

import contextlib
import json
import os
import resource
import runpy
import sys
import threading
import time

FILE_LIMIT = 16 << 20  # bytes


def main(file: str, memory: int, cpu: int) -> None:
    """One line of standard output for each line of standard input; what else is printed goes to standard error."""
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu), (resource.RLIMIT_FSIZE, FILE_LIMIT)):
        if most:
            resource.setrlimit(what, (most, most))
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    answer = runpy.run_path(file)["answer"]
    for line in sys.stdin:
        with contextlib.suppress(BrokenPipeError):
            answers.write(_reply(answer, line) + "\n")
            answers.flush()


def _reply(answer, line):
    try:
        return json.dumps({"value": answer(json.loads(line))})
    except Exception as error:
        return json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]})


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
