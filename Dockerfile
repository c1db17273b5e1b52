# Two images from one file: `web` (pages, admin, beat, the default worker) holds no torch, `train` adds it.
#   docker build --target web -t rlhf-app-web .        docker build --target train -t rlhf-app-train .
FROM python:3.11-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --system --uid 10001 --create-home rlhf \
    && mkdir -p /app/var /srv/artifacts \
    && chown -R rlhf:rlhf /app /srv/artifacts
WORKDIR /app
COPY pyproject.toml constraints.txt ./
# The requirement lists live in pyproject.toml alone; this prints one of them.
COPY --chmod=755 <<'PY' /usr/local/bin/requirements
#!/usr/local/bin/python
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
lists = {"web": project["dependencies"], **project["optional-dependencies"]}
print(*(name for name in lists[sys.argv[1]] if name != "torch"), sep="\n")
PY
RUN requirements web > /tmp/web.txt && pip install -c constraints.txt -r /tmp/web.txt
COPY --chown=rlhf:rlhf . .

FROM base AS web
# Static files get their final names here. The settings want secrets even for that: these never leave this line.
RUN RLHF_ENV=production ALLOWED_HOSTS=localhost REDIS_URL=redis://localhost/0 ARTIFACT_ROOT=/tmp/artifacts \
    DATABASE_URL=sqlite:////tmp/build.sqlite3 SECRET_KEY="$(python -c 'import secrets; print(secrets.token_urlsafe(64))')" \
    python manage.py collectstatic --noinput --verbosity 0
USER rlhf
EXPOSE 8000
CMD ["python", "-m", "rlhf_app.launcher", "web", "--host", "0.0.0.0"]

FROM base AS train
ARG TORCH_INDEX_URL=""
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep -E '^torch==' constraints.txt)"
RUN requirements train > /tmp/train.txt && pip install -c constraints.txt -r /tmp/train.txt
USER rlhf
CMD ["python", "-m", "rlhf_app.launcher", "celery", "worker", "-Q", "train", "-c", "1", "-n", "train@%h", "--loglevel", "INFO"]
