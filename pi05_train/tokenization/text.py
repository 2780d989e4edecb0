"""Text to ids and back: a SentencePiece model and the special regions above it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import sentencepiece

from pi05_train.errors import UserError
from pi05_train.tokenization.manifest import read_manifest, resolve_tokenizer, write_tokenizer
from pi05_train.tokenization.vocabulary import (
    BOS_ID,
    DEFAULT_SKIP,
    EOS_ID,
    LOC_SIZE,
    PAD_ID,
    SEG_SIZE,
    UNK_ID,
    VocabularyLayout,
)

MODEL_FILE = "tokenizer.model"
SMALLEST_FIT = 300
"""256 byte pieces, the special ids and a few letters."""
_SPECIAL = re.compile(r"(<loc\d{4}>|<seg\d{3}>)")


class TextTokenizer:
    """SentencePiece for words, single ids for `<locDDDD>` and `<segDDD>`."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, layout: VocabularyLayout) -> None:
        self._processor = processor
        self.layout = layout

    @classmethod
    def load(cls, name_or_path: str | Path) -> TextTokenizer:
        """The tokenizer of a folder with a text manifest, or of a shipped name."""
        manifest = read_manifest(resolve_tokenizer(name_or_path), "text")
        processor = sentencepiece.SentencePieceProcessor(model_proto=manifest.file(MODEL_FILE).read_bytes())
        expected = {"pad": PAD_ID, "eos": EOS_ID, "bos": BOS_ID, "unk": UNK_ID}
        stated = {name: manifest.setting(name) for name in expected}
        own = {name: getattr(processor, f"{name}_id")() for name in expected}
        if not stated == own == expected:
            raise UserError(
                f"tokenizer {manifest.folder}, special ids",
                got=f"manifest {stated}, model {own}",
                expected=expected,
                do="use a SentencePiece model with these ids",
            )
        layout = VocabularyLayout(
            int(manifest.setting("text_size")),
            int(manifest.setting("fast_size")),
            int(manifest.settings.get("fast_skip", DEFAULT_SKIP)),
            bool(manifest.settings.get("allow_overlap", False)),
        )
        return cls(processor, layout)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of a text, encoded as one piece between box tokens."""
        ids = [BOS_ID] if bos else []
        for part in filter(None, _SPECIAL.split(text)):
            special = self._special_id(part)
            ids += self._processor.encode(part) if special is None else [special]
        return [*ids, EOS_ID] if eos else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of any ids: boxes as `<locDDDD>`, actions as `<fastN>`, strangers as `<idN>`; pad, BOS, EOS vanish.

        `decode(encode(text)) == text`, with two exceptions: SentencePiece's own blank U+2581 comes back as a space, and
        in PaliGemma's vocabulary the rarest pieces now mean actions.
        """
        return "".join(self._decode_run(special, list(run)) for special, run in groupby(ids, self._is_special))

    def _special_id(self, part: str) -> int | None:
        if not _SPECIAL.fullmatch(part):
            return None
        number = int(part[4:-1])
        if part.startswith("<loc"):
            return self.layout.loc_id(number) if number < LOC_SIZE else None
        return self.layout.seg_id(number) if number < SEG_SIZE else None

    def _is_special(self, token_id: int) -> bool:
        pieces = min(self._processor.get_piece_size(), self.layout.text_size)
        return self.layout.is_fast(token_id) or not 0 <= token_id < pieces

    def _decode_run(self, special: bool, ids: list[int]) -> str:
        if special:
            return "".join(self._name(token_id) for token_id in ids)
        return str(self._processor.decode([i for i in ids if i not in (PAD_ID, EOS_ID, BOS_ID)]))

    def _name(self, token_id: int) -> str:
        layout = self.layout
        if layout.is_fast(token_id):
            return f"<fast{layout.fast_token(token_id)}>"
        if layout.is_loc(token_id):
            return f"<loc{layout.loc_position(token_id):04d}>"
        return f"<seg{layout.seg_index(token_id):03d}>" if layout.is_seg(token_id) else f"<id{token_id}>"


def fit_text_tokenizer(corpus: Iterable[str], folder: Path, *, pieces: int, fast_size: int) -> TextTokenizer:
    """Fit a small tokenizer on texts, write it to `folder` and return it; the same corpus gives the same bytes.

    Digits are not split, so that state numbers become single tokens. A corpus too small for `pieces` gives fewer;
    the layout records the true number.
    """
    if pieces < SMALLEST_FIT:
        raise UserError("text tokenizer, pieces", got=pieces, expected=f"at least {SMALLEST_FIT}", do="ask for more")
    sentences = _sentences(corpus)
    first = next(sentences, None)
    if first is None:
        raise UserError("text tokenizer, corpus", got="no text", expected="at least one text", do="name other sources")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_chain(first, sentences),
            model_writer=written,
            model_type="bpe",
            vocab_size=pieces,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=False,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=["\n"],
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            bos_id=BOS_ID,
            unk_id=UNK_ID,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            "text tokenizer", got=f"SentencePiece's refusal ({error})", expected="a fit", do="ask for more pieces"
        ) from error
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    layout = VocabularyLayout(processor.get_piece_size() + fast_size, fast_size)
    settings: dict[str, int | float] = {"text_size": layout.text_size, "fast_size": fast_size}
    settings |= {"pad": PAD_ID, "eos": EOS_ID, "bos": BOS_ID, "unk": UNK_ID}
    source = f"SentencePiece BPE, {processor.get_piece_size()} pieces, fitted by pi05 tokenizer fit"
    write_tokenizer(folder, "text", MODEL_FILE, written.getvalue(), settings, source)
    return TextTokenizer(processor, layout)


def _sentences(corpus: Iterable[str]) -> Iterator[str]:
    """Lines without box tokens, whose ids are no SentencePiece pieces."""
    return (line for text in corpus for part in _SPECIAL.split(text)[::2] for line in part.split("\n") if line)


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest
