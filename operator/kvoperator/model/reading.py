"""Typed reading of a custom resource's fields, with errors that name the field."""

from collections.abc import Iterable, Mapping

__all__ = ["Reader", "SpecError"]


class SpecError(ValueError):
    """A field of a spec that can't be honoured."""

    def __init__(self, field: str, value: object, bound: str) -> None:
        super().__init__(f"{field} is {value!r}; it must be {bound}")
        self.field = field
        self.value = value
        self.bound = bound


class Reader:
    """Fields of one object; a field that is absent or null is the same.

    Raises SpecError from every method when a field has the wrong type.
    """

    def __init__(self, values: Mapping[str, object], path: str) -> None:
        self._values = values
        self._path = path

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if name else self._path

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def value(self, name: str) -> object | None:
        return self._values.get(name)

    def section(self, name: str) -> "Reader":
        found = self._values.get(name)
        if found is None:
            return Reader({}, self.path(name))
        if not isinstance(found, Mapping):
            raise SpecError(self.path(name), found, "an object")
        return Reader(found, self.path(name))

    def text(self, name: str) -> str | None:
        found = self._values.get(name)
        if found is None or found == "":
            return None
        if not isinstance(found, str):
            raise SpecError(self.path(name), found, "a string")
        return found

    def required_text(self, name: str) -> str:
        found = self.text(name)
        if found is None:
            raise SpecError(self.path(name), None, "set")
        return found

    def scalar(self, name: str) -> str | None:
        """A string or a number, as text: quantities may be either."""
        found = self._values.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            raise SpecError(self.path(name), found, "a string or a number")
        return str(found)

    def integer(self, name: str, default: int) -> int:
        found = self.optional_integer(name)
        return default if found is None else found

    def optional_integer(self, name: str) -> int | None:
        found = self._values.get(name)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, int):
            raise SpecError(self.path(name), found, "a whole number")
        return found

    def boolean(self, name: str, default: bool) -> bool:
        found = self._values.get(name)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise SpecError(self.path(name), found, "true or false")
        return found

    def choice(self, name: str, allowed: Iterable[str], default: str) -> str:
        found = self.text(name) or default
        names = [str(value) for value in allowed]
        if found not in names:
            raise SpecError(self.path(name), found, " or ".join(names))
        return found

    def values(self, name: str) -> tuple[object, ...]:
        found = self._values.get(name)
        if found is None:
            return ()
        if not isinstance(found, list | tuple):
            raise SpecError(self.path(name), found, "a list")
        return tuple(found)

    def texts(self, name: str) -> tuple[str, ...]:
        found = self.values(name)
        for value in found:
            if not isinstance(value, str):
                raise SpecError(self.path(name), value, "a list of strings")
        return tuple(str(value) for value in found)

    def text_map(self, name: str) -> dict[str, str]:
        found = self._values.get(name)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            raise SpecError(self.path(name), found, "an object")
        return {str(key): str(value) for key, value in sorted(found.items())}
