"""The process that is a rank (see `temper.backends.fsdp_processes`). It listens before it imports anything heavy."""

from __future__ import annotations

import os
import queue
import threading
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import GeneratorType
from typing import Any


def serve(fd: str, rank: str, world: str, store: str, timeout: str, threads: str, parent: str) -> None:
    """Be a rank: answer messages until the run closes its end, or is gone."""
    end, messages = Connection(int(fd)), queue.SimpleQueue[bytes]()
    threading.Thread(target=_listen, args=(end, messages, int(parent)), daemon=True).start()

    import torch
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    from temper.backends import fsdp, fsdp_wire

    torch.set_num_threads(int(threads))
    target: Any = None
    while True:
        try:
            method, args = fsdp_wire.loads(messages.get(), list(target.own) if target is not None else ())
            if method == "open":
                target = None  # the memory of one that was there before
                if not dist.is_initialized():
                    there = FileStore(store, int(world))
                    fsdp.join(int(rank), int(world), timeout=float(timeout), store=there, device=args[0].device)
                target, result = args[0].open(), None
            else:
                result = getattr(target, method)(*args)
            if isinstance(result, GeneratorType):
                _give(end, result, rank == "0")
                result = None
            end.send_bytes(fsdp_wire.dumps(("done", result)))
        except Exception as error:
            text = " ".join(str(error).split()) or type(error).__name__
            kind = "OSError" if isinstance(error, OSError) else type(error).__name__
            end.send_bytes(fsdp_wire.dumps(("failed", (kind, text, traceback.format_exc()))))


def _give(end: Connection, items: Iterator[Any], first: bool) -> None:
    from temper.backends import fsdp_wire

    for item in items:
        if first:
            end.send_bytes(fsdp_wire.dumps(("item", item)))


def _listen(end: Connection, messages: Any, parent: int) -> None:
    """End this process as soon as the run is gone, also in the middle of a collective."""
    try:
        while True:
            if end.poll(1.0):
                messages.put(end.recv_bytes())
            elif os.getppid() != parent:
                break
    except (EOFError, OSError):
        pass
    os._exit(0)
