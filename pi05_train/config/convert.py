"""Plain YAML values into frozen dataclasses, strictly: no unknown key, no missing key, no wrong type."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pi05_train.errors import UserError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence part: the known name closest to `name`."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"did you mean {close[0]!r}?" if close else "remove it"


def build(cls: type[T], value: object, path: str = "") -> T:
    """An instance of the dataclass `cls` from a mapping; `path` is the dotted key named in errors."""
    if not isinstance(value, dict):
        raise UserError(
            path or "config", got=repr(value), expected=f"a mapping ({cls.__name__})", do="correct the YAML"
        )
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cast(Any, cls))}
    for key in value:
        if key not in known:
            full = f"{path}.{key}".lstrip(".")
            raise UserError(full, got="an unknown key", expected=f"one of {sorted(known)}", do=nearest(str(key), known))
    built = {}
    for name, spec in known.items():
        full = f"{path}.{name}".lstrip(".")
        if name in value:
            built[name] = _convert(hints[name], value[name], full)
        elif spec.default is MISSING and spec.default_factory is MISSING:
            raise UserError(full, got="nothing", expected=f"a value of type {_name(hints[name])}", do=f"set {full}=...")
    return cls(**built)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        members = [a for a in args if a is not type(None)]
        fitting = [a for a in members if is_dataclass(a) == isinstance(value, dict)]
        return _convert((fitting or members)[0], value, path)
    if is_dataclass(hint):
        return build(cast(type, hint), value, path)
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], v, f"{path}.{k}") for k, v in value.items()}
    if origin is list and isinstance(value, list):
        return [_convert(args[0], v, f"{path}.{i}") for i, v in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(args[0], v, f"{path}.{i}") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        value = _float(value)  # YAML 1.1 reads 5e-5 as text
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise UserError(path, got=f"{value!r}", expected=f"a value of type {_name(hint)}", do="correct it")


def _float(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
