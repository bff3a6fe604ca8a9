"""What is asked beside completions: Tabby's, Copilot's and operators' routes, and this document. Pure data."""

from __future__ import annotations

from typing import Final

from serve.api.openapi.operation import Chapter, asks, json_of
from serve.api.openapi.schema import STRING, WHOLE, Schema, listed, one_of, record, ref

_SCHEMAS: Final[dict[str, Schema]] = {
    "TabbyHealth": record(
        {
            "model": STRING,
            "device": STRING,
            "arch": STRING,
            "cpu_info": STRING,
            "cpu_count": WHOLE,
            "cuda_devices": listed(STRING),
            "version": record(
                dict.fromkeys(("build_date", "build_timestamp", "git_sha", "git_describe"), STRING)
            ),
        }
    ),
    "CopilotToken": record(
        {
            "token": {**STRING, "description": "Opens nothing: there is no account here."},
            "expires_at": {**WHOLE, "description": "Seconds since 1970."},
            "refresh_in": {**WHOLE, "description": "Seconds."},
        }
    ),
    "Health": record(
        {
            "status": one_of("loading", "ok", "draining", "failed"),
            "model": {**STRING, "description": "The one that answers to all names not known."},
            "running": WHOLE,
            "waiting": WHOLE,
            "reason": {**STRING, "description": "Why nothing is answered any more."},
            "models": listed(
                record(
                    {
                        "name": STRING,
                        "status": one_of("unloaded", "loading", "ok", "draining", "failed"),
                        "running": WHOLE,
                        "waiting": WHOLE,
                        "reason": {**STRING, "description": "Why it failed."},
                    },
                    optional=["reason"],
                )
            ),
        },
        optional=["reason"],
    ),
}


def chapters() -> tuple[Chapter, ...]:
    """The routes of `serve.http.routes.tabby`, `copilot`, `ops` and `description`."""
    tabby_health = json_of(ref("TabbyHealth"))
    plain = {"text/plain": {"schema": STRING}}
    not_well = {
        "503": {
            "description": "It is loading, or takes nothing new.",
            "content": json_of(ref("Health")),
        }
    }
    return (
        Chapter(
            "Tabby",
            "What Tabby's agent asks beside completions.",
            {
                "/v1/health": {
                    "get": asks("tabbyHealth", "What serves, and with what.", tabby_health),
                    "post": asks("tabbyHealthToo", "The same.", tabby_health),
                },
                "/v1/events": {
                    "post": asks(
                        "tabbyEvents",
                        "Which suggestion was seen, taken or dismissed. Nobody is told, nothing is kept.",
                        {},
                    )
                },
            },
            {"TabbyHealth": _SCHEMAS["TabbyHealth"]},
        ),
        Chapter(
            "Copilot",
            "What GitHub Copilot's plugins ask before they ask for completions.",
            {
                "/copilot_internal/v2/token": {
                    "get": asks(
                        "copilotToken", "A token, for any caller.", json_of(ref("CopilotToken"))
                    )
                }
            },
            {"CopilotToken": _SCHEMAS["CopilotToken"]},
        ),
        Chapter(
            "Operators",
            "Is it up, what does it serve, how busy is it.",
            {
                "/": {"get": asks("index", "A page.", plain, is_open=True)},
                "/health": {
                    "get": asks(
                        "health",
                        "Whether it takes requests. Waits for nothing.",
                        json_of(ref("Health")),
                        is_open=True,
                        more=not_well,
                    )
                },
                "/metrics": {"get": asks("metrics", "The numbers that Prometheus reads.", plain)},
                "/openapi.json": {
                    "get": asks("openapi", "This document.", json_of({"type": "object"}))
                },
            },
            {"Health": _SCHEMAS["Health"]},
        ),
    )
