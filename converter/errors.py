"""Errors of reading, mapping and writing checkpoints.

EffdetError
+-- ConversionError
    +-- SourceError             a checkpoint cannot be used
    |   +-- MissingFileError        a file or folder does not exist
    |   +-- CorruptFileError        bytes that do not parse or do not match their checksum
    |   +-- UnsupportedSourceError  recognised, but it cannot be converted
    +-- ViewError               the wanted copy (EMA or raw) is absent, partial or untrained
    +-- UnusableValuesError     values that no network can use: NaN, infinite ones, negative variances
    +-- MappingError            a mapping table is wrong; names file and line
    +-- AccountingError         missing, unexpected or mismatched variables, all of them listed
"""

from effdet_torch.errors import EffdetError


class ConversionError(EffdetError):
    """Any failure between a checkpoint on disk and the converted file."""


class SourceError(ConversionError):
    """A checkpoint cannot be used."""


class MissingFileError(SourceError):
    """A file or folder does not exist."""


class CorruptFileError(SourceError):
    """Bytes do not parse, or do not match their checksum."""


class UnsupportedSourceError(SourceError):
    """The input was recognised, but it cannot be converted."""


class ViewError(ConversionError):
    """The wanted copy of the variables (EMA or raw) is absent, partial or untrained."""


class UnusableValuesError(ConversionError):
    """Values that no network can use: NaN, infinite ones, negative variances, nothing but zeros in all kernels."""


class MappingError(ConversionError):
    """A mapping table is wrong."""


class AccountingError(ConversionError):
    """Missing, unexpected or mismatched variables.

    Attributes:
        problems: one line for each of them; the error's lines may show only the first.
    """

    def __init__(self, lines: list[str], problems: list[str]) -> None:
        super().__init__(*lines)
        self.problems = problems
