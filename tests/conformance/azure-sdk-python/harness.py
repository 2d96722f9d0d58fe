"""A list of checks, each a sentence and a function; and how errors are expected."""

import contextlib
import traceback

from azure.core.exceptions import HttpResponseError

_checks = []


def check(sentence):
    """Registers a check; the function takes the world."""

    def register(function):
        _checks.append((sentence, function))
        return function

    return register


def run_all(world) -> int:
    failed = 0
    for sentence, function in _checks:
        try:
            function(world)
            print(f"ok      {sentence}")
        except Exception:  # a check may fail in any way
            failed += 1
            print(f"FAILED  {sentence}\n{traceback.format_exc()}")
    print(f"{len(_checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"found {found!r}, expected {expected!r}")


@contextlib.contextmanager
def refused(status, code=None, inner=None):
    """Expects a Key Vault error with this status, code and inner code."""
    try:
        yield
    except HttpResponseError as error:
        equal(error.status_code, status)
        if code is not None:
            equal(error.error.code, code)
        if inner is not None:
            equal(error.error.innererror["code"], inner)
        return
    raise AssertionError(f"expected {status} {code}, but it succeeded")


@contextlib.contextmanager
def fails(kind, text):
    """Expects an exception of this kind whose text holds this."""
    try:
        yield
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"{text!r} is not in {error}") from error
        return
    raise AssertionError(f"expected {kind.__name__}, but it succeeded")
