"""paretopress: hand over a trained model, its data and a latency budget; get a measured Pareto front of compressed models."""

from paretopress.api import Result, compress, open_result, resume
from paretopress.core.outcome import Budget
from paretopress.deploy.verify import Verification, verify_bundle
from paretopress.errors import InputError, ParetopressError, RunError
from paretopress.intake.datasets.data import Data

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "Data",
    "InputError",
    "ParetopressError",
    "Result",
    "RunError",
    "Verification",
    "__version__",
    "compress",
    "open_result",
    "resume",
    "verify_bundle",
]
