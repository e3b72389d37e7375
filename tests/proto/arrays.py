"""Hypothesis strategies for the arrays that packs carry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from replayring_proto.spec import DTYPES

names = st.text(min_size=1, max_size=8)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """An array of any allowed dtype and small shape, holding any bytes its dtype may hold."""
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)))]
    shape = draw(shapes)
    nbytes = math.prod(shape) * dtype.itemsize
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, nbytes, np.uint8)
    if dtype == np.bool_:
        values %= 2
    return values.view(dtype).reshape(shape)


packs = st.dictionaries(names, arrays(), max_size=5)
