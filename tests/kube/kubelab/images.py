"""Container images: built with buildah, kept as archives, loaded into every node's containerd."""

import os
import shutil
from pathlib import Path

from kubelab import layout
from kubelab.shell import run, say, succeeds

BUSYBOX = Path("/bin/busybox")
PAUSE_MARK = b"2147483647"
"""The longest sleep; also tells the pause process of a pod from its others."""

OWN_IMAGES = {
    layout.PAUSE_IMAGE: f'ENTRYPOINT ["/bin/busybox", "sleep", "{PAUSE_MARK.decode()}"]',
    layout.BUSYBOX_IMAGE: 'RUN ["/bin/busybox", "--install", "-s", "/bin"]',
}


def make_own_images() -> None:
    """Make the images that the lab itself needs: pause, the provisioner's helper, and the bases."""
    layout.IMAGES.mkdir(exist_ok=True)
    context = layout.ROOT / "ctx"
    context.mkdir(exist_ok=True)
    shutil.copy(BUSYBOX, context / "busybox")
    for tag, last_line in OWN_IMAGES.items():
        if not (layout.IMAGES / f"{tag.partition('/')[2].replace(':', '-')}.tar").exists():
            (context / "Dockerfile").write_text(f"FROM scratch\nCOPY busybox /bin/busybox\n{last_line}\n")
            _build(context, tag)
            _archive(tag, layout.IMAGES / f"{tag.partition('/')[2].replace(':', '-')}.tar")
    for image in layout.BASE_IMAGES:
        if not succeeds("buildah", "inspect", "--type", "image", image.tag):
            say(f"committing {image.tag}")
            container = run("buildah", "from", "scratch")
            run("buildah", "add", "-q", container, image.files, "/")
            path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            run("buildah", "config", "--env", f"PATH={path}", "--cmd", "python3", container)
            run("buildah", "commit", "-q", "--rm", container, image.tag)


def build_image(
    context: Path, tag: str, *, file: Path | None = None, target: str | None = None, arguments: list[str]
) -> None:
    """Build one image and load it into every node of the running lab.

    The bases are handed in as the build arguments ``BASE_IMAGE`` and ``BUILD_IMAGE``; layers are cached, so
    a change of the project's sources does not install its dependencies again.
    """
    make_own_images()
    options = ["--layers", "-f", str(file or context / "Dockerfile")]
    for image in layout.BASE_IMAGES:
        options += ["--build-arg", f"{image.argument}={image.tag}"]
    options += [option for argument in arguments for option in ("--build-arg", argument)]
    if target is not None:
        options += ["--target", target]
    _build(context, tag, *options, *_registry_access())
    archive = layout.IMAGES / f"{tag.replace('/', '_').replace(':', '_')}.tar"
    _archive(tag, archive)
    for node in layout.node_names():
        load(node, archive)
    say(f"loaded {tag}, {archive.stat().st_size / 1e6:.0f} MB")


def load(node: str, archive: Path) -> None:
    socket = layout.NODES / node / "run" / "containerd.sock"
    run("ctr", "-a", socket, "-n", "k8s.io", "images", "import", "--all-platforms", archive)


def _build(context: Path, tag: str, *options: str) -> None:
    """Build without a registry to pull from and without a container engine (chroot isolation)."""
    settings = ("--isolation", "chroot", "--pull-never", "--network", "host")
    run("buildah", "bud", "-q", *settings, *options, "-t", tag, context)


def _registry_access() -> list[str]:
    """Let pip inside a build trust what it trusts out here, and keep what it downloads.

    These are mounts, so nothing of them ends up in an image.
    """
    cache, configuration = layout.ROOT / "pip-cache", layout.ROOT / "pip.conf"
    cache.mkdir(exist_ok=True)
    lines = ["[global]", "disable-pip-version-check = true", "root-user-action = ignore"]
    for option, variable in (("cert", "PIP_CERT"), ("timeout", "PIP_DEFAULT_TIMEOUT")):
        if variable in os.environ:
            lines.append(f"{option} = {os.environ[variable]}")
    configuration.write_text("\n".join(lines) + "\n")
    mounts = {
        configuration: "/etc/pip.conf:ro",
        cache: "/root/.cache/pip:rw",
        Path("/etc/ssl/certs"): "/etc/ssl/certs:ro",
    }
    return [option for source, target in mounts.items() for option in ("-v", f"{source}:{target}")]


def _archive(tag: str, archive: Path) -> None:
    archive.unlink(missing_ok=True)
    run("buildah", "push", "-q", tag, f"docker-archive:{archive}:{tag}")
