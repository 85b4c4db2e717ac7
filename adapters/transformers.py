"""Shows causal language models of transformers to the library: the decoder input is a prefix of keys and values."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from context_module.adapters.causal import body_of, check_causal, unsupported
from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec
from context_module.adapters.gguf import plain_weights, reading_options
from context_module.adapters.prefix import Prefix, attending, silent_cache
from context_module.adapters.pretrained import (
    import_library,
    network_of,
    parts_of,
    read_network,
    reading,
    source_of,
)
from context_module.adapters.pretraining import Pretraining
from context_module.adapters.sentence_encoder import SentenceEncoder
from context_module.adapters.tokens import TokenDecoding, TokenLikelihood, own_tokens
from context_module.adapters.word_tokenizer import word_tokenizer
from context_module.errors import CheckpointError, DataError, ShapeError
from context_module.io import HUB_OPTIONS, recorded

__all__ = ["TransformersAdapter"]

DEFAULT_MAX_TOKENS = 64
_ENCODER = "encoder"  # the folder of one, in a saved base's
_WHAT = "a folder of a language model and its tokenizer"


class TransformersAdapter(DecoderAdapter):
    """A causal language model as a base: the decoder input is the keys and values of virtual tokens before a text.

    The model goes on from the virtual tokens with ``begin token, text, end token``; the begin token is the
    tokenizer's, or else its end token. Decoder inputs (layers, 2, heads, virtual tokens, head width) are differences
    of each layer's keys and values to those of begin tokens in the virtual tokens' places: at zero they say nothing,
    and texts are the base's own (Li & Liang 2021, "Prefix-Tuning"). With a `prompt`, texts follow on that, and the
    virtual tokens are in the places of its last tokens but one. The encoder is the model as well: features are its
    last hidden states without virtual tokens, averaged over the text. No prefix lies behind a text before one is
    learned, hence there is no embedding for the latent objective.

    With an `encoder`, such as a sentence encoder, features are its vectors of the texts instead, and the model only
    decodes. It is a part of the base: of its fingerprint, and trained and saved where the base is.

    Inputs are texts, or their token ids (B, T), int64: `tokenize`, filled up with end tokens. A greedy text is the
    likelihood's "mean".

    Args:
        net: the model, such as a ``LlamaForCausalLM``, or a `peft.PeftModel` of one: its LoRA is a part of the base.
        tokenizer: its tokenizer, with an end token, and with no more tokens than the model has embeddings.
        virtual_tokens: how many.
        max_tokens: limit of texts read and generated, the end token included. Default: 64, or what the model reads.
        source: the folder or hub id both were read from; default: what both say.
        encoder: an encoder of transformers (BERT, MPNet, ...): its folder or Hub id, a loaded model, a
            feature-extraction pipeline, or a `SentenceEncoder`. Default: the language model itself.
        prompt: what all texts follow on, as a model that was trained on instructions needs it: with the marks that
            its template has around them. Default: begin tokens.

    Raises:
        TypeError: for a model that is no causal language model, or has no keys and values (Mamba, ...), or an encoder
            that is none.
        CheckpointError: for an encoder that cannot be read.
        ShapeError: for a tokenizer with more tokens than the model has embeddings.
        ValueError: for a tokenizer without an end token, for weights of several types, for counts out of range.
    """

    name = "transformers"
    kind: ClassVar[Literal["images", "texts"]] = "texts"
    embeds = False
    load_options = (*HUB_OPTIONS, "virtual_tokens", "max_tokens", "dtype", "encoder", "prompt", "gguf_file")

    def __init__(
        self,
        net: Any,
        tokenizer: Any,
        virtual_tokens: int = 8,
        max_tokens: int | None = None,
        source: str | None = None,
        encoder: Any = None,
        prompt: str | None = None,
    ) -> None:
        super().__init__()
        net = network_of(net)
        check_causal(net)
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no end token, so texts would never end: set tokenizer.eos_token to the token that "
                "texts ended with when the model was trained"
            )
        embeddings = net.get_input_embeddings().num_embeddings
        if len(tokenizer) > embeddings:
            raise ShapeError(
                f"the tokenizer has {len(tokenizer)} tokens, the model embeddings of {embeddings}: call "
                "model.resize_token_embeddings(len(tokenizer)) after adding tokens, and before wrapping the model"
            )
        if source is None and source_of(net) == source_of(tokenizer):  # elsewhere there is another tokenizer
            source = source_of(net)
        self.net, self.tokenizer, self.source = net.eval(), tokenizer, source
        self.end: int = tokenizer.eos_token_id
        self.begin: int = self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else [self.begin]
        self.before: list[int] = [self.begin] * (virtual_tokens + 1 - len(before)) + before
        longest = getattr(net.config, "max_position_embeddings", None)
        room = None if longest is None else longest + 1 - len(self.before)
        if max_tokens is None:
            max_tokens = DEFAULT_MAX_TOKENS if room is None else min(DEFAULT_MAX_TOKENS, room)
        if virtual_tokens < 1 or max_tokens < 2:
            raise ValueError(
                f"virtual_tokens must be at least 1 and max_tokens at least 2, got {virtual_tokens} and {max_tokens}"
            )
        if room is not None and max_tokens > room:
            raise ValueError(
                f"{len(self.before) - 1} {'tokens of a prompt' if prompt else 'virtual tokens'} and texts of "
                f"{max_tokens} tokens do not fit the model, which reads {longest}: lower max_tokens"
            )
        self.virtual_tokens, self.max_tokens = virtual_tokens, max_tokens
        layers = attending(silent_cache(net, self.before[:-1]))
        shape = list(layers[0].keys.shape[1:])
        self.latent = LatentSpec((len(layers), 2, shape[0], virtual_tokens, shape[2]))
        self.encoder = None if encoder is None else SentenceEncoder.of(encoder)
        self.num_features = (
            net.get_input_embeddings().embedding_dim if self.encoder is None else self.encoder.num_features
        )
        options = {"virtual_tokens": virtual_tokens, "max_tokens": max_tokens, "prompt": prompt or None}
        options["encoder"] = None if self.encoder is None else self.encoder.source
        self.options = {name: value for name, value in options.items() if value is not None}

    @classmethod
    def matches(cls, base: object) -> bool:
        return any(kind.__module__.partition(".")[0] == "transformers" for kind in type(base).__mro__)

    @classmethod
    def wrap(cls, base: Any, **options: Any) -> TransformersAdapter:
        """The adapter around a text-generation pipeline, or a model whose tokenizer lies where it was loaded from.

        Args:
            base: the pipeline or model.
            options: the adapter's own arguments: `virtual_tokens`, `max_tokens`, `encoder`, `prompt`; and
                `tokenizer`, for a model without one where it was loaded from.
        """
        if options.get("tokenizer") is not None:
            return cls(getattr(base, "model", base) if hasattr(base, "tokenizer") else base, **options)
        options.pop("tokenizer", None)
        net, tokenizer, source = parts_of(
            base, "wrap_decoder(model, ..., tokenizer=...) or TransformersAdapter(model, tokenizer)", _WHAT
        )
        return cls(net, tokenizer, source=source, **options)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        virtual_tokens: int = 8,
        max_tokens: int | None = None,
        dtype: str | torch.dtype | None = None,
        encoder: Any = None,
        prompt: str | None = None,
        gguf_file: str | None = None,
        **hub: Any,
    ) -> TransformersAdapter:
        """The adapter around a model and its tokenizer, of one folder of ``save_pretrained`` or Hugging Face Hub id.

        Args:
            path: the folder or id.
            virtual_tokens, max_tokens, prompt: as for the class.
            dtype: type of the weights, such as ``bfloat16``; default: that of the files.
            encoder: as for the class; by default that which `save` wrote with the model, if any.
            gguf_file: the name of a GGUF file there, which model and tokenizer are read from instead, its weights made
                floats.
            hub: `revision`, `token` and `local_files_only` of huggingface_hub; the revision is the model's alone.

        Raises:
            CheckpointError: for missing or broken files, weights that are neither safetensors nor GGUF, tensors that
                are missing or of another shape, or a model that is no causal language model.
            ImportError: without transformers, or what reads GGUF files.
            ValueError: as for the class.
        """
        library, path = import_library("transformers", cls.name), str(path)
        weights: dict[str, Any] = {"dtype": "auto" if dtype is None else dtype}
        file = {} if gguf_file is None else reading_options(path, gguf_file)
        if file:
            weights |= plain_weights(library)
        with reading(path, _WHAT):
            config = library.AutoConfig.from_pretrained(path, trust_remote_code=False, **file, **hub)
            if config.is_encoder_decoder or type(config) not in library.MODEL_FOR_CAUSAL_LM_MAPPING:
                raise CheckpointError(f"{path}: {unsupported((config.architectures or [type(config).__name__])[0])}")
            net = read_network(library.AutoModelForCausalLM, path, path, config=config, **weights, **file, **hub)
            tokenizer = library.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **file, **hub)
        if encoder is None and (Path(path) / _ENCODER).is_dir():
            encoder = Path(path) / _ENCODER
        if encoder is not None:
            access = {name: value for name, value in hub.items() if name != "revision"}
            encoder = SentenceEncoder.of(encoder, **weights, **access)
        try:
            adapter = cls(net, tokenizer, virtual_tokens, max_tokens, source=path, encoder=encoder, prompt=prompt)
        except TypeError as error:
            raise CheckpointError(f"{path}: {error}") from error
        said = {} if dtype is None else {"dtype": _name(dtype)}
        adapter.options = {**adapter.options, **recorded(hub), **file, **said}
        return adapter

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        *,
        hidden_size: int = 96,
        num_layers: int = 3,
        virtual_tokens: int = 8,
        max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> TransformersAdapter:
        """A small Llama with random weights, and a tokenizer of the words and punctuation marks of these texts."""
        library = import_library("transformers", cls.name)
        tokenizer = word_tokenizer(texts)
        config = library.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            max_position_embeddings=virtual_tokens + max_tokens + 1,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        return cls(library.LlamaForCausalLM(config), tokenizer, virtual_tokens, max_tokens)

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        from context_module.adapters.language_model import LanguageModelPretraining

        return LanguageModelPretraining

    def save(self, directory: str | Path) -> None:
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as temporary:
            self.tokenizer.save_pretrained(temporary)
            self.net.save_pretrained(temporary)
            if self.encoder is not None:
                self.encoder.save(directory / _ENCODER)
            for file in sorted(Path(temporary).iterdir(), reverse=True):  # config.json after the weights
                file.replace(directory / file.name)

    def decoder_parts(self) -> list[nn.Module]:
        """The whole model. Without an encoder it encodes, too: LoRA changes what the posterior heads read as well."""
        return [self.net]

    @property
    def takes(self) -> str:
        return f"texts of up to {self.max_tokens} tokens"

    def data_settings(self) -> dict[str, Any]:
        return {"tokenize": self.tokenize, "base": self}

    def tokenize(self, texts: Sequence[str], names: Sequence[str] | None = None) -> list[Tensor]:
        """The token ids of each text, int64 (T,), the end token last.

        Args:
            texts: none of them empty.
            names: what errors call them; their numbers without.

        Raises:
            DataError: for an empty text, one longer than `max_tokens`, one with words that the tokenizer does not
                know, and one that holds the end token.
        """
        found = []
        unknown = self.tokenizer.unk_token_id
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []
        for number, ids in enumerate(encoded):
            name = names[number] if names else f"text {number}"
            shown = texts[number] if len(texts[number]) < 60 else f"{texts[number][:57]}..."
            if not ids:
                raise DataError(f"{name} is empty: leave it out")
            if len(ids) >= self.max_tokens:
                raise DataError(
                    f"{name} ({shown!r}) has {len(ids)} tokens and an end token, the limit is {self.max_tokens}: "
                    "shorten it, or raise the limit (--base_options max_tokens=N, TransformersAdapter(max_tokens=N))"
                )
            if unknown is not None and unknown != self.end and unknown in ids:
                raise DataError(f"{name} ({shown!r}) holds words that the tokenizer does not know")
            if self.end in ids:
                raise DataError(f"{name} ({shown!r}) holds the end token {self.tokenizer.eos_token!r} itself")
            found.append(torch.tensor([*ids, self.end]))
        return found

    def check_inputs(self, x: Any) -> Tensor:
        """Token ids (B, T), of texts or as they are.

        Raises:
            DataError: for texts that `tokenize` refuses.
            ShapeError: for a tensor that is not int64 (B, T), T at most `max_tokens`, with ids of the tokenizer's and
                an end token in each row.
        """
        if not isinstance(x, Tensor):
            ids = self.tokenize([x] if isinstance(x, str) else x)
            return nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=self.end).to(self.device)
        if x.dtype != torch.int64 or x.ndim != 2 or not 0 < x.shape[1] <= self.max_tokens:
            raise ShapeError(
                f"texts are strings, or token ids, int64 of shape (batch, tokens), at most {self.max_tokens} tokens; "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        if torch.compiler.is_compiling() or not len(x):
            return x
        size = self.net.get_input_embeddings().num_embeddings
        if x.min() < 0 or x.max() >= size:
            raise ShapeError(f"token ids must lie in 0 to {size - 1}, got {x.min().item()} to {x.max().item()}")
        if not (x == self.end).any(1).all():
            raise ShapeError(f"every text must end with the end token, {self.end} ({self.tokenizer.eos_token!r})")
        return x

    def present(self, samples: Tensor) -> list[str]:
        """The texts of token ids (B, T)."""
        own = own_tokens(samples, self.end) & (samples != self.end)
        rows = [ids[mask].tolist() for ids, mask in zip(samples, own, strict=True)]
        return [text.strip() for text in self.tokenizer.batch_decode(rows)]

    def encode(self, x: Tensor) -> Encoding:
        x = x.to(self.device)
        if self.encoder is not None:
            features = self.encoder(self.present(x))
            return Encoding(features, features.new_zeros(len(x), *self.latent.shape), states=x)
        begin = torch.full_like(x[:, :1], self.begin)
        hidden = body_of(self.net)(torch.cat([begin, x[:, :-1]], 1), use_cache=False).last_hidden_state
        own = own_tokens(x, self.end)[..., None]
        features = (hidden.float() * own).sum(1) / own.sum(1)
        return Encoding(features, features.new_zeros(len(x), *self.latent.shape), states=x)

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        """As everywhere; `temperature` is that of the tokens that `Decoding.sample` draws.

        The residual is the noise of tokens: see `TokenLikelihood.noise_of`.
        """
        prefix = Prefix(silent_cache(self.net, self.before[:-1]), latent)
        noise = residuals[0].to(self.device) if residuals else None
        likelihood = TokenLikelihood(self.net, prefix, self.before[-1], self.end, self.max_tokens, temperature, noise)
        return TokenDecoding(likelihood, None if encoding is None else encoding.states, generator)

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Virtual tokens that say nothing, n times: zeros."""
        return torch.zeros(n, *self.latent.shape, device=self.device)


def _name(dtype: str | torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
