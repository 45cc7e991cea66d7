"""`vist gateway`: a server between a client and its model that sends older texts as pages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

UpstreamOption = Annotated[
    str, typer.Option("--upstream", metavar="URL", help="The API to forward to, such as https://api.openai.com.")
]
PortOption = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")]
HostOption = Annotated[
    str, typer.Option("--host", help="Address to listen on; one that others can reach needs a token.")
]
TokenOption = Annotated[
    str | None,
    typer.Option("--token", envvar="VIST_GATEWAY_TOKEN", help="What every request has to show in X-Vist-Token."),
]


def gateway(
    upstream: UpstreamOption,
    port: PortOption = 8100,
    host: HostOption = "127.0.0.1",
    token: TokenOption = None,
    policy: Annotated[
        str, typer.Option("--policy", help="What becomes pages, such as 'keep_recent=4, min_saving=0.5'.")
    ] = "",
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Rewrite for this model only, or for a pattern such as 'gpt-4o*'; repeatable."),
    ] = None,
    max_body: Annotated[
        int, typer.Option("--max-body", min=0, help="Bytes; larger requests go on as they are.")
    ] = 33_554_432,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", help="A request not rewritten by then goes on as it is.")
    ] = 10.0,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the upstream's next byte.")] = 600.0,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that draw pages; 0 draws in the server itself.")
    ] = 1,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Event log in JSON Lines; without texts and keys.")
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=0, help="Requests that the dashboard shows, kept in memory only.")
    ] = 100,
) -> None:
    """Forward a model's API and send older, longer texts as pages where that saves tokens.

    Set OPENAI_BASE_URL=http://127.0.0.1:8100/v1 or ANTHROPIC_BASE_URL=http://127.0.0.1:8100 in the client; the
    dashboard is at http://127.0.0.1:8100/.
    """
    from vist.errors import VistError
    from vist.gateway import CompressionPolicy
    from vist.gateway.settings import Settings, read_policy

    try:
        from vist.gateway.server import run
    except ImportError as error:
        raise VistError(f"The gateway needs {error.name}; install it with: pip install 'vist[gateway]'.") from None
    settings = Settings(
        upstream,
        read_policy(policy, CompressionPolicy()),
        tuple(model or ()),
        host,
        port,
        token,
        max_body,
        max_seconds,
        timeout,
        workers,
        log,
        keep,
    )
    run(settings)
