"""Writes a language model of 0.5 MB: right in every shape, with weights of chance.

GGUF is what llama.cpp reads: a header, facts, the places of tensors, tensors. What such
a model says is noise, each time the same; the engine that says it is the real one.
"""

from __future__ import annotations

import random
import struct
from array import array
from pathlib import Path
from typing import Any, Final

_WIDTH, _LAYERS, _HEADS, _INNER = 64, 2, 4, 128
_ALIGN: Final = 32
_SEED: Final = 7
# Types of GGUF, and of tokens as llama.cpp has them.
_U32, _F32, _STRING, _ARRAY, _I32 = 4, 6, 8, 9, 5
_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1

_SPECIAL: Final = ["<unk>", "<s>", "</s>"]
_BYTES: Final = [f"<0x{byte:02X}>" for byte in range(256)]
_LETTERS: Final = ["\u2581", *"abcdefghijklmnopqrstuvwxyz"]
_TOKENS: Final = [*_SPECIAL, *_BYTES, *_LETTERS]


def write(path: Path) -> None:
    """The model as a file; always the same bytes."""
    facts = _facts()
    tensors = _tensors()
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(facts))]
    for name, kind, value in facts:
        head.append(_text(name) + struct.pack("<I", kind) + _value(kind, value))
    chance, body = random.Random(_SEED), bytearray()
    for name, *shape in tensors:
        places = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head.append(_text(str(name)) + places + struct.pack("<IQ", 0, len(body)))
        count = 1
        for side in shape:
            count *= int(side)
        flat = len(shape) == 1
        body += array(
            "f", (1.0 if flat else chance.gauss(0, 0.2) for _ in range(count))
        ).tobytes()
        body += bytes(-len(body) % _ALIGN)
    start = b"".join(head)
    path.write_bytes(start + bytes(-len(start) % _ALIGN) + body)


def _facts() -> list[tuple[str, int, Any]]:
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(_LETTERS)]
    return [
        ("general.architecture", _STRING, "llama"),
        ("llama.context_length", _U32, 2048),
        ("llama.embedding_length", _U32, _WIDTH),
        ("llama.block_count", _U32, _LAYERS),
        ("llama.feed_forward_length", _U32, _INNER),
        ("llama.attention.head_count", _U32, _HEADS),
        ("llama.attention.head_count_kv", _U32, _HEADS),
        ("llama.attention.layer_norm_rms_epsilon", _F32, 1e-5),
        ("llama.rope.dimension_count", _U32, _WIDTH // _HEADS),
        ("llama.vocab_size", _U32, len(_TOKENS)),
        ("tokenizer.ggml.model", _STRING, "llama"),
        ("tokenizer.ggml.tokens", _ARRAY, (_STRING, _TOKENS)),
        ("tokenizer.ggml.scores", _ARRAY, (_F32, [0.0] * len(_TOKENS))),
        ("tokenizer.ggml.token_type", _ARRAY, (_I32, kinds)),
        ("tokenizer.ggml.bos_token_id", _U32, 1),
        ("tokenizer.ggml.eos_token_id", _U32, 2),
        ("tokenizer.ggml.unknown_token_id", _U32, 0),
    ]


def _tensors() -> list[tuple[str | int, ...]]:
    """Names with their sides, the innermost first."""
    found: list[tuple[str | int, ...]] = [
        ("token_embd.weight", _WIDTH, len(_TOKENS)),
        ("output.weight", _WIDTH, len(_TOKENS)),
        ("output_norm.weight", _WIDTH),
    ]
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            found.append((f"{block}{name}.weight", _WIDTH, _WIDTH))
        found.append((f"{block}ffn_gate.weight", _WIDTH, _INNER))
        found.append((f"{block}ffn_up.weight", _WIDTH, _INNER))
        found.append((f"{block}ffn_down.weight", _INNER, _WIDTH))
        found.append((f"{block}attn_norm.weight", _WIDTH))
        found.append((f"{block}ffn_norm.weight", _WIDTH))
    return found


def _text(text: str) -> bytes:
    said = text.encode()
    return struct.pack("<Q", len(said)) + said


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _text(value)
    if kind == _ARRAY:
        of, items = value
        packed = b"".join(_value(of, item) for item in items)
        return struct.pack("<IQ", of, len(items)) + packed
    return struct.pack({_U32: "<I", _F32: "<f", _I32: "<i"}[kind], value)
