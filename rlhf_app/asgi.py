"""The ASGI entry point: `uvicorn rlhf_app.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rlhf_app.settings")
application = get_asgi_application()
