"""The program that the tuner's candidates run in: one that hangs or crashes ends this process and not the caller's.

``python -S _worker.py EXTENSION [LIBRARY...]`` loads the libraries, then the package's extension module from its file,
which serves the tuner on standard input and output. The package around it and torch are not imported, and no start-up
file of the installation is run: a worker is there in some ten milliseconds, and nothing prints before it is. What is
printed later goes to standard error, because the extension module takes the two streams for itself.
"""

from __future__ import annotations

import sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location


def main(extension: str, *libraries: str) -> None:
    """Serves until standard input ends, which ends the process."""
    if libraries:
        import ctypes

        for library in libraries:
            ctypes.CDLL(library)
    name = "cce_torch._native"
    spec = spec_from_file_location(name, extension, loader=ExtensionFileLoader(name, extension))
    if spec is None or spec.loader is None:
        raise ImportError(f"{extension} is no extension module, expected that of cce_torch: install the package again")
    native = module_from_spec(spec)
    spec.loader.exec_module(native)
    native.work()


if __name__ == "__main__":
    main(*sys.argv[1:])
