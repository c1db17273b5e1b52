"""The product's settings with a few more addresses: pages that only a failure shows."""

from rlhf_app.settings import *  # noqa: F403

ROOT_URLCONF = "tests.browser.site_urls"
