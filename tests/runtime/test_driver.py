"""Check that a stream can be made in a thread without a CUDA context. The driver is replaced by one that records calls."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from graphstreams.runtime import driver as module
from graphstreams.runtime.driver import new_stream

NOT_READY, NO_CONTEXT = 3, 201  # CUDA_ERROR_NOT_INITIALIZED, CUDA_ERROR_INVALID_CONTEXT
PRIMARY = 0x1000  # the primary context of device i is PRIMARY + i
ASKING = ["cuCtxGetCurrent"]
BINDING = ["cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"]
MAKING = ["cuStreamCreateWithPriority"]


class FakeDriver:
    """One thread's view of the driver. As in the driver, the handle of a device need not be its number: here it is 10 more."""

    def __init__(self, context: int | None = None, failing: str = "") -> None:
        self.context, self.failing = context, failing
        self.calls: list[str] = []
        self.made_in: list[tuple[int, int, int]] = []  # context, flags and priority of each stream

    def __getattr__(self, name: str) -> Any:
        answer = {
            "cuCtxGetCurrent": self.current,
            "cuDeviceGet": self.device,
            "cuDevicePrimaryCtxRetain": self.retain,
            "cuCtxSetCurrent": self.set_current,
            "cuStreamCreateWithPriority": self.make_stream,
        }[name]

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return NOT_READY if name == self.failing else answer(*arguments)

        return call

    def current(self, context: Any) -> int:
        context._obj.value = self.context
        return 0

    def device(self, device: Any, number: ctypes.c_int) -> int:
        device._obj.value = 10 + number.value
        return 0

    def retain(self, context: Any, device: ctypes.c_int) -> int:
        context._obj.value = PRIMARY + device.value - 10
        return 0

    def set_current(self, context: ctypes.c_void_p) -> int:
        self.context = context.value
        return 0

    def make_stream(self, stream: Any, flags: ctypes.c_uint, priority: ctypes.c_int) -> int:
        if self.context is None:
            return NO_CONTEXT
        self.made_in.append((self.context, flags.value, priority.value))
        stream._obj.value = 0x2000
        return 0


@pytest.fixture
def torch_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's part without a GPU: a device that is asked for becomes the thread's, without a context."""
    current = [0]

    @contextlib.contextmanager
    def on(device: torch.device) -> Iterator[None]:
        before, current[0] = current[0], current[0] if device.index is None else device.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda handle, device: (handle, device))


def use(monkeypatch: pytest.MonkeyPatch, fake: FakeDriver) -> FakeDriver:
    monkeypatch.setattr(module, "driver", lambda: fake)
    return fake


@pytest.mark.usefixtures("torch_cuda")
@pytest.mark.parametrize("device", [torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda")])
def test_a_thread_without_a_context_gets_the_primary_one_of_the_device(monkeypatch, device):
    fake = use(monkeypatch, FakeDriver())
    assert new_stream(device, -1) == (0x2000, device)
    assert fake.calls == ASKING + BINDING + MAKING
    assert fake.made_in == [(PRIMARY + (device.index or 0), 1, -1)]


@pytest.mark.usefixtures("torch_cuda")
def test_a_context_that_a_thread_has_is_left_alone(monkeypatch):
    fake = use(monkeypatch, FakeDriver(context=0x42))
    new_stream(torch.device("cuda", 0))
    assert fake.calls == ASKING + MAKING
    assert fake.made_in == [(0x42, 1, 0)]


@pytest.mark.usefixtures("torch_cuda")
@pytest.mark.parametrize("failing", ASKING + BINDING + MAKING)
def test_what_the_driver_refuses_is_an_error(monkeypatch, failing):
    fake = use(monkeypatch, FakeDriver(failing=failing))
    with pytest.raises(RuntimeError, match=f"error {NOT_READY}"):
        new_stream(torch.device("cuda", 0))
    assert fake.calls[-1] == failing
