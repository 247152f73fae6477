"""Errors of reading, mapping and writing checkpoints.

EffdetError
+-- ConversionError
    +-- SourceError             a checkpoint cannot be used
    |   +-- MissingFileError        a file or folder is not there
    |   +-- CorruptFileError        bytes that do not parse or do not match their checksum
    |   +-- UnsupportedSourceError  understood, named, and not something that can be converted
    +-- ViewError               the wanted copy (EMA or raw) is absent, partial or untrained
    +-- MappingError            a mapping table is wrong; names file and line
    +-- AccountingError         missing, unexpected or mismatched variables, all of them listed
"""

from effdet_torch.errors import EffdetError


class ConversionError(EffdetError):
    """Any failure between a checkpoint on disk and the converted file."""


class SourceError(ConversionError):
    """A checkpoint cannot be used."""


class MissingFileError(SourceError):
    """A file or folder is not there."""


class CorruptFileError(SourceError):
    """Bytes do not parse, or do not match their checksum."""


class UnsupportedSourceError(SourceError):
    """The input was recognised, but it is not something that can be converted."""


class ViewError(ConversionError):
    """The wanted copy of the variables (EMA or raw) is absent, partial or untrained."""


class MappingError(ConversionError):
    """A mapping table is wrong."""


class AccountingError(ConversionError):
    """Missing, unexpected or mismatched variables.

    Attributes:
        problems: every one of them as a line; the error's text may show only the first.
    """

    def __init__(self, text: str, problems: list[str]) -> None:
        super().__init__(text)
        self.problems = problems
