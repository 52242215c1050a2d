"""A vLLM server that draws as Temper does: vLLM's own API server and engine, with Temper's logits processor in it.

    TEMPER_VLLM_TOKEN=… python -m temper.backends.vllm_server --model DIR --shared DIR [--host H] [--port N] …

What a client needs of it is vLLM's own: token ids in and out (/inference/v1/generate), pausing, weight transfer,
resetting the prefix cache. Most are development routes, which vLLM's own key does not guard: `Guard` stands before all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from temper.backends.vllm import installed
from temper.errors import UserError
from temper.gateway.server import loopback

TOKEN = "TEMPER_VLLM_TOKEN"
BODY = 64 * 2**20  # bytes of a request
OPEN = ("/health",)  # needs no token
GENERATE = "/inference/v1/generate"
PARAMETERS = {"max_tokens", "temperature", "stop_token_ids", "ignore_eos", "detokenize", "logprobs", "extra_args"}


class Guard:
    """ASGI: nobody passes without the token, and nothing that is larger than BODY. Health alone is everybody's."""

    def __init__(self, app: Any):
        self.app, self.token = app, os.environ[TOKEN].encode()

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)  # type: ignore[no-any-return]
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})  # type: ignore[no-any-return]
        heads = {name.lower(): value for name, value in scope["headers"]}
        if scope["path"] not in OPEN and not hmac.compare_digest(
            heads.get(b"authorization", b""), b"Bearer " + self.token
        ):
            return await refuse(send, 401, f"this server wants its token (Authorization: Bearer …, from {TOKEN})")
        length = heads.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY:
            return await refuse(send, 413, f"a request is at most {BODY} bytes")
        if scope["path"] != GENERATE:
            return await self.app(scope, bounded(receive), send)  # type: ignore[no-any-return]
        body = await whole(bounded(receive))
        if body is None or (wrong := amiss(body)):
            return await refuse(send, 400, "the request did not arrive" if body is None else wrong)
        await self.app(scope, again(body, receive), send)


def amiss(body: bytes) -> str:
    """What is wrong with a request to go on from ids: an id that the model does not have would end vLLM's engine."""
    try:
        asked = json.loads(body)
        ids, params = asked["token_ids"], asked["sampling_params"]
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < vocabulary() for i in ids):
            return f"token_ids must be whole numbers below {vocabulary()}"
        strange = set(params) - PARAMETERS
        return f"sampling parameters go into extra_args; {sorted(strange)[0]!r} is unknown here" if strange else ""
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return f"this is no request to go on from ids: {type(error).__name__}: {error}"


def vocabulary() -> int:
    """Of the model that this process's server serves."""
    return int(os.environ.get("TEMPER_VLLM_VOCABULARY", 2**31))


async def whole(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes | None:
    """A body, or None when its sender went away."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def again(body: bytes, receive: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Gives a body that was read already, and then what still comes (that the client goes away)."""
    left = [body]

    async def take() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return take


def bounded(receive: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Ends a body that was sent in pieces and grows beyond BODY, as if its sender had gone."""
    got = 0

    async def take() -> dict[str, Any]:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        return message if got <= BODY else {"type": "http.disconnect"}

    return take


async def refuse(send: Any, status: int, why: str) -> None:
    body = json.dumps({"error": {"message": why}}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def main(argv: list[str] | None = None) -> None:
    """Serve until told to stop, or until what started this process is gone (--parent)."""
    asked = _parser().parse_args(argv)
    installed()
    if not os.environ.get(TOKEN):
        raise UserError(f"set {TOKEN} to a secret that the trainer is given too")
    if not loopback(asked.host) and len(os.environ[TOKEN]) < 16:
        raise UserError(f"{asked.host} can be reached from other machines: the token in {TOKEN} needs 16 characters")
    if not asked.shared.is_dir():
        raise UserError(f"--shared {asked.shared} is no directory: the trainer writes weights there")
    if asked.parent:
        threading.Thread(target=_watch, daemon=True).start()
    config = json.loads((asked.model / "config.json").read_text())
    os.environ |= {
        "VLLM_SERVER_DEV_MODE": "1", "TEMPER_VLLM_SHARED": str(asked.shared), "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "TEMPER_VLLM_VOCABULARY": str((config.get("text_config") or config)["vocab_size"]), "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    os.environ.pop("VLLM_ALLOW_INSECURE_SERIALIZATION", None)  # nothing that arrives is ever unpickled
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    settings = {name: json.loads(value) for name, _, value in (pair.partition("=") for pair in asked.set)}
    asyncio.run(_serve(asked, settings))


async def _serve(asked: argparse.Namespace, settings: Mapping[str, Any]) -> None:
    from vllm.entrypoints.launchers.api_server.entry import run_server_worker
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.launchers.launcher import setup_server
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from temper.backends.vllm_worker import FILES

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    given = {
        "model": str(asked.model), "host": asked.host, "port": asked.port, "tokens_only": True,
        "skip_tokenizer_init": True, "load_format": "dummy", "generation_config": "vllm", "async_scheduling": False,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logits", "logits_processors": ["temper.backends.vllm_worker:Draws"],
        "worker_extension_cls": "temper.backends.vllm_worker.Extension", "weight_transfer_config": {"backend": FILES},
        "enable_prompt_tokens_details": True, "middleware": ["temper.backends.vllm_server.Guard"],
        "disable_log_stats": True, "disable_uvicorn_access_log": True, "uvicorn_log_level": "warning", **settings,
    }  # fmt: skip
    strange = [name for name in settings if not hasattr(args, name)]
    if strange:
        raise UserError(f"vLLM's server has no setting {strange[0]!r}")
    for name, value in given.items():
        setattr(args, name, value)
    validate_parsed_serve_args(args)
    address, sock = setup_server(args, reuse_port=False)
    if asked.ready:
        written = asked.ready.with_suffix(".part")
        written.write_text(json.dumps({"port": sock.getsockname()[1], "pid": os.getpid()}))
        written.rename(asked.ready)
    await run_server_worker(address, sock, args)


def _watch() -> None:
    """End with the process that started this one: it holds the other end of our standard input."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m temper.backends.vllm_server")
    parser.add_argument(
        "--model", type=Path, required=True, help="config.json and tokenizer; weights come from the trainer"
    )
    parser.add_argument("--shared", type=Path, required=True, help="a folder that trainer and server both see")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--ready", type=Path, help="where to write port and process id")
    parser.add_argument("--parent", action="store_true", help="end when standard input ends")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="a field of vLLM's arguments")
    return parser


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{error}")
