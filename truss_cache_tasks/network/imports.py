"""The lock under which threads import libraries: entries are fetched side by side, each by what its store needs.

Where one thread imports `urllib3` and another one `urllib3.connection`, each waits for what the other has begun; Python
breaks that tie by handing out a module that is loaded in part (https://docs.python.org/3/library/imp.html#imp.lock_held).
"""

from __future__ import annotations

import threading

IMPORTS = threading.RLock()
