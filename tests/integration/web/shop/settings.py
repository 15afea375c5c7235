"""Settings of the project; where its files lie is known to the tests, who set it before they use it."""

SECRET_KEY = "loom"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "integration.web.shop.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.sessions", "integration.web.shop"]
MIDDLEWARE = [
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.http.ConditionalGetMiddleware",
    "integration.web.shop.watch.Watch",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": ":memory:",  # until the tests have a folder
        "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA synchronous=OFF"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGGING_CONFIG = None
STATIC_URL = "static/"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
TIME_ZONE = None  # or Django would change that of this process
USE_TZ = False
