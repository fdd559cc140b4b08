"""What Triton's compiler makes of the kernels, run on the CPU; and what the emulator refuses, which runs it.

The interpreter knows nothing of layouts, of which lane loads what, of shuffles and of shared memory. All tests of this
folder run on machine code with `pytest tests/ops/cuda --emulate 90`, which takes a minute or two; here a few, in a
process of their own, since Triton decides when a kernel is defined whether it is interpreted.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import delineate.ops.cuda

from .emulator.machine import run
from .emulator.memory import Fault, Tensors
from .emulator.ptx import Kernel

HERE, SOURCES = Path(__file__).parent, Path(delineate.ops.cuda.__file__).parent
CASES = [
    "test_cuda_overlap.py::test_every_sum_at_once[softmax-labels-both]",
    "test_cuda_overlap.py::test_labels[11-alone]",
    "test_cuda_overlap.py::test_channels[softmax-soft-weighted]",
    "test_cuda_segments.py::test_component_sums[sums-weighted]",
    "test_cuda_segments.py::test_segment_sums[runs]",
    "test_cuda_segments.py::test_component_sums_in_a_fixed_order[sums-plain]",
    "test_cuda_segments.py::test_any_numbers_in_a_fixed_order[few]",
    "test_cuda_distance.py::test_noise_and_a_large_region[3d-False]",
    "test_cuda_distance.py::test_noise_and_a_large_region[3d-True]",
    "test_cuda_machine_code.py::test_labels_out_of_range_end_in_an_assertion",
]


@pytest.fixture
def emulating(request):
    if not request.config.getoption("emulate"):
        pytest.skip("the interpreter passes over assertions; runs with --emulate")


def launched():
    """Every kernel that a launcher launches, by its file and name."""
    for path in SOURCES.glob("*.py"):
        yield from (f"{path.stem}.{name}" for name in re.findall(r"^\s+(\w+)\[\(", path.read_text(), re.MULTILINE))


def test_every_kernel_as_machine_code(request):
    if request.config.getoption("emulate"):
        pytest.skip("all tests of this folder run so")
    cases = [str(HERE / case) for case in CASES]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--emulate", "90", *cases]
    env = os.environ | {"TRITON_INTERPRET": ""}
    ended = subprocess.run(command, env=env, cwd=HERE.parents[2], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = dict(re.findall(r"^([\w.]+): (\d+) launches$", ended.stdout, re.MULTILINE))
    assert len(set(launched())) >= 10
    assert found.keys() == set(launched())


@pytest.mark.parametrize("bad", [3, -1, 2**32 + 1])
def test_labels_out_of_range_end_in_an_assertion(emulating, bad):
    from delineate.ops.cuda.overlap_labels import forward

    logits, labels = torch.randn(1, 3, 40), torch.randint(0, 3, (1, 40))
    forward(logits, labels, None, None, False, False, [], False)
    labels[0, 7] = bad
    with pytest.raises(Fault, match=r"assertion on the device: target: labels must be in 0\.\.C-1"):
        forward(logits, labels, None, None, False, False, [], False)


# --- the emulator

PROGRAM = """
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 source,
	.param .u64 .ptr .global .align 1 into
)
.reqntid 32
{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<99>;
	.reg .b64 	%rd<9>;
	ld.param.b64 	%rd1, [source];
	ld.param.b64 	%rd2, [into];
	mov.u32 	%r1, %tid.x;  // a lane has a number
	mul.wide.u32 	%rd3, %r1, 4;
	add.s64 	%rd4, %rd1, %rd3;  // and a place in each
	add.s64 	%rd5, %rd2, %rd3;
	setp.lt.u32 	%p1, %r1, 16;
	BODY
	ret;
}
"""


def results(body, source=None, *, warps=1, shared=0):
    """What lanes leave in a tensor of -1, an int32 each, whose source has the numbers from 0 on."""
    into = torch.full((32 * warps,), -1, dtype=torch.int32)
    source = torch.arange(32 * warps, dtype=torch.int32) if source is None else source
    tensors = Tensors()
    arguments = [tensors.add(source), tensors.add(into)]
    run(Kernel.parse(PROGRAM.replace("BODY", body)), arguments, (1, 1, 1), warps, shared, tensors)
    return into.tolist()


def test_lanes_load_and_store():
    assert results("ld.global.b32 %r2, [%rd4]; st.global.b32 [%rd5], %r2;") == list(range(32))


def test_a_predicated_store_leaves_other_lanes_alone():
    assert results("@%p1 st.global.b32 [ %rd5 + 0 ], { %r1 };") == [*range(16), *[-1] * 16]
    assert results("@!%p1 st.global.b32 [ %rd5 + 0 ], { %r1 };") == [*[-1] * 16, *range(16, 32)]


@pytest.mark.parametrize(
    ("kind", "by", "expected"),
    [
        ("bfly", "5, 31", [lane ^ 5 for lane in range(32)]),
        ("up", "3, 0", [max(lane - 3, 0) if lane >= 3 else lane for lane in range(32)]),
        ("down", "3, 31", [lane + 3 if lane < 29 else lane for lane in range(32)]),
        ("idx", "7, 31", [7] * 32),
        ("idx", "2, 6175", [lane // 8 * 8 + 2 for lane in range(32)]),  # within each eight: 0x181f
    ],
)
def test_a_shuffle(kind, by, expected):
    assert results(f"shfl.sync.{kind}.b32 %r2, %r1, {by}, -1; st.global.b32 [%rd5], %r2;") == expected


def test_lanes_that_part_at_a_branch_meet_again():
    """Those that went on wait for the others at a shuffle, wherever these are."""
    body = """@%p1 bra $L__late;
    $L__join:
    shfl.sync.bfly.b32 %r3, %r1, 16, 31, -1;
    add.s32 %r4, %r3, %r2;
    st.global.b32 [%rd5], %r4;
    ret;
    $L__late:
    mov.b32 %r2, 100;
    bra.uni $L__join;"""
    assert results("mov.b32 %r2, 0; " + body) == [*range(116, 132), *range(16)]
    with pytest.raises(Fault, match="%r2 is read before it was written: add"):
        results(body)


def test_a_loop_ends_lane_by_lane():
    body = """mov.b32 %r2, 0;
    $L__again:
    add.s32 %r2, %r2, 2;
    setp.lt.s32 %p2, %r2, %r1;
    @%p2 bra $L__again;
    st.global.b32 [%rd5], %r2;"""
    assert results(body) == [max(2, lane + lane % 2) for lane in range(32)]


@pytest.mark.parametrize(
    "body", ["ld.global.b32 %r2, [%rd4+4];", "st.global.b32 [%rd5+-4], %r1;", "ld.global.b32 %r2, [%rd3];"]
)
def test_accesses_outside_of_a_tensor_are_refused(body):
    with pytest.raises(Fault, match=f"outside of .*: {re.escape(body[:-1])}"):
        results(body)


def test_no_other_tensor_is_reached_from_one():
    room = torch.zeros(64, dtype=torch.int32)
    tensors = Tensors()
    first, second = (tensors.add(part) for part in (room[:32], room[32:]))
    assert second - first != room[32:].data_ptr() - room.data_ptr()
    assert first % 64 == room.data_ptr() % 64
    with pytest.raises(Fault, match=r"outside of .*: st"):
        results("st.global.b32 [%rd4], %r1;", room[:31])


def test_misaligned_accesses_are_refused():
    with pytest.raises(Fault, match=r"not aligned to its 4 bytes: .*ld"):
        results("@%p1 ld.global.b32 %r2, [%rd4+2];")
    with pytest.raises(Fault, match=r"not aligned to its 8 bytes: .*ld"):
        results("@%p1 ld.global.v2.b32 {%r2, %r3}, [%rd4];")


TURN = "shl.b32 %r2, %r1, 2; xor.b32 %r3, %r2, 128; st.shared.b32 [%r2], %r1; BETWEEN ld.shared.b32 %r4, [%r3];"


@pytest.mark.parametrize("warps", [1, 2])
def test_a_barrier_is_missed(warps):
    """Lanes hand over their numbers in shared memory, to the same warp or to another one."""
    body = TURN.replace("128", "64" if warps == 1 else "128") + "st.global.b32 [%rd5], %r4;"
    barrier = "bar.warp.sync -1;" if warps == 1 else "bar.sync 0;"
    expected = [lane ^ 16 * warps for lane in range(32 * warps)]
    assert results(body.replace("BETWEEN", barrier), warps=warps, shared=128 * warps) == expected
    with pytest.raises(Fault, match=r"a race in shared memory: written by another.*: ld"):
        results(body.replace("BETWEEN", ""), warps=warps, shared=128 * warps)
    with pytest.raises(Fault, match=r"a race in shared memory: read by another.*: st"):
        results(body.replace("BETWEEN", barrier) + "st.shared.b32 [%r2], %r4;", warps=warps, shared=128 * warps)
    with pytest.raises(Fault, match=f"beyond the {64 * warps} bytes of shared memory: st"):
        results(body.replace("BETWEEN", barrier), warps=warps, shared=64 * warps)


def test_lanes_write_one_place_only_if_they_agree():
    assert results("mov.b32 %r2, 5; st.shared.b32 [global_smem], %r2;", shared=4)
    with pytest.raises(Fault, match="a race in shared memory: another value written"):
        results("st.shared.b32 [global_smem], %r1;", shared=4)


def test_what_was_not_written_is_not_read():
    with pytest.raises(Fault, match="%r2 is read before it was written: st"):
        results("st.global.b32 [%rd5], %r2;")
    with pytest.raises(Fault, match="%r2 is read before it was written: st"):
        results("@%p1 mov.b32 %r2, 1; st.global.b32 [%rd5], %r2;")
    assert results("@%p1 mov.b32 %r2, 1; @%p1 st.global.b32 [%rd5], %r2;") == [*[1] * 16, *[-1] * 16]
    with pytest.raises(Fault, match="shared memory is read before it was written"):
        results("ld.shared.b32 %r2, [global_smem];", shared=4)


def test_a_warp_that_is_not_complete_does_not_shuffle():
    with pytest.raises(Fault, match="lanes wait for others of their warp, which do not come"):
        results("@%p1 bra $L__end; shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; $L__end: st.global.b32 [%rd5], %r1;")


@pytest.mark.parametrize("text", ["add.sat.s32 %r2, %r1, 1", "sin.approx.f32 %r2, %r1", "cvt.rzi.s32.f32 %r2, %r1"])
def test_unknown_instructions_are_refused(text):
    with pytest.raises(Fault, match=f"unknown instruction: {re.escape(text)}"):
        results(f"{text};")


ARITHMETIC = {
    "div.s32 %r2, %r2, 3": lambda x: int(x / 3),  # toward 0
    "rem.s32 %r2, %r2, 3": lambda x: x - 3 * int(x / 3),
    "shr.s32 %r2, %r2, 2": lambda x: x >> 2,
    "shr.u32 %r2, %r2, 2": lambda x: x % 2**32 >> 2,
    "shl.b32 %r2, %r2, 40": lambda x: 0,
    "bfe.s32 %r2, %r2, 1, 3": lambda x: (x >> 1 & 7) - 8 * (x >> 3 & 1),
    "bfe.u32 %r2, %r2, 1, 3": lambda x: x >> 1 & 7,
    "mad.lo.s32 %r2, %r2, 5, -7": lambda x: 5 * x - 7,
    "mul.wide.s32 %rd6, %r2, -3; shr.s64 %rd6, %rd6, 1; cvt.u32.u64 %r2, %rd6": lambda x: -3 * x >> 1,
    "prmt.b32 %r2, %r2, 1, 0x4008": lambda x: 255 * (x < 0) | x % 256 << 8 | x % 256 << 16 | 1 << 24,
    "max.u32 %r2, %r2, 3": lambda x: x if x < 0 else max(x, 3),
    "setp.lt.s32 %p2, %r2, 0; selp.b32 %r2, 1, 2, %p2": lambda x: 1 if x < 0 else 2,
    "setp.lt.u32 %p2, %r2, 5; selp.b32 %r2, 1, 2, %p2": lambda x: 1 if 0 <= x < 5 else 2,
    "mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r2, {%rs2, %rs1}": lambda x: x >> 16 & 0xFFFF | x % 2**16 << 16,
    "cvt.rn.f32.s32 %r2, %r2; neg.f32 %r2, %r2; cvt.f64.f32 %rd6, %r2; cvt.rn.f32.f64 %r2, %rd6; mul.f32 %r2, %r2, "
    "0f00000000; setp.eq.f32 %p2, %r2, 0f80000000; selp.b32 %r2, 7, 8, %p2": lambda x: 7,
    "redux.sync.max.s32 %r2, %r2, -1": lambda x: 15,
}


@pytest.mark.parametrize("body", ARITHMETIC)
def test_arithmetic(body):
    numbers = torch.arange(-16, 16, dtype=torch.int32)
    found = results(f"ld.global.b32 %r2, [%rd4]; {body}; st.global.b32 [%rd5], %r2;", numbers)
    assert [value % 2**32 for value in found] == [ARITHMETIC[body](x) % 2**32 for x in numbers.tolist()]


def test_comparisons_with_nan():
    values = torch.tensor([torch.nan, 1.0] * 16)
    for kind, expected in (("lt", [0, 1]), ("ltu", [1, 1]), ("ne", [0, 1]), ("neu", [1, 1]), ("ge", [0, 0])):
        body = f"setp.{kind}.f32 %p2, %r2, 0f40000000; selp.b32 %r2, 1, 0, %p2; st.global.b32 [%rd5], %r2;"
        assert results(f"ld.global.b32 %r2, [%rd4]; {body}", values) == expected * 16


def test_additions_to_one_place_add_up():
    body = "mov.b64 %rd6, 0; @%p1 atom.global.gpu.relaxed.add.u32 %r3, [%rd2], %r1;"
    assert results(body)[0] == sum(range(16)) - 1


def test_bfloat16_is_rounded_to_nearest_even():
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1.004, -3.14159, torch.inf, 1e-40] * 6)[:32]
    found = results(
        "ld.global.b32 %r2, [%rd4]; cvt.rn.bf16x2.f32 %r3, %r2, 0f00000000; st.global.b32 [%rd5], %r3;", values
    )
    expected = values.bfloat16().view(torch.int16).int() << 16
    assert found == expected.tolist()


@pytest.mark.parametrize("trans", ["", "trans."])
def test_matrices_go_from_shared_memory_to_registers_and_back(trans):
    """8 x 8 numbers of 16 bits: lane l has two of row l / 4, or of column l / 4."""
    body = f"""shl.b32 %r2, %r1, 2; st.shared.b32 [%r2], %r1; bar.warp.sync -1;
    and.b32 %r3, %r1, 7; shl.b32 %r3, %r3, 4;
    ldmatrix.sync.aligned.m8n8.x1.{trans}shared.b16 {{%r4}}, [%r3];
    st.global.b32 [%rd5], %r4;"""
    halves = torch.arange(32, dtype=torch.int32).view(torch.int16).view(8, 8)
    expected = (halves.mT if trans else halves).contiguous().view(torch.int32).flatten()
    assert results(body, shared=128) == expected.tolist()
    back = body.replace(
        "st.global.b32 [%rd5], %r4;",
        f"""bar.warp.sync -1;
    stmatrix.sync.aligned.m8n8.x1.{trans}shared.b16 [%r3], {{%r4}};
    bar.warp.sync -1; ld.shared.b32 %r5, [%r2]; st.global.b32 [%rd5], %r5;""",
    )
    assert results(back, shared=128) == list(range(32))
