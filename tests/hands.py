"""A person for tests: a window, drawn by SDL's dummy driver, whose events come from a script."""

import pytest

from etude.recording.window import Window

pygame = pytest.importorskip("pygame")

KEYS = {
    "left": pygame.K_LEFT,
    "right": pygame.K_RIGHT,
    "up": pygame.K_UP,
    "down": pygame.K_DOWN,
    "Enter": pygame.K_RETURN,
    "Backspace": pygame.K_BACKSPACE,
    "Space": pygame.K_SPACE,
    "Tab": pygame.K_TAB,
    ".": pygame.K_PERIOD,
    "Esc": pygame.K_ESCAPE,
}


def down(key):
    return pygame.event.Event(pygame.KEYDOWN, key=KEYS[key])


def up(key):
    return pygame.event.Event(pygame.KEYUP, key=KEYS[key])


class Hands(Window):
    """Each word of the script is what happens between two looks at the events: keys that are
    pressed and released, `+key` down, `-key` up, "" nothing, or an event; a list is all of it at
    once. After its end comes Esc.
    """

    def __init__(self, script):
        super().__init__()
        self.script, self.seen = iter(script), []

    def events(self, seconds):
        words = next(self.script, "Esc")
        for word in words if isinstance(words, list) else [words]:
            for event in _events_of(word):
                pygame.event.post(event)
        return [*super().events(0)]

    def show(self, picture, panel, title):
        super().show(picture, panel, title)
        self.seen.append((panel, title))


def _events_of(word):
    if not isinstance(word, str):
        return [word]
    match word[:1]:
        case "":
            return []
        case "+":
            return [down(word[1:])]
        case "-":
            return [up(word[1:])]
    return [down(word), up(word)]
