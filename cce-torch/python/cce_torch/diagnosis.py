"""What there is to run on: :func:`doctor`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from . import _native, _options, _plans


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    #: ``ok``; ``missing``: it is not there, and things work without it; ``broken``.
    state: str
    found: str
    #: What to do; empty if nothing.
    advice: str


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What :func:`doctor` found."""

    findings: tuple[Finding, ...]
    #: The variables that are read, of those that are set.
    environment: dict[str, str]
    #: As it was printed.
    text: str

    @property
    def works(self) -> bool:
        """Whether nothing that is there is broken."""
        return all(finding.state != "broken" for finding in self.findings)

    def __repr__(self) -> str:
        # Short: what it says has been printed.
        return f"<Diagnosis of {len(self.findings)} findings, works={self.works}>"

    def __str__(self) -> str:
        return self.text


def doctor(*, quiet: bool = False) -> Diagnosis:
    """Looks at what the package runs on, prints it and gives it back: torch and its CUDA, driver, NVRTC, GPUs, folders,
    the tuning database, variables, and what to do about what is missing.

    Args:
        quiet: does not print.
    """
    _options.flag("quiet", quiet)
    torch_cuda = torch.version.cuda
    built = "without CUDA" if torch_cuda is None else f"for CUDA {torch_cuda}"
    count = torch.cuda.device_count() if torch_cuda is not None else 0
    sees = "no GPU" if count == 0 else f"{count} GPU" if count == 1 else f"{count} GPUs"
    advice = ""
    if torch_cuda is None:
        advice = "calls run on the CPU device; for a GPU install torch with CUDA"
    else:
        _plans.load_nvrtc()
    plans = f"{len(_plans.kept)} of at most {_plans.kept.capacity} kept, kernels of all stay loaded"
    text, found = _native.doctor(
        [
            ("PyTorch", True, f"{torch.__version__}, built {built}; sees {sees}", advice),
            ("plans", True, plans, ""),
        ]
    )
    value = json.loads(found)
    diagnosis = Diagnosis(
        findings=tuple(Finding(one["what"], one["state"], one["found"], one["advice"]) for one in value["findings"]),
        environment=value["environment"],
        text=text.replace("cce-tune ", "cce_torch ", 1),
    )
    if not quiet:
        print(diagnosis)
    return diagnosis
