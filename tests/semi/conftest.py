from losses.conftest import one_thread, seed  # noqa: F401
