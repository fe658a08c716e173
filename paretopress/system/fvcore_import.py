"""The counter of fvcore, imported without the deprecation warnings of torch.jit.script."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis

__all__ = ["FlopCountAnalysis"]
