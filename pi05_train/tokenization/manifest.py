"""`manifest.yaml`: what a tokenizer folder holds, checked before anything is read."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pi05_train.errors import UserError
from pi05_train.resources import resource

MANIFEST = "manifest.yaml"


@dataclass(frozen=True)
class FileEntry:
    """One file of a tokenizer."""

    sha256: str
    environment: str = ""
    """Environment variable that may name the file (or its folder) when it does not lie beside the manifest."""
    do: str = "restore the file"
    """What a person does when the file is absent."""


@dataclass(frozen=True)
class Manifest:
    """The facts about one tokenizer folder; numbers that do not apply to its type are absent from `settings`."""

    folder: Path
    type: Literal["text", "fast"]
    files: dict[str, FileEntry]
    settings: dict[str, int | float]
    """text: text_size, fast_size, pad, eos, bos, unk, where needed fast_skip and allow_overlap (see
    `VocabularyLayout`). fast: vocab_size, scale, min_token."""
    source: str
    licence: str = ""

    def setting(self, name: str) -> int | float:
        if name not in self.settings:
            raise UserError(
                f"{self.folder / MANIFEST}, settings",
                got=f"no {name}",
                expected=f"a number {name} for type {self.type}",
                do="add it",
            )
        return self.settings[name]

    def file(self, name: str) -> Path:
        """Where file `name` lies, its sha256 checked; absent or altered files are refused."""
        if name not in self.files:
            raise UserError(
                f"{self.folder / MANIFEST}, files", got=list(self.files), expected=f"an entry {name}", do="add it"
            )
        entry = self.files[name]
        path = self._locate(name, entry)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != entry.sha256:
            raise UserError(
                f"tokenizer file {path}, sha256",
                got=found,
                expected=entry.sha256,
                do="fetch the file again: another version would mean other ids",
            )
        return path

    def _locate(self, name: str, entry: FileEntry) -> Path:
        candidates = [self.folder / name]
        named = os.environ.get(entry.environment, "") if entry.environment else ""
        if named:
            candidates = [Path(named), Path(named) / name]
        for path in candidates:
            if path.is_file():
                return path
        raise UserError(
            f"tokenizer {self.folder.name}, file {name}",
            got=f"nothing at {candidates[0]}",
            expected=f"the file, or its path in ${entry.environment}" if entry.environment else "the file",
            do=entry.do,
        )


def resolve_tokenizer(name_or_path: str | Path) -> Path:
    """The folder of a tokenizer: a bare name is one shipped in `tokenizers/`, anything else a path."""
    text = str(name_or_path)
    if os.sep not in text and not isinstance(name_or_path, Path):
        shipped = resource("tokenizers")
        names = sorted(path.parent.name for path in shipped.glob(f"*/{MANIFEST}"))
        if text not in names:
            raise UserError(
                "tokenizer", got=repr(text), expected=f"one of {names}, or a folder's path", do="correct it"
            )
        return shipped / text
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise UserError(
            "tokenizer", got=f"no folder {folder}", expected="a tokenizer folder", do="run `pi05 tokenizer fit`"
        )
    return folder


def read_manifest(folder: Path, type_: Literal["text", "fast"]) -> Manifest:
    """The manifest of `folder`, refused unless it is complete and of the type asked for."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError("tokenizer", got=f"no {path}", expected=f"a folder with {MANIFEST}", do="name the right folder")
    try:
        content: dict[str, Any] = dict(yaml.safe_load(path.read_text()))
        found = Manifest(
            folder=folder,
            type=content.pop("type"),
            files={name: FileEntry(**entry) for name, entry in content.pop("files").items()},
            settings=content.pop("settings"),
            source=content.pop("source"),
            licence=content.pop("licence", ""),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"tokenizer manifest {path}",
            got=f"{type(error).__name__}: {error}",
            expected="type, files, settings, source",
            do="correct it",
        ) from error
    if content or found.type != type_:
        raise UserError(
            f"tokenizer manifest {path}",
            got=f"type {found.type}" + (f" and unknown keys {sorted(content)}" if content else ""),
            expected=f"type {type_} and no other keys",
            do="name another folder or correct the manifest",
        )
    return found


def tokenizer_fingerprint(name_or_path: str | Path, type_: Literal["text", "fast"]) -> str:
    """sha256 of everything that decides a tokenizer's ids, wherever it lies."""
    manifest = read_manifest(resolve_tokenizer(name_or_path), type_)
    content = [{name: entry.sha256 for name, entry in manifest.files.items()}, manifest.settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_tokenizer(
    folder: Path,
    type_: Literal["text", "fast"],
    name: str,
    content: bytes,
    settings: dict[str, int | float],
    source: str,
) -> None:
    """Write one tokenizer file and its manifest; the manifest comes last, so a folder that has one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest = {
        "type": type_,
        "files": {name: {"sha256": hashlib.sha256(content).hexdigest()}},
        "settings": settings,
        "source": source,
    }
    for target, data in ((name, content), (MANIFEST, yaml.safe_dump(manifest, sort_keys=False).encode())):
        temporary = folder / (target + ".part")
        temporary.write_bytes(data)
        temporary.replace(folder / target)
