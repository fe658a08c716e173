"""An authenticated connection to a device whose host key was checked."""

from __future__ import annotations

from typing import Any

from paretopress.errors import ConfigError, TargetLostError
from paretopress.targets.ssh_address import SshAddress

_TIMEOUT_S = 15.0
_KEEPALIVE_S = 15


class _RefuseUnknown:
    """Refuses hosts without a known key; what paramiko calls a missing host key policy."""

    def __init__(self, address: SshAddress) -> None:
        self._address = address

    def missing_host_key(self, client: object, hostname: str, key: Any) -> None:
        """Raise ConfigError with the fingerprint, and the way to accept it."""
        where, port = self._address.known_hosts or "~/.ssh/known_hosts", f"-p {self._address.port} " if self._address.port else ""
        raise ConfigError(
            f"the host key must be known, but got the new {key.get_name()} {key.fingerprint} of {hostname}",
            "Compare it with what `ssh-keygen -lf` shows of the public keys in /etc/ssh there; if it is the same, "
            f"`ssh-keyscan {port}{self._address.host} >> {where}` makes it known.",
        )


def connect(address: SshAddress) -> Any:
    """Return an open `fabric.Connection`: with the aliases, users and jump hosts of ~/.ssh/config, each host's key checked.

    Raises: ConfigError: fabric is not installed, the host key is unknown or another, or no key is accepted.
        TargetLostError: the host is out of reach.
    """
    try:  # an extra, and a quarter of a second to import
        from fabric import Connection
        from paramiko.ssh_exception import AuthenticationException, BadHostKeyException
    except ImportError as error:
        raise ConfigError(f"a target over SSH needs fabric, but got: {error}", "Install it: pip install 'paretopress[ssh]'") from error
    options: dict[str, Any] = {"banner_timeout": _TIMEOUT_S, "auth_timeout": _TIMEOUT_S}
    if address.key is not None:
        options |= {"key_filename": str(address.key), "look_for_keys": False, "allow_agent": False}
    connection = Connection(address.host, user=address.user, port=address.port, connect_timeout=_TIMEOUT_S, connect_kwargs=options)
    hop = connection
    while isinstance(hop, Connection):  # fabric accepts any key, at the target as at jump hosts
        hop.client.load_system_host_keys(None if address.known_hosts is None else str(address.known_hosts))
        hop.client.set_missing_host_key_policy(_RefuseUnknown(address))
        hop = hop.gateway
    try:
        connection.open()
        connection.transport.set_keepalive(_KEEPALIVE_S)
        return connection
    except BadHostKeyException as error:
        raise ConfigError(
            f"the host key must be the known one, but got another {error.key.get_name()} {error.key.fingerprint} at {address.name}",
            f"Was the device set up anew? Then remove the old key with `ssh-keygen -R` and add the new one. If not, "
            f"somebody may be between you and {address.host}.",
        ) from error
    except AuthenticationException as error:
        raise _refused(address, error) from error
    except ConfigError:
        raise
    except Exception as error:  # sockets, name look-ups and paramiko have no base class in common
        if "authentication" in str(error).lower():  # a plain SSHException where there was no key to try
            raise _refused(address, error) from error
        hint = f"Is it on and in the network? `ssh {address.name} true` must work."
        raise TargetLostError(f"the target must be in reach, but got: {error} at {address.name}", hint) from error
    finally:
        if not connection.is_connected:
            connection.client.close()


def _refused(address: SshAddress, error: Exception) -> ConfigError:
    key = f"the key {address.key}" if address.key else "a key of this user"
    return ConfigError(
        f"the target must accept {key}, but got: {error} at {address.name}",
        "Put the public key there with `ssh-copy-id`; load a key that has a passphrase with `ssh-add`.",
    )
