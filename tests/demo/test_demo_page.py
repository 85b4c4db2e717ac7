"""The page as it is served: as whoever means ill asks for it, and in Chromium, as a visitor sees it."""

import base64
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from context_module.demo import Settings, make_output, python_code, serve
from context_module.interventions import Value

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed (extra demo)")
CHROMIUM = Path("/usr/bin/chromium")
# what is too large is refused, and a stream that a page waits on is cut off as the page is left
HARMLESS = ("status of 413", "BodyStreamBuffer was aborted")


RECIPE = Path(__file__).parents[2] / "recipes" / "demo.py"
# in the process that serves: connecting to another machine is an error, and is written down
GUARD = """
import os, socket

connect = socket.socket.connect

def guarded(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        open(os.environ["CONNECTED"], "a").write(f"{address}\\n")
        raise OSError("no network")
    return connect(self, address)

socket.socket.connect = guarded
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(saved, port, folder, *flags):
    """The recipe in a process of its own, in an empty folder; its first line, and the process."""
    for name in ("temporary", "guard", "here"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    inside = {"TMPDIR": folder / "temporary", "PYTHONPATH": folder / "guard", "CONNECTED": folder / "connected.txt"}
    inside |= {"HF_HOME": folder / "temporary", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(RECIPE), "--model", str(saved), "--port", str(port), *flags],
        cwd=folder / "here",
        env={**os.environ, **{name: str(value) for name, value in inside.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process.stdout.readline(), process


class Site:
    """The page that is served, its address, and its folders."""

    def __init__(self, port, folder):
        self.url, self.port, self.folder = f"http://127.0.0.1:{port}", port, folder

    def get(self, path):
        """(status, headers, body)."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=20) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def post(self, path, body, kind="application/json"):
        request = urllib.request.Request(f"{self.url}{path}", body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def call(self, name, *data, session="s"):
        """What an event of the page answers to data that no browser would send."""
        config = json.loads(self.get("/config")[2])
        (number,) = [event["id"] for event in config["dependencies"] if event["api_name"] == name]
        body = json.dumps({"data": data, "fn_index": number, "session_hash": session})
        status, answer = self.post("/gradio_api/queue/join", body.encode())
        if status != 200:
            return {"refused": status, "answer": answer}
        with urllib.request.urlopen(f"{self.url}/gradio_api/queue/data?session_hash={session}", timeout=20) as events:
            for line in events:
                said = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
                if said.get("msg") == "process_completed":
                    return said
        raise AssertionError("no answer")

    def upload(self, name, content):
        """Where the page put a file."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        return self.post("/gradio_api/upload", head + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")


@pytest.fixture(scope="module")
def site(saved, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    line, process = start(saved, port, folder)
    try:
        assert line == f"edits, structural: http://localhost:{port}\n", process.stderr.read()
        yield Site(port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert not list((folder / "temporary").glob("context-module-demo-*"))  # what was uploaded is gone
    assert not list((folder / "here").iterdir())  # and nothing was written beside it
    assert not (folder / "connected.txt").exists()  # nor sent anywhere


def photo(size=(40, 30), kind="PNG"):
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert("RGB").save(buffer, format=kind)
    return buffer.getvalue()


def bomb():
    """A PNG of a hundred million pixels, in a few bytes."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 10_000)) + chunk(b"IEND", b"")


# --- without a browser


def test_pages_may_load_nothing_from_elsewhere(site):
    status, headers, body = site.get("/")
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'self' data: blob:;")
    assert "http" not in headers["content-security-policy"]
    assert b"fonts.googleapis" not in body
    assert site.get("/docs")[0] == site.get("/openapi.json")[0] == 404


def test_no_file_is_served_but_uploads(site):
    (site.folder / "temporary" / "other.txt").write_text("secret")
    here = Path(__file__).resolve()
    for path in ("/etc/passwd", here, here.parents[2] / "pyproject.toml", site.folder / "temporary" / "other.txt"):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            status, _, body = site.get(f"{route}{path}")
            assert status in (403, 404), (route, path, body)
    (site.folder / "temporary" / "other.txt").unlink()
    for path in ("/gradio_api/file=../../../etc/passwd", "/gradio_api/file=http://localhost/a.png", "/static/../../x"):
        assert site.get(path)[0] >= 400


@pytest.mark.parametrize("path", ["/etc/hostname", "{here}", "http://127.0.0.1:{port}/favicon.ico", "relative.png"])
def test_no_file_is_taken_but_uploads(path, site):
    path = path.format(here=__file__, port=site.port)
    file = {"path": path, "url": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    answer = site.call("take", file)
    assert not answer.get("success"), answer
    assert "root" not in json.dumps(answer)


def test_uploads_that_are_too_large_are_refused(site):
    status, answer = site.upload("large.png", b"\0" * (8 * 2**20 + 1))
    assert status == 413, answer


def test_uploads_are_taken(site, modules):
    status, answer = site.upload("photo.png", photo())
    assert status == 200
    (path,) = json.loads(answer)
    assert Path(path).is_relative_to(site.folder / "temporary")
    said = site.call("take", {"path": path, "orig_name": "photo.png", "meta": {"_type": "gradio.FileData"}})
    assert said["success"], said
    (key,) = said["output"]["data"]
    (kept,) = (site.folder / "temporary").glob(f"*/kept/{key}/*")
    assert kept.read_bytes() == photo()


# the modules; of quad1 and size strength, value and which of them; the strength of shade; n, temperature, seed, image,
# context
SOUND = ["edits", "none", 0.5, 0.7, False, 1.0, 0.7, False, 0.0, 2, 1.0, 0, "", "obs"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, "other", ""),
        (2, 7.5, ""),
        (2, "1 + 1", ""),
        (9, 1000, ""),
        (10, 99.0, ""),
        (11, 2**40, ""),
        (12, "../../etc/passwd", "the image of this link is not here any more"),
        (12, "<img src=x onerror=alert(1)>", "the image of this link is not here any more"),
        (13, "<img src=x onerror=alert(1)>", "unknown concept"),
    ],
)
def test_what_no_control_says_is_refused(place, value, message, site):
    answer = site.call("show", *(value if number == place else given for number, given in enumerate(SOUND)))
    said = json.dumps(answer)
    assert "data:image/png" not in said
    assert not answer.get("success") or "problem" in said
    assert message in said
    assert "<img" not in said
    assert answer.get("success") == bool(message)


def test_what_the_controls_say_is_shown(site, modules):
    answer = site.call("show", *SOUND)
    html, code, link = answer["output"]["data"]
    settings = Settings(("edits",), {"quad1": 0.5, "size": 1.0}, n=2)
    assert base64.b64encode(make_output(modules["edits"], settings).content).decode() in html
    assert code == python_code(settings, modules).rstrip("\n")
    assert link == "?module=edits&do=quad1%3A0.5&do=size&n=2&seed=0&temperature=1"


def test_a_port_that_is_taken(site, saved, tmp_path):
    line, process = start(saved, site.port, tmp_path)
    out, complaints = process.communicate(timeout=60)
    assert (line, out, process.returncode) == ("", "", 1)
    assert complaints.startswith("error: ")
    assert str(site.port) in complaints
    assert not list((tmp_path / "temporary").glob("context-module-demo-*"))


def test_without_gradio(modules, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "context_module.demo.page", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # restored afterwards
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ImportError, match=r"the page needs gradio .*: pip install context-module\[demo\]"):
        serve(modules)
    assert not list(tmp_path.iterdir())


# --- in Chromium


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A window with the page."""

    def __init__(self, page, url):
        self.page, self.url = page, url

    def open(self, query=""):
        self.page.goto(f"{self.url}/{query}")
        self.page.wait_for_selector(".samples img")
        return self

    def sees(self, expected):
        """Wait until the pictures are these, byte for byte."""
        address = "data:image/png;base64,"
        images = [address + base64.b64encode(output.content).decode() for output in expected]
        script = "images => JSON.stringify([...document.querySelectorAll('.samples img')].map(i => i.src)) == images"
        self.page.wait_for_function(script, arg=json.dumps(images, separators=(",", ":")), timeout=20_000)

    def concept(self, name):
        return self.page.locator(".concept", has=self.page.get_by_label(f"number input for {name}"))

    def set(self, label, value):
        field = self.page.get_by_label(f"number input for {label}", exact=True)
        field.fill(str(value))
        field.press("Enter")


@pytest.fixture
def visit(browser, site):
    """Opens windows, which must not complain, nor ask another host for anything."""
    complaints, contexts = [], []

    def opened(**options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        inside = ("data:", "blob:", site.url)
        page.on("request", lambda request: request.url.startswith(inside) or complaints.append(request.url))
        return Visitor(page, site.url)

    yield opened
    for context in contexts:
        context.close()
    assert not [text for text in complaints if not any(harmless in text for harmless in HARMLESS)]


def test_sliders_move_the_picture(visit, modules):
    visitor = visit().open()
    edits = modules["edits"]
    visitor.sees([make_output(edits, Settings(("edits",)))])
    visitor.set("quad1", -1.5)
    visitor.sees([make_output(edits, Settings(("edits",), {"quad1": -1.5}))])
    visitor.concept("size").get_by_role("button", name="1", exact=True).click()
    settings = Settings(("edits",), {"quad1": -1.5, "size": 1.0})
    visitor.sees([make_output(edits, settings)])
    visitor.set("samples", 3)
    visitor.set("temperature", 0.5)
    settings = Settings(("edits",), {"quad1": -1.5, "size": 1.0}, n=3, temperature=0.5)
    visitor.sees([make_output(edits, settings)])
    shown = visitor.page.locator("#code .cm-line").all_inner_texts()
    assert [line.strip("\n") for line in shown] == python_code(settings, modules).splitlines() or shown[-1] == ""
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("link", name="edits.png").click()
    assert Path(download.value.path()).read_bytes() == make_output(edits, settings).content
    visitor.page.get_by_text("Start again").click()
    visitor.sees([make_output(edits, Settings(("edits",)))])


def test_a_value_in_place_of_a_strength(visit, modules):
    visitor = visit().open("?do=size&n=2")
    visitor.page.get_by_role("checkbox").last.check()
    visitor.set("size =", 0.8)
    settings = Settings(("edits",), {"size": Value(0.8)}, n=2)
    visitor.sees([make_output(modules["edits"], settings)])
    visitor.page.locator(".concept", has=visitor.page.get_by_label("number input for size =")).get_by_role(
        "button", name="0", exact=True
    ).click()
    visitor.sees([make_output(modules["edits"], Settings(("edits",), n=2))])


def test_a_reload_shows_the_same(visit, modules):
    visitor = visit().open("?do=size%3D0.7&n=2&seed=4")
    visitor.set("quad1", 0.35)
    settings = Settings(("edits",), {"quad1": 0.35, "size": Value(0.7)}, n=2, seed=4)
    expected = [make_output(modules["edits"], settings)]
    visitor.sees(expected)
    visitor.page.wait_for_url("**do=quad1%3A0.35**")
    visitor.page.reload()
    visitor.sees(expected)
    other = visit()
    other.page.goto(f"{other.url}/{visitor.page.locator('#link').get_attribute('href')}")
    other.sees(expected)
    assert other.page.get_by_label("number input for quad1", exact=True).input_value() == "0.35"
    assert other.page.get_by_role("checkbox").last.is_checked()
    other.set("quad1", 0)  # what the link did not say is as it said
    other.sees([make_output(modules["edits"], Settings(("edits",), {"size": Value(0.7)}, n=2, seed=4))])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?do=quad9", "unknown concept 'quad9'"),
        ("?seed=<script>alert(1)</script>", "seed must be a number, got '<script>alert(1)</script>'"),
        (f"?image={'0' * 32}", "the image of this link is not here any more: upload it again"),
    ],
)
def test_a_bad_link_says_so(query, message, visit, modules):
    visitor = visit().open(query)
    assert message in visitor.page.get_by_role("alert").inner_text()
    visitor.sees([make_output(modules["edits"], Settings(("edits",)))])


def test_two_modules_side_by_side(visit, modules):
    visitor = visit(viewport={"width": 1280, "height": 800}).open("?module=edits&module=structural&do=shade&n=2")
    visitor.sees([make_output(modules[name], Settings((name,), {"shade": 1.0}, n=2)) for name in modules])
    left, right = visitor.page.locator(".samples img").all()
    assert left.bounding_box()["y"] == right.bounding_box()["y"]
    assert left.bounding_box()["x"] + left.bounding_box()["width"] <= right.bounding_box()["x"]
    visitor.set("quad1", 2)
    both = {"shade": 1.0, "quad1": 2.0}
    visitor.sees([make_output(modules[name], Settings((name,), both, n=2)) for name in modules])
    visitor.page.get_by_label("beside it").click()
    visitor.page.get_by_role("option", name="none").click()
    visitor.sees([make_output(modules["edits"], Settings(("edits",), {"quad1": 2.0}, n=2))])
    assert not visitor.concept("shade").is_visible()
    assert visitor.concept("size").is_visible()


def test_an_image_of_ones_own(visit, modules, tmp_path):
    visitor = visit().open("?do=quad1&n=2")
    page = visitor.page
    page.get_by_text("An image of your own").click()
    before = [make_output(modules["edits"], Settings(("edits",), {"quad1": 1.0}, n=2))]
    for name, content, message in (
        ("text.png", b"hello", "text.png cannot be read as an image"),
        ("bomb.png", bomb(), "bomb.png has "),
        ("large.png", b"\0" * (8 * 2**20 + 1), "exceed the maximum allowed size"),
    ):
        page.set_input_files("input[type=file]", {"name": name, "mimeType": "image/png", "buffer": content})
        page.get_by_text(message).first.wait_for(timeout=20_000)
        visitor.sees(before)
    (tmp_path / "my_photo.png").write_bytes(photo())
    page.set_input_files("input[type=file]", tmp_path / "my_photo.png")
    settings = Settings(("edits",), {"quad1": 1.0}, n=2, image="0" * 32)
    expected = [make_output(modules["edits"], settings, tmp_path / "my_photo.png")]
    visitor.sees(expected)
    assert "Path('my_photo.png')" in page.locator("#code").inner_text()
    page.wait_for_url("**image=**")
    page.reload()
    visitor.sees(expected)
    page.get_by_text("An image of your own").click()
    page.get_by_text("Without the image").click()
    visitor.sees(before)


def test_two_visitors_at_once(visit, modules):
    first, second = visit().open(), visit().open()
    for step in range(3):
        first.set("quad1", 1 + step / 2)
        second.set("size", -1 - step / 4)
    first.sees([make_output(modules["edits"], Settings(("edits",), {"quad1": 2.0}))])
    second.sees([make_output(modules["edits"], Settings(("edits",), {"size": -1.5}))])


def test_light_and_dark(visit):
    ink = "getComputedStyle(document.querySelector('figcaption')).color"
    pages = {scheme: visit(color_scheme=scheme).open("?n=1").page for scheme in ("light", "dark")}
    inks = {scheme: page.evaluate(ink) for scheme, page in pages.items()}
    assert max(map(int, inks["light"][4:-1].split(", "))) < 100 < min(map(int, inks["dark"][4:-1].split(", ")))
    pages["light"].get_by_text("Light or dark").click()
    pages["light"].wait_for_function(f"{ink} == '{inks['dark']}'")


def test_on_a_phone_the_picture_stays_in_sight(visit):
    visitor = visit(viewport={"width": 390, "height": 700}, has_touch=True, is_mobile=True).open("?do=quad1")
    page = visitor.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in page.locator(".concept > *:visible").all():
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    page.get_by_text("Start again").scroll_into_view_if_needed()
    assert page.evaluate("window.scrollY") > 50
    box = page.locator(".samples img").bounding_box()
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 350
