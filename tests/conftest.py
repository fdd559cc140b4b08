import os
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run on the CPU; Triton looks for it when it is imported
sys.path.insert(0, str(Path(__file__).parent))  # so that tests import `reference`
