"""`python -m delineate`, and what the command `delineate` runs."""

import os


def main() -> None:
    """The command line, with torch's remarks on its own profiler kept off the terminal."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    from delineate.cli import main as command

    command()


if __name__ == "__main__":
    main()
