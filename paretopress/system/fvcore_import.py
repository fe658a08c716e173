"""The two functions of fvcore in use, imported without the deprecation warnings of torch.jit.script."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.precise_bn import update_bn_stats

__all__ = ["FlopCountAnalysis", "update_bn_stats"]
