from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from two_branches import BASELINE_MS, BOUNDS, GRAPH, LAYERS, SPACE, outcome, synthetic

from paretopress.core.outcome import Budget, Latency, Outcome, Rung
from paretopress.core.plan import Plan
from paretopress.errors import ConfigError, LatencyError, RunError, SearchFailedError, TargetLostError
from paretopress.search.candidates import Bounds, Candidate, best, front, selection_margin
from paretopress.search.fidelity.finalists import next_finalist
from paretopress.search.limits import Limits
from paretopress.search.samplers.initial_plans import initial_plans
from paretopress.search.samplers.registry import SAMPLERS, make_sampler
from paretopress.search.study.create import create_study
from paretopress.search.study.search import Search
from paretopress.spaces.space import SearchSpace, SpaceOptions


def search(
    tmp_path: Path, sampler: str = "guided", trials: int = 12, seed: int = 0, evaluate: object = synthetic, **options: object
) -> Search:
    study = create_study(tmp_path / "journal.log", sampler, SPACE, seed)
    return Search(study, SPACE, evaluate, BOUNDS, Limits(trials=trials, **options), 1_000)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_run_completes_all_trials_when_the_sampler_is_known(name: str, tmp_path: Path) -> None:
    trials = 18 if name == "gp" else 30  # it takes seconds a trial
    run = search(tmp_path, name, trials=trials)
    run.run(initial_plans(SPACE, ["a.conv1", "b.conv1"]))
    counts = run.counts()
    assert counts.all == trials
    assert counts.rejected_early > 0
    assert front(run.candidates(), BOUNDS)


def test_run_proposes_the_same_plans_when_the_seed_is_the_same(tmp_path: Path) -> None:
    plans = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        run = search(tmp_path / folder, trials=25, seed=3)
        run.run(initial_plans(SPACE, ["a.conv1"]))
        plans.append([c.plan for c in run.short_candidates()])
    assert plans[0] == plans[1]


def test_run_improves_on_its_seeds_when_guided(tmp_path: Path) -> None:
    run = search(tmp_path, trials=80, stop_early=False)
    seeds = initial_plans(SPACE, ["a.conv1", "b.conv1"])
    run.run(seeds)
    candidates = run.short_candidates()
    assert BOUNDS.hypervolume(candidates) > 1.015 * BOUNDS.hypervolume(candidates[: len(seeds)])


class Killed(BaseException):
    """Stands for a process that ends between two instructions: nothing catches it."""


def test_run_loses_the_trial_in_flight_alone_when_killed_and_resumed(tmp_path: Path) -> None:
    seeds = initial_plans(SPACE, ["a.conv1", "b.conv1"])

    def dies(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 5:
            raise Killed
        return synthetic(plan, rung, number)

    with pytest.raises(Killed):
        search(tmp_path, trials=20, evaluate=dies).run(seeds)
    resumed = search(tmp_path, trials=20)
    resumed.run(seeds)
    plans = [c.plan for c in resumed.short_candidates()]
    assert len(plans) == 20  # the one in flight is a failed trial; its plan was tried again
    assert set(seeds[:10]) <= set(plans)
    assert resumed.counts().failed == 1


def test_run_records_the_reason_and_goes_on_when_a_trial_fails(tmp_path: Path) -> None:
    def fails(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 2:
            raise RunError("the disk must have room, but got none", "Free some.")
        return synthetic(plan, rung, number)

    run = search(tmp_path, trials=8, evaluate=fails)
    run.run(initial_plans(SPACE, []))
    assert run.counts().failed == 1
    assert run.counts().all - run.counts().failed == 7
    assert run.study.trials[2].user_attrs["error"] == "RunError: the disk must have room, but got none. Free some."


def test_run_leaves_the_trial_for_resume_when_the_target_is_lost(tmp_path: Path) -> None:
    seeds = initial_plans(SPACE, ["a.conv1", "b.conv1"])

    def loses(plan: Plan, rung: Rung, number: int) -> Outcome:
        if number == 5:
            raise TargetLostError("the target must be in reach")
        return synthetic(plan, rung, number)

    paused = search(tmp_path, trials=20, evaluate=loses)
    with pytest.raises(TargetLostError):
        paused.run(seeds)
    assert [t.state for t in paused.study.trials][5:7] == [TrialState.RUNNING, TrialState.WAITING]
    assert paused.counts().failed == 0
    resumed = search(tmp_path, trials=20)
    resumed.run(seeds)
    assert set(seeds[:10]) <= {c.plan for c in resumed.short_candidates()}


def test_run_retries_the_finalist_when_the_target_was_lost(tmp_path: Path) -> None:
    def loses(plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is Rung.FINAL:
            raise TargetLostError("the target must be in reach")
        return synthetic(plan, rung, number)

    paused = search(tmp_path, trials=12, evaluate=loses, finalists=1)
    with pytest.raises(TargetLostError):
        paused.run(initial_plans(SPACE, ["a.conv1"]))
    assert paused.records.finals_tried() == set()
    resumed = search(tmp_path, trials=12, finalists=1)
    resumed.run([])
    assert len(resumed.finals()) == 1


def test_run_stops_with_an_explanation_when_the_first_ten_fail_alike(tmp_path: Path) -> None:
    def fails(plan: Plan, rung: Rung, number: int) -> Outcome:
        raise RunError("no such operator")

    run = search(tmp_path, trials=50, evaluate=fails)
    with pytest.raises(SearchFailedError, match=r"first 10 trials all failed for the same reason.*no such operator"):
        run.run(initial_plans(SPACE, []))


def test_run_evaluates_an_equal_plan_once_when_asked_twice(tmp_path: Path) -> None:
    calls: list[Plan] = []

    def counted(plan: Plan, rung: Rung, number: int) -> Outcome:
        if rung is Rung.SHORT:
            calls.append(plan)
        return synthetic(plan, rung, number)

    search(tmp_path, "random", trials=40, evaluate=counted, finalists=0).run([Plan(), Plan(bits={"stem": 8})])
    assert len(calls) == len(set(calls))


def test_run_recovers_each_plan_once_when_trials_are_copies(tmp_path: Path) -> None:
    removed = SPACE.defaults() | {"prune/a.conv1": 1.0, "prune/b.conv1": 1.0} | {f"bits/{layer.name}": 8 for layer in LAYERS}
    run = search(tmp_path, trials=3, finalists=3)
    for inside in (32, 8, 32):  # a bit width inside a removed branch means nothing: three trials, one plan
        run.study.enqueue_trial(removed | {"bits/a.conv1": inside})
    run.run([])
    assert [t.user_attrs.get("copy_of") for t in run.study.trials] == [None, 0, 0]
    assert list(run.finals()) == [0]


def test_candidates_keep_their_first_latency_beside_a_pooled_copy(tmp_path: Path) -> None:
    removed = SPACE.defaults() | {"prune/a.conv1": 1.0, "prune/b.conv1": 1.0} | {f"bits/{layer.name}": 8 for layer in LAYERS}
    run = search(tmp_path, trials=3, finalists=0)
    run.measure_again = lambda found: replace(found.latency, ratio=2.0 * found.latency.ratio)
    for inside in (32, 8, 32):
        run.study.enqueue_trial(removed | {"bits/a.conv1": inside})
    run.run([])
    (measured,) = run.records.latencies().values()
    assert measured[0].occasions == 1
    assert measured[0].ratio == pytest.approx(run.study.trials[0].values[2] / BASELINE_MS)


def test_run_goes_on_when_a_latency_cannot_be_measured_again(tmp_path: Path) -> None:
    said: list[str] = []

    def fails(_: Outcome) -> Latency:
        raise LatencyError("a session must run its feed, but got: killed")

    run = search(tmp_path, trials=8, finalists=1)
    run.measure_again, run.on_change = fails, said.append
    run.run(initial_plans(SPACE, ["a.conv1", "b.conv1"]))
    assert run.counts().all == 8
    assert len(run.finals()) == 1
    assert any("was not measured again, a session must run its feed" in line for line in said)


@pytest.mark.parametrize(("planned", "recovered"), [(6, range(3, 5)), (1, range(3, 5)), (0, range(1))])
def test_run_uses_its_time_when_seconds_bound_it(planned: int, recovered: range, tmp_path: Path) -> None:
    now = [0.0]

    def slow(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 30.0 if rung is Rung.FINAL else 10.0
        return synthetic(plan, rung, number)

    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    run = Search(study, SPACE, slow, BOUNDS, Limits(seconds=300.0, finalist_share=0.4, finalists=planned), 1_000, clock=lambda: now[0])
    run.run(initial_plans(SPACE, ["a.conv1"]))
    assert 10 <= len(run.study.trials) <= 18
    assert run.times.elapsed_s <= 300.0
    assert len(run.finals()) in recovered


def test_run_teaches_the_sampler_the_short_rung_when_trials_climb(tmp_path: Path) -> None:
    def climbing(plan: Plan, rung: Rung, number: int) -> Outcome:
        found = synthetic(plan, rung, number)
        return found if found.rejected else replace(found, val_accuracy=found.val_accuracy + 2.0 * int(rung))

    run = search(tmp_path, trials=12, evaluate=climbing, finalists=0)
    run.run(initial_plans(SPACE, ["a.conv1", "b.conv1"]))
    climbed = [t for t in run.study.trials if "2" in t.user_attrs.get("accuracies", {})]
    assert climbed
    for trial in climbed:
        accuracies = trial.user_attrs["accuracies"]
        assert trial.values[0] == accuracies["1"] == accuracies["0"] + 2.0 == accuracies["2"] - 2.0
    shown = {c.number: c.outcome for c in run.candidates()}
    assert all(shown[t.number].rung is Rung.LONG for t in climbed)
    assert [(a.lower, a.higher) for a in run.agreements()] == [(Rung.COSTS, Rung.SHORT), (Rung.SHORT, Rung.LONG)]
    assert all(a.rank_correlation == pytest.approx(1.0) for a in run.agreements())


def test_seconds_add_up_to_the_time_of_the_run(tmp_path: Path) -> None:
    now = [0.0]

    def timed(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 3.0
        return replace(outcome(89.0, 4.0, rung=rung), stages_s={"recover": 2.0, "latency": 0.5}, onnx_sha256=f"{number}-{int(rung)}")

    def again(found: Outcome) -> Latency:
        now[0] += 0.1
        return replace(found.latency, duration_s=0.1)

    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    run = Search(study, SPACE, timed, BOUNDS, Limits(trials=2, finalists=1), 1_000, clock=lambda: now[0], setup_s=10.0)
    run.measure_again, run.setup_stages_s = again, {"latency": 4.0}
    run.run([Plan(), Plan(bits={"stem": 8})])
    now[0] += 1.5
    seconds = run.seconds({"accuracy": 1.5})
    repeated = sum(len(latencies) - 1 for latencies in run.records.latencies().values())
    assert repeated > 0
    assert seconds["recover"] == 2.0 * 7  # two trials of three rungs, and a finalist
    assert seconds["latency"] == pytest.approx(4.0 + 0.5 * 7 + 0.1 * repeated)
    assert (seconds["setup"], seconds["accuracy"]) == (6.0, 1.5)
    assert seconds["other"] == pytest.approx(0.5 * 7)
    assert sum(seconds.values()) == pytest.approx(run.times.elapsed_s)


def test_run_ends_trials_and_recovers_finalists_when_hypervolume_stalls(tmp_path: Path) -> None:
    said: list[str] = []

    def same(plan: Plan, rung: Rung, number: int) -> Outcome:
        return outcome(89.0, 4.0, rung=rung)

    run = search(tmp_path, "random", trials=200, evaluate=same, finalists=1)
    run.on_change = said.append
    run.run([Plan()])
    assert run.counts().all == 60
    assert any(line.startswith("stopped early: the last 30 of 60 trials added 0.00 %") for line in said)
    assert len(run.finals()) == 1
    resumed = search(tmp_path, "random", trials=200, evaluate=same, finalists=1)
    resumed.run([Plan()])
    assert resumed.counts().all == 60
    assert resumed.early_stop() == run.early_stop() is not None


def test_run_goes_on_to_the_end_when_it_may_not_stop_early(tmp_path: Path) -> None:
    run = search(tmp_path, "random", trials=70, evaluate=lambda _, rung, __: outcome(89.0, 4.0, rung=rung), stop_early=False, finalists=0)
    run.run([Plan()])
    assert (run.counts().all, run.early_stop()) == (70, None)


def test_run_tries_a_few_plans_when_the_set_up_took_the_time_of_the_trials(tmp_path: Path) -> None:
    now = [0.0]

    def slow(plan: Plan, rung: Rung, number: int) -> Outcome:
        now[0] += 2.0
        return synthetic(plan, rung, number)

    study = create_study(tmp_path / "journal.log", "guided", SPACE, 0)
    limits = Limits(seconds=300.0, finalist_share=0.4, finalists=1)
    run = Search(study, SPACE, slow, BOUNDS, limits, 1_000, clock=lambda: now[0], setup_s=200.0)
    run.run(initial_plans(SPACE, ["a.conv1"]))
    assert run.counts().all == 5
    assert run.finals()


def test_set_constraint_tells_the_interval_that_the_front_goes_by(tmp_path: Path) -> None:
    def straddles(plan: Plan, rung: Rung, number: int) -> Outcome:
        return outcome(89.0, 4.95, spread=0.005)  # 4.95 ms is within 5, and so is its occasion; the drift of 6 % takes it to 5.57

    run = search(tmp_path, trials=1, evaluate=straddles)
    run.run([Plan()])
    assert run.study.trials[0].constraints["latency_ms"] == pytest.approx(4.95 * math.exp(1.96 * 0.06) / 5.0 - 1.0)
    assert front(run.candidates(), BOUNDS) == []


def test_limits_raise_when_nothing_ends_the_search() -> None:
    with pytest.raises(ConfigError, match="must end"):
        Limits()


def test_front_keeps_feasible_and_non_dominated_when_mixed() -> None:
    candidates = [
        Candidate(0, Plan(), outcome(90.0, 9.0)),  # over the limit of 5 ms
        Candidate(1, Plan(), outcome(89.0, 4.0)),
        Candidate(2, Plan(), outcome(88.0, 4.5)),  # dominated by 1
        Candidate(3, Plan(), outcome(87.0, 3.0)),
        Candidate(4, Plan(), outcome(99.0, 1.0, rejected="over the size budget")),
    ]
    assert [c.number for c in front(candidates, BOUNDS)] == [3, 1]


def test_best_is_the_fastest_with_a_margin_when_the_drop_is_bounded() -> None:
    bounds = Bounds(Budget(speedup=2.0, max_drop=2.0), 10.0, 90.0)
    points = [Candidate(i, Plan(), outcome(a, ms, rung=Rung.FINAL)) for i, (a, ms) in enumerate([(88.05, 2.0), (89.5, 3.0), (90.0, 4.0)])]
    chosen = best(points, bounds, 5_000)
    assert chosen is not None
    assert chosen.number == 1  # trial 0 is within 2 points by 0.05, less than the noise of picking among three


def test_selection_margin_matches_hand_count_when_ten_are_compared() -> None:
    # sigma = 0.6 * 100 * sqrt(0.9 * 0.1 / 10000) = 0.18 points; sqrt(2 ln 10) = 2.146
    assert selection_margin(0.18, 10) == pytest.approx(0.18 * math.sqrt(2 * math.log(10)))
    assert selection_margin(0.18, 1) == 0.0


def test_next_finalist_is_the_fastest_hopeful_when_the_drop_is_bounded() -> None:
    bounds = Bounds(Budget(speedup=2.0, max_drop=1.0), 10.0, 90.0)
    candidates = [Candidate(i, Plan(), outcome(a, ms, rung=Rung.LONG)) for i, (a, ms) in enumerate([(87.2, 1.0), (88.4, 2.0), (89.5, 3.0)])]
    first = next_finalist(candidates, {}, bounds, 100_000)
    assert first is not None
    assert first.number == 1  # half of its drop of 1.6 is within 1.0; half of 2.8 is not
    second = next_finalist(candidates, {1: outcome(89.9, 2.0, rung=Rung.FINAL)}, bounds, 100_000)
    assert second is not None
    assert second.number == 0  # a drop of 2.8 is expected to end farther from the baseline and from the first final than one of 0.5


def test_next_finalist_spreads_along_the_drop_when_several_are_wanted() -> None:
    bounds = Bounds(Budget(speedup=2.0, max_drop=2.0), 10.0, 90.0)
    drops = [3.9, 2.9, 1.9, 0.9]  # half of which is left in the end: 1.95, 1.45, 0.95, 0.45
    candidates = [Candidate(i, Plan(), outcome(90.0 - drop, 1.0 + i, rung=Rung.LONG)) for i, drop in enumerate(drops)]
    finals: dict[int, Outcome] = {}
    for _ in drops:
        chosen = next_finalist(candidates, finals, bounds, 100_000)
        assert chosen is not None
        finals[chosen.number] = outcome(90.0 - drops[chosen.number] / 2, 1.0 + chosen.number, rung=Rung.FINAL)
    # at the bound; then by the ratio to the nearest there, of drops with half a point added: 0.45 is 1.9 times the baseline's, where 0.95
    # is 1.7 times below 1.95; 0.95 is 1.5 times 0.45; what is left
    assert list(finals) == [0, 3, 2, 1]


def test_next_finalist_is_not_one_above_the_baseline_when_small_drops_do() -> None:
    bounds = Bounds(Budget(speedup=1.5, max_drop=3.0), 10.0, 90.0)
    drops = {0: 4.5, 1: 1.5, 2: 0.9, 3: 0.4, 4: 0.3}
    candidates = [Candidate(n, Plan(), outcome(90.0 - drop, 1.0 + n, rung=Rung.LONG)) for n, drop in drops.items()]
    # full recovery leaves 0.6 of a drop, less 0.35: what had lost 0.3 or 0.4 ends above the baseline, what had lost 0.9 at 0.2
    finals = {n: outcome(90.0 - 0.6 * drops[n] + 0.35, 1.0 + n, rung=Rung.FINAL) for n in (0, 1, 4)}
    chosen = next_finalist(candidates, finals, bounds, 100_000)
    assert chosen is not None
    assert chosen.number == 2


def test_run_measures_the_front_again_when_it_can(tmp_path: Path) -> None:
    repeated: list[str] = []

    def again(found: Outcome) -> Latency:
        repeated.append(found.onnx_sha256)
        return found.latency

    def named(plan: Plan, rung: Rung, number: int) -> Outcome:
        return replace(synthetic(plan, rung, number), onnx_sha256=f"{number}-{int(rung)}")

    run = search(tmp_path, trials=20, evaluate=named, finalists=2)
    run.measure_again = again
    run.run(initial_plans(SPACE, ["a.conv1", "b.conv1"]))
    finals = run.finals()
    assert len(finals) == 2
    shown = {c.number for c in front(run.candidates(), BOUNDS)}
    assert all(final.latency.occasions >= 3 for number, final in finals.items() if number in shown)
    assert max(repeated.count(name) for name in repeated) <= 5  # six occasions with the first
    assert sum("-3" not in name for name in repeated) <= 20 + 2  # one a trial, one a finalist


def test_initial_plans_are_distinct_and_of_the_space_when_made() -> None:
    plans = initial_plans(SPACE, ["b.conv1", "a.conv1"])
    assert len(plans) == len(set(plans))
    assert all(SPACE.plan(SPACE.params(plan)) == plan for plan in plans)
    assert plans[0] == Plan()
    assert Plan(kept={"b.conv1": 0}, bits=dict.fromkeys(("stem", "a.conv1", "a.conv2", "head"), 8)) in plans


def test_initial_plans_take_the_fixed_distillation_when_it_is_set() -> None:
    fixed = SearchSpace(GRAPH, SpaceOptions(channel_step=8, temperature=2.0, alpha=0.0))
    assert {(plan.temperature, plan.alpha) for plan in initial_plans(fixed, ["a.conv1"])} == {(2.0, 0.0)}


def test_make_sampler_lists_the_names_when_unknown() -> None:
    with pytest.raises(ConfigError, match="guided, programme, tpe, gp, nsga2, nsga3, random"):
        make_sampler("grid", SPACE, 0)
