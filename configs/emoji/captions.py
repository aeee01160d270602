"""Sentences of the demo's sheet: four things in a style in which training pictures show them, then four in a style in
which none does."""

SEEN = ["red apple, noto style", "whale, fluent 3d style", "taco, twemoji style", "octopus, fluent flat style"]
UNSEEN = ["crab, noto style", "green heart, fluent 3d style", "panda, twemoji style", "koala, fluent flat style"]


def captions() -> list[str]:
    return SEEN + UNSEEN
