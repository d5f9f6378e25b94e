"""A model of nonsense: the smallest that llama.cpp loads and talks with, written on the spot.

Source: ggml's docs/gguf.md; the names of keys and tensors are those of llama.cpp's architecture "llama".
"""

from __future__ import annotations

import random
import struct
from array import array
from pathlib import Path

UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
ALIGNMENT = 32

WIDTH, HIDDEN, HEADS, CONTEXT = 32, 64, 4, 2048
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

# Every byte has a token, so that any text can be read.
TOKENS = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
TOKENS += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
TOKENS += [("\u2581" + chr(letter), NORMAL) for letter in range(ord("a"), ord("z") + 1)]


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _list(key: str, kind: int, members: list[bytes]) -> bytes:
    return _pair(key, ARRAY, struct.pack("<IQ", kind, len(members)) + b"".join(members))


def write(path: Path) -> None:
    """Write the model: some 100 kB."""
    numbers = {
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "block_count": 1,
        "feed_forward_length": HIDDEN,
        "attention.head_count": HEADS,
        "rope.dimension_count": WIDTH // HEADS,
    }
    pairs = [
        _pair("general.architecture", STRING, _string("llama")),
        _pair("general.name", STRING, _string("tiny")),
        *(_pair(f"llama.{key}", UINT32, struct.pack("<I", number)) for key, number in numbers.items()),
        _pair("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        _pair("tokenizer.ggml.model", STRING, _string("llama")),
        _list("tokenizer.ggml.tokens", STRING, [_string(text) for text, _ in TOKENS]),
        _list("tokenizer.ggml.scores", FLOAT32, [struct.pack("<f", -float(i)) for i in range(len(TOKENS))]),
        _list("tokenizer.ggml.token_type", INT32, [struct.pack("<i", kind) for _, kind in TOKENS]),
        _pair("tokenizer.ggml.bos_token_id", UINT32, struct.pack("<I", 1)),
        _pair("tokenizer.ggml.eos_token_id", UINT32, struct.pack("<I", 2)),
    ]
    square, wide, high, vocabulary = (WIDTH, WIDTH), (WIDTH, HIDDEN), (HIDDEN, WIDTH), (WIDTH, len(TOKENS))
    tensors: dict[str, tuple[int, ...]] = {"token_embd": vocabulary, "output": vocabulary, "output_norm": (WIDTH,)}
    tensors |= {f"blk.0.{name}": (WIDTH,) for name in ("attn_norm", "ffn_norm")}
    tensors |= {f"blk.0.attn_{name}": square for name in ("q", "k", "v", "output")}
    tensors |= {"blk.0.ffn_gate": wide, "blk.0.ffn_up": wide, "blk.0.ffn_down": high}
    draw = random.Random(1)
    infos, data = b"", b""
    for name, shape in tensors.items():
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        infos += _string(f"{name}.weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", 0, len(data))  # 0: 32-bit floats
        weights = array("f", (draw.uniform(-0.5, 0.5) for _ in range(size)) if len(shape) > 1 else [1.0] * size)
        data += weights.tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs) + infos
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)
