"""Which class an error is of, and what follows from it."""

from __future__ import annotations

import math

import pytest
import torch

from ssmbench import errors
from ssmbench.execute import policy
from ssmbench.execute.inline import DeadlineError


def chained(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


def fake(module: str, name: str, *bases: type) -> Exception:
    """Make an error as a library that is not imported here would."""
    made: Exception = type(name, bases or (Exception,), {"__module__": module})("text")
    return made


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.MethodError("m"), "user"),
        (errors.DataError("d"), "user"),
        (errors.NumericalError("n"), "numerical"),
        (FloatingPointError("x"), "numerical"),
        (torch.linalg.LinAlgError("singular"), "numerical"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "gpu_oom"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), "gpu_oom"),
        (MemoryError(), "host_oom"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "host_oom"),
        (fake("ray.exceptions", "OutOfMemoryError"), "host_oom"),
        (fake("ray.exceptions", "WorkerCrashedError"), "crashed"),
        (fake("ray.exceptions", "NodeDiedError"), "node_lost"),
        (fake("ray.exceptions", "TaskCancelledError"), "cancelled"),
        (fake("huggingface_hub.errors", "HfHubHTTPError", OSError), "hub"),
        (fake("huggingface_hub.errors", "RepositoryNotFoundError", OSError), "user"),
        (fake("requests.exceptions", "ReadTimeout", OSError), "hub"),
        (ConnectionResetError(), "hub"),
        (TimeoutError(), "hub"),
        (DeadlineError(), "timeout"),
        (KeyError("x"), "bug"),
        (OSError(28, "No space left on device"), "disk_full"),
        (chained(errors.StoreError("cannot write"), OSError(122, "quota")), "disk_full"),
        (OSError(2, "No such file"), "bug"),
        (RuntimeError("shape mismatch"), "bug"),
        (chained(ValueError("wrapped"), MemoryError()), "host_oom"),
        (chained(errors.DataError("no wikitext"), ConnectionError()), "hub"),
    ],
)
def test_an_error_has_the_class_of_its_nearest_known_cause(error, expected):
    assert policy.classify(error) == expected


def test_rays_wrapper_is_looked_through():
    wrapper = fake("ray.exceptions", "RayTaskError(MemoryError)")
    wrapper.cause = MemoryError()
    assert policy.classify(wrapper) == "host_oom"


def test_a_circle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert policy.classify(first) == "bug"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.DataError("no such\nfolder"), "no such folder"),
        (ValueError("\n  first line\nsecond"), "ValueError: first line"),
        (KeyError(), "KeyError"),
        (fake("ray.exceptions", "WorkerCrashedError"), "the worker process died (killed, or a "),
    ],
)
def test_a_message_is_one_line(error, expected):
    message = policy.message_of(error)
    assert message.startswith(expected)
    assert "\n" not in message


def test_every_class_has_a_rule():
    assert set(policy.POLICY) == set(policy.ErrorClass.__args__)
    assert all(rule.retries >= 0 and rule.meaning for rule in policy.POLICY.values())


def test_waits_double():
    waits = [policy.wait_s("hub", n) for n in range(3)]
    assert waits == [5, 10, 20]


def test_a_batch_is_halved_down_to_a_floor():
    assert policy.halved(1000) == 500
    assert policy.halved(70) == policy.MIN_BATCH_TOKENS


def test_missing_data_is_tried_again_only_where_a_download_failed() -> None:
    def raised(cause: Exception | None) -> errors.DataError:
        try:
            raise errors.DataError("the data set is not there") from cause
        except errors.DataError as error:
            return error

    assert policy.classify(raised(ConnectionError("no route"))) == "hub"
    assert policy.classify(raised(ValueError("not JSON"))) == "user"
    assert policy.classify(raised(None)) == "user"


@pytest.mark.parametrize(
    ("kind", "fate", "expected"),
    [
        ("crashed", "alive", "crashed"),
        ("crashed", None, "crashed"),
        ("crashed", "leaving", "preempted"),
        ("crashed", "lost", "node_lost"),
        ("node_lost", "leaving", "preempted"),
        ("node_lost", "alive", "node_lost"),
        ("host_oom", "leaving", "host_oom"),
        ("bug", "lost", "bug"),
    ],
)
def test_a_death_is_seen_in_view_of_the_machines_fate(kind, fate, expected):
    assert policy.in_view_of(kind, fate) == expected


def test_errors_of_one_cause_have_one_signature():
    first = policy.signature("bug", "ValueError: shape [3, 16] of 'layer.1' in /a/b.bin, 2.5e-3")
    second = policy.signature("bug", "ValueError: shape [12, 8] of 'layer.22' in /c/d.bin, 1.0e-7")
    assert first == second
    assert first != policy.signature("user", "ValueError: shape [3, 16] of 'layer.1' in /a/b.bin")
    assert first != policy.signature("bug", "TypeError: shape [3, 16] of 'layer.1' in /a/b.bin")


def test_preemption_alone_is_retried_without_end():
    endless = [kind for kind, rule in policy.POLICY.items() if rule.retries == math.inf]
    assert endless == ["preempted"]


def test_only_what_a_machine_does_speaks_against_it():
    blamed = {kind: rule.blames for kind, rule in policy.POLICY.items() if rule.blames != "cell"}
    assert blamed == {
        "crashed": "node",
        "node_lost": "node",
        "disk_full": "node",
        "user": "method",
        "bug": "method",
    }
