"""A server on standard streams that speaks JSON-RPC badly: `python mcp_hostile.py HOW`. Needs no package."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

HOW = sys.argv[1]
SCHEMAS: dict[str, Any] = {
    "no schema": {"type": "object", "properties": {"a": {"type": 7}}},
    "boolean schema": {"type": "object", "properties": {"a": True, "b": False}},
    "references": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}},
}
RESULTS: dict[str, Any] = {
    "no result": {"content": "text"},
    "structured": {"content": [], "structuredContent": {"a": [1, None]}},
    "picture": {"content": [{"type": "image", "data": "aGk=", "mimeType": "image/png"}]},
    "resource": {
        "content": [
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
            {"type": "resource_link", "uri": "file:///b", "name": "other"},
        ]
    },
}


def answer(method: str, params: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        version = params.get("protocolVersion")
        info = {"name": "bad", "version": "1"}
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
    if method == "tools/list":
        schema = SCHEMAS.get(HOW, {"type": "object", "properties": {"a": {}}})
        tools = [{"name": "f", "inputSchema": schema}] if HOW != "no tools" else []
        return {"result": {"tools": tools, **({"nextCursor": "again"} if HOW == "endless" else {})}}
    if method == "tools/call":
        return call()
    return {"error": {"code": -32601, "message": f"no method {method}"}}


def call() -> dict[str, Any]:
    if HOW == "no answer":
        time.sleep(3600)
    if HOW == "invalid UTF-8":
        os.write(1, b'{"jsonrpc": "2.0", "method": "notifications/message\xff\xfe"}\n')
    if HOW == "half a line":
        os.write(1, b'{"jsonrpc": "2.0", "id": ')
        os._exit(0)
    if HOW == "unknown tool":
        return {"error": {"code": -32602, "message": "Unknown tool: f"}}
    if HOW == "error":
        return {"error": {"code": -32603, "message": "inside"}}
    return {"result": RESULTS.get(HOW, {"content": [{"type": "text", "text": "fine"}]})}


if HOW == "exits":
    sys.exit("there is no disk")
for line in sys.stdin:
    message = json.loads(line)
    if HOW == "silent" or "id" not in message:
        continue
    if HOW == "garbage":
        print("<html>", flush=True)
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer(message["method"], message.get("params") or {})}))
    sys.stdout.flush()
