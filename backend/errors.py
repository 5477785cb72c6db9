"""Errors of the backend. Each message says what was found, what is needed and what to do.

BackendError
├── SettingsError          the environment is incomplete or wrong; lists all faults at once
├── LabelStudioError       Label Studio did not do what was asked
│   ├── UnreachableError   no answer: down, wrong address, timeout
│   ├── UnauthorisedError  the API key is wrong or may not do this
│   ├── WrongVersionError  a version that this project was not tested with
│   ├── NotFoundError      the project, task or user does not exist (any more)
│   └── RejectedError      Label Studio refused the request's content
├── LabelConfigError       someone changed a labeling interface so that its annotations cannot be read
├── PromptFileError        a prompts file cannot be read; names the line
├── NotFoundInStoreError   no such workspace, run, round or model
├── ConflictError          what was asked is already under way, or not possible in this state
├── FenceError             another process has taken the run over; this one must stop
├── RunFailedError         a training process failed; says why
└── RegistryError          a model cannot be published, verified or found
"""


class BackendError(Exception):
    """Base of all errors that a user can act on; shown without a traceback."""


class SettingsError(BackendError, ValueError):
    """The environment is incomplete or wrong."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("the settings are not usable:\n" + "\n".join(f"  - {fault}" for fault in faults))


class LabelStudioError(BackendError):
    """Label Studio did not do what was asked."""


class UnreachableError(LabelStudioError):
    """Label Studio does not answer; trying again later may help."""


class UnauthorisedError(LabelStudioError):
    """The API key is wrong or may not do this."""


class WrongVersionError(LabelStudioError):
    """A version of Label Studio that this project was not tested with."""


class NotFoundError(LabelStudioError):
    """The object does not exist in Label Studio (any more)."""


class RejectedError(LabelStudioError):
    """Label Studio refused the request's content."""


class LabelConfigError(BackendError):
    """A labeling interface was changed so that its annotations cannot be read."""


class PromptFileError(BackendError, ValueError):
    """A prompts file cannot be read."""


class NotFoundInStoreError(BackendError, LookupError):
    """No such workspace, run, round or model."""


class ConflictError(BackendError):
    """What was asked is already under way, or not possible in this state."""


class FenceError(BackendError):
    """Another process has taken the run over."""


class RunFailedError(BackendError):
    """A training process failed."""


class RegistryError(BackendError):
    """A model cannot be published, verified or found."""
