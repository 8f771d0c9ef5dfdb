"""The real daemon with a worker that runs nothing: python -m tests.cluster.daemon.daemon STATE RUN [LISTEN TLS_DIR]"""

import os
import sys
from pathlib import Path

from flota.node.daemon import DaemonOptions, run
from flota.node.node import Programs

ROOT = Path(__file__).resolve().parents[3]

if __name__ == "__main__":
    state, run_directory = map(Path, sys.argv[1:3])
    docker_listen, tls = sys.argv[3:5] if len(sys.argv) > 3 else ("", "/nowhere")
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.exit(
        run(
            DaemonOptions(
                state,
                run_directory,
                manager_metrics="",
                worker_metrics="",
                docker_listen=docker_listen,
                docker_tls_directory=Path(tls),
            ),
            Programs(worker=[sys.executable, "-m", "tests.cluster.daemon.worker"]),
        )
    )
