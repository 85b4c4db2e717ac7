"""The page itself: its controls, and what happens when they move."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from context_module.contexts import OBSERVATIONAL
from context_module.demo.code import python_code
from context_module.demo.links import read_link, write_link
from context_module.demo.markup import markup_of, problem
from context_module.demo.modules import SavedModule
from context_module.demo.outputs import make_output
from context_module.demo.settings import LONGEST_TEXT, MOST_SAMPLES, MOST_SEED, MOST_TEMPERATURE, Settings
from context_module.demo.uploads import SUFFIXES, Uploads
from context_module.errors import ContextModuleError
from context_module.interventions import STRENGTHS, Value

__all__ = ["build_page", "look"]

_QUIET: Any = {"show_progress": "hidden", "api_visibility": "private"}
_NONE = "none"
# the address in the browser follows, so that a reload shows the same; what is the browser's own in it stays
_FOLLOW = """query => {
  if (!query) return;
  const own = [...new URLSearchParams(location.search)].filter(([name]) => name.startsWith("__"));
  history.replaceState(null, "", query + own.map(pair => "&" + new URLSearchParams([pair])).join(""));
}"""
_ADDRESS = "() => window.location.search"
_DICE = f"() => Math.floor(Math.random() * {MOST_SEED})"
_DARK = "() => { document.body.classList.toggle('dark'); }"


def look() -> gr.themes.Base:
    """The theme, in fonts that every system has: gradio's own are fetched from elsewhere."""
    fonts, mono = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    return gr.themes.Default(primary_hue="blue", font=fonts, font_mono=mono)


def build_page(modules: Mapping[str, SavedModule], uploads: Uploads) -> gr.Blocks:
    """The page of these modules, to be launched; see `context_module.demo.serve`."""
    with gr.Blocks(title=", ".join(modules), analytics_enabled=False, delete_cache=(600, 3600)) as page:
        _Page(modules, uploads).build(page)
    return page


class _Page:
    """The controls of a page, and what it does with what they say."""

    def __init__(self, modules: Mapping[str, SavedModule], uploads: Uploads) -> None:
        self.modules, self.uploads, self.one_at_a_time = modules, uploads, threading.Lock()
        self.start = read_link("", modules)
        self.images = next(iter(modules.values())).model.base.kind == "images"

    # --- the layout

    def build(self, page: gr.Blocks) -> None:
        """Put everything into the page, and say what happens."""
        with gr.Row(elem_id="page"):
            with gr.Column(elem_id="samples"):
                self.result = gr.HTML()
            with gr.Column(elem_id="controls"):
                self._choices()
                with gr.Column(elem_classes="concepts"):
                    self.concepts = [_Concept(name, list(self.modules.values())) for name in self._names()]
                self._noise()
                self._given()
                with gr.Row():
                    reset, dark = gr.Button("Start again", size="sm"), gr.Button("Light or dark", size="sm")
            with gr.Column(elem_id="code"):
                said: Any = {"label": "The Python that makes it", "interactive": False, "wrap_lines": True}
                self.code = gr.Code(language="python", **said)
        self.link = gr.Textbox(visible="hidden")
        of_concepts = [part for concept in self.concepts for part in concept.parts]
        self.controls = [*self.chosen, *of_concepts, *self.of_noise, self.given, self.context]
        self.shown = [self.result, self.code, self.link]
        self.rows = [concept.row for concept in self.concepts]
        self._follow()
        self._after(reset.click(self.again, None, self.controls, queue=False, **_QUIET))
        dark.click(None, None, None, js=_DARK, **_QUIET)
        everything = [*self.controls, *self.shown, *self.rows]
        page.load(self.open, self.link, everything, js=_ADDRESS, **_QUIET).then(**self.address)

    def _names(self) -> tuple[str, ...]:
        every = (name for module in self.modules.values() for name in module.model.concepts)
        return tuple(dict.fromkeys(every))

    def _choices(self) -> None:
        names = list(self.modules)
        with gr.Row(visible=len(names) > 1):
            first = gr.Dropdown(names, value=names[0], label="module", min_width=120)
            second = gr.Dropdown([_NONE, *names], value=_NONE, label="beside it", min_width=120)
        self.chosen = [first, second]

    def _noise(self) -> None:
        start = self.start
        with gr.Row(equal_height=True):
            n = gr.Slider(1, MOST_SAMPLES, start.n, step=1, label="samples", min_width=130, buttons=[])
            temperature = gr.Slider(
                0, MOST_TEMPERATURE, start.temperature, step=0.05, label="temperature", min_width=130, buttons=[]
            )
        with gr.Row(equal_height=True, elem_classes="concept"):
            seed = gr.Number(start.seed, label="seed", precision=0, minimum=0, maximum=MOST_SEED, min_width=120)
            self.dice = gr.Button("Another seed", size="sm", elem_classes="wide")
        self.of_noise = [n, temperature, seed]

    def _given(self) -> None:
        """An image, or a text, of the visitor's own."""
        own = dict.fromkeys(name for module in self.modules.values() for name in module.model.config.concepts)
        with gr.Accordion(f"{'An image' if self.images else 'A text'} of your own", open=False):
            if self.images:
                self.upload = gr.UploadButton("Upload an image", file_types=list(SUFFIXES), size="sm")
                self.remove = gr.Button("Without the image", size="sm")
                self.given = gr.Textbox(visible="hidden")
            else:
                self.given = gr.Textbox(label="text", max_length=LONGEST_TEXT, lines=2, info="Enter shows it")
            self.context = gr.Dropdown(
                [OBSERVATIONAL, *own], value=OBSERVATIONAL, label="seen in context", allow_custom_value=True
            )

    # --- what happens

    def _follow(self) -> None:
        self.following: Any = {"fn": self.show, "inputs": self.controls, "outputs": self.shown, **_QUIET}
        self.address: Any = {"fn": None, "inputs": self.link, "js": _FOLLOW, **_QUIET}
        moved = [control.input for control in self.controls if control is not self.given]
        if self.images:
            taken = self.upload.upload(self.take, self.upload, self.given, **_QUIET)
            taken.success(**self.following).then(**self.address)
            self._after(self.remove.click(lambda: "", None, self.given, queue=False, **_QUIET))
        else:
            moved += [self.given.submit, self.given.blur]
        gr.on(moved, trigger_mode="always_last", **self.following).then(**self.address)
        for choice in self.chosen:
            choice.change(self.fitting, self.chosen, self.rows, queue=False, **_QUIET)
        for concept in self.concepts:
            for preset in concept.presets():
                self._after(preset)
        self._after(self.dice.click(None, None, self.of_noise[2], js=_DICE, **_QUIET))

    def _after(self, event: Any) -> None:
        """Show what the controls say once an event has set them."""
        event.then(**self.following).then(**self.address)

    def show(self, *values: Any) -> tuple[str, str, str]:
        """The samples, the code and the link of what the controls say; what is wrong with it, in their place."""
        try:
            return self._made(self.settings(values))
        except (ContextModuleError, ValueError) as error:
            return problem(error), "", ""

    def open(self, query: str) -> list[Any]:
        """Everything as a link says, or as at the start and what is wrong with the link."""
        try:
            settings, said = read_link(query, self.modules), ""
            made = self._made(settings)
        except (ContextModuleError, ValueError) as error:
            settings, said = self.start, problem(error)
            made = self._made(settings)
        return [*self._set(settings), said + made[0], *made[1:], *self.fitting(*settings.modules)]

    def again(self) -> list[Any]:
        """Everything as at the start."""
        return self._set(self.start)

    def take(self, file: str | None) -> str:
        """The key of an upload."""
        try:
            return self.uploads.take(file or "")
        except ContextModuleError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None

    def fitting(self, *names: str) -> list[Any]:
        """Of every concept its row, seen if a module shown has it."""
        models = [self.modules[name].model for name in names if name in self.modules]
        known = {concept for model in models for concept in model.concepts}
        return [gr.Column(visible=concept.name in known) for concept in self.concepts]

    def settings(self, values: Sequence[Any]) -> Settings:
        """What the controls say, once it is known that the modules can do it."""
        first, second, *rest = values
        names = (first,) if second in (_NONE, first) else (first, second)
        shown = [self.modules[name].model.concepts for name in names if name in self.modules]
        do: dict[str, float | Value] = {}
        for concept in self.concepts:
            said, rest = rest[: len(concept.parts)], rest[len(concept.parts) :]
            if any(concept.name in concepts for concepts in shown):
                do[concept.name] = concept.intervention(*said)
        n, temperature, seed, given, context = rest
        own = {("image" if self.images else "text"): given} if given else {}
        settings = Settings(names, do, int(n), float(temperature), int(seed or 0), **own, context=context)
        settings.check(self.modules)
        return settings

    def _set(self, settings: Settings) -> list[Any]:
        first, second = (*settings.modules, _NONE)[:2]
        parts = [update for concept in self.concepts for update in concept.updates(settings.do.get(concept.name, 0))]
        given = (settings.image if self.images else settings.text) or ""
        return [first, second, *parts, settings.n, settings.temperature, settings.seed, given, settings.context]

    def _made(self, settings: Settings) -> tuple[str, str, str]:
        image = self.uploads.find(settings.image) if settings.image else None
        with self.one_at_a_time:
            outputs = [make_output(self.modules[name], settings, image) for name in settings.modules]
        link = write_link(settings)
        return markup_of(outputs, link), python_code(settings, self.modules, image.name if image else None), link


class _Concept:
    """The controls of one concept: its strength, and where it has values, a value in its place."""

    def __init__(self, name: str, modules: Sequence[SavedModule]) -> None:
        self.name = name
        having = [module for module in modules if name in module.model.concepts]
        limits = next((_round(*module.values[name]) for module in having if name in module.values), None)
        self.value = self.on = None
        with gr.Column() as self.row, gr.Row(elem_classes="concept"):
            self.strength = gr.Slider(*STRENGTHS, 0, step=0.05, label=name, buttons=[])
            if limits:
                low, high = limits
                said: Any = {"label": f"{name} =", "step": (high - low) / 100, "visible": False, "buttons": []}
                self.value = gr.Slider(low, high, (low + high) / 2, **said)
            self.buttons = [gr.Button(str(strength), size="sm", elem_classes="narrow") for strength in (0, 1)]
            if limits:
                self.on = gr.Checkbox(False, label="value", container=False, min_width=60)
                self.on.input(self._seen, self.on, [self.strength, self.value], queue=False, **_QUIET)

    @property
    def parts(self) -> list[Any]:
        """The controls that say what is to be done."""
        return [part for part in (self.strength, self.value, self.on) if part is not None]

    def presets(self) -> list[Any]:
        """The events that set it to nothing, or to a full intervention."""
        return [
            button.click(self._preset(strength), None, self.parts, queue=False, **_QUIET)
            for strength, button in enumerate(self.buttons)
        ]

    def intervention(self, strength: float, value: float = 0.0, on: bool = False) -> float | Value:
        """What is to be done to the concept."""
        return Value(value) if on else float(strength)

    def updates(self, given: float | Value) -> list[Any]:
        """The controls, to say this."""
        if self.on is None:
            return [given.value if isinstance(given, Value) else given]
        if isinstance(given, Value):
            return [gr.Slider(visible=False), gr.Slider(value=given.value, visible=True), True]
        return [gr.Slider(value=given, visible=True), gr.Slider(visible=False), False]

    def _preset(self, strength: int) -> Callable[[], Any]:
        def preset() -> Any:
            updates = self.updates(float(strength))
            return updates if len(updates) > 1 else updates[0]

        return preset

    @staticmethod
    def _seen(on: bool) -> tuple[Any, Any]:
        return gr.Slider(visible=not on), gr.Slider(visible=on)


def _round(low: float, high: float) -> tuple[float, float]:
    """Limits to be read: off by less than the hundredth of their range that a value may lie outside."""
    digits = math.ceil(-math.log10(0.01 * (high - low))) if high > low else 6
    return round(low, digits), round(high, digits)
