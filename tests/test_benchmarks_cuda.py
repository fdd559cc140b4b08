"""Benchmarks of the GPU where there is none: all but the clock, and what the compiler makes of the kernels."""

import csv
import os
import subprocess
import sys
from argparse import Namespace
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import delineate
from delineate.losses import parse
from delineate.training.cost import peak_allocated

BENCHMARKS = Path(delineate.__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # last: their names are not to hide anybody's
on_cuda, gpu, side_by_side, kernels = map(import_module, ("on_cuda", "gpu", "side_by_side", "kernels"))
Row = on_cuda.Row


class Bench:
    """Stands in for `gpu.Gpu` on the CPU; `captured` fails for every second call."""

    device, name = "cpu", "no GPU"

    def __init__(self):
        self.captures = 0

    def captured(self, call):
        self.captures += 1
        if self.captures % 2 == 0:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        return call

    def peak(self, call):
        return peak_allocated(call)

    def bandwidth(self, rounds):
        return 1e10

    def release(self):
        pass

    eager = replayed = staticmethod(side_by_side.wall)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Options of a run of seconds, whose rows go to a file of its own; nothing is compiled."""
    monkeypatch.setattr(on_cuda, "TABLE", tmp_path / "cuda.csv")
    monkeypatch.setattr(torch, "compile", lambda loss: loss)
    for name, shape in (("instance", "1x3x16x16x16"), ("distance", "1x3x12x12x12")):
        monkeypatch.setitem(on_cuda.SECTIONS, name, on_cuda.SECTIONS[name]._replace(shapes=(shape,)))
    return Namespace(
        shapes=["2x3x16x12"], dtypes=["fp32", "bf16"], sections=list(on_cuda.SECTIONS), rounds=1, seconds=60,
        labels="patches",
    )  # fmt: skip


def test_a_run_checks_measures_and_saves_every_row(tiny, capsys):
    assert on_cuda.report(Bench(), tiny) == 0
    with on_cuda.TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    tables = {(row["section"], row["dtype"]) for row in rows}
    assert tables == {(section, dtype) for section in on_cuda.SECTIONS for dtype in on_cuda.DTYPES}
    overlap = [row for row in rows if (row["section"], row["dtype"]) == ("overlap", "fp32")]
    assert len(overlap) == 10
    assert {row["library"].removesuffix(", compiled") for row in overlap} == {
        "delineate Dice + CE", "delineate Dice + CE + Focal + Tversky + TopK", "torch CE alone", "MONAI DiceCELoss",
        "smp DiceLoss + CE",
    }  # fmt: skip
    assert {float(row["floor_ms"]) for row in overlap} == {round(1e3 * 3 * (2 * 3 * 16 * 12 * 4) / 1e10, 4)}
    assert all(float(row["eager_ms"]) > 0 and row["memory"] != "-" for row in rows)
    assert [row["device_ms"] == "-" for row in overlap] == [False, True] * 5
    assert {row["note"] for row in overlap} == {"", "no graph: RuntimeError: operation not permitted"}
    assert {row["labels"] for row in rows} == {"patches", "balls"}
    printed = capsys.readouterr().out
    for target in ("over the floor", "best compiled peer", "memory of Dice + CE", "Blob(Dice) over Dice", "over ours"):
        assert target in printed


def test_a_peer_without_memory_keeps_its_row(tiny):
    def hungry(logits, target):
        raise torch.OutOfMemoryError("tried to allocate much")

    table = next(on_cuda.tables("cpu", tiny))
    table.contenders["MONAI DiceCELoss"] = on_cuda.Contender(hungry)
    rows = {row.library: row for row in on_cuda.measure(table, Bench(), rounds=1, seconds=60)}
    assert rows["MONAI DiceCELoss"] == Row("MONAI DiceCELoss", note="out of memory")
    assert rows["smp DiceLoss + CE"].eager > 0
    found = list(on_cuda.of_overlap(rows, floor=1e-3))
    assert "eager: MONAI, not compiled, over Dice + CE: not measured" in found


def first_voxel(z):
    """0, whose gradient is 1 at one voxel."""
    return z.flatten()[0].float() - z.detach().flatten()[0].float()


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("delineate Dice + CE", lambda z: 0.01, "value on a crop of 2x3x16x12 fp32 differs from the CPU's by up to "),
        ("delineate Dice + CE", first_voxel, "gradient on a crop of 2x3x16x12 fp32 differs from the CPU's by up to "),
        ("delineate Dice + CE", lambda z: z.sum() * torch.nan, "value on a crop"),
        ("delineate TopK", first_voxel, None),
    ],
)
def test_a_run_stops_where_a_loss_is_wrong(tiny, monkeypatch, capsys, name, error, told):
    right, calls = parse("Dice + CE"), []

    def wrong(logits, target):  # each second call, that on the device
        calls.append(logits)
        return right(logits, target) + (error(logits) if len(calls) % 2 == 0 else 0)

    section = on_cuda.SECTIONS["overlap"]._replace(contenders=lambda classes: {name: on_cuda.Contender(wrong)})
    monkeypatch.setitem(on_cuda.SECTIONS, "overlap", section._replace(verdicts=lambda rows, floor: iter(())))
    tiny.sections = ["overlap"]
    assert on_cuda.report(Bench(), tiny) == (0 if told is None else 1)
    assert on_cuda.TABLE.exists() == (told is None)
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"on_cuda.py: {name}: {told}") for line in lines] == ([] if told is None else [True])


def test_floor_and_targets():
    assert on_cuda.floor_ms(8 * 21 * 512 * 512 * 4, 4e12) == pytest.approx(0.1321, rel=1e-3)
    times = {
        on_cuda.OURS: (0.15, 0.12, 1.05),
        on_cuda.MONAI: (1.3, 1.2, 5.0),
        "MONAI DiceCELoss, compiled": (0.8, None, 4.0),
        "smp DiceLoss + CE, compiled": (0.5, 0.6, 2.0),
    }
    rows = {name: Row(name, *figures) for name, figures in times.items()}
    assert list(on_cuda.of_overlap(rows, floor=0.1)) == [
        "eager: Dice + CE over the floor: 1.50, at most 1.5: met",
        "eager: the best compiled peer over Dice + CE: 3.33, at least 4: NOT MET",
        "eager: MONAI, not compiled, over Dice + CE: 8.67, at least 8: met",
        "device: Dice + CE over the floor: 1.20, at most 1.5: met",
        "device: the best compiled peer over Dice + CE: 5.00, at least 4: met",
        "device: MONAI, not compiled, over Dice + CE: 10.00, at least 8: met",
        "memory of Dice + CE, x logits: 1.05, at most 1.1: met",
    ]
    instance = {name: Row(name, time) for name, time in (("Dice", 1.0), ("Blob", 1.2), ("Component", 1.4))}
    assert list(on_cuda.of_instance(instance, 0.1))[:2] == [
        "eager: Blob over Dice: 1.20, at most 1.3: met",
        "eager: Component over Dice: 1.40, at most 1.3: NOT MET",
    ]
    distance = {"ours": Row("ours", 2.0), "MONAI": Row("MONAI", 39.0)}
    assert list(on_cuda.of_distance(distance, 0.1)) == ["eager: MONAI over ours: 19.50, at least 20: NOT MET"]


@pytest.mark.parametrize("kind", ["patches", "noise"])
def test_labels_are_all_there_and_coherent_or_not(kind):
    logits, labels = on_cuda.inputs((2, 5, 96, 96), torch.float32, kind, "cpu")
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(5))
    same = (labels[:, 1:] == labels[:, :-1]).double().mean()
    assert same > 0.9 if kind == "patches" else same < 0.3
    assert (logits.argmax(1) == labels).double().mean() > 0.5
    logits, labels = on_cuda.inputs((1, 4, 16, 16, 16), torch.bfloat16, "balls", "cpu")
    assert (logits.dtype, labels.unique().tolist()) == (torch.bfloat16, [0, 1, 2, 3])


class Ticks:
    """Stands in for an event of the GPU: three milliseconds from one to the next."""

    now = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Ticks.now += 3
        self.at = Ticks.now

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return float(end.at - self.at)


@pytest.fixture
def on_cpu(monkeypatch):
    """A `Gpu` whose calls into CUDA do nothing."""
    places = []

    @contextmanager
    def stream(where):
        places.append(where)
        yield
        places.pop()

    @contextmanager
    def graph(graph, stream):
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError("capture failed because of an error before") from error

    for name, stand_in in {
        "get_device_name": lambda: "none",
        "mem_get_info": lambda: (4000, 8000),
        "Event": Ticks,
        "Stream": Mock,
        "current_stream": Mock,
        "CUDAGraph": lambda: Namespace(replay=lambda: "replayed"),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "stream": stream,
        "graph": graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(gpu, "FLUSHED", 64)
    monkeypatch.setattr(gpu.Gpu, "device", "cpu")
    return gpu.Gpu()


def test_times_of_the_gpu_are_seconds_and_failed_captures_say_why(on_cpu):
    calls = []
    assert on_cpu.eager(lambda: calls.append("eager")) == on_cpu.replayed(lambda: calls.append("replay")) == 3e-3
    assert on_cpu.captured(lambda: calls.append("capture"))() == "replayed"
    assert calls == ["eager", "replay", *["capture"] * 3]
    assert on_cpu.bandwidth(rounds=2) == 2 * 1000 / 3e-3

    def waits():
        calls.append("waits")
        if calls.count("waits") == 3:  # after two to warm up
            raise RuntimeError("not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="not permitted"):
        on_cpu.captured(waits)


def run(script, *arguments, **environment):
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | environment)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing():
    before = sorted(side_by_side.RESULTS.iterdir())
    found = run("on_cuda.py", "--shapes", "1x2x8x8")
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("on_cuda.py: PyTorch finds no GPU here")
    assert sorted(side_by_side.RESULTS.iterdir()) == before


LISTING = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E R2, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   MUFU.EX2 R3, R2 ;
        /*0030*/              @!P0 FADD.FTZ R1, R2, R3 ;
        /*0040*/                   ISETP.NE.AND P1, PT, R1, R2, PT ;
        /*0050*/               @P1 BRA `(.L_x_1) ;
        /*0060*/              @!P2 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   MOV R1, R2 ;
        /*0090*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
        /*00b0*/                   NOP;
"""


def test_the_main_loop_is_the_longest_without_an_exit():
    loop, number = kernels.main_loop(LISTING)
    assert [kernels.opcode(step) for step in loop] == ["LDG", "MUFU", "FADD", "ISETP", "BRA", "BRA"]
    assert number == 12
    assert kernels.main_loop("\n".join(LISTING.splitlines()[-4:]))[0] == []


def test_figures_of_a_kernel():
    call = kernels.Call("op", "Dice", (kernels.empty(1, 5, 6400), kernels.empty(1, 6400, dtype=torch.int64)))
    code = kernels.Code(warps=2, registers=128, stack=0, shared=1024, instructions=500, loop=400, special=40)
    row = kernels.Row(call, 5, "fp32", "_sums", code, rounds=100, size=call.size())
    assert call.size() == 6400 * (5 * 4 + 8)
    assert row.per_logit(code.loop) == 400 * 100 * 2 * 32 / 32000
    device = kernels.Device("", multiprocessors=10, clock=1e9, bandwidth=1e12, shared=16 * 1024)
    issue, special = row.limits(device)
    assert issue == pytest.approx((400 * 200 / (4 * 10 * 1e9)) / (179200 / 1e12))
    assert special == pytest.approx((40 * 200 * 32 / (16 * 10 * 1e9)) / (179200 / 1e12))
    assert code.resident(device) == 16  # by registers; by shared memory too: 8 programs of 2 warps


def form_of(argument):
    return (argument.dtype, argument.ndim) if isinstance(argument, torch.Tensor) else argument


class Asked(TorchDispatchMode):
    """Notes what ops of the package are called with, but for tensors."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "delineate":
            self.calls[func._schema.name.split("::")[1]] = [form_of(value) for value in args]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("text", "variant"), [("Dice + CE", kernels.MAIN), ("Dice(mode='sigmoid')", "sigmoid")])
def test_calls_are_those_that_losses_make(text, variant):
    logits, labels = torch.randn(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 4, 4, dtype=torch.int64)
    with Asked() as asked:
        parse(text)(logits, labels).backward()
    known = {call.op: call.arguments for call in kernels.of_logits(3, torch.float32) if call.variant == variant}
    assert len(asked.calls) == 2
    for op, arguments in asked.calls.items():
        assert [form_of(value) for value in known[op]] == arguments


@pytest.mark.parametrize(
    ("stack", "told"),
    [(0, None), (kernels.MOST_SPILLED + 1, "capability 90: overlap_labels of Dice + CE fp32 5: _sums")],
)
def test_a_check_finds_spills_and_what_does_not_compile(monkeypatch, capsys, stack, told):
    def rows_of(call, run, capability, classes, dtype):
        if call.op == "overlap_labels_backward":
            raise RuntimeError("no such instruction\nand more")
        return [kernels.Row(call, classes, dtype, "_sums", kernels.Code(1, 32, stack, 0, 100, 0, 0), 0, call.size())]

    monkeypatch.setattr(kernels, "rows_of", rows_of)
    monkeypatch.setattr(kernels, "KERNELS", [*kernels.KERNELS, (Namespace(_name="new_op"), None)])
    options = Namespace(
        capabilities=[90], classes=[5], dtypes=["fp32"], variants=["Dice + CE"], ops=["overlap_labels",
        "overlap_labels_backward"],
    )  # fmt: skip
    wrong = kernels.report(options)
    failed = "capability 90: overlap_labels_backward of Dice + CE fp32 5: RuntimeError: no such instruction"
    missing = "new_op: no call of it is known here, so that it is not compiled"
    spilled = [] if told is None else [f"{told} spills {stack} bytes, more than {kernels.MOST_SPILLED}"]
    assert wrong == [*spilled, failed, missing]
    assert " 32 " in capsys.readouterr().out


def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path):
    knobs = pytest.importorskip("triton.knobs")
    try:
        assert knobs.nvidia.ptxas.path
        assert knobs.nvidia.nvdisasm.path
    except RuntimeError as error:
        pytest.skip(f"Triton comes without its assembler: {error}")
    arguments = ("--check", "--capabilities", "90", "--classes", "5", "--dtypes", "bf16", "--variants")
    variants = ("Dice + CE", "sigmoid", "Blob(Dice)", "labels")
    found = run("kernels.py", *arguments, *variants, TRITON_INTERPRET="", TRITON_CACHE_DIR=str(tmp_path))
    assert found.returncode == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines() if "  _sums " in line or "  _gradient " in line]
    assert len(rows) == 4
    assert all(float(ratio) > 0 for row in rows for ratio in row[-4:])
    assert any(path.suffix == ".cubin" for path in tmp_path.rglob("*"))


def test_kernels_are_not_compiled_while_interpreted(monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.main(["--check"]) == 2
    found = capsys.readouterr()
    assert (found.out, found.err.count("\n")) == ("", 1)
    assert found.err.startswith("kernels.py: TRITON_INTERPRET is set")
