"""Compiles the member's hot modules to machine code with mypyc.

A wheel gets them compiled.  An editable install stays as it is written, so that an edit takes effect;
``make compiled`` runs ``setup.py compile`` for a checkout, whose modules are used for as long as they fit
the sources (``kvnode.compiled``).  Without a compiler everything runs as Python.
"""

import compileall
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build_ext import build_ext

NODE = Path("node")
#: Hot, and without what mypyc can't do; the protocols that asyncio calls first are among them.
MODULES = """
api/catch_up api/gate api/kv api/watch
apply/applier apply/checks apply/commands apply/range_read apply/writes
counting
lease/lessor
mvcc/events mvcc/key_index mvcc/operations mvcc/records mvcc/revision mvcc/rolling
mvcc/store mvcc/watch mvcc/watchers
pieces
raft/follower raft/leader raft/log raft/messages raft/progress raft/quorum raft/raw_node raft/reading
raft/reads raft/ready raft/replication raft/state raft/step raft/tracker raft/types
rpc/http2/allowance rpc/http2/calls rpc/http2/connection rpc/http2/deadlines rpc/http2/errors
rpc/http2/exchanges rpc/http2/frames rpc/http2/header_blocks rpc/http2/incoming rpc/http2/outgoing
rpc/http2/pings rpc/http2/pushed rpc/http2/requests rpc/http2/server rpc/http2/settings rpc/http2/stream
server/driver server/effects server/peer_side server/proposals server/reads server/replica
server/storage_thread server/tls_stream server/upkeep
storage/keyspace storage/leveldb storage/log_store storage/seal storage/wal
transport/codec transport/connection transport/frames transport/link transport/listener transport/peers
""".split()  # noqa: SIM905 - shorter than a list


def extensions() -> list:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        print("kvnode stays pure Python, which is slower: there is no C compiler", file=sys.stderr)
        return []
    from mypyc.build import mypycify  # only where something is compiled

    os.environ["MYPYPATH"] = str(NODE)
    return mypycify(
        [
            "--config-file=",
            "--explicit-package-bases",
            "--ignore-missing-imports",
            "--follow-imports=silent",
            *(str(NODE / "kvnode" / f"{module}.py") for module in MODULES),
        ],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        group_name="kvnode",
        target_dir="build/mypyc",
    )


class BuildExtensions(build_ext):
    """All of them, or, where no compiler is, none."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            print(f"kvnode stays pure Python, which is slower: {error}", file=sys.stderr)
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []


class Compile(Command):
    """Give a checkout its bytecode and its compiled modules, unless it has them."""

    user_options: list = []  # noqa: RUF012 - setuptools wants a list

    def initialize_options(self) -> None:
        pass

    def finalize_options(self) -> None:
        pass

    def run(self) -> None:
        # Python itself keeps no bytecode where PYTHONDONTWRITEBYTECODE is set, and each start takes half as
        # long again.
        compileall.compile_dir(NODE, quiet=1)
        target = Path("build", "compiled", sys.implementation.cache_tag)
        listed = target / "sources.json"
        names = {f"kvnode.{module.replace('/', '.')}": NODE / "kvnode" / f"{module}.py" for module in MODULES}
        # Compared first at a start, as it is quicker; read first here, so that no edit hides between.
        status = {name: path.stat() for name, path in names.items()}
        stamps = {name: [each.st_mtime_ns, each.st_size] for name, each in status.items()}
        hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in names.items()}
        if listed.exists():
            known = json.loads(listed.read_text())
            if known["sources"] == hashes:
                listed.write_text(json.dumps(known | {"stamps": stamps}))
                return
        shutil.rmtree(target, ignore_errors=True)
        self.distribution.ext_modules = extensions()
        build = self.get_finalized_command("build_ext")
        build.build_lib, build.parallel = str(target), os.cpu_count()
        build.run()
        if build.extensions:
            files = {
                extension.name: os.path.relpath(build.get_ext_fullpath(extension.name), target)
                for extension in build.extensions
            }
            listed.write_text(json.dumps({"sources": hashes, "stamps": stamps, "files": files}))


setup(
    ext_modules=extensions() if "bdist_wheel" in sys.argv else [],
    cmdclass={"build_ext": BuildExtensions, "compile": Compile},
)
