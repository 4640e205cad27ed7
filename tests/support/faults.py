"""What goes wrong once in a hundred runs, tried with real processes: a table of what was lost and what came back.

``make faults TRIES=5``, or ``python -m tests.support.faults --tries 2 "MLflow killed"`` for the faults of that name.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from helpers.stack import servers

from .place import taken
from .proxy import Proxy
from .room import Room, Seen

# --- the faults ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Fault:
    """One kind of fault: what to call it, how to make it, and why it cannot be made here, if so."""

    title: str
    make: Callable[[Room, int], Seen]
    missing: Callable[[], str | None] = lambda: None
    rerun: bool = True  # whether the plain rerun is still to come; else what is seen is the rerun's


FAULTS: list[Fault] = []


def fault(title: str, **more) -> Callable:
    """Add a function to the list; it gets a room and the number of the try, and returns what was seen."""

    def add(function: Callable[[Room, int], Seen]) -> Callable[[Room, int], Seen]:
        FAULTS.append(Fault(title, function, **more))
        return function

    return add


def _at_put(room: Room, number: int, action: Callable[[], None]) -> Proxy:
    """Do something when the client has begun to send its n-th object to the store: in the middle of an upload."""
    return Proxy(room.port("s3"), marker=b"PUT ", number=number, action=action)


@fault("MLflow killed before an upload", rerun=False)
def mlflow_killed_before(room: Room, number: int) -> Seen:
    room.kill("mlflow")
    return room.work()


@fault("MLflow killed during an upload")
def mlflow_killed_during(room: Room, number: int) -> Seen:
    with _at_put(room, 1 + number % 4, lambda: room.kill("mlflow")) as proxy:
        return room.work(s3=proxy.url)


@fault("MLflow killed after an upload")
def mlflow_killed_after(room: Room, number: int) -> Seen:
    seen = room.work()
    room.kill("mlflow")
    return seen


@fault("store killed during an upload")
def store_killed_during(room: Room, number: int) -> Seen:
    with _at_put(room, 2 + number % 4, lambda: room.kill("s3")) as proxy:
        return room.work(s3=proxy.url)


def _root() -> str | None:
    return None if os.geteuid() == 0 else "only root may mount a disk or make a namespace"


def _namespace(kind: str) -> str | None:
    if os.geteuid() or not shutil.which("unshare"):
        return _root() or "this machine has no unshare"
    allowed = subprocess.run(["unshare", kind, "true"], capture_output=True).returncode == 0
    return None if allowed else "this machine lets nobody make a namespace"


@fault("store out of space", missing=lambda: _namespace("-m"))
def store_out_of_space(room: Room, number: int) -> Seen:
    filler = room.place.work / "s3" / "filler"
    with open(filler, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(1 << 20)):
            pass
    try:
        return room.work()
    finally:
        filler.unlink()


@fault("network delays and drops")
def network_drops(room: Room, number: int) -> Seen:
    with (
        Proxy(room.port("mlflow"), drop=0.1, delay=0.2, seed=2 * number) as mlflow,
        Proxy(room.port("s3"), drop=0.1, delay=0.2, seed=2 * number + 1) as s3,
    ):
        seen = room.work(mlflow=mlflow.url, s3=s3.url)
    assert mlflow.dropped + s3.dropped, "nothing was dropped"
    return seen


@fault("kernel interrupted during a pipeline run")
def kernel_interrupted(room: Room, number: int) -> Seen:
    with _at_put(room, 1 + number % 5, room.kernel().interrupt_kernel) as proxy:
        seen = room.work(s3=proxy.url)
    assert seen.run_id is None, "the interrupt did not come through"
    return seen


@fault("kernel and task killed during an upload")
def kernel_killed(room: Room, number: int) -> Seen:
    room.kernel()
    room.cell("servers = stack.connect(); mlflow.set_experiment('faults'); mlflow.start_run(run_name='by hand')")
    kernel = psutil.Process(room.kernel().provisioner.pid)

    def kill() -> None:
        for process in [*kernel.children(recursive=True), kernel]:
            with contextlib.suppress(psutil.Error):
                if "_SERIES_SERVER" not in process.environ():  # which it may have started
                    process.kill()

    with _at_put(room, 1 + number % 5, kill) as proxy:
        room.work_until_death(s3=proxy.url)
    assert len(room.running()) == 2, "both runs were to be cut off"
    return Seen(None, "the kernel has died (JupyterLab starts another one)")


@fault("two pipelines at once", rerun=False)
def two_at_once(room: Room, number: int) -> Seen:
    room.kernel()
    second = room.begin("linear")
    seen, other = room.work(), room.finish(second)
    assert seen.run_id and other.run_id and seen.run_id != other.run_id, (seen, other)
    room.check_run(seen.run_id, "rbf")
    room.check_run(other.run_id, "linear")
    return seen


@fault("two stacks on one machine")
def two_stacks(room: Room, number: int) -> Seen:
    before = {process.pid for process in room.place.processes()}
    with tempfile.TemporaryDirectory() as folder:
        other = Room(Path(folder), room.cache)
        try:
            seen = other.finish(other.begin("linear"))
            assert seen.run_id, seen
            other.check_run(seen.run_id, "linear")
            for key in ("access_key", "secret_key"):
                assert other.place.stored()[key] != room.place.stored()[key]
            assert {run.info.run_id for run in other.runs()} == {seen.run_id}
            assert seen.run_id not in {run.info.run_id for run in room.runs()}
        finally:
            other.close()
    after = {process.pid for process in room.place.processes()}
    assert before and before == after, "the other stack's end was this one's too"
    return Seen(None, seen.sentence)


@fault("machine restarted", rerun=False)
def restarted(room: Room, number: int) -> Seen:
    room.kernel()
    room.cell("servers = stack.connect(); mlflow.set_experiment('faults'); mlflow.start_run(run_name='by hand')")
    assert room.running()
    room.end_kernel()
    for name in ("mlflow", "s3"):
        room.kill(name)
    return room.work()


@fault("database truncated", rerun=False)
def database_truncated(room: Room, number: int) -> Seen:
    room.stop()
    database = room.place.work / "mlflow" / "mlflow.db"
    os.truncate(database, (database.stat().st_size // 2 - 1000 * number, 0)[number % 2])
    return room.work()


@fault("state file half written", rerun=False)
def state_half_written(room: Room, number: int) -> Seen:
    file = room.place.work / "stack.json"
    file.write_text(file.read_text()[: 100 + 50 * (number % 4)])
    return room.work()


@fault("path with a space and letters of Korea", rerun=False)
def unusual_path(room: Room, number: int) -> Seen:
    assert re.search(r" .*", room.place.folder.name) and not room.place.folder.name.isascii()
    return room.work()


@fault("no network after set-up", missing=lambda: _namespace("-n"))
def no_network(room: Room, number: int) -> Seen:
    room.end_kernel()
    room.stop()
    check = textwrap.dedent("""
        import socket
        try:
            socket.create_connection(("192.0.2.1", 80), timeout=5)
        except OSError as error:
            assert "unreachable" in str(error), error
        """)
    alone = ("unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"')
    seen = room.finish(room.begin("rbf", prefix=alone, check=check))
    room.stop()
    return seen


# --- the table -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Outcome:
    """What a try came to."""

    seen: str  # by the learner
    recovered: bool
    lost: list[str]
    left: list[str]  # ids of runs that are RUNNING
    problem: str = ""  # why it did not recover

    @property
    def well(self) -> bool:
        """Whether there is nothing to complain about."""
        return self.recovered and not self.lost and not self.left


def try_once(fault: Fault, room: Room, number: int = 0) -> Outcome:
    """Make a fault, run the work again, and compare what is stored with what was."""
    before = room.stored() if room.place.processes() else {}
    seen = Seen(None, "")
    try:
        seen = fault.make(room, number)
        again = room.work() if fault.rerun else seen
        problem = "" if again.run_id else f"the rerun failed: {again.sentence}"
        for run_id in {seen.run_id, again.run_id} - {None}:
            room.check_run(run_id, "rbf")
    except Exception as error:  # noqa: BLE001 - it is what the table is about
        problem = f"{type(error).__name__}: {error}"
    try:
        after = room.stored()
        lost = [name for name, value in before.items() if after.get(name) != value]
        return Outcome(seen.sentence, not problem, lost, room.running(), problem)
    except Exception as error:  # noqa: BLE001
        return Outcome(seen.sentence, False, list(before), [], problem or f"nothing can be read: {error}")


@contextlib.contextmanager
def rooms() -> Iterator[Room]:
    """Make a room with something stored in it."""
    with contextlib.ExitStack() as ends:
        base = Path(ends.enter_context(tempfile.TemporaryDirectory()))
        room = Room(base / "first", base / "cache")
        if _namespace("-m") is None:  # a small disk for the store, which can be filled
            disk = room.place.work / "s3"
            disk.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", disk], check=True)
            ends.callback(subprocess.run, ["umount", "-l", disk], check=True)
        ends.callback(room.close)
        with taken(*servers.USUAL_PORTS.values()):  # or a stack beside this one gets them while its servers are dead
            first = room.work()
        assert first.run_id, first
        room.bucket().put_object(Key="large", Body=os.urandom(9 << 20))

        yield room


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 if something was lost, left RUNNING or did not come back."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.faults", description=__doc__.splitlines()[0])
    parser.add_argument("titles", nargs="*", metavar="FAULT", help="words of its title; none: all")
    parser.add_argument("--tries", type=int, default=5)
    asked = parser.parse_args(arguments)
    chosen = [fault for fault in FAULTS if not asked.titles or any(words in fault.title for words in asked.titles)]
    width = max(len(fault.title) for fault in chosen)
    print(f"{'fault':<{width}}  tried  recovered  lost  left RUNNING", flush=True)
    well = True
    with rooms() as room:
        for fault in chosen:
            if reason := fault.missing():
                print(f"{fault.title:<{width}}  not tried: {reason}", flush=True)
                continue
            outcomes = []
            for number in range(asked.tries):
                outcomes.append(try_once(fault, room, number))
            counts = [
                len(outcomes),
                sum(outcome.recovered for outcome in outcomes),
                sum(len(outcome.lost) for outcome in outcomes),
                sum(len(outcome.left) for outcome in outcomes),
            ]
            print(f"{fault.title:<{width}}  {counts[0]:5}  {counts[1]:9}  {counts[2]:4}  {counts[3]:12}")
            for said in dict.fromkeys(f"the learner sees: {outcome.seen}" for outcome in outcomes if outcome.seen):
                print(textwrap.indent(said, "    "))
            for outcome in outcomes:
                if not outcome.well:
                    print(textwrap.indent(f"NOT WELL: {outcome.problem} {outcome.lost} {outcome.left}", "    "))
            sys.stdout.flush()
            well &= all(outcome.well for outcome in outcomes)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
