"""A local OpenAI-compatible server in front of a sampler: `temper serve`, and the door of `temper.envs.agent`.

Standard library only: HTTP/1.1 over asyncio streams (http), requests as typed records (asked), rendering that keeps a
client's text out of the control tokens (render), response bodies (answers), what a key may talk to (sessions,
recording), and the routes (server).
"""
