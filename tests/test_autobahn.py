"""A short selection of Autobahn: framing, fragments, UTF-8, closing, a taste of compression. `make autobahn` runs
all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SELECTION = "1.1.*,2.*,3.*,4.*,5.*,6.4.*,7.*,10.*,12.1.1,13.1.1"


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT.parent / "shared" / "autobahn").is_dir(), reason="not applicable: ../shared/autobahn is not there"
)
def test_a_selection_of_autobahn(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "tests" / "autobahn.sh", SELECTION],
        env=os.environ | {"PYTHON": sys.executable, "AB_OUT": str(tmp_path), "AB_TIMEOUT": "90"},
        capture_output=True,
        text=True,
        timeout=115,
    )
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, said
    assert "autobahn PASS: 100 cases" in said
    assert "UNIMPLEMENTED 0, FAILED 0" in said
    assert "unmasked frames are refused" in said
