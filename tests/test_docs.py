"""Every Python block of the README and of docs/ runs, in order per file, in a folder that has what the text assumes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> str:
    """The page's Python blocks as one program; line numbers are the page's own."""
    text = page.read_text(encoding="utf-8")
    out = []
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = line.startswith("```python")
            out.append("")
        else:
            out.append(line if inside else "")
    return "\n".join(out)


def furnish(folder: Path) -> None:
    """What the README assumes: a folder of photos and a file of weights (random ones, of the real architecture)."""
    timm = pytest.importorskip("timm", reason="the README's source needs timm")
    from PIL import Image
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    for label, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(8):
            noise = rng.integers(0, 50, (40, 40, 3))
            Image.fromarray((noise + colour).astype(np.uint8)).save(folder / "photos" / label / f"{number}.jpg")
    save_file(timm.create_model("mobilenetv2_100", pretrained=False).state_dict(), folder / "mobilenetv2.safetensors")


@pytest.mark.parametrize("page", [p for p in PAGES if "```python" in p.read_text("utf-8")], ids=lambda p: p.name)
def test_page_runs(page, tmp_path, monkeypatch):
    if page.name == "README.md":
        furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    exec(compile(blocks(page), str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
