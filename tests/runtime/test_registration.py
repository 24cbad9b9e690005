"""`import ressa` teaches transformers the packed format, in whatever order the two are imported, and costs nothing."""

import subprocess
import sys

import pytest

KNOWN = "from transformers.quantizers import auto; assert 'ressa' in auto.AUTO_QUANTIZER_MAPPING; "
KNOWN += "assert 'ressa' in auto.AUTO_QUANTIZATION_CONFIG_MAPPING"


@pytest.mark.parametrize(
    "before",
    [
        "import ressa, transformers",
        "import transformers, ressa",
        "import transformers.quantizers.auto, ressa",
    ],
)
def test_the_format_is_known_in_any_order(before):
    subprocess.run([sys.executable, "-c", f"{before}; {KNOWN}"], check=True)


def test_importing_ressa_imports_neither_torch_nor_transformers():
    code = "import sys, ressa; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
