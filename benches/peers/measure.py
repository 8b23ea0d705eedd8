"""Times, memory and errors of one method on one head, beside cuBLAS's product of the same shape.

A call and the product take turns; a ratio is the median over such pairs, so that a change of clocks meets both alike.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from heads import IGNORED, Head
from methods import Loss, Method
from report import Row, Timing, version_of
from torch import Tensor

#: Calls before those that are timed.
WARM_UP = 3
#: Seconds of calls, after those that are timed, while clock and power are read.
SENSED = 0.3
#: Elements of the float32 logits that a reference holds at once.
REFERENCE_CHUNK = 2**28


@dataclass
class Reference:
    """The mean loss and its gradients by float32 products, tf32 off."""

    loss: float
    d_e: Tensor
    d_c: Tensor


def reference(head: Head) -> Reference:
    """Computed chunk by chunk: the logits of a few tokens at a time."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    e, c = head.e.float(), head.c.float()
    counted = int((head.targets != IGNORED).sum())
    d_e, d_c = torch.empty_like(e), torch.zeros_like(c)
    total = torch.zeros((), dtype=torch.float64, device=e.device)
    chunk = max(1, REFERENCE_CHUNK // len(c))
    for at in range(0, len(e), chunk):
        part = slice(at, at + chunk)
        counts = (head.targets[part] != IGNORED)[:, None]
        target = head.targets[part].clamp_min(0)[:, None]
        gradient = torch.log_softmax(e[part] @ c.T, -1)
        of_target = gradient.gather(1, target)
        total -= (of_target.double() * counts).sum()
        # 1 - p of the target, not as a difference of rounded numbers.
        gradient.exp_().scatter_(1, target, torch.expm1(of_target))
        gradient *= counts / counted
        torch.mm(gradient, c, out=d_e[part])
        d_c.addmm_(gradient.T, e[part])
    torch.set_float32_matmul_precision(precision)
    return Reference(float(total) / counted, d_e, d_c)


def distance(got: Tensor, expected: Tensor) -> float:
    """||got - expected|| / ||expected||, some rows at a time."""
    apart = torch.zeros((), dtype=torch.float64, device=expected.device)
    size = torch.zeros_like(apart)
    for one, other in zip(got.split(4096), expected.split(4096), strict=True):
        apart += (one.float() - other).double().square().sum()
        size += other.double().square().sum()
    return float((apart / size).sqrt())


class Clock:
    """Marks points in a device's time: events of CUDA, the host's clock on the CPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def mark(self) -> torch.cuda.Event | float:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end) if self.cuda else (end - start) * 1e3)


class Sensors:
    """Clock and power of the GPU, from NVML; without it, ``why_not`` says so."""

    def __init__(self, device: torch.device) -> None:
        self.why_not: str | None = None
        self.driver: str | None = None
        if device.type != "cuda":
            self.why_not = "there is no GPU"
            return
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(device).uuid
            self._gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            self._nvml = pynvml
            self.driver = str(pynvml.nvmlSystemGetDriverVersion())
            self.read()
        except ImportError:
            self.why_not = "NVML's Python package is not installed: pip install nvidia-ml-py"
        except Exception as error:
            self.why_not = f"NVML says: {error}"

    def read(self) -> tuple[float, float]:
        """MHz and watts, now."""
        clock = self._nvml.nvmlDeviceGetClockInfo(self._gpu, self._nvml.NVML_CLOCK_SM)
        return float(clock), self._nvml.nvmlDeviceGetPowerUsage(self._gpu) / 1e3

    def during(self, work: Callable[[], object], seconds: float) -> tuple[float, float] | None:
        """Medians of readings while ``work`` runs again and again."""
        if self.why_not is not None:
            return None
        readings: list[tuple[float, float]] = []
        done = threading.Event()

        def watch() -> None:
            # The first readings are of what ran before.
            while not done.wait(0.02):
                readings.append(self.read())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                work()
                torch.cuda.synchronize()
        finally:
            done.set()
            watcher.join()
        late = readings[len(readings) // 3 :]
        if not late:
            return None
        return statistics.median(clock for clock, _ in late), statistics.median(power for _, power in late)


@dataclass
class Bench:
    """One head on one device."""

    head: Head
    pairs: int
    sensors: Sensors
    #: Computed when a gradient is first compared.
    _reference: Reference | None = None
    _logits: Tensor = field(init=False)

    def __post_init__(self) -> None:
        tokens, _, vocab = self.head.shape
        self.device = self.head.e.device
        self.clock = Clock(self.device)
        self._logits = torch.empty(tokens, vocab, dtype=self.head.e.dtype, device=self.device)

    def product(self) -> None:
        """What T is the time of: E C^T in bf16, into a buffer that is there."""
        torch.mm(self.head.e, self.head.c.T, out=self._logits)

    def timing(self, work: Callable[[], object]) -> Timing:
        """Medians over interleaved pairs of ``work`` and the product."""
        for _ in range(WARM_UP):
            work()
            self.product()
        marks = []
        for _ in range(self.pairs):
            marks.append(self.clock.mark())
            work()
            marks.append(self.clock.mark())
            self.product()
        marks.append(self.clock.mark())
        self.wait()
        spans = [self.clock.milliseconds(*ends) for ends in zip(marks, marks[1:], strict=False)]
        return Timing.of(spans[0::2], spans[1::2])

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def memory(self, work: Callable[[], object]) -> int | None:
        """Bytes at the peak of a call, its results among them, beyond what was there before."""
        if self.device.type != "cuda":
            return None
        self.clean()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def clean(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def row(self, method: Method) -> Row:
        """Everything about a method. What stops it is kept in its row, beside what was measured before."""
        row = Row(method.name, method.about, version_of(method.package))
        row.absent = method.missing()
        if row.absent is not None:
            return row
        try:
            self._measure(method.make(), row)
        except Exception as error:
            # Not only errors of the kinds that are known: what a peer raises is its result.
            text = str(error).strip().splitlines()
            row.error = f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
        try:
            self.clean()
        except Exception as error:
            raise SystemExit(f"the GPU is lost after {method.name} ({row.error}): {error}") from error
        return row

    def _measure(self, loss: Loss, row: Row) -> None:
        e, c, targets = self.head.e, self.head.c, self.head.targets

        # Of tensors that require no gradient, as in evaluation: some peers compute gradients in the forward otherwise.
        def forward() -> Tensor:
            with torch.no_grad():
                return loss(e, c, targets)

        e_learns, c_learns = e.detach().requires_grad_(), c.detach().requires_grad_()

        def step() -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss(e_learns, c_learns, targets), (e_learns, c_learns))

        row.loss = float(forward())
        row.forward_bytes = self.memory(forward)
        row.forward = self.timing(forward)
        d_e, d_c = step()
        if self._reference is None:
            self._reference = reference(self.head)
        known = self._reference
        row.loss_error = abs(row.loss - known.loss) / abs(known.loss)
        row.d_e_error, row.d_c_error = distance(d_e, known.d_e), distance(d_c, known.d_c)
        del d_e, d_c
        row.step_bytes = self.memory(step)
        row.step = self.timing(step)
        sensed = self.sensors.during(step, SENSED)
        if sensed is not None:
            row.megahertz, row.watts = sensed
