"""``run()``: from the command line to an exit status, with one clear sentence for every failure."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from kvnode.cli.assemble import assemble
from kvnode.cli.flags import CommandLine, FlagError, help_text, read_command_line
from kvnode.compiled import is_compiled
from kvnode.rpc.listen import ListenError, listen_on
from kvnode.server import logs
from kvnode.server.config import NodeConfig, RpcTransport, Url
from kvnode.server.errors import ExitCode
from kvnode.server.features import FEATURES, WITHOUT_EFFECT

__all__ = ["TERMINATION_LOG_VARIABLE", "run"]

logger = logging.getLogger("kvnode")

#: Names a file that the reason of a failed start or an untimely end is written to; Kubernetes shows its
#: content in the pod's status.
TERMINATION_LOG_VARIABLE = "KVNODE_TERMINATION_LOG"


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a member until it is told to stop; returns the exit status."""
    environment = os.environ
    try:
        line = read_command_line(sys.argv[1:] if arguments is None else arguments, environment)
        if line.wants_help:
            print(help_text(), end="")
            return ExitCode.OK
        if line.wants_version:
            print(_version_text(), end="")
            return ExitCode.OK
        config = assemble(line)
    except FlagError as error:
        return _fail(str(error), ExitCode.CONFIG, environment)
    try:
        logs.configure(config.log_level, config.log_format, config.log_outputs, config.log_rotation)
    except OSError as error:
        sentence = f"cannot write the log file {error.filename}: {error.strerror} (--log-outputs)"
        return _fail(sentence, ExitCode.CONFIG, environment)
    _log_start(config, line)
    return _run_member(config, environment)


def _run_member(config: NodeConfig, environment: Mapping[str, str]) -> int:
    if config.rpc is RpcTransport.GRPCIO:
        _tell_grpcio(config)

    # Until the loop takes signals there is nothing to finish.  Without a handler a container's first
    # process would not even notice one, and be waited for in vain.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(ExitCode.OK))

    # Before the rest is imported, which takes long: clients wait instead of being refused.
    opened: dict[Url, list[socket.socket]] = {}
    for flag, urls in _urls(config):
        try:
            for url in urls:
                if not url.is_unix:
                    opened[url] = listen_on(url, reuse_port=config.socket_reuse_port)
        except ListenError as error:
            from kvnode.cli.failures import ListenFlagError

            return _fail_by(ListenFlagError(flag, error), environment)

    # Imported late: --help and a wrong flag should not wait for LevelDB and all that serves.
    import asyncio

    import uvloop

    from kvnode.cli.deadline import ExitDeadline
    from kvnode.cli.node import run_node
    from kvnode.cli.self_signed import make_certificates

    try:
        make_certificates(config)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_node(config, ExitDeadline().begin, opened))
    except Exception as error:
        return _fail_by(error, environment)
    logger.info("stopped")
    return ExitCode.OK


def _urls(config: NodeConfig) -> Iterator[tuple[str, Iterable[Url]]]:
    """Where clients are listened to, by flag; who waits for a member waits for the client URLs, the last."""
    yield "listen-metrics-urls", config.listen_metrics_urls
    yield "listen-client-http-urls", config.listen_client_http_urls
    if config.rpc is RpcTransport.HTTP2:  # the other opens its own
        yield "listen-client-urls", config.listen_client_urls


def _fail_by(error: Exception, environment: Mapping[str, str]) -> int:
    from kvnode.cli.failures import explain  # imports what can fail

    failure = explain(error)
    if failure.is_unexpected:
        logger.critical("this member failed", exc_info=error)
    return _fail(failure.sentence, failure.exit_code, environment, is_logged=True)


def _tell_grpcio(config: NodeConfig) -> None:
    """Set what gRPC's core reads from its environment when it is first imported, and nowhere else."""
    # It writes lines of its own to standard error, which are no JSON; errors are worth that.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    if config.client_tls is not None and config.client_tls.cipher_suites:
        os.environ["GRPC_SSL_CIPHER_SUITES"] = ":".join(config.client_tls.cipher_suites)


def _fail(sentence: str, exit_code: int, environment: Mapping[str, str], *, is_logged: bool = False) -> int:
    if is_logged:
        logger.critical(sentence, extra={"exit_code": exit_code})
    print(f"kvnode: {sentence}", file=sys.stderr)
    path = environment.get(TERMINATION_LOG_VARIABLE)
    if path:
        try:
            Path(path).write_text(sentence + "\n", encoding="utf-8")
        except OSError as error:
            print(f"kvnode: cannot write {path}: {error.strerror}", file=sys.stderr)
    return exit_code


def _log_start(config: NodeConfig, line: CommandLine) -> None:
    logger.info(
        "starting kvnode",
        extra={
            "member_name": config.name,
            "data_dir": str(config.data_dir),
            "listen_peer_urls": [str(url) for url in config.listen_peer_urls],
            "listen_client_urls": [str(url) for url in config.listen_client_urls],
            "initial_cluster_state": str(config.initial_cluster_state),
            "pid": os.getpid(),
            "compiled": is_compiled(),
        },
    )
    if line.config_file:
        logger.info("settings come from a file", extra={"path": line.config_file})
    if line.overridden:
        logger.warning(
            "flags and environment variables beside a configuration file are ignored",
            extra={"ignored": line.overridden},
        )
    if line.unknown_keys:
        logger.warning(
            "keys of the configuration file that name no setting are ignored",
            extra={"keys": line.unknown_keys},
        )
    if line.ignored:
        logger.warning("flags of etcd without a meaning here are ignored", extra={"flags": line.ignored})
    gates = [
        f"{name}={str(is_on).lower()}"
        for name, is_on in config.feature_gates.items()
        if name in WITHOUT_EFFECT and is_on != FEATURES[name].is_on
    ]
    if gates:
        logger.warning("feature gates without a meaning here are ignored", extra={"gates": gates})
    if line.unknown_variables:
        logger.warning(
            "environment variables that name no flag are ignored", extra={"variables": line.unknown_variables}
        )
    if config.client_tls is not None and not any(url.is_tls for url in config.listen_client_urls):
        logger.warning("certificates for clients are given, but --listen-client-urls are not https")
    if config.peer_tls is not None and not any(url.is_tls for url in config.listen_peer_urls):
        logger.warning("certificates for members are given, but --listen-peer-urls are not https")
    if config.unsafe_no_fsync:
        logger.warning("--unsafe-no-fsync: acknowledged writes can be lost")


def _version_text() -> str:
    """The lines of ``etcd --version``, as scripts read the first one's last word."""
    import platform

    from kvnode.api.version import ETCD_VERSION, program_version

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return (
        f"etcd Version: {ETCD_VERSION}\n"
        f"kvnode Version: {program_version()}\n"
        f"Python Version: {platform.python_version()}\n"
        f"Python OS/Arch: {platform.system().lower()}/{machine}\n"
        f"Compiled: {'yes' if is_compiled() else 'no'}\n"
    )
