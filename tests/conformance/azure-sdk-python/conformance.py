"""Runs every check against a started emulator and counts."""

import logging
import pathlib
import sys

import harness
from world import World


def main() -> int:
    # Expected refusals are judged by the checks; the SDK's own warnings about them are noise.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    world = World(pathlib.Path(sys.argv[1]))
    # Importing a module of checks registers them.
    import check_certificates  # noqa: F401
    import check_faults  # noqa: F401
    import check_identity  # noqa: F401
    import check_keys  # noqa: F401
    import check_secrets  # noqa: F401
    import check_log  # noqa: F401  (last: it reads what the others left)

    return harness.run_all(world)


if __name__ == "__main__":
    sys.exit(main())
