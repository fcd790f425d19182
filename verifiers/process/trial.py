"""A user's own verifiers are imported in a process of their own first, before this one does.

A module that never ends importing, ends its process, or closes all files, does so there.
"""

from __future__ import annotations

import sys
import time

from verifiers.config import VerifierConfig
from verifiers.process.child_process import ChildProcess, VerifierStartError
from verifiers.registry import VERIFIERS


def try_imports(config: VerifierConfig) -> None:
    """Raises VerifierStartError, in one line, for the first that cannot be imported in verifier.startup_timeout_s.

    What takes long is said on standard error.
    """
    for name in config.names:
        if name not in VERIFIERS:
            _try_import(config, name)


def _try_import(config: VerifierConfig, name: str) -> None:
    def tell(seconds: float) -> None:
        print(
            f"bonfire: verifier {name!r} has been importing its module for {seconds:.0f} s; it may take "
            f"verifier.startup_timeout_s = {config.startup_timeout_s:g} s",
            file=sys.stderr,
        )

    begun = time.monotonic()
    child = ChildProcess(config, name, only_imports=True)
    try:
        child.wait_until_ready(config.startup_timeout_s, tell)
    except VerifierStartError as error:
        if time.monotonic() - begun < config.startup_timeout_s:
            raise
        raise VerifierStartError(
            f"verifier {name!r}: its module is not imported after verifier.startup_timeout_s = "
            f"{config.startup_timeout_s:g} s: have it do less when it is imported, or raise that"
        ) from error
    finally:
        child.kill()
