"""Texts in contexts from what a language model writes by itself: drawn, to be trained on, and judged.

    python docs/examples/weather.py base GGUF_FILE outputs/weather/base
    python docs/examples/weather.py draw outputs/weather/base outputs/weather
    python docs/examples/weather.py judge outputs/weather/base outputs/weather  # after recipes/finetune.py

The model goes on with a list of sentences about the weather; a text ends with its first full stop. Lists of words say
whether it is of the past, and whether rough weather is in it; sentences of no tense are left out. How many sentences
are as they should be is judged by readers of their own: a tagger of parts of speech (pip install textblob) looks for
verbs in the past, the bare model is asked for the word that it would go on with. Of the lists this one knows where the
line is: between the medians of training sentences that they sorted.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from context_module import ContextualDecoder
from context_module.adapters.prefix import Prefix, attending, run, silent_cache
from context_module.adapters.tokens import own_tokens
from context_module.adapters.transformers import TransformersAdapter
from context_module.data import ContextData, from_samples, text_folders
from context_module.metrics import share_estimate

PROMPT = """Sentences about the weather, of today and of the past:
- The sun is warm and the sky is clear.
- There was snow and a cold wind yesterday.
- The storm is loud and the rain is heavy.
- Last week was bright and pleasant.
-"""
ASKED = """Sentences about rough weather in the past:
- Last night was cold and stormy.
- There was snow and a cold wind yesterday.
- The storm was loud and the rain was heavy.
- Last week was gloomy and wet.
-"""
MAX_TOKENS, VIRTUAL_TOKENS, TEMPERATURE = 14, 8, 0.8

_PAST = (
    r"was|were|had|did|wasn't|weren't|went|felt|came|fell|blew|rained|snowed|brought|left|hit|yesterday|said|rolled"
)
_PRESENT = r"is|are|has|isn't|aren't|it's|i'm|today's|there's|brings|feels|comes|falls|continues|currently|be|will"
_ROUGH = (
    r"rain\w*|storm\w*|thunder\w*|snow\w*|cold\w*|chill\w*|wind\w*|gust\w*|hurricane\w*|blizzard\w*|drizzl\w*|cloud\w*"
    r"|fog\w*|gr[ea]y|gloom\w*|wet|tornado\w*|tempest\w*|freez\w*|frost\w*|overcast|downpour\w*|flood\w*|shower\w*"
)


def more_of(some: str, others: str):
    """A labeller: by how many words of one list there are more than of the other."""
    these, those = (re.compile(rf"\b({words})\b", re.IGNORECASE) for words in (some, others))

    def score(texts: list[str]) -> Tensor:
        return torch.tensor([float(len(these.findall(text)) - len(those.findall(text))) for text in texts])

    return score


def any_of(some: str):
    """A labeller: whether there is a word of a list."""
    these = re.compile(rf"\b({some})\b", re.IGNORECASE)
    return lambda texts: torch.tensor([1.0 if these.search(text) else -1.0 for text in texts])


LABELLERS = {"past": more_of(_PAST, _PRESENT), "rough": any_of(_ROUGH)}


def base_of(folder: str, prompt: str = PROMPT) -> TransformersAdapter:
    """The model, after a prompt."""
    return TransformersAdapter.load(folder, prompt=prompt, max_tokens=MAX_TOKENS, virtual_tokens=VIRTUAL_TOKENS)


def make_base(file: str, folder: Path) -> None:
    """Make floats of a GGUF file, and have texts end with their first full stop."""
    model = TransformersAdapter.load(Path(file).parent, gguf_file=Path(file).name)
    model.tokenizer.eos_token = "."
    model.save(folder)


def verbs_in_the_past(texts: list[str]) -> Tensor:
    """A reader: verbs in the past less those in the present, as the tagger of textblob finds them."""
    from textblob.en.taggers import PatternTagger

    found = [[tag for _, tag in PatternTagger().tag(text, tokenize=True)] for text in texts]
    return torch.tensor([float(tags.count("VBD") - sum(map(tags.count, ("VBZ", "VBP", "MD")))) for tags in found])


class Rainier:
    """A reader: how much more the bare model would call the weather of a text rainy than sunny.

    Args:
        base: the model; its prompt does not count.
        fair, rough: texts whose median scores the threshold lies midway between.
    """

    def __init__(self, base: TransformersAdapter, fair: list[str], rough: list[str]) -> None:
        self.base, self.threshold = base, 0.0
        self.threshold = sum(self(texts).median().item() for texts in (fair, rough)) / 2

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        read, net = self.base.tokenizer, self.base.net
        rainy, sunny = (read(word, add_special_tokens=False)["input_ids"][0] for word in (" rainy", " sunny"))
        scores = []
        for start in range(0, len(texts), 32):
            asked = [f"Weather report: {text}\nIn short, the weather is" for text in texts[start : start + 32]]
            rows = [torch.tensor(ids) for ids in read(asked, add_special_tokens=False)["input_ids"]]
            ids = pad_sequence(rows, batch_first=True)  # what is filled up comes last, where nothing is read
            last = torch.tensor([len(row) - 1 for row in rows])
            logits = net.lm_head(net.model(ids).last_hidden_state[torch.arange(len(rows)), last])
            scores.append(logits[:, rainy] - logits[:, sunny] - self.threshold)
        return torch.cat(scores)


def contexts_of(base: TransformersAdapter, folder: Path, n: int) -> ContextData:
    """What the model wrote, in contexts."""
    return from_samples(
        base, LABELLERS, n=n, margin=1, temperature=TEMPERATURE, cache_file=folder / f"drawn-{n}.jsonl", seed=0
    )


def draw(base_folder: str, folder: Path, n: int = 1536) -> None:
    """Write the texts as folders, a line a text."""
    data = contexts_of(base_of(base_folder), folder, n)
    print(data.describe())
    for part in (data.train, data.held_out):
        for context in part.context_names if part is not None else ():
            (folder / "texts" / context).mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{' '.join(text.split())}\n" for text in part.texts(context))
            (folder / "texts" / context / "texts.txt").write_text(lines, encoding="utf-8")


@torch.no_grad()
def mean_values(base: TransformersAdapter, texts: list[str]) -> Tensor:
    """What attention holds of texts, averaged over their tokens and them: values (layers, heads, head width)."""
    ids, before = base.check_inputs(texts), base.before[:-1]
    cache = Prefix(silent_cache(base.net, before), base.sample_latent(len(ids))).cache()
    run(base.net, ids, cache)
    values = torch.stack([layer.values[:, :, len(before) :] for layer in attending(cache)], dim=1)
    own = own_tokens(ids, base.end)[:, None, None, :, None]
    return ((values * own).sum(3) / own.sum(3)).mean(0)


def shift_of(base: TransformersAdapter, data: ContextData) -> Tensor:
    """The decoder input that costs nothing: values of virtual tokens moved by how far both contexts lie from obs."""
    means = {name: mean_values(base, data.train.texts(name, 150)) for name in data.train.context_names}
    latent = torch.zeros(base.latent.shape)
    latent[:, 1] = sum(means[name] - means["obs"] for name in data.concepts)[:, :, None]
    return latent


def judge(base_folder: str, folder: Path, n: int = 96) -> None:
    """Print what readers find in texts of the bare model, of the module, and in the drawn texts of both concepts."""
    model = ContextualDecoder.from_pretrained(folder / "module", base=base_folder)
    data = text_folders(folder / "texts")
    both = data.concepts.name(data.concepts)
    options = {"sample": True, "temperature": TEMPERATURE, "seed": 0}
    asked = base_of(base_folder, ASKED)
    generator = torch.Generator().manual_seed(0)
    drawn = asked.decode(asked.sample_latent(n), temperature=TEMPERATURE, generator=generator).sample(generator)
    with model.disable_adapter():
        rows = {"the bare model": model.generate(n, **options)}
    rows["the bare model, asked for both"] = asked.present(drawn)
    shift = shift_of(model.base, data).expand(n, *model.base.latent.shape)
    for times in (1, 2, 3):
        moved = model.base.decode(times * shift, temperature=TEMPERATURE).sample(torch.Generator().manual_seed(0))
        rows[f"mean values, {times} times their difference"] = model.base.present(moved)
    rows |= {f"do({name})": model.generate(n, do=name, **options) for name in ("obs", *data.concepts, both)}
    for strength in (1.5, 2.0):
        rows[f"do({both}), strength {strength:g}"] = model.generate(
            n, do=dict.fromkeys(data.concepts, strength), **options
        )
    rows[f"drawn texts, {both}"] = data.held_out.texts(both)
    train = data.train
    readers = {"past": verbs_in_the_past, "rough": Rainier(asked, train.texts("obs", 64), train.texts("rough", 64))}
    print(f"| texts | {' | '.join(readers)} | both |")
    print("|---|" + "---|" * (len(readers) + 1))
    for name, texts in rows.items():
        read = torch.stack([reader(texts) > 0 for reader in readers.values()], dim=1)
        shares = [share_estimate(column.float()) for column in (*read.T, read.all(1))]
        print(f"| {name} | {' | '.join(f'{each.value:.2f} ({each.low:.2f} to {each.high:.2f})' for each in shares)} |")
    for name, texts in rows.items():
        print("", name, *texts[:8], sep="\n")


if __name__ == "__main__":
    if sys.argv[1] == "prompt":
        print(PROMPT)
    else:
        {"base": make_base, "draw": draw, "judge": judge}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
