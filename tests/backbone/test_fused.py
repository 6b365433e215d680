"""The fused pooling kernel, run by Triton's interpreter where there is no GPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from pipeline.backbone import fused

CHECK = """
import torch
from pipeline.backbone.fused import largest_error
for dtype in (torch.float32, torch.bfloat16):
    error = largest_error(torch.device("cpu"), dtype)
    assert error <= 1e-5, (dtype, error)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton: pip install triton"
)
def test_the_kernel_equals_plain_torch_in_the_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", CHECK], env=environment, check=True, timeout=300)


def test_there_is_no_kernel_for_the_cpu():
    assert not fused.fuses(torch.device("cpu"), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernel_equals_plain_torch_on_a_gpu(dtype):
    assert fused.largest_error(torch.device("cuda"), dtype) <= fused.CHECK_TOLERANCE
