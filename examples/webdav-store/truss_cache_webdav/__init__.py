"""`dav://share/path`: weights on a WebDAV server (Nextcloud, ownCloud, Apache, IIS, WsgiDAV, ...).

This module is loaded whenever a config has a `dav://` entry, also by a run that has nothing to do. So it imports no
more than the row needs; the source is imported when the server is asked.
"""

from __future__ import annotations

from truss_cache_tasks.stores import JsonCredential, Store

WEBDAV = Store(
    schemes=("dav", "webdav"),
    kind="webdav",
    opens="truss_cache_webdav.source:WebDavSource",
    # data/webdav_credentials.json beside config.yaml, or the secret that the entry names
    credential=JsonCredential(file="webdav_credentials.json", required=("user", "password")),
    variables=("WEBDAV_URL",),
)
