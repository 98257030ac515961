"""The benchmark's modules import each other as the scripts they are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
