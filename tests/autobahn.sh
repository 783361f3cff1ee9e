#!/usr/bin/env bash
# Autobahn's WebSocket test suite against tests/echo.py, and the rules that its own exit status leaves out:
#   tests/autobahn.sh [CASES]       all 517 cases, or those of a pattern: '1.*,7.*'
# No case may be FAILED, none UNIMPLEMENTED but where it insists on a server window below 15 bits (one compressed frame
# serves every viewer, so there is one window), and a client that does not mask its frames must be turned away.
#   AB_ROOT    where the suite's environment is, or will be made (out/autobahn)
#   AB_OUT     where the reports go (AB_ROOT/report)
set -euo pipefail
cd "$(dirname "$0")/.."
suite=../shared/autobahn
if [ ! -d "$suite" ]; then
    echo "not applicable: $suite is not there"
    exit 0
fi
python=${PYTHON:-.venv/bin/python}
export AB_ROOT=${AB_ROOT:-$PWD/out/autobahn} AB_TIMEOUT=${AB_TIMEOUT:-1800}
out=${AB_OUT:-$AB_ROOT/report}
AB_CPU=${AB_CPU-$(taskset -cp $$ | sed 's/.*[-,: ]//')} # the last one that is ours; the suite's client shares it
export AB_CPU
mkdir -p "$AB_ROOT" "$out"
PYTHON=$(command -v "$python") "$suite/setup.sh"

run() { # OUTDIR CASES
    port=$("$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$suite/with_server.sh" "$port" "$python -m tests.echo --port $port" "$1" "$2"
}

run "$out" "${1:-*}"
"$python" - "$out" <<'PY'
import json
import pathlib
import re
import sys

out = pathlib.Path(sys.argv[1])
results = json.loads((out / "index.json").read_text())["SUT"]
declined, wrong = [], []
for case, result in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
    if result["behavior"] != "UNIMPLEMENTED":
        continue
    described = json.loads((out / result["reportfile"].replace(".html", ".json")).read_text())["description"]
    windows = [int(bits) for bits in re.findall(r"\((?:True|False), (\d+)\)", described)]
    (declined if case.startswith("13.") and windows and all(0 < bits < 15 for bits in windows) else wrong).append(case)
print("declined, for their server window: " + (" ".join(declined) or "none"))
if wrong:
    sys.exit("UNIMPLEMENTED, and for no reason: " + " ".join(wrong))
PY

status=0
AB_OPTIONS='{"maskClientFrames": false}' run "$out/unmasked" 1.1.1 || status=$?
if [ "$status" != 1 ]; then
    echo "a client that does not mask its frames was served (status $status)" >&2
    exit 1
fi
echo "unmasked frames are refused, as they should be"
