"""The state of a run: what its set-up found, kept in state.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from paretopress.config import RunConfig
from paretopress.core.outcome import Metric, Outcome
from paretopress.errors import RunFolderError
from paretopress.run.compatibility import demand_same
from paretopress.search.accuracy_scale import AccuracyScale
from paretopress.search.candidates import Bounds
from paretopress.trial.effort import Effort

STATE_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class RunState:
    """What the set-up of a run found; a resumed run reads it back.

    `quickest_threads` train quicker than all that there are, 0 where these do; `cut` is what the set-up left out for lack of time;
    `detection` is how a bundle reads boxes from a detector's outputs, `independent_labels` whether each output is a label of its own; see
    `BundleFacts`. `metric` is what the data were scored by, which is not the configuration's where these have no labels; None in a run of
    an earlier version.
    """

    model_sha256: str
    baseline: Outcome
    learning_rate: float
    rate_losses: Mapping[str, float]
    seconds_per_step: float
    effort: Effort
    removal_order: tuple[str, ...]
    environment: Mapping[str, Any]
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    data_sizes: Mapping[str, int]
    setup_s: float
    setup_stages_s: Mapping[str, float] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    quickest_threads: int = 0
    cut: tuple[str, ...] = ()
    detection: Mapping[str, Any] = field(default_factory=dict)
    independent_labels: bool = False
    metric: Metric | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads back."""
        return {
            "schema": STATE_SCHEMA,
            "model_sha256": self.model_sha256,
            "baseline": self.baseline.to_json(),
            "learning_rate": self.learning_rate,
            "rate_losses": dict(self.rate_losses),
            "seconds_per_step": self.seconds_per_step,
            "short_steps": self.effort.short_steps,
            "long_steps": self.effort.long_steps,
            "final_steps": self.effort.final_steps,
            "scoring_threads": self.effort.scoring_threads,
            "removal_order": list(self.removal_order),
            "environment": dict(self.environment),
            "classes": list(self.classes),
            "preprocessing": dict(self.preprocessing),
            "data_sizes": dict(self.data_sizes),
            "setup_s": self.setup_s,
            "setup_stages_s": dict(self.setup_stages_s),
            "identity": dict(self.identity),
            "quickest_threads": self.quickest_threads,
            "cut": list(self.cut),
            "detection": dict(self.detection),
            "independent_labels": self.independent_labels,
            "metric": None if self.metric is None else asdict(self.metric),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunState:
        """Return what `to_json` wrote; raises RunFolderError for another schema."""
        if value.get("schema") != STATE_SCHEMA:
            raise RunFolderError(f"state.json must have schema {STATE_SCHEMA}, but got schema={value.get('schema')}")
        return cls(
            value["model_sha256"],
            Outcome.from_json(value["baseline"]),
            value["learning_rate"],
            value["rate_losses"],
            value["seconds_per_step"],
            Effort(value["short_steps"], value.get("long_steps", 0), value["final_steps"], value["scoring_threads"]),
            tuple(value["removal_order"]),
            value["environment"],
            tuple(value["classes"]),
            value["preprocessing"],
            value["data_sizes"],
            value["setup_s"],
            value.get("setup_stages_s", {}),
            value.get("identity", {}),
            value.get("quickest_threads", 0),
            tuple(value.get("cut", ())),
            value.get("detection", {}),
            value.get("independent_labels", False),
            Metric(**value["metric"]) if value.get("metric") else None,
        )

    def demand_same(self, ours: Mapping[str, Any], who: str) -> None:
        """Raise RunFolderError, with every difference, if parts are not what the run was started with; `who` must have them."""
        demand_same(self.identity, ours, who)

    def bounds(self, config: RunConfig) -> Bounds:
        """Return the budget of a run on the scale of this baseline."""
        return Bounds(
            config.checked_budget(),
            self.baseline.latency.latency_ms,
            self.baseline.val_accuracy,
            self.metric or config.metric.metric(),
            self._scale(),
            self.baseline.latency.latency_ci_ms,
            short_trains=self.effort.short_steps > 0 or self.effort.final_steps == 0,
        )

    def _scale(self) -> AccuracyScale | None:
        """Return the scale of the metric by the baseline's score; None where all items scored alike, or in a run of an earlier version."""
        error = self.baseline.val_error
        return AccuracyScale.of_baseline(error, self.data_sizes["val"]) if error else None
