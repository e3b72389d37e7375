"""TorchRL's remote buffer, over torch.distributed.rpc and TCP: what two machines would use.

The buffer has a process of its own, which this one starts. Calls are kept in flight, which TorchRL
itself does not do, and which is faster.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "RL_LOGGING_LEVEL": "ERROR"}
os.environ |= {"TP_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}

import torchrl.data  # here, since threads of rpc that import it at once lock each other out
from benchmark.turns import take_turns
from benchmark.workloads import Workload
from torch.distributed import rpc

from tests.benchmarks.peers.program import run
from tests.benchmarks.peers.torchrl_buffers import episode_of, fill, make

Remote = torchrl.data.RemoteTensorDictReplayBuffer
IN_FLIGHT = 4
PR_SET_PDEATHSIG = 1


def _join(rank: int, port: int) -> None:
    options = rpc.TensorPipeRpcBackendOptions(
        num_worker_threads=8,
        init_method=f"tcp://127.0.0.1:{port}",
        rpc_timeout=120,
        _transports=["uv"],
        _channels=["basic"],
    )
    name = ("client", "buffer")[rank]
    rpc.init_rpc(name, rank=rank, world_size=2, rpc_backend_options=options)


def _serve(port: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _join(1, port)
    rpc.shutdown()


@contextmanager
def remote(workload: Workload) -> Iterator[Callable[..., Any]]:
    """Yields what calls a method of a full buffer in another process, and returns a future."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(port,), daemon=True)
    server.start()
    _join(0, port)
    with tempfile.TemporaryDirectory() as folder:
        buffer = rpc.remote("buffer", make, args=(workload, folder, Remote))

        def call(method: Callable[..., Any], *arguments: Any) -> Any:
            return rpc.rpc_async("buffer", method, args=(buffer, *arguments))

        fill(workload, lambda episode: call(Remote.extend, episode).wait())
        yield call
        server.kill()
    os._exit(0)  # with half of it gone, rpc has no orderly end


def _repeat(call: Callable[[], Any], count: Callable[[Any], int]) -> None:
    """Takes turns, with calls in flight."""
    pending: deque[Any] = deque()

    def step() -> int:
        while len(pending) < IN_FLIGHT:
            pending.append(call())
        return count(pending.popleft().wait())

    def settle() -> None:
        while pending:
            pending.popleft().wait()

    take_turns(step, settle)


def sample(workload: Workload) -> None:
    """Samples batches of tensors."""
    with remote(workload) as call:
        _repeat(lambda: call(Remote.sample), lambda batch: len(batch) // workload.window)


def insert(workload: Workload) -> None:
    """Adds whole episodes."""
    episode = episode_of(workload)
    with remote(workload) as call:
        _repeat(lambda: call(Remote.extend, episode), lambda _: workload.episode_frames)


if __name__ == "__main__":
    run({"sample": sample, "insert": insert})
