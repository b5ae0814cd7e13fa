"""In this process the member's modules run as they are written, so that tests can take them apart.

Members in processes of their own run compiled wherever ``make compiled`` was.  With ``KVTEST_COMPILED`` set
to anything this process does so, too.
"""

import os

from _pytest.monkeypatch import MonkeyPatch

with MonkeyPatch.context() as patch:
    if not os.environ.get("KVTEST_COMPILED"):
        patch.setenv("KVNODE_PURE", "1")
    import kvnode  # noqa: F401 - decides here what the other imports get
