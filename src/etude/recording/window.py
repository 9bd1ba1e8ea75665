"""A window of etude's own: the picture of an environment, a strip of text below, and its events.

Everything comes from the window itself, so it works wherever a window does; no key is listened for
elsewhere. The environment only draws pictures, and never opens a window beside it.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from etude.errors import InvalidInput

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")  # environment variables that name a screen on Linux
UNSEEN_DRIVERS = ("offscreen", "dummy", "evdev")  # of SDL, which takes one where no screen answers

LEAST_SIDE, MOST_SIDE = 400, 960  # pixels of the longer side of the picture, as shown
LEAST_WIDTH = 600  # of the window
MARGIN, LINE = 14, 22
BACKGROUND, STRIP, TEXT, DIM = (16, 18, 22), (28, 31, 38), (236, 238, 242), (150, 157, 170)
TONES = {
    "waiting": (104, 170, 255),
    "playing": (98, 205, 130),
    "paused": (240, 190, 80),
    "learner": (178, 150, 255),
}


class KeyPress(NamedTuple):
    key: str  # as SDL names it: "left", "a", "return"


class KeyRelease(NamedTuple):
    key: str


class StickLean(NamedTuple):
    axis: int
    value: float  # in [-1, 1], to the right and down


class MouseMove(NamedTuple):
    right: float  # in [-1, 1] within the picture
    up: float


class FocusLoss(NamedTuple):
    """Another window has the keyboard now."""


class CloseRequest(NamedTuple):
    """The window is to close."""


Event = KeyPress | KeyRelease | StickLean | MouseMove | FocusLoss | CloseRequest


class Panel(NamedTuple):
    """The text below the picture."""

    status: str
    tone: str  # of TONES
    numbers: str  # at the right of the status
    facts: str
    keys: tuple[str, ...]  # what keys do in the environment
    commands: tuple[str, ...]  # and what others do in the window


def import_pygame() -> Any:
    """The module pygame; raises InvalidInput, naming the package, where it is not installed."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import pygame
    except ImportError as error:
        raise InvalidInput(
            "the window needs pygame-ce, which is not installed: pip install pygame-ce"
        ) from error
    return pygame


def check_screen(way_out: str) -> None:
    """Raise InvalidInput, with what to do in its place, where no window can be seen.

    Where no screen answers, SDL would open a window that nobody sees.
    """
    if not sys.platform.startswith("linux") or os.environ.get("SDL_VIDEODRIVER"):
        return
    named = [f"{name} is {os.environ[name]}" for name in DISPLAYS if os.environ.get(name)]
    if not named:
        raise InvalidInput(
            f"there is no screen here to open a window on (DISPLAY is not set); {way_out}"
        )
    pygame = import_pygame()
    try:
        pygame.display.init()
        driver = pygame.display.get_driver()
    except pygame.error:
        driver = ""
    finally:
        pygame.display.quit()
    if driver in ("", *UNSEEN_DRIVERS):
        raise InvalidInput(f"no screen answers here ({', '.join(named)}); {way_out}")


class Window:
    """A window that opens with the first picture it shows."""

    def __init__(self) -> None:
        self.pygame = import_pygame()
        self.screen: Any = None
        self.title: str | None = None
        self.gamepads: dict[int, Any] = {}  # a gamepad speaks for as long as it is held on to

    def show(self, picture: np.ndarray, panel: Panel, title: str) -> None:
        """Draw a picture [row, column, 3] in bytes and the strip below it."""
        pygame = self.pygame
        if self.screen is None:
            self._open(picture.shape[:2], panel)
        self.screen.fill(BACKGROUND)
        surface = pygame.surfarray.make_surface(np.swapaxes(picture, 0, 1))
        is_larger = self.area.width >= surface.get_width()
        scale = pygame.transform.scale if is_larger else pygame.transform.smoothscale
        self.screen.blit(scale(surface, self.area.size), self.area)
        self._draw_strip(panel)
        if self.title != title:
            self.title = title
            pygame.display.set_caption(title)
        pygame.display.flip()

    def events(self, seconds: float) -> Iterator[Event]:
        """The events since the last call; where there are none yet, waits `seconds` for one."""
        pygame = self.pygame
        first = pygame.event.wait(max(1, round(1000 * seconds))) if seconds > 0 else None
        for event in ([first] if first is not None else []) + pygame.event.get():
            if (known := self._translated(event)) is not None:
                yield known

    def close(self) -> None:
        """Close the window."""
        self.gamepads.clear()
        if self.screen is not None:
            self.screen = self.title = None
            self.pygame.display.quit()

    def __enter__(self) -> "Window":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, picture_shape: tuple[int, ...], panel: Panel) -> None:
        pygame = self.pygame
        height, width = picture_shape
        longest = max(height, width)
        scale = float(-(-LEAST_SIDE // longest)) if longest < LEAST_SIDE else 1.0
        scale = scale if longest <= MOST_SIDE else MOST_SIDE / longest
        shown_width, shown_height = round(scale * width), round(scale * height)
        try:
            pygame.display.init()
            pygame.font.init()
            pygame.joystick.init()
            self.font, self.large = pygame.font.Font(None, 21), pygame.font.Font(None, 26)
            total_width = max(shown_width, LEAST_WIDTH)
            lines = len(self._wrapped(panel.keys, total_width))
            lines += len(self._wrapped(panel.commands, total_width))
            strip_height = 2 * MARGIN + LINE * (lines + 2) + 8
            self.area = pygame.Rect((total_width - shown_width) // 2, 0, shown_width, shown_height)
            self.strip = pygame.Rect(0, shown_height, total_width, strip_height)
            self.screen = pygame.display.set_mode((total_width, shown_height + strip_height))
        except pygame.error as error:
            raise InvalidInput(f"no window can be opened here: {error}") from error

    def _draw_strip(self, panel: Panel) -> None:
        pygame, strip = self.pygame, self.strip
        tone = TONES[panel.tone]
        pygame.draw.rect(self.screen, STRIP, strip)
        pygame.draw.rect(self.screen, tone, (strip.left, strip.top, strip.width, 3))
        top = strip.top + MARGIN + 2
        pygame.draw.circle(self.screen, tone, (MARGIN + 6, top + 8), 6)
        self._write(panel.status, (MARGIN + 22, top), tone, self.large)
        numbers = self.large.render(panel.numbers, True, TEXT)
        self.screen.blit(numbers, (strip.right - MARGIN - numbers.get_width(), top))
        top += LINE + 6
        self._write(panel.facts, (MARGIN, top), TEXT)
        top += LINE + 6
        for line in self._wrapped(panel.keys, strip.width):
            self._write(line, (MARGIN, top), TEXT)
            top += LINE
        for line in self._wrapped(panel.commands, strip.width):
            self._write(line, (MARGIN, top), DIM)
            top += LINE

    def _write(self, text: str, place: tuple[int, int], color: tuple, font: Any = None) -> None:
        self.screen.blit((font or self.font).render(text, True, color), place)

    def _wrapped(self, words: tuple[str, ...], width: int) -> list[str]:
        """Words in lines that fit into a width."""
        lines: list[str] = []
        for word in words:
            longer = f"{lines[-1]}    {word}" if lines else word
            if lines and self.font.size(longer)[0] <= width - 2 * MARGIN:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def _translated(self, event: Any) -> Event | None:
        pygame = self.pygame
        match event.type:
            case pygame.KEYDOWN:
                return KeyPress(pygame.key.name(event.key))
            case pygame.KEYUP:
                return KeyRelease(pygame.key.name(event.key))
            case pygame.JOYAXISMOTION:
                return StickLean(event.axis, float(event.value))
            case pygame.MOUSEMOTION if self.screen is not None:
                right = 2 * (event.pos[0] - self.area.left) / self.area.width - 1
                up = 1 - 2 * (event.pos[1] - self.area.top) / self.area.height
                return MouseMove(right, up)
            case pygame.WINDOWFOCUSLOST:
                return FocusLoss()
            case pygame.QUIT:
                return CloseRequest()
            case pygame.JOYDEVICEADDED:
                gamepad = pygame.joystick.Joystick(event.device_index)
                self.gamepads[gamepad.get_instance_id()] = gamepad
            case pygame.JOYDEVICEREMOVED:
                self.gamepads.pop(event.instance_id, None)
        return None
