"""What the emulator wrote about all this."""

from harness import check, equal
from world import ADMINISTRATOR_SECRET


@check("the emulator's log names operations and objects, but no token, key or value")
def _(world):
    log = (world.work / "log").read_text()
    equal("operation=secrets.get" in log, True)
    for leaked in ("eyJ", "PRIVATE KEY", ADMINISTRATOR_SECRET, "v\u00e4lue", "x" * 100):
        equal(leaked in log, False)
