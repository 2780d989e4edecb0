"""Photographs that ship inside scikit-image and scikit-learn, with captions, questions and boxes written by us.

No text says left or right: crops may be mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Object:
    """A thing in a picture; the box is y_min, x_min, y_max, x_max as fractions of the whole picture."""

    label: str
    box: tuple[float, float, float, float]
    facts: tuple[tuple[tuple[str, ...], str], ...] = ()
    """(ways to ask, answer): true whenever the object shows."""


@dataclass(frozen=True)
class Picture:
    """One photograph; the captions are true whenever the first object shows."""

    package: str
    file: str
    licence: str
    captions: tuple[str, ...]
    objects: tuple[Object, ...]


PICTURES: dict[str, Picture] = {
    "astronaut": Picture(
        "skimage",
        "data/astronaut.png",
        "public domain (NASA)",
        ("a smiling astronaut in an orange suit", "a portrait of an astronaut wearing an orange pressure suit"),
        (
            Object(
                "astronaut",
                (0.03, 0.04, 1.00, 0.70),
                (
                    (("What colour is the suit?", "Which colour does the astronaut wear?"), "orange"),
                    (("What is the person's job?", "Who is in the picture?"), "an astronaut"),
                    (("How many people are there?", "Count the people."), "1"),
                ),
            ),
            Object("helmet", (0.67, 0.54, 1.00, 1.00), ((("What colour is the visor?",), "black"),)),
            Object("model shuttle", (0.00, 0.69, 0.56, 0.90), ((("Is there a shuttle in the picture?",), "yes"),)),
            Object("round badge", (0.68, 0.26, 0.83, 0.41), ((("What shape is the large badge?",), "round"),)),
        ),
    ),
    "cat": Picture(
        "skimage",
        "data/chelsea.png",
        "CC0 (Stefan van der Walt)",
        ("the face of a tabby cat", "a close view of a cat's face"),
        (
            Object(
                "cat",
                (0.00, 0.02, 1.00, 0.87),
                (
                    (("What animal is this?", "Which animal does the picture show?"), "a cat"),
                    (("Does the animal have whiskers?",), "yes"),
                ),
            ),
            Object("larger eye", (0.28, 0.30, 0.50, 0.47), ((("What colour are the eyes?",), "green"),)),
            Object("nose", (0.74, 0.50, 0.89, 0.62), ((("What colour is the nose?",), "pink"),)),
        ),
    ),
    "coffee": Picture(
        "skimage",
        "data/coffee.png",
        "CC0 (Rachel Michetti)",
        ("a cup of coffee on a red saucer", "an espresso in a red cup on a wooden table"),
        (
            Object(
                "cup",
                (0.04, 0.29, 0.78, 0.68),
                (
                    (("What is in the cup?", "Which drink is this?"), "coffee"),
                    (("How many cups are there?", "Count the cups."), "1"),
                    (("What colour is the inside of the cup?",), "white"),
                ),
            ),
            Object("saucer", (0.17, 0.13, 0.97, 0.80), ((("What colour is the saucer?",), "red"),)),
            Object("spoon", (0.17, 0.53, 0.82, 0.71), ((("What lies beside the cup?",), "a spoon"),)),
        ),
    ),
    "rocket": Picture(
        "skimage",
        "data/rocket.jpg",
        "public domain (SpaceX)",
        ("a rocket on its launch pad at dusk", "a white rocket standing upright under a dark blue sky"),
        (
            Object(
                "rocket",
                (0.29, 0.475, 0.95, 0.53),
                (
                    (("What stands on the launch pad?", "What is about to fly?"), "a rocket"),
                    (("What colour is the rocket?",), "white"),
                    (("What colour is the sky?", "Which colour is behind the rocket?"), "blue"),
                    (("Has the rocket taken off?",), "no"),
                ),
            ),
        ),
    ),
    "camera": Picture(
        "skimage",
        "data/camera.png",
        "CC0 (Lav Varshney)",
        ("a man in a dark coat looking through a camera", "a man with a camera on a tripod, in black and white"),
        (
            Object(
                "man",
                (0.12, 0.00, 1.00, 0.65),
                (
                    (("What is the man doing?",), "looking through a camera"),
                    (("What colour is the coat?",), "black"),
                    (("Is this a colour photograph?",), "no"),
                ),
            ),
            Object("camera", (0.27, 0.50, 0.37, 0.64), ((("What does the man look through?",), "a camera"),)),
            Object("tripod", (0.38, 0.45, 1.00, 0.80), ((("What does the camera stand on?",), "a tripod"),)),
        ),
    ),
    "coins": Picture(
        "skimage",
        "data/coins.png",
        "no known copyright restrictions (Brooklyn Museum)",
        ("old coins in rows on a dark cloth", "rows of ancient coins"),
        (
            Object(
                "coins",
                (0.05, 0.05, 0.95, 0.98),
                (
                    (("What lies in rows?", "What does the picture show?"), "coins"),
                    (("What shape are they?",), "round"),
                    (("Are they new or old?",), "old"),
                ),
            ),
        ),
    ),
    "temple": Picture(
        "sklearn",
        "datasets/images/china.jpg",
        "CC BY 2.0 (danielbuechele)",
        ("a pagoda in red, green and orange", "a tall pagoda with many roofs among trees"),
        (
            Object(
                "pagoda",
                (0.07, 0.10, 0.97, 0.57),
                (
                    (("What kind of building is this?", "Which building is it?"), "a pagoda"),
                    (("What colour are the roofs?",), "orange and green"),
                    (("Is it day or night?",), "day"),
                ),
            ),
            Object("lake", (0.49, 0.50, 0.77, 0.86), ((("What is behind the pagoda?",), "a lake"),)),
        ),
    ),
    "flower": Picture(
        "sklearn",
        "datasets/images/flower.jpg",
        "CC BY 2.0 (vultilion)",
        ("an orange dahlia in bloom", "a round orange flower before dark leaves"),
        (
            Object(
                "flower",
                (0.20, 0.265, 0.845, 0.70),
                (
                    (("What colour is the flower?", "Which colour are the petals?"), "orange"),
                    (("What plant is this?",), "a dahlia"),
                    (("Is the background dark or bright?",), "dark"),
                ),
            ),
        ),
    ),
}
CAPTION_WAYS = ("caption the image", "describe the picture", "What does the image show?")
DETECT_WAYS = ("detect the {label}", "localize the {label}", "Where is the {label}?")
REGION_WAYS = ("What is at {boxes}?", "Describe this region: {boxes}")
