"""What options of other servers are called here, for whoever types them as before."""

from __future__ import annotations

__all__ = ["INSTEAD"]

GUNICORN = {
    "-w": "--processes",
    "--workers": "--processes",
    "-b": "--bind",
    "-c": "--config",
    "-e": "--env-file",
    "--env": "--env-file",
    "-t": "--request-timeout",
    "--timeout": "--request-timeout",
    "--graceful-timeout": "--drain-timeout",
    "--keep-alive": "--idle-timeout",
    "--worker-connections": "--max-connections",
    "--limit-request-line": "--max-line",
    "--limit-request-fields": "--max-fields",
    "--limit-request-field_size": "--max-head",
    "--reload-extra-file": "--reload-extra",
    "--check-config": "--check",
    "--access-logfile": "--access-log",
    "--access-logformat": "--log-format",
    "--proxy-protocol": "--proxy-trust",
    "--proxy-allow-from": "--proxy-trust",
    "--ca-certs": "--client-ca",
}
WAITRESS = {
    "--listen": "--bind",
    "--host": "--bind",
    "--port": "--bind",
    "--unix-socket": "--bind",
    "--connection-limit": "--max-connections",
    "--channel-timeout": "--idle-timeout",
    "--max-request-header-size": "--max-head",
    "--max-request-body-size": "--max-body",
    "--url-prefix": "--script-name",
    "--ident": "--server-header",
}
UWSGI = {
    "--http": "--bind",
    "--http-socket": "--bind",
    "--socket": "--bind",
    "--ini": "--config",
    "--harakiri": "--request-timeout",
    "--http-keepalive": "--idle-timeout",
    "--limit-post": "--max-body",
    "--buffer-size": "--max-head",
    "--py-autoreload": "--reload",
    "--worker-reload-mercy": "--drain-timeout",
    "--logto": "--access-log",
}
# What treadle has nothing of: with "", no option that merely looks like it is suggested.
NOTHING = (
    *("-k", "--worker-class", "--max-requests", "--max-requests-jitter", "--preload", "-D", "--daemon", "-p", "--pid"),
    *("-u", "--user", "-g", "--group", "--umask", "--error-logfile", "--forwarded-allow-ips", "--pythonpath", "--call"),
    *("--backlog", "--worker-tmp-dir", "--master", "--uid", "--gid"),
)

INSTEAD = {**UWSGI, **WAITRESS, **GUNICORN, **dict.fromkeys(NOTHING, "")}
