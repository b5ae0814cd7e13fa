"""Which image a cluster's members run."""

from kvoperator.model.spec import ImageSpec

__all__ = ["node_image"]


def node_image(image: ImageSpec, version: str | None, default: str) -> str:
    """The members' image.

    What the spec leaves out comes from ``default``, the operator's image at the cluster's creation, so that a
    newer operator does not change it.  A digest says all; a tag goes before the version.
    """
    rest, _, default_digest = default.partition("@")
    # A colon after the last slash starts a tag; one before it belongs to the registry's port.
    slash, colon = rest.rfind("/"), rest.rfind(":")
    default_repository, default_tag = (rest[:colon], rest[colon + 1 :]) if colon > slash else (rest, "")
    repository = image.repository or default_repository
    if image.digest:
        return f"{repository}@{image.digest}"
    tag = image.tag or version
    if tag is None and repository == default_repository and default_digest:
        return f"{repository}@{default_digest}"
    tag = tag or default_tag
    return f"{repository}:{tag}" if tag else repository
