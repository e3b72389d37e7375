"""Episodes whose timestamps leave gaps that windows in seconds will miss: said once per buffer.

They are stored all the same, as learners may ask for frames, or allow more. But it is a learner
that meets the error, hours later, and an actor that could mend it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from replayring_proto.spec import TIMESTAMP, BufferSpec
from replayring_server.engine.incoming import Checked

logger = logging.getLogger(__name__)


class Gaps:
    """Looks at what comes into one buffer until it has found one. For any thread."""

    def __init__(self, spec: BufferSpec, name: str) -> None:
        self._spec = spec
        self._name = name
        self._looking = bool(spec.tolerance_s)

    def look(self, episodes: Sequence[Checked]) -> None:
        """Warns of the first episode with a gap of which a window misses the middle."""
        if not self._looking:
            return
        for one in episodes:
            if TIMESTAMP in one.columns:
                (timestamps,) = one.columns[TIMESTAMP]  # never in runs, as it was looked at
                if gap := self._gap_in(timestamps):
                    self._looking = False
                    self._warn(one, gap)
                    return

    def _gap_in(self, timestamps: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        """Returns the widest step between frames if it is too wide, else 0."""
        fps, tolerance = self._spec.fps, self._spec.tolerance_s
        assert fps
        assert tolerance
        # Looking at each step takes as long as all other checks of a small episode; a sum does not.
        in_step = (len(timestamps) - 2) / fps
        if timestamps[-1] - timestamps[0] <= in_step + 2 * tolerance:
            return 0.0
        widest = float(np.diff(timestamps).max())
        return widest if widest > 2 * tolerance else 0.0

    def _warn(self, episode: Checked, gap: float) -> None:
        writer = f" of writer {episode.origin.writer_id!r}" if episode.origin else ""
        logger.warning(
            "buffer %r: an episode%s has frames %g s apart, with fps=%g. It is taken, but windows "
            "in seconds that meet the gap are a ToleranceError. Send timestamps in seconds that "
            "keep to fps, or begin a new episode where frames are missing; learners may ask for "
            "delta_indices, or raise tolerance_s. This is said once",
            *(self._name, writer, gap, self._spec.fps),
        )
