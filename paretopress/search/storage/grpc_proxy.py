"""Optuna's gRPC proxy with a service of ours beside its own: what is known of a trial is written in one call, and read once.

Optuna's takes a call for each parameter, and whenever the study is looked at it sends all trials in flight, with all their parameters, and
all the study's attributes: with 64 workers and 60 parameters that kept the one process of the proxy busy, and workers waited for it. Client
and server use what is not of Optuna's public interface (5.0.0); the tests hold them to Optuna's own storage. Requests and attributes are
JSON, trials Optuna's own messages.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import GrpcStorageProxy, get_storage

# the last three load at their first use: gRPC is an extra
from optuna.storages._grpc.client import GrpcClientCache, GrpcClientCacheEntry, api_pb2, grpc, grpc_servicer  # type: ignore[attr-defined]
from optuna.storages._grpc.server import make_server
from optuna.trial import FrozenTrial, TrialState

from paretopress.search.storage.buffered import BufferedWrites
from paretopress.search.storage.rdb import DatabaseStorage, distribution_of
from paretopress.search.storage.records import LATENCY, WORKER

# name, value as it is stored, distribution as JSON
_Param = tuple[str, float, str]
# the number goes up with every change to what the calls mean
_SERVICE = "paretopress.Storage1"
# Optuna's status codes for the errors of a storage
_CODES = {KeyError: "NOT_FOUND", UpdateFinishedTrialError: "FAILED_PRECONDITION", ValueError: "INVALID_ARGUMENT"}


def proxy_server(database: DatabaseStorage, host: str, port: int) -> grpc.Server:
    """Return a server, not yet started, that answers Optuna's calls and ours; raises ImportError without gRPC."""
    storage, this = get_storage(database), uuid.uuid4().hex
    lock, repeated = threading.Lock(), defaultdict[int, list[str]](list)

    def attributes(study: int, server: str | None, known: int) -> dict[str, Any]:
        """Return a study's attributes, but not the repeated latencies that the client has: the first so many that this server met."""
        with lock:  # each reads after the one before it, so that all clients have them in one order
            found, met = storage.get_study_user_attrs(study), repeated[study]
            met += sorted({key for key in found if key.startswith(LATENCY)}.difference(met))
            had = set(met[:known] if server == this else ())
        return {"server": this, "attributes": {key: value for key, value in found.items() if key not in had}}

    def write(trial: int, params: Sequence[_Param], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Write what is known of a trial, in the order in which it was said."""
        for name, value, distribution in params:
            storage.set_trial_param(trial, name, value, distribution_of(distribution))
        for key, attribute in attributes.items():
            storage.set_trial_user_attr(trial, key, attribute)
        database.write(trial)
        return {}

    def trials(study: int, after: int, unfinished: Sequence[int], whole: Sequence[int]) -> Any:
        """Return the trials above a number and those that the client saw unfinished, but not those that it has whole and that go on."""
        known, seen = set(whole), set(unfinished)
        asked = [t for t in storage.get_all_trials(study, deepcopy=False) if t._trial_id > after or t._trial_id in seen]
        new = [t for t in asked if t.state is not TrialState.RUNNING or t._trial_id not in known]
        return api_pb2.GetTrialsReply(trials=map(grpc_servicer._to_proto_trial, new))

    server = make_server(storage, host, port)
    handlers = {"Greet": _handler(dict), "Write": _handler(write), "Attributes": _handler(attributes)}
    handlers["Trials"] = _handler(trials, api_pb2.GetTrialsReply.SerializeToString)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, handlers)])
    return server


def _to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _handler(call: Callable[..., Any], to_bytes: Callable[[Any], bytes] = _to_json) -> grpc.RpcMethodHandler:
    def answer(request: Mapping[str, Any], context: grpc.ServicerContext) -> Any:
        try:
            return call(**request)
        except tuple(_CODES) as error:
            code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
            context.abort(grpc.StatusCode[code], str(error))

    return grpc.unary_unary_rpc_method_handler(answer, json.loads, to_bytes)


class ProxyStorage(BufferedWrites[_Param], GrpcStorageProxy):
    """The client: writes what is known of a trial together, and is sent a trial in flight once."""

    def __init__(self, host: str, port: int) -> None:
        self._repeated: dict[int, tuple[str, dict[str, Any]]] = {}
        super().__init__(host=host, port=port)

    def is_compatible(self) -> bool:
        """Return whether the server is one of ours, of the same kind."""
        try:
            self._call("Greet")
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return False
            raise
        return True

    def set_trial_param(self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution) -> None:
        """As Optuna's; it is written later."""
        self._asked.add(trial_id)
        self._keep_param(trial_id, (param_name, param_value_internal, distribution_to_json(distribution)))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As Optuna's; repeated latencies, which are written once and may be thousands, are sent once."""
        known: dict[str, Any]
        server, known = self._repeated.get(study_id, (None, {}))
        reply = self._call("Attributes", study=study_id, server=server, known=len(known))
        if reply["server"] != server:
            known = {}
        known = known | {key: value for key, value in reply["attributes"].items() if key.startswith(LATENCY)}
        self._repeated[study_id] = reply["server"], known
        return {**known, **reply["attributes"]}

    def _setup(self) -> None:
        super()._setup()
        self._cache = _Cache(self._stub, self._trials)

    def _write(self, trial_id: int, params: list[_Param], attributes: dict[str, Any]) -> None:
        self._call("Write", trial=trial_id, params=params, attributes=attributes)

    def _trials(self, **request: Any) -> Any:
        return self._call("Trials", api_pb2.GetTrialsReply.FromString, **request)

    def _call(self, name: str, of_bytes: Callable[[bytes], Any] = json.loads, /, **request: Any) -> Any:
        call = self._channel.unary_unary(f"/{_SERVICE}/{name}", _to_json, of_bytes)
        try:
            return call(request)
        except grpc.RpcError as error:
            kind = next((kind for kind, code in _CODES.items() if code == error.code().name), None)
            if kind is None:
                raise
            raise kind(error.details()) from error


class _Cache(GrpcClientCache):
    """Trials by study; those in flight that have named their worker are not asked for again until they end."""

    def __init__(self, stub: Any, ask: Callable[..., Any]) -> None:
        super().__init__(stub)
        self._ask = ask
        self._whole: set[int] = set()

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        known = self.studies.get(study_id) or GrpcClientCacheEntry()
        unfinished = known.unfinished_trial_ids
        whole = [*unfinished & self._whole]
        reply = self._ask(study=study_id, after=known.last_finished_trial_id, unfinished=[*unfinished], whole=whole)
        self.studies[study_id] = known
        for message in reply.trials:
            distributions = {name: distribution_of(text) for name, text in sorted(message.distributions.items())}
            params = {name: distribution.to_external_repr(message.params[name]) for name, distribution in distributions.items()}
            message.ClearField("distributions")
            message.ClearField("params")
            trial = grpc_servicer._from_proto_trial(message)
            trial.params, trial.distributions = params, distributions
            self._add_trial_to_cache(study_id, trial)

    def _add_trial_to_cache(self, study_id: int, trial: FrozenTrial) -> None:
        super()._add_trial_to_cache(study_id, trial)
        if trial.state is TrialState.RUNNING and WORKER in trial.user_attrs:
            self._whole.add(trial._trial_id)
        else:
            self._whole.discard(trial._trial_id)
