"""Command lines that run at the same time, each in a process of its own with a log."""

import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence

# Several processes share a GPU only where none takes all of its memory.
_SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def run_at_once(
    commands: Mapping[str, Sequence[str]],
    count: int,
    logs: str | os.PathLike[str],
    environment: Mapping[str, str],
) -> Iterator[tuple[str, int]]:
    """Runs commands in their order, yields each one's name and exit code when it ends.

    An interrupt, or the end of the iteration, interrupts those that run, once, and waits for them.

    Args:
        commands: by name.
        count: how many run at the same time, at most.
        logs: folder for `NAME.txt`, what each says.
        environment: variables that they get where this process has not set them.
    """
    folder = pathlib.Path(logs)
    folder.mkdir(parents=True, exist_ok=True)
    variables = {**_SHARING, **environment, **os.environ}
    waiting, running = list(commands.items()), dict[str, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < count:
                name, command = waiting.pop(0)
                with open(folder / f"{name}.txt", "wb") as log:
                    running[name] = subprocess.Popen(
                        command,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=variables,
                        start_new_session=True,  # Ctrl-C is passed on once, below
                    )
            ended = [name for name, process in running.items() if process.poll() is not None]
            for name in ended:
                yield name, running.pop(name).returncode
            if not ended:
                time.sleep(0.2)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
