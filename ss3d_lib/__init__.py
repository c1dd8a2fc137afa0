"""Self-supervised depth, ego-motion and intrinsics from ordinary video: the library behind the notebooks."""

import os

# before torch is imported: threads that spin while another program works cost up to 16 times the time
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
