"""Services for whoever debugs, reflection and channelz: each an extra, and off unless asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

import grpc

from replayring_server.extras import needs_extra
from replayring_server.health import SERVICE as HEALTH
from replayring_server.service.boundary import SERVICE


def handlers_of(*, reflection: bool, channelz: bool) -> list[grpc.GenericRpcHandler]:
    """Returns what a server has to guard and register, of the services that are wanted.

    Raises:
        InvalidRequestError: the package of one is not installed.
    """
    handlers = []
    services = [SERVICE, HEALTH]
    if channelz:
        services.append("grpc.channelz.v1.Channelz")
        handlers += _channelz()
    if reflection:
        handlers += _reflection(services)
    return handlers


def _reflection(services: Iterable[str]) -> list[grpc.GenericRpcHandler]:
    module = _extra("reflection", "grpc_reflection.v1alpha.reflection")
    stubs = _extra("reflection", "grpc_reflection.v1alpha.reflection_pb2_grpc")
    catcher = _Catcher()
    servicer = module.aio.ReflectionServicer([*services, module.SERVICE_NAME])
    stubs.add_ServerReflectionServicer_to_server(servicer, catcher)
    return catcher.handlers


def _channelz() -> list[grpc.GenericRpcHandler]:
    module = _extra("channelz", "grpc_channelz.v1.channelz")
    stubs = _extra("channelz", "grpc_channelz.v1.channelz_pb2_grpc")
    catcher = _Catcher()
    stubs.add_ChannelzServicer_to_server(module.aio.ChannelzServicer(), catcher)
    return catcher.handlers


def _extra(name: str, module: str) -> Any:
    """Imports a module of an extra, which has the name of its flag."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise needs_extra(f"--{name}", name, error) from None


class _Catcher:
    """What generated code takes for a server: keeps the handlers that it is given.

    Newer generated code registers each method a second time, and a newer grpcio would ask that
    handler first, past the guard around these. So that is not passed on.
    """

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self.handlers += handlers

    def add_registered_method_handlers(self, *_: object) -> None:
        pass
