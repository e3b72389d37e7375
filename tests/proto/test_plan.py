"""How a view becomes tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from replayring_proto.query import View
from replayring_proto.ring import Plan
from replayring_proto.spec import BufferSpec

SPEC = BufferSpec.from_data_spec(
    {"state": {"shape": (2,), "dtype": "float32"}, "done": {"shape": (), "dtype": "bool"}}, 10, 10
)
PRESETS = {"index": (3,), "episode_index": (3,), "frame_index": (3,), "timestamp": (3,)}


def shapes(**view: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a batch of 3."""
    tensors = Plan(SPEC, View.of(**view)).layout(3).tensors
    assert [t.name for t in tensors] == sorted(t.name for t in tensors)
    return {tensor.name: tensor.shape for tensor in tensors}


def test_without_keys_every_column_comes() -> None:
    assert shapes() == {"state": (3, 2), "done": (3,), **PRESETS}


def test_the_presets_come_with_any_keys() -> None:
    assert shapes(keys=["done"]) == {"done": (3,), **PRESETS}
    assert shapes(keys=[]) == PRESETS


def test_a_window_adds_an_axis_and_a_mask() -> None:
    found = shapes(delta_indices={"state": [-1, 0]}, delta_timestamps={"timestamp": [0.1]}, keys=[])
    assert found == {
        **PRESETS,
        "state": (3, 2, 2),
        "state_is_pad": (3, 2),
        "timestamp": (3, 1),
        "timestamp_is_pad": (3, 1),
    }


def test_columns_of_equal_offsets_are_resolved_once() -> None:
    view = View.of(delta_indices={"state": [0, 1], "done": [0, 1], "index": [0, 2]})
    assert sorted(len(group.columns) for group in Plan(SPEC, view).groups) == [1, 2]


def test_the_tolerance_is_the_views_else_the_specs() -> None:
    assert Plan(SPEC, View()).tolerance_s == 0.1 - 1e-4
    assert Plan(SPEC, View(tolerance_s=0.0)).tolerance_s == 0.0


def test_the_longest_window_is_what_a_frame_may_touch() -> None:
    assert Plan(SPEC, View()).entries_per_frame == 1
    view = View.of(delta_indices={"state": [0], "done": np.arange(7)})
    assert Plan(SPEC, view).entries_per_frame == 7


class InterruptedPlan(Plan):
    """A plan that another thread uses after any change of its attributes."""

    others: list[tuple[int, int]] | None = None  # batch sizes asked for, and those of the layouts

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        seen = type(self).others
        if seen is not None:
            type(self).others = None
            seen += [(size, self.layout(size).tensors[0].shape[0]) for size in (3, 5, 7)]
            type(self).others = seen


def test_a_plan_shared_by_threads_gives_each_the_layout_of_its_own_batch() -> None:
    plan = InterruptedPlan(SPEC, View())
    plan.layout(3)
    seen = InterruptedPlan.others = []
    try:
        for size in (5, 3, 5):
            assert plan.layout(size).tensors[0].shape[0] == size
    finally:
        InterruptedPlan.others = None
    assert seen
    assert all(asked == found for asked, found in seen)


def test_a_batch_of_no_frames_has_every_column_all_the_same() -> None:
    # Was the layout of no columns at all, which a fresh plan remembered for "no frames".
    layout = Plan(SPEC, View()).layout(0)
    assert [tensor.name for tensor in layout.tensors] == list(SPEC.by_name)
    assert all(tensor.shape[0] == 0 for tensor in layout.tensors)
