"""The lock under which threads import libraries: entries are fetched side by side, each by what its store needs.

Where one thread imports `urllib3` and another one `urllib3.connection`, each waits for what the other has begun. Python
ends that wait by handing out a module that is loaded in part (`_DeadlockError` of importlib/_bootstrap.py), and the
import fails with ImportError or KeyError.
"""

from __future__ import annotations

import threading

IMPORTS = threading.RLock()
