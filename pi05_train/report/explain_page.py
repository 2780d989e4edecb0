"""One request as a page: what the network saw and read, what it said, what it did, and how its actions came about."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pi05_train.policy.explain import Actions, Explanation, Prompt, StateNumbers, Words
from pi05_train.policy.robot import RobotInterface
from pi05_train.policy.tokens import SORTS, Token
from pi05_train.report import html
from pi05_train.report.evaluated import PREDICTED_COLOUR, TRUE_COLOUR, drawn_box
from pi05_train.report.explain_figures import chunk_figure, denoising_figure, movement_figure
from pi05_train.report.figures import png
from pi05_train.report.html import Html
from pi05_train.report.sample_page import place_bar
from pi05_train.samples.schema import Sample
from pi05_train.tokenization.state import state_bins

FOLLOWED = {
    "hierarchical": "the subtask that the network named, from all cameras",
    "flat": "the command itself",
    "oracle": "the subtask that came with the sample, or the command where none did",
}


def explain_page(explained: Explanation, facts: Mapping[str, str], robot: RobotInterface | None = None) -> str:
    """The whole page as HTML: pictures, plots and style are inside, nothing is fetched.

    `facts` are shown as they are. With a robot, actions have its names, units and own numbers of a gripper.
    """
    sample, actions = explained.sample, explained.actions
    parts = [_top(explained, facts), _pictures(explained)]
    if explained.words is not None:
        parts.append(_words(explained, explained.words))
    if actions is not None:
        parts.append(_action_tokens(explained, actions))
    if explained.state is not None:
        parts.append(_state(explained, explained.state, robot))
    if actions is not None:
        parts += [_chunk(explained, actions, robot), _denoising(actions, _names(actions, robot))]
    return html.document(f"{sample.source} {sample.key}, explained", html.join(parts))


def _top(explained: Explanation, facts: Mapping[str, str]) -> Html:
    sample, words, actions = explained.sample, explained.words, explained.actions
    said = [("command", sample.task), ("question", sample.question), ("said by a person", sample.verbal_instruction)]
    if words is not None:
        said.append(("the network says", words.text))
    if actions is not None:
        said += [("acted on", actions.prompt.sample.subtask or sample.task), ("which is", FOLLOWED[explained.mode])]
        facts = {**facts, "seed": str(explained.seed)}
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in said if value)
    small = html.paragraph(" · ".join(f"{name} {value}" for name, value in facts.items()), kind="soft")
    title = Html(f"<h1>{escape(sample.source)}, {escape(_name(sample))}</h1>")
    card = Html(f'<div class="cards"><div class="card" style="grid-column: 1 / -1"><dl>{listed}</dl></div></div>')
    return html.join([title, small, card])


def _prompts(explained: Explanation) -> dict[str, Prompt]:
    """By what they are answered with."""
    both = {"words": explained.words, "actions": explained.actions}
    return {reader: answer.prompt for reader, answer in both.items() if answer is not None}


def _name(sample: Sample) -> str:
    return sample.key if sample.key == "request" else f"sample {sample.key}"


def _pictures(explained: Explanation) -> Html:
    """Every picture of either prompt, once."""
    seen: dict[str, NDArray[np.uint8]] = {}
    for prompt in _prompts(explained).values():
        seen |= prompt.pictures
    cards = [_picture(explained, camera, pixels) for camera, pixels in seen.items()]
    columns = "grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr))"
    about = "The very pixels, after resizing and padding; the network reads each colour x as x / 127.5 - 1."
    if explained.words is not None:
        about += " Yellow, dashed boxes are predicted." if explained.words.boxes else " No boxes were predicted."
    if explained.true_boxes:
        about += " White boxes are true."
    grid = Html(f'<div class="cards" style="{columns}">{"".join(cards)}</div>')
    return html.section("What the network sees", html.paragraph(about), grid)


def _picture(explained: Explanation, camera: str, pixels: NDArray[np.uint8]) -> str:
    words = explained.words
    predicted = [box for box in words.boxes if box.camera == camera] if words is not None else []
    true = [box for box in explained.true_boxes if box.camera == camera]
    boxes = [drawn_box(box, TRUE_COLOUR, dashed=False) for box in true]
    boxes += [drawn_box(box, PREDICTED_COLOUR, dashed=True) for box in predicted]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    readers = [reader for reader, prompt in _prompts(explained).items() if camera in prompt.pictures]
    found = "".join(
        f"<dt>predicted</dt><dd>{escape(box.label or 'no label')}: y {box.y_min:.3f} to {box.y_max:.3f}, "
        f"x {box.x_min:.3f} to {box.x_max:.3f}</dd>"
        for box in predicted
    )
    return (
        f'<div class="card"><div class="picture"><img src="{html.data_uri(stream.getvalue())}" alt="{escape(camera)}">'
        f'<svg viewBox="0 0 1000 1000" aria-hidden="true">{"".join(boxes)}</svg></div><dl><dt>camera</dt>'
        f"<dd>{escape(camera)}, {pixels.shape[1]} × {pixels.shape[0]}</dd>"
        f"<dt>seen for</dt><dd>{' and '.join(readers)}</dd>{found}</dl></div>"
    )


def _words(explained: Explanation, words: Words) -> Html:
    if explained.actions is None:
        title, about = "What it reads and says", "The answer is written token by token, each time the likeliest."
    else:
        title = "The high level: what to do"
        follows = explained.mode == "hierarchical"
        about = (
            "The network's answer to the command, written token by token, each time the likeliest. "
            + ("The actions below follow its subtask" if follows else "The actions below do not follow it")
            + ("." if words.subtask or not follows else ", but it named none: they follow the command.")
        )
    target = explained.target if explained.actions is None else []
    rows = [*_prefix(words.prompt), _role("answer", words.tokens, words.prompt.length)]
    if target:
        rows.append(_role("target", target, words.prompt.length))
    return html.section(title, html.paragraph(about), *rows, _legend(words.prompt.tokens, words.tokens, target))


def _action_tokens(explained: Explanation, actions: Actions) -> Html:
    start, (steps, _) = actions.prompt.length, actions.chunk_HD.shape
    rows = _prefix(actions.prompt)
    about = "Everything the actions depend on. Positions count from 0; hover over a token for its position and id."
    if explained.target:
        rows.append(_role("target", explained.target, start))
        about += " The target is what training wants to hear; the actions never see it."
    chips = [_chip("state", "the state as a vector", f"position {start}")] if actions.state_token else []
    start += len(chips)
    chips.append(_chip("action", f"{steps} steps of the chunk", f"positions {start} to {start + steps - 1}"))
    rows.append(_titled("action", Html(f'<div class="tokens">{"".join(chips)}</div>')))
    return html.section(
        "The low level: what the actions are conditioned on",
        html.paragraph(about),
        *rows,
        _legend(actions.prompt.tokens, explained.target, also=["action"]),
    )


def _prefix(prompt: Prompt) -> list[Html]:
    each = prompt.tokens_per_picture
    chips = [
        _chip("image", f"{camera}: {each}", f"positions {i * each} to {(i + 1) * each - 1}")
        for i, camera in enumerate(prompt.pictures)
    ]
    chips += _chips(prompt.tokens, len(prompt.pictures) * each)
    parts = [_titled("prefix", Html(f'<div class="tokens">{"".join(chips)}</div>'))]
    if prompt.cut:
        parts.append(Html('<p class="bad wrapped">The text was longer than the model reads: its end is cut off.</p>'))
    return parts


def _role(role: str, tokens: Sequence[Token], start: int) -> Html:
    return _titled(role, Html(f'<div class="tokens">{"".join(_chips(tokens, start))}</div>'))


def _titled(role: str, content: Html) -> Html:
    return html.join([Html(f"<h3>{escape(role)}</h3>"), content])


def _chips(tokens: Sequence[Token], start: int) -> list[str]:
    return [_chip(t.sort, t.words, f"position {start + i}, id {t.id}") for i, t in enumerate(tokens)]


def _chip(sort: str, words: str, title: str) -> str:
    shown = escape(words.replace("\n", "⏎")) or "·"
    return f'<span class="token {sort}" title="{escape(title)}">{shown}</span>'


def _legend(*prompts: Sequence[Token], also: Sequence[str] = ()) -> Html:
    """The sorts of tokens that are there."""
    there = {"image", *also, *(token.sort for tokens in prompts for token in tokens)}
    chips = [
        f'<span><span class="token {sort}">{sort}</span> {escape(what)}</span>'
        for sort, what in SORTS.items()
        if sort in there
    ]
    return Html(f'<p class="soft legend">{"".join(chips)}</p>')


def _state(explained: Explanation, state: StateNumbers, robot: RobotInterface | None) -> Html:
    binned = any(token.sort == "state" for prompt in _prompts(explained).values() for token in prompt.tokens)
    names = [str(dim) for dim in range(len(state.physical))] if robot is None else robot.state_names()
    bins = state_bins(state.normalised).tolist()
    q01, q99, rows = state.statistics.q01, state.statistics.q99, []
    for dim, (name, value) in enumerate(zip(names, state.physical.tolist(), strict=True)):
        cells = [html.text(name), html.number(value), html.number(float(state.normalised[dim]))]
        if q01 is not None and q99 is not None:
            low, high = float(q01[dim]), float(q99[dim])
            cells += [html.number(low), place_bar((value - low) / (high - low)), html.number(high)]
        rows.append([*cells, html.text(str(bins[dim]))] if binned else cells)
    words, head = "Physical units, as samples have them.", ["dimension", "value", "normalised"]
    if q01 is not None:
        head += ["q01", "", "q99"]
        words += " The bar runs from q01 to q99 of the training data; a red dot is outside: look there first."
    head += ["bin in the prompt"] if binned else []
    return html.section("The robot's state", html.paragraph(words), html.table(head, rows, numeric=(1, 2, 3, 6)))


def _names(actions: Actions, robot: RobotInterface | None) -> list[str]:
    return [f"dimension {dim}" for dim in range(actions.chunk_HD.shape[1])] if robot is None else robot.action_names()


def _chunk(explained: Explanation, actions: Actions, robot: RobotInterface | None) -> Html:
    sample, relative = explained.sample, explained.relative
    chunk, (name, compared, about) = actions.chunk_HD, _compared(actions)
    if robot is not None:
        chunk, compared = robot.commands(chunk), None if compared is None else robot.commands(compared)
    now = {dim: float(sample.state[dim]) for dim in relative} if sample.state is not None else {}
    words = f"{len(chunk)} steps, {'as the robot gets them' if robot is not None else 'in physical units'}."
    if now:
        words += " A dot is where the robot is now: there the network says how far to move from it."
    words += about
    picture = png(chunk_figure(chunk, compared, now, _names(actions, robot), sample.rate_hz, compared=name))
    numbers = {"actions": chunk.tolist()} | ({} if compared is None else {name: compared.tolist()})
    return html.section(
        "The action chunk",
        html.paragraph(words),
        html.figure(picture, "Each dimension over time, counted from now"),
        html.details("The numbers, steps by dimensions (JSON)", json.dumps(numbers)),
    )


def _compared(actions: Actions) -> tuple[str, NDArray[np.float32] | None, str]:
    """What the chunk is shown with, by its name: a former chunk, a demonstration or nothing; and words about it."""
    rest, truth = actions.remainder, actions.truth_HD
    if rest is not None:
        left, done = len(rest.actions_RD), rest.delay_steps
        about = f" Black: the {left} steps that were left of the former chunk, the first {done} of them out of reach."
        return "former", rest.actions_RD, about
    if truth is None:
        return "", None, ""
    if actions.truth_valid_H is not None:
        truth = truth[: int(actions.truth_valid_H.sum())]
    about = f" Black: what was demonstrated, {len(truth)} steps to the end of the episode or of the chunk."
    return "demonstrated", truth, about


def _denoising(actions: Actions, names: Sequence[str]) -> Html:
    steps = len(actions.denoising.velocity_THD)
    bent = "" if actions.remainder is None else ", bent towards the former chunk"
    return html.section(
        "Denoising: how the chunk came out of noise",
        html.paragraph(
            f"In the network's normalised units. From noise (t = 1) the chunk follows the velocity that the network "
            f"gives{bent}, {steps} times, to the actions (t = 0); each step moves it by -1/{steps} of it. In the "
            "pictures control steps run right and dimensions down; red is positive, blue negative."
        ),
        html.figure(
            png(denoising_figure(actions.denoising)), "x_t, the velocity there, and the displacement of the Euler step."
        ),
        html.figure(
            png(movement_figure(actions.denoising, names)),
            "Even steps mean a straight path. A dimension that still moves much in the last steps is not settled.",
        ),
    )
