"""Pictures of the UI for the documentation: small files, taken only when a folder for them is named."""

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, expect

WIDTH = 1280  # pixels
COLOURS = 256  # a user interface has few; the file is a third of the original


class Gallery:
    """A folder for pictures; with None nothing is taken."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @property
    def is_open(self) -> bool:
        """Whether pictures are taken."""
        return self.folder is not None

    def take(self, page: Page, name: str, *, first: Locator | None = None, height: int = 800) -> None:
        """What the page shows in a window so many pixels high, as `<folder>/<name>.png`; `first` = what stands at its top."""
        if self.folder is None:
            return
        page.set_viewport_size({"width": WIDTH, "height": height})
        if first is not None:
            first.evaluate("element => element.scrollIntoView()")
        page.mouse.move(0, 0)  # a notice stays while the mouse is over it
        expect(page.get_by_role("region", name="Notifications").get_by_role("listitem")).to_have_count(0)
        self.folder.mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
        picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            self.folder / f"{name}.png", optimize=True
        )
        page.set_viewport_size({"width": WIDTH, "height": 800})
