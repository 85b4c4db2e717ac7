"""A tiny language model in a GGUF file."""

from pathlib import Path

import torch

VOCABULARY = ["<unk>", "<s>", "</s>", "▁", *"acehst"]


def write_gguf(file: Path, hidden: int = 32, layers: int = 2) -> None:
    """A Llama with random weights, those of its layers quantised to 8 bits."""
    import gguf

    draws = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([-float(rank) for rank in range(len(VOCABULARY))])
    writer.add_token_types([2, 3, 3] + [1] * (len(VOCABULARY) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def add(name, *shape, quantised=False):
        values = torch.randn(*shape, generator=draws).numpy() if len(shape) > 1 else torch.ones(*shape).numpy()
        if not quantised:
            writer.add_tensor(name, values)
            return
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    add("token_embd.weight", len(VOCABULARY), hidden)
    add("output.weight", len(VOCABULARY), hidden)
    add("output_norm.weight", hidden)
    for layer in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", hidden, hidden, quantised=True)
        for name, shape in (("gate", (2, 1)), ("up", (2, 1)), ("down", (1, 2))):
            add(f"blk.{layer}.ffn_{name}.weight", *(side * hidden for side in shape), quantised=True)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
