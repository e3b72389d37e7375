"""The learning curve's picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from replayring.demo.plot import Evaluation, save_learning_curve

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("points", [1, 5])
def test_picture_is_a_png(tmp_path: Path, points: int) -> None:
    evaluations = [Evaluation(400 * i, 3.0 * i, -1500.0 + 100 * i) for i in range(points)]
    path = tmp_path / "curve.png"

    save_learning_curve(path, evaluations, "a title")

    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 5_000
