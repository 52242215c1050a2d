"""An agent as somebody else wrote it: it knows OpenAI's client and nothing of Temper."""

import sys
from typing import Any

from openai import OpenAI

client = OpenAI()
messages: list[Any] = [{"role": "user", "content": sys.stdin.read()}]
for note in ("Look again.", None):
    answer = client.chat.completions.create(model="gpt-4o", messages=messages, temperature=0).choices[0].message
    messages.append(answer)
    if note:
        messages.append({"role": "user", "content": note})
letters = sum(c.isalpha() for c in str(answer.content))
print("some chatter")
print(letters / 10)
