"""Our kernels in Triton against plain PyTorch in float64; on a GPU alone."""

import pytest
import torch

pytest.importorskip("triton", reason="comes with PyTorch for CUDA")
if not torch.cuda.is_available():
    pytest.skip("needs CUDA", allow_module_level=True)

from video_dit.triton_kernels import sum_rows


@pytest.mark.parametrize(("n", "groups", "width"), [(1, 1, 1), (1000, 64, 96), (30000, 576, 256), (32768, 32, 768)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_summed_by_group(n: int, groups: int, width: int, dtype: torch.dtype) -> None:
    index = torch.randint(0, groups, (n,), device="cuda")
    ordered, order = index.sort()
    starts = torch.searchsorted(ordered, torch.arange(groups + 1, device="cuda"))
    values = torch.randn(n, width, device="cuda", dtype=dtype)
    expected = torch.zeros(groups, width, device="cuda", dtype=torch.float64).index_add_(0, index, values.double())
    error = (sum_rows(values, order, starts).double() - expected).norm() / expected.norm()
    assert error < (1e-6 if dtype == torch.float32 else 4e-3)
