"""Workers: all items come back, whatever one of them does to its process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.workers import by_processes, by_ray

PROGRAM = """
import signal
import time
from data.workers import by_processes

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    for _ in by_processes(time.sleep, [0.01, 0.01, 600, 600, 600], 2):
        print("one", flush=True)
"""

RAY = """
from data.workers import by_ray
from test_data_workers import squarer
print(dict(sorted(by_ray(squarer, range(10, 30), 1))))
"""


def square(number: int) -> int:
    """13 ends its process, as a decoder's bug does."""
    if number == 13:
        os._exit(11)
    return number * number


def refuse(number: int) -> int:
    raise ValueError(f"no {number}")


def squarer() -> Callable[[int], int]:
    return square


@pytest.mark.parametrize("workers", [1, 2])
def test_all_but_the_culprit_come_back(workers: int) -> None:
    found = dict(by_processes(square, range(10, 20), workers))
    assert found == {n: n * n if n != 13 else None for n in range(10, 20)}


def test_this_process_alone_gives_the_same() -> None:
    assert dict(by_processes(square, range(5), 0)) == dict(by_processes(square, range(5), 2))


def test_nothing_to_do() -> None:
    assert list(by_processes(square, [], 2)) == []
    assert list(by_ray(squarer, [], 1)) == []


def test_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="no 3"):
        list(by_processes(refuse, [3], 1))


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_no_worker_outlives_its_parent(how: signal.Signals, tmp_path: Path) -> None:
    """Nor does Ctrl-C wait for what is at work."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(how)
        try:
            process.wait(timeout=20)
        finally:
            process.kill()
        for _ in range(200):
            left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
            if not left:
                return
            time.sleep(0.05)
        pytest.fail(f"{left} live on")


@pytest.mark.slow
def test_ray_gives_the_same() -> None:
    """On a Ray of this machine, in a process of its own: it leaves warnings and processes behind."""
    tests = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", RAY], cwd=tests, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str({n: n * n if n != 13 else None for n in range(10, 30)})
