"""A window that shows the dream, and the keys pressed in it."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np

from ...errors import BackendError

_LEAST_WIDTH = 640
# The keys of each action; arrows have different codes on X11 and Wayland, Windows, and macOS.
_CODES: dict[str, tuple[int, ...]] = {
    "next layer": (65362, 2490368, 63232, ord("]")),
    "previous layer": (65364, 2621440, 63233, ord("[")),
    "stronger": (ord("+"), ord("="), 65451),
    "weaker": (ord("-"), ord("_"), 65453),
    "freeze": (ord(" "), ord("f")),
    "snapshot": (ord("s"),),
    "record": (ord("r"),),
    "text": (ord("h"),),
    "quit": (ord("q"), 27),
}
KEYS = {code: action for action, codes in _CODES.items() for code in codes}
HELP = "up/down layer   +/- strength   space freeze   s snapshot   r record   h hide   q quit"


class DisplayWindow:
    """A window of OpenCV; a context manager.

    Args:
        title: Its title.

    Raises:
        BackendError: No window can be opened.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")  # about fonts that its wheel lacks
        _check_display()
        # Without the toolbar, whose shortcuts would take our keys.
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._sized = False

    def show(self, image: np.ndarray, text: list[str]) -> None:
        """Show an image.

        Args:
            image: BGR uint8 [H,W,3].
            text: Lines written over it.
        """
        height, width = image.shape[:2]
        if width < _LEAST_WIDTH:
            scale = _LEAST_WIDTH / width
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            height, width = image.shape[:2]
        if not self._sized:
            cv2.resizeWindow(self.title, width, height)
            self._sized = True
        shown = image.copy() if text else image
        for number, line in enumerate(text):
            for offset, color in ((1, (0, 0, 0)), (0, (255, 255, 255))):  # on a shadow, to be legible on any image
                at = (10 + offset, 24 + 22 * number + offset)
                cv2.putText(shown, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
        cv2.imshow(self.title, shown)

    def pressed(self) -> list[str]:
        """The actions of the keys pressed since the last call; "quit" too if the window was closed."""
        actions = []
        while (code := cv2.waitKeyEx(1)) != -1:
            action = KEYS.get(code) or KEYS.get(code & 0xFF)  # without NumLock and other modifiers
            actions += [action] if action else []
        return actions if self._is_open() else [*actions, "quit"]

    def _is_open(self) -> bool:
        try:
            return cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1
        except cv2.error:  # raised by Qt once the last window is closed
            return False

    def __enter__(self) -> DisplayWindow:
        return self

    def __exit__(self, *_: object) -> None:
        cv2.destroyAllWindows()
        cv2.waitKey(1)


def _check_display() -> None:
    """Open a window in another process: without a display, the window system ends the process.

    Raises BackendError.
    """
    tried = subprocess.run(
        [sys.executable, "-c", "import cv2; cv2.namedWindow('onnxdream'); cv2.waitKey(1)"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        return
    if "not implemented" in tried.stderr:
        raise BackendError(
            "this OpenCV opens no windows; install opencv-python in place of opencv-python-headless, or use --headless"
        )
    raise BackendError("no window can be opened: there is no display here; use --headless with -o or --serve")
