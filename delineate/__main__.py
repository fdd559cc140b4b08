"""`python -m delineate`, and what the command `delineate` runs."""

import os
import sys


def main() -> None:
    """The command line, with torch's remarks on its own profiler kept off the terminal."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    try:
        from delineate.cli import main as command
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("delineate"):
            raise
        print(
            f"delineate: error: the command line needs {error.name}, which the losses alone do not. "
            'Install it with: pip install "delineate[train]"',
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    command()


if __name__ == "__main__":
    main()
