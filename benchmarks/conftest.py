"""The benchmark's modules import each other as scripts do."""

import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime themselves
sys.path.insert(0, str(Path(__file__).parent))
