"""Names of the samplers that a configuration can ask for."""

from __future__ import annotations

DEFAULT_SAMPLER, PROGRAMME = "guided", "programme"
# those that use what is known before the first trial, and whose draws depend on the seed and the trial's number alone, so that a resumed
# study goes on as the unbroken one would
OURS = (DEFAULT_SAMPLER, PROGRAMME)
