"""Sentences of the demo's sheet. The first row's things are in the training pictures in that style; the second row asks
for known things in a style in which no training picture shows them."""


def captions() -> list[str]:
    return [
        "red apple, noto style",
        "whale, fluent 3d style",
        "taco, twemoji style",
        "backpack, fluent flat style",
    ]
