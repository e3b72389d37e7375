"""What users give for numbers, as arrays: tensors, nested sequences, scalars.

What is none of these is answered with what to give instead. Knows torch's tensors when it sees one,
and imports no torch. What an array has to be like is others' business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from replayring_proto.errors import InvalidRequestError
from replayring_proto.spec import DTYPES

Array = npt.NDArray[Any]

_NAMED_KEYS = 5


def as_array(value: Any) -> Array:
    """Returns `value` as an array, uncopied where that is possible.

    Args:
        value: an array, a torch tensor on any device, a number, or nested sequences of these.

    Raises:
        InvalidRequestError: it is something else, or a tensor that numpy cannot show. The message
            begins with "received", for callers to say before it what was given so.
        TypeError, ValueError: numpy makes no array of it, and says why.
    """
    if hasattr(value, "detach"):  # a torch tensor
        return _of_tensor(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # the last by torch, of a tensor in a list
        if not isinstance(value, Sequence):
            raise
        return _of_parts(value)
    if array.dtype.kind != "O" or isinstance(value, np.ndarray):
        return array
    if isinstance(value, Sequence):
        return _of_parts(value)
    raise InvalidRequestError(_other_than_numbers(value))


def _of_parts(values: Sequence[Any]) -> Array:
    """Makes an array of a sequence that numpy makes none of, or finds what is wrong with it."""
    if isinstance(values, tuple) and isinstance(values[-1], Mapping):
        raise InvalidRequestError(
            f"received a tuple that ends with a {type(values[-1]).__name__}, as env.reset() and "
            "env.step() return; unpack it, as in obs, info = env.reset(), and give the observation"
        )
    parts = [as_array(part) for part in values]
    shapes = list(dict.fromkeys(part.shape for part in parts))
    if len(shapes) > 1:
        raise InvalidRequestError(
            f"received a sequence of values of unequal shapes, {shapes[0]} and {shapes[1]}; pad or "
            "cut them to one"
        )
    return np.stack(parts)


def _of_tensor(tensor: Any) -> Array:
    try:
        # By force: from another device, out of a graph, conjugated or negated by a bit alone.
        return np.asarray(tensor.numpy(force=True))
    except (TypeError, ValueError, RuntimeError):
        trouble = _trouble(tensor)
        if trouble is None:
            raise
        raise InvalidRequestError(f"received a {trouble}") from None


def _trouble(tensor: Any) -> str | None:
    """Says of a tensor why numpy cannot show it, and what to give; None if that is not known."""
    if tensor.is_meta:
        return "tensor on the device 'meta', which holds no values; give one on another device"
    if tensor.is_nested:
        return "nested tensor; give its parts one shape, with torch.nested.to_padded_tensor"
    if str(tensor.layout) != "torch.strided":
        return f"tensor of layout {tensor.layout}; give tensor.to_dense()"
    if tensor.is_quantized:
        return "quantized tensor; give tensor.dequantize()"
    if str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        return f"tensor of {tensor.dtype}, which numpy does not have; give tensor.float()"
    return None


def _other_than_numbers(value: Any) -> str:
    if value is None:
        return "received None; give numbers, an array or a tensor"
    if isinstance(value, Mapping):
        return (
            f"received a mapping with the keys {keys_of(value)}; give each of its values a name of "
            "its own"
        )
    return (
        f"received {value!r:.60} of type {type(value).__name__}; give numbers, an array or a tensor"
    )


def keys_of(mapping: Mapping[Any, Any]) -> str:
    """Returns the first keys of a mapping, as errors name them."""
    named = [f"{key!r:.60}" for key in list(mapping)[:_NAMED_KEYS]]
    return ", ".join(named + ["..."] * (len(mapping) > _NAMED_KEYS)) or "(none)"
