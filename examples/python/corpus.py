"""Text as tokens: read, split, encoded by a BPE tokenizer that is trained on it, kept on disk.

Invariants: the same text and settings give the same tokens; the tokenizer has seen nothing of the held-out part; a
cache is used only for the text and the settings that it was made of, and is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

#: What is taken of folders.
SUFFIXES = (".py", ".rst", ".md", ".txt")
#: Of so many blocks of the text one is held out.
HELD_OUT = 20
#: Characters of a block; less where the text is short.
BLOCK = 1 << 16
#: Characters that the tokenizer is trained on, of blocks spread over the text.
TOKENIZER_TEXT = 8_000_000
#: The rarest entries of the vocabulary that together make this part of the training text are called rare.
RARE = 0.1
#: Part of a cache's name: another one where what is kept changes.
VERSION = 1


@dataclass
class Corpus:
    """Tokens, int32 [any], on the CPU."""

    train: Tensor
    held_out: Tensor
    vocab: int
    #: Which entries are rare, bool [vocab].
    rare: Tensor
    #: Where it comes from, in words.
    source: str


def text_of_this_machine(megabytes: float) -> tuple[str, str]:
    """Sources and texts of Python's standard library, then of the packages installed beside it, in the order of their
    paths, up to this size; and what was taken, in words."""
    paths = sysconfig.get_paths()
    roots: list[Path] = []
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        root = Path(paths[name])
        if root.is_dir() and root not in roots:
            roots.append(root)
    parts: list[str] = []
    left, files = int(megabytes * 1e6), 0
    used: list[str] = []
    for root in roots:
        for path in _files(root):
            if left <= 0:
                break
            text = path.read_text(encoding="utf-8", errors="replace")[:left]
            left -= len(text)
            files += 1
            parts.append(text)
            if str(root) not in used:
                used.append(str(root))
    size = sum(map(len, parts)) / 1e6
    return "\n".join(parts), f"{files} files, {size:.1f} MB, below {', '.join(used)}"


def _files(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        # Packages lie within the standard library's folder: they are a root of their own.
        inner[:] = sorted(name for name in inner if name not in ("site-packages", "dist-packages", "__pycache__"))
        for name in sorted(names):
            path = Path(folder, name)
            if name.endswith(SUFFIXES) and path.is_file():
                yield path


def load(text: str, source: str, vocab: int, cache: Path) -> Corpus:
    """The corpus of a text; ``vocab`` is the most entries that the tokenizer may have, 257 or more.

    Raises ``SystemExit`` where the tokenizers package is missing.
    """
    settings = f"{VERSION} {vocab} {HELD_OUT} {BLOCK} {TOKENIZER_TEXT}\n"
    digest = hashlib.sha256(settings.encode() + text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    folder = cache / digest
    if not folder.is_dir():
        _make(text, vocab, folder)
    train, held_out = (numpy.load(folder / f"{name}.npy") for name in ("train", "held_out"))
    entries = int((folder / "vocab").read_text())
    tokens = torch.from_numpy(train)
    return Corpus(tokens, torch.from_numpy(held_out), entries, rare_entries(tokens, entries), source)


def _make(text: str, vocab: int, folder: Path) -> None:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise SystemExit(
            f"the tokenizer is trained by the package tokenizers ({error}): pip install tokenizers"
        ) from error
    size = max(1, min(BLOCK, len(text) // (2 * HELD_OUT)))
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    held_out = blocks[HELD_OUT - 1 :: HELD_OUT]
    train = [block for at, block in enumerate(blocks) if at % HELD_OUT != HELD_OUT - 1]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(train[:: max(1, size * len(train) // TOKENIZER_TEXT)], trainer)

    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    try:
        for name, part in (("train", train), ("held_out", held_out)):
            encoded = tokenizer.encode_batch(part, add_special_tokens=False)
            numpy.save(aside / f"{name}.npy", numpy.concatenate([numpy.asarray(e.ids, numpy.int32) for e in encoded]))
        tokenizer.save(str(aside / "tokenizer.json"))
        (aside / "vocab").write_text(str(tokenizer.get_vocab_size()))
        # Where another process was faster, its folder has the same.
        if not folder.is_dir():
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def rare_entries(tokens: Tensor, vocab: int) -> Tensor:
    """Which entries are rare: the least frequent ones that together are at most :data:`RARE` of the tokens."""
    counts = torch.bincount(tokens, minlength=vocab)
    order = counts.argsort(stable=True)
    rare = torch.zeros(vocab, dtype=torch.bool)
    rare[order] = counts[order].cumsum(0) <= RARE * len(tokens)
    return rare
