"""All settings of web and workers, read from the environment (see .env.example for every name).

Order: the process environment, then `.env`, then `var/secrets.env` (made by `./run` at first, mode 0600).
"""

from __future__ import annotations

import os
import sys
from urllib.parse import unquote, urlsplit

from csp.constants import NONE, SELF

from rlhf_app.environment import Environment, broker_problem, database_problem, read_env_file
from rlhf_app.local import BASE_DIR, VAR_DIR

env = Environment(
    {**read_env_file(VAR_DIR / "secrets.env"), **read_env_file(BASE_DIR / ".env"), **os.environ}
)

# --- what kind of installation this is --------------------------------------------------------------
ENVIRONMENT = env.choice("RLHF_ENV", "development", ("development", "production"))
PRODUCTION = ENVIRONMENT == "production"
DEBUG = env.flag("DEBUG", False)
if DEBUG and PRODUCTION:
    env.problem("DEBUG", "true", "false when RLHF_ENV is production")

SECRET_KEY_LENGTH = 50
SECRET_KEY = env.secret("SECRET_KEY", length=SECRET_KEY_LENGTH, default="unusable")

ALLOWED_HOSTS = env.names("ALLOWED_HOSTS", [] if PRODUCTION else ["127.0.0.1", "localhost", "[::1]"])
if not ALLOWED_HOSTS or "*" in ALLOWED_HOSTS:
    env.problem(
        "ALLOWED_HOSTS", ",".join(ALLOWED_HOSTS) or "nothing", "the exact host names, comma separated"
    )
CSRF_TRUSTED_ORIGINS = env.names("CSRF_TRUSTED_ORIGINS", [])

# --- applications -----------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "axes",
    "csp",
    "django_htmx",
    "feedback",
    "training",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "rlhf_app.http.private_pages_are_not_stored",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "rlhf_app.urls"
ASGI_APPLICATION = "rlhf_app.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# --- data -------------------------------------------------------------------------------------------
SQLITE_OPTIONS = {
    # Writers queue for the lock instead of failing; an acknowledged judgement survives a power cut.
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=20000;",
}


IN_WEB_PROCESS = "rlhf_app.asgi" in sys.modules
POOL = {"min_size": 2, "max_size": 12, "timeout": 20}
"""Connections of one web process: its threads' (rlhf_app/handler.py), and some for downloads."""


def database(url: str) -> dict[str, object]:
    """Django's DATABASES entry for `sqlite:///PATH` or `postgresql://user:password@host:port/name`."""
    parts = urlsplit(url)
    try:
        port = str(parts.port or "")
    except ValueError:  # never quote the address: what stands in the port's place may be the password's end
        env.problem("DATABASE_URL", "a port that is no number", "a password with %2F for each / in it")
        port = ""
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "rlhf_app.sqlite",
            "NAME": BASE_DIR / unquote(parts.path[1:]),  # sqlite:////four/slashes is an absolute path
            "OPTIONS": SQLITE_OPTIONS,
            **({"CONN_MAX_AGE": None} if IN_WEB_PROCESS else {}),  # opening a file takes longer than a query
        }
    if parts.scheme in ("postgres", "postgresql") and parts.path.strip("/"):
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.strip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": port,
            "CONN_HEALTH_CHECKS": True,
            **({"OPTIONS": {"pool": POOL}} if IN_WEB_PROCESS else {"CONN_MAX_AGE": 60}),
        }
    env.problem(
        "DATABASE_URL",
        repr(parts.scheme + "://..."),
        "sqlite:///PATH or postgresql://user:password@host/name",
    )
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}


DATABASES = {"default": database(env.text("DATABASE_URL", "sqlite:///var/db.sqlite3"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ARTIFACT_ROOT = env.folder("ARTIFACT_ROOT", VAR_DIR / "artifacts")
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
"""Also the most that anybody may send anywhere but to an import, see rlhf_app/asgi.py."""
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
IMPORT_MAX_BYTES = env.integer("IMPORT_MAX_MEGABYTES", 512, low=1, high=100_000) * 1024 * 1024
IMPORT_KEEP_DAYS = env.integer("IMPORT_KEEP_DAYS", 30, low=0, high=36_500)
"""After which the file of an import that has ended is deleted; 0 keeps it."""

# --- who may come in --------------------------------------------------------------------------------
AUTH_USER_MODEL = "feedback.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "sign_in"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "sign_in"
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_HANDLER = "feedback.throttle.TwoLimits"
AXES_LOCKOUT_TEMPLATE = "registration/locked_out.html"
AXES_HTTP_RESPONSE_CODE = 429
AXES_RESET_ON_SUCCESS = True
AXES_VERBOSE = False
SIGN_IN_FAILURES_OF_ONE_ADDRESS = 60
"""Within the same time, whatever the names: guessing one password for many names is guessing, too."""
INVITATION_DAYS = env.integer("INVITATION_DAYS", 7, low=1, high=90)

SESSION_ENGINE = "rlhf_app.sessions"
SESSION_COOKIE_AGE = 14 * 24 * 3600
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Set BEHIND_HTTPS_PROXY only when a proxy of yours ends TLS and overwrites X-Forwarded-Proto.
if env.flag("BEHIND_HTTPS_PROXY", False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
TRUSTED_PROXIES = env.networks("TRUSTED_PROXIES", "127.0.0.1")
if PRODUCTION:
    SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^health/$"]
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-session", "__Host-csrf"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "connect-src": [SELF],
        "font-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "object-src": [NONE],
        "frame-ancestors": [NONE],
    }
}

# --- judging ----------------------------------------------------------------------------------------
LEASE_SECONDS = env.integer("LEASE_SECONDS", 1200, low=30, high=86_400)

# --- work in the background -------------------------------------------------------------------------
REDIS_URL = env.text("REDIS_URL")
if not REDIS_URL:
    env.problem(
        "REDIS_URL", "nothing", "redis://:password@host:port/0 (`./run demo` starts a server of its own)"
    )
    REDIS_URL = "redis://127.0.0.1:1/0"
elif urlsplit(REDIS_URL).scheme not in ("redis", "rediss"):
    env.problem("REDIS_URL", repr(urlsplit(REDIS_URL).scheme + "://..."), "redis:// or rediss://")
RUN_LEASE_SECONDS = env.integer("RUN_LEASE_SECONDS", 30, low=15, high=3600)
RUN_HEARTBEAT_SECONDS = 5
RUN_CANCEL_GRACE_SECONDS = 15
RUN_MAX_ATTEMPTS = 3
TRAINER_COMMAND = [sys.executable, "-m", "training.core"]
TRAINER_THREADS = env.integer("TRAINER_THREADS", 2, low=1, high=1024)
WEB_PROCESSES = env.integer("WEB_PROCESSES", 1, low=1, high=64)
TRAINER_PROCESSES = env.integer("TRAINER_PROCESSES", 1, low=1, high=64)

CELERY_BROKER_URL = REDIS_URL
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # A message only says "look at row N", so a second delivery is harmless; runs hold leases in the database.
    "visibility_timeout": 3600,
    # Without these two a killed worker's message comes back after 100 s and more (kombu PR #2558).
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "queue_order_strategy": "priority",
    "socket_connect_timeout": 3,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_RESULT_ACCEPT_CONTENT = ["json"]
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {
    "training.tasks.supervise_run": {"queue": "train"},
    # A worker of their own: two long imports must not keep dead runs from being found.
    "training.tasks.sweep_runs": {"queue": "sweep"},
    "feedback.tasks.sweep_imports": {"queue": "sweep"},
}
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0.1}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BEAT_SCHEDULE = {
    # A sweep that nobody took is not worth taking later. A minute, since clocks of two hosts may differ.
    "sweep-runs": {"task": "training.tasks.sweep_runs", "schedule": 10.0, "options": {"expires": 60}},
    "sweep-imports": {"task": "feedback.tasks.sweep_imports", "schedule": 30.0, "options": {"expires": 60}},
}
CELERY_TIMEZONE = "UTC"

# --- words, time, static files ----------------------------------------------------------------------
LANGUAGE_CODE = "en"
# Only what is wholly translated may be chosen: Django's own words alone would make pages of two languages.
LANGUAGES = [("en", "English")]
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True
LOCALE_PATHS = [BASE_DIR / "locale"]
STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if PRODUCTION
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = not PRODUCTION
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

if env.problems:  # then everything that is wrong is said at once, what has to be tried included
    if "DATABASE_URL" not in env.named():
        env.problems += filter(None, [database_problem(DATABASES["default"])])
    if "REDIS_URL" not in env.named():
        env.problems += filter(None, [broker_problem(REDIS_URL)])
    env.refuse_if_broken()
