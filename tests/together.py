"""Processes that belong together: started at once, waited for with a limit, none left behind."""

import subprocess
from collections.abc import Mapping, Sequence


def together(commands: Sequence[tuple[list[str], Mapping[str, str]]], timeout: float) -> list[tuple[str, str, int]]:
    """What each of the commands, given with its environment, wrote to stdout and stderr, and its exit code."""
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, environment in commands
    ]
    try:
        said = [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [(*texts, process.returncode) for texts, process in zip(said, running)]
