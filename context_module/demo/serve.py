"""Serves a page on this machine, with nothing from outside of it and nothing beyond its own folder."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from context_module.demo.markup import CSS
from context_module.demo.modules import SavedModule
from context_module.demo.uploads import MOST_BYTES, Uploads

__all__ = ["serve"]

_WAITING = 64
# a browser fetches nothing of another host, whatever the page or a later version of gradio asks it to
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


def serve(modules: Mapping[str, SavedModule], *, host: str = "127.0.0.1", port: int = 7860) -> None:
    """Serve a page with these modules until it is interrupted.

    What is uploaded lies in a temporary folder, which goes with the page.

    Args:
        modules: what `load_modules` returned.
        host: address to listen on; ``0.0.0.0`` lets other machines in.
        port: to listen on.

    Raises:
        ImportError: if gradio is not installed.
        OSError: for a port that is taken.
    """
    with tempfile.TemporaryDirectory(prefix="context-module-demo-") as folder:
        uploads = Uploads(Path(folder))
        os.environ["GRADIO_TEMP_DIR"] = str(uploads.incoming)  # gradio reads it when it is imported, and later
        try:
            from context_module.demo.page import build_page, look
        except ImportError as error:
            raise ImportError(f"the page needs gradio ({error}): pip install context-module[demo]") from error
        page = build_page(modules, uploads)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: the folder is to go
        try:
            page.queue(max_size=_WAITING, default_concurrency_limit=1).launch(
                server_name=host,
                server_port=port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                allowed_paths=[],
                max_file_size=MOST_BYTES,
                footer_links=[],
                enable_monitoring=False,
                ssr_mode=False,
                mcp_server=False,
                app_kwargs={"middleware": [_guard(uploads)], "docs_url": None, "redoc_url": None, "openapi_url": None},
                css=CSS,
                theme=look(),
            )
            print(f"{', '.join(modules)}: http://{'localhost' if host == '127.0.0.1' else host}:{port}", flush=True)
            page.block_thread()
        finally:
            page.close(verbose=False)


class _Guard:
    """Adds the policy to every answer, and makes room before every upload; bare ASGI, so that streams stay streams."""

    def __init__(self, app: Callable[..., Awaitable[None]], uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload"):
            self.uploads.make_room()
        await self.app(scope, receive, with_policy)


def _guard(uploads: Uploads) -> Any:
    from starlette.middleware import Middleware

    return Middleware(_Guard, uploads=uploads)
