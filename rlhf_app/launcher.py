"""What `./run demo`, `serve`, `worker`, `manage`, `check` and `secrets` do once `.venv` is there.

`web`, `celery` and `migrate` are for containers: one process each, started only in an environment that
works. They write nothing into var/, which is read-only there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NoReturn

from rlhf_app import broker, local, processes
from rlhf_app.environment import broker_problem, database_problem, read_env_file

BROKER_SECONDS = 10
WEB_SECONDS = 60


class CannotStart(Exception):
    """What stands in the way, and how to mend it."""


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rlhf_app.settings")
    os.umask(0o077)
    # SIGINT too: a shell that starts us in the background has it ignored.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.default_int_handler)
    try:
        status: int = options.does(options)
    except (CannotStart, processes.Stopped, broker.BrokerMissing) as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    except (KeyboardInterrupt, RuntimeError) as error:
        # Where an import makes a class, Python 3.11 turns an interrupt into a RuntimeError (__set_name__).
        if not isinstance(error.__cause__ or error, KeyboardInterrupt):
            raise
        print("\nStopped.", file=sys.stderr, flush=True)
        return 130
    return status


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)

    def add(name: str, does: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, allow_abbrev=False)
        command.set_defaults(does=does, name=name)
        return command

    for name in ("demo", "serve"):
        command = add(name, serve)
        command.add_argument(
            "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
        )
        command.add_argument(
            "--port", type=int, default=8000, help="the next free one from here on (default: 8000)"
        )
        command.add_argument("--no-setup", action="store_true", help="start without making the demo project")
        command.add_argument(
            "--headless",
            action="store_true",
            help='end the start with a line READY {"url": ..., "sign_in": ...}',
        )
    add("worker", worker).add_argument(
        "--beat", action="store_true", help="ring the sweeps, too: on one machine only"
    )
    command = add("web", web)
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=8000)
    add("celery", celery).add_argument("arguments", nargs=argparse.REMAINDER)
    add("migrate", migrate)
    add("check", check)
    add("secrets", secrets)
    add("manage", manage).add_argument("arguments", nargs=argparse.REMAINDER)
    return parser.parse_args(arguments)


# --- demo and serve ---------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> int:
    """Web, workers, beat and broker until Ctrl-C; `demo` makes the demo project, too."""
    local.make_folders()
    hold = local.take_hold()
    if hold is None:
        other = local.who_runs()
        where = (
            f" at {other['url']} (process {other['pid']}); Ctrl-C there stops it" if "url" in other else ""
        )
        raise CannotStart(f"rlhf_app runs here already{where}.")
    local.RUNNING.unlink(missing_ok=True)
    redis_url, embedded, found_alive = choose_broker()
    if redis_url:
        os.environ["REDIS_URL"] = redis_url
    prepare_database(embedded=embedded)
    port = local.free_port(options.port, options.host)
    url = f"http://{'127.0.0.1' if options.host in ('', '0.0.0.0') else options.host}:{port}/"

    from django.conf import settings

    programs = [
        web_program(options.host, port),
        *processes.worker_programs(),
        processes.beat_program(),
    ]
    if embedded and not found_alive:
        programs.append(processes.broker_program())
    local.note_running(url=url)
    supervisor = processes.Supervisor(programs, {"REDIS_URL": redis_url})
    try:
        supervisor.watch()
        wait_for(lambda: broker.answers(redis_url), "the broker", BROKER_SECONDS, supervisor, "broker")
        wait_for(lambda: web_answers(url), "the web server", WEB_SECONDS, supervisor, "web")
        say(f"  web, workers and broker are up: {url}")
        if options.name == "demo" and not options.no_setup:
            call("setup_demo")
        # A link in a server's journal would be a key under the mat: production makes one when asked.
        tell(url, "" if settings.PRODUCTION else sign_in_link(url), headless=options.headless)
        supervisor.wait()
    except KeyboardInterrupt:
        # Nobody interrupts the stop: it has its own time limit.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("\nStopping ...")
    finally:
        supervisor.stop()
        if embedded and found_alive:
            broker.shut_down(redis_url)
        local.RUNNING.unlink(missing_ok=True)
        say("Everything has stopped.")
    return 0


def web_program(host: str, port: int) -> processes.Program:
    from django.conf import settings

    behind = bool(settings.SECURE_PROXY_SSL_HEADER)
    return processes.web_program(
        host, port, behind_proxy=behind, trusted=settings.TRUSTED_PROXIES, count=settings.WEB_PROCESSES
    )


def given(name: str) -> str:
    """A setting that a person made, in the environment or in .env."""
    return os.environ.get(name) or read_env_file(local.BASE_DIR / ".env").get(name, "")


def make_secrets() -> None:
    """Development gets its secrets by itself; production is refused without."""
    if given("RLHF_ENV") != "production":
        local.make_secrets()


def choose_broker() -> tuple[str, bool, bool]:
    """URL of the broker, whether it is the embedded one, and whether that is alive already."""
    make_secrets()
    if given("REDIS_URL") or given("RLHF_ENV") == "production":
        return given("REDIS_URL"), False, False
    url, alive = broker.prepare()
    return url, True, alive


def call(name: str, **options: Any) -> None:
    """A management command in this process: another Python would take a second to start."""
    from django.core.management import CommandError, call_command

    try:
        call_command(name, **options)
    except CommandError as error:
        raise CannotStart(f"{name}: {error}") from error


def prepare_database(*, embedded: bool) -> None:
    """Refuse an environment that cannot work; bring tables, and in production static files, up to date."""
    refuse_if_unfit(broker_is_ours=embedded)
    from django.conf import settings
    from django.db import DEFAULT_DB_ALIAS, connections
    from django.db.migrations.executor import MigrationExecutor

    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    steps = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if steps:
        say(f"  database: {len(steps)} migrations to apply")
        call("migrate", interactive=False, verbosity=0)
    if settings.PRODUCTION:
        call("collectstatic", interactive=False, verbosity=0)


def refuse_if_unfit(*, broker_is_ours: bool) -> None:
    """Exit with status 78 (EX_CONFIG) and a line for each problem.

    Importing the settings has refused what can be read; this tries what has to be tried.
    """
    import django

    django.setup()
    from django.conf import settings

    found = [database_problem(settings.DATABASES["default"])]
    if not broker_is_ours:
        found.append(broker_problem(settings.REDIS_URL))
    if problems := list(filter(None, found)):
        print("The environment cannot be used:", *problems, sep="\n  ", file=sys.stderr, flush=True)
        sys.exit(os.EX_CONFIG)


def wait_for(
    ready: Callable[[], bool], what: str, seconds: float, supervisor: processes.Supervisor, log: str
) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        supervisor.check()
        if time.monotonic() > deadline:
            path = processes.LOGS / f"{log}.log"
            end = path.read_text(errors="replace").splitlines()[-12:] if path.exists() else []
            said = "\n".join(f"    {line}" for line in end)
            raise CannotStart(
                f"{what} did not come up within {seconds:.0f} s.\n{said}\n\nThe whole log: {path}"
            )
        time.sleep(0.2)


def web_answers(url: str) -> bool:
    from django.conf import settings

    # By a name the site answers to: in production that is not the address it listens on.
    host = settings.ALLOWED_HOSTS[0].lstrip(".")
    request = urllib.request.Request(url + "health/", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def sign_in_link(url: str) -> str:
    from django.core.management import call_command

    from feedback.models import User

    output = io.StringIO()
    call_command("create_sign_in_link", User.first_admin().username, base_url=url, stdout=output)
    return output.getvalue().strip()


def tell(url: str, link: str, *, headless: bool) -> None:
    say(f"\n  rlhf_app is ready: {url}")
    if link:
        say(f"  Sign in as the first admin (works once, for a day): {link}")
    say("  Ctrl-C stops everything.\n")
    if headless:
        say("READY " + json.dumps({"url": url, "sign_in": link}))


# --- the others -------------------------------------------------------------------------------------


def worker(options: argparse.Namespace) -> int:
    """Workers for a web process that runs elsewhere, until Ctrl-C."""
    local.make_folders()
    refuse_if_unfit(broker_is_ours=False)
    hold = local.take_hold()
    if hold is None:
        raise CannotStart("rlhf_app runs in this folder already; its workers are part of it.")
    programs = processes.worker_programs() + ([processes.beat_program()] if options.beat else [])
    supervisor = processes.Supervisor(programs, {})
    try:
        say(f"  workers started; their logs are in {processes.LOGS}. Ctrl-C stops them.")
        supervisor.wait()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("\nStopping ...")
    finally:
        supervisor.stop()
    return 0


def become(*arguments: str) -> NoReturn:
    """The same process goes on as this one, so that signals and exit codes need no passing on."""
    os.execv(sys.executable, [sys.executable, *arguments])


def web(options: argparse.Namespace) -> int:
    """The web process alone, in the foreground: what a container runs."""
    refuse_if_unfit(broker_is_ours=False)
    _python, *arguments = web_program(options.host, options.port).command
    become(*arguments)


def celery(options: argparse.Namespace) -> int:
    """One Celery process alone, in the foreground: what a container runs."""
    refuse_if_unfit(broker_is_ours=False)
    become("-m", "celery", "-A", "rlhf_app", *options.arguments)


def migrate(options: argparse.Namespace) -> int:
    """Bring the tables up to date: what a container does before the others start."""
    refuse_if_unfit(broker_is_ours=False)
    become(str(local.BASE_DIR / "manage.py"), "migrate", "--noinput")


def check(options: argparse.Namespace) -> int:
    """Say whether the environment is fit to start; in development var/ gets what a start would put there."""
    _url, embedded = choose_broker()[:2]
    refuse_if_unfit(broker_is_ours=embedded)
    from django.conf import settings

    call("check", deploy=settings.PRODUCTION, fail_level="WARNING")
    return 0


def secrets(options: argparse.Namespace) -> int:
    local.make_secrets()
    say(f"{local.SECRETS} holds SECRET_KEY and REDIS_URL.")
    return 0


def manage(options: argparse.Namespace) -> int:
    make_secrets()
    become(str(local.BASE_DIR / "manage.py"), *options.arguments)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Nothing is left to tidy up, and on a busy machine Python takes a second to find that out.
    os._exit(status)
