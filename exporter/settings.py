"""What settings are made of, whichever file they stand in: their types, and how all faults of a file become known.

Knows nothing of what the settings mean, and opens no file but the one it is asked to read.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import ErrorDetails

from exporter.document import Document, Fault, Location, parse, shown

_WORDS: Final = {
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
}


class ConfigError(Exception):
    """The configuration cannot be used; ``faults`` says why, a line each, in the order of the file."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


# --- Types of settings: each says in its own words what it must be


def must_be(what: str) -> WrapValidator:
    """Whatever makes a value unfit, say ``must be <what>, not <the value>``."""

    def check(given: object, validate: ValidatorFunctionWrapHandler) -> object:
        try:
            return validate(given)
        except ValidationError:
            raise ValueError(f"must be {what}, not {shown(given)}") from None

    return WrapValidator(check)


def _beside_configuration(path: Path, info: ValidationInfo) -> Path:
    if path == Path():
        raise ValueError
    return info.context / path if isinstance(info.context, Path) else path


Text = Annotated[str, Field(min_length=1), must_be("some text")]
Truth = Annotated[bool, must_be("true or false")]
File = Annotated[Path, AfterValidator(_beside_configuration), must_be("the name of a file")]
"""A relative name starts at the directory of the configuration file, as it does in Prometheus."""


class Section(BaseModel):
    """A mapping of settings, any of which may be left empty to mean its default. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_the_empty(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return {
            key: value for key, value in given.items() if value is not None or key not in cls.model_fields
        }


# --- From the document to the settings

Settings = TypeVar("Settings", bound=Section)
Said = Callable[[ErrorDetails], tuple[Location, str]]


def read(path: Path, *, may_be_empty: bool = False) -> Document:
    """Read a file of settings. Raises ConfigError where it is no document, and OSError."""
    document = parse(path.read_bytes())
    if not isinstance(document, Fault) and document.root is None and not may_be_empty:
        document = Fault(1, (), "is empty")
    if isinstance(document, Fault):
        raise ConfigError((f"{path}:{document}",))
    return document


def validated(
    document: Document, path: Path, model: type[Settings], said: Said, more: Iterable[Fault] = ()
) -> Settings:
    """Return the settings of a document.

    ``said`` says pydantic's faults in our words, ``more`` are faults that were found before. Raises ConfigError with
    all of them, each with file, line and path.
    """
    faults = [*document.faults, *more]
    settings = None
    try:
        given = {} if document.root is None else document.root
        settings = model.model_validate(given, context=path.parent)
    except ValidationError as error:
        known = {(fault.line, fault.where) for fault in faults}
        found = (said(detail) for detail in error.errors(include_url=False))
        faults += (
            Fault(document.line(where), where, what)
            for where, what in found
            if (document.line(where), where) not in known
        )
    refuse(path, faults)
    assert settings is not None  # noqa: S101 - else there was a fault
    return settings


def refuse(path: Path, faults: Iterable[Fault]) -> None:
    """Raise ConfigError if there are faults."""
    if lines := tuple(f"{path}:{fault}" for fault in sorted(faults, key=lambda fault: fault.line)):
        raise ConfigError(lines)


def in_our_words(detail: ErrorDetails, sections: Mapping[Location, type[Section]]) -> tuple[Location, str]:
    """Return where one of pydantic's faults is, and what it is; ``sections`` has all mappings of settings."""
    where, kind, given = detail["loc"], detail["type"], detail["input"]
    if kind == "missing":
        what = "is required"
    elif kind == "extra_forbidden":
        section = sections[tuple(step for step in where[:-1] if isinstance(step, str))]
        close = get_close_matches(str(where[-1]), section.model_fields, n=1)
        what = f"is not known, did you mean {close[0]}?" if close else "is not known"
    elif kind == "value_error":
        what = str(detail["ctx"]["error"])
    else:
        what = f"{_WORDS.get(kind, detail['msg'])}, not {shown(given)}"
    return where[:-1] if where[-1:] == ("[key]",) else where, what
