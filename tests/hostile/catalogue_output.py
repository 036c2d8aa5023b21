"""Class 6, where the bundle is to be written, and class 7, what may happen to the process meanwhile."""

from __future__ import annotations

import os

from tests.hostile.case import CATALOGUE, FULL, OK, USAGE, Sandbox

OUTPUT = "6. Output"
PROCESS = "7. Process"
add, refer = CATALOGUE.add, CATALOGUE.refer
CRASHES = "tests/unit/bundle/test_crash_safety.py"
WRITER = "tests/unit/bundle/test_writer.py"
RIVALS = "tests/unit/bundle/test_concurrency.py"
KILLS = "tests/hostile/test_kill.py"
FAULTS = "tests/hostile/test_faults.py"


def _taken(what: str, *says: str) -> None:
    @add(OUTPUT, f"the target is {what}", "out", *says, code=USAGE)
    def _(box: Sandbox) -> list[str]:
        box.checkpoint()
        out = box.root / "out"
        if what == "a folder with something else in it":
            out.mkdir()
            (out / "thesis.txt").write_text("x")
        elif what == "a file":
            out.write_text("x")
        elif what == "a link to a folder":
            (box.root / "there").mkdir()
            out.symlink_to("there")
        elif what == "a link to nothing":
            out.symlink_to("nowhere")
        else:
            os.mkfifo(out)
        return [*box.export(), "--force"]


_taken("a folder with something else in it", "never replaced")
_taken("a file", "is no folder")
_taken("a link to a folder", "symbolic link")
_taken("a link to nothing", "symbolic link")
_taken("a FIFO", "is no folder")


@add(OUTPUT, "the target is a bundle, without --force", "out", "--force", code=USAGE)
def _exists(box: Sandbox) -> list[str]:
    box.checkpoint()
    box.bundle("out")
    return box.export()


@add(OUTPUT, "the target is a bundle, with --force", code=OK)
def _force(box: Sandbox) -> list[str]:
    box.checkpoint()
    box.bundle("out")
    return [*box.export(), "--force"]


@add(OUTPUT, "the target is a damaged bundle, with --force", code=OK)
def _force_damaged(box: Sandbox) -> list[str]:
    box.checkpoint()
    (box.bundle("out") / "weights.bin").write_bytes(b"")
    return [*box.export(), "--force"]


def _path(what: str, out: str, *says: str, code: int = USAGE) -> None:
    @add(OUTPUT, what, *says, code=code)
    def _(box: Sandbox) -> list[str]:
        box.checkpoint()
        return [*box.export(out=out), "--force"]


_path("the target is a device", "/dev/null", "/dev/null")
_path("the target is in /proc", "/proc/bundle", "/proc/bundle")
_path("the target is the checkpoint", "model", "model", "never replaced")
_path("the target holds the checkpoint", ".", "never replaced")
_path("the target is below a file", "model/config.json/b", "config.json")
_path("the target lies in the checkpoint", "model/out", code=OK)
_path("a name with blanks, quotes and accents", "out/a b 'ü' \"🙂", code=OK)
_path("a name with a line break", "out/a\nb", code=OK)
_path("a name that starts with a dash", "out/-rf", code=OK)
_path("parents that do not exist", "out/a/b/c", code=OK)
_path("a path with ..", "model/../out", code=OK)
_path("a name of 255 bytes", "out/" + "x" * 255, "name too long")
_path("a path of 5,000 bytes", "out/" + "/".join(["x" * 99] * 50), "name too long")
_path("an empty name", "", "never replaced")


@add(OUTPUT, "umask 077", code=OK)
def _umask(box: Sandbox) -> None:
    box.checkpoint()
    box.settings["umask"] = 0o077


@add(OUTPUT, "20 open files at most", code=OK)
def _open_files(box: Sandbox) -> None:
    box.checkpoint()
    box.settings["open_files"] = 20


def _limit(size: int, what: str) -> None:
    @add(OUTPUT, f"no file may grow beyond {size} bytes ({what})", "out", code=FULL)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        box.settings["file_size"] = size


_limit(0, "nothing can be written")
_limit(1000, "in the first graph or the weights")
_limit(5000, "in a weight, past its first page")
_limit(12_000, "in the manifest or a graph")
_limit(100_000, "late in the weights")


@add(OUTPUT, "no file may grow beyond 1000 bytes, and there is a bundle to replace", "out", code=FULL)
def _limit_force(box: Sandbox) -> list[str]:
    box.checkpoint()
    box.bundle("out")
    box.settings["file_size"] = 1000
    return [*box.export(recipe="onnx-int4"), "--force"]


@add(OUTPUT, "--store is a file", "store", "cannot be written", code=USAGE)
def _store(box: Sandbox) -> list[str]:
    box.checkpoint()
    (box.root / "store").write_text("x")
    return [*box.export(recipe="onnx-int4"), "--store", "store"]


refer(
    OUTPUT,
    "no space, an I/O error, a file too large, a read-only disk: at every write, sync, rename and folder "
    "of a whole export in turn",
    "refused (6 or 2), nothing left; with --force the old bundle",
    f"{FAULTS}::test_a_fault_at_any_operation_of_an_export",
)
refer(OUTPUT, "a disk of 1 MiB", "refused (6), nothing left", f"{FAULTS}::test_a_disk_that_is_full")
refer(
    OUTPUT,
    "the same of publishing alone, also where two names cannot be exchanged in one step",
    "old bundle, new bundle, or none",
    f"{CRASHES}::test_a_failure_at_any_step_leaves_the_old_the_new_or_nothing",
)
refer(
    OUTPUT,
    "too little space for the estimate",
    "refused (6) before anything is written",
    f"{WRITER}::test_too_little_space_is_refused_early_with_both_figures",
)
refer(
    OUTPUT,
    "another file system for temporary files",
    "nothing temporary leaves the target's folder",
    f"{FAULTS}::test_everything_is_written_beside_the_target",
)
refer(
    OUTPUT,
    "a disk that gives back other bytes than were written",
    "refused, nothing published",
    f"{WRITER}::test_a_disk_that_gives_back_other_bytes_is_noticed",
)
refer(
    OUTPUT,
    "the target appears during the export",
    "refused (2), it stays",
    f"{WRITER}::test_a_target_that_appears_meanwhile_is_left_alone",
)
refer(
    OUTPUT,
    "two exporters to one target",
    "the second is refused (2)",
    f"{RIVALS}::test_a_second_exporter_to_one_target_is_refused_and_disturbs_nothing",
)
refer(
    OUTPUT,
    "eight exporters to one target",
    "one succeeds",
    f"{RIVALS}::test_of_many_exporters_at_once_one_succeeds",
)
refer(
    OUTPUT,
    "a reader while a bundle is replaced",
    "reads the old one or the new one, whole",
    f"{RIVALS}::test_readers_see_a_whole_bundle_at_any_time",
)
refer(
    PROCESS,
    "SIGKILL at points spread over a whole export, also over an old bundle",
    "old bundle, new bundle, or none; the next export succeeds, with the same bytes",
    f"{KILLS}::test_kill_at_any_operation",
)
refer(PROCESS, "SIGKILL after random times", "the same", f"{KILLS}::test_kill_at_any_time")
refer(
    PROCESS,
    "SIGKILL at every operation of publishing",
    "the same",
    f"{CRASHES}::test_after_a_kill_at_any_step_the_next_export_finds_its_way",
)
refer(
    PROCESS,
    "SIGINT and SIGTERM",
    "ended (130 and 143), nothing half-written",
    f"{KILLS}::test_signals_that_ask",
)
refer(
    PROCESS,
    "power is lost",
    "files are on the disk before the rename, the rename before success is told",
    f"{WRITER}::test_everything_is_on_the_disk_before_the_rename_and_the_rename_after_it",
)
refer(
    PROCESS,
    "resumed with another checkpoint or recipe",
    "shards of the old one are not taken",
    f"{KILLS}::test_resuming_with_another_input",
)
refer(
    PROCESS,
    "a damaged shard of the quantized store",
    "computed again",
    "tests/unit/quant/test_store_faults.py::test_a_damaged_shard_is_computed_again",
)
refer(
    PROCESS,
    "a bundle is replaced while it is read",
    "it is read again",
    f"{RIVALS}::test_a_bundle_that_is_replaced_while_it_is_read_is_read_again",
)
