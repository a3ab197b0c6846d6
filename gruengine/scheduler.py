# SPDX-License-Identifier: MIT
"""Steps of many streams from many threads and event loops, run in batches as they arrive."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gruengine._scheduler import Mailbox, SchedulerCore, microseconds
from gruengine.errors import InvalidInputError
from gruengine.pool_ports import (
    Array,
    PortInfo,
    by_name,
    check_array,
    named,
    output_arrays,
    refuse_overlap,
)

if TYPE_CHECKING:
    import asyncio

    from gruengine.model import Model

__all__ = ["Scheduler"]


class Scheduler(SchedulerCore):
    """Live streams of a model, stepped from any thread; steps that wait run as one batch.

    Parameters
    ----------
    model : Model
    max_streams : int
        Streams open at once.
    max_batch : int
        Rows of one batch.
    max_wait_us : int
        How long a step may wait for those of other streams to join. With 0, the default, a batch
        is whatever has come while the one before ran, and a step that finds the scheduler idle runs
        at once, in the thread of its caller.
    num_threads : int
        Native threads, and so batches that run at once; the model's ``num_threads`` is not used.
    max_queue : int
        Steps that wait at once; one more raises Overloaded. 0: twice ``max_streams``.
    idle_timeout : float, optional
        Seconds after which a stream without a step is closed.
    on_evict : callable, optional
        ``on_evict(id, state)`` is told of each stream that was, with its state as bytes. It runs
        in a thread of the scheduler, and must not shut it down.
    sizes : dict of str to int, optional
        Values of other named sizes of the model, as for ``model.pool``.

    Notes
    -----
    Steps of one stream run in the order in which they were given. Each gives the bits of a stream
    of its own. A child of ``fork`` cannot use the scheduler of its parent: UnsupportedError.
    Use it as a context manager, or call :meth:`shutdown`; the end of the interpreter does, too.
    """

    def __init__(
        self,
        model: Model,
        max_streams: int = 1024,
        max_batch: int = 64,
        max_wait_us: int = 0,
        num_threads: int = 1,
        max_queue: int = 0,
        idle_timeout: float | None = None,
        on_evict: Callable[[int, bytes], object] | None = None,
        sizes: Mapping[str, int] | None = None,
        **_private: Any,
    ) -> None:
        self._ports: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPort] = (
            weakref.WeakKeyDictionary()
        )
        _live.add(self)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_exception: object) -> None:
        """Shut down: steps that wait are done first."""
        self.shutdown()

    def __repr__(self) -> str:
        state = f"{len(self)} streams" if self.is_open else "shut down"
        return f"Scheduler({state}, model={self.model!r})"

    def _step_slowly(self, id: int, x: Any, out: Any, timeout_us: int) -> Any:  # noqa: A002
        """step() with every check and every number of inputs."""
        arrays, results = self._arrays(x, out)
        self._step_arrays(id, arrays, results, timeout_us)
        return named(self.outputs, results)

    def _arrays(self, x: Any, out: Any) -> tuple[list[Array], list[Array]]:
        """Check the arrays of one row; make those of the outputs."""
        values = by_name("input", self.inputs, x)
        pairs = [_row(port, value) for port, value in zip(self.inputs, values, strict=True)]
        short = all(is_short for _, is_short in pairs)
        shapes = [port.short_step() if short else port.step for port in self.outputs]
        arrays, results = [array for array, _ in pairs], output_arrays(self.outputs, shapes, out)
        if out is not None:
            refuse_overlap(arrays, results)
        return arrays, results

    def step_async(
        self,
        id: int,  # noqa: A002
        x: Any,
        out: Any = None,
        timeout: float | None = None,
    ) -> asyncio.Future[Any]:
        """Advance a stream by one step: :meth:`step` for asyncio.

        The step is handed over now, also when the result is awaited later, so that steps of one
        stream keep the order of the calls. Cancelling the future does not undo the step.

        Returns
        -------
        asyncio.Future
            Of what :meth:`step` returns.

        Raises
        ------
        InvalidInputError, InvalidTypeError, Overloaded, SchedulerClosedError, UnsupportedError
            As :meth:`step`: at once where the step is not taken, else from the future.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        port = self._ports.get(loop)
        if port is None:
            port = self._ports[loop] = _LoopPort(self, loop)
        arrays, results = self._arrays(x, out)
        future = loop.create_future()
        port.mailbox.submit(id, arrays, results, microseconds(timeout), (future, results))
        return future

    def shutdown(self, drain: bool = True) -> None:
        """Take no more steps and end the workers; nothing happens the second time.

        Parameters
        ----------
        drain : bool
            Whether steps that wait are done first; otherwise SchedulerClosedError answers them.
            States can be read afterwards.
        """
        super().shutdown(drain)
        for loop, port in list(self._ports.items()):
            if not loop.is_closed():
                loop.call_soon_threadsafe(port.arrived)


class _LoopPort:
    """The way of answers to one event loop: a file descriptor wakes it once for many."""

    def __init__(self, scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)
        self.mailbox = Mailbox(scheduler, self._write)
        self._scheduler = weakref.ref(scheduler)
        self._loop = weakref.ref(loop)
        self._outputs = scheduler.outputs
        loop.add_reader(self._read, self.arrived)

    def arrived(self) -> None:
        """Answer the futures whose steps are done."""
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        for (future, results), error in self.mailbox.collect():
            if future.done():  # cancelled
                continue
            if error is None:
                future.set_result(named(self._outputs, results))
            else:
                future.set_exception(error)
        scheduler, loop = self._scheduler(), self._loop()
        if loop is not None and not len(self.mailbox) and not (scheduler and scheduler.is_open):
            loop.remove_reader(self._read)

    def __del__(self) -> None:
        # While steps are under way a worker may still write: the number must not be used again.
        if hasattr(self, "mailbox") and not len(self.mailbox):
            for fd in {self._read, self._write}:
                os.close(fd)


def _row(port: PortInfo, value: Any) -> tuple[Array, bool]:
    """Check an input of one row; say whether its row axis was left out."""
    what = f"input {port.name!r}"
    array = check_array(what, value, port.dtype, None)
    short = port.short_step()
    if array.shape not in (port.step, short):
        wanted = f"{port.step} or {short}"
        raise InvalidInputError(f"{what} has shape {array.shape}; it must be {wanted}")
    return array, array.shape != port.step


_live: weakref.WeakSet[Scheduler] = weakref.WeakSet()


@atexit.register
def _shut_down_all() -> None:
    """End native threads while callbacks can still run."""
    for scheduler in list(_live):
        scheduler.shutdown()
