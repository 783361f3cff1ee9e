# A real Chromium, driven by the DevTools protocol. It owns the browser's process and its throw-away profile.

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --no-default-browser-check --mute-audio "
    "--remote-debugging-port=0 "
    # Where there is no display there is no mouse, and yet one is moved.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
).split()
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowDown": 40}


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[str]:
    """Runs a browser; gives the address of its debugger."""
    path = find()
    assert path is not None
    profile = tempfile.mkdtemp(prefix="edge-chromium-")
    with open(f"{profile}/stderr", "wb") as stderr:
        process = subprocess.Popen([path, *FLAGS, f"--user-data-dir={profile}"], stderr=stderr)
    try:
        # The browser writes its port and path here once it listens.
        port_file = Path(profile, "DevToolsActivePort")
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n") >= 1):
            assert process.poll() is None, Path(profile, "stderr").read_text(errors="replace")
            assert time.monotonic() < deadline, "Chromium does not start"
            time.sleep(0.05)
        port, location = port_file.read_text().split("\n")[:2]
        yield f"ws://127.0.0.1:{port}{location}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)


class Page:
    """A tab in a profile of its own. `troubles` collects what the browser complained about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.troubles: list[str] = []
        self._socket = socket
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self._context: str | None = None

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = len(self._calls) + 1
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        await self._socket.send_str(json.dumps(message))
        async with asyncio.timeout(30):
            return await future

    async def read(self) -> None:
        async for message in self._socket:
            found = json.loads(message.data)
            if "id" in found:
                future = self._calls[found["id"]]
                if future.done():
                    continue
                if "error" in found:
                    future.set_exception(RuntimeError(found["error"]["message"]))
                else:
                    future.set_result(found["result"])
            elif found["method"] == "Runtime.exceptionThrown":
                self.troubles.append(json.dumps(found["params"]["exceptionDetails"]))
            elif found["method"] == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
                self.troubles.append(found["params"]["entry"]["text"])

    async def open(self) -> None:
        self._context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def close(self) -> None:
        self._session = None
        with suppress(RuntimeError):
            await self.call("Target.disposeBrowserContext", browserContextId=self._context)

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def js(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, expression: str, deadline_s: float = 15.0) -> None:
        found = False
        try:
            async with asyncio.timeout(deadline_s):
                while not found:
                    with suppress(RuntimeError):  # a page on its way to the next has nothing to ask
                        found = await self.js(f"!!({expression})")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never true: {expression}\n{await self.js('document.body.innerText')}") from None

    async def text(self, selector: str) -> str:
        return str(await self.js(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def texts(self, selector: str) -> list[str]:
        return list(await self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)"))

    async def type(self, selector: str, text: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def press(self, name: str) -> None:
        key: dict[str, Any] = {"key": name, "code": name, "windowsVirtualKeyCode": KEYS[name]}
        if name == "Enter":
            key["text"] = "\r"
        await self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    async def press_enter(self) -> None:
        await self.press("Enter")

    async def click(self, selector: str) -> None:
        x, y = await self._where(selector)
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def hover(self, selector: str) -> None:
        x, y = await self._where(selector)
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def _where(self, selector: str) -> tuple[float, float]:
        x, y = await self.js(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return x, y


@asynccontextmanager
async def tab(debugger: str) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession() as session, session.ws_connect(debugger, max_msg_size=0) as socket:
        page = Page(socket)
        reading = asyncio.create_task(page.read())
        try:
            await page.open()
            yield page
            await page.close()
        finally:
            reading.cancel()
            await asyncio.wait([reading])
