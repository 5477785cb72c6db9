"""Errors of the trainers. Each message says what was found, what is needed and what to do.

TrainerError
├── RecordError      an input file or record is malformed
├── ConfigError      a setting is out of range or unknown
├── ShapeError       tensors do not fit each other
├── ModelError       a model cannot be loaded, does not fit in memory, or was tampered with
│   ├── ModelMissingError  there is no such model
│   └── MemoryLimitError   it does not fit in memory
├── DataError        there is too little or unusable data for the stage
│   └── ScorerError  a reward from outside gives no scores that can be used
└── RunError         a run directory is locked, damaged, or belongs to another configuration
    └── DiskFullError  nothing more can be written
"""


class TrainerError(Exception):
    """Base of all errors that a user can act on; shown without a traceback."""


class RecordError(TrainerError, ValueError):
    """An input file or record is malformed."""


class ConfigError(TrainerError, ValueError):
    """A setting is out of range or unknown."""


class ShapeError(TrainerError, ValueError):
    """Tensors do not fit each other."""


class ModelError(TrainerError):
    """A model cannot be loaded, does not fit in memory, or was tampered with."""


class ModelMissingError(ModelError):
    """There is no such model."""


class MemoryLimitError(ModelError):
    """A model does not fit in memory."""


class DataError(TrainerError):
    """There is too little or unusable data for the stage."""


class ScorerError(DataError):
    """A reward from outside gives no scores that can be used."""


class RunError(TrainerError):
    """A run directory is locked, damaged, or belongs to another configuration."""


class DiskFullError(RunError):
    """Nothing more can be written."""
