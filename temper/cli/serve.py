"""`temper serve`: a model behind an OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from temper.console import say
from temper.errors import UserError

if TYPE_CHECKING:
    from temper.gateway.server import Gateway
    from temper.policy import Policy

TOKEN = "TEMPER_TOKEN"


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    name: str | None = None,
    max_tokens: int = 512,
    max_rows: int = 64,
    dtype: str = "float32",
    device: str = "auto",
    threads: int = 0,
) -> int:
    """Serve a model to any client of OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models, /health.

    model       a bundled name, a directory in Hugging Face format, or a hub id
    host        address to listen on; one that other machines can reach needs a token
    port        to listen on (0: a free one)
    token       what clients must send as API key (default: what the variable TEMPER_TOKEN says, else nothing)
    name        of the model in requests (default: model)
    max_tokens  longest answer where a request does not say
    max_rows    answers sampled at once; more wait
    dtype       float32, or bfloat16 to compute in it
    device      cpu, cuda, or auto
    threads     of torch (default: all cores, at most 4)
    """
    if not 0 <= port < 65536:
        raise UserError(f"--port must be from 0 to 65535, got {port}")
    for option, value in (("max-tokens", max_tokens), ("max-rows", max_rows)):
        if value < 1:
            raise UserError(f"--{option} must be at least 1, got {value}")
    from temper.gateway.server import loopback

    token = token or os.environ.get(TOKEN) or None
    if token is None and not loopback(host):
        raise UserError(f"{host} can be reached from other machines: give a --token, or listen on 127.0.0.1")
    import torch

    from temper.cli.run import default_threads
    from temper.policy import Policy

    torch.set_num_threads(threads or default_threads())
    policy = Policy(model=model, trainable=False, dtype=dtype, device=device, max_rows=max_rows)
    policy.open()
    asyncio.run(listen(gateway_of(policy, name or model, token, max_tokens), host, port, name or model, token))
    return 0


def gateway_of(policy: Policy, name: str, token: str | None, max_tokens: int) -> Gateway:
    """The server of an open policy."""
    from temper.backends.base import SamplingParams
    from temper.gateway.render import Renderer
    from temper.gateway.server import Gateway
    from temper.gateway.sessions import Open

    context = getattr(policy.sampler, "context", 1 << 20)
    session = Open(name, policy.sampler, Renderer(policy.tokenizer, context), SamplingParams(max_tokens=max_tokens))
    gateway = Gateway(session if token is None else None)
    if token is not None:
        gateway.admit(session, token)
    return gateway


async def listen(gateway: Gateway, host: str, port: int, name: str, token: str | None) -> None:
    """Until somebody stops it (Ctrl-C, SIGTERM)."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url = await gateway.start(host, port)
    say("\n".join(["", f"{name} at {url}   (Ctrl-C stops it)", "", *example(url, name, token), ""]))
    await stop.wait()
    await gateway.server.closed()
    say("stopped")


def example(url: str, name: str, token: str | None) -> list[str]:
    """A call to try; the token itself is not shown."""
    import json
    import shlex

    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "What is 3 + 4?"}]}, ensure_ascii=False)
    key = [f'  -H "Authorization: Bearer ${TOKEN}" \\'] if token else []
    return [f"curl {url}/chat/completions \\", *key, "  -H 'Content-Type: application/json' \\",
            f"  -d {shlex.quote(body)}"]  # fmt: skip
