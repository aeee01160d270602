"""Starts a command again until it is done: what keeps a run of weeks going on machines that die.

    python launch/supervise.py [--dry-run] [--restarts 1000] [--in-vain N] [--wait 10] -- t2i train CONFIG --run RUN

Exit codes decide. 0: done. 64 (a wrong call, config or input) and 65 (rolled back in vain from steps that are not
finite): trying again will not help, so it ends with that code. Anything else (a crash, a killed process, 79: hung, 75:
stopped by a signal that was not for us) starts it again, after ``--wait`` seconds, twice as long each time until five
minutes, and as at first once it has run for ten. With ``--in-vain N`` so many attempts in a row of less than ten
minutes end it with 69, for machines that are paid for by the minute. SIGTERM, Ctrl-C and a terminal that closes end the
supervision; the command gets one SIGTERM, with which it saves and stops, and a second Ctrl-C as such. Needs nothing but
Python.
"""

import argparse
import contextlib
import shlex
import signal
import subprocess
import sys
import time

DONE, HOPELESS, GAVE_UP = 0, (64, 65), 69
LONGEST_WAIT, LONG_RUN = 300.0, 600.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(args: list[str] | None = None) -> int:
    args = sys.argv[1:] if args is None else args
    own, command = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
    parser = argparse.ArgumentParser(prog="supervise.py", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print what would be started")
    parser.add_argument("--restarts", type=int, default=1000, help="how often to start again at most (default 1000)")
    parser.add_argument("--in-vain", type=int, default=None, help="how many short attempts in a row are enough")
    parser.add_argument("--wait", type=float, default=10.0, help="seconds before the first new start (default 10)")
    options = parser.parse_args(own)
    if not command:
        parser.error("no command: write it after --")
    if options.dry_run:
        print(f"until it ends with 0, 64 or 65, at most {options.restarts + 1} times: {shlex.join(command)}")
        return DONE
    return supervise(command, options.restarts, options.wait, options.in_vain)


def supervise(command: list[str], restarts: int, wait: float, in_vain: int | None = None) -> int:
    """Runs ``command`` until it is done, hopeless or stopped from outside; returns its last exit code. GAVE_UP after
    ``in_vain`` attempts in a row that did not last."""
    asked: list[int] = []
    child: list[subprocess.Popen] = []

    def forward(number: int, frame: object) -> None:
        again = number == signal.SIGINT and number in asked
        asked.append(number)
        if child and child[0].poll() is None and (again or len(asked) == 1):
            child[0].send_signal(signal.SIGINT if again else signal.SIGTERM)

    listened = [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in listened}  # under nohup SIGHUP stays ignored
    pause, code, short = wait, DONE, 0
    try:
        for attempt in range(restarts + 1):
            began = time.monotonic()
            # In a session of its own: a terminal's Ctrl-C reaches every process of its group, and would come twice.
            child[:] = [subprocess.Popen(command, start_new_session=True)]
            if asked:  # before the command was known
                child[0].terminate()
            code = child[0].wait()
            lasted = time.monotonic() - began
            if code in (DONE, *HOPELESS) or asked or attempt == restarts:
                break
            pause, short = (wait, 0) if lasted > LONG_RUN else (pause, short + 1)
            if short == in_vain:
                say(f"{short} attempts in a row ended early, the last with {code}")
                return GAVE_UP
            say(f"ended with {code} after {lasted:.0f} s; again in {pause:.0f} s")
            until = time.monotonic() + pause
            while time.monotonic() < until and not asked:
                time.sleep(min(0.1, pause))
            if asked:
                break
            pause = min(2 * pause, LONGEST_WAIT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def say(text: str) -> None:
    """On stderr, if that can be written: a log on a full disk must not end what waits for room on it."""
    with contextlib.suppress(OSError):
        print(f"supervise: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
