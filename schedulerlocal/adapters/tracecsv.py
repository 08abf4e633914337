"""Reading a monitoring trace, a timestamp at a time, in memory that does not grow with it.

Most rows repeat what the timestamp before said but for the value: they are only cut at the
fourth tab and looked up. A row never seen is checked field by field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedReader, BytesIO, FileIO
from math import isfinite
from pathlib import Path

from schedulercommon.errors import TraceError
from schedulercommon.levels import PREMIUM, format_level, parse_decimal, parse_level
from schedulercommon.model import MAX_MEMORY_MIB, MAX_VCPUS
from schedulerlocal.replay import Tick, VmRow

COLUMNS = (
    "tmp",
    "rec",
    "res",
    "val",
    "config",
    "subset",
    "vm_uuid",
    "vm_cmn",
    "sb_oc",
    "sb_unused",
    "sb_dsc",
)
HEADER = "\t".join(COLUMNS).encode() + b"\n"

_BLOCK_BYTES = 1 << 20
_LONGEST_HEADER_BYTES = 1 << 16
_LONGEST_LINE_BYTES = 1 << 26  # sb_dsc of older recordings lists every CPU for every vCPU
_KEPT_ROWS = 4096
_NO_ROW = b"\n"  # no row begins like this
_STRAY_RETURN = re.compile(rb"\r(?!\n|\Z)")


class TraceReader:
    """The timestamps of the trace at *path*.

    ``bytes_read`` tells how far reading is. Raises TraceError, naming the line, for whatever
    breaks the format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[bytes, dict[bytes, VmRow]] = {b"cpu": {}, b"mem": {}}
        """What was read lately, by resource and by what follows the value."""
        self.bytes_read = 0
        self.duplicates = 0
        """vm rows that repeat one of the same timestamp."""
        self._labels: dict[bytes, str] = {}

    def ticks(self) -> Iterator[Tick]:
        try:
            with BufferedReader(self.path.open("rb", buffering=0), _BLOCK_BYTES) as file:
                yield from self._ticks(file)
        except OSError as problem:
            raise TraceError(
                f"cannot read the trace {self.path}: {problem.strerror}; name a monitoring CSV"
            ) from problem

    def _ticks(self, file: BufferedReader[FileIO]) -> Iterator[Tick]:
        self._read_header(file.readline(_LONGEST_HEADER_BYTES))
        number = 1
        tick: Tick | None = None
        now_s = float("-inf")
        written = b""
        # how vm rows of this timestamp begin, and where they go
        of_vm: dict[bytes, tuple[dict[VmRow, bytes], dict[bytes, VmRow]]] = {}
        rows: dict[VmRow, bytes] = {}
        known: dict[bytes, VmRow] = {}
        begin, start = _NO_ROW, 0
        for block in self._blocks(file, number):
            for number, line in enumerate(block, number + 1):  # noqa: B020
                # this loop runs once per row and is kept bare: most begin like the one before
                if line[:start] != begin:
                    if line[:start] not in of_vm:
                        parts = line.split(b"\t", 4)
                        if len(parts) < 5:
                            raise self._broken(number, _too_short(line))
                        if tick is None or parts[0] != written:
                            time_s = self._time_s(parts[0], number)
                            if tick is None or time_s > now_s:
                                if tick is not None:
                                    yield self._finished(tick, number)
                                tick, now_s = Tick(parts[0], number), time_s
                            elif time_s < now_s:
                                raise self._broken(
                                    number,
                                    f"time {_shown(parts[0])} comes after {_shown(tick.time)};"
                                    " sort the trace by tmp",
                                )
                            written = parts[0]
                            start = len(written) + len(b"\tvm\tcpu\t")
                            of_vm = {
                                written + b"\tvm\tcpu\t": (tick.cpu, self._rows[b"cpu"]),
                                written + b"\tvm\tmem\t": (tick.mem, self._rows[b"mem"]),
                            }
                            begin = _NO_ROW
                        if parts[2] not in self._rows:
                            raise self._broken(
                                number, f"res is {_shown(parts[2])}; it must be cpu or mem"
                            )
                        if parts[1] != b"vm":
                            self._other_row(tick, parts, number)
                            continue
                    begin = line[:start]
                    rows, known = of_vm[begin]
                tail = line[start:].partition(b"\t")[2]
                try:
                    rows[known[tail]] = line
                except KeyError:
                    row = known[tail] = self._vm_row(line, number)
                    rows[row] = line
        if tick is None:
            raise TraceError(
                f"{self.path}: the trace has a header and no rows; record at least one timestamp"
            )
        yield self._finished(tick, number + 1)

    def _blocks(self, file: BufferedReader[FileIO], number: int) -> Iterator[list[bytes]]:
        """The lines after line *number*, many at a time, each with its end."""
        # not read(), which on a slow pipe would not hear an interrupt until the block is full
        while block := file.read1(_BLOCK_BYTES):
            rest = b"" if block.endswith(b"\n") else file.readline(_LONGEST_LINE_BYTES)
            block += rest
            self._check_text(block, number + 1)
            lines = BytesIO(block).readlines()
            number += len(lines)
            if not lines[-1].endswith(b"\n"):
                if len(rest) == _LONGEST_LINE_BYTES:
                    raise self._broken(
                        number, f"it is longer than {len(rest) >> 20} MiB; end rows with a new line"
                    )
                lines[-1] += b"\n"
            yield lines
            self.bytes_read += len(block)

    def _check_text(self, block: bytes, number: int) -> None:
        """What is echoed must not spoil the output; *block* begins with line *number*."""
        if not block.isascii():
            try:
                block.decode()
            except UnicodeDecodeError as problem:
                number += block.count(b"\n", 0, problem.start)
                raise self._broken(
                    number, "it is not UTF-8 text; save the trace as UTF-8"
                ) from problem
        if b"\r" in block and (stray := _STRAY_RETURN.search(block)):
            number += block.count(b"\n", 0, stray.start())
            raise self._broken(number, "a carriage return is inside it; end rows with a new line")

    def _read_header(self, line: bytes) -> None:
        if not line:
            raise TraceError(f"{self.path}: the trace is empty; name a monitoring CSV")
        names = line.decode(errors="replace").strip("\r\n").lstrip("\ufeff").split("\t")
        if tuple(names) != COLUMNS:
            missing = [name for name in COLUMNS if name not in names]
            what = (
                f"lacks {', '.join(missing)}" if missing else "has other columns or another order"
            )
            raise self._broken(
                1, f"the header {what}; it must be, tab separated: {' '.join(COLUMNS)}"
            )

    def _finished(self, tick: Tick, end: int) -> Tick:
        """*tick*, its last row read; tails that are long gone are forgotten."""
        alive = len(tick.cpu) + len(tick.mem)
        self.duplicates += end - tick.line - tick.others - alive
        if sum(map(len, self._rows.values())) > 2 * alive + _KEPT_ROWS:
            for resource, rows in ((b"cpu", tick.cpu), (b"mem", tick.mem)):
                self._rows[resource].clear()
                self._rows[resource].update({row.tail[1:]: row for row in rows})
        return tick

    def _vm_row(self, line: bytes, number: int) -> VmRow:
        parts = line.split(b"\t", 4)
        if len(parts) < 5:
            raise self._broken(number, _too_short(line))
        resource = parts[2]
        fields = self._fields(parts, number)
        size, _, uuid, name, level_text = fields[:5]
        if uuid in ("", "None"):
            raise self._broken(number, "vm_uuid is None in a vm row; give the VM's identity")
        most = MAX_VCPUS if resource == b"cpu" else MAX_MEMORY_MIB
        try:
            amount = parse_decimal(size)
            if amount.denominator != 1 or not 1 <= amount <= most:
                raise ValueError
        except ValueError:
            unit = "vCPUs" if resource == b"cpu" else "MiB"
            raise self._broken(
                number,
                f"config is {size[:40]!r}; a vm {resource.decode()} row gives whole {unit} there",
            ) from None
        level = PREMIUM
        if resource == b"cpu":
            try:
                level = parse_level(level_text)
            except ValueError as problem:
                raise self._broken(number, f"sb_oc: {problem}") from None
        shown = uuid if name in ("", "None") else name
        return VmRow(b"\t" + parts[4], uuid, shown, int(amount), level, number)

    def _other_row(self, tick: Tick, parts: list[bytes], number: int) -> None:
        tick.others += 1
        kind, resource, value = parts[1], parts[2], parts[3]
        if parts[4].count(b"\t") != 6:
            self._fields(parts, number)
        if kind == b"global":
            tick.usage[resource, "global"] = value
            return
        if kind != b"subset":
            raise self._broken(number, f"rec is {_shown(kind)}; it must be global, subset or vm")
        written = parts[4].split(b"\t", 2)[1]
        label = self._labels.get(written)
        if label is None:
            label = self._labels[written] = self._subset_label(written, number)
        tick.usage[resource, label] = value

    def _subset_label(self, written: bytes, number: int) -> str:
        """``subset-2.0`` for ``subset-2``, however the level was written."""
        text = written.decode(errors="replace")
        if len(self._labels) > 4096:
            raise self._broken(number, "the trace names more than 4096 subsets; check its columns")
        try:
            return f"subset-{format_level(parse_level(text.removeprefix('subset-')))}"
        except ValueError as problem:
            raise self._broken(number, f"subset is {text[:40]!r}: {problem}") from None

    def _fields(self, parts: list[bytes], number: int) -> list[str]:
        """The columns from config on; raises TraceError unless all are there."""
        fields = parts[4].decode().rstrip("\r\n").split("\t")
        if len(fields) != len(COLUMNS) - 4:
            raise self._broken(
                number,
                f"it has {len(fields) + 4} columns and needs {len(COLUMNS)};"
                " write None where there is nothing to say",
            )
        return fields

    def _time_s(self, text: bytes, number: int) -> float:
        try:
            if not text or text != text.strip() or b"_" in text:
                raise ValueError
            time_s = float(text)
        except ValueError:
            time_s = float("nan")
        if not isfinite(time_s):
            raise self._broken(number, f"tmp is {_shown(text)}; it must be a number of seconds")
        return time_s

    def _broken(self, number: int, what: str) -> TraceError:
        return TraceError(f"{self.path}, line {number}: {what}")


def _shown(text: bytes) -> str:
    return repr(text[:40].decode(errors="replace"))


def _too_short(line: bytes) -> str:
    if not line.strip():
        return "it is blank; remove it"
    have = line.count(b"\t") + 1
    return f"it has {have} columns and needs {len(COLUMNS)}; the line is cut short, complete it"
